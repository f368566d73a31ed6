//! What the threads of a worker share: the map, its words, the ends of the rings, and whether to stop.
//!
//! Made by [`crate::lifecycle`] and leaked: threads, pyclass instances and the control thread refer to it for the rest of the
//! process's life, even if that becomes a zygote's.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use pyo3::exceptions::PySystemExit;
use pyo3::prelude::*;
use rgun_channel::ProtocolError;
use rgun_channel::control::Start;
use rgun_channel::frame::ExchangeId;
use rgun_channel::layout::{
    Geometry, SLOT_ACKED, SLOT_CREDIT_WAIT, SLOT_EXCHANGE, SLOT_STARTED, SLOT_THREAD, Word,
};
use rgun_channel::map::Map;
use rgun_channel::ring::SubmissionReceiver;
use rgun_channel::wake::{Sleepers, SystemFutex, WaitFlag};

use crate::bodies::SpooledBodies;
use crate::output::Output;
use crate::process::Process;
use crate::python::{exit_now, lock};
use crate::signal_mask::SignalMask;
use crate::stacks::current_thread_id;
use crate::wait::{InterruptibleFutex, SignalHandlers};

/// The worker.
#[derive(Debug)]
pub(crate) struct Worker {
    /// What the daemon said at the start.
    pub(crate) start: Start,
    /// Descriptors, and the daemon.
    pub(crate) process: &'static Process,
    /// The control socket, of those.
    pub(crate) control: &'static OwnedFd,
    /// The main thread's.
    pub(crate) signals: SignalMask,
    /// Everything that goes back.
    pub(crate) output: Output,
    /// Descriptors of request bodies that came ahead of their frames.
    pub(crate) bodies: SpooledBodies,
    /// Where the daemon rings for an event loop; until it is known that there is none, or none any more.
    eventfd: Mutex<Option<OwnedFd>>,
    map: Arc<Map>,
    submission: Mutex<SubmissionReceiver>,
    slots: Vec<Slot>,
    /// Set once: claim nothing more.
    stopping: AtomicBool,
    /// Set once, before `stopping`: to become a zygote.
    promoted: AtomicBool,
    /// Ends by itself only when the worker is promoted.
    control_thread: Mutex<Option<JoinHandle<()>>>,
    /// What a signal handler raised that wants the process to end.
    exit: Mutex<Option<PyErr>>,
}

/// What a slot remembers between exchanges.
#[derive(Debug, Default)]
struct Slot {
    /// Response body bytes that count against the window, of all exchanges of the slot so far.
    sent: AtomicU64,
    /// The exchange whose client has gone, if it is the one that runs.
    cancelled: AtomicU64,
}

impl Worker {
    /// Over a fresh map.
    pub(crate) fn new(start: Start, process: &'static Process, map: Map, bell: OwnedFd) -> Self {
        let geometry = start.geometry;
        let map = Arc::new(map);
        Self {
            output: Output::new(Arc::clone(&map), &geometry, process),
            submission: Mutex::new(SubmissionReceiver::new(Arc::clone(&map), &geometry)),
            slots: (0..geometry.slots).map(|_| Slot::default()).collect(),
            start,
            process,
            control: &process.control,
            signals: SignalMask::current(),
            bodies: SpooledBodies::default(),
            eventfd: Mutex::new(Some(bell)),
            map,
            stopping: AtomicBool::new(false),
            promoted: AtomicBool::new(false),
            control_thread: Mutex::new(None),
            exit: Mutex::new(None),
        }
    }

    /// Number of slots of a WSGI worker.
    pub(crate) fn n_slots(&self) -> u32 {
        self.start.threads.min(self.start.geometry.slots)
    }

    /// Claims a request if there is one. Cheap, and fit to be called with the GIL held.
    pub(crate) fn claim(&self, frame: &mut Vec<u8>) -> Result<bool, ProtocolError> {
        lock(&self.submission).claim(frame)
    }

    /// Does the ring hold a record? Decides whether a doorbell may wait.
    pub(crate) fn has_more(&self) -> bool {
        !lock(&self.submission).is_empty()
    }

