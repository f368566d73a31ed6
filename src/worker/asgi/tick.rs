//! The worker's callback on the event loop: claims submissions, starts exchanges, wakes the daemon.
//!
//! A *tick* claims the frames in the submission ring and creates a task for each request. Eager
//! tasks (CPython 3.12) run within the tick; other tasks run after the tick, and another tick
//! follows. Completions are pushed as they come, and the tick wakes the daemon once, at its end. A
//! `send()` outside a tick schedules a tick. A tick that finds no frame announces that the loop
//! will sleep and checks the ring once more.

use std::sync::atomic::Ordering;

use pyo3::exceptions::{PyRuntimeError, PySystemExit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rgun_channel::ProtocolError;
use rgun_channel::control::Report;
use rgun_channel::frame::{Request, StreamFrame, Submission};

use super::request_context::RequestContexts;
use super::state::{Application, Exchange, Exchanges, Functions, Stage};
use crate::fastcall;
use crate::python::exit_if_forked_child;
use crate::submission::decode_request;
use crate::wait::monotonic_ns;

/// Maximum number of running exchanges that a stopping worker checks for finished tasks in each
/// tick. If more are running, it checks none: with thousands of WebSockets that close one by one,
/// the checks would take quadratic time.
const MAX_REAP_CANDIDATES: usize = 64;

/// Maximum number of frames claimed by one tick, so that other callbacks of the loop run in
/// between.
const MAX_FRAMES_PER_TICK: usize = 64;

/// Maximum number of blocked exchanges resumed by one tick.
const MAX_RESUMED_PER_TICK: usize = 64;

/// The callback that the event loop runs.
#[pyclass(frozen, module = "rgun")]
#[derive(Debug)]
pub(super) struct LoopTick {
    application: &'static Application,
    reason: TickReason,
}

/// The cause of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TickReason {
    /// Scheduled by the previous tick or by a `send()`.
    Scheduled,
    /// The daemon has written to the eventfd.
    Eventfd,
    /// The loop has completed an iteration since heads were deferred ([`super::deferred_heads`]).
    HeadsDue,
}

#[pymethods]
impl LoopTick {
    fn __call__(&self, py: Python<'_>) {
        // A forked child that is still running its parent's loop is woken by the eventfd, too.
        exit_if_forked_child(py, None);
        let worker = self.application.worker;
        if self.reason == TickReason::Eventfd {
            worker.drain_eventfd();
            self.application.on_wakeup(py);
        }
        // Runs the handlers of pending signals here, where they interrupt no application code.
        // uvloop calls the tick before it checks for signals itself.
        if let Err(error) = py.check_signals() {
            worker.on_signal_exception(py, error);
        }
        self.application.tick(py, self.reason).unwrap_or_else(|error| worker.abort_on_protocol_error(&error));
    }

    #[new]
    fn new() -> PyResult<Self> {
        Err(PyRuntimeError::new_err("only rgun creates instances of this class"))
    }
}

impl Application {
    /// Registers the eventfd with the loop and schedules the first tick.
    pub(super) fn start_ticking(&'static self, py: Python<'_>) -> PyResult<()> {
        let tick = |reason| LoopTick { application: self, reason };
        // Cannot fail: called once per application.
        let _ = self.event_loop.tick.set(Py::new(py, tick(TickReason::Scheduled))?.into_any());
        let _ = self.event_loop.heads_tick.set(Py::new(py, tick(TickReason::HeadsDue))?.into_any());
        let on_eventfd = tick(TickReason::Eventfd);
        let arguments = (self.worker.eventfd(), on_eventfd);
        self.event_loop.object.call_method1(py, intern!(py, "add_reader"), arguments)?;
        self.schedule_flush(py);
        Ok(())
    }

    /// Unregisters the eventfd. Scheduled ticks do nothing any more.
    pub(super) fn stop_ticking(&self, py: Python<'_>) -> PyResult<()> {
        self.event_loop.is_stopped.store(true, Ordering::Relaxed);
        self.event_loop
            .object
            .call_method1(py, intern!(py, "remove_reader"), (self.worker.eventfd(),))
            .map(drop)
    }

