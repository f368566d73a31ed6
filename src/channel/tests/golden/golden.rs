//! Compares the encoders with the bytes that `make.py` wrote, and decodes those bytes again.
//! README.md says when the files may change.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::sync::Arc;

use rgun_channel::PROTOCOL_VERSION;
use rgun_channel::control::{
    Command, EventLoop, FailureKind, Fork, Hooks, Interface, Lifespan, ListenerInfo, Preload, Report, Role,
    Start,
};
use rgun_channel::frame::{
    AppError, Body, BodyPart, ClientCert, Completion, CompletionKind, DecodedCompletion, ExchangeId,
    FieldName, Request, StreamFrame, Submission, TlsInfo, UNKNOWN_LENGTH, UNTIL_EOF, chunks,
    decode_window_update, encode_field, fields,
};
use rgun_channel::header::NAMES;
use rgun_channel::layout::{
    Geometry, SLOT_ACKED, SLOT_CREDIT_WAIT, SLOT_EXCHANGE, SLOT_STARTED, SLOT_THREAD, Word,
};
use rgun_channel::log_record::LogToken;
use rgun_channel::map::Map;
use rgun_channel::ring::SubmissionSender;

type Field = (&'static [u8], &'static [u8]);

/// Returns the golden bytes of a frame or message.
fn golden(name: &str) -> Vec<u8> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v{PROTOCOL_VERSION}/{name}.hex"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

/// Formats bytes as the golden files do, so that a failure shows both in the same format.
fn hex(bytes: &[u8]) -> String {
    format!("{bytes:02x?}")
}

/// Checks that `request` with the fields `expected` encodes to its golden bytes, and that they
/// decode to it.
fn assert_request(name: &str, request: Request<'_>, expected: &[Field]) {
    let golden = golden(name);
    let mut frame = Vec::new();
    request.encode(expected.iter().copied(), &mut frame).unwrap();
    assert_eq!(hex(&frame), hex(&golden), "{name}: encoded | golden");
    let decoded = Request::decode(&golden).unwrap();
    let back: Vec<_> = decoded.fields().map(|(name, value)| (name.as_bytes(), value)).collect();
    assert_eq!(back, expected, "{name}");
    assert_eq!(usize::from(decoded.n_fields), expected.len(), "{name}");
    assert_eq!(
        (decoded.exchange, decoded.body_len, decoded.received, decoded.method, decoded.version),
        (request.exchange, request.body_len, request.received, request.method, request.version),
        "{name}"
    );
    assert_eq!(
        (decoded.body_is_fd, decoded.https, decoded.listener, decoded.path, decoded.query),
        (request.body_is_fd, request.https, request.listener, request.path, request.query),
        "{name}"
    );
    assert_eq!(
        (decoded.peer, decoded.peer_port, decoded.request_id, decoded.body),
        (request.peer, request.peer_port, request.request_id, request.body),
        "{name}"
    );
    assert_eq!(decoded.tls, request.tls, "{name}");
    assert_eq!(
        (decoded.body_streams, decoded.websocket, decoded.root_path, decoded.server_port),
        (request.body_streams, request.websocket, request.root_path, request.server_port),
        "{name}"
    );
    assert!(matches!(Submission::decode(&golden), Ok(Submission::Request(_))), "{name}");
}

/// Checks that a completion encodes to its golden bytes, and that they decode to it.
fn assert_completion(name: &str, head: Completion, expected: &[Field], body: &Body<'_>) -> DecodedCompletion {
    assert_completion_with_reason(name, head, b"", expected, body)
}

