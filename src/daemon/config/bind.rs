//! Parses addresses to listen on, in gunicorn's syntax.
//!
//! `HOST:PORT`, `HOST` (the default port), `:PORT` and `0:PORT` (all IPv4 addresses), `PORT` (the
//! default host), `[IPv6]:PORT`, `[IPv6]`, `unix:PATH`. Descriptors (`fd://3`) are refused: systemd
//! passes sockets through LISTEN_FDS, with names. `net` resolves host names when it binds.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

use super::ValueError;

/// The host when only a port is given.
pub(crate) const DEFAULT_HOST: &str = "127.0.0.1";
/// The port of the default address.
pub(crate) const DEFAULT_PORT: u16 = 8000;

const ALL_IPV4: &str = "0.0.0.0";

/// Maximum length of a socket's path: `sockaddr_un.sun_path` has 108 bytes with the final zero, see
/// unix(7).
const MAX_PATH_BYTES: usize = 107;

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Bind {
    /// A host and a port.
    Tcp {
        /// An IP address (IPv6 without brackets) or a host name.
        host: String,
        /// Zero lets the kernel choose a port.
        port: u16,
    },
    /// A socket in the file system.
    Unix {
        /// Absolute once checked.
        path: PathBuf,
    },
}

impl Bind {
    /// All IPv4 addresses at `port`.
    pub(super) fn any(port: u16) -> Self {
        Self::Tcp { host: ALL_IPV4.to_owned(), port }
    }

    /// Returns whether only one of the two can be bound: they are equal, or one includes the other.
    pub(super) fn conflicts_with(&self, other: &Self) -> bool {
        self == other || self.includes(other) || other.includes(self)
    }

    /// Returns whether this is all IPv4 addresses at a port, and `other` one of them.
    fn includes(&self, other: &Self) -> bool {
        let (Self::Tcp { host: all, port }, Self::Tcp { host, port: other_port }) = (self, other) else {
            return false;
        };
        let is_ipv4 = host == "localhost" || host.parse::<Ipv4Addr>().is_ok();
        all == ALL_IPV4 && port == other_port && *port != 0 && is_ipv4
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(formatter, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(formatter, "{host}:{port}"),
            Self::Unix { path } => write!(formatter, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Bind {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix(path.strip_prefix("//").unwrap_or(path));
        }
        if text.starts_with("fd:") {
            return Err(ValueError::new(
                "names a descriptor; rgun takes sockets from systemd through LISTEN_FDS",
            )
            .with_hint("remove it: rgun uses the sockets of a socket unit automatically"));
        }
        tcp(text.strip_prefix("tcp://").unwrap_or(text))
    }
}

/// Returns whether a valid address names a port, or is a unix socket.
pub(super) fn names_port(text: &str) -> bool {
    let text = text.strip_prefix("tcp://").unwrap_or(text);
    let port = text.rsplit_once(']').map_or(text, |(_, rest)| rest);
    port.contains(':') || !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
}

const EXAMPLES: &str =
    "write \"127.0.0.1:8000\", \":8000\" (all addresses), \"[::1]:8000\" or \"unix:/run/x.sock\"";

fn unix(path: &str) -> Result<Bind, ValueError> {
    if path.is_empty() {
        return Err(ValueError::new("names no path after \"unix:\"").with_hint(EXAMPLES));
    }
    if path.starts_with('@') {
        return Err(ValueError::new(
            "is an abstract socket, which every user of the machine may bind and connect to",
        )
        .with_hint("use a path, e.g. \"unix:/run/mysite/rgun.sock\""));
    }
    if path.contains('\0') {
        return Err(ValueError::new("has a zero byte in its path"));
    }
    if path.len() > MAX_PATH_BYTES {
        return Err(ValueError::new(format!(
            "has a path of {} bytes; the kernel accepts {MAX_PATH_BYTES} (unix(7))",
            path.len()
        )));
    }
    Ok(Bind::Unix { path: PathBuf::from(path) })
}

fn tcp(text: &str) -> Result<Bind, ValueError> {
    if text.is_empty() {
        return Err(ValueError::new("is empty").with_hint(EXAMPLES));
    }
    if text.starts_with('/') || text.starts_with("./") {
        return Err(ValueError::new("is a path").with_hint(format!("write \"unix:{text}\"")));
    }
    if text.contains("://") {
        return Err(ValueError::new("is a URL; an address is expected").with_hint(EXAMPLES));
    }
    if text.contains(',') {
        let list = text.split(',').map(|address| format!("\"{}\"", address.trim())).collect::<Vec<_>>();
        return Err(ValueError::new("is more than one address")
            .with_hint(format!("write a list: [{}]", list.join(", "))));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) =
            rest.split_once(']').ok_or_else(|| ValueError::new("has a \"[\" without \"]\""))?;
        let address: Ipv6Addr = host
            .parse()
            .map_err(|_| ValueError::new(format!("\"{host}\" is not an IPv6 address")).with_hint(EXAMPLES))?;
        let port = match rest.strip_prefix(':') {
            Some(port) => self::port(port)?,
            None if rest.is_empty() => DEFAULT_PORT,
            None => {
                return Err(ValueError::new(format!("has {rest:?} after the address")).with_hint(EXAMPLES));
            }
        };
        return Ok(Bind::Tcp { host: address.to_string(), port });
    }
    if text.parse::<Ipv6Addr>().is_ok() || text.matches(':').count() > 1 {
        return Err(ValueError::new("is ambiguous: an IPv6 address must be in brackets")
            .with_hint("write \"[::1]:8000\", or \"[::]:8000\" for all addresses"));
    }
    let (host, port) = match text.split_once(':') {
        // inet(3): 0 is 0.0.0.0.
        Some(("" | "0", port)) => (ALL_IPV4, self::port(port)?),
        Some((host, port)) => (host, self::port(port)?),
        None if text.bytes().all(|byte| byte.is_ascii_digit()) => (DEFAULT_HOST, port(text)?),
        None if text.starts_with('-') => return Err(ValueError::new("is not an address").with_hint(EXAMPLES)),
        None if std::path::Path::new(text).extension().is_some_and(|extension| extension == "sock") => {
            return Err(ValueError::new("is a path").with_hint(format!("write \"unix:{text}\"")));
        }
        None => (text, DEFAULT_PORT),
    };
    check_host(host)?;
    Ok(Bind::Tcp { host: host.to_owned(), port })
}

pub(super) fn port(text: &str) -> Result<u16, ValueError> {
    // Digits only: `u16::from_str` also accepts "+80".
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits => Ok(port),
        _ => Err(ValueError::new(format!("\"{text}\" is not a port"))
            .with_hint("a port is a number from 0 to 65535")),
    }
}

