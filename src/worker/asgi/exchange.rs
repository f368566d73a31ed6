//! One exchange, a request or a WebSocket: what its `receive` and `send` share, how it ends, and who waits for it.
//! What only WebSockets have is in [`super::websocket`].
//!
//! The application's `receive` and `send` are functions bound to it. It is borrowed for a few instructions at a time
//! and never while Python code of others runs, so that an application may call both from wherever it likes. If nothing
//! of it was kept when it is over, another exchange takes its place.
//!
//! ```text
//!   Unstarted ──start──▶ Prepared ──first bytes──▶ Streaming ──▶ (Trailing) ──▶ Ended ──▶ Done
//!       └───────────────── a WebSocket is accepted ──▶ Open ──────────────────────┘
//! ```
//! The head goes out with the first body bytes if they come at once ([`super::heads`]), so that an error before them
//! still becomes a 500; else alone. *Ended*: the client has all of it, the application may still be at work. *Done*: it
//! has returned, the slot is free.

use std::cell::{Ref, RefMut};
use std::collections::VecDeque;

use pyo3::exceptions::PyBaseException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rgun_channel::Broken;
use rgun_channel::frame::{ExchangeId, Request, UNKNOWN_LENGTH};
use rgun_channel::ring::Position;

use super::receive::Receive;
use super::send::Send;
use super::websocket::WebSocket;
use super::{Application, awaitable};
use crate::attached::Attached;
use crate::builtin::bind;
use crate::head::Head;
use crate::python::{Described, is_forked_child, leave_forked_child, reference_count};

/// How far a response is, or a WebSocket: one that is denied goes the way of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// No `http.response.start`.
    Unstarted,
    /// It has come, and no body; the head may have been sent.
    Prepared,
    /// The head is sent, the body is not complete.
    Streaming,
    /// The body is complete, trailers have been promised.
    Trailing,
    /// A WebSocket that was accepted and is not closed.
    Open,
    /// All is sent, or waits to be.
    Ended,
    /// The application has returned; the slot is given back.
    Done,
}

/// The request's body, as far as it has come.
#[derive(Debug)]
pub(super) struct Body {
    /// What has come and was not received.
    pub(super) parts: VecDeque<Py<PyBytes>>,
    /// The last part has come.
    pub(super) is_complete: bool,
    /// The event with `more_body: False` was received.
    pub(super) is_received: bool,
    /// It comes in parts, as far as we take it.
    pub(super) streams: bool,
    /// Bytes that were received.
    pub(super) received: u64,
    /// How far the daemon has been told to send.
    pub(super) taken: u64,
}

/// What bytes are to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carried {
    /// A part of a response's body.
    Body {
        /// It is the end of the response.
        end: bool,
    },
    /// A WebSocket message.
    Message {
        /// UTF-8; else binary.
        text: bool,
    },
}

/// Response body, or a message, that waits for credit or chunks.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) bytes: Py<PyBytes>,
    /// From here on it has not been sent.
    pub(super) at: usize,
    /// Up to here it is to be sent.
    pub(super) until: usize,
    pub(super) carried: Carried,
}

/// What the application has of an exchange. They refer to it, and it to them until it is over: a circle. (A WebSocket,
/// which may last for days, leaves them to the application, and is never a spare.)
#[derive(Debug)]
pub(super) struct Functions {
    pub(super) receive: Py<PyAny>,
    pub(super) send: Py<PyAny>,
}

/// An exchange that is over, with its functions.
#[derive(Debug)]
pub(super) struct Spare {
    pub(super) exchange: Py<Exchange>,
    pub(super) functions: Functions,
}

impl Spare {
    /// Has nobody kept any of it?
    fn is_free(&self, py: Python<'_>) -> bool {
        // Ours, and the two functions'.
        reference_count(&self.exchange, py) == 3
            && reference_count(&self.functions.receive, py) == 1
            && reference_count(&self.functions.send, py) == 1
    }
}

