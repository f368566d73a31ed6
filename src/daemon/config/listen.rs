//! The checked `[listen]` section, its tables `[listen.NAME]`, and `[metrics]`; `listeners` reads
//! them.
//!
//! A socket that rgun binds has the name of its table; a socket from systemd has its
//! `FileDescriptorName=`. The sockets without a table are those of `listen.bind` and those that
//! systemd passes under other names.

use super::Bind;
use super::bind::{DEFAULT_HOST, DEFAULT_PORT};

/// `FileDescriptorName=` of the sockets from systemd at which the daemon serves its metrics.
pub const METRICS_SOCKET: &str = "metrics";

/// Maximum number of sockets to listen on, whether rgun binds them or systemd passes them. Each worker gets
/// their addresses in one message.
pub const MAX_LISTENERS: usize = 64;

/// `[listen]`, with the tables `[listen.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Addresses to listen on without socket activation; at least one, none twice.
    pub bind: Vec<Bind>,
    /// Whether the configuration names the addresses. If false, sockets from systemd replace them
    /// silently; if true, such sockets are a contradiction that the caller must report.
    pub explicit: bool,
    /// The tables, in the order of the file.
    pub named: Vec<NamedListener>,
    /// Whether clients speak TLS on sockets without a table.
    pub tls: bool,
    /// Whether each connection to a socket without a table begins with a PROXY header.
    pub proxy_protocol: bool,
    /// `metrics.bind`: addresses at which the daemon serves its metrics. Read at the start only,
    /// because the sockets exist from then on.
    pub metrics: Vec<Bind>,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            bind: vec![Bind::Tcp { host: DEFAULT_HOST.to_owned(), port: DEFAULT_PORT }],
            explicit: false,
            named: Vec::new(),
            tls: false,
            proxy_protocol: false,
            metrics: Vec::new(),
        }
    }
}

/// `[listen.NAME]`: a named socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedListener {
    /// The table's name.
    pub name: String,
    /// Addresses to listen on without systemd; empty: systemd passes the socket.
    pub bind: Vec<Bind>,
    /// Whether clients speak TLS on this socket.
    pub tls: bool,
    /// Whether each connection begins with a PROXY header.
    pub proxy_protocol: bool,
}

impl Listen {
    /// Returns the addresses to bind without systemd, each with the name of its table. The default
    /// address is not used if there are tables.
    pub fn addresses(&self) -> Vec<(Option<&str>, &Bind)> {
        let is_used = self.explicit || self.named.is_empty();
        let unnamed = self.bind.iter().filter(|_| is_used).map(|bind| (None, bind));
        let named = self
            .named
            .iter()
            .flat_map(|listener| listener.bind.iter().map(|bind| (Some(listener.name.as_str()), bind)));
        unnamed.chain(named).collect()
    }

    /// Returns the table of a socket; `None` if it has none.
    pub fn table(&self, name: &str) -> Option<&NamedListener> {
        self.named.iter().find(|listener| listener.name == name)
    }

    /// True if clients speak TLS on the socket of this name.
    pub fn speaks_tls(&self, name: &str) -> bool {
        self.table(name).map_or(self.tls, |listener| listener.tls)
    }

    /// True if each connection to the socket of this name begins with a PROXY header.
    pub fn requires_proxy_header(&self, name: &str) -> bool {
        self.table(name).map_or(self.proxy_protocol, |listener| listener.proxy_protocol)
    }

    /// True if clients may speak TLS on any socket. Sockets without a table count even without
    /// addresses, because systemd may pass them.
    pub fn has_tls(&self) -> bool {
        self.tls || self.named.iter().any(|listener| listener.tls)
    }
}
