//! The HTTP server: turns requests into exchanges and the application's responses into HTTP responses.
//!
//! `edge` calls [`serve`] with each accepted stream. hyper parses and writes the messages. The wire format of HTTP/1 is
//! handled in [`h1`]: the checks before hyper sees a message, and what hyper does not write.

mod access_log;
mod body;
mod compression;
mod conn;
mod context;
mod error_page;
pub mod fault;
mod file_server;
mod first_boot;
mod forwarded;
mod h1;
mod handshake;
mod head;
mod health;
mod request;
mod request_id;
mod request_meta;
mod response;
mod response_future;
mod service;
mod takeover;
mod trace_context;

pub use compression::policy::CompressionPolicy;
pub use conn::{refuse_plain_http, serve};
pub use context::{RequestLimits, Server, Settings, UnderscorePolicy};
pub use error_page::ErrorPages;
pub use file_server::FileSettings;
pub use forwarded::{ForwardedField, ForwardingHeaders, ForwardingSettings};
pub use health::HealthPaths;
