//! Transport: listeners, the accept loop, and the bytes and timeouts of connections.
//!
//! `run` creates the [`Listener`]s, `edge` runs [`accept()`] and, if the listener has TLS, the
//! handshake ([`NewConnection`]), and `http` reads from and writes to a [`ClientStream`]. A
//! [`ConnectionTracker`] holds all connections, counts them and checks their timeouts.

mod accept;
mod adopt;
mod alarm;
mod client_limit;
mod coarse_clock;
mod connection;
mod detached;
mod directive;
mod eviction;
mod file_output;
mod hand_over;
mod handshake;
mod interim;
mod limits;
mod listener;
mod output;
mod parking;
mod peer;
mod phase;
mod proxy_protocol;
mod record_transport;
mod registry;
mod socket;
mod stream;
mod streams;
mod timeouts;
mod tls_socket;
mod tracker;
mod traffic;
mod trusted;

pub use accept::accept;
pub use adopt::{Adopted, StoredConnection};
pub use coarse_clock::coarse_ms;
pub use connection::{CloseReason, Connection};
pub use detached::{ConnectionRecord, DetachedConnection, StateError, cookie, decode, encode};
pub use file_output::{FileOutput, MAX_FILE_PART};
pub use handshake::{FailedHandshake, HandshakeOutcome, HandshakeThreads, ListenerTls, NewConnection};
pub use interim::InterimSlot;
pub use limits::ConnectionLimits;
pub use listener::{Acceptor, BindError, Listener};
pub use output::OutputProgress;
pub use peer::Peer;
pub use phase::Phase;
pub use proxy_protocol::{HeaderFault, ProxyProtocol, RejectedHeader};
pub use socket::ClientSocket;
pub use stream::{ClientStream, Transport};
pub use tracker::{ConnectionTotals, ConnectionTracker};
pub use traffic::ResponseTotals;
pub use trusted::TrustedPeers;