fn assert_completion_with_reason(
    name: &str,
    head: Completion,
    reason: &[u8],
    expected: &[Field],
    body: &Body<'_>,
) -> DecodedCompletion {
    let golden = golden(name);
    let mut frame = Vec::new();
    let reason_len = u16::try_from(reason.len()).unwrap();
    head.encode_with_reason(reason_len, u16::try_from(expected.len()).unwrap(), body, &mut frame);
    frame.extend_from_slice(reason);
    for (name, value) in expected {
        encode_field(name, value, &mut frame).unwrap();
    }
    body.encode(&mut frame);
    assert_eq!(hex(&frame), hex(&golden), "{name}: encoded | golden");
    let decoded = Completion::decode(&golden).unwrap();
    assert_eq!(decoded.head, head, "{name}");
    assert_eq!(&golden[decoded.reason.clone()], reason, "{name}");
    let back: Vec<_> = fields(&golden[decoded.fields.clone()], decoded.n_fields)
        .map(|(name, value)| (name.as_bytes(), value))
        .collect();
    assert_eq!(back, expected, "{name}");
    match (body, &decoded.body) {
        (Body::Inline(bytes), BodyPart::Inline(range)) => assert_eq!(&golden[range.clone()], *bytes),
        (Body::Chunks(pairs), BodyPart::Chunks(range)) => {
            assert_eq!(chunks(&golden[range.clone()]).collect::<Vec<_>>(), *pairs);
        }
        (Body::File { offset, len }, BodyPart::File { offset: offset_back, len: len_back }) => {
            assert_eq!((offset, len), (offset_back, len_back));
        }
        (body, back) => panic!("{name}: {body:?} came back as {back:?}"),
    }
    decoded
}

#[test]
fn requests_have_their_golden_bytes() {
    assert_request("request-get", Request::new(ExchangeId(1)), &[(b"host", b"example.org")]);
    let mut post = Request::new(ExchangeId(0x0102_0304_0506_0708));
    post.body_len = 10;
    post.received = 123_456_789_012_345;
    post.method = b"POST";
    post.https = true;
    post.listener = 2;
    post.path = b"/a%20b";
    post.query = b"q=1&r";
    post.peer = b"2001:db8::1";
    post.peer_port = 54_321;
    post.request_id = b"0192-abc";
    post.body = b"hello\0body";
    assert_request(
        "request-post-inline",
        post,
        &[
            (b"host", b"example.org"),
            (b"content-type", b"text/plain"),
            (b"x-odd", b"\xff\x80"),
            (b"accept-ranges", b""),
        ],
    );
    let mut spooled = Request::new(ExchangeId(9));
    spooled.body_len = 5_000_000_000;
    spooled.method = b"PROPFIND";
    spooled.version = 10;
    spooled.body_is_fd = true;
    spooled.path = b"/dav";
    assert_request("request-literal-method-descriptor", spooled, &[]);
    let mut streamed = Request::new(ExchangeId(10));
    streamed.method = b"POST";
    streamed.path = b"/up";
    streamed.body_len = UNKNOWN_LENGTH;
    streamed.body_streams = true;
    assert_request("request-streamed", streamed, &[]);
    let mut proxied = Request::new(ExchangeId(12));
    proxied.path = b"/x";
    proxied.https = true;
    proxied.peer = b"192.0.2.7";
    proxied.request_id = b"id";
    proxied.root_path = b"/shop";
    proxied.server_port = 8443;
    assert_request("request-proxied", proxied, &[]);
    let mut websocket = Request::new(ExchangeId(11));
    websocket.path = b"/ws";
    websocket.https = true;
    websocket.websocket = true;
    assert_request("request-websocket", websocket, &[(b"host", b"example.org")]);
    let takeover =
        Request { websocket: true, body_is_fd: true, path: b"/ws", ..Request::new(ExchangeId(12)) };
    assert!(takeover.is_takeover() && !websocket.is_takeover());
    assert_request("request-takeover", takeover, &[(b"host", b"example.org")]);
}

#[test]
fn requests_over_tls_have_their_golden_bytes() {
    let info = TlsInfo {
        version: 0x0304,
        cipher_suite: 0x1302,
        server_name: "example.org",
        server_cert: "server",
        client: None,
    };
    let block = info.encode(&[]).unwrap();
    let request = Request { https: true, tls: &block, ..Request::new(ExchangeId(12)) };
    assert_request("request-tls", request, &[(b"host", b"example.org")]);
    let client = ClientCert {
        subject: "CN=Zoë",
        issuer: "CN=CA",
        serial: "0A1B",
        not_before: "Nov  9 08:00:00 2026 GMT",
        not_after: "Nov  9 08:00:00 2027 GMT",
        encoded_chain: b"",
    };
    let info =
        TlsInfo { version: 0x0303, cipher_suite: 0xC02F, server_name: "", client: Some(client), ..info };
    let block = info.encode(&["leaf", "intermediate"]).unwrap();
    let request = Request { https: true, tls: &block, ..Request::new(ExchangeId(13)) };
    assert_request("request-client-cert", request, &[]);
}