/// An exchange.
#[pyclass(frozen, module = "rgun")]
#[derive(Debug)]
pub(crate) struct Exchange(Attached<State>);

/// What is known of it.
#[derive(Debug)]
pub(crate) struct State {
    pub(super) served: &'static Application,
    pub(super) id: ExchangeId,
    pub(super) slot: u32,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub(super) started: u64,
    pub(super) is_head: bool,
    pub(super) stage: Stage,
    pub(super) head: Head,
    /// The head's, encoded, until they are sent.
    pub(super) fields: Vec<u8>,
    pub(super) is_head_sent: bool,
    /// The head was sent alone, and is all that the client gets: a 204, a 304, or a `Content-Length` of 0.
    pub(super) is_head_all: bool,
    /// Encoded.
    pub(super) trailers: Vec<u8>,
    pub(super) n_trailers: u16,
    /// Trailers have been promised.
    pub(super) has_trailers: bool,
    /// Response body bytes taken from the application.
    pub(super) given: u64,
    pub(super) pending: Option<Pending>,
    /// Where the ring has the end of the response: what tells that the application has returned, too, while it lies there.
    pub(super) ended_at: Option<Position>,
    /// The application has returned before all could be sent.
    pub(super) ends_later: bool,
    pub(super) body: Body,
    pub(super) websocket: Option<Box<WebSocket>>,
    /// The client has gone, or has its 504.
    pub(super) is_disconnected: bool,
    /// The client has closed its sending half: it may still wait for the answer.
    pub(super) is_half_closed: bool,
    /// It is among those that the application looks at when the daemon rings.
    pub(super) is_held_up: bool,
    /// Futures of `receive()`s that wait.
    pub(super) receivers: Vec<Py<PyAny>>,
    /// Futures of `send()`s that wait.
    pub(super) senders: Vec<Py<PyAny>>,
    pub(super) task: Option<Py<PyAny>>,
    /// Until it is over, or the application has those of a WebSocket.
    pub(super) functions: Option<Functions>,
}

/// Most bytes of a buffer that an exchange leaves to the next one.
const MOST_KEPT: usize = 4096;

