//! The PROXY protocol (versions 1 and 2): a proxy sends the client's address before the first byte
//! of its connection.
//!
//! `accept` reads the header before TLS and HTTP read from the socket. A listener with
//! `proxy_protocol` requires the header on each connection; if it were optional, any client could
//! choose its own address. Connections of peers that are not in `proxy.protocol_trusted` are
//! closed.

mod header;
mod receive;

pub(super) use header::ProxyHeader;
pub(super) use receive::{ReceiveError, receive};

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::peer::Peer;
use super::trusted::TrustedPeers;

/// A connection that was closed because of its PROXY header.
#[derive(Debug)]
pub struct RejectedHeader {
    /// The peer's address. Empty on a unix socket.
    pub peer: String,
    /// The listener's name.
    pub listener: String,
    /// The reason.
    pub fault: HeaderFault,
}

/// The reason why a connection was closed; displayed as a clause for the log.
#[derive(Debug, thiserror::Error)]
pub enum HeaderFault {
    /// The peer may not send a header.
    #[error("proxy.protocol_trusted does not list the peer")]
    Untrusted,
    /// There was no header in time.
    #[error("its PROXY header did not arrive within timeouts.header")]
    Late,
    /// The daemon stopped when only a part of the header had arrived.
    #[error("the daemon stopped before its PROXY header was complete")]
    Stopped,
    /// The header is malformed or incomplete, or there is none.
    #[error("{0}")]
    Invalid(String),
}

/// The PROXY protocol on one listener. A reload changes it for new connections.
#[derive(Debug, Default)]
pub struct ProxyProtocol {
    is_required: AtomicBool,
    trusted: Mutex<TrustedPeers>,
}

impl ProxyProtocol {
    /// Requires a header, which only these peers may send; with `None`, the listener's connections
    /// have no header.
    pub fn set(&self, senders: Option<TrustedPeers>) {
        let is_required = senders.is_some();
        if let Some(senders) = senders {
            *lock(&self.trusted) = senders;
        }
        self.is_required.store(is_required, Ordering::Release);
    }

    /// True if each connection begins with a header.
    pub(super) fn is_required(&self) -> bool {
        self.is_required.load(Ordering::Acquire)
    }

    pub(super) fn trusts(&self, peer: &Peer) -> bool {
        lock(&self.trusted).trusts(peer.ip)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_replaces_the_senders_and_turns_the_header_off() {
        let protocol = ProxyProtocol::default();
        assert!(!protocol.is_required());
        protocol.set(Some(TrustedPeers { unix: true, ..TrustedPeers::default() }));
        assert!(protocol.is_required() && protocol.trusts(&Peer::unix()));
        protocol.set(None);
        assert!(!protocol.is_required());
    }
}
