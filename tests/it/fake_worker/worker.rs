//! The worker's side of the channel: its shared memory, its slots, and the loop that reads
//! commands.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;
use std::{io, thread};

use rgun_channel::control::{self, Command, Fork, MAX_MESSAGE_BYTES, Report, STACKS_SIGNAL, Start};
use rgun_channel::frame::{Body, ExchangeId, Request};
use rgun_channel::layout::{Geometry, REACTOR_EPOCH, REACTOR_PAGE_BYTES, SLOT_EXCHANGE, SLOT_STARTED, Word};
use rgun_channel::map::Map;
use rgun_channel::ring::{CompletionSender, SubmissionReceiver};
use rgun_channel::slab::SlabSender;
use rgun_channel::wake::{Epoch, Sleepers, SystemFutex, WaitFlag};

use crate::requests::Exchange;
use crate::{EXIT_SOFTWARE, Outcome, WAIT_TIMEOUT, asgi, lock, quit};

/// Starts one thread per slot, or the event loop, and reads commands. Returns once Stop has been
/// received and all threads have ended; never with `ignores_stop`.
pub(crate) fn serve(worker: &Arc<Worker>, ignores_stop: bool) -> Outcome {
    let threads = if worker.events.is_some() { 0 } else { worker.start.threads };
    let mut slots: Vec<_> = (0..threads)
        .map(|number| {
            let worker = Arc::clone(worker);
            thread::Builder::new().name(format!("slot {number}")).spawn(move || {
                if let Err(error) = Slot::new(&worker, number).and_then(|mut slot| slot.run()) {
                    quit(EXIT_SOFTWARE, &error.to_string());
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
                quit(EXIT_SOFTWARE, &error.to_string());
            }
        })?);
    }
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    loop {
        let received = receive(worker.socket.as_fd(), &mut buffer)?;
        if received.len == 0 {
            quit(0, "the daemon has closed the worker socket");
        }
        match Command::decode(&buffer[..received.len])? {
            Command::Start(_) => return Err("a second Start".into()),
            Command::Body(exchange) => {
                let fd = received.fds.into_iter().next().ok_or("Body came without a descriptor")?;
                lock(&worker.bodies).insert(exchange, fd);
                worker.body_received.notify_all();
            }
            Command::Cancel(exchange) => {
                lock(&worker.bodies).remove(&exchange);
            }
            Command::Stop if ignores_stop => {}
            Command::Stop => break,
            Command::DumpStacks(exchange) => worker.dump_stacks(exchange)?,
            // The fake worker has no hooks, and imports nothing after its boot.
            Command::ChildExited { .. } | Command::ReportSources => {}
            Command::TrimMemory => worker.report(&Report::Warning("trims its memory".to_owned()), &[])?,
            Command::Fork(Fork { incarnation, .. }) => {
                let reason = "the fake worker cannot fork".to_owned();
                worker.report(&Report::ForkFailed { incarnation, reason }, &[])?;
            }
            Command::Abort => quit(64, "the fake worker has no hooks"),
            Command::Promote => quit(64, "the fake worker cannot be a zygote"),
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

/// The stack that DumpStacks writes.
pub(crate) const STACK: &[u8] =
    b"Thread 0x0000000000000001 (most recent call first):\n  File \"fake.py\", line 1 in fake stack\n";

/// Ignores the signal at which a real worker writes its stacks. By default it kills the process.
pub(crate) fn ignore_stacks_signal() {
    const SIG_IGN: usize = 1;
    #[expect(unsafe_code, reason = "std has no signal(2)")]
    // SAFETY: the declaration of signal(2), with the handler as an integer.
    unsafe extern "C" {
        fn signal(number: i32, handler: usize) -> usize;
    }
    #[expect(unsafe_code, reason = "std has no signal(2)")]
    // SAFETY: SIG_IGN installs no handler function.
    unsafe {
        signal(STACKS_SIGNAL, SIG_IGN);
    }
}

/// The state that all slots share.
pub(crate) struct Worker {
    pub(crate) socket: OwnedFd,
    /// The pipe that DumpStacks writes to.
    pub(crate) stacks: OwnedFd,
    /// True if DumpStacks is ignored.
    pub(crate) mute: bool,
    /// The event loop of an ASGI worker. None for WSGI.
    pub(crate) events: Option<asgi::Loop>,
    pub(crate) start: Start,
    pub(crate) map: Arc<Map>,
    pub(crate) reactor: Map,
    /// The eventfd that wakes the daemon's reactor.
    pub(crate) eventfd: OwnedFd,
    pub(crate) submission: Mutex<SubmissionReceiver>,
    pub(crate) completion: Mutex<Completions>,
    pub(crate) slab: Mutex<SlabSender>,
    /// Received descriptors of request bodies that no exchange has used yet.
    pub(crate) bodies: Mutex<HashMap<ExchangeId, OwnedFd>>,
    pub(crate) body_received: Condvar,
    /// Exchanges that run now, in any slot.
    pub(crate) running: Mutex<BTreeSet<ExchangeId>>,
    pub(crate) running_changed: Condvar,
    pub(crate) stop: AtomicBool,
}

pub(crate) struct Completions {
    pub(crate) sender: CompletionSender,
    /// The last epoch of the reactor for which the eventfd was written.
    pub(crate) last_epoch: u32,
}

impl Worker {
    pub(crate) fn new(
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
            completion: Mutex::new(Completions { sender, last_epoch: 0 }),
            slab: Mutex::new(SlabSender::new(Arc::clone(&map), &geometry)),
            bodies: Mutex::default(),
            body_received: Condvar::new(),
            running: Mutex::default(),
            running_changed: Condvar::new(),
            stop: AtomicBool::new(false),
            start,
            map,
        })
    }

    pub(crate) fn report(&self, report: &Report, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        control::send(&self.socket, &report.encode(), fds)
    }

    pub(crate) fn wait_for_stop(&self) -> Outcome {
        let mut buffer = vec![0; MAX_MESSAGE_BYTES];
        loop {
            let received = receive(self.socket.as_fd(), &mut buffer)?;
            if received.len == 0 {
                return Ok(());
            }
            match Command::decode(&buffer[..received.len])? {
                Command::Stop => return Ok(()),
                Command::DumpStacks(exchange) => self.dump_stacks(exchange)?,
                _ => {}
            }
        }
    }

    pub(crate) fn dump_stacks(&self, exchange: Option<ExchangeId>) -> io::Result<()> {
        if self.mute {
            return Ok(());
        }
        let runs = exchange.is_none_or(|exchange| lock(&self.running).contains(&exchange));
        if runs {
            rustix::io::write(&self.stacks, STACK)?;
        }
        self.report(&Report::StacksDumped(runs), &[])
    }

    pub(crate) fn sleepers(&self) -> Sleepers<'_> {
        Sleepers {
            asleep: self.map.u32(Geometry::word(Word::Asleep)),
            tokens: self.map.u32(Geometry::word(Word::Tokens)),
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Claims the next request, and sleeps while there is none. Returns false after Stop.
    pub(crate) fn claim(&self, frame: &mut Vec<u8>) -> Outcome<bool> {
        loop {
            if self.is_stopped() {
                return Ok(false);
            }
            let mut submission = lock(&self.submission);
            if submission.claim(frame)? {
                // `submission` is still locked, so that `running` has all claimed requests for the
                // next holder of the lock.
                lock(&self.running).insert(Request::decode(frame)?.exchange);
                self.running_changed.notify_all();
                return Ok(true);
            }
            drop(submission);
            self.sleep_until_submission(|| lock(&self.submission).is_empty());
        }
    }

    pub(crate) fn sleep_until_submission(&self, is_empty: impl FnOnce() -> bool) {
        self.sleepers().announce_sleep();
        if is_empty() && !self.is_stopped() {
            self.sleepers().sleep(&SystemFutex, || {});
        } else {
            self.sleepers().cancel_sleep(&SystemFutex);
        }
    }

    /// Publishes a completion frame, waits for room if necessary, and wakes the daemon if it
    /// sleeps.
    pub(crate) fn publish(&self, frame: &[u8]) -> Outcome {
        let mut broken = None;
        self.wait_until(self.space_flag(), || {
            lock(&self.completion).sender.push(frame).unwrap_or_else(|error| {
                broken = Some(error);
                true
            })
        });
        match broken {
            Some(error) => Err(error.into()),
            None => self.wake_daemon(),
        }
    }

    pub(crate) fn wake_daemon(&self) -> Outcome {
        let last_epoch = &mut lock(&self.completion).last_epoch;
        if Epoch(self.reactor.u32(REACTOR_EPOCH)).must_wake(last_epoch) {
            rustix::io::write(&self.eventfd, &1_u64.to_ne_bytes())?;
        }
        Ok(())
    }

    /// Waits for a free slab chunk, and copies bytes into it. Returns the number of the chunk.
    pub(crate) fn fill_chunk(&self, bytes: &[u8]) -> Outcome<u32> {
        let mut filled = Ok(None);
        self.wait_until(self.space_flag(), || {
            filled = lock(&self.slab).fill(bytes);
            !matches!(filled, Ok(None))
        });
        filled?.ok_or_else(|| "no chunk after waiting for one".into())
    }

    pub(crate) fn wait_until(&self, flag: WaitFlag<'_>, available: impl FnMut() -> bool) {
        match &self.events {
            Some(events) => events.wait_until(flag, available),
            None => flag.wait_until(&SystemFutex, available),
        }
    }

    pub(crate) fn space_flag(&self) -> WaitFlag<'_> {
        WaitFlag(self.map.u32(Geometry::word(Word::SpaceWait)))
    }

    /// Returns the descriptor of a request's body. It was sent before the frame, but the thread
    /// that reads the worker socket may not have received it yet.
    pub(crate) fn body(&self, exchange: ExchangeId) -> Outcome<OwnedFd> {
        let bodies = lock(&self.bodies);
        let (mut bodies, _) = self
            .body_received
            .wait_timeout_while(bodies, WAIT_TIMEOUT, |bodies| !bodies.contains_key(&exchange))
            .unwrap_or_else(PoisonError::into_inner);
        bodies.remove(&exchange).ok_or_else(|| "the body's descriptor did not arrive".into())
    }

    /// Waits until the daemon has popped all completions.
    pub(crate) fn wait_until_taken(&self) -> Outcome {
        let deadline = Instant::now() + WAIT_TIMEOUT;
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

/// One slot: a thread of a WSGI worker, or the place of a task of an ASGI worker.
pub(crate) struct Slot<'w> {
    pub(crate) worker: &'w Worker,
    pub(crate) number: u32,
    /// Body bytes sent by all exchanges of this slot, as [`SLOT_ACKED`] counts them.
    pub(crate) sent: u64,
    pub(crate) frame: Vec<u8>,
}

impl<'w> Slot<'w> {
    pub(crate) fn new(worker: &'w Worker, number: u32) -> Outcome<Self> {
        u16::try_from(number)?;
        Ok(Self { worker, number, sent: 0, frame: Vec::new() })
    }

    pub(crate) fn run(&mut self) -> Outcome {
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
    pub(crate) fn count(&mut self, body: &Body<'_>) {
        self.sent += match body {
            Body::Inline(bytes) => bytes.len() as u64,
            Body::Chunks(chunks) => chunks.iter().map(|(_, len)| u64::from(*len)).sum(),
            Body::File { .. } => 0,
        };
    }
}

pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<control::ReceivedMessage> {
    loop {
        match control::receive(socket, buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            received => return received,
        }
    }
}
