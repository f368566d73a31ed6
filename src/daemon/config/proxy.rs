//! The checked `[proxy]` section; `trusted` parses it.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// `[proxy]`: the peers whose `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Request-ID` are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Trusts all peers.
    pub all: bool,
    /// Trusts peers on unix sockets.
    pub unix: bool,
    /// Trusts peers with an address in one of these; no duplicates.
    pub networks: Vec<IpNet>,
}

impl Proxy {
    /// Trusts no peer.
    pub const NONE: Self = Self { all: false, unix: false, networks: Vec::new() };
}

impl Default for Proxy {
    /// Trusts peers on this machine: `["loopback", "unix"]`.
    fn default() -> Self {
        Self { all: false, unix: true, networks: loopback().to_vec() }
    }
}

/// The networks of the keyword `loopback`.
pub(super) fn loopback() -> [IpNet; 2] {
    let v4 = Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8);
    let v6 = Ipv6Net::new_assert(std::net::Ipv6Addr::LOCALHOST, 128);
    [v4.into(), v6.into()]
}
