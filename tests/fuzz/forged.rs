//! What must hold for whatever a worker completes: the daemon's half of the channel, from the rings to the bytes on a
//! client's connection, driven by forged completions. Shared by the fuzz target (`targets/forged.rs`) and by the
//! bounded property test of the normal run (`forgery.rs`).
//!
//! One edge thread serves all cases, as it does in a daemon; each case has a worker of its own, which this file plays,
//! and a client. A violated promise is a panic: of the code under test, in any thread, or of an assertion here.

#[path = "answers.rs"]
mod answers;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rgun::config::Bind;
use rgun::dispatch::{Dispatcher, Link, Notice, Policy, Reactor, Slots};
use rgun::edge::Edge;
use rgun::http::{Limits, Server, Settings, TrustedPeers, Underscores};
use rgun::journal::requests::Journal;
use rgun::net::{self, Connections, Listener};
use rgun::supervise::{Generation, Life, WorkerId, WorkerNr};
use rgun::websocket;
use rgun_channel::control::{self, Interface, Report};
use rgun_channel::frame::{ExchangeId, Submission, encode_field};
use rgun_channel::layout::{CHUNK, Geometry, Word};
use rgun_channel::map::Map;
use rgun_channel::ring::{CompletionSender, SubmissionReceiver};
use rgun_channel::slab::SlabSender;
use rustix::event::{EventfdFlags, eventfd};

/// How long the daemon may take for anything that it owes.
const DEADLINE: Duration = Duration::from_secs(20);

/// A second worker's worth of everything; a client that reads nothing soon meets the ends of it.
const GEOMETRY: Geometry = Geometry { submission: 256 * 1024, completion: 64 * 1024, chunks: 4, slots: 2 };

/// What came of a case.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Answers that the client took for complete.
    pub(crate) complete: usize,
    /// The worker was condemned.
    pub(crate) condemned: bool,
}

/// The daemon's half, as `run` puts it together.
struct Site {
    dispatcher: &'static Dispatcher,
    edge: Edge,
    socket: PathBuf,
    /// Who was condemned last.
    condemned: Arc<AtomicU64>,
    lives: u64,
}

/// The first panic of any thread, in words.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

impl Site {
    fn new() -> Self {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANIC.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| panic.to_string());
            usual(panic);
        }));
        let condemned = Arc::new(AtomicU64::new(0));
        let last = Arc::clone(&condemned);
        let notice = Box::new(move |notice| {
            if let Notice::Misbehaved(worker, _) = notice {
                last.store(worker.life.0, Ordering::SeqCst);
            }
        });
        let policy = Policy { queue: 100, ..Policy::default() };
        let dispatcher = Dispatcher::new(policy, Reactor::new().expect("a reactor"), notice);
        let socket = std::env::temp_dir().join(format!("rgun-forged-{}.sock", std::process::id()));
        let listener = Listener::bind(&Bind::Unix { path: socket.clone() }).expect("a socket");
        let (journal, _writer) = Journal::start().expect("a journal");
        let limits = net::Limits {
            header: DEADLINE,
            keepalive: DEADLINE,
            write: DEADLINE,
            connections: 100,
            per_client: None,
        };
        let server = Server::new(dispatcher, settings(), std::env::temp_dir(), journal);
        let edge = Edge::start(vec![listener], dispatcher, Connections::new(limits), server, |_| {});
        Self { dispatcher, edge: edge.expect("an edge thread"), socket, condemned, lives: 0 }
    }
}

fn settings() -> Settings {
    Settings {
        limits: Limits {
            body: Some(1 << 20),
            header: 16 * 1024,
            headers: 100,
            request_line: 8 * 1024,
            body_pause: DEADLINE,
            keepalive: true,
        },
        underscores: Underscores::Drop,
        trusted: TrustedPeers::default(),
        websocket: websocket::Settings {
            max_message: 1 << 20,
            ping_interval: None,
            ping_timeout: None,
            compression: false,
        },
        log_access: true,
    }
}

/// The worker's end, in the hands of whoever forges.
struct Forger {
    id: WorkerId,
    control: OwnedFd,
    map: Arc<Map>,
    submissions: SubmissionReceiver,
    completions: CompletionSender,
    slab: SlabSender,
    /// What it has claimed.
    exchanges: Vec<ExchangeId>,
    /// The first request is a HEAD.
    is_head: bool,
    /// It has said nothing yet.
    is_silent: bool,
    /// It has said what no honest worker says, whatever came before: it must be condemned.
    has_lied: Option<String>,
}

