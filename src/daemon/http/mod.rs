//! HTTP/1.1 (RFC 9112) on the daemon's side: hyper parses and writes, this turns requests into exchanges and
//! answers into responses.
//!
//! `edge` calls [`serve`] with each accepted stream. Only [`fault`] chooses status codes of the daemon's own.

mod answer;
mod body;
mod conn;
mod context;
pub mod fault;
mod forwarded;
mod framing;
mod handshake;
mod head;
mod pace;
mod request;
mod request_id;
mod response;
mod service;
mod spool;
mod submit;
mod upload;
mod wire;

pub use conn::serve;
pub use context::{Limits, Server, Settings, Underscores};
pub use forwarded::TrustedPeers;