#[test]
fn stream_frames_have_their_golden_bytes() {
    let exchange = ExchangeId(10);
    let part = |bytes, end| StreamFrame::Part { exchange, bytes, end, text: false, more: false };
    let disconnect = StreamFrame::Disconnect { exchange, code: 0, reason: b"", cancel: false };
    let websocket = ExchangeId(11);
    for (name, stream_frame) in [
        ("part", part(&b"part"[..], false)),
        ("part-last", part(b"", true)),
        (
            "part-message",
            StreamFrame::Part {
                exchange: websocket,
                bytes: "né".as_bytes(),
                end: false,
                text: true,
                more: true,
            },
        ),
        ("disconnect", disconnect),
        (
            "disconnect-cancel",
            StreamFrame::Disconnect {
                exchange: ExchangeId(0x0102_0304_0506_0708),
                code: 0,
                reason: b"",
                cancel: true,
            },
        ),
        ("disconnect-half", StreamFrame::HalfClose { exchange }),
        (
            "disconnect-websocket",
            StreamFrame::Disconnect { exchange: websocket, code: 1001, reason: b"going away", cancel: false },
        ),
    ] {
        let golden = golden(name);
        let mut frame = Vec::new();
        stream_frame.encode(&mut frame);
        assert_eq!(hex(&frame), hex(&golden), "{name}: encoded | golden");
        assert_eq!(Submission::decode(&golden).unwrap(), Submission::Stream(stream_frame), "{name}");
    }
}

const fn completion(exchange: u64, kind: CompletionKind) -> Completion {
    Completion {
        exchange: ExchangeId(exchange),
        kind,
        end: false,
        done: false,
        text: false,
        more: false,
        ends_takeover: false,
        status: 0,
        service: 0,
        slot: 0,
    }
}

