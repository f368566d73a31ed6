//! Properties of the daemon that hold for any completions of a worker: forged completions drive the
//! daemon's side of the channel, from the rings to the bytes on a client's connection. The fuzz
//! target (`targets/forged.rs`) and the property test of the normal run (`forgery.rs`) share this
//! check.
//!
//! One edge thread serves all cases; each case has a fake worker and a client of its own. A
//! violated property causes a panic, in any thread of the code under test or in an assertion here.

#[path = "forger.rs"]
mod forger;
#[path = "responses.rs"]
mod responses;

use std::io::{ErrorKind, Read, Write as _};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rgun::config::Bind;
use rgun::dispatch::{Dispatcher, Notice, Policy};
use rgun::edge::Edge;
use rgun::http::{FileSettings, ForwardingSettings, RequestLimits, Server, Settings, UnderscorePolicy};
use rgun::id::{Generation, Incarnation, WorkerId, WorkerNr};
use rgun::journal::requests::Journal;
use rgun::link::{Link, Reactor, Slots};
use rgun::net::{self, ConnectionTracker, Listener};
use rgun::websocket;
use rgun_channel::control::{self, Interface, Report};
use rgun_channel::frame::encode_field;
use rgun_channel::layout::Geometry;
use rgun_channel::map::Map;
use rgun_channel::ring::{CompletionSender, SubmissionReceiver};
use rgun_channel::slab::SlabSender;
use rustix::event::{EventfdFlags, eventfd};

use forger::{Forger, head};

/// Time limit for every reaction of the daemon.
const DEADLINE: Duration = Duration::from_secs(20);

/// Small rings and few chunks, so that they are soon exhausted when a client does not read.
const GEOMETRY: Geometry = Geometry { submission: 256 * 1024, completion: 64 * 1024, chunks: 4, slots: 2 };

/// The outcome of a case.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Number of complete responses that the client received.
    pub(crate) complete: usize,
    /// The daemon failed the worker for a breach of contract.
    pub(crate) failed: bool,
}

/// The daemon's dispatcher and edge thread, set up as in `run`.
struct Site {
    dispatcher: &'static Dispatcher,
    edge: Edge,
    socket: PathBuf,
    /// The incarnation of the worker that failed last.
    failed: Arc<AtomicU64>,
    incarnations: u64,
}

/// Message of the first panic in any thread.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

impl Site {
    fn new() -> Self {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANIC.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| panic.to_string());
            usual(panic);
        }));
        let failed = Arc::new(AtomicU64::new(0));
        let last = Arc::clone(&failed);
        let notice = Box::new(move |notice| {
            if let Notice::ContractBreached(worker, _) = notice {
                last.store(worker.incarnation.0, Ordering::SeqCst);
            }
        });
        let policy = Policy { queue: 100, ..Policy::default() };
        let dispatcher = Dispatcher::new(policy, 2, Reactor::new().expect("a reactor"), notice);
        let socket = std::env::temp_dir().join(format!("rgun-forged-{}.sock", std::process::id()));
        let listener = Listener::bind(&Bind::Unix { path: socket.clone() }, None).expect("a socket");
        let (journal, _writer) = Journal::start().expect("a journal");
        let limits = net::ConnectionLimits {
            header: DEADLINE,
            keepalive: DEADLINE,
            write: DEADLINE,
            connections: 100,
            per_client: None,
            response_rate: None,
        };
        let server = Server::new(dispatcher, settings(), std::env::temp_dir(), journal);
        let edge = Edge::start(
            vec![listener],
            Vec::new(),
            dispatcher,
            ConnectionTracker::new(limits),
            server,
            |_| {},
        );
        Self { dispatcher, edge: edge.expect("an edge thread"), socket, failed, incarnations: 0 }
    }
}

