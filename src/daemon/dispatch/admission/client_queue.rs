//! `limits.queue_per_client`: counts the waiting requests of each client address. Without the limit
//! nothing is counted. A request is recorded when it begins to wait. The end of the wait costs
//! nothing: the record is dropped when the next request of the client arrives.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;

use rgun_channel::frame::ExchangeId;

/// Minimum number of recorded clients at which those without a waiting request are dropped.
const MIN_SWEEP: usize = 256;

/// The waiting requests of each client.
#[derive(Debug, Default)]
pub(crate) struct ClientQueue {
    /// Requests that have begun to wait; some may have stopped waiting since.
    recorded: HashMap<IpAddr, Vec<ExchangeId>>,
    /// Number of recorded clients at which those without a waiting request are next dropped.
    sweep_at: usize,
}

impl ClientQueue {
    /// Records a request that is about to wait. Returns false, and records nothing, if `max` other
    /// requests of its client wait. `client` is the address as text; clients on unix sockets, which
    /// have none, are not limited.
    pub(crate) fn admit(
        &mut self,
        client: &[u8],
        id: ExchangeId,
        max: NonZeroU32,
        is_waiting: impl Fn(ExchangeId) -> bool,
    ) -> bool {
        let Some(key) = client_key(client) else { return true };
        if self.recorded.len() >= self.sweep_at.max(MIN_SWEEP) && !self.recorded.contains_key(&key) {
            self.recorded.retain(|_, ids| ids.iter().any(|id| is_waiting(*id)));
            self.sweep_at = 2 * self.recorded.len();
        }
        let ids = self.recorded.entry(key).or_default();
        ids.retain(|id| is_waiting(*id));
        if ids.len() as u64 >= u64::from(max.get()) {
            return false;
        }
        ids.push(id);
        true
    }

    /// Drops all records: the limit is off.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Returns the key under which a client's requests are counted. An IPv6 host may use any address of
/// its /64 network (RFC 8981), so the network is the key.
fn client_key(client: &[u8]) -> Option<IpAddr> {
    match str::from_utf8(client).ok()?.parse().ok()? {
        IpAddr::V6(address) => Some(IpAddr::V6((address.to_bits() >> 64 << 64).into())),
        address @ IpAddr::V4(_) => Some(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: NonZeroU32 = NonZeroU32::new(2).unwrap();

    #[test]
    fn waiting_requests_of_a_client_are_limited() {
        let mut clients = ClientQueue::default();
        let all = |_| true;
        assert!(clients.admit(b"192.0.2.1", ExchangeId(1), TWO, all));
        assert!(clients.admit(b"192.0.2.1", ExchangeId(2), TWO, all));
        assert!(!clients.admit(b"192.0.2.1", ExchangeId(3), TWO, all));
        assert!(clients.admit(b"192.0.2.2", ExchangeId(4), TWO, all));
        let not_the_first = |id| id != ExchangeId(1);
        assert!(clients.admit(b"192.0.2.1", ExchangeId(5), TWO, not_the_first));
        assert!(!clients.admit(b"192.0.2.1", ExchangeId(6), TWO, not_the_first));
    }

    #[test]
    fn ipv6_network_is_one_client_and_unix_peers_are_exempt() {
        let mut clients = ClientQueue::default();
        for id in 1..=2 {
            assert!(clients.admit(b"2001:db8:0:1::1", ExchangeId(id), TWO, |_| true));
        }
        assert!(!clients.admit(b"2001:db8:0:1:ffff::2", ExchangeId(3), TWO, |_| true));
        assert!(clients.admit(b"2001:db8:0:2::1", ExchangeId(4), TWO, |_| true));
        for id in 5..10 {
            assert!(clients.admit(b"", ExchangeId(id), TWO, |_| true));
        }
    }

    #[test]
    fn clients_without_a_waiting_request_are_dropped() {
        let mut clients = ClientQueue::default();
        for id in 0..100_000_u32 {
            let address = std::net::Ipv4Addr::from(id).to_string();
            let waits = |other: ExchangeId| other.0 + 10 > u64::from(id);
            assert!(clients.admit(address.as_bytes(), ExchangeId(id.into()), TWO, waits));
        }
        assert!(clients.recorded.len() <= MIN_SWEEP, "{}", clients.recorded.len());
    }
}
