//! What the event loop does for us: claims frames, begins exchanges, rings the daemon.
//!
//! A *turn* claims what is in the ring and starts a task for each request; the tasks run at once where Python has eager
//! tasks (3.12), else after the turn, and then another turn follows. Completions go into the ring as they come, and the
//! daemon is rung once, at the end of a turn. Whoever sends outside of one has a turn scheduled. When a turn finds
//! nothing, it announces that the loop will sleep and looks once more.

use std::sync::atomic::Ordering;

use pyo3::exceptions::{PyRuntimeError, PySystemExit};
use pyo3::intern;
use pyo3::prelude::*;
use rgun_channel::ProtocolError;
use rgun_channel::control::Report;
use rgun_channel::frame::{Request, StreamFrame, Submission};

use super::exchange::exit_if_forked_child;
use super::state::{Application, Exchange, Exchanges, Functions, Stage};
use crate::wait::monotonic_ns;

/// Only when no more than so many are left, a worker that is to stop looks in each turn whether one of them has ended
/// without saying so: thousands of WebSockets that are closed one after the other would have it look at all of them
/// each time.
const MAX_REAP_CANDIDATES: usize = 64;

/// Most frames of one turn: the loop has others to serve, too.
const MAX_FRAMES_PER_TICK: usize = 64;

/// Most exchanges that a turn looks at because they may go on.
const MAX_RESUMED_PER_TICK: usize = 64;

/// What the loop calls.
#[pyclass(frozen, module = "rgun")]
#[derive(Debug)]
pub(super) struct LoopTick {
    application: &'static Application,
    cause: TickReason,
}

/// Why there is a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TickReason {
    /// The last one, or whoever has sent something, has scheduled it.
    Scheduled,
    /// The daemon has rung.
    Eventfd,
    /// The loop has gone round since a head came ([`super::deferred_heads`]).
    HeadsDue,
}

#[pymethods]
impl LoopTick {
    fn __call__(&self, py: Python<'_>) {
        // A child that goes on waiting on its parent's loop hears the bell, too.
        exit_if_forked_child(py, None);
        let worker = self.application.worker;
        if self.cause == TickReason::Eventfd {
            worker.drain_eventfd();
            self.application.on_wakeup(py);
        }
        // Those of signals that have come already: here they interrupt nobody. uvloop calls us before it looks itself.
        if let Err(error) = py.check_signals() {
            worker.on_signal_exception(py, error);
        }
        self.application
            .tick(py, self.cause)
            .unwrap_or_else(|broken| worker.abort_on_protocol_error(&broken));
    }

    #[new]
    fn new() -> PyResult<Self> {
        Err(PyRuntimeError::new_err("rgun makes these itself"))
    }
}

impl Application {
    /// Has the loop watch the daemon's bell, and take a first turn when it runs.
    pub(super) fn start_ticking(&'static self, py: Python<'_>) -> PyResult<()> {
        let turn = |cause| LoopTick { application: self, cause };
        // Set once: an application is watched once.
        let _ = self.event_loop.tick.set(Py::new(py, turn(TickReason::Scheduled))?.into_any());
        let _ = self.event_loop.heads_tick.set(Py::new(py, turn(TickReason::HeadsDue))?.into_any());
        let rung = turn(TickReason::Eventfd);
        let arguments = (self.worker.eventfd(), rung);
        self.event_loop.object.call_method1(py, intern!(py, "add_reader"), arguments)?;
        self.schedule_flush(py);
        Ok(())
    }

    /// No more turns.
    pub(super) fn stop_ticking(&self, py: Python<'_>) -> PyResult<()> {
        self.event_loop.is_stopped.store(true, Ordering::Relaxed);
        self.event_loop
            .object
            .call_method1(py, intern!(py, "remove_reader"), (self.worker.eventfd(),))
            .map(drop)
    }

    /// Has heads for which no body has come sent when the loop has gone round.
    fn defer_heads(&self, py: Python<'_>) {
        if self.exchanges(py).heads.begin_wait() {
            self.schedule_heads_tick(py);
        }
    }