impl Exchange {
    /// Begins one.
    pub(super) fn begin<'py>(
        py: Python<'py>,
        served: &'static Application,
        request: &Request<'_>,
        slot: u32,
        started: u64,
    ) -> PyResult<Bound<'py, Self>> {
        let mut state = State::new(py, served, request, slot, started);
        let spare = served.exchanges(py).spares.pop();
        if let Some(Spare { exchange, functions }) = spare.filter(|spare| spare.is_free(py)) {
            let exchange = exchange.into_bound(py);
            {
                let last = &mut *exchange.get().borrow_mut(py);
                if last.fields.capacity() <= MOST_KEPT {
                    state.fields = std::mem::take(&mut last.fields);
                    state.fields.clear();
                }
                state.functions = Some(functions);
                *last = state;
            }
            return Ok(exchange);
        }
        let exchange = Bound::new(py, Self(Attached::new(state)))?;
        let functions = Functions { receive: bind::<Receive>(&exchange)?, send: bind::<Send>(&exchange)? };
        exchange.get().borrow_mut(py).functions = Some(functions);
        Ok(exchange)
    }

    /// # Panics
    /// If it is borrowed mutably.
    pub(super) fn borrow<'a>(&'a self, py: Python<'a>) -> Ref<'a, State> {
        self.0.borrow(py)
    }

    /// # Panics
    /// If it is borrowed.
    pub(super) fn borrow_mut<'a>(&'a self, py: Python<'a>) -> RefMut<'a, State> {
        self.0.borrow_mut(py)
    }

    /// # Errors
    /// It is borrowed mutably.
    pub(super) fn try_borrow<'a>(&'a self, py: Python<'a>) -> PyResult<Ref<'a, State>> {
        self.0.try_borrow(py)
    }

    /// # Errors
    /// It is borrowed.
    pub(super) fn try_borrow_mut<'a>(&'a self, py: Python<'a>) -> PyResult<RefMut<'a, State>> {
        self.0.try_borrow_mut(py)
    }

    /// A part of the request's body.
    pub(super) fn part(slf: &Bound<'_, Self>, bytes: &[u8], end: bool) {
        let py = slf.py();
        let part = (!bytes.is_empty()).then(|| PyBytes::new(py, bytes).unbind());
        let worker = slf.get().borrow(py).served.worker;
        let receivers = {
            let mut exchange = slf.get().borrow_mut(py);
            exchange.body.parts.extend(part);
            exchange.body.is_complete |= end;
            std::mem::take(&mut exchange.receivers)
        };
        awaitable::wake(py, worker, receivers);
    }

    /// The client has gone: `receive()` says so, `send()` does nothing.
    pub(super) fn disconnect(slf: &Bound<'_, Self>) {
        let py = slf.py();
        let worker = slf.get().borrow(py).served.worker;
        let (receivers, senders, pending) = {
            let exchange = &mut *slf.get().borrow_mut(py);
            exchange.is_disconnected = true;
            (
                std::mem::take(&mut exchange.receivers),
                std::mem::take(&mut exchange.senders),
                exchange.pending.take(),
            )
        };
        drop(pending);
        awaitable::wake(py, worker, receivers);
        awaitable::wake(py, worker, senders);
    }

    /// The client has closed its sending half: behind the body `receive()` says that it has gone. `send()` goes on.
    pub(super) fn half_close(slf: &Bound<'_, Self>) {
        let py = slf.py();
        let (worker, receivers) = {
            let exchange = &mut *slf.get().borrow_mut(py);
            exchange.is_half_closed = true;
            (exchange.served.worker, std::mem::take(&mut exchange.receivers))
        };
        awaitable::wake(py, worker, receivers);
    }

    /// Its deadline has passed: the task is cancelled. Gives the report of where it was.
    pub(super) fn cancel(slf: &Bound<'_, Self>) -> PyResult<Option<String>> {
        let py = slf.py();
        let (served, id) = {
            let exchange = slf.get().borrow(py);
            (exchange.served, exchange.id)
        };
        let stack = served.stack_of(py, id);
        let task = {
            let mut exchange = slf.get().borrow_mut(py);
            exchange.is_disconnected = true;
            exchange.task.as_ref().map(|task| task.clone_ref(py))
        };
        if let Some(task) = task {
            task.call_method0(py, intern!(py, "cancel"))?;
        }
        Ok(stack?.map(|stack| {
            format!("exchange {} has passed its deadline and is cancelled; its task was at:\n{stack}", id.0)
        }))
    }

    /// We cannot even call the application.
    pub(super) fn fail(slf: &Bound<'_, Self>, error: &PyErr) -> Result<(), Broken> {
        let py = slf.py();
        let error = error.clone_ref(py).into_value(py);
        Self::ended(slf, py.None().bind(py), Some(error.bind(py)))
    }

    /// The application has returned, or raised.
    fn ended(
        slf: &Bound<'_, Self>,
        result: &Bound<'_, PyAny>,
        error: Option<&Bound<'_, PyBaseException>>,
    ) -> Result<(), Broken> {
        let py = slf.py();
        let error = error.map(|error| PyErr::from_value(error.clone().into_any()));
        in_the_worker(py, error.as_ref());
        let fault = if let Some(error) = error {
            let (is_disconnected, forsaken) = {
                let exchange = slf.get().borrow(py);
                let is_told = exchange.is_disconnected || exchange.is_half_closed;
                (is_told, exchange.forsaken())
            };
            fault_of(py, is_disconnected, &error).or(forsaken)
        } else {
            let (omission, is_websocket) = {
                let exchange = slf.get().borrow(py);
                (exchange.omission(), exchange.websocket.is_some())
            };
            // Which comes first is uvicorn's choice.
            if is_websocket { omission.or_else(|| returned(result)) } else { returned(result).or(omission) }
        };
        let worker = slf.get().borrow(py).served.worker;
        let (receivers, senders, leftover) = {
            let exchange = &mut *slf.get().borrow_mut(py);
            let leftover = exchange.finish(py, fault.as_ref())?;
            (std::mem::take(&mut exchange.receivers), std::mem::take(&mut exchange.senders), leftover)
        };
        if leftover.is_none() {
            // Not all could be sent.
            Application::hold_up(slf);
        }
        drop(leftover);
        awaitable::wake(py, worker, receivers);
        awaitable::wake(py, worker, senders);
        Ok(())
    }

    /// Ends it if its task has ended without saying so.
    pub(super) fn reap(slf: &Bound<'_, Self>) -> Result<(), Broken> {
        let py = slf.py();
        let task = {
            let exchange = slf.get().borrow(py);
            exchange.task.as_ref().filter(|_| !exchange.ends_later).map(|task| task.clone_ref(py))
        };
        let Some(task) = task else { return Ok(()) };
        match task.call_method0(py, intern!(py, "done")).and_then(|done| done.is_truthy(py)) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => {
                slf.get().borrow(py).served.worker.raised(py, error);
                return Ok(());
            }
        }
        match task.call_method0(py, intern!(py, "exception")) {
            Ok(error) => Self::ended(slf, py.None().bind(py), error.bind(py).cast().ok()),
            // It was cancelled.
            Err(error) => Self::fail(slf, &error),
        }
    }

    /// The daemon has rung: sends what waited, and wakes whoever waited for that. True if nothing waits any more.
    pub(super) fn go_on(slf: &Bound<'_, Self>) -> Result<bool, Broken> {
        let py = slf.py();
        let worker = slf.get().borrow(py).served.worker;
        let (receivers, senders, leftover, is_free) = {
            let exchange = &mut *slf.get().borrow_mut(py);
            exchange.pump(py)?;
            let leftover = if exchange.ends_later && exchange.pending.is_none() {
                exchange.finish(py, None)?
            } else {
                None
            };
            let is_free = exchange.can_send();
            let is_complete = exchange.stage >= Stage::Ended;
            (
                if is_complete { std::mem::take(&mut exchange.receivers) } else { Vec::new() },
                if is_free { std::mem::take(&mut exchange.senders) } else { Vec::new() },
                leftover,
                is_free,
            )
        };
        drop(leftover);
        awaitable::wake(py, worker, receivers);
        awaitable::wake(py, worker, senders);
        Ok(is_free)
    }
}

