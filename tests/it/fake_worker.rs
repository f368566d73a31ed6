//! A worker without Python: the daemon's integration tests put it where the interpreter belongs.
//!
//! It is started as `PYTHON -c CODE SO_PATH` would be and ignores its arguments, takes the control
//! socket from fd 3, speaks the contract of `rgun-channel` with one thread per slot as the real worker
//! does, and answers by request path: properly, late, never, or with a lie. What it gets wrong it gets
//! wrong on purpose; the list below is the whole of it. It is built by `cargo test` as the example
//! `fake_worker` of `rgun-channel` (`target/<profile>/examples/fake_worker`).
//!
//! # Boot: `RGUN_FAKE`
//! The value, or the content of a file when it is `@PATH` (read at every boot, so that a test can change
//! the behaviour of the next life; a missing file means the empty value). Several, joined by commas, are
//! done in order; an unknown one exits 64.
//!
//! | value | what happens |
//! |---|---|
//! | (empty) | Booting, Ready, serves |
//! | `slow:MS` | sleeps before Booting |
//! | `slow-app:MS` | sleeps between Booting and Ready |
//! | `silent` | no report at all, waits for Stop |
//! | `never` | Booting, never Ready, waits for Stop |
//! | `failed` / `failed-config` | Booting, Failed of kind App (with a traceback) / Config, exits 1 |
//! | `refused` | Refused, as the bootstrap writes it, exits 1 |
//! | `exit:CODE` / `exit-booting:CODE` | exits before / after Booting without a word |
//! | `abort` | dies of SIGABRT before Booting |
//! | `garbage` | a message that is none, then waits for Stop |
//! | `ready-twice` | Ready a second time |
//! | `deaf` | serves, and does not obey Stop |
//! | `asgi` | is an ASGI worker; what more it then knows stands in `fake_asgi.rs` |
//! | `mute` | serves, and does not say its stacks, neither when asked nor by signal |
//!
//! It tells the same stack whenever it is asked, of an exchange only while that runs. It cannot be a zygote: exits 64.
//!
//! # Requests
//! | path | answer |
//! |---|---|
//! | `/hello` (and any other path: 404) | 200 `Hello, world!` |
//! | `/pid` | `pid=… worker=… generation=… slot=…` |
//! | `/echo` | method, version, path, query, peer, request id and fields, one a line |
//! | `/status/N` | status N, no body |
//! | `/slow/MS` | `slow` after MS milliseconds |
//! | `/done-later/MS` | a whole response at once, its slot freed after MS |
//! | `/body` | the request's body; `x-body: inline` or `file` says how it came |
//! | `/large/N` | N bytes ([`pattern`]) in slab chunks, under credit |
//! | `/stream/N`, `/stream/N/MS` | `part 0` … without a length, one frame a part, MS between them |
//! | `/file/N` | N bytes of pattern as a descriptor |
//! | `/file-short/N` | announces N bytes, the descriptor's file has half of them |
//! | `/file-raise/N` | announces twice N bytes, sends a file of N, then Raised |
//! | `/reason` | 299 `Odd Reason` |
//! | `/fd-missing` | a file body whose descriptor is never sent |
//! | `/raise`, `/raise-mid-body/MS` | Raised before the head / MS after head and 10 of 1000 bytes |
//! | `/raise-late` | Raised when `Hello, world!` is complete |
//! | `/hang`, `/hang-mid-body` | nothing, for ever / head and 10 of 1000 bytes, then nothing |
//! | `/die`, `/abort` | exit 3 / SIGABRT before the head |
//! | `/die-mid-body` | head and 10 of 1000 bytes, exit 3 once the daemon has taken them |
//! | `/die-after-claim-many/N` | claims until N requests are its own (with this one and what other slots run), then exit 3 |
//! | `/lie-length` | every word of the completion ring a length beyond it, and a head that says "come and look" |
//! | `/lie-head` | a completion head far beyond the ring |
//! | `/lie-tail`, `/lie-tail/back` | a submission tail far beyond the head / of 0, after a proper answer; claims nothing more |
//! | `/lie-asleep` | 4 billion sleeping threads, after a proper answer |
//! | `/lie-chunk/twice`, `/range`, `/length` | a chunk named twice / that does not exist / longer than chunks are |
//! | `/lie-exchange/unknown`, `/zero`, `/twice` | a head for an exchange that never was / for 0 / after the response had ended |
//! | `/lie-exchange/other` | waits until another slot runs an exchange, and answers that one as its own |
//! | `/lie-slot` | a slot that does not exist |
//! | `/lie-frame` | a record whose frame is 0xff throughout |
//! | `/lie-length-header`, `/more`, `/stream` | `content-length: 5` before 10 bytes / before 3 / before 10 in two parts |
//! | `/lie-length-header/sign`, `/two` | `content-length: +10` / 10 and 11 |
//! | `/lie-file`, `/huge`, `/beyond` | a file after bytes / the same, with almost 2^64 bytes / a file whose end is beyond 2^63 |
//! | `/lie-status/N` | status N, whatever it is |
//! | `/lie-field/NAME` | `NAME: chunked` beside a length |
//! | `/lie-reason` | a reason phrase of two lines |
//! | `/lie-empty-chunks` | a part of chunks without a byte |
//! | `/flood/N` | N MiB without waiting for credit |
//! | `/garbage-control` | a control message that is none, then `Hello, world!` |
//!
//! It deliberately knows nothing of Python, WSGI or the daemon's configuration.

