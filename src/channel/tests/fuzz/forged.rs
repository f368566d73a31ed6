//! What must hold for whatever a worker completes: the daemon's half of the channel, from the rings to the bytes on a
//! client's connection, driven by forged completions. Shared by the fuzz target (`targets/forged.rs`) and by the
//! bounded property test of the normal run (`forgery.rs`).
//!
//! One edge thread serves all cases, as it does in a daemon; each case has a worker of its own, which this file plays,
//! and a client. A violated promise is a panic: of the code under test, in any thread, or of an assertion here.

#[path = "answers.rs"]
mod answers;
#[path = "forger.rs"]
mod forger;

use std::io::{ErrorKind, Read, Write as _};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rgun::config::Bind;
use rgun::dispatch::{Dispatcher, Link, Notice, Policy, Reactor, Slots};
use rgun::edge::Edge;
use rgun::http::{RequestLimits, Server, Settings, TrustedPeers, UnderscorePolicy};
use rgun::id::{Generation, Life, WorkerId, WorkerNr};
use rgun::journal::requests::Journal;
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
            if let Notice::ContractBreached(worker, _) = notice {
                last.store(worker.life.0, Ordering::SeqCst);
            }
        });
        let policy = Policy { queue: 100, ..Policy::default() };
        let dispatcher = Dispatcher::new(policy, Reactor::new().expect("a reactor"), notice);
        let socket = std::env::temp_dir().join(format!("rgun-forged-{}.sock", std::process::id()));
        let listener = Listener::bind(&Bind::Unix { path: socket.clone() }).expect("a socket");
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
        let edge = Edge::start(vec![listener], dispatcher, ConnectionTracker::new(limits), server, |_| {});
        Self { dispatcher, edge: edge.expect("an edge thread"), socket, condemned, lives: 0 }
    }
}

fn settings() -> Settings {
    Settings {
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
        underscores: UnderscorePolicy::Drop,
        trusted: TrustedPeers::default(),
        websocket: websocket::WebSocketSettings {
            max_message: 1 << 20,
            ping_interval: None,
            ping_timeout: None,
            compression: false,
        },
        log_access: true,
    }
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
        let is_old = input.byte().is_multiple_of(4) && fields.is_empty();
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
        let has_lied = forger.has_lied.clone();
        let condemned = self.end(&forger);
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
    fn end(&self, forger: &Forger) -> bool {
        self.dispatcher.detach(forger.id);
        self.dispatcher.set_unavailable(Some("the case is over"));
        self.is_condemned(forger)
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
        if !self.lives.is_multiple_of(16) {
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
        assert!(!self.end(&forger), "an honest worker is condemned");
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