/// Plays one worker and one client by the instructions in `bytes`.
pub(crate) fn forged(bytes: &[u8]) -> Outcome {
    static SITE: OnceLock<Mutex<Site>> = OnceLock::new();
    let mut site =
        SITE.get_or_init(|| Mutex::new(Site::new())).lock().unwrap_or_else(PoisonError::into_inner);
    let mut input = Input(bytes);
    let outcome = site.run(&mut input);
    site.serves_the_next();
    let panic = PANIC.lock().unwrap_or_else(PoisonError::into_inner).take();
    assert_eq!(panic, None, "a thread of the daemon panicked");
    outcome
}

/// Requests that a client may begin with. The path is the case's own: what ends workers repeatedly is shut out.
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
    fn run(&mut self, input: &mut Input<'_>) -> Outcome {
        let interface = if input.byte() & 1 == 0 { Interface::Wsgi } else { Interface::Asgi };
        let mut forger = self.attach(interface);
        let (method, fields) = REQUESTS[usize::from(input.byte()) % REQUESTS.len()];
        // HTTP/1.0 knows neither chunks nor upgrades.
        let is_old = input.byte() & 3 == 0 && fields.is_empty();
        let is_kept = input.byte() & 1 == 0 && !is_old;
        let version = if is_old { "1.0" } else { "1.1" };
        let mut client = UnixStream::connect(&self.socket).expect("the daemon listens");
        client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let path = self.lives;
        let mut request = format!("{method} /{path} HTTP/{version}\r\nHost: h\r\n{fields}\r\n");
        if fields.starts_with("Content-Length") {
            request.push_str("12345");
        } else if fields.starts_with("Transfer-Encoding") {
            request.push_str("3\r\nabc\r\n0\r\n\r\n");
        }
        let mut methods = vec![method];
        if is_kept {
            // Whoever believes the first answer's length finds the second one where that ends.
            request.push_str(&format!("GET /{path}/next HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"));
            methods.push("GET");
        }
        client.write_all(request.as_bytes()).expect("the daemon reads");
        forger.is_head = method == "HEAD";
        forger.claim(self);
        while !input.0.is_empty() {
            forger.step(self, input);
        }
        let has_lied = forger.has_lied.clone();
        let condemned = self.end(forger);
        assert!(condemned || has_lied.is_none(), "a worker that lied was believed: {has_lied:?}");
        // Only an answer that goes on leaves the connection open.
        client.shutdown(std::net::Shutdown::Write).ok();
        let mut received = Vec::new();
        match client.read_to_end(&mut received) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => {
                panic!("no end of the answer: {error}; so far {:?}", received.escape_ascii().to_string())
            }
        }
        let complete = answers::complete(&received, &methods);
        Outcome { complete, condemned }
    }

    fn attach(&mut self, interface: Interface) -> Forger {
        self.lives += 1;
        self.dispatcher.set_unavailable(None);
        let id = WorkerId { number: WorkerNr(0), life: Life(self.lives) };
        let (map, fd) = Map::create("forged", GEOMETRY.total()).expect("a map");
        let theirs = Arc::new(Map::attach(fd.as_fd(), GEOMETRY.total(), true).expect("a map"));
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
        self.dispatcher.pump_control(id);
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
            is_silent: true,
            has_lied: None,
        }
    }

    /// The worker is gone, and nobody comes after it. True if it was condemned.
    fn end(&self, forger: Forger) -> bool {
        self.dispatcher.detach(forger.id);
        self.dispatcher.set_unavailable(Some("the case is over"));
        self.is_condemned(&forger)
    }

    fn is_condemned(&self, forger: &Forger) -> bool {
        self.condemned.load(Ordering::SeqCst) == forger.id.life.0
    }

    fn ring(&self) {
        rustix::io::write(self.dispatcher.reactor().doorbell_fd(), &1_u64.to_ne_bytes()).ok();
    }

    /// Whatever happened, nothing of it is left, and another worker's answer comes.
    fn serves_the_next(&mut self) {
        let begun = Instant::now();
        while self.dispatcher.load().queued + self.dispatcher.load().running > 0 {
            assert!(begun.elapsed() < DEADLINE, "{:?} is left", self.dispatcher.load());
            std::thread::yield_now();
        }
        if self.lives % 16 != 0 {
            return;
        }
        let mut forger = self.attach(Interface::Wsgi);
        let mut client = UnixStream::connect(&self.socket).expect("the daemon listens");
        client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        client
            .write_all(b"GET /honest HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            .expect("the daemon reads");
        forger.claim(self);
        let exchange = forger.exchanges.first().copied().expect("it was given the request");
        let mut frame = head(exchange, 1, 9, 200, 1, 0, 0, 0);
        encode_field(b"content-length", b"5", &mut frame).expect("short");
        frame.extend_from_slice(b"hello");
        assert!(forger.completions.push(&frame).expect("a ring"));
        self.ring();
        let mut received = Vec::new();
        client.read_to_end(&mut received).expect("an answer");
        assert!(received.starts_with(b"HTTP/1.1 200 OK\r\n") && received.ends_with(b"\r\n\r\nhello"));
        assert!(!self.end(forger), "an honest worker is condemned");
    }
}