#[path = "fake_asgi.rs"]
mod asgi;

use std::collections::{BTreeSet, HashMap};
use std::error::Error;
use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{env, fs, io, panic, process, thread};

use rgun_channel::control::{
    self, CONTROL_FD, Command, FailureKind, Fork, Interface, MAX_MESSAGE_BYTES, Report, Role, STACKS_SIGNAL,
    Start,
};
use rgun_channel::frame::{AppError, Body, Completion, CompletionKind, ExchangeId, Request, encode_field};
use rgun_channel::layout::{
    CHUNK_BYTES, Geometry, REACTOR_EPOCH, REACTOR_PAGE_BYTES, RESPONSE_WINDOW, SLOT_ACKED, SLOT_CREDIT_WAIT,
    SLOT_EXCHANGE, SLOT_STARTED, Word,
};
use rgun_channel::map::Map;
use rgun_channel::ring::{CompletionSender, SubmissionReceiver};
use rgun_channel::slab::SlabSender;
use rgun_channel::wake::{Epoch, Sleepers, SystemFutex, WaitFlag};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// How long the fake itself waits for something that the contract says must come.
const PATIENCE: Duration = Duration::from_secs(10);

/// Exit status when the fake, or the daemon towards it, broke the contract unasked (EX_SOFTWARE).
const BROKEN: i32 = 70;

fn main() {
    // A thread that dies alone would look like a slot that hangs.
    panic::set_hook(Box::new(|panic| quit(BROKEN, &panic.to_string())));
    match boot() {
        Ok(()) => {}
        Err(error) => quit(BROKEN, &error.to_string()),
    }
}

/// Takes the first message, does what `RGUN_FAKE` says, serves until told to stop.
fn boot() -> Outcome {
    #[expect(unsafe_code, reason = "the control socket is handed over by number")]
    // SAFETY: the daemon opened this number for us before exec; nothing else in this process owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(CONTROL_FD) };
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    let received = receive(socket.as_fd(), &mut buffer)?;
    if received.len == 0 {
        return Ok(());
    }
    let Command::Start(start) = Command::decode(&buffer[..received.len])? else {
        return Err("the first command was not Start".into());
    };
    let Ok([map, reactor, eventfd, stacks, wake]) = <[OwnedFd; 5]>::try_from(received.fds) else {
        return Err("Start came without its five descriptors".into());
    };
    if start.role == Role::Zygote {
        quit(64, "a fake cannot be a zygote");
    }
    ignore_stacks_signal();
    let mut worker = Worker::new(socket, *start, map.as_fd(), reactor.as_fd(), eventfd, stacks)?;

    let mut wake = Some(wake);
    let mut deaf = false;
    let mut ready = 1;
    let mut before_ready = Duration::ZERO;
    let mut wait_after_booting = false;
    let mut after_booting = None;
    for behaviour in behaviours()?.split(',').map(str::trim).filter(|behaviour| !behaviour.is_empty()) {
        let (name, argument) = behaviour.split_once(':').unwrap_or((behaviour, "0"));
        match name {
            "slow" => thread::sleep(milliseconds(argument)?),
            "slow-app" => before_ready = milliseconds(argument)?,
            "silent" => return worker.wait_for_stop(),
            "never" => wait_after_booting = true,
            "failed" => after_booting = Some(After::Failed(FailureKind::App)),
            "failed-config" => after_booting = Some(After::Failed(FailureKind::Config)),
            "refused" => {
                worker.report(&Report::Refused("this fake runs no Python".into()), &[])?;
                quit(1, "refused, as RGUN_FAKE says")
            }
            "exit" => quit(argument.parse()?, "exits before Booting, as RGUN_FAKE says"),
            "exit-booting" => after_booting = Some(After::Exit(argument.parse()?)),
            "abort" => process::abort(),
            "garbage" => {
                control::send(&worker.socket, &[0xff; 32], &[])?;
                return worker.wait_for_stop();
            }
            "ready-twice" => ready = 2,
            "deaf" => deaf = true,
            "mute" => worker.mute = true,
            "asgi" => worker.events = wake.take().map(asgi::Loop::new),
            unknown => quit(64, &format!("RGUN_FAKE: unknown behaviour {unknown:?}")),
        }
    }

    worker.report(&Report::Booting { python: "CPython 3.99.0 (fake)".into() }, &[])?;
    match after_booting {
        None => {}
        Some(After::Exit(code)) => quit(code, "exits after Booting, as RGUN_FAKE says"),
        Some(After::Failed(kind)) => {
            let traceback = match kind {
                FailureKind::App => {
                    "Traceback (most recent call last):\n  File \"fake.py\", line 1\nFake: boom\n"
                }
                FailureKind::Config => "",
            };
            let summary = "the fake application does not load".to_owned();
            let headline = "loading it raised Fake (fake.py, line 1)".to_owned();
            worker
                .report(&Report::Failed { kind, summary, traceback: traceback.to_owned(), headline }, &[])?;
            quit(1, "failed, as RGUN_FAKE says")
        }
    }
    if wait_after_booting {
        return worker.wait_for_stop();
    }
    thread::sleep(before_ready);
    for _ in 0..ready {
        let interface = if worker.events.is_some() { Interface::Asgi } else { Interface::Wsgi };
        worker.report(&Report::Ready { interface }, &[])?;
    }
    serve(&Arc::new(worker), deaf)
}