fn settings() -> Settings {
    Settings {
        failure_page: None,
        limits: RequestLimits {
            body: Some(1 << 20),
            header: 16 * 1024,
            headers: 100,
            request_line: 8 * 1024,
            body_timeout: DEADLINE,
            keepalive: true,
            body_rate: None,
            spool_memory: 16 << 20,
            spool_disk: 0,
        },
        http2: None,
        https: None,
        underscores: UnderscorePolicy::Drop,
        forwarding: ForwardingSettings::default(),
        websocket: websocket::WebSocketSettings {
            max_message: 1 << 20,
            ping_interval: None,
            ping_timeout: None,
            compression: false,
        },
        health: None,
        error_pages: None,
        compression: None,
        boot_page: None,
        access_log: Some(rgun::http::AccessSettings { query: true, line: None }),
        files: FileSettings::default(),
    }
}

/// Runs a case: one worker and one client follow the instructions in `bytes`.
pub(crate) fn run_case(bytes: &[u8]) -> Outcome {
    static SITE: OnceLock<Mutex<Site>> = OnceLock::new();
    let mut site =
        SITE.get_or_init(|| Mutex::new(Site::new())).lock().unwrap_or_else(PoisonError::into_inner);
    let mut input = ForgeryInput(bytes);
    let outcome = site.run(&mut input);
    site.check_next_worker();
    let panic = PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
    assert_eq!(panic, None, "a thread of the daemon panicked");
    outcome
}

/// First requests of a client. Each case has a path of its own, because a request that repeatedly
/// kills its worker is quarantined.
const REQUESTS: [(&str, &str); 8] = [
    ("GET", ""),
    ("HEAD", ""),
    ("GET", "TE: trailers\r\n"),
    ("POST", "Content-Length: 5\r\n"),
    ("POST", "Transfer-Encoding: chunked\r\n"),
    (
        "GET",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
    ),
    ("GET", "If-None-Match: x\r\n"),
    ("DELETE", ""),
];

