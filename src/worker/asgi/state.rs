//! The application and its exchanges: their data, and the tables by which the application finds an exchange.
//!
//! The two types refer to each other, so they are in one file, below all that works on them: [`super::begin`],
//! [`super::exchange`], [`super::receive`], [`super::send`], [`super::response`] and [`super::turn`].
//!
//! An [`Exchange`] is borrowed for a few instructions at a time and never while Python code of others runs, so that an
//! application may call its functions from wherever it likes.
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
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyModule};
use rgun_channel::frame::ExchangeId;
use rgun_channel::ring::Position;

use super::awaitable::Sent;
use super::event_loop::Loop;
use super::events::Events;
use super::heads::Heads;
use super::names::Names;
use super::outbox::Outbox;
use super::scope::{ScopeCache, Scopes};
use super::websocket::{Constants, WebSocket};
use crate::gil_cell::GilCell;
use crate::head::ResponseHead;
use crate::python::embedded_module;
use crate::worker::Worker;

/// The application, its event loop, and everything that is the same for all its requests. Leaked: lives as long as the
/// process.
#[derive(Debug)]
pub(crate) struct Application {
    pub(crate) worker: &'static Worker,
    /// ASGI 3, whatever the project has.
    pub(super) callable: Py<PyAny>,
    /// `asgi.py`'s coroutine function that calls it and tells how that ended.
    pub(super) call: Py<PyAny>,
    /// The same for WebSockets.
    pub(super) call_websocket: Py<PyAny>,
    pub(super) event_loop: Loop,
    pub(super) scopes: Scopes,
    /// For the scopes; away while one is made.
    pub(super) recent: GilCell<Option<ScopeCache>>,
    pub(super) events: Events,
    pub(super) websockets: Constants,
    pub(super) outbox: Outbox,
    pub(super) names: Names,
    /// What `send()` returns when nothing is left to wait for.
    pub(super) sent: Py<Sent>,
    pub(super) exchanges: GilCell<Exchanges>,
    /// The frame that is being made.
    pub(super) scratch: GilCell<Vec<u8>>,
    /// The frame that was claimed.
    pub(super) claimed: GilCell<Vec<u8>>,
    /// An exchange waits for credit or space.
    pub(super) is_held_up: AtomicBool,
}

/// Those that run.
#[derive(Debug)]
pub(super) struct Exchanges {
    pub(super) running: std::collections::HashMap<u64, Py<Exchange>, Ids>,
    pub(super) free: Vec<u32>,
    /// Of those that run: what waits for credit, room or chunks, who has waited longest first.
    pub(super) held_up: VecDeque<Py<Exchange>>,
    /// So many of them have not been looked at since the daemon has rung.
    pub(super) unseen: usize,
    /// Of those that run: whose heads are here and have not gone out.
    pub(super) heads: Heads,
    /// The last ones that are over.
    pub(super) spares: Vec<Spare>,
}

/// Most exchanges that are over and wait for others to take their places.
const MOST_SPARES: usize = 64;

impl Application {
    /// Those that run, and what is known of all of them.
    pub(super) fn exchanges<'a>(&'a self, py: Python<'a>) -> RefMut<'a, Exchanges> {
        self.exchanges.borrow_mut(py)
    }