/// What happens between Booting and Ready instead of Ready.
enum After {
    Exit(i32),
    Failed(FailureKind),
}

fn behaviours() -> io::Result<String> {
    let value = env::var("RGUN_FAKE").unwrap_or_default();
    match value.strip_prefix('@') {
        None => Ok(value),
        Some(path) => match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            content => content,
        },
    }
}

fn milliseconds(argument: &str) -> Outcome<Duration> {
    Ok(Duration::from_millis(argument.parse()?))
}

/// One thread per slot; this one reads commands. Returns when stopped and every slot has finished.
fn serve(worker: &Arc<Worker>, deaf: bool) -> Outcome {
    let threads = if worker.events.is_some() { 0 } else { worker.start.threads };
    let mut slots: Vec<_> = (0..threads)
        .map(|number| {
            let worker = Arc::clone(worker);
            thread::Builder::new().name(format!("slot {number}")).spawn(move || {
                if let Err(error) = Slot::new(&worker, number).and_then(|mut slot| slot.run()) {
                    quit(BROKEN, &error.to_string());
                }
            })
        })
        .collect::<Result<_, _>>()?;
    if worker.events.is_some() {
        let worker = Arc::clone(worker);
        slots.push(thread::Builder::new().name("event loop".to_owned()).spawn(move || {
            if let Some(events) = &worker.events
                && let Err(error) = asgi::run(&worker, events)
            {
                quit(BROKEN, &error.to_string());
            }
        })?);
    }
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    loop {
        let received = receive(worker.socket.as_fd(), &mut buffer)?;
        if received.len == 0 {
            quit(0, "the daemon has gone");
        }
        match Command::decode(&buffer[..received.len])? {
            Command::Start(_) => return Err("a second Start".into()),
            Command::Body(exchange) => {
                let fd = received.fds.into_iter().next().ok_or("Body came without a descriptor")?;
                lock(&worker.bodies).insert(exchange, fd);
                worker.body_came.notify_all();
            }
            Command::Cancel(exchange) => {
                lock(&worker.bodies).remove(&exchange);
            }
            Command::Stop if deaf => {}
            Command::Stop => break,
            Command::DumpStacks(exchange) => worker.tell_stacks(exchange)?,
            Command::ChildExited { .. } => {}
            Command::Fork(Fork { life, .. }) => {
                let reason = "a fake cannot fork".to_owned();
                worker.report(&Report::ForkFailed { life, reason }, &[])?;
            }
            Command::Promote => quit(64, "a fake cannot be a zygote"),
        }
    }
    worker.stop.store(true, Ordering::SeqCst);
    match &worker.events {
        Some(events) => events.ring()?,
        None => drop(worker.sleepers().wake(&SystemFutex, u32::MAX)),
    }
    for slot in slots {
        slot.join().map_err(|_| "a slot panicked")?;
    }
    Ok(())
}

/// What a fake always does, says it.
const STACK: &[u8] =
    b"Thread 0x0000000000000001 (most recent call first):\n  File \"fake.py\", line 1 in fake stack\n";

/// The default would be to die of it. A real worker writes its stacks; the fake says them only when asked.
fn ignore_stacks_signal() {
    const SIG_IGN: usize = 1;
    #[expect(unsafe_code, reason = "std has no signal(2)")]
    // SAFETY: as signal(2) declares it, with the handler as the word it is.
    unsafe extern "C" {
        fn signal(number: i32, handler: usize) -> usize;
    }
    #[expect(unsafe_code, reason = "std has no signal(2)")]
    // SAFETY: SIG_IGN installs no function of ours.
    unsafe {
        signal(STACKS_SIGNAL, SIG_IGN);
    }
}

/// Everything the slots share.
struct Worker {
    socket: OwnedFd,
    stacks: OwnedFd,
    mute: bool,
    /// It is an ASGI worker.
    events: Option<asgi::Loop>,
    start: Start,
    map: Arc<Map>,
    reactor: Map,
    eventfd: OwnedFd,
    submission: Mutex<SubmissionReceiver>,
    completion: Mutex<Completions>,
    slab: Mutex<SlabSender>,
    /// Descriptors of request bodies that have come and were not taken yet.
    bodies: Mutex<HashMap<ExchangeId, OwnedFd>>,
    body_came: Condvar,
    /// What runs now, in any slot.
    running: Mutex<BTreeSet<ExchangeId>>,
    running_changed: Condvar,
    stop: AtomicBool,
}