#[test]
fn completions_have_their_golden_bytes() {
    use CompletionKind::{AppRaised, Body as Part, Respond};
    let last = |completion: Completion| Completion { end: true, done: true, ..completion };
    assert_completion(
        "respond-inline",
        last(Completion { status: 200, service: 42_000, ..completion(1, Respond) }),
        &[(b"content-type", b"text/plain"), (b"content-length", b"5"), (b"X-Mixed", b"v")],
        &Body::Inline(b"hello"),
    );
    assert_completion(
        "respond-chunks",
        Completion { status: 206, slot: 7, ..completion(2, Respond) },
        &[(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")],
        &Body::Chunks(&[(3, 65_536), (63, 1)]),
    );
    assert_completion(
        "respond-file",
        last(Completion { status: 200, service: 1, slot: 513, ..completion(3, Respond) }),
        &[],
        &Body::File { offset: 4096, len: 1 << 33 },
    );
    assert_completion(
        "respond-file-to-the-end",
        Completion { end: true, status: 200, slot: 1, ..completion(6, Respond) },
        &[],
        &Body::File { offset: 0, len: UNTIL_EOF },
    );
    assert_completion_with_reason(
        "respond-reason",
        last(Completion { status: 299, slot: 2, ..completion(7, Respond) }),
        b"Odd R\xe9ason",
        &[(b"content-length", b"1")],
        &Body::Inline(b"x"),
    );
    let part = Completion { slot: 1, ..completion(4, Part) };
    assert_completion("body-part", part, &[], &Body::Inline(b"part"));
    assert_completion("body-last", last(Completion { service: u64::MAX, ..part }), &[], &Body::Inline(b""));
    let error = AppError {
        summary: "ValueError: nö",
        traceback: "Traceback (most recent call last):\n  File \"a.py\", line 1\n",
    };
    let mut bytes = Vec::new();
    error.encode(&mut bytes);
    let raised = last(Completion { service: 7, ..completion(5, AppRaised) });
    let decoded = assert_completion("raised", raised, &[], &Body::Inline(&bytes));
    let BodyPart::Inline(range) = decoded.body else { panic!("{decoded:?}") };
    assert_eq!(AppError::decode(&golden("raised")[range]).unwrap(), error);
    let mut bytes = Vec::new();
    AppError { summary: "ConnectionError", traceback: "" }.encode(&mut bytes);
    let raised = last(Completion { ends_takeover: true, ..completion(12, AppRaised) });
    assert_completion("raised-takeover", raised, &[], &Body::Inline(&bytes));
}

#[test]
fn asgi_completions_have_their_golden_bytes() {
    use CompletionKind::{Body as Part, Close, EarlyHints, Trailers, WindowUpdate};
    let last = |completion: Completion| Completion { end: true, done: true, ..completion };
    let window_update = Completion { slot: 999, ..completion(10, WindowUpdate) };
    let number = 262_144_u64.to_le_bytes();
    let decoded = assert_completion("window-update", window_update, &[], &Body::Inline(&number));
    let BodyPart::Inline(range) = decoded.body else { panic!("{decoded:?}") };
    assert_eq!(decode_window_update(&golden("window-update")[range]), Ok(262_144));
    assert!(decode_window_update(b"1234567").is_err());
    let hints = Completion { slot: 1, ..completion(10, EarlyHints) };
    assert_completion("hints", hints, &[(b"link", b"</a.css>; rel=preload")], &Body::Inline(b""));
    let trailers = last(completion(10, Trailers));
    assert_completion("trailers", trailers, &[(b"x-sum", b"13")], &Body::Inline(b""));
    let message = Completion { text: true, more: true, ..completion(11, Part) };
    assert_completion("message", message, &[], &Body::Inline("né".as_bytes()));
    let close = last(Completion { status: 1000, ..completion(11, Close) });
    assert_completion("close", close, &[], &Body::Inline(b"bye"));
}

#[test]
fn commands_have_their_golden_bytes() {
    let start = Start {
        protocol: 10,
        geometry: Geometry { submission: 262_144, completion: 131_072, chunks: 64, slots: 3 },
        generation: 17,
        worker: 2,
        incarnation: 0x0102_0304_0506_0708,
        role: Role::Zygote,
        hooks: Hooks {
            post_fork: "hooks:forked".into(),
            post_worker_init: "hooks:begun".into(),
            worker_exit: "hooks:ends".into(),
            worker_abort: "hooks:aborted".into(),
            child_exit: String::new(),
        },
        preload: Preload::Application { warm_up: "/healthz?full=1".into() },
        log_config: "/srv/logging.json".into(),
        multiprocess: true,
        report_sources: true,
        log_token: Some(LogToken::from_random(0xfedc_ba98_7654_3210_u64.to_ne_bytes())),
        interface: Interface::Wsgi,
        threads: 3,
        concurrency: 1000,
        lifespan: Lifespan::On,
        event_loop: EventLoop::Uvloop,
        pathsend: true,
        module: "mysite.wsgi".into(),
        attribute: "application".into(),
        factory: false,
        directory: "/srv/mysite".into(),
        pythonpath: vec!["/srv/lib".into(), "/srv/ü".into()],
        root_path: "/app".into(),
        listeners: vec![
            ListenerInfo { name: "127.0.0.1".into(), port: "8000".into(), path: String::new() },
            ListenerInfo { name: "localhost".into(), port: "80".into(), path: "/run/rgun.sock".into() },
        ],
    };
    for (name, command) in [
        ("command-start", Command::Start(Box::new(start))),
        ("command-body", Command::Body(ExchangeId(5))),
        ("command-cancel", Command::Cancel(ExchangeId(0x1122_3344_5566_7788))),
        ("command-stop", Command::Stop),
        ("command-abort", Command::Abort),
        ("command-stacks", Command::DumpStacks(None)),
        ("command-stacks-exchange", Command::DumpStacks(Some(ExchangeId(0x1122_3344_5566_7788)))),
        ("command-fork", Command::Fork(Fork { worker: 513, incarnation: 0x0102_0304_0506_0708 })),
        ("command-promote", Command::Promote),
        ("command-report-sources", Command::ReportSources),
        ("command-trim-memory", Command::TrimMemory),
        (
            "command-child-exited",
            Command::ChildExited { pid: 4711, worker: 513, incarnation: 0x0102_0304_0506_0708 },
        ),
    ] {
        let golden = golden(name);
        assert_eq!(hex(&command.encode()), hex(&golden), "{name}: encoded | golden");
        assert_eq!(Command::decode(&golden).unwrap(), command, "{name}");
    }
}

#[test]
fn reports_have_their_golden_bytes() {
    for (name, report) in [
        ("report-refused", Report::Refused("Python 3.8 is too old".into())),
        ("report-booting", Report::Booting { python: "CPython 3.11.2".into() }),
        ("report-ready", Report::Ready { interface: Interface::Wsgi }),
        ("report-ready-asgi", Report::Ready { interface: Interface::Asgi }),
        (
            "report-failed",
            Report::Failed {
                kind: FailureKind::App,
                summary: "ModuleNotFoundError: No module named 'mysite'".into(),
                traceback: "Traceback\n".into(),
                headline: "ModuleNotFoundError".into(),
            },
        ),
        ("report-file", Report::File(ExchangeId(6))),
        ("report-stacks", Report::StacksDumped(true)),
        ("report-stacks-missing", Report::StacksDumped(false)),
        ("report-warning", Report::Warning("descriptor 7 is a socket\nof the zygote's".into())),
        ("report-forked", Report::Forked { incarnation: 0x0102_0304_0506_0708, pid: 4711 }),
        ("report-fork-failed", Report::ForkFailed { incarnation: 9, reason: "OSError: no memory".into() }),
        ("report-abort-hook-ended", Report::AbortHookEnded),
        ("report-promoted", Report::Promoted),
        (
            "report-sources",
            Report::Sources(vec!["/srv/mysite/views.py".into(), "/srv/mysite/templates/".into()]),
        ),
        ("report-stop-requested", Report::StopRequested(15)),
    ] {
        let golden = golden(name);
        assert_eq!(hex(&report.encode()), hex(&golden), "{name}: encoded | golden");
        assert_eq!(Report::decode(&golden).unwrap(), report, "{name}");
    }
}

#[test]
fn ring_records_keep_their_layout() {
    let geometry = Geometry { submission: 4096, completion: 4096, chunks: 1, slots: 1 };
    let map = Arc::new(Map::create("golden", geometry.total_bytes()).unwrap().0);
    let mut sender = SubmissionSender::new(Arc::clone(&map), &geometry);
    sender.push(b"first").unwrap().unwrap();
    let second = sender.push(b"second, longer").unwrap().unwrap();
    sender.push(b"").unwrap().unwrap();
    assert!(sender.revoke(second));
    let golden = golden("ring-submission");
    let mut ring = Vec::new();
    map.copy_out(geometry.submission_offset(), golden.len(), &mut ring);
    assert_eq!(hex(&ring), hex(&golden), "ring | golden");
}

#[test]
fn words_and_regions_keep_their_offsets() {
    let words = [
        Word::SubmissionHead,
        Word::SubmissionTail,
        Word::CompletionHead,
        Word::CompletionTail,
        Word::Asleep,
        Word::Tokens,
        Word::SpaceWait,
        Word::FreeHead,
        Word::FreeTail,
    ];
    assert_eq!(words.map(Geometry::word), [4096, 4224, 4352, 4480, 4608, 4736, 4864, 4992, 5120]);
    let slot = [SLOT_EXCHANGE, SLOT_STARTED, SLOT_THREAD, SLOT_ACKED, SLOT_CREDIT_WAIT];
    assert_eq!(slot.map(|field| Geometry::slot(2, field)), [5760, 5768, 5776, 5888, 5896]);
    let geometry = Geometry { submission: 256 * 1024, ..Geometry::standard(3) };
    assert_eq!(
        (geometry.submission_offset(), geometry.completion_offset(), geometry.free_offset()),
        (8192, 270_336, 532_480)
    );
    assert_eq!((geometry.slab_offset(), geometry.total_bytes()), (536_576, 4_730_880));
}

/// Entries of the table are appended, never moved. A few entries show what moved; the hash covers
/// all of them.
#[test]
fn field_names_keep_their_indices() {
    for (index, name) in
        [(0, "host"), (6, "cookie"), (9, "content-type"), (47, "transfer-encoding"), (72, "set-cookie")]
    {
        assert_eq!(NAMES[index], name);
        assert_eq!(FieldName::Known(u8::try_from(index).unwrap()).as_bytes(), name.as_bytes());
    }
    // FNV-1a (32 bit) over the first 84 names, each with a newline.
    let hash = NAMES[..84]
        .iter()
        .flat_map(|name| name.bytes().chain([b'\n']))
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    assert_eq!(hash, 0xe581_be1a, "a name of the table was changed or moved");
}