impl Site {
    fn run(&mut self, input: &mut ForgeryInput<'_>) -> Outcome {
        let interface = if input.byte() & 1 == 0 { Interface::Wsgi } else { Interface::Asgi };
        let mut forger = self.attach(interface);
        let (method, fields) = REQUESTS[usize::from(input.byte()) % REQUESTS.len()];
        // HTTP/1.0 has neither chunks nor upgrades.
        let is_http10 = input.byte().is_multiple_of(4) && fields.is_empty();
        let is_keepalive = input.byte() & 1 == 0 && !is_http10;
        let version = if is_http10 { "1.0" } else { "1.1" };
        let mut client = UnixStream::connect(&self.socket).expect("the daemon listens");
        client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let path = self.incarnations;
        let mut request = format!("{method} /{path} HTTP/{version}\r\nHost: h\r\n{fields}\r\n");
        if fields.starts_with("Content-Length") {
            request.push_str("12345");
        } else if fields.starts_with("Transfer-Encoding") {
            request.push_str("3\r\nabc\r\n0\r\n\r\n");
        }
        let mut methods = vec![method];
        if is_keepalive {
            // If the length of the first response is wrong, the second response cannot be parsed.
            request +=
                &["GET /", &path.to_string(), "/next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"]
                    .concat();
            methods.push("GET");
        }
        client.write_all(request.as_bytes()).expect("the daemon reads");
        forger.is_head = method == "HEAD";
        forger.claim(self);
        while !input.0.is_empty() {
            forger.step(self, input);
        }
        let violation = forger.violation.clone();
        let failed = self.end(&forger);
        assert!(failed || violation.is_none(), "a violation was accepted: {violation:?}");
        // The daemon then closes the connection, unless a response is still being sent.
        client.shutdown(std::net::Shutdown::Write).ok();
        let mut received = Vec::new();
        match client.read_to_end(&mut received) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => {
                panic!("the response does not end: {error}; so far {:?}", received.escape_ascii().to_string())
            }
        }
        let complete = responses::count_complete(&received, &methods);
        Outcome { complete, failed }
    }

    fn attach(&mut self, interface: Interface) -> Forger {
        self.incarnations += 1;
        self.dispatcher.set_unavailable(None);
        let id = WorkerId { number: WorkerNr(0), incarnation: Incarnation(self.incarnations) };
        let (map, fd) = Map::create("forged", GEOMETRY.total_bytes()).expect("a map");
        let theirs = Arc::new(Map::attach(fd.as_fd(), GEOMETRY.total_bytes(), true).expect("a map"));
        let (ours, control) = control::pair().expect("a pair");
        rustix::io::ioctl_fionbio(&ours, true).expect("non-blocking");
        rustix::io::ioctl_fionbio(&control, true).expect("non-blocking");
        self.edge.attach(Link {
            worker: id,
            generation: Generation(1),
            map: Arc::new(map),
            geometry: GEOMETRY,
            control: Arc::new(ours),
            wake: Arc::new(eventfd(0, EventfdFlags::NONBLOCK).expect("an eventfd")),
            slots: Slots { threads: 1, concurrency: 1, websockets: 1 },
            max_requests: None,
        });
        control::send(&control, &Report::Ready { interface }.encode(), &[]).expect("room for a report");
        self.dispatcher.read_reports(id);
        self.dispatcher.admit(id);
        Forger {
            id,
            control,
            submissions: SubmissionReceiver::new(Arc::clone(&theirs), &GEOMETRY),
            completions: CompletionSender::new(Arc::clone(&theirs), &GEOMETRY),
            slab: SlabSender::new(Arc::clone(&theirs), &GEOMETRY),
            map: theirs,
            exchanges: Vec::new(),
            is_head: false,
            has_sent_nothing: true,
            violation: None,
        }
    }

    /// Detaches the worker without a successor. Returns whether the daemon had failed the worker.
    fn end(&self, forger: &Forger) -> bool {
        self.dispatcher.detach(forger.id);
        self.dispatcher.set_unavailable(Some("the case has ended"));
        self.has_failed(forger)
    }

    fn has_failed(&self, forger: &Forger) -> bool {
        self.failed.load(Ordering::SeqCst) == forger.id.incarnation.0
    }

    fn ring(&self) {
        rustix::io::write(self.dispatcher.reactor().doorbell_fd(), &1_u64.to_ne_bytes()).ok();
    }

    /// Checks that no request of the case is left and, in every 16th case, that the responses of a
    /// correct worker reach its client.
    fn check_next_worker(&mut self) {
        let begun = Instant::now();
        while self.dispatcher.load().queued + self.dispatcher.load().assigned > 0 {
            assert!(begun.elapsed() < DEADLINE, "{:?} are left", self.dispatcher.load());
            std::thread::yield_now();
        }
        if !self.incarnations.is_multiple_of(16) {
            return;
        }
        let mut forger = self.attach(Interface::Wsgi);
        let mut client = UnixStream::connect(&self.socket).expect("the daemon listens");
        client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        client
            .write_all(b"GET /correct HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            .expect("the daemon reads");
        forger.claim(self);
        let exchange = forger.exchanges.first().copied().expect("it has claimed the request");
        let mut frame = head(exchange, 1, 9, 200, 1, 0, 0, 0);
        encode_field(b"content-length", b"5", &mut frame).expect("short");
        frame.extend_from_slice(b"hello");
        assert!(forger.completions.push(&frame).expect("a ring"));
        self.ring();
        let mut received = Vec::new();
        client.read_to_end(&mut received).expect("a response");
        assert!(received.starts_with(b"HTTP/1.1 200 OK\r\n") && received.ends_with(b"\r\n\r\nhello"));
        assert!(!self.end(&forger), "a correct worker failed");
    }
}

/// Reads instructions from the fuzzer's bytes; zeroes after their end.
struct ForgeryInput<'a>(&'a [u8]);

impl ForgeryInput<'_> {
    fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }
}