impl State {
    fn new(
        py: Python<'_>,
        served: &'static Application,
        request: &Request<'_>,
        slot: u32,
        started: u64,
    ) -> Self {
        let streams = request.body_streams && request.body_len != 0;
        debug_assert!(!streams || request.body_len == UNKNOWN_LENGTH || request.body.is_empty());
        let mut parts = VecDeque::new();
        if !request.body.is_empty() {
            parts.push_back(PyBytes::new(py, request.body).unbind());
        }
        Self {
            served,
            id: request.exchange,
            slot,
            started,
            is_head: request.method == b"HEAD",
            stage: Stage::Unstarted,
            head: Head::default(),
            fields: Vec::new(),
            is_head_sent: false,
            is_head_all: false,
            trailers: Vec::new(),
            n_trailers: 0,
            has_trailers: false,
            given: 0,
            pending: None,
            ended_at: None,
            ends_later: false,
            body: Body { parts, is_complete: !streams, is_received: false, streams, received: 0, taken: 0 },
            websocket: request.websocket.then(Box::default),
            is_disconnected: false,
            is_half_closed: false,
            is_held_up: false,
            receivers: Vec::new(),
            senders: Vec::new(),
            task: None,
            functions: None,
        }
    }

    /// For the call of the application.
    pub(super) fn functions(&mut self, py: Python<'_>) -> Functions {
        let functions = self.functions.take().expect("the application is called once");
        if self.websocket.is_none() {
            let Functions { receive, send } = &functions;
            self.functions = Some(Functions { receive: receive.clone_ref(py), send: send.clone_ref(py) });
        }
        functions
    }

