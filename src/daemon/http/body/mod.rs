//! Bodies of requests on their way to a worker, and of responses on their way to the client.
//!
//! A WSGI request's body is received whole ([`receive`]) and spooled if large ([`spool`]); an ASGI
//! request's body is forwarded as the application reads it ([`stream`]). A response's body
//! ([`response`]) comes from memory, a worker, or a file ([`mod@file`]).

pub(super) mod client;
pub(super) mod error;
pub(super) mod file;
pub(super) mod multipart;
pub(super) mod rate;
pub(super) mod receive;
pub(super) mod response;
pub(super) mod spool;
pub(super) mod stream;
