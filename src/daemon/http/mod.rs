//! The HTTP server: turns requests into exchanges and the application's responses into HTTP responses.
//!
//! `edge` calls [`serve`] with each accepted stream. hyper parses and writes messages; [`h1`] checks an HTTP/1 message
//! before hyper sees it. Everything outside of [`h1`] and [`conn`] is independent of the version of HTTP.

mod access_log;
mod body;
mod conn;
mod context;
pub mod fault;
mod forwarded;
mod h1;
mod handshake;
mod head;
mod request;
mod request_id;
mod request_meta;
mod response;
mod response_future;
mod service;

pub use conn::serve;
pub use context::{RequestLimits, Server, Settings, UnderscorePolicy};
pub use forwarded::TrustedPeers;