/// A completion's fixed part.
#[expect(clippy::too_many_arguments, reason = "it has as many fields")]
fn head(
    exchange: ExchangeId,
    kind: u8,
    flags: u8,
    status: u16,
    n_fields: u16,
    n_chunks: u16,
    slot: u16,
    reason_len: u16,
) -> Vec<u8> {
    let mut frame = exchange.0.to_le_bytes().to_vec();
    frame.extend_from_slice(&[kind, flags]);
    for number in [status, n_fields, n_chunks] {
        frame.extend_from_slice(&number.to_le_bytes());
    }
    frame.extend_from_slice(&1000_u64.to_le_bytes());
    frame.extend_from_slice(&slot.to_le_bytes());
    frame.extend_from_slice(&reason_len.to_le_bytes());
    frame.extend_from_slice(&[0; 4]);
    frame
}

const STATUSES: [u16; 16] = [200, 200, 200, 204, 304, 101, 100, 103, 199, 299, 404, 500, 999, 1000, 0, 206];
const NUMBERS: [u64; 12] =
    [0, 1, 2, 5, 10, 11, 1 << 32, i64::MAX as u64, i64::MAX as u64 + 1, u64::MAX - 4, u64::MAX - 1, u64::MAX];
const FIELDS: [(&[u8], &[u8]); 16] = [
    (b"content-length", b"5"),
    (b"content-length", b"10"),
    (b"content-length", b"+5"),
    (b"content-length", b"0"),
    (b"content-length", b"18446744073709551615"),
    (b"content-length", b"5, 5"),
    (b"Content-Length", b"5"),
    (b"transfer-encoding", b"chunked"),
    (b"Transfer-Encoding", b"identity"),
    (b"connection", b"keep-alive"),
    (b"trailer", b"x-odd, content-length"),
    (b"x-odd", b"a\r\nx-evil: 1"),
    (b"x odd", b"1"),
    (b"x-odd", b"\x80\xff"),
    (b"sec-websocket-accept", b"x"),
    (b"content-type", b"text/plain"),
];

fn lengths<'f>(fields: &[(&'f [u8], &'f [u8])]) -> impl Iterator<Item = &'f [u8]> {
    fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(b"content-length")).map(|(_, value)| *value)
}

/// Can no honest worker say these?
fn are_impossible(fields: &[(&[u8], &[u8])]) -> bool {
    let is_impossible = |(name, value): &(&[u8], &[u8])| {
        let name = name.to_ascii_lowercase();
        matches!(&*name, b"transfer-encoding" | b"connection" | b"x odd") || value.contains(&b'\n')
    };
    fields.iter().any(is_impossible)
}

/// Do these say more than one length, or none that is a number? Of an answer's head only: a trailer is not heeded.
fn are_no_length(fields: &[(&[u8], &[u8])]) -> bool {
    let mut lengths = lengths(fields);
    let first = lengths.next();
    let is_number = |value: &[u8]| value.iter().all(u8::is_ascii_digit);
    first.is_some_and(|first| !is_number(first)) || lengths.any(|other| Some(other) != first)
}

/// Is no file so long, or its length one that is found out?
fn ends_beyond_files(part: &[u8]) -> bool {
    let numbers: Vec<u64> =
        part.as_chunks::<8>().0.iter().map(|number| u64::from_le_bytes(*number)).collect();
    let [offset, len] = numbers[..] else { return true };
    let end = offset.checked_add(if len == u64::MAX { 0 } else { len });
    end.is_none_or(|end| i64::try_from(end).is_err())
}

