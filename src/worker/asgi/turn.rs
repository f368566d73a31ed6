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
const MOST_REAPED: usize = 64;

/// Most frames of one turn: the loop has others to serve, too.
const MOST_FRAMES: usize = 64;

/// Most exchanges that a turn looks at because they may go on.
const MOST_WOKEN: usize = 64;

/// What the loop calls.
#[pyclass(frozen, module = "rgun")]
#[derive(Debug)]
pub(super) struct Turn {
    served: &'static Application,
    cause: Cause,
}

/// Why there is a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The last one, or whoever has sent something, has scheduled it.
    Scheduled,
    /// The daemon has rung.
    Rung,
    /// The loop has gone round since a head came ([`super::heads`]).
    Heads,
}

#[pymethods]
impl Turn {
    fn __call__(&self, py: Python<'_>) {
        // A child that goes on waiting on its parent's loop hears the bell, too.
        exit_if_forked_child(py, None);
        let worker = self.served.worker;
        if self.cause == Cause::Rung {
            worker.drain_eventfd();
            self.served.on_wakeup(py);
        }
        // Those of signals that have come already: here they interrupt nobody. uvloop calls us before it looks itself.
        if let Err(error) = py.check_signals() {
            worker.on_signal_exception(py, error);
        }
        self.served.turn(py, self.cause).unwrap_or_else(|broken| worker.abort_on_protocol_error(&broken));
    }

    #[new]
    fn new() -> PyResult<Self> {
        Err(PyRuntimeError::new_err("rgun makes these itself"))
    }
}

impl Application {
    /// Has the loop watch the daemon's bell, and take a first turn when it runs.
    pub(super) fn watch(&'static self, py: Python<'_>) -> PyResult<()> {
        let turn = |cause| Turn { served: self, cause };
        // Set once: an application is watched once.
        let _ = self.event_loop.turn.set(Py::new(py, turn(Cause::Scheduled))?.into_any());
        let _ = self.event_loop.heads_turn.set(Py::new(py, turn(Cause::Heads))?.into_any());
        let rung = turn(Cause::Rung);
        let arguments = (self.worker.eventfd(), rung);
        self.event_loop.object.call_method1(py, intern!(py, "add_reader"), arguments)?;
        self.owe(py);
        Ok(())
    }

    /// No more turns.
    pub(super) fn unwatch(&self, py: Python<'_>) -> PyResult<()> {
        self.event_loop.is_over.store(true, Ordering::Relaxed);
        self.event_loop
            .object
            .call_method1(py, intern!(py, "remove_reader"), (self.worker.eventfd(),))
            .map(drop)
    }

    /// Has heads for which no body has come sent when the loop has gone round.
    fn schedule_heads(&self, py: Python<'_>) {
        if self.exchanges(py).heads.begin_rounds() {
            self.schedule_heads_turn(py);
        }
    }

    fn schedule_heads_turn(&self, py: Python<'_>) {
        let Some(turn) = self.event_loop.heads_turn.get() else { return };
        if let Err(error) = self.event_loop.call_soon(py, turn) {
            // As in `schedule`.
            self.exchanges(py).heads.break_off_rounds();
            self.worker.wake_loop();
            self.worker.on_signal_exception(py, error);
        }
    }

    /// The loop has gone round: sends the heads for which no body has come.
    fn send_heads(&self, py: Python<'_>) -> Result<(), ProtocolError> {
        let due = self.exchanges(py).heads.take_due();
        if self.exchanges(py).heads.is_waiting() {
            self.schedule_heads_turn(py);
        }
        for id in due {
            let Some(exchange) = self.exchange(py, id) else { continue };
            exchange.get().borrow_mut(py).send_head(py)?;
        }
        Ok(())
    }

    fn turn(&'static self, py: Python<'_>, cause: Cause) -> Result<(), ProtocolError> {
        if self.event_loop.is_over.load(Ordering::Relaxed) {
            return Ok(());
        }
        let worker = self.worker;
        let sleepers = worker.sleepers();
        sleepers.announce_loop_awake();
        self.event_loop.will_ring.store(true, Ordering::Relaxed);
        let has_unseen = self.outbox.flush(&worker.output)? && self.go_on(py)?;
        if cause == Cause::Heads {
            self.send_heads(py)?;
        }
        let mut frame = self.claimed.take(py);
        let mut n_frames = 0;
        while n_frames < MOST_FRAMES && worker.claim(&mut frame)? {
            self.take(py, &frame)?;
            n_frames += 1;
        }
        self.claimed.put(py, frame);
        if n_frames > 0 && !self.event_loop.is_eager {
            // Its tasks come first, then it rings for all of them.
            self.schedule(py);
            return Ok(());
        }
        if worker.is_stopping() && self.n_running(py) <= MOST_REAPED {
            self.reap(py)?;
        }
        self.outbox.ring(&worker.output);
        self.schedule_heads(py);
        if worker.is_stopping() && self.n_running(py) == 0 && !self.outbox.is_backed_up() {
            super::awaitable::wake(py, worker, vec![self.event_loop.over.clone_ref(py)]);
            return Ok(());
        } else if n_frames < MOST_FRAMES && !has_unseen {
            sleepers.announce_loop_sleep();
            if !worker.has_more() {
                self.event_loop.will_ring.store(false, Ordering::Relaxed);
                return Ok(());
            }
            sleepers.announce_loop_awake();
        }
        self.schedule(py);
        Ok(())
    }