    /// Starts the time that new heads wait for their bodies, unless such a time is running.
    fn defer_heads(&self, py: Python<'_>) {
        if self.exchanges(py).heads.begin_wait() {
            self.schedule_heads_tick(py);
        }
    }

    fn schedule_heads_tick(&self, py: Python<'_>) {
        let Some(tick) = self.event_loop.heads_tick.get() else { return };
        if let Err(error) = self.event_loop.call_soon(py, tick) {
            // As in `schedule_tick`.
            self.exchanges(py).heads.cancel_wait();
            self.worker.wake_loop();
            self.worker.on_signal_exception(py, error);
        }
    }

    /// Counts an iteration of the loop; at the end of the wait, sends the heads whose bodies have
    /// not come.
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

    /// Runs one tick.
    fn tick(&'static self, py: Python<'_>, reason: TickReason) -> Result<(), ProtocolError> {
        if self.event_loop.is_stopped.load(Ordering::Relaxed) {
            return Ok(());
        }
        let worker = self.worker;
        let sleepers = worker.sleepers();
        sleepers.announce_loop_awake();
        self.event_loop.tick_pending.store(true, Ordering::Relaxed);
        let has_unchecked = self.outbox.flush(&worker.output)? && self.resume_blocked(py)?;
        if reason == TickReason::HeadsDue {
            self.send_due_heads(py)?;
        }
        let mut claimed = self.claim_buffer.take(py);
        let mut n_frames = 0;
        while n_frames < MAX_FRAMES_PER_TICK && worker.claim(py, &mut claimed)? {
            let (frame, body) = claimed.take();
            self.handle_submission(py, frame, body)?;
            n_frames += 1;
        }
        self.claim_buffer.put(py, claimed);
        if n_frames > 0 && !self.event_loop.is_eager {
            // The tasks run first; the next tick wakes the daemon for all of them.
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
        } else if n_frames < MAX_FRAMES_PER_TICK && !has_unchecked {
            sleepers.announce_loop_sleep();
            if !worker.has_more() {
                self.event_loop.tick_pending.store(false, Ordering::Relaxed);
                worker.output.wake_waiting_daemon();
                return Ok(());
            }
            sleepers.announce_loop_awake();
        }
        self.schedule_tick(py);
        Ok(())
    }

