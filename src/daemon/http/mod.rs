//! The HTTP server: turns requests into exchanges and the application's responses into HTTP responses.
//!
//! `edge` calls [`serve`] with each accepted stream. hyper parses and writes the messages. The wire format of HTTP/1 is
//! handled in [`h1`]: the checks before hyper sees a message, and what hyper does not write.

mod access_log;
mod body;
mod conn;
mod context;
pub mod fault;
mod file_server;
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
pub use file_server::FileSettings;
pub use forwarded::TrustedPeers;