impl Forger {
    /// Waits for what the client has asked for, and claims it.
    fn claim(&mut self, site: &Site) {
        let begun = Instant::now();
        while self.exchanges.is_empty() && !site.is_condemned(self) {
            self.claim_what_is_there();
            assert!(begun.elapsed() < DEADLINE, "it is given nothing");
            std::thread::yield_now();
        }
    }

    fn claim_what_is_there(&mut self) {
        let mut frame = Vec::new();
        while let Ok(true) = self.submissions.claim(&mut frame) {
            if let Ok(Submission::Request(request)) = Submission::decode(&frame) {
                self.exchanges.push(request.exchange);
            }
        }
    }

    fn step(&mut self, site: &Site, input: &mut Input<'_>) {
        match input.byte() % 16 {
            0..10 => {
                let (frame, is_lie) = self.completion(input);
                if self.push(site, &frame) && is_lie {
                    self.has_lied.get_or_insert_with(|| format!("{frame:02x?}"));
                }
            }
            10 => {
                // Any bytes, for an exchange of its own.
                let mut frame = self.exchange(0).0.to_le_bytes().to_vec();
                let len = usize::from(input.byte());
                frame.extend((0..len).map(|_| input.byte()));
                self.push(site, &frame);
            }
            11 => {
                // (An empty one says that it has hung up, and is no lie.)
                let message: Vec<u8> = (0..=input.byte() % 32).map(|_| input.byte()).collect();
                control::send(&self.control, &message, &[]).ok();
            }
            12 => self.send_file(input),
            13 => {
                let interface = if input.byte() & 1 == 0 { Interface::Wsgi } else { Interface::Asgi };
                control::send(&self.control, &Report::Ready { interface }.encode(), &[]).ok();
            }
            14 => self.wait_until_taken(site),
            _ => self.claim_what_is_there(),
        }
    }

    /// Publishes a frame; false if it does not fit.
    fn push(&mut self, site: &Site, frame: &[u8]) -> bool {
        self.is_silent = false;
        let is_published = self.completions.push(frame).unwrap_or(false);
        site.ring();
        is_published
    }

    fn exchange(&self, choice: u8) -> ExchangeId {
        match (choice, self.exchanges.as_slice()) {
            (0xf0..=0xf7, [.., last]) => *last,
            (0xf8..=0xfb, _) => ExchangeId(u64::from(choice & 3)),
            (0xfc..=0xff, _) => ExchangeId(u64::MAX),
            (_, [first, ..]) => *first,
            (_, []) => ExchangeId(1),
        }
    }

    /// A completion that is nearly right; and whether it is certainly a lie.
    fn completion(&mut self, input: &mut Input<'_>) -> (Vec<u8>, bool) {
        let kind = match input.byte() {
            common @ 0..0xc0 => 1 + common % 2,
            rare => rare % 9,
        };
        let (flags, choice) = (input.byte() & 0x3f, input.byte());
        let status = if kind == 1 || kind == 7 { STATUSES[usize::from(input.byte()) % 16] } else { 0 };
        let n_fields = if kind == 2 { 0 } else { u16::from(input.byte() % 4) };
        let reason: &[u8] = match (kind, input.byte()) {
            (1, 0xe0..0xf0) => b"Odd Reason",
            (1, 0xf0..0xf4) => b"two\r\nlines",
            (_, 0xff) => b"x",
            _ => b"",
        };
        let slot = if input.byte() < 0xf0 { 0 } else { u16::from(input.byte()) };
        let n_chunks = if flags & 4 == 0 { 0 } else { u16::from(input.byte() % 4) };
        let reason_len = u16::try_from(reason.len()).unwrap_or(0);
        let exchange = self.exchange(choice);
        let mut frame = head(exchange, kind, flags, status, n_fields, n_chunks, slot, reason_len);
        frame.extend_from_slice(reason);
        let mut fields = Vec::new();
        for _ in 0..n_fields {
            let (name, value) = FIELDS[usize::from(input.byte()) % FIELDS.len()];
            encode_field(name, value, &mut frame).expect("short");
            fields.push((name, value));
        }
        let head_len = frame.len();
        self.body(flags, n_chunks, &mut frame, input);
        let is_lie = kind == 0
            || kind == 8
            || kind == 1 && status != 101 && !(200..=999).contains(&status)
            || usize::from(slot) >= GEOMETRY.slots as usize
            || flags & 6 == 6
            || !reason.is_empty() && (kind != 1 || reason.contains(&b'\n'))
            || matches!(kind, 1 | 5 | 6) && are_impossible(&fields)
            || kind == 1 && are_no_length(&fields)
            || flags & 6 == 2 && ends_beyond_files(&frame[head_len..])
            || self.is_silent
                && (kind, flags & 6) == (1, 0)
                && self.exchanges.first() == Some(&exchange)
                && self.is_other_length(status, flags & 1 != 0, &fields, (frame.len() - head_len) as u64);
        (frame, is_lie)
    }

