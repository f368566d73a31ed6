//! The peers whose forwarding fields or PROXY headers are used.

use std::net::IpAddr;

use ipnet::IpNet;

/// A set of peers: `proxy.trusted` or `proxy.protocol_trusted`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedPeers {
    /// Every peer.
    pub all: bool,
    /// Peers on a unix socket.
    pub unix: bool,
    /// Peers with an address in one of these networks.
    pub networks: Vec<IpNet>,
}

impl TrustedPeers {
    /// True if the peer is trusted; `None` is a peer on a unix socket. The address must be
    /// canonical (no IPv4-mapped IPv6).
    pub fn trusts(&self, peer: Option<IpAddr>) -> bool {
        match peer {
            _ if self.all => true,
            None => self.unix,
            Some(address) => self.networks.iter().any(|network| network.contains(&address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_a_unix_socket_or_every_peer_can_be_trusted() {
        let networks = ["127.0.0.0/8", "::1/128", "10.0.0.0/8"].map(|network| network.parse().unwrap());
        let trusted = TrustedPeers { all: false, unix: true, networks: networks.to_vec() };
        for (address, trusts) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("::2", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(trusted.trusts(address.parse().ok()), trusts, "{address}");
        }
        assert!(trusted.trusts(None) && !TrustedPeers::default().trusts(None));
        let all = TrustedPeers { all: true, ..TrustedPeers::default() };
        assert!(all.trusts(None) && all.trusts("192.0.2.1".parse().ok()));
    }
}
