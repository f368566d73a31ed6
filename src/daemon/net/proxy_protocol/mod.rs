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
use std::time::{Duration, Instant};

use super::peer::Peer;
use super::trusted::TrustedPeers;

/// Minimum interval between two log lines about rejected connections of a listener.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// The PROXY protocol on one listener. A reload changes it for new connections.
#[derive(Debug, Default)]
pub struct ProxyProtocol {
    is_required: AtomicBool,
    trusted: Mutex<TrustedPeers>,
    rejected: Mutex<RejectedHeaders>,
}

/// Connections rejected since the last log line.
#[derive(Debug, Default)]
struct RejectedHeaders {
    count: u64,
    /// Earliest time of the next log line; `None` before the first.
    next_report: Option<Instant>,
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

    /// Logs at a limited rate that a connection is closed because its header is missing, invalid or
    /// not allowed.
    pub(super) fn report(&self, listener: &str, peer: &Peer, reason: &str) {
        let Some(count) = self.count_rejected(Instant::now()) else { return };
        let peer = if peer.address.is_empty() { "a unix socket" } else { &peer.address };
        let plural = if count == 1 { "" } else { "s" };
        tracing::warn!(rgun.listener = %listener,
            "closed {count} connection{plural} to {listener}, the last from {peer}: {reason}");
    }

    /// Counts a rejected connection. Returns the number since the last log line if the next one is
    /// due.
    fn count_rejected(&self, now: Instant) -> Option<u64> {
        let mut rejected = lock(&self.rejected);
        rejected.count += 1;
        if rejected.next_report.is_some_and(|next| now < next) {
            return None;
        }
        rejected.next_report = Some(now + REPORT_INTERVAL);
        Some(std::mem::take(&mut rejected.count))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejections_are_counted_between_log_lines() {
        let protocol = ProxyProtocol::default();
        let now = Instant::now();
        assert_eq!(protocol.count_rejected(now), Some(1));
        for _ in 0..4 {
            assert_eq!(protocol.count_rejected(now + Duration::from_secs(9)), None);
        }
        assert_eq!(protocol.count_rejected(now + REPORT_INTERVAL), Some(5));
    }

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