struct Completions {
    sender: CompletionSender,
    /// The last epoch of the reactor for which the eventfd was rung.
    rung: u32,
}

impl Worker {
    fn new(
        socket: OwnedFd,
        start: Start,
        map: BorrowedFd<'_>,
        reactor: BorrowedFd<'_>,
        eventfd: OwnedFd,
        stacks: OwnedFd,
    ) -> Outcome<Self> {
        let geometry = start.geometry;
        let map = Arc::new(Map::attach(map, geometry.total_bytes(), true)?);
        let sender = CompletionSender::new(Arc::clone(&map), &geometry);
        Ok(Self {
            socket,
            stacks,
            mute: false,
            events: None,
            reactor: Map::attach(reactor, REACTOR_PAGE_BYTES, false)?,
            eventfd,
            submission: Mutex::new(SubmissionReceiver::new(Arc::clone(&map), &geometry)),
            completion: Mutex::new(Completions { sender, rung: 0 }),
            slab: Mutex::new(SlabSender::new(Arc::clone(&map), &geometry)),
            bodies: Mutex::default(),
            body_came: Condvar::new(),
            running: Mutex::default(),
            running_changed: Condvar::new(),
            stop: AtomicBool::new(false),
            start,
            map,
        })
    }

    fn report(&self, report: &Report, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        control::send(&self.socket, &report.encode(), fds)
    }

    fn wait_for_stop(&self) -> Outcome {
        let mut buffer = vec![0; MAX_MESSAGE_BYTES];
        loop {
            let received = receive(self.socket.as_fd(), &mut buffer)?;
            if received.len == 0 {
                return Ok(());
            }
            match Command::decode(&buffer[..received.len])? {
                Command::Stop => return Ok(()),
                Command::DumpStacks(exchange) => self.tell_stacks(exchange)?,
                _ => {}
            }
        }
    }

    fn tell_stacks(&self, exchange: Option<ExchangeId>) -> io::Result<()> {
        if self.mute {
            return Ok(());
        }
        let runs = exchange.is_none_or(|exchange| lock(&self.running).contains(&exchange));
        if runs {
            rustix::io::write(&self.stacks, STACK)?;
        }
        self.report(&Report::StacksDumped(runs), &[])
    }

    fn sleepers(&self) -> Sleepers<'_> {
        Sleepers {
            asleep: self.map.u32(Geometry::word(Word::Asleep)),
            tokens: self.map.u32(Geometry::word(Word::Tokens)),
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Claims the next request, asleep while there is none. False: stopped.
    fn claim(&self, frame: &mut Vec<u8>) -> Outcome<bool> {
        loop {
            if self.is_stopped() {
                return Ok(false);
            }
            let mut submission = lock(&self.submission);
            if submission.claim(frame)? {
                // Under the same lock, so that who holds it knows of everything that was claimed.
                lock(&self.running).insert(Request::decode(frame)?.exchange);
                self.running_changed.notify_all();
                return Ok(true);
            }
            drop(submission);
            self.sleep_until_submission(|| lock(&self.submission).is_empty());
        }
    }

    fn sleep_until_submission(&self, is_empty: impl FnOnce() -> bool) {
        self.sleepers().announce_sleep();
        if is_empty() && !self.is_stopped() {
            self.sleepers().sleep(&SystemFutex, || {});
        } else {
            self.sleepers().cancel_sleep(&SystemFutex);
        }
    }

    /// Publishes a completion frame, waiting for room, and rings the daemon if it sleeps.
    fn publish(&self, frame: &[u8]) -> Outcome {
        let mut broken = None;
        self.wait_until(self.want_space(), || {
            lock(&self.completion).sender.push(frame).unwrap_or_else(|error| {
                broken = Some(error);
                true
            })
        });
        match broken {
            Some(error) => Err(error.into()),
            None => self.ring(),
        }
    }

    fn ring(&self) -> Outcome {
        let rung = &mut lock(&self.completion).rung;
        if Epoch(self.reactor.u32(REACTOR_EPOCH)).must_wake(rung) {
            rustix::io::write(&self.eventfd, &1_u64.to_ne_bytes())?;
        }
        Ok(())
    }

    /// Puts bytes into a chunk, waiting for a free one.
    fn fill_chunk(&self, bytes: &[u8]) -> Outcome<u32> {
        let mut filled = Ok(None);
        self.wait_until(self.want_space(), || {
            filled = lock(&self.slab).fill(bytes);
            !matches!(filled, Ok(None))
        });
        filled?.ok_or_else(|| "no chunk after waiting for one".into())
    }

    fn wait_until(&self, want: WaitFlag<'_>, available: impl FnMut() -> bool) {
        match &self.events {
            Some(events) => events.wait_until(want, available),
            None => want.wait_until(&SystemFutex, available),
        }
    }

    fn want_space(&self) -> WaitFlag<'_> {
        WaitFlag(self.map.u32(Geometry::word(Word::SpaceWait)))
    }