    fn schedule_heads_tick(&self, py: Python<'_>) {
        let Some(turn) = self.event_loop.heads_tick.get() else { return };
        if let Err(error) = self.event_loop.call_soon(py, turn) {
            // As in `schedule`.
            self.exchanges(py).heads.cancel_wait();
            self.worker.wake_loop();
            self.worker.on_signal_exception(py, error);
        }
    }

    /// The loop has gone round: sends the heads for which no body has come.
    fn send_due_heads(&self, py: Python<'_>) -> Result<(), ProtocolError> {
        let due = self.exchanges(py).heads.take_due();
        if self.exchanges(py).heads.has_scheduled() {
            self.schedule_heads_tick(py);
        }
        for id in due {
            let Some(exchange) = self.exchange(py, id) else { continue };
            exchange.get().borrow_mut(py).send_head(py)?;
        }
        Ok(())
    }

    fn tick(&'static self, py: Python<'_>, cause: TickReason) -> Result<(), ProtocolError> {
        if self.event_loop.is_stopped.load(Ordering::Relaxed) {
            return Ok(());
        }
        let worker = self.worker;
        let sleepers = worker.sleepers();
        sleepers.announce_loop_awake();
        self.event_loop.tick_pending.store(true, Ordering::Relaxed);
        let has_unseen = self.outbox.flush(&worker.output)? && self.resume_blocked(py)?;
        if cause == TickReason::HeadsDue {
            self.send_due_heads(py)?;
        }
        let mut frame = self.submission_buffer.take(py);
        let mut n_frames = 0;
        while n_frames < MAX_FRAMES_PER_TICK && worker.claim(&mut frame)? {
            self.handle_submission(py, &frame)?;
            n_frames += 1;
        }
        self.submission_buffer.put(py, frame);
        if n_frames > 0 && !self.event_loop.is_eager {
            // Its tasks come first, then it rings for all of them.
            self.schedule_tick(py);
            return Ok(());
        }
        if worker.is_stopping() && self.n_running(py) <= MAX_REAP_CANDIDATES {
            self.reap_done(py)?;
        }
        self.outbox.wake_daemon(&worker.output);
        self.defer_heads(py);
        if worker.is_stopping() && self.n_running(py) == 0 && !self.outbox.is_backed_up() {
            super::awaitable::wake_futures(py, worker, vec![self.event_loop.stopped.clone_ref(py)]);
            return Ok(());
        } else if n_frames < MAX_FRAMES_PER_TICK && !has_unseen {
            sleepers.announce_loop_sleep();
            if !worker.has_more() {
                self.event_loop.tick_pending.store(false, Ordering::Relaxed);
                return Ok(());
            }
            sleepers.announce_loop_awake();
        }
        self.schedule_tick(py);
        Ok(())
    }

    /// One frame.
    fn handle_submission(&'static self, py: Python<'_>, frame: &[u8]) -> Result<(), ProtocolError> {
        match Submission::decode(frame)? {
            Submission::Request(request) => self.start_exchange(py, &request),
            Submission::Stream(StreamFrame::Part { exchange, bytes, end, text, more }) => {
                // What is over has no use for it.
                let Some(exchange) = self.exchange(py, exchange) else { return Ok(()) };
                if exchange.get().borrow(py).websocket.is_some() {
                    return Exchange::on_message_part(&exchange, bytes, text, more);
                }
                Exchange::on_body_part(&exchange, bytes, end);
                Ok(())
            }
            Submission::Stream(StreamFrame::HalfClose { exchange }) => {
                if let Some(exchange) = self.exchange(py, exchange) {
                    Exchange::on_half_close(&exchange);
                }
                Ok(())
            }
            Submission::Stream(StreamFrame::Disconnect { exchange, code, reason, cancel }) => {
                let Some(exchange) = self.exchange(py, exchange) else { return Ok(()) };
                if cancel {
                    let cancelled = Exchange::cancel_task(&exchange);
                    let told = cancelled.and_then(|report| match report {
                        Some(report) => self.worker.process.report(&Report::Warning(report)),
                        None => Ok(()),
                    });
                    if let Err(error) = told {
                        self.worker.on_signal_exception(py, error);
                    }
                    // Its task may have ended without saying so, and nobody else would come to look.
                    Exchange::reap_if_done(&exchange)?;
                } else {
                    exchange.get().borrow_mut(py).record_client_close(code, reason)?;
                    Exchange::on_disconnect(&exchange);
                }
                // The application has returned, and what was still to be sent is not any more.
                if exchange.get().borrow(py).response.finish_deferred {
                    Exchange::resume(&exchange)?;
                }
                Ok(())
            }
        }
    }

