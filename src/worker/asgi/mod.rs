//! ASGI 3: an event loop on the main thread that serves as many concurrent exchanges as there are
//! slots.
//!
//! [`mod@run`] creates the loop and runs lifespan. [`tick`] claims submissions and starts exchanges
//! ([`create`]) with their scopes ([`scope`]); [`exchange`] handles the events of a running
//! exchange. The application calls [`receive`] and [`send`]. [`response`] encodes messages as
//! frames, [`pathsend`] and [`zerocopysend`] send files, [`head`] checks status and headers,
//! [`last_head`] repeats the encoding of the last head, [`deferred_heads`] holds heads that wait
//! for their bodies, [`outbox`] holds frames that wait for ring space. [`websocket`] has the code
//! that only WebSockets need. [`state`] has the data of all these modules. [`request_context`] has the
//! contexts of requests' tasks. `asgi.py` has the code that is clearer in Python and seldom runs.
//!
//! uvicorn's behaviour is the reference: error texts, the order of keys, which messages
//! and headers are ignored, and which are refused.
//!
//! # Awaitables without Futures
//! The awaitables of `receive()` and `send()` complete at once if there is an event, or space to
//! send. Only a wait creates a `Future`. The awaitables have the methods of coroutines, so
//! `asyncio.create_task(receive())` works as with uvicorn.
//!
//! # Flow control
//! Nothing here blocks the thread. A payload that finds no ring space, credit or chunks stays in
//! its exchange. Its `send()` waits. When there is room again, the daemon writes to the worker's
//! eventfd, which the loop watches.

mod awaitable;
mod collection;
mod completed_send;
mod create;
mod deferred_heads;
mod event_loop;
mod event_templates;
mod exchange;
mod head;
mod last_head;
mod last_scope;
mod loop_flags;
mod message;
mod message_types;
mod outbox;
mod pathsend;
mod receive;
mod request_context;
mod response;
mod run;
mod scope;
mod send;
mod state;
mod tick;
mod tls_scope;
mod websocket;
mod zerocopysend;

pub(crate) use run::run;
pub(crate) use state::{Application, lifespan_stack};