    /// Handles one frame. `body` is the body of a request if it is not part of the frame.
    fn handle_submission(
        &'static self,
        py: Python<'_>,
        frame: &[u8],
        body: Option<Py<PyBytes>>,
    ) -> Result<(), ProtocolError> {
        if body.is_some() {
            return self.start_exchange(py, &decode_request(py, frame, body.as_ref())?, body);
        }
        match Submission::decode(frame)? {
            Submission::Request(request) => self.start_exchange(py, &request, None),
            Submission::Stream(StreamFrame::Part { exchange, bytes, end, text, more }) => {
                // The exchange may have ended.
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
                    self.cancel_exchange(&exchange)?;
                } else {
                    exchange.get().borrow_mut(py).record_client_close(code, reason)?;
                    Exchange::on_disconnect(&exchange);
                }
                // The application has returned; the disconnect has discarded the pending payload.
                if exchange.get().borrow(py).response.finish_deferred {
                    Exchange::resume(&exchange)?;
                }
                Ok(())
            }
        }
    }

    /// Cancels the task of an exchange that has failed, and reports its stack.
    fn cancel_exchange(&self, exchange: &Bound<'_, Exchange>) -> Result<(), ProtocolError> {
        let reported = Exchange::cancel_task(exchange).and_then(|report| match report {
            Some(report) => self.worker.process.report(&Report::Warning(report)),
            None => Ok(()),
        });
        if let Err(error) = reported {
            self.worker.on_signal_exception(exchange.py(), error);
        }
        // The task may have ended without completing the exchange.
        Exchange::reap_if_done(exchange)
    }

    /// Creates the exchange of a request and its task.
    fn start_exchange(
        &'static self,
        py: Python<'_>,
        request: &Request<'_>,
        body: Option<Py<PyBytes>>,
    ) -> Result<(), ProtocolError> {
        let started_ns = monotonic_ns();
        self.outbox.wake_if_overdue(&self.worker.output, started_ns);
        let slot =
            self.exchanges(py).free_slots.pop().ok_or(ProtocolError::Frame("more exchanges than slots"))?;
        self.worker.mark_running(slot, request.exchange, started_ns);
        let exchange = match Exchange::create(py, self, request, slot, started_ns) {
            Ok(exchange) => exchange,
            // No memory for an object, so there is no exchange to answer with.
            Err(error) => {
                error.write_unraisable(py, None);
                return Err(ProtocolError::Frame("no memory for an exchange"));
            }
        };
        exchange.get().borrow_mut(py).body.parts.extend(body);
        self.exchanges(py).running.insert(request.exchange.0, exchange.clone().unbind());
        let created = self.create_task(py, request, &exchange);
        // An eager task may have forked; the child process returns to here.
        exit_if_forked_child(py, None);
        match created {
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

    /// Builds the scope, calls the application and creates its task.
    fn create_task<'py>(
        &self,
        py: Python<'py>,
        request: &Request<'_>,
        exchange: &Bound<'py, Exchange>,
    ) -> PyResult<Bound<'py, PyAny>> {
        // Taken out, not borrowed: creating an object may collect garbage, which may run
        // finalizers.
        let mut scope_cache = self.scope_cache.take(py);
        let scope = self.scope_builder.build(py, scope_cache.get_or_insert_default(), request);
        let request_id = scope_cache.as_mut().and_then(|cache| cache.request_id.take());
        self.scope_cache.put(py, scope_cache);
        let scope = scope?.into_any();
        let Functions { receive, send } = exchange.get().borrow_mut(py).take_functions(py);
        let call = if request.websocket { &self.call_websocket } else { &self.call };
        let arguments = [self.app.bind(py), &scope, receive.bind(py), send.bind(py), exchange.as_any()];
        let coroutine = fastcall::call(call.bind(py), arguments);
        // From here on only the coroutine refers to them. An eager task starts below and may drop
        // them.
        drop((scope, receive, send));
        let coroutine = coroutine?;
        let last = exchange.get().borrow_mut(py).context.take();
        let context =
            self.contexts.for_request(py, last, request_id, self.event_loop.task_keywords.bind(py))?;
        let constructor = self.event_loop.task_constructor.bind(py);
        let keywords = self.event_loop.task_keywords.bind(py);
        let task = RequestContexts::create_task(context.as_deref(), constructor, coroutine, keywords);
        if !request.websocket {
            exchange.get().borrow_mut(py).context = context;
        }
        task
    }

    /// Marks all blocked exchanges as unchecked: the daemon may have woken the loop for any of
    /// them.
    fn on_wakeup(&self, py: Python<'_>) {
        if self.has_blocked.load(Ordering::Relaxed) {
            let exchanges = &mut *self.exchanges(py);
            exchanges.n_unchecked = exchanges.blocked.len();
        }
    }

    /// Resumes blocked exchanges, at most [`MAX_RESUMED_PER_TICK`]: if thousands wait for ring
    /// space, the first ones fill the ring again. Returns whether another tick must resume more.
    fn resume_blocked(&self, py: Python<'_>) -> Result<bool, ProtocolError> {
        if !self.has_blocked.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let to_resume: Vec<_> = {
            let exchanges = &mut *self.exchanges(py);
            let Exchanges { blocked, n_unchecked, .. } = exchanges;
            if *n_unchecked == 0 {
                *n_unchecked = blocked.len();
            }
            let count = MAX_RESUMED_PER_TICK.min(*n_unchecked).min(blocked.len());
            *n_unchecked -= count;
            blocked.drain(..count).collect()
        };
        for exchange in to_resume {
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