    /// Starts a task.
    fn start_exchange(&'static self, py: Python<'_>, request: &Request<'_>) -> Result<(), ProtocolError> {
        let started = monotonic_ns();
        self.outbox.wake_if_overdue(&self.worker.output, started);
        let slot =
            self.exchanges(py).free_slots.pop().ok_or(ProtocolError::Frame("more exchanges than slots"))?;
        self.worker.mark_running(slot, request.exchange, started);
        let exchange = match Exchange::create(py, self, request, slot, started) {
            Ok(exchange) => exchange,
            // No memory for an object: nothing can be answered.
            Err(error) => {
                error.write_unraisable(py, None);
                return Err(ProtocolError::Frame("no memory for an exchange"));
            }
        };
        self.exchanges(py).running.insert(request.exchange.0, exchange.clone().unbind());
        let made = self.create_task(py, request, &exchange);
        // It may have forked, and its child has come back to here when it came to wait.
        exit_if_forked_child(py, None);
        match made {
            Ok(task) => {
                let mut exchange = exchange.get().borrow_mut(py);
                if exchange.stage != Stage::Done {
                    exchange.task = Some(task.unbind());
                }
                Ok(())
            }
            Err(error) => {
                let failed = Exchange::fail(&exchange, &error);
                if error.is_instance_of::<PySystemExit>(py) {
                    self.worker.on_signal_exception(py, error);
                }
                failed
            }
        }
    }

    fn create_task<'py>(
        &self,
        py: Python<'py>,
        request: &Request<'_>,
        exchange: &Bound<'py, Exchange>,
    ) -> PyResult<Bound<'py, PyAny>> {
        // Not borrowed: to make an object may collect garbage, and that may run anything.
        let mut recent = self.scope_cache.take(py);
        let scope = self.scope_builder.build(py, recent.get_or_insert_default(), request);
        self.scope_cache.put(py, recent);
        let scope = scope?;
        let Functions { receive, send } = exchange.get().borrow_mut(py).take_functions(py);
        let call = if request.websocket { &self.call_websocket } else { &self.call };
        let coroutine = call.bind(py).call1((&self.app, scope, receive, send, exchange))?;
        self.event_loop.new_task.bind(py).call((coroutine,), Some(self.event_loop.task_keywords.bind(py)))
    }

    /// Marks all waiting exchanges as unseen: the daemon woke the worker, perhaps because of one of them.
    fn on_wakeup(&self, py: Python<'_>) {
        if self.has_blocked.load(Ordering::Relaxed) {
            let exchanges = &mut *self.exchanges(py);
            exchanges.n_unchecked = exchanges.blocked.len();
        }
    }

    /// Those that waited for credit, room or chunks, as many as one turn has time for: if thousands wait for the ring,
    /// what they send fills it soon, and who was woken in vain would be woken again. True: a turn has to follow.
    fn resume_blocked(&self, py: Python<'_>) -> Result<bool, ProtocolError> {
        if !self.has_blocked.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let waiting: Vec<_> = {
            let exchanges = &mut *self.exchanges(py);
            let Exchanges { blocked: held_up, n_unchecked: unseen, .. } = exchanges;
            if *unseen == 0 {
                *unseen = held_up.len();
            }
            let count = MAX_RESUMED_PER_TICK.min(*unseen).min(held_up.len());
            *unseen -= count;
            held_up.drain(..count).collect()
        };
        for exchange in waiting {
            let exchange = exchange.bind(py);
            exchange.get().borrow_mut(py).is_blocked = false;
            if !Exchange::resume(exchange)? {
                Self::mark_blocked(exchange);
            }
        }
        let exchanges = self.exchanges(py);
        self.has_blocked.store(!exchanges.blocked.is_empty(), Ordering::Relaxed);
        Ok(exchanges.n_unchecked > 0 && !self.outbox.is_backed_up())
    }
}
