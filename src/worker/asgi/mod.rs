//! ASGI 3: an event loop on the main thread that serves as many exchanges at once as there are slots.
//!
//! [`mod@run`] makes the loop and runs lifespan, [`tick`] claims frames and begins exchanges ([`create`]), [`scope`] makes the
//! dictionary that describes a request. [`state`] has the application and its exchanges, [`exchange`] what happens to
//! them; the application calls [`receive`] and [`send`]. [`response`] turns messages into frames, [`head`] checks status
//! and headers, [`deferred_heads`] has those that wait for a body; [`websocket`] is what is different for WebSockets. What is
//! clearer in Python and not hot is in `asgi.py`. uvicorn's behaviour is the reference: texts of errors, order of keys, what is ignored and what is
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
mod create;
mod deferred_heads;
mod event_loop;
mod event_templates;
mod exchange;
mod head;
mod message;
mod message_types;
mod outbox;
mod receive;
mod response;
mod run;
mod scope;
mod send;
mod state;
mod tick;
mod websocket;

pub(crate) use run::run;
pub(crate) use state::Application;
