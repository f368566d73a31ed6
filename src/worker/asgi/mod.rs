//! ASGI 3: an event loop on the main thread that serves as many exchanges at once as there are slots.
//!
//! [`mod@run`] makes the loop and runs lifespan, [`turn`] claims frames and begins exchanges, [`scope`] makes the dictionary
//! that describes a request. An [`exchange`] is what its `receive` ([`receive`]) and `send` ([`send`]) share;
//! [`response`] turns messages into frames, [`head`] checks status and headers, [`heads`] sends those that wait for no
//! body; [`websocket`] is what is different for
//! WebSockets. What is clearer in Python and not hot
//! is in `asgi.py`. uvicorn's behaviour is the reference: texts of errors, order of keys, what is ignored and what is
//! refused.
//!
//! # Without a Future
//! `receive()` and `send()` return awaitables that are done at once if there is something to receive, and room to send;
//! only if they have to wait is a `Future` made. They have the methods of coroutines, so that
//! `asyncio.create_task(receive())` works as with uvicorn.
//!
//! # Waiting
//! Nothing here blocks: what finds no room, credit or chunk stays where it is, its `send()` waits, and the daemon rings
//! the worker's eventfd, which the loop watches. Frames that must go and find no room wait in the outbox.

mod awaitable;
mod exchange;
mod head;
mod heads;
mod outbox;
mod receive;
mod response;
mod run;
mod scope;
mod send;
mod turn;
mod websocket;

use std::cell::RefMut;
use std::sync::atomic::AtomicBool;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyModule;
use rgun_channel::frame::ExchangeId;

use crate::attached::Attached;
use crate::python::load_module;
use crate::worker::Worker;
use awaitable::Sent;
use exchange::{Exchange, Spare};
use heads::Heads;
use outbox::Outbox;
use receive::Events;
use scope::{Recent, Scopes};
use turn::Loop;

pub(crate) use run::run;

/// The application, its event loop, and everything that is the same for all its requests. Leaked: lives as long as the
/// process.
#[derive(Debug)]
pub(crate) struct Application {
    pub(crate) worker: &'static Worker,
    /// ASGI 3, whatever the project has.
    callable: Py<PyAny>,
    /// `asgi.py`'s coroutine function that calls it and tells how that ended.
    call: Py<PyAny>,
    /// The same for WebSockets.
    call_websocket: Py<PyAny>,
    event_loop: Loop,
    scopes: Scopes,
    /// For the scopes; away while one is made.
    recent: Attached<Option<Recent>>,
    events: Events,
    websockets: websocket::Constants,
    outbox: Outbox,
    names: send::Names,
    /// What `send()` returns when nothing is left to wait for.
    sent: Py<Sent>,
    exchanges: Attached<Exchanges>,
    /// The frame that is being made.
    scratch: Attached<Vec<u8>>,
    /// The frame that was claimed.
    claimed: Attached<Vec<u8>>,
    /// An exchange waits for credit or space.
    is_held_up: AtomicBool,
}

/// Those that run.
#[derive(Debug)]
struct Exchanges {
    running: std::collections::HashMap<u64, Py<Exchange>, Ids>,
    free: Vec<u32>,
    /// Of those that run: what waits for credit, room or chunks, who has waited longest first.
    held_up: std::collections::VecDeque<Py<Exchange>>,
    /// So many of them have not been looked at since the daemon has rung.
    unseen: usize,
    /// Of those that run: whose heads are here and have not gone out.
    heads: Heads,
    /// The last ones that are over.
    spares: Vec<Spare>,
}

impl Application {
    fn exchanges<'a>(&'a self, py: Python<'a>) -> RefMut<'a, Exchanges> {
        self.exchanges.borrow_mut(py)
    }

    fn exchange<'py>(&self, py: Python<'py>, id: ExchangeId) -> Option<Bound<'py, Exchange>> {
        self.exchanges(py).running.get(&id.0).map(|exchange| exchange.bind(py).clone())
    }

    /// Exchanges that run.
    fn n_running(&self, py: Python<'_>) -> usize {
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
fn python_half(py: Python<'_>) -> PyResult<&Bound<'_, PyModule>> {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    load_module(py, &MODULE, include_str!("../asgi.py"), c"<rgun>/asgi.py", c"rgun_worker.asgi")
}
