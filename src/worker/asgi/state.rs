//! The data of the application and its exchanges, and the tables that map exchange ids to
//! exchanges.
//!
//! [`Application`] and [`Exchange`] refer to each other, so they share a file. These modules work
//! on them: [`super::create`], [`super::exchange`], [`super::receive`], [`super::send`],
//! [`super::response`] and [`super::tick`].
//!
//! An [`Exchange`] is borrowed for a few instructions at a time and never while Python code of the
//! application runs, so the application may call `receive()` and `send()` from anywhere.
//!
//! ```text
//!   Unstarted ──start──▶ Prepared ──first bytes──▶ Streaming ──▶ (Trailing) ──▶ Ended ──▶ Done
//!       └───────────────── a WebSocket is accepted ──▶ Open ──────────────────────┘
//! ```
//! The head is sent with the first body bytes if they follow at once ([`super::deferred_heads`]):
//! an exception before them can still become a 500. Otherwise the head is sent alone.

use std::cell::{Ref, RefMut};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyModule};
use rgun_channel::frame::ExchangeId;
use rgun_channel::ring::Position;

use super::completed_send::CompletedSend;
use super::deferred_heads::DeferredHeads;
use super::event_loop::EventLoop;
use super::event_templates::HttpEventTemplates;
use super::last_head::LastHead;
use super::message_types::HttpMessageTypes;
use super::outbox::Outbox;
use super::request_context::{RequestContext, RequestContexts};
use super::scope::{ScopeBuilder, ScopeCache};
use super::websocket::{WebSocket, WebSocketConstants};
use crate::gil_cell::GilCell;
use crate::head::ResponseHead;
use crate::python::embedded_module;
use crate::submission::ClaimBuffer;
use crate::worker::Worker;

/// The application, its event loop, and all state shared by its exchanges. Leaked: lives as long as
/// the process.
#[derive(Debug)]
pub(crate) struct Application {
    pub(crate) worker: &'static Worker,
    /// The ASGI 3 callable; an ASGI 2 application is wrapped.
    pub(super) app: Py<PyAny>,
    /// Coroutine function of `asgi.py` that calls the application and completes the exchange.
    pub(super) call: Py<PyAny>,
    /// The coroutine function that does this for a WebSocket.
    pub(super) call_websocket: Py<PyAny>,
    pub(super) contexts: RequestContexts,
    pub(super) event_loop: EventLoop,
    pub(super) scope_builder: ScopeBuilder,
    /// Values reused between scopes; taken out while a scope is built.
    pub(super) scope_cache: GilCell<Option<ScopeCache>>,
    pub(super) events: HttpEventTemplates,
    pub(super) websocket_constants: WebSocketConstants,
    pub(super) outbox: Outbox,
    pub(super) message_types: HttpMessageTypes,
    pub(super) last_head: GilCell<LastHead>,
    /// The result of every `send()` that does not have to wait.
    pub(super) completed_send: Py<CompletedSend>,
    pub(super) exchanges: GilCell<Exchanges>,
    /// Buffer for encoding a completion.
    pub(super) completion_buffer: GilCell<Vec<u8>>,
    /// The frame that was claimed last.
    pub(super) claim_buffer: GilCell<ClaimBuffer>,
    /// [`Exchanges::blocked`] is not empty.
    pub(super) has_blocked: AtomicBool,
}

/// The running exchanges.
#[derive(Debug)]
pub(super) struct Exchanges {
    /// By exchange id.
    pub(super) running: std::collections::HashMap<u64, Py<Exchange>, BuildIdHasher>,
    /// Slots without an exchange.
    pub(super) free_slots: Vec<u32>,
    /// Running exchanges that wait for credit, ring space or chunks, in the order in which they
    /// began to wait.
    pub(super) blocked: VecDeque<Py<Exchange>>,
    /// Number of blocked exchanges at the front that have not been resumed since the last wake-up
    /// by the daemon.
    pub(super) n_unchecked: usize,
    /// Running exchanges whose heads wait for their bodies.
    pub(super) heads: DeferredHeads,
    /// Ended exchanges for reuse, at most [`MAX_POOLED`].
    pub(super) pool: Vec<PooledExchange>,
}

/// Maximum number of ended exchanges kept for reuse.
const MAX_POOLED: usize = 64;