fn check_host(host: &str) -> Result<(), ValueError> {
    if host == "*" {
        return Err(ValueError::new("\"*\" is not an address")
            .with_hint("write \":8000\" for all IPv4 addresses, \"[::]:8000\" for all"));
    }
    let numeric = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if numeric && host.parse::<Ipv4Addr>().is_err() {
        return Err(ValueError::new(format!("\"{host}\" is not an IPv4 address")).with_hint(EXAMPLES));
    }
    // RFC 1123 §2.1, and "_", which resolvers accept.
    let name = host.len() <= 253
        && host.split('.').all(|label| !label.is_empty() && !label.starts_with('-'))
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'));
    if name { Ok(()) } else { Err(ValueError::new(format!("\"{host}\" is not a host")).with_hint(EXAMPLES)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_parsed_and_printed_canonically() {
        for (text, printed) in [
            ("127.0.0.1:8000", "127.0.0.1:8000"),
            (":8000", "0.0.0.0:8000"),
            ("8000", "127.0.0.1:8000"),
            ("localhost:8000", "localhost:8000"),
            ("localhost", "localhost:8000"),
            ("127.0.0.1", "127.0.0.1:8000"),
            ("0.0.0.0", "0.0.0.0:8000"),
            ("tcp://127.0.0.1", "127.0.0.1:8000"),
            ("0:8000", "0.0.0.0:8000"),
            ("[::1]", "[::1]:8000"),
            ("app_1.internal:80", "app_1.internal:80"),
            ("[::1]:8000", "[::1]:8000"),
            ("[0:0:0:0:0:0:0:1]:0", "[::1]:0"),
            ("tcp://127.0.0.1:80", "127.0.0.1:80"),
            ("unix:/run/x.sock", "unix:/run/x.sock"),
            ("unix:///run/x.sock", "unix:/run/x.sock"),
            ("unix:x.sock", "unix:x.sock"),
        ] {
            let bind: Bind = text.parse().unwrap();
            assert_eq!(bind.to_string(), printed, "{text}");
            assert_eq!(printed.parse::<Bind>().unwrap(), bind, "{text}");
        }
        let bind: Bind = "[::1]:8000".parse().unwrap();
        assert_eq!(bind, Bind::Tcp { host: "::1".into(), port: 8000 });
    }

    #[test]
    fn invalid_address_is_refused_with_a_hint() {
        let long = format!("unix:/{}", "x".repeat(107));
        for (text, reason) in [
            ("", "is empty"),
            ("[::1]x", "has \"x\" after the address"),
            ("[::1]8000", "has \"8000\" after the address"),
            ("300.1.1.1", "not an IPv4 address"),
            ("my host", "not a host"),
            ("app.sock", "is a path"),
            ("[::1", "without \"]\""),
            ("[localhost]:80", "not an IPv6 address"),
            ("a:1,b:2", "more than one address"),
            ("::1:8000", "in brackets"),
            ("::", "in brackets"),
            ("localhost:http", "\"http\" is not a port"),
            ("localhost:65536", "\"65536\" is not a port"),
            ("localhost:-1", "\"-1\" is not a port"),
            ("localhost:+1", "\"+1\" is not a port"),
            ("localhost:", "\"\" is not a port"),
            ("65536", "\"65536\" is not a port"),
            ("-1", "is not an address"),
            ("*:80", "\"*\" is not an address"),
            ("300.1.1.1:80", "not an IPv4 address"),
            ("1.2.3:80", "not an IPv4 address"),
            ("my host:80", "not a host"),
            ("a..b:80", "not a host"),
            ("/run/x.sock", "is a path"),
            ("http://localhost:80", "is a URL"),
            ("fd://3", "LISTEN_FDS"),
            ("unix:", "names no path"),
            ("unix:@x", "abstract"),
            ("unix:/a\0b", "zero byte"),
            (&long, "108 bytes"),
        ] {
            let error = text.parse::<Bind>().unwrap_err();
            assert!(error.reason.contains(reason), "{text}: {error}");
        }
        assert_eq!("/run/x".parse::<Bind>().unwrap_err().hint.unwrap(), "write \"unix:/run/x\"");
    }
}