    /// The descriptor of a request's body: it was sent before the frame, but the thread that reads the
    /// control socket may be behind this one.
    fn body(&self, exchange: ExchangeId) -> Outcome<OwnedFd> {
        let bodies = lock(&self.bodies);
        let (mut bodies, _) = self
            .body_came
            .wait_timeout_while(bodies, PATIENCE, |bodies| !bodies.contains_key(&exchange))
            .unwrap_or_else(PoisonError::into_inner);
        bodies.remove(&exchange).ok_or_else(|| "the body's descriptor did not come".into())
    }

    /// Waits until the daemon has taken everything that was published.
    fn wait_until_taken(&self) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        let [head, tail] =
            [Word::CompletionHead, Word::CompletionTail].map(|word| self.map.u64(Geometry::word(word)));
        while head.load(Ordering::Acquire) != tail.load(Ordering::Acquire) {
            if Instant::now() > deadline {
                return Err("the daemon does not drain its completions".into());
            }
            thread::yield_now();
        }
        Ok(())
    }
}

/// One thread of the worker.
struct Slot<'w> {
    worker: &'w Worker,
    number: u32,
    /// Body bytes sent by all exchanges of this slot, as [`SLOT_ACKED`] counts them.
    sent: u64,
    frame: Vec<u8>,
}

/// The exchange that runs in a slot.
struct Exchange<'s, 'w> {
    slot: &'s mut Slot<'w>,
    id: ExchangeId,
    started: Instant,
}

impl<'w> Slot<'w> {
    fn new(worker: &'w Worker, number: u32) -> Outcome<Self> {
        u16::try_from(number)?;
        Ok(Self { worker, number, sent: 0, frame: Vec::new() })
    }

    fn run(&mut self) -> Outcome {
        let mut submitted = Vec::new();
        while self.worker.claim(&mut submitted)? {
            let request = Request::decode(&submitted)?;
            let id = request.exchange;
            let words = [SLOT_STARTED, SLOT_EXCHANGE].map(|field| Geometry::slot(self.number, field));
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            let now = u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec)?;
            for (word, value) in words.into_iter().zip([now, id.0]) {
                self.worker.map.u64(word).store(value, Ordering::Release);
            }
            Exchange { id, started: Instant::now(), slot: self }.answer(&request)?;
            lock(&self.worker.running).remove(&id);
            for word in words.into_iter().rev() {
                self.worker.map.u64(word).store(0, Ordering::Release);
            }
        }
        Ok(())
    }
}

impl Slot<'_> {
    /// Counts a part of a response's body as [`SLOT_ACKED`] does: files are not counted.
    fn count(&mut self, body: &Body<'_>) {
        self.sent += match body {
            Body::Inline(bytes) => bytes.len() as u64,
            Body::Chunks(chunks) => chunks.iter().map(|(_, len)| u64::from(*len)).sum(),
            Body::File { .. } => 0,
        };
    }
}

impl Exchange<'_, '_> {
    fn answer(&mut self, request: &Request<'_>) -> Outcome {
        let path = String::from_utf8_lossy(request.path).into_owned();
        let mut parts = path.trim_start_matches('/').split('/');
        let name = parts.next().unwrap_or_default();
        let (first, second) = (parts.next().unwrap_or_default(), parts.next());
        let worker = self.slot.worker;
        match name {
            "hello" => self.text(200, "Hello, world!"),
            "pid" => {
                let Start { generation, worker, .. } = &worker.start;
                let (pid, slot) = (process::id(), self.slot.number);
                self.text(200, &format!("pid={pid} worker={worker} generation={generation} slot={slot}"))
            }
            "echo" => self.text(200, &echo(request)?),
            "status" => self.respond(first.parse()?, Some(0), Body::Inline(b""), true, true),
            "slow" => {
                thread::sleep(milliseconds(first)?);
                self.text(200, "slow")
            }
            "done-later" => {
                self.respond(200, Some(5), Body::Inline(b"early"), true, false)?;
                thread::sleep(milliseconds(first)?);
                self.part(CompletionKind::Body, Body::Inline(b""), true, true)
            }
            "body" => self.echo_body(request),
            "large" => {
                let bytes = pattern(first.parse()?);
                self.respond(200, Some(bytes.len() as u64), Body::Inline(b""), false, false)?;
                self.send(&bytes)?;
                self.finish()
            }
            "stream" => {
                let pause = second.map_or(Ok(Duration::ZERO), milliseconds)?;
                self.respond(200, None, Body::Inline(b""), false, false)?;
                for part in 0..first.parse::<u32>()? {
                    thread::sleep(pause);
                    self.send_inline(format!("part {part}\n").as_bytes())?;
                }
                self.finish()
            }
            "file" => {
                let len = first.parse()?;
                self.send_file(&pattern(len))?;
                self.respond_file(len as u64)
            }
            "file-short" => {
                let len: usize = first.parse()?;
                self.send_file(&pattern(len / 2))?;
                self.respond_file(len as u64)
            }
            "file-raise" => {
                let len: usize = first.parse()?;
                self.send_file(&pattern(len))?;
                let body = Body::File { offset: 0, len: len as u64 };
                self.respond(200, Some(2 * len as u64), body, false, false)?;
                worker.wait_until_taken()?;
                self.raise()
            }
            "reason" => self.reason(b"Odd Reason"),
            "fd-missing" => self.respond_file(1000),
            "raise" => self.raise(),
            "raise-late" => {
                self.respond(200, Some(13), Body::Inline(b"Hello, world!"), true, false)?;
                self.raise()
            }
            "raise-mid-body" => {
                self.half_a_response()?;
                worker.wait_until_taken()?;
                thread::sleep(milliseconds(first)?);
                self.raise()
            }
            "hang" => hang(),
            "hang-mid-body" => {
                self.half_a_response()?;
                hang()
            }
            "die" => quit(3, "dies, as asked"),
            "abort" => process::abort(),
            "die-mid-body" => {
                self.half_a_response()?;
                worker.wait_until_taken()?;
                quit(3, "dies in the middle of a body, as asked")
            }
            "die-after-claim-many" => self.claim_many(first.parse()?),
            "garbage-control" => {
                control::send(&worker.socket, &[0xff; 32], &[])?;
                self.text(200, "Hello, world!")
            }
            "flood" => {
                self.respond(200, None, Body::Inline(b""), false, false)?;
                let bytes = pattern(16 * 1024);
                for _ in 0..first.parse::<u32>()? * 64 {
                    self.part(CompletionKind::Body, Body::Inline(&bytes), false, false)?;
                }
                self.finish()
            }
            _ if name.starts_with("lie-") => self.lie(name, first),
            _ => self.text(404, "the fake knows no such path"),
        }
    }