    /// One frame.
    fn take(&'static self, py: Python<'_>, frame: &[u8]) -> Result<(), ProtocolError> {
        match Submission::decode(frame)? {
            Submission::Request(request) => self.begin(py, &request),
            Submission::Stream(StreamFrame::Part { exchange, bytes, end, text, more }) => {
                // What is over has no use for it.
                let Some(exchange) = self.exchange(py, exchange) else { return Ok(()) };
                if exchange.get().borrow(py).websocket.is_some() {
                    return Exchange::message(&exchange, bytes, text, more);
                }
                Exchange::part(&exchange, bytes, end);
                Ok(())
            }
            Submission::Stream(StreamFrame::HalfClose { exchange }) => {
                if let Some(exchange) = self.exchange(py, exchange) {
                    Exchange::half_close(&exchange);
                }
                Ok(())
            }
            Submission::Stream(StreamFrame::Disconnect { exchange, code, reason, cancel }) => {
                let Some(exchange) = self.exchange(py, exchange) else { return Ok(()) };
                if cancel {
                    let cancelled = Exchange::cancel(&exchange);
                    let told = cancelled.and_then(|report| match report {
                        Some(report) => self.worker.process.report(&Report::Warning(report)),
                        None => Ok(()),
                    });
                    if let Err(error) = told {
                        self.worker.on_signal_exception(py, error);
                    }
                    // Its task may have ended without saying so, and nobody else would come to look.
                    Exchange::reap(&exchange)?;
                } else {
                    exchange.get().borrow_mut(py).note_close(code, reason)?;
                    Exchange::disconnect(&exchange);
                }
                // The application has returned, and what was still to be sent is not any more.
                if exchange.get().borrow(py).ends_later {
                    Exchange::go_on(&exchange)?;
                }
                Ok(())
            }
        }
    }

    /// Starts a task.
    fn begin(&'static self, py: Python<'_>, request: &Request<'_>) -> Result<(), ProtocolError> {
        let started = monotonic_ns();
        self.outbox.tick(&self.worker.output, started);
        let slot = self.exchanges(py).free.pop().ok_or(ProtocolError::Frame("more exchanges than slots"))?;
        self.worker.mark_running(slot, request.exchange, started);
        let exchange = match Exchange::begin(py, self, request, slot, started) {
            Ok(exchange) => exchange,
            // No memory for an object: nothing can be answered.
            Err(error) => {
                error.write_unraisable(py, None);
                return Err(ProtocolError::Frame("no memory for an exchange"));
            }
        };
        self.exchanges(py).running.insert(request.exchange.0, exchange.clone().unbind());
        let made = self.task(py, request, &exchange);
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

    fn task<'py>(
        &self,
        py: Python<'py>,
        request: &Request<'_>,
        exchange: &Bound<'py, Exchange>,
    ) -> PyResult<Bound<'py, PyAny>> {
        // Not borrowed: to make an object may collect garbage, and that may run anything.
        let mut recent = self.recent.take(py);
        let scope = self.scopes.make(py, recent.get_or_insert_default(), request);
        self.recent.put(py, recent);
        let scope = scope?;
        let Functions { receive, send } = exchange.get().borrow_mut(py).functions(py);
        let call = if request.websocket { &self.call_websocket } else { &self.call };
        let coroutine = call.bind(py).call1((&self.callable, scope, receive, send, exchange))?;
        self.event_loop.new_task.bind(py).call((coroutine,), Some(self.event_loop.task_keywords.bind(py)))
    }

    /// Marks all waiting exchanges as unseen: the daemon woke the worker, perhaps because of one of them.
    fn on_wakeup(&self, py: Python<'_>) {
        if self.is_held_up.load(Ordering::Relaxed) {
            let exchanges = &mut *self.exchanges(py);
            exchanges.unseen = exchanges.held_up.len();
        }
    }

    /// Those that waited for credit, room or chunks, as many as one turn has time for: if thousands wait for the ring,
    /// what they send fills it soon, and who was woken in vain would be woken again. True: a turn has to follow.
    fn go_on(&self, py: Python<'_>) -> Result<bool, ProtocolError> {
        if !self.is_held_up.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let waiting: Vec<_> = {
            let exchanges = &mut *self.exchanges(py);
            let Exchanges { held_up, unseen, .. } = exchanges;
            if *unseen == 0 {
                *unseen = held_up.len();
            }
            let count = MOST_WOKEN.min(*unseen).min(held_up.len());
            *unseen -= count;
            held_up.drain(..count).collect()
        };
        for exchange in waiting {
            let exchange = exchange.bind(py);
            exchange.get().borrow_mut(py).is_held_up = false;
            if !Exchange::go_on(exchange)? {
                Self::hold_up(exchange);
            }
        }
        let exchanges = self.exchanges(py);
        self.is_held_up.store(!exchanges.held_up.is_empty(), Ordering::Relaxed);
        Ok(exchanges.unseen > 0 && !self.outbox.is_backed_up())
    }
}
