//! The HTTP server: turns requests into exchanges and the application's responses into HTTP
//! responses.
//!
//! `edge` calls [`serve`] with each accepted stream. For HTTP/1, hyper parses and writes the
//! messages; [`h1`] checks the messages before hyper does, and encodes the 103 responses that hyper
//! cannot write. For HTTP/2, the h2 crate and [`h2`] take these roles.

mod access_details;
mod access_log;
mod body;
mod close_guard;
mod compression;
mod conn;
mod context;
mod error_page;
mod failure_page;
pub mod fault;
mod file_server;
mod first_boot;
mod forwarded;
mod h1;
mod h2;
mod handshake;
mod head;
mod health;
mod https;
mod load_failure;
mod request;
mod request_id;
mod request_meta;
mod response;
mod response_future;
mod submit;
mod takeover;
mod trace_context;

pub use access_log::{log_failed_handshake, log_rejected_header};
pub use compression::policy::CompressionPolicy;
pub use conn::{refuse_lost_request, refuse_plain_http, resume, serve, serve_negotiated};
pub use context::{AccessSettings, Http2Settings, RequestLimits, Server, Settings, UnderscorePolicy};
pub use error_page::ErrorPages;
pub use failure_page::FailurePage;
pub use file_server::FileSettings;
pub use forwarded::{ForwardedField, ForwardingHeaders, ForwardingSettings};
pub use health::HealthPaths;
pub use https::HttpsPolicy;
pub use load_failure::LoadFailure;