    /// What no worker of ours would write. Most of these end with the daemon killing this process.
    fn lie(&mut self, name: &str, how: &str) -> Outcome {
        let worker = self.slot.worker;
        let (map, geometry) = (&*worker.map, &worker.start.geometry);
        match (name, how) {
            ("lie-length", _) => {
                let completions = lock(&worker.completion);
                map.copy_in(geometry.completion_offset(), &vec![0xf8; geometry.completion as usize]);
                map.u64(Geometry::word(Word::CompletionHead)).fetch_add(64, Ordering::AcqRel);
                // Nothing may be published after it that would repair the lie; the lock stays taken.
                ring_and_hang(worker, completions)
            }
            ("lie-head", _) => {
                let completions = lock(&worker.completion);
                map.u64(Geometry::word(Word::CompletionHead)).store(1 << 62, Ordering::Release);
                ring_and_hang(worker, completions)
            }
            ("lie-tail", _) => {
                let _claims_nothing_more = lock(&worker.submission);
                let tail = if how == "back" { 0 } else { 1 << 62 };
                map.u64(Geometry::word(Word::SubmissionTail)).store(tail, Ordering::Release);
                self.text(200, "Hello, world!")?;
                hang()
            }
            ("lie-asleep", _) => {
                map.u32(Geometry::word(Word::Asleep)).store(u32::MAX, Ordering::Release);
                self.text(200, "Hello, world!")
            }
            ("lie-chunk", _) => {
                let chunk = worker.fill_chunk(b"lie")?;
                let chunks = match how {
                    "range" => vec![(geometry.chunks, 3)],
                    "length" => vec![(chunk, u32::try_from(CHUNK_BYTES + 1)?)],
                    _ => vec![(chunk, 3), (chunk, 3)],
                };
                self.respond(200, None, Body::Chunks(&chunks), true, true)
            }
            ("lie-exchange", "unknown" | "zero" | "other") => {
                let own = self.id;
                self.id = match how {
                    "unknown" => ExchangeId(u64::MAX),
                    "zero" => ExchangeId(0),
                    _ => self.other_exchange()?,
                };
                self.text(200, "for another")?;
                self.id = own;
                self.text(200, "Hello, world!")
            }
            ("lie-exchange", _) => {
                self.text(200, "Hello, world!")?;
                self.text(200, "Hello again")
            }
            ("lie-slot", _) => {
                let own = std::mem::replace(&mut self.slot.number, geometry.slots);
                let answered = self.text(200, "from nowhere");
                self.slot.number = own;
                answered
            }
            ("lie-frame", _) => worker.publish(&[0xff; 64]),
            _ => self.lie_in_http(name, how),
        }
    }

