//! The checked `[proxy]` section; `trusted` and `forwarding` parse it.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// `[proxy]`: the peers whose reports about requests are used, and the reports that are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// The peers whose forwarding fields and `X-Request-ID` are used.
    pub trusted: TrustedProxies,
    /// The kind of fields that these peers write.
    pub headers: ProxyHeaders,
    /// The reported values that are used; no duplicates.
    pub fields: Vec<ProxyField>,
    /// The peers that may send a PROXY header; the same as `trusted` by default.
    pub protocol_trusted: TrustedProxies,
}

/// A set of peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedProxies {
    /// All peers.
    pub all: bool,
    /// Peers on unix sockets.
    pub unix: bool,
    /// Peers with an address in one of these; no duplicates.
    pub networks: Vec<IpNet>,
}

/// The kind of forwarding fields that is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ProxyHeaders {
    /// `X-Forwarded-*`.
    #[default]
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// Neither: forwarding fields have no effect.
    Off,
}

/// A value that a proxy can report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyField {
    /// The client's address.
    For,
    /// The scheme that the client used.
    Proto,
    /// The host that the client asked for.
    Host,
    /// The port that the client connected to.
    Port,
    /// The path below which the application is published.
    Prefix,
}

/// The default of `proxy.fields`. Many proxies forward the other fields as their clients sent them.
pub(super) const DEFAULT_FIELDS: [ProxyField; 2] = [ProxyField::For, ProxyField::Proto];

impl TrustedProxies {
    /// No peer.
    pub const NONE: Self = Self { all: false, unix: false, networks: Vec::new() };
}

impl Default for TrustedProxies {
    /// The peers on this machine: `["loopback", "unix"]`.
    fn default() -> Self {
        Self { all: false, unix: true, networks: loopback().to_vec() }
    }
}

impl Default for Proxy {
    fn default() -> Self {
        Self {
            trusted: TrustedProxies::default(),
            headers: ProxyHeaders::default(),
            fields: DEFAULT_FIELDS.to_vec(),
            protocol_trusted: TrustedProxies::default(),
        }
    }
}

/// The networks of the keyword `loopback`.
pub(super) fn loopback() -> [IpNet; 2] {
    let v4 = Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8);
    let v6 = Ipv6Net::new_assert(std::net::Ipv6Addr::LOCALHOST, 128);
    [v4.into(), v6.into()]
}
