//! The origin of a request as a proxy's fields report it, and the checks of the fields' values.

use std::net::{IpAddr, SocketAddr};

use http::HeaderValue;

use super::settings::{ForwardedField, ForwardedFields};
use crate::http::h1::framing::is_host;

/// The origin of a request according to a trusted peer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::http) struct ProxyClaim {
    /// The client's address, with port 0 if unknown. `None`: the peer itself.
    pub(in crate::http) client: Option<SocketAddr>,
    /// Whether the client used TLS; `None` if the peer did not say.
    pub(in crate::http) https: Option<bool>,
    /// The host that the client asked for, possibly with a port. Valid as a `Host` field.
    pub(in crate::http) host: Option<HeaderValue>,
    /// The port that the client connected to; not 0.
    pub(in crate::http) port: Option<u16>,
    /// The path below which the peer publishes the application; begins with `/` and does not end
    /// with it.
    pub(in crate::http) root_path: Option<Box<[u8]>>,
}

impl ProxyClaim {
    /// Removes the values that are not in `fields`.
    pub(super) fn restricted_to(self, fields: ForwardedFields) -> Self {
        let has = |field| fields.contains(field);
        Self {
            client: self.client.filter(|_| has(ForwardedField::For)),
            https: self.https.filter(|_| has(ForwardedField::Proto)),
            host: self.host.filter(|_| has(ForwardedField::Host)),
            port: self.port.filter(|_| has(ForwardedField::Port)),
            root_path: self.root_path.filter(|_| has(ForwardedField::Prefix)),
        }
    }
}

/// Parses an address in the forms that proxies write: `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`,
/// `[2001:db8::1]`, `[2001:db8::1]:4711`.
pub(super) fn address(element: &[u8]) -> Option<SocketAddr> {
    let text = str::from_utf8(element).ok()?;
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let bare = || text.parse::<IpAddr>().ok().or_else(bracketed);
    let (ip, port) = match text.parse::<SocketAddr>() {
        Ok(both) => (both.ip(), both.port()),
        Err(_) => (bare()?, 0),
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
}

/// Returns whether a scheme uses TLS; `None` if the scheme is unknown. With a WebSocket handshake,
/// some proxies send `ws` or `wss`.
pub(super) fn parse_scheme(scheme: &[u8]) -> Option<bool> {
    let is_one_of =
        |schemes: [&str; 2]| schemes.iter().any(|known| scheme.eq_ignore_ascii_case(known.as_bytes()));
    match (is_one_of(["https", "wss"]), is_one_of(["http", "ws"])) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

/// Returns a host as the value of a `Host` field, if it is valid and not empty.
pub(super) fn host(value: &[u8]) -> Option<HeaderValue> {
    let is_valid = !value.is_empty() && is_host(value);
    is_valid.then(|| HeaderValue::from_bytes(value).ok())?
}

/// Parses a port; `None` if it is 0 or not a number.
pub(super) fn port(value: &[u8]) -> Option<u16> {
    let text = str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    text.parse().ok().filter(|port| *port != 0)
}

/// Returns the path of `X-Forwarded-Prefix` without the slashes at its end; `None` if it is not a
/// path. Applications build links from the path, so only letters, digits and `-._~` between single
/// slashes are accepted: a link to `//evil.example` would lead to another host, and `..` to another
/// application.
pub(super) fn root_path(value: &[u8]) -> Option<Box<[u8]>> {
    let end = value.iter().rposition(|byte| *byte != b'/')?;
    let path = value.get(..=end)?.strip_prefix(b"/")?;
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    let is_segment = |segment: &[u8]| {
        !segment.is_empty() && segment != b"." && segment != b".." && segment.iter().all(is_plain)
    };
    path.split(|byte| *byte == b'/').all(is_segment).then(|| value[..=end].into())
}

/// Returns the value of a `Host` field with this port, or without a port if it is the scheme's
/// default.
pub(in crate::http) fn host_with_port(host: &HeaderValue, port: u16, https: bool) -> Option<HeaderValue> {
    let host = host.as_bytes();
    // A colon after the last bracket precedes the port; colons within brackets belong to an IPv6
    // address.
    let end = host.iter().rposition(|byte| matches!(byte, b':' | b']'));
    let name = match end {
        Some(end) if host[end] == b':' => &host[..end],
        _ => host,
    };
    if port == if https { 443 } else { 80 } {
        return HeaderValue::from_bytes(name).ok();
    }
    HeaderValue::from_bytes(&[name, b":", port.to_string().as_bytes()].concat()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_is_a_plain_absolute_path() {
        for (value, path) in [("/shop", "/shop"), ("/shop/", "/shop"), ("/a/b-c_d.e~f//", "/a/b-c_d.e~f")] {
            assert_eq!(root_path(value.as_bytes()).as_deref(), Some(path.as_bytes()), "{value}");
        }
        for value in [
            "",
            "/",
            "//",
            "shop",
            "//evil.example",
            "/a//b",
            "/..",
            "/a/../b",
            "/./a",
            "/a?b",
            "/a#b",
            "/a b",
            "/a\\b",
            "/%2e%2e",
            "/a;b",
            "/a:b",
            "/\u{e9}",
            "https://evil.example",
            "/a\"b",
            "/<script>",
            "\\\\evil",
        ] {
            assert_eq!(root_path(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn host_gets_the_port_unless_it_is_the_default() {
        for (field, number, https, expected) in [
            ("a.example", 8443, true, "a.example:8443"),
            ("a.example:80", 8443, true, "a.example:8443"),
            ("a.example:80", 443, true, "a.example"),
            ("a.example", 443, false, "a.example:443"),
            ("a.example:8000", 80, false, "a.example"),
            ("[::1]", 8080, false, "[::1]:8080"),
            ("[::1]:80", 8080, false, "[::1]:8080"),
            ("[::1]:80", 80, false, "[::1]"),
        ] {
            let with_port = host_with_port(&HeaderValue::from_static(field), number, https);
            assert_eq!(with_port.unwrap(), expected, "{field} {number}");
        }
    }

    #[test]
    fn port_is_a_decimal_number_from_1() {
        for (value, number) in [
            ("80", Some(80)),
            ("65535", Some(65535)),
            ("0", None),
            ("65536", None),
            ("+80", None),
            ("-1", None),
            ("", None),
            ("8 0", None),
            ("80,", None),
            ("x", None),
        ] {
            assert_eq!(port(value.as_bytes()), number, "{value:?}");
        }
    }

    #[test]
    fn host_must_be_valid_and_not_empty() {
        assert_eq!(host(b"a.example:8443").unwrap(), "a.example:8443");
        for value in ["", "a b", "a/b", "user@a", "a:b", "a\u{e9}"] {
            assert_eq!(host(value.as_bytes()), None, "{value:?}");
        }
    }
}
