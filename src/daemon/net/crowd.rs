//! What becomes of a new connection when there are many already: which other one is closed for it, and whether its
//! client has too many itself.
//!
//! Both cost nothing before it comes to that. Whose turn it is to be closed is found out for many at a time: to look at
//! all connections for each new one would be a way to keep the daemon busy.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::peer::Peer;

/// A connection that may be closed for a new one while it is idle.
pub(super) trait Evictable {
    /// The coarse time since which it has been idle; `None` if it must not be closed now.
    fn idle_since(&self, now: u32) -> Option<u32>;

    /// Returns whether it is in the same pause as when [`Idle::idle_since`] returned `since`.
    fn is_idle_since(&self, since: u32) -> bool;
}

/// Connections that may be closed for new ones, as of the last look at all of them.
#[derive(Debug)]
pub(super) struct EvictionCandidates<C> {
    /// The one that has been idle for longest last, with when that began.
    candidates: Vec<(u32, Weak<C>)>,
    /// Coarse time of the last look.
    scanned_at: Option<u32>,
}

/// So many are noted at a time.
const MAX_CANDIDATES: usize = 1024;

/// A look that finds few is not repeated earlier, in milliseconds.
const SCAN_INTERVAL_MS: u32 = 100;

impl<C> Default for EvictionCandidates<C> {
    fn default() -> Self {
        Self { candidates: Vec::new(), scanned_at: None }
    }
}

impl<C: Evictable> EvictionCandidates<C> {
    /// The one that has been idle for longest. `all` gives every connection; `now` is the coarse time.
    pub(super) fn take_longest_idle(
        &mut self,
        now: u32,
        all: impl FnOnce() -> Vec<Arc<C>>,
    ) -> Option<Arc<C>> {
        if let Some(connection) = self.take_candidate() {
            return Some(connection);
        }
        if self.scanned_at.is_some_and(|searched| now.wrapping_sub(searched) < SCAN_INTERVAL_MS) {
            return None;
        }
        self.scanned_at = Some(now);
        let mut idle: Vec<_> = all()
            .into_iter()
            .filter_map(|connection| Some((connection.idle_since(now)?, connection)))
            .map(|(since, connection)| (since, Arc::downgrade(&connection)))
            .collect();
        let age = |(since, _): &(u32, Weak<C>)| now.wrapping_sub(*since);
        if idle.len() > MAX_CANDIDATES {
            idle.select_nth_unstable_by_key(MAX_CANDIDATES, |entry| std::cmp::Reverse(age(entry)));
            idle.truncate(MAX_CANDIDATES);
        }
        idle.sort_unstable_by_key(age);
        self.candidates = idle;
        self.take_candidate()
    }

    fn take_candidate(&mut self) -> Option<Arc<C>> {
        while let Some((since, connection)) = self.candidates.pop() {
            // It may have served requests meanwhile, and be idle again.
            if let Some(connection) = connection.upgrade()
                && connection.is_idle_since(since)
            {
                return Some(connection);
            }
        }
        None
    }
}

/// How many connections each client has, while that is limited.
#[derive(Debug, Default)]
pub(super) struct ClientLimit {
    max_per_client: Option<NonZeroU32>,
    counts: HashMap<IpAddr, u32>,
    rejected: Rejected,
}

/// What was refused since the log was told.
#[derive(Debug, Default)]
struct Rejected {
    /// The last client, as its address is written.
    client: String,
    count: u64,
    /// Not before this is the log told again.
    next_report: Option<Instant>,
}

/// How often the log is told of connections that were refused.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

