//! State shared by the threads of a worker: the shared map, the rings, and the stop flag.
//!
//! Created by [`crate::lifecycle`] and leaked: threads, pyclass instances and the control thread
//! refer to it for the rest of the process's life, even if the process becomes a zygote.

use std::os::fd::{AsFd as _, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

use pyo3::exceptions::PySystemExit;
use pyo3::prelude::*;
use pyo3::types::PyString;
use rgun_channel::ProtocolError;
use rgun_channel::control::Start;
use rgun_channel::frame::ExchangeId;
use rgun_channel::layout::{
    Geometry, REACTOR_SPIN, SLOT_ACKED, SLOT_CREDIT_WAIT, SLOT_EXCHANGE, SLOT_STARTED, SLOT_THREAD, Word,
};
use rgun_channel::map::Map;
use rgun_channel::ring::SubmissionReceiver;
use rgun_channel::spin::Spin;
use rgun_channel::wake::{Sleepers, SystemFutex, WaitFlag};

use crate::bodies::SpooledBodies;
use crate::gil_cell::GilCell;
use crate::output::Output;
use crate::process::Process;
use crate::python::{exit_now, lock};
use crate::signal_mask::SignalMask;
use crate::stacks::current_thread_id;
use crate::submission::ClaimBuffer;
use crate::wait::{InterruptibleFutex, SignalHandlers};

/// The channel to the daemon, and the state that all threads of this worker share.
#[derive(Debug)]
pub(crate) struct Worker {
    /// The Start message.
    pub(crate) start: Start,
    /// The state of the worker's process.
    pub(crate) process: &'static Process,
    /// The worker socket of `process`.
    pub(crate) control: &'static OwnedFd,
    /// Signal mask of the main thread at the start.
    pub(crate) signals: SignalMask,
    /// Completion ring and slab.
    pub(crate) output: Output,
    /// Descriptors of request bodies and takeovers.
    pub(crate) bodies: SpooledBodies,
    /// The eventfd that wakes the event loop. `None` in a WSGI worker, and after the loop has
    /// ended.
    eventfd: Mutex<Option<OwnedFd>>,
    map: Arc<Map>,
    submission: Mutex<SubmissionReceiver>,
    /// The spins of the only thread; unused by a worker with several.
    spin: Mutex<Spin>,
    slots: Slots,
    /// The worker claims no more requests. Never cleared.
    stopping: AtomicBool,
    /// The worker becomes a zygote when it has stopped. Set before `stopping`, never cleared.
    promoted: AtomicBool,
    /// The control thread, which ends only when the worker is promoted.
    control_thread: Mutex<Option<JoinHandle<()>>>,
    /// The `SystemExit` that a signal handler has raised.
    exit: Mutex<Option<PyErr>>,
}

/// State of a slot.
#[derive(Debug, Default)]
struct Slot {
    /// Response body bytes sent by all exchanges of the slot so far.
    sent: AtomicU64,
    /// The exchange that was cancelled last. It may have ended since.
    cancelled: AtomicU64,
    /// The id of the request that the slot's thread serves or has served last; `None` under ASGI.
    request_id: GilCell<Option<Py<PyString>>>,
}

/// The states of all slots. A map has thousands of slots for an event loop, few of which are used: a
/// group of states takes memory when one of its slots is used first.
#[derive(Debug)]
struct Slots(Box<[OnceLock<Box<[Slot]>>]>);

/// Number of slots in a group.
const SLOTS_PER_GROUP: usize = 256;

impl Slots {
    fn new(n_slots: u32) -> Self {
        Self((0..(n_slots as usize).div_ceil(SLOTS_PER_GROUP)).map(|_| OnceLock::new()).collect())
    }

    fn get(&self, slot: u32) -> &Slot {
        let (group, member) = (slot as usize / SLOTS_PER_GROUP, slot as usize % SLOTS_PER_GROUP);
        let create = || (0..SLOTS_PER_GROUP).map(|_| Slot::default()).collect();
        &self.0[group].get_or_init(create)[member]
    }
}

impl Worker {
    /// Creates a worker over a map that no worker has used.
    pub(crate) fn new(start: Start, process: &'static Process, map: Map, eventfd: OwnedFd) -> Self {
        let geometry = start.geometry;
        let map = Arc::new(map);
        Self {
            output: Output::new(Arc::clone(&map), &geometry, process),
            submission: Mutex::new(SubmissionReceiver::new(Arc::clone(&map), &geometry)),
            spin: Mutex::default(),
            slots: Slots::new(geometry.slots),
            start,
            process,
            control: &process.control,
            signals: SignalMask::current(),
            bodies: SpooledBodies::new(process.control.as_fd()),
            eventfd: Mutex::new(Some(eventfd)),
            map,
            stopping: AtomicBool::new(false),
            promoted: AtomicBool::new(false),
            control_thread: Mutex::new(None),
            exit: Mutex::new(None),
        }
    }

    /// Returns the number of slots of a WSGI worker.
    pub(crate) fn n_slots(&self) -> u32 {
        self.start.threads.min(self.start.geometry.slots)
    }

    /// Claims a frame if there is one. No thread that holds the lock waits for the GIL.
    pub(crate) fn claim(&self, py: Python<'_>, claimed: &mut ClaimBuffer) -> Result<bool, ProtocolError> {
        lock(&self.submission).claim_with(|frame| claimed.read(py, frame))
    }

    /// Returns whether the submission ring has a record.
    pub(crate) fn has_more(&self) -> bool {
        !lock(&self.submission).is_empty()
    }

    /// Returns whether no thread runs an exchange and none waits in the submission ring. An exchange is
    /// not noticed between its claim and [`Worker::mark_running`].
    pub(crate) fn are_threads_idle(&self) -> bool {
        let is_free = |slot| self.map.u64(Geometry::slot(slot, SLOT_EXCHANGE)).load(Ordering::Acquire) == 0;
        !self.has_more() && (0..self.n_slots()).all(is_free)
    }

    /// Sleeps until a request is claimed (true) or the worker stops (false). Called without the
    /// GIL.
    pub(crate) fn wait_and_claim(&self, slot: u32, claimed: &mut ClaimBuffer) -> Result<bool, ProtocolError> {
        let sleepers = self.sleepers();
        loop {
            if self.is_stopping() {
                return Ok(false);
            }
            if lock(&self.submission).claim_with(|frame| claimed.read_whole(frame))? {
                return Ok(true);
            }
            self.output.wake_daemon();
            if self.spin_for_request() {
                continue;
            }
            sleepers.announce_sleep();
            // This check between announcing and sleeping prevents a lost wake-up
            // (rgun_channel::wake); `stop` stores its flag before it wakes, so a stop is not missed
            // either.
            if self.has_more() || self.is_stopping() {
                sleepers.cancel_sleep(&SystemFutex);
            } else if slot == MAIN_THREAD_SLOT {
                sleepers.sleep(&InterruptibleFutex(self), || {});
            } else {
                sleepers.sleep(&SystemFutex, || {});
            }
        }
    }

    /// Spins for the next request if the daemon allows that. Returns whether there is a request. A
    /// worker with several threads does not spin: the daemon would wake a sleeping thread nevertheless.
    fn spin_for_request(&self) -> bool {
        let may_spin = self.process.reactor_page.u32(REACTOR_SPIN).load(Ordering::Relaxed) != 0;
        may_spin && self.n_slots() == 1 && lock(&self.spin).run(|| self.has_more())
    }

    /// Stops the worker: threads claim no more requests, finish the running ones and return.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.sleepers().wake(&SystemFutex, self.n_slots());
        self.wake_loop();
    }

    /// Wakes the event loop.
    pub(crate) fn wake_loop(&self) {
        if let Some(eventfd) = &*lock(&self.eventfd) {
            // EAGAIN: the eventfd is readable already.
            let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
        }
    }

    /// Resets the eventfd after the event loop was woken.
    pub(crate) fn drain_eventfd(&self) {
        if let Some(eventfd) = &*lock(&self.eventfd) {
            // EAGAIN: the eventfd is reset already.
            let _ = rustix::io::read(eventfd, &mut [0_u8; 8]);
        }
    }

    /// Returns the eventfd that the event loop polls.
    pub(crate) fn eventfd(&self) -> Option<RawFd> {
        lock(&self.eventfd).as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Closes the eventfd: there is no event loop, or it has ended.
    pub(crate) fn close_eventfd(&self) {
        drop(lock(&self.eventfd).take());
    }

    /// Returns the words on which threads announce sleep.
    pub(crate) fn sleepers(&self) -> Sleepers<'_> {
        Sleepers {
            asleep: self.map.u32(Geometry::word(Word::Asleep)),
            tokens: self.map.u32(Geometry::word(Word::Tokens)),
        }
    }

    /// Returns whether the worker claims no more requests.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Stops the worker and makes it a zygote. Returns false if the worker is stopping already.
    pub(crate) fn promote(&self) -> bool {
        if self.is_stopping() {
            return false;
        }
        self.promoted.store(true, Ordering::SeqCst);
        self.stop();
        true
    }

    /// Returns whether the worker becomes a zygote.
    pub(crate) fn is_promoted(&self) -> bool {
        self.promoted.load(Ordering::SeqCst)
    }

    /// Stores the control thread for [`Worker::release_channel`].
    pub(crate) fn set_control_thread(&self, thread: JoinHandle<()>) {
        *lock(&self.control_thread) = Some(thread);
    }

    /// Joins a promoted worker's control thread and releases its shared memory. Called without the
    /// GIL, after all slots and the background thread have ended.
    pub(crate) fn release_channel(&self) {
        self.close_eventfd();
        let thread = lock(&self.control_thread).take();
        if let Some(thread) = thread {
            // An error is a panic of the thread, which has been printed.
            let _ = thread.join();
        }
        self.bodies.clear();
        if let Err(error) = self.map.release() {
            let text = format!("rgun: cannot release a worker's shared memory: {error}, ignoring\n");
            // A closed stderr is ignored.
            let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
        }
    }

    /// Publishes the calling thread as the thread of a slot.
    pub(crate) fn mark_thread(&self, slot: u32) {
        self.map.u64(Geometry::slot(slot, SLOT_THREAD)).store(current_thread_id(), Ordering::Release);
    }

    /// Returns the thread in which an exchange runs.
    pub(crate) fn thread_of(&self, exchange: ExchangeId) -> Option<u64> {
        let word = |slot, field| self.map.u64(Geometry::slot(slot, field)).load(Ordering::Acquire);
        (0..self.n_slots())
            .find(|slot| word(*slot, SLOT_EXCHANGE) == exchange.0)
            .map(|slot| word(slot, SLOT_THREAD))
    }

    /// Publishes the exchange that runs in a slot, and its start (`CLOCK_MONOTONIC`, nanoseconds).
    pub(crate) fn mark_running(&self, slot: u32, exchange: ExchangeId, since: u64) {
        self.map.u64(Geometry::slot(slot, SLOT_STARTED)).store(since, Ordering::Relaxed);
        self.map.u64(Geometry::slot(slot, SLOT_EXCHANGE)).store(exchange.0, Ordering::Release);
    }

    /// Stores the id of the request that a slot's thread serves.
    pub(crate) fn set_request_id(&self, py: Python<'_>, slot: u32, id: Option<Py<PyString>>) {
        self.slots.get(slot).request_id.replace(py, id);
    }

    /// Returns the id of the request that the calling thread serves.
    pub(crate) fn request_of_thread<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyString>> {
        let word = |slot, field| self.map.u64(Geometry::slot(slot, field)).load(Ordering::Acquire);
        let thread = current_thread_id();
        let slot = (0..self.n_slots()).find(|slot| word(*slot, SLOT_THREAD) == thread)?;
        if word(slot, SLOT_EXCHANGE) == 0 {
            return None;
        }
        self.slots.get(slot).request_id.borrow(py).as_ref().map(|id| id.bind(py).clone())
    }

    /// Publishes that a slot is idle.
    pub(crate) fn mark_idle(&self, slot: u32) {
        self.map.u64(Geometry::slot(slot, SLOT_EXCHANGE)).store(0, Ordering::Release);
    }

    /// Counts response body bytes before they are sent.
    pub(crate) fn count_sent(&self, slot: u32, bytes: u64) {
        self.slots.get(slot).sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the number of response body bytes of a slot that are buffered in the daemon.
    pub(crate) fn unacked(&self, slot: u32) -> u64 {
        let acked = self.map.u64(Geometry::slot(slot, SLOT_ACKED)).load(Ordering::Acquire);
        self.slots.get(slot).sent.load(Ordering::Relaxed).saturating_sub(acked)
    }

    /// Returns the flag on which a thread waits until [`Worker::unacked`] decreases.
    pub(crate) fn credit_flag(&self, slot: u32) -> WaitFlag<'_> {
        WaitFlag(self.map.u32(Geometry::slot(slot, SLOT_CREDIT_WAIT)))
    }

    /// Cancels an exchange if a thread runs it: its iterable is not read any further. Reads only the
    /// slots of threads: the map has thousands more for an event loop, whose pages must stay unused.
    pub(crate) fn cancel(&self, exchange: ExchangeId) {
        for slot in 0..self.n_slots() {
            if self.map.u64(Geometry::slot(slot, SLOT_EXCHANGE)).load(Ordering::Acquire) == exchange.0 {
                self.slots.get(slot).cancelled.store(exchange.0, Ordering::Release);
            }
        }
    }

    /// Returns whether the exchange is cancelled.
    pub(crate) fn is_cancelled(&self, slot: u32, exchange: ExchangeId) -> bool {
        self.slots.get(slot).cancelled.load(Ordering::Acquire) == exchange.0
    }

    /// Handles an exception of a signal handler that ran inside the worker's code: a `SystemExit`
    /// stops the worker.
    pub(crate) fn on_signal_exception(&self, py: Python<'_>, error: PyErr) {
        if error.is_instance_of::<PySystemExit>(py) {
            *lock(&self.exit) = Some(error);
            self.stop();
        } else {
            error.write_unraisable(py, None);
        }
    }

    /// Takes the `SystemExit` of a signal handler that has stopped the worker.
    pub(crate) fn take_exit_exception(&self) -> Option<PyErr> {
        lock(&self.exit).take()
    }

    /// Exits after a protocol violation by the daemon, with a line on stderr.
    pub(crate) fn abort_on_protocol_error(&self, error: &ProtocolError) -> ! {
        let text = format!(
            "rgun: worker {} exits: the daemon violated the channel's protocol: {error}\n",
            self.start.worker
        );
        // A closed stderr is ignored.
        let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
        exit_now(crate::python::EX_SOFTWARE)
    }
}

impl SignalHandlers for Worker {
    /// Runs the application's signal handlers. CPython runs them on the main thread only; on others
    /// this does nothing.
    fn run_signal_handlers(&self) {
        Python::attach(|py| {
            if let Err(error) = py.check_signals() {
                self.on_signal_exception(py, error);
            }
        });
    }
}

/// The slot that runs on Python's main thread.
pub(crate) const MAIN_THREAD_SLOT: u32 = 0;