    /// Answers that are none, in frames that are right.
    fn lie_in_http(&mut self, name: &str, how: &str) -> Outcome {
        let ten = Body::Inline(b"0123456789");
        match (name, how) {
            ("lie-length-header", "sign") => self.head(200, &[(b"content-length", b"+10")], ten, true, true),
            ("lie-length-header", "two") => {
                let lengths = [(&b"content-length"[..], &b"10"[..]), (b"content-length", b"11")];
                self.head(200, &lengths, ten, true, true)
            }
            ("lie-length-header", "more") => self.respond(200, Some(5), Body::Inline(b"012"), true, true),
            ("lie-length-header", "stream") => {
                self.respond(200, Some(5), Body::Inline(b"012"), false, false)?;
                self.part(CompletionKind::Body, Body::Inline(b"3456789"), true, true)
            }
            ("lie-length-header", _) => self.respond(200, Some(5), ten, true, true),
            ("lie-file", "beyond") => {
                self.send_file(b"file")?;
                self.respond(200, None, Body::File { offset: i64::MAX as u64, len: 1 }, true, true)
            }
            ("lie-file", _) => {
                let (len, announced) = if how == "huge" { (u64::MAX - 4, 5) } else { (4, 14) };
                self.send_file(b"file")?;
                self.respond(200, Some(announced), ten, false, false)?;
                self.part(CompletionKind::Body, Body::File { offset: 0, len }, true, true)
            }
            ("lie-status", _) => self.text(how.parse()?, "no answer"),
            ("lie-field", _) => {
                let fields = [(&b"content-length"[..], &b"10"[..]), (how.as_bytes(), b"chunked")];
                self.head(200, &fields, ten, true, true)
            }
            ("lie-reason", _) => self.reason(b"OK\r\nx-evil: 1"),
            ("lie-empty-chunks", _) => {
                self.respond(200, None, Body::Inline(b""), false, false)?;
                let chunk = self.slot.worker.fill_chunk(b"")?;
                self.part(CompletionKind::Body, Body::Chunks(&[(chunk, 0)]), false, false)
            }
            _ => self.text(404, "the fake knows no such lie"),
        }
    }

    fn other_exchange(&self) -> Outcome<ExchangeId> {
        let worker = self.slot.worker;
        let (running, _) = worker
            .running_changed
            .wait_timeout_while(lock(&worker.running), PATIENCE, |running| running.len() < 2)
            .unwrap_or_else(PoisonError::into_inner);
        running.iter().copied().find(|id| *id != self.id).ok_or_else(|| "nothing else runs".into())
    }

    /// Holds the receiving end until `many` requests are this worker's, then dies with all of them.
    fn claim_many(&self, many: usize) -> Outcome {
        let worker = self.slot.worker;
        let mut submission = lock(&worker.submission);
        let mut frame = Vec::new();
        let mut claimed = lock(&worker.running).len();
        while claimed < many && !worker.is_stopped() {
            if submission.claim(&mut frame)? {
                claimed += 1;
            } else {
                worker.sleep_until_submission(|| submission.is_empty());
            }
        }
        quit(3, &format!("dies with {claimed} requests claimed, as asked"))
    }

    fn text(&mut self, status: u16, text: &str) -> Outcome {
        self.respond(status, Some(text.len() as u64), Body::Inline(text.as_bytes()), true, true)
    }

    fn reason(&mut self, reason: &[u8]) -> Outcome {
        let mut frame = std::mem::take(&mut self.slot.frame);
        let body = Body::Inline(b"odd");
        let head = self.completion(CompletionKind::Respond, 299, true, true)?;
        head.encode_with_reason(u16::try_from(reason.len())?, 0, &body, &mut frame);
        frame.extend_from_slice(reason);
        body.encode(&mut frame);
        self.slot.count(&body);
        self.publish(frame)
    }

    fn half_a_response(&mut self) -> Outcome {
        self.respond(200, Some(1000), Body::Inline(b"0123456789"), false, false)
    }

    fn raise(&mut self) -> Outcome {
        let mut error = Vec::new();
        let traceback =
            "Traceback (most recent call last):\n  File \"fake.py\", line 2, in app\nFake: boom\n";
        AppError { summary: "Fake: boom", traceback }.encode(&mut error);
        self.part(CompletionKind::AppRaised, Body::Inline(&error), true, true)
    }

    fn echo_body(&mut self, request: &Request<'_>) -> Outcome {
        let (how, file) = if request.body_is_fd {
            ("file", Some(fs::File::from(self.slot.worker.body(request.exchange)?)))
        } else {
            ("inline", None)
        };
        let length = request.body_len.to_string();
        self.head(
            200,
            &[(b"content-length", length.as_bytes()), (b"x-body", how.as_bytes())],
            Body::Inline(b""),
            false,
            false,
        )?;
        match file {
            None => self.send(request.body)?,
            Some(file) => {
                let mut block = vec![0; CHUNK_BYTES];
                let mut at = 0;
                while at < request.body_len {
                    match file.read_at(&mut block, at)? {
                        0 => return Err("the body's file is shorter than announced".into()),
                        read => {
                            self.send(&block[..read])?;
                            at += read as u64;
                        }
                    }
                }
            }
        }
        self.finish()
    }

    fn send_file(&self, bytes: &[u8]) -> Outcome {
        let fd = rustix::fs::memfd_create("response", rustix::fs::MemfdFlags::CLOEXEC)?;
        let file = fs::File::from(fd);
        file.write_all_at(bytes, 0)?;
        self.slot.worker.report(&Report::File(self.id), &[file.as_fd()])?;
        Ok(())
    }

    fn respond_file(&mut self, len: u64) -> Outcome {
        self.respond(200, Some(len), Body::File { offset: 0, len }, true, true)
    }

