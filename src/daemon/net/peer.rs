//! The address of a connection's client.

use std::net::{IpAddr, SocketAddr};

/// A client's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// IP address, an IPv4-mapped IPv6 address as IPv4; `None` on a unix socket.
    pub ip: Option<IpAddr>,
    /// `ip` as text; empty on a unix socket.
    pub address: String,
    /// Port; 0 on a unix socket.
    pub port: u16,
}

impl Peer {
    /// Returns the peer with this address; `ip` is `None` on a unix socket.
    pub(super) fn new(ip: Option<IpAddr>, port: u16) -> Self {
        Self { ip, address: ip.map(|ip| ip.to_string()).unwrap_or_default(), port }
    }

    /// Returns the peer of a unix socket, which has no address.
    pub fn unix() -> Self {
        Self::new(None, 0)
    }
}

/// The client of a connection, as known before the first byte of TLS or HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Client {
    /// The client's address.
    pub(super) peer: Peer,
    /// Whether a PROXY header says that the client used TLS.
    pub(super) https: bool,
}

impl From<Peer> for Client {
    fn from(peer: Peer) -> Self {
        Self { peer, https: false }
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        // A dual-stack listener reports an IPv4 client as `::ffff:192.0.2.1`.
        Self::new(Some(address.ip().to_canonical()), address.port())
    }
}