impl Application {
    /// Borrows the table of exchanges.
    pub(super) fn exchanges<'a>(&'a self, py: Python<'a>) -> RefMut<'a, Exchanges> {
        self.exchanges.borrow_mut(py)
    }

    /// Returns a running exchange.
    pub(super) fn exchange<'py>(&self, py: Python<'py>, id: ExchangeId) -> Option<Bound<'py, Exchange>> {
        self.exchanges(py).running.get(&id.0).map(|exchange| exchange.bind(py).clone())
    }

    /// Returns the number of running exchanges.
    pub(super) fn n_running(&self, py: Python<'_>) -> usize {
        self.exchanges(py).running.len()
    }

    /// Formats the stack of an exchange's task; `None` if the exchange is not running. Called from
    /// a thread other than the event loop's.
    ///
    /// # Errors
    /// The Python exception if the stack cannot be formatted.
    pub(crate) fn stack_of(&self, py: Python<'_>, id: ExchangeId) -> PyResult<Option<String>> {
        let Some(exchange) = self.exchange(py, id) else { return Ok(None) };
        let task = {
            // If the exchange is borrowed, the worker's own code runs, and there is no stack of the
            // application.
            let Ok(exchange) = exchange.get().try_borrow(py) else { return Ok(None) };
            // Borrowed only for this statement: while `stack_of` runs Python code, the loop's
            // thread may run too.
            exchange.task.as_ref().map(|task| task.clone_ref(py))
        };
        // `task` is None while an eager task is being created: it runs during its creation.
        let arguments = (task, self.event_loop.object());
        python_module(py)?.call_method1(intern!(py, "stack_of"), arguments)?.extract().map(Some)
    }

    /// Schedules a tick, which wakes the daemon for the frames sent. Does nothing if a tick is
    /// pending.
    pub(super) fn schedule_flush(&self, py: Python<'_>) {
        // Only the loop's thread writes the flag: load and store are cheaper than a swap.
        if !self.event_loop.tick_pending.load(Ordering::Relaxed) {
            self.event_loop.tick_pending.store(true, Ordering::Relaxed);
            self.schedule_tick(py);
        }
    }

    /// Schedules a tick of the event loop.
    pub(super) fn schedule_tick(&self, py: Python<'_>) {
        let Some(tick) = self.event_loop.tick.get() else { return };
        if let Err(error) = self.event_loop.call_soon(py, tick) {
            // The exception of a signal handler, or the loop is closed. The eventfd causes another
            // tick.
            self.event_loop.tick_pending.store(false, Ordering::Relaxed);
            self.worker.wake_loop();
            self.worker.on_signal_exception(py, error);
        }
    }

    /// Queues an exchange to be resumed when the daemon wakes the loop.
    pub(super) fn mark_blocked(exchange: &Bound<'_, Exchange>) {
        let application = {
            let mut exchange = exchange.get().borrow_mut(exchange.py());
            if exchange.is_blocked {
                return;
            }
            exchange.is_blocked = true;
            exchange.application
        };
        application.exchanges(exchange.py()).blocked.push_back(exchange.clone().unbind());
        application.has_blocked.store(true, Ordering::Relaxed);
    }

    /// Frees the slot of an ended exchange. Keeps the exchange for reuse, or returns it with its
    /// functions: the caller drops them when nothing is borrowed.
    pub(super) fn release_exchange(
        &self,
        py: Python<'_>,
        (id, slot): (ExchangeId, u32),
        functions: Option<Functions>,
    ) -> (Option<Py<Exchange>>, Option<Functions>) {
        let exchanges: &mut Exchanges = &mut self.exchanges(py);
        exchanges.free_slots.push(slot);
        match (exchanges.running.remove(&id.0), functions) {
            (Some(exchange), Some(functions)) if exchanges.pool.len() < MAX_POOLED => {
                exchanges.pool.push(PooledExchange { exchange, functions });
                (None, None)
            }
            unpooled => unpooled,
        }
    }
}