    /// Sends body bytes: small ones inline, large ones in chunks; waits for credit.
    fn send(&mut self, bytes: &[u8]) -> Outcome {
        for block in bytes.chunks(CHUNK_BYTES) {
            if block.len() <= CHUNK_BYTES / 4 {
                self.send_inline(block)?;
            } else {
                self.wait_for_credit();
                let chunk = (self.slot.worker.fill_chunk(block)?, u32::try_from(block.len())?);
                self.part(CompletionKind::Body, Body::Chunks(&[chunk]), false, false)?;
            }
        }
        Ok(())
    }

    fn send_inline(&mut self, bytes: &[u8]) -> Outcome {
        self.wait_for_credit();
        self.part(CompletionKind::Body, Body::Inline(bytes), false, false)
    }

    fn wait_for_credit(&self) {
        let Slot { worker, number, sent, .. } = &*self.slot;
        let acked = worker.map.u64(Geometry::slot(*number, SLOT_ACKED));
        worker.wait_until(WaitFlag(worker.map.u32(Geometry::slot(*number, SLOT_CREDIT_WAIT))), || {
            sent.saturating_sub(acked.load(Ordering::Acquire)) < RESPONSE_WINDOW
        });
    }

    fn finish(&mut self) -> Outcome {
        self.part(CompletionKind::Body, Body::Inline(b""), true, true)
    }

    fn respond(
        &mut self,
        status: u16,
        length: Option<u64>,
        body: Body<'_>,
        end: bool,
        done: bool,
    ) -> Outcome {
        let length = length.map(|length| length.to_string());
        let fields = length.as_ref().map(|length| (&b"content-length"[..], length.as_bytes()));
        self.head(status, fields.as_slice(), body, end, done)
    }

    fn head(
        &mut self,
        status: u16,
        fields: &[(&[u8], &[u8])],
        body: Body<'_>,
        end: bool,
        done: bool,
    ) -> Outcome {
        let mut frame = std::mem::take(&mut self.slot.frame);
        let n_fields = u16::try_from(fields.len() + 1)?;
        self.completion(CompletionKind::Respond, status, end, done)?.encode(n_fields, &body, &mut frame);
        encode_field(b"content-type", b"text/plain; charset=utf-8", &mut frame)?;
        for (name, value) in fields {
            encode_field(name, value, &mut frame)?;
        }
        body.encode(&mut frame);
        self.slot.count(&body);
        self.publish(frame)
    }

    fn part(&mut self, kind: CompletionKind, body: Body<'_>, end: bool, done: bool) -> Outcome {
        let mut frame = std::mem::take(&mut self.slot.frame);
        self.completion(kind, 0, end, done)?.encode(0, &body, &mut frame);
        body.encode(&mut frame);
        if kind == CompletionKind::Body {
            self.slot.count(&body);
        }
        self.publish(frame)
    }

    fn completion(&self, kind: CompletionKind, status: u16, end: bool, done: bool) -> Outcome<Completion> {
        let service = u64::try_from(self.started.elapsed().as_nanos())?;
        let slot = u16::try_from(self.slot.number)?;
        Ok(Completion { exchange: self.id, kind, end, done, text: false, more: false, status, service, slot })
    }

    fn publish(&mut self, frame: Vec<u8>) -> Outcome {
        self.slot.worker.publish(&frame)?;
        self.slot.frame = frame;
        Ok(())
    }
}

/// `len` bytes of which every one can be checked by its place: the byte at `i` is `i % 251`.
fn pattern(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

fn echo(request: &Request<'_>) -> Result<String, std::fmt::Error> {
    let text = String::from_utf8_lossy;
    let mut lines = format!(
        "{} {} {}\nquery: {}\npeer: {} {}\nrequest id: {}\nlistener: {}\nhttps: {}\nbody: {}\n",
        text(request.method),
        text(request.path),
        request.version,
        text(request.query),
        text(request.peer),
        request.peer_port,
        text(request.request_id),
        request.listener,
        request.https,
        request.body_len,
    );
    for (name, value) in request.fields() {
        writeln!(lines, "{}: {}", text(name.as_bytes()), text(value))?;
    }
    Ok(lines)
}

fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<control::ReceivedMessage> {
    loop {
        match control::receive(socket, buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            received => return received,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ring_and_hang(worker: &Worker, mut completions: MutexGuard<'_, Completions>) -> ! {
    if Epoch(worker.reactor.u32(REACTOR_EPOCH)).must_wake(&mut completions.rung)
        && let Err(error) = rustix::io::write(&worker.eventfd, &1_u64.to_ne_bytes())
    {
        quit(BROKEN, &format!("cannot ring the daemon: {error}"));
    }
    hang()
}

fn hang() -> ! {
    loop {
        thread::park();
    }
}

#[expect(
    clippy::exit,
    clippy::print_stderr,
    reason = "a fake that dies on purpose says why, where tests look"
)]
fn quit(code: i32, why: &str) -> ! {
    eprintln!("fake worker {}: {why}", process::id());
    process::exit(code)
}