    /// One that runs.
    pub(super) fn exchange<'py>(&self, py: Python<'py>, id: ExchangeId) -> Option<Bound<'py, Exchange>> {
        self.exchanges(py).running.get(&id.0).map(|exchange| exchange.bind(py).clone())
    }

    /// Exchanges that run.
    pub(super) fn n_running(&self, py: Python<'_>) -> usize {
        self.exchanges(py).running.len()
    }

    /// Where an exchange is, as text; nothing if it does not run. Called on another thread than the loop's.
    ///
    /// # Errors
    /// What Python says.
    pub(crate) fn stack_of(&self, py: Python<'_>, id: ExchangeId) -> PyResult<Option<String>> {
        let Some(exchange) = self.exchange(py, id) else { return Ok(None) };
        let task = {
            // Borrowed, it is about to wait for something of ours: there is no stack of the application's to be seen.
            let Ok(exchange) = exchange.get().try_borrow(py) else { return Ok(None) };
            // Not borrowed any longer than this: while Python code runs here, so may the loop.
            exchange.task.as_ref().map(|task| task.clone_ref(py))
        };
        // Without a task yet, it runs for the first time, inside of the making of its task.
        let arguments = (task, self.event_loop.object());
        python_half(py)?.call_method1(intern!(py, "stack_of"), arguments)?.extract().map(Some)
    }

    /// Something was sent: a turn has to follow that rings.
    pub(super) fn owe(&self, py: Python<'_>) {
        // Only the loop's thread writes it: cheaper than a swap.
        if !self.event_loop.will_ring.load(Ordering::Relaxed) {
            self.event_loop.will_ring.store(true, Ordering::Relaxed);
            self.schedule(py);
        }
    }

    /// Schedules a turn of the loop.
    pub(super) fn schedule(&self, py: Python<'_>) {
        let Some(turn) = self.event_loop.turn.get() else { return };
        if let Err(error) = self.event_loop.call_soon(py, turn) {
            // A signal handler's exception. (Or the loop is closed, and nobody listens.) The bell brings another turn.
            self.event_loop.will_ring.store(false, Ordering::Relaxed);
            self.worker.wake_loop();
            self.worker.on_signal_exception(py, error);
        }
    }

    /// Looks at an exchange again when the daemon rings.
    pub(super) fn hold_up(exchange: &Bound<'_, Exchange>) {
        let served = {
            let mut exchange = exchange.get().borrow_mut(exchange.py());
            if exchange.is_held_up {
                return;
            }
            exchange.is_held_up = true;
            exchange.served
        };
        served.exchanges(exchange.py()).held_up.push_back(exchange.clone().unbind());
        served.is_held_up.store(true, Ordering::Relaxed);
    }

    /// An exchange is over: a spare one, or to be dropped by the caller, with its functions.
    pub(super) fn remove(
        &self,
        py: Python<'_>,
        (id, slot): (ExchangeId, u32),
        functions: Option<Functions>,
    ) -> (Option<Py<Exchange>>, Option<Functions>) {
        let exchanges: &mut Exchanges = &mut self.exchanges(py);
        exchanges.free.push(slot);
        match (exchanges.running.remove(&id.0), functions) {
            (Some(exchange), Some(functions)) if exchanges.spares.len() < MOST_SPARES => {
                exchanges.spares.push(Spare { exchange, functions });
                (None, None)
            }
            over => over,
        }
    }
}

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

/// An exchange.
#[pyclass(frozen, module = "rgun")]
#[derive(Debug)]
pub(crate) struct Exchange(pub(super) GilCell<State>);

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
    pub(super) head: ResponseHead,
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

impl Exchange {
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

    /// Removes the Future of an abandoned wait from those `of` the exchange. An exchange may last for days, and an
    /// application may ask it again and again whether something has come (Starlette's `Request.is_disconnected`): Futures
    /// that stayed would eat memory.
    pub(super) fn forget_future(
        slf: &Bound<'_, Self>,
        future: &Py<PyAny>,
        of: impl FnOnce(&mut State) -> &mut Vec<Py<PyAny>>,
    ) {
        if let Ok(mut exchange) = slf.get().try_borrow_mut(slf.py()) {
            of(&mut exchange).retain(|waits| !waits.is(future));
        }
    }
}

impl State {
    /// For the call of the application.
    pub(super) fn functions(&mut self, py: Python<'_>) -> Functions {
        let functions = self.functions.take().expect("the application is called once");
        if self.websocket.is_none() {
            let Functions { receive, send } = &functions;
            self.functions = Some(Functions { receive: receive.clone_ref(py), send: send.clone_ref(py) });
        }
        functions
    }
}

/// Exchange ids are counted, so they are their own hashes.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Ids;

impl std::hash::BuildHasher for Ids {
    type Hasher = Id;

    fn build_hasher(&self) -> Id {
        Id(0)
    }
}

/// See [`Ids`].
#[derive(Debug)]
pub(crate) struct Id(u64);

impl std::hash::Hasher for Id {
    fn finish(&self) -> u64 {
        // The table takes its control bytes from the top, its buckets from the bottom.
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

/// `asgi.py`.
pub(super) fn python_half(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    embedded_module(py, &MODULE, include_str!("../asgi.py"), c"<rgun>/asgi.py", c"rgun_worker.asgi")
}
