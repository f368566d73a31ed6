//! HTTP/1.1 (RFC 9112) on the daemon's side: hyper parses and writes, this turns requests into exchanges and
//! answers into responses.
//!
//! `edge` calls [`serve`] with each accepted stream. Only [`fault`] chooses status codes of the daemon's own.

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