    /// Is this first part of an answer longer than its head announces, or its end something else?
    fn is_other_length(&self, status: u16, is_end: bool, fields: &[(&[u8], &[u8])], len: u64) -> bool {
        let announced = lengths(fields).find_map(|value| str::from_utf8(value).ok()?.parse::<u64>().ok());
        let is_counted = !self.is_head && status != 304;
        is_counted && announced.is_some_and(|announced| announced < len || is_end && announced != len)
    }

    fn body(&mut self, flags: u8, n_chunks: u16, frame: &mut Vec<u8>, input: &mut Input<'_>) {
        for _ in 0..n_chunks {
            let filled = self.slab.fill(&[b'c'; 5]).ok().flatten();
            let (chunk, len) = match input.byte() {
                0..0xc0 => (filled.unwrap_or(0), 5),
                0xc0..0xe0 => (filled.unwrap_or(0), 0),
                other => (u32::from(other & 7), u32::try_from(CHUNK).unwrap_or(0) + u32::from(other & 1)),
            };
            frame.extend_from_slice(&chunk.to_le_bytes());
            frame.extend_from_slice(&len.to_le_bytes());
        }
        if flags & 4 != 0 {
            return;
        }
        if flags & 2 != 0 {
            let offset = match input.byte() {
                0..0xc0 => 0,
                other => NUMBERS[usize::from(other) % NUMBERS.len()],
            };
            frame.extend_from_slice(&offset.to_le_bytes());
            frame.extend_from_slice(&NUMBERS[usize::from(input.byte()) % NUMBERS.len()].to_le_bytes());
            return;
        }
        let len = match input.byte() {
            0..0x40 => 0,
            0x40..0x80 => 5,
            0x80..0xc0 => 10,
            large => usize::from(large) * 100,
        };
        frame.extend(std::iter::repeat_n(b'x', len));
    }

    /// A descriptor, before the frame that names it or without one.
    fn send_file(&self, input: &mut Input<'_>) {
        let report = Report::File(self.exchange(input.byte())).encode();
        let opened = match input.byte() % 8 {
            0..4 => rustix::fs::memfd_create("forged", rustix::fs::MemfdFlags::CLOEXEC).map(|fd| {
                File::from(fd.try_clone().expect("a descriptor")).write_all(b"0123456789").ok();
                fd
            }),
            4 => File::open("/proc/self/stat").map(OwnedFd::from).map_err(|_| rustix::io::Errno::NOENT),
            5 => File::open("/").map(OwnedFd::from).map_err(|_| rustix::io::Errno::NOENT),
            6 => rustix::pipe::pipe().map(|(reading, _)| reading),
            _ => File::open("/dev/null").map(OwnedFd::from).map_err(|_| rustix::io::Errno::NOENT),
        };
        let Ok(file) = opened else { return };
        let fds = [file.as_fd()];
        control::send(&self.control, &report, if input.byte() < 0xf0 { &fds } else { &[] }).ok();
    }

    /// Until the daemon has taken what was published, or takes nothing more.
    fn wait_until_taken(&mut self, site: &Site) {
        let word = |word| self.map.u64(Geometry::word(word)).load(Ordering::Acquire);
        let begun = Instant::now();
        while word(Word::CompletionHead) != word(Word::CompletionTail) && !site.is_condemned(self) {
            // An answer that has ended stays in the ring until it is done (see `CompletionSender::amend`).
            if begun.elapsed() > Duration::from_millis(2) {
                return;
            }
            std::thread::yield_now();
        }
    }
}

/// Reads instructions off the fuzzer's bytes; zero after the end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *byte
    }
}