/// The progress of a response or a WebSocket. A denied WebSocket takes the stages of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stage {
    /// The application has not sent `http.response.start`.
    Unstarted,
    /// The application has sent the start and no body; the head may have been sent to the daemon.
    Prepared,
    /// The application has sent a part of the body.
    Streaming,
    /// The application has sent the whole body and announced trailers.
    Trailing,
    /// The WebSocket is accepted and not closed.
    Open,
    /// The application has sent everything; some of it may still be pending.
    Ended,
    /// The application has returned and the slot is free.
    Done,
}

/// The request body received so far.
#[derive(Debug)]
pub(super) struct RequestBody {
    /// Parts that `receive()` has not returned yet.
    pub(super) parts: VecDeque<Py<PyBytes>>,
    /// The last part has arrived.
    pub(super) is_complete: bool,
    /// `receive()` has returned the event with `more_body: False`.
    pub(super) is_fully_received: bool,
    /// The body arrives in parts, limited by the window.
    pub(super) is_streamed: bool,
    /// Bytes that `receive()` has returned.
    pub(super) received_bytes: u64,
    /// Offset up to which the daemon may send.
    pub(super) window_end: u64,
}

/// The kind of an outgoing payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PayloadKind {
    /// A part of a response body.
    Body {
        /// The part ends the response.
        end: bool,
    },
    /// A WebSocket message.
    Message {
        /// A text message; else binary.
        text: bool,
    },
}

/// A payload that waits for credit or chunks. `start..end` has not been sent.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) bytes: Py<PyBytes>,
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) kind: PayloadKind,
}

/// The `receive` and `send` functions of an exchange. They and the exchange refer to each other
/// until the exchange ends. (The exchange of a WebSocket, which may last for days, does not keep
/// them, and is never pooled.)
#[derive(Debug)]
pub(super) struct Functions {
    pub(super) receive: Py<PyAny>,
    pub(super) send: Py<PyAny>,
}

/// An ended exchange with its functions, for reuse.
#[derive(Debug)]
pub(super) struct PooledExchange {
    pub(super) exchange: Py<Exchange>,
    pub(super) functions: Functions,
}

/// An exchange: one request or WebSocket.
#[pyclass(frozen, module = "rgun")]
#[derive(Debug)]
pub(crate) struct Exchange(pub(super) GilCell<ExchangeState>);

/// The state of an exchange.
#[derive(Debug)]
pub(crate) struct ExchangeState {
    pub(super) application: &'static Application,
    pub(super) id: ExchangeId,
    pub(super) slot: u32,
    /// Start time, `CLOCK_MONOTONIC`, nanoseconds.
    pub(super) started_ns: u64,
    pub(super) stage: Stage,
    pub(super) response: ResponseState,
    pub(super) body: RequestBody,
    /// State of a WebSocket; `None` for a request.
    pub(super) websocket: Option<Box<WebSocket>>,
    /// The client has disconnected, or has received a 504.
    pub(super) is_disconnected: bool,
    /// The client has closed its sending half; it may still wait for the response.
    pub(super) is_half_closed: bool,
    /// The exchange is in [`Exchanges::blocked`].
    pub(super) is_blocked: bool,
    /// Futures of waiting `receive()` calls.
    pub(super) receivers: Vec<Py<PyAny>>,
    /// Futures of waiting `send()` calls.
    pub(super) senders: Vec<Py<PyAny>>,
    /// The asyncio task; `None` before it is created and after it has ended.
    pub(super) task: Option<Py<PyAny>>,
    /// Kept for the next exchange; `None` before the first task, and without `log.records`.
    pub(super) context: Option<Box<RequestContext>>,
    /// `None` once the exchange has ended, and for a WebSocket once the application is called.
    pub(super) functions: Option<Functions>,
}

/// The state of a response, and of the outgoing messages of a WebSocket.
#[derive(Debug)]
pub(super) struct ResponseState {
    /// The request's method is HEAD.
    pub(super) is_for_head: bool,
    pub(super) head: ResponseHead,
    /// Encoded fields of the head; empty once they are sent.
    pub(super) encoded_fields: Vec<u8>,
    pub(super) is_head_sent: bool,
    /// The head was sent alone and ended the response: a 204, a 304, or a `Content-Length` of 0.
    pub(super) ends_with_head: bool,
    /// Encoded trailers received from the application so far.
    pub(super) encoded_trailers: Vec<u8>,
    /// Number of fields in `encoded_trailers`.
    pub(super) n_trailers: u16,
    /// The application has announced trailers, and they have not been sent yet.
    pub(super) has_trailers: bool,
    /// Body bytes accepted from the application.
    pub(super) body_bytes: u64,
    pub(super) pending: Option<Pending>,
    /// Ring position of the frame that ended the response: DONE is added to that frame if the
    /// daemon has not popped it when the application returns.
    pub(super) end_position: Option<Position>,
    /// The application has returned while a payload is pending; the exchange ends when the payload
    /// is sent.
    pub(super) finish_deferred: bool,
}