    /// Sleeps until a request is claimed (true), or the worker is to stop (false). Without the GIL.
    pub(crate) fn wait_and_claim(&self, slot: u32, frame: &mut Vec<u8>) -> Result<bool, ProtocolError> {
        let sleepers = self.sleepers();
        loop {
            if self.is_stopping() {
                return Ok(false);
            }
            if self.claim(frame)? {
                return Ok(true);
            }
            self.output.wake_daemon();
            sleepers.announce_sleep();
            // The look between announcing and sleeping that makes a lost wake-up impossible; `stop`
            // stores its flag before it wakes, so it is covered by the same argument.
            if self.has_more() || self.is_stopping() {
                sleepers.cancel_sleep(&SystemFutex);
            } else if slot == MAIN_THREAD_SLOT {
                sleepers.sleep(&InterruptibleFutex(self), || {});
            } else {
                sleepers.sleep(&SystemFutex, || {});
            }
        }
    }

    /// Claim nothing more: threads finish what they run and return.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.sleepers().wake(&SystemFutex, self.n_slots());
        self.wake_loop();
    }

    /// Has an event loop look at everything.
    pub(crate) fn wake_loop(&self) {
        if let Some(bell) = &*lock(&self.eventfd) {
            // EAGAIN: it has been rung already.
            let _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
        }
    }

    /// The event loop has been rung.
    pub(crate) fn drain_eventfd(&self) {
        if let Some(bell) = &*lock(&self.eventfd) {
            // EAGAIN: it has been heard already.
            let _ = rustix::io::read(bell, &mut [0_u8; 8]);
        }
    }

    /// What an event loop watches.
    pub(crate) fn eventfd(&self) -> Option<RawFd> {
        lock(&self.eventfd).as_ref().map(AsRawFd::as_raw_fd)
    }

    /// There is no event loop, or none any more.
    pub(crate) fn close_eventfd(&self) {
        drop(lock(&self.eventfd).take());
    }

    /// Whether anybody sleeps.
    pub(crate) fn sleepers(&self) -> Sleepers<'_> {
        Sleepers {
            asleep: self.map.u32(Geometry::word(Word::Asleep)),
            tokens: self.map.u32(Geometry::word(Word::Tokens)),
        }
    }

    /// Is the worker to stop?
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Claim nothing more, then become a zygote; false if the worker is to stop, which comes first.
    pub(crate) fn promote(&self) -> bool {
        if self.is_stopping() {
            return false;
        }
        self.promoted.store(true, Ordering::SeqCst);
        self.stop();
        true
    }

    /// Is the worker to become a zygote?
    pub(crate) fn is_promoted(&self) -> bool {
        self.promoted.load(Ordering::SeqCst)
    }

    /// Remembers the control thread for [`Worker::retire`].
    pub(crate) fn set_control_thread(&self, thread: JoinHandle<()>) {
        *lock(&self.control_thread) = Some(thread);
    }

    /// Ends a promoted worker's control thread and lets go of its shared memory. All slots and the helper have ended;
    /// without the GIL.
    pub(crate) fn release_channel(&self) {
        self.close_eventfd();
        let thread = lock(&self.control_thread).take();
        if let Some(thread) = thread {
            // An error is a panic of the thread, which has been printed.
            let _ = thread.join();
        }
        self.bodies.clear();
        if let Err(error) = self.map.release() {
            let text = format!("rgun: cannot let go of a worker's shared memory: {error}, ignoring\n");
            // Nothing can be done about a stderr that is closed.
            let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
        }
    }

    /// Tells the daemon which thread is a slot's.
    pub(crate) fn mark_thread(&self, slot: u32) {
        self.map.u64(Geometry::slot(slot, SLOT_THREAD)).store(current_thread_id(), Ordering::Release);
    }

    /// The thread in which an exchange runs.
    pub(crate) fn thread_of(&self, exchange: ExchangeId) -> Option<u64> {
        let word = |slot, field| self.map.u64(Geometry::slot(slot, field)).load(Ordering::Acquire);
        (0..self.n_slots())
            .find(|slot| word(*slot, SLOT_EXCHANGE) == exchange.0)
            .map(|slot| word(slot, SLOT_THREAD))
    }

    /// Tells the daemon what runs in a slot, since when (`CLOCK_MONOTONIC`, nanoseconds).
    pub(crate) fn mark_running(&self, slot: u32, exchange: ExchangeId, since: u64) {
        self.map.u64(Geometry::slot(slot, SLOT_STARTED)).store(since, Ordering::Relaxed);
        self.map.u64(Geometry::slot(slot, SLOT_EXCHANGE)).store(exchange.0, Ordering::Release);
    }

    /// Tells the daemon that nothing runs in a slot.
    pub(crate) fn mark_idle(&self, slot: u32) {
        self.map.u64(Geometry::slot(slot, SLOT_EXCHANGE)).store(0, Ordering::Release);
    }

    /// Counts body bytes that are about to be sent.
    pub(crate) fn count_sent(&self, slot: u32, bytes: u64) {
        self.slot(slot).sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Response body bytes of a slot that wait in the daemon.
    pub(crate) fn unacked(&self, slot: u32) -> u64 {
        let acked = self.map.u64(Geometry::slot(slot, SLOT_ACKED)).load(Ordering::Acquire);
        self.slot(slot).sent.load(Ordering::Relaxed).saturating_sub(acked)
    }

    /// What a slot's thread waits on for [`Worker::unacked`] to fall.
    pub(crate) fn credit_flag(&self, slot: u32) -> WaitFlag<'_> {
        WaitFlag(self.map.u32(Geometry::slot(slot, SLOT_CREDIT_WAIT)))
    }

    /// The client of an exchange has gone: if it runs, its iterable is not read any further.
    pub(crate) fn cancel(&self, exchange: ExchangeId) {
        for (number, slot) in (0..).zip(&self.slots) {
            if self.map.u64(Geometry::slot(number, SLOT_EXCHANGE)).load(Ordering::Acquire) == exchange.0 {
                slot.cancelled.store(exchange.0, Ordering::Release);
            }
        }
    }

    /// Has the client of this exchange gone?
    pub(crate) fn is_cancelled(&self, slot: u32, exchange: ExchangeId) -> bool {
        self.slot(slot).cancelled.load(Ordering::Acquire) == exchange.0
    }

    fn slot(&self, slot: u32) -> &Slot {
        &self.slots[slot as usize]
    }

    /// A signal handler has raised something (on the main thread, in code of ours): a `SystemExit` ends the worker.
    pub(crate) fn on_signal_exception(&self, py: Python<'_>, error: PyErr) {
        if error.is_instance_of::<PySystemExit>(py) {
            *lock(&self.exit) = Some(error);
            self.stop();
        } else {
            error.write_unraisable(py, None);
        }
    }

    /// The `SystemExit` of a signal handler, if that is why the worker stops.
    pub(crate) fn take_exit_exception(&self) -> Option<PyErr> {
        lock(&self.exit).take()
    }

    /// The daemon broke the contract: there is nobody to tell but stderr.
    pub(crate) fn abort_on_protocol_error(&self, error: &ProtocolError) -> ! {
        let text = format!("rgun: worker {} gives up, the channel is broken: {error}\n", self.start.worker);
        // Nothing can be done about a stderr that is closed.
        let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
        exit_now(crate::python::EX_SOFTWARE)
    }
}

impl SignalHandlers for Worker {
    /// A signal interrupted a wait: lets the application's handlers run (CPython runs them on the main
    /// thread only; elsewhere this does nothing).
    fn run_signal_handlers(&self) {
        Python::attach(|py| {
            if let Err(error) = py.check_signals() {
                self.on_signal_exception(py, error);
            }
        });
    }
}

/// The slot whose thread is Python's main thread.
pub(crate) const MAIN_THREAD_SLOT: u32 = 0;
