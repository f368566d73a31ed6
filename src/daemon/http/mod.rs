//! HTTP/1.1 (RFC 9112) on the daemon's side: hyper parses and writes, this turns requests into exchanges and
//! answers into responses.
//!
//! `edge` calls [`serve`] with each accepted stream. Only [`fault`] chooses status codes of the daemon's own.

mod answer;
mod body;
pub mod fault;
mod forwarded;
mod framing;
mod handshake;
mod head;
mod pace;
mod request_id;
mod response;
mod server;
mod spool;
mod submit;
mod upload;
mod wire;

/// Bytes of one body, either way, before others have their turn: a fraction of a millisecond.
const TURN: usize = 256 * 1024;

pub use forwarded::TrustedPeers;
pub use server::{Limits, Server, Settings, Underscores, serve};
