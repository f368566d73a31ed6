//! The client of a connection, by its address.

use std::net::{IpAddr, SocketAddr};

/// The client's end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Address, IPv4 never written as IPv6; `None` on a unix socket.
    pub ip: Option<IpAddr>,
    /// The same as text; empty on a unix socket.
    pub address: String,
    /// Port; 0 on a unix socket.
    pub port: u16,
}

impl Peer {
    /// A client on a unix socket has no address.
    pub fn unix() -> Self {
        Self { ip: None, address: String::new(), port: 0 }
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        // An IPv4 client on a dual-stack listener is written as IPv4, as everybody expects in a log.
        let ip = address.ip().to_canonical();
        Self { ip: Some(ip), address: ip.to_string(), port: address.port() }
    }
}