impl Exchange {
    /// Borrows the state.
    ///
    /// # Panics
    /// If the exchange is borrowed mutably.
    pub(super) fn borrow<'a>(&'a self, py: Python<'a>) -> Ref<'a, ExchangeState> {
        self.0.borrow(py)
    }

    /// Borrows the state mutably.
    ///
    /// # Panics
    /// If the exchange is borrowed.
    pub(super) fn borrow_mut<'a>(&'a self, py: Python<'a>) -> RefMut<'a, ExchangeState> {
        self.0.borrow_mut(py)
    }

    /// Borrows the state.
    ///
    /// # Errors
    /// If the exchange is borrowed mutably.
    pub(super) fn try_borrow<'a>(&'a self, py: Python<'a>) -> PyResult<Ref<'a, ExchangeState>> {
        self.0.try_borrow(py)
    }

    /// Borrows the state mutably.
    ///
    /// # Errors
    /// If the exchange is borrowed.
    pub(super) fn try_borrow_mut<'a>(&'a self, py: Python<'a>) -> PyResult<RefMut<'a, ExchangeState>> {
        self.0.try_borrow_mut(py)
    }

    /// Removes the Future of a cancelled wait from the list that `list` selects. Otherwise an
    /// application that polls `receive()` (Starlette's `Request.is_disconnected`) would accumulate
    /// Futures for as long as the exchange lasts.
    pub(super) fn forget_future(
        slf: &Bound<'_, Self>,
        future: &Py<PyAny>,
        list: impl FnOnce(&mut ExchangeState) -> &mut Vec<Py<PyAny>>,
    ) {
        if let Ok(mut exchange) = slf.get().try_borrow_mut(slf.py()) {
            list(&mut exchange).retain(|waiting| !waiting.is(future));
        }
    }
}

impl ExchangeState {
    /// Returns the functions for the call of the application.
    pub(super) fn take_functions(&mut self, py: Python<'_>) -> Functions {
        let functions = self.functions.take().expect("the application is called once");
        if self.websocket.is_none() {
            let Functions { receive, send } = &functions;
            self.functions = Some(Functions { receive: receive.clone_ref(py), send: send.clone_ref(py) });
        }
        functions
    }
}

/// Builds hashers for exchange ids. The ids are consecutive, so a multiplication is a sufficient
/// hash.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct BuildIdHasher;

impl std::hash::BuildHasher for BuildIdHasher {
    type Hasher = IdHasher;

    fn build_hasher(&self) -> IdHasher {
        IdHasher(0)
    }
}

/// The hasher of [`BuildIdHasher`].
#[derive(Debug)]
pub(crate) struct IdHasher(u64);

impl std::hash::Hasher for IdHasher {
    fn finish(&self) -> u64 {
        // Spread over all bits: the table takes control bytes from the top bits and buckets from
        // the bottom bits.
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id;
    }
}

/// Formats the stack of lifespan's task, with a headline. `None` unless lifespan's startup or shutdown
/// runs. Called from a thread other than the event loop's.
///
/// # Errors
/// The Python exception if the stack cannot be formatted.
pub(crate) fn lifespan_stack(py: Python<'_>) -> PyResult<Option<String>> {
    // A WSGI worker has not loaded the module.
    let Some(module) = MODULE.get(py) else { return Ok(None) };
    module.bind(py).call_method0(intern!(py, "lifespan_stack"))?.extract()
}

/// The module `asgi.py`, once it is loaded.
static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();

/// Returns the module `asgi.py`; loads it at the first call.
pub(super) fn python_module(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    embedded_module(py, &MODULE, include_str!("../asgi.py"), c"<rgun>/asgi.py", c"rgun_worker.asgi")
}
