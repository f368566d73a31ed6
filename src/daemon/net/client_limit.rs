//! `limits.connections_per_client`: counts connections per client address and rejects a client that
//! has too many.
//!
//! If there is no limit, nothing is counted. The tracker calls this module under its lock.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use super::peer::Peer;

/// Connections per client, counted while there is a limit.
#[derive(Debug, Default)]
pub(super) struct ClientLimit {
    /// `None`: no limit, nothing is counted.
    max_per_client: Option<NonZeroU32>,
    counts: HashMap<IpAddr, u32>,
    rejected: Rejected,
}

/// Connections rejected since the last log line.
#[derive(Debug, Default)]
struct Rejected {
    /// Address of the client that was rejected last.
    client: String,
    count: u64,
    /// Earliest time of the next log line; `None` before the first.
    next_report: Option<Instant>,
}

/// Minimum interval between two log lines about rejected connections.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

impl ClientLimit {
    /// Replaces the limit. `open` are the clients of all open connections; they are counted if
    /// there was no limit before.
    pub(super) fn set_limit<'p>(&mut self, max: Option<NonZeroU32>, open: impl Iterator<Item = &'p Peer>) {
        if self.max_per_client.is_some() != max.is_some() {
            self.counts.clear();
        }
        let is_new = self.max_per_client.is_none() && max.is_some();
        self.max_per_client = max;
        if is_new {
            for peer in open {
                self.add(peer);
            }
        }
    }

    /// Returns false if the client has reached the limit, and records the rejection for the log.
    pub(super) fn admit(&mut self, peer: &Peer) -> bool {
        let Some(max) = self.max_per_client else { return true };
        let Some(client) = client_key(peer) else { return true };
        if self.counts.get(&client).is_none_or(|count| *count < max.get()) {
            return true;
        }
        self.rejected.count += 1;
        self.rejected.client.clone_from(&peer.address);
        false
    }

    /// Counts a registered connection.
    pub(super) fn add(&mut self, peer: &Peer) {
        if self.max_per_client.is_some()
            && let Some(client) = client_key(peer)
        {
            *self.counts.entry(client).or_default() += 1;
        }
    }

    /// Removes a closed connection from its client's count.
    pub(super) fn remove(&mut self, peer: &Peer) {
        if self.max_per_client.is_none() {
            return;
        }
        let Some(client) = client_key(peer) else { return };
        if let Some(count) = self.counts.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&client);
            }
        }
    }

    /// True if a rejection is still to be logged.
    pub(super) fn has_unreported_rejection(&self) -> bool {
        self.rejected.count > 0 && self.max_per_client.is_some()
    }

    /// Returns the next log line about rejected connections, if one is due.
    pub(super) fn report(&mut self, now: Instant) -> Option<String> {
        let Rejected { client, count, next_report: next } = &mut self.rejected;
        if *count == 0 || next.is_some_and(|next| now < next) {
            return None;
        }
        let max = self.max_per_client?;
        *next = Some(now + REPORT_INTERVAL);
        let count = std::mem::take(count);
        let plural = if count == 1 { " was" } else { "s were" };
        Some(format!(
            "{count} connection{plural} closed at once, most recently one from {client}, which has {max} open, the maximum \
             of limits.connections_per_client"
        ))
    }
}

/// Returns the key under which a client's connections are counted. An IPv6 host may use any address
/// of its /64 network (RFC 8981), so the network is the key. `None` for a unix socket, whose
/// clients are not limited.
fn client_key(peer: &Peer) -> Option<IpAddr> {
    match peer.ip? {
        IpAddr::V6(address) => Some(IpAddr::V6((address.to_bits() >> 64 << 64).into())),
        address @ IpAddr::V4(_) => Some(address),
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::ConnectionLimits;
    use super::super::tracker::ConnectionTracker;
    use super::*;

    fn peer(address: &str) -> Peer {
        std::net::SocketAddr::new(address.parse().unwrap(), 1).into()
    }

    fn limited(max: u32) -> ClientLimit {
        let mut counts = ClientLimit::default();
        counts.set_limit(NonZeroU32::new(max), std::iter::empty());
        counts
    }

    #[test]
    fn a_closed_connection_lets_its_client_open_another() {
        let mut counts = limited(2);
        for _ in 0..2 {
            assert!(counts.admit(&peer("192.0.2.1")));
            counts.add(&peer("192.0.2.1"));
        }
        assert!(!counts.admit(&peer("192.0.2.1")));
        assert!(counts.admit(&peer("192.0.2.2")));
        counts.remove(&peer("192.0.2.1"));
        assert!(counts.admit(&peer("192.0.2.1")));
    }

    #[test]
    fn an_ipv6_network_is_one_client_and_unix_has_no_limit() {
        let mut counts = limited(1);
        counts.add(&peer("2001:db8:0:1::1"));
        assert!(!counts.admit(&peer("2001:db8:0:1:ffff::2")));
        assert!(counts.admit(&peer("2001:db8:0:2::1")));
        counts.add(&Peer::unix());
        assert!(counts.admit(&Peer::unix()));
    }

    #[test]
    fn a_limit_set_by_a_reload_counts_open_connections() {
        let limits = ConnectionLimits {
            response_rate: None,
            header: Duration::from_secs(10),
            keepalive: Duration::from_secs(75),
            write: Duration::from_mins(1),
            connections: 10,
            per_client: None,
        };
        let connections = ConnectionTracker::new(limits);
        let client = peer("192.0.2.1");
        let open = connections.register(client.clone().into(), 0);
        assert!(connections.admit(&client));
        connections.set_limits(ConnectionLimits { per_client: NonZeroU32::new(1), ..limits });
        assert!(!connections.admit(&client));
        drop(open);
        assert!(connections.admit(&client));
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let mut counts = limited(1);
        counts.add(&peer("192.0.2.1"));
        counts.set_limit(None, std::iter::empty());
        counts.add(&peer("192.0.2.1"));
        assert!(counts.admit(&peer("192.0.2.1")) && counts.counts.is_empty());
        // A connection that was never counted is closed.
        counts.remove(&peer("192.0.2.1"));
        assert_eq!(counts.report(Instant::now()), None);
    }

    #[test]
    fn rejections_are_reported_at_once_then_every_ten_seconds() {
        let mut counts = limited(1);
        counts.add(&peer("192.0.2.1"));
        let now = Instant::now();
        assert!(!counts.admit(&peer("192.0.2.1")));
        let line = counts.report(now).expect("the first");
        assert!(
            line.starts_with("1 connection was closed at once, most recently one from 192.0.2.1, "),
            "{line}"
        );
        for _ in 0..50 {
            assert!(!counts.admit(&peer("192.0.2.1")));
            assert_eq!(counts.report(now + Duration::from_secs(9)), None);
        }
        let line = counts.report(now + Duration::from_secs(10)).expect("the rest");
        assert!(line.starts_with("50 connections were closed"), "{line}");
        assert_eq!(counts.report(now + Duration::from_mins(1)), None);
    }
}
