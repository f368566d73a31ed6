//! TLS: reads certificates and keys, chooses the certificate of each handshake, and describes the
//! result.
//!
//! `run` and `check` load a [`TlsContext`]; `net` performs handshakes with it. rustls implements
//! the protocol with the cryptography of AWS-LC. A context is immutable. A reload loads another
//! context for new connections. Unless the requirements on clients have changed, both share the
//! keys of session tickets, so that clients can resume their sessions.
//!
//! | file | contents |
//! |---|---|
//! | `error.rs` | errors in the files |
//! | `pem.rs` | reading certificates and keys from PEM files |
//! | `identity.rs` | a certificate with its key, and checks of both |
//! | `names.rs` | the choice of a certificate by the client's server name |
//! | `clients.rs` | authorities of client certificates |
//! | `tickets.rs` | keys of session tickets |
//! | `context.rs` | the context |
//! | `handshake_fault.rs` | the reason of a failed handshake, for the log |
//! | `certificate_text.rs` | certificates as texts for applications |
//! | `session.rs` | the block of a request's frame that describes its TLS session |

mod certificate_text;
mod clients;
mod context;
mod error;
mod handshake_fault;
mod identity;
mod names;
mod pem;
mod session;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tickets;

pub use context::{LoadedTls, TlsContext};
pub use handshake_fault::HandshakeFault;
pub use identity::Identity;
pub use session::{SessionError, TlsSession};