    /// What is told of an answer that is not whole because the application took its client's half close for its end.
    fn forsaken(&self) -> Option<Described> {
        let is_forsaken = self.is_half_closed && !self.is_disconnected && self.stage < Stage::Ended;
        is_forsaken.then(|| Described::plain(""))
    }

    /// What it has not done.
    fn omission(&self) -> Option<Described> {
        if self.is_disconnected {
            return None;
        }
        if self.is_half_closed {
            return self.forsaken();
        }
        match self.stage {
            stage if self.websocket.is_some() => (stage < Stage::Open)
                .then(|| Described::plain("ASGI callable returned without completing handshake.")),
            Stage::Unstarted => Some(Described::plain("ASGI callable returned without starting response.")),
            Stage::Prepared | Stage::Streaming | Stage::Trailing => {
                Some(Described::plain("ASGI callable returned without completing response."))
            }
            Stage::Open | Stage::Ended | Stage::Done => None,
        }
    }
}

impl Application {
    /// Ends the exchanges whose tasks have ended without saying so: a signal handler has raised where `asgi.py`'s
    /// coroutine had not begun to call the application, or was about to tell how that ended.
    pub(super) fn reap(&self, py: Python<'_>) -> Result<(), Broken> {
        let running: Vec<_> =
            self.exchanges(py).running.values().map(|exchange| exchange.clone_ref(py)).collect();
        running.iter().try_for_each(|exchange| Exchange::reap(exchange.bind(py)))
    }
}

/// A value, where ASGI has none.
fn returned(result: &Bound<'_, PyAny>) -> Option<Described> {
    (!result.is_none()).then(|| {
        let text = result.str().map_or_else(|_| super::head::type_name(result), |text| text.to_string());
        Described::plain(format!("ASGI callable should return None, but returned '{text}'."))
    })
}

/// What is to be told of an exception, if anything.
fn fault_of(py: Python<'_>, is_disconnected: bool, error: &PyErr) -> Option<Described> {
    // Cancelled at its deadline, for which the client has its answer; or the framework's own way to say that the
    // client has gone (Starlette's ClientDisconnect).
    if is_disconnected && is_farewell(error.value(py).as_any(), MOST_NESTED) {
        return None;
    }
    Some(Described::of(py, error))
}

/// Groups of exceptions within groups.
const MOST_NESTED: u8 = 16;

/// Is it one of the exceptions that end an exchange whose client has gone, or a group (PEP 654, its backport, anyio's
/// of old) of nothing else?
fn is_farewell(error: &Bound<'_, PyAny>, nested: u8) -> bool {
    let parts = error.getattr(intern!(error.py(), "exceptions")).ok().and_then(|parts| {
        parts.try_iter().ok()?.collect::<PyResult<Vec<_>>>().ok().filter(|parts| !parts.is_empty())
    });
    if let Some(parts) = parts {
        return nested > 0 && parts.iter().all(|part| is_farewell(part, nested - 1));
    }
    let name = error.get_type().name().map(|name| name.to_string());
    matches!(
        name.as_deref(),
        Ok("CancelledError"
            | "ClientDisconnect"
            | "ClientDisconnected"
            | "RequestAborted"
            | "WebSocketDisconnect")
    )
}

/// The channel is the worker's own: a process that the application forked ends here.
pub(super) fn in_the_worker(py: Python<'_>, error: Option<&PyErr>) {
    if is_forked_child() {
        leave_forked_child(py, error);
    }
}

/// What `asgi.py` calls when the application has returned (`error` is None) or raised.
#[pyfunction]
#[pyo3(signature = (exchange, result, error))]
pub(super) fn ended(
    exchange: &Bound<'_, Exchange>,
    result: &Bound<'_, PyAny>,
    error: Option<&Bound<'_, PyBaseException>>,
) {
    let served = exchange.get().borrow(exchange.py()).served;
    Exchange::ended(exchange, result, error).unwrap_or_else(|broken| served.worker.broken(&broken));
    served.owe(exchange.py());
}