impl ClientLimit {
    /// A limit from now on; `open` are the clients of the connections that are open.
    pub(super) fn set_limit<'p>(&mut self, most: Option<NonZeroU32>, open: impl Iterator<Item = &'p Peer>) {
        if self.max_per_client.is_some() != most.is_some() {
            self.counts.clear();
        }
        let begins = self.max_per_client.is_none() && most.is_some();
        self.max_per_client = most;
        if begins {
            for peer in open {
                self.add(peer);
            }
        }
    }

    /// False when the client has as many connections as one may have; it is noted for the log then.
    pub(super) fn admit(&mut self, peer: &Peer) -> bool {
        let Some(most) = self.max_per_client else { return true };
        let Some(client) = client_key(peer) else { return true };
        if self.counts.get(&client).is_none_or(|count| *count < most.get()) {
            return true;
        }
        self.rejected.count += 1;
        self.rejected.client.clone_from(&peer.address);
        false
    }

    pub(super) fn add(&mut self, peer: &Peer) {
        if self.max_per_client.is_some()
            && let Some(client) = client_key(peer)
        {
            *self.counts.entry(client).or_default() += 1;
        }
    }

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

    /// The line for the log, if there is something to say and it is time to.
    pub(super) fn report(&mut self, now: Instant) -> Option<String> {
        let Rejected { client, count, next_report: next } = &mut self.rejected;
        if *count == 0 || next.is_some_and(|next| now < next) {
            return None;
        }
        let most = self.max_per_client?;
        *next = Some(now + REPORT_INTERVAL);
        let count = std::mem::take(count);
        let plural = if count == 1 { " was" } else { "s were" };
        Some(format!(
            "{count} connection{plural} closed at once, the last of {client}: its client has {most} open, as many as \
             limits.connections_per_client allows"
        ))
    }
}

/// Whom an address stands for. An IPv6 host may use any address of its network of 64 bits (RFC 8981), so that counts as
/// one; somebody on a unix socket is none.
fn client_key(peer: &Peer) -> Option<IpAddr> {
    match peer.ip? {
        IpAddr::V6(address) => Some(IpAddr::V6((address.to_bits() >> 64 << 64).into())),
        address @ IpAddr::V4(_) => Some(address),
    }
}

#[cfg(test)]
mod tests {
    use super::super::connection::{Connection, ConnectionTracker};
    use super::super::limits::ConnectionLimits;
    use super::*;

    fn peer(address: &str) -> Peer {
        std::net::SocketAddr::new(address.parse().unwrap(), 1).into()
    }

    fn limited(most: u32) -> ClientLimit {
        let mut counts = ClientLimit::default();
        counts.set_limit(NonZeroU32::new(most), std::iter::empty());
        counts
    }

    #[test]
    fn a_client_may_have_so_many_and_one_more_when_one_has_ended() {
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
    fn an_ipv6_network_is_one_client_and_a_unix_socket_none() {
        let mut counts = limited(1);
        counts.add(&peer("2001:db8:0:1::1"));
        assert!(!counts.admit(&peer("2001:db8:0:1:ffff::2")));
        assert!(counts.admit(&peer("2001:db8:0:2::1")));
        counts.add(&Peer::unix());
        assert!(counts.admit(&Peer::unix()));
    }

    #[test]
    fn a_limit_that_a_reload_brings_counts_those_that_are_open() {
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
        let open = connections.register(Connection::new(client.clone(), 0, &connections));
        assert!(connections.admit(&client));
        connections.set_limits(ConnectionLimits { per_client: NonZeroU32::new(1), ..limits });
        assert!(!connections.admit(&client));
        drop(open);
        assert!(connections.admit(&client));
    }

    #[test]
    fn without_a_limit_nothing_is_kept() {
        let mut counts = limited(1);
        counts.add(&peer("192.0.2.1"));
        counts.set_limit(None, std::iter::empty());
        counts.add(&peer("192.0.2.1"));
        assert!(counts.admit(&peer("192.0.2.1")) && counts.counts.is_empty());
        // One that is not counted ends.
        counts.remove(&peer("192.0.2.1"));
        assert_eq!(counts.report(Instant::now()), None);
    }

    #[test]
    fn what_was_refused_is_told_at_once_and_then_at_a_limited_rate() {
        let mut counts = limited(1);
        counts.add(&peer("192.0.2.1"));
        let now = Instant::now();
        assert!(!counts.admit(&peer("192.0.2.1")));
        let told = counts.report(now).expect("the first");
        assert!(told.starts_with("1 connection was closed at once, the last of 192.0.2.1: "), "{told}");
        for _ in 0..50 {
            assert!(!counts.admit(&peer("192.0.2.1")));
            assert_eq!(counts.report(now + Duration::from_secs(9)), None);
        }
        let told = counts.report(now + Duration::from_secs(10)).expect("the rest");
        assert!(told.starts_with("50 connections were closed"), "{told}");
        assert_eq!(counts.report(now + Duration::from_mins(1)), None);
    }
}
