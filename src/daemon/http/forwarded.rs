//! The client and scheme that trusted proxies report: `X-Forwarded-For` and `X-Forwarded-Proto`.
//!
//! Any client can send these fields. They are read only if `proxy.trusted` names the peer, and only as far as trusted
//! hops wrote them: `X-Forwarded-For` from the right to the first address that is not trusted, which is the client; of
//! `X-Forwarded-Proto` the last value, which the peer wrote. Pure functions, called by `request_meta`.

use std::net::{IpAddr, SocketAddr};

use http::HeaderValue;
use http::header::{GetAll, HeaderMap, HeaderName};
use ipnet::IpNet;

pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// `proxy.trusted`: the peers whose forwarding fields are used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedPeers {
    /// Every peer.
    pub all: bool,
    /// Peers on a unix socket.
    pub unix: bool,
    /// Peers with an address in one of these.
    pub networks: Vec<IpNet>,
}

impl TrustedPeers {
    /// True if the peer is trusted; `None` is a peer on a unix socket. The address must be canonical (no IPv4-mapped
    /// IPv6).
    pub(super) fn trusts(&self, peer: Option<IpAddr>) -> bool {
        match peer {
            _ if self.all => true,
            None => self.unix,
            Some(address) => self.networks.iter().any(|network| network.contains(&address)),
        }
    }
}

/// The origin of a request according to a trusted peer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ProxyClaim {
    /// The client's address; port 0 if the port is unknown. `None`: the client is the peer itself.
    pub(super) client: Option<SocketAddr>,
    /// True if the client used TLS; `None` if the peer did not report it.
    pub(super) https: Option<bool>,
}

impl ProxyClaim {
    /// Reads the fields of a request from a trusted peer.
    pub(super) fn read(headers: &HeaderMap, trusted: &TrustedPeers) -> Self {
        Self {
            client: client(&headers.get_all(X_FORWARDED_FOR), trusted),
            https: https(&headers.get_all(X_FORWARDED_PROTO)),
        }
    }
}

/// Returns the right-most address that is not trusted; if all are trusted, the left-most, because the client is then
/// within the trusted network. An element that is not an address ends the search, because any client may have written
/// the elements left of it; the client is then the last known hop, as in nginx.
fn client(fields: &GetAll<'_, HeaderValue>, trusted: &TrustedPeers) -> Option<SocketAddr> {
    let mut known = None;
    for element in elements_from_the_right(fields) {
        // nginx writes this for a client on a unix socket.
        if element == b"unix:" && trusted.trusts(None) {
            continue;
        }
        let Some(address) = address(element) else { break };
        known = Some(address);
        if !trusted.trusts(Some(address.ip())) {
            break;
        }
    }
    known
}

/// Returns whether the last value is a TLS scheme; `None` if it is no known scheme.
fn https(fields: &GetAll<'_, HeaderValue>) -> Option<bool> {
    let last = elements_from_the_right(fields).next()?;
    let is = |schemes: [&str; 2]| schemes.iter().any(|scheme| last.eq_ignore_ascii_case(scheme.as_bytes()));
    // Some proxies send the WebSocket's scheme with a handshake.
    match (is(["https", "wss"]), is(["http", "ws"])) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    }
}

/// Returns the elements of a list over all its fields, the last one first, without empty ones (RFC 9110 §5.6.1).
fn elements_from_the_right<'h>(fields: &GetAll<'h, HeaderValue>) -> impl Iterator<Item = &'h [u8]> + use<'h> {
    fields
        .iter()
        .rev()
        .flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// Parses an address in the forms that proxies write: `192.0.2.1`, `192.0.2.1:4711`, `2001:db8::1`, `[2001:db8::1]`,
/// `[2001:db8::1]:4711`.
fn address(element: &[u8]) -> Option<SocketAddr> {
    let text = str::from_utf8(element).ok()?;
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6);
    let bare = || text.parse::<IpAddr>().ok().or_else(bracketed);
    let (ip, port) = match text.parse::<SocketAddr>() {
        Ok(both) => (both.ip(), both.port()),
        Err(_) => (bare()?, 0),
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn trusted(networks: &[&str]) -> TrustedPeers {
        let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        TrustedPeers { all: false, unix: true, networks }
    }

    fn headers(name: &HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name.clone(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn found(values: &[&str], trusted: &TrustedPeers) -> Option<String> {
        let headers = headers(&X_FORWARDED_FOR, values);
        let client = ProxyClaim::read(&headers, trusted).client?;
        Some(if client.port() == 0 { client.ip().to_string() } else { client.to_string() })
    }

    const NEAR: [&str; 3] = ["127.0.0.0/8", "::1/128", "10.0.0.0/8"];

    #[test]
    fn the_right_most_untrusted_address_is_the_client() {
        let near = trusted(&NEAR);
        for (values, client) in [
            (&["192.0.2.1"][..], Some("192.0.2.1")),
            (&["198.51.100.9, 192.0.2.1"], Some("192.0.2.1")),
            (&["198.51.100.9, 192.0.2.1, 10.1.2.3, 127.0.0.1"], Some("192.0.2.1")),
            (&["198.51.100.9", "192.0.2.1", "10.1.2.3"], Some("192.0.2.1")),
            (&["192.0.2.1,10.1.2.3,,\t, "], Some("192.0.2.1")),
            (&["192.0.2.1, unix:"], Some("192.0.2.1")),
            (&["10.9.9.9, 10.1.2.3"], Some("10.9.9.9")),
            (&[""], None),
            (&[], None),
        ] {
            assert_eq!(found(values, &near).as_deref(), client, "{values:?}");
        }
        let all = TrustedPeers { all: true, ..TrustedPeers::default() };
        assert_eq!(found(&["198.51.100.9, 192.0.2.1"], &all).as_deref(), Some("198.51.100.9"));
    }

    #[test]
    fn addresses_are_parsed_in_every_form_proxies_write() {
        let near = trusted(&NEAR);
        for (value, client) in [
            ("192.0.2.1:4711", "192.0.2.1:4711"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:DB8::1]:4711", "[2001:db8::1]:4711"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("[::ffff:192.0.2.1]:80", "192.0.2.1:80"),
            ("192.0.2.1, ::ffff:10.0.0.1", "192.0.2.1"),
            ("192.0.2.1, [::1]:80", "192.0.2.1"),
        ] {
            assert_eq!(found(&[value], &near).as_deref(), Some(client), "{value}");
        }
    }

    #[test]
    fn an_element_that_is_no_address_ends_the_search() {
        let near = trusted(&NEAR);
        for garbage in [
            "unknown",
            "_hidden",
            "192.0.2",
            "192.0.2.1:",
            "192.0.2.1:x",
            "192.0.2.1:70000",
            "192.000.002.001",
            "0300.0.2.1",
            "[192.0.2.1]",
            "[2001:db8::1",
            "2001:db8::1]:80",
            "[2001:db8::1]x",
            "fe80::1%eth0%1",
            "for=192.0.2.1",
            "\"192.0.2.1\"",
            "192.0.2.1;10.0.0.1",
            "<script>",
            "\u{661}92.0.2.1",
        ] {
            assert_eq!(found(&[garbage], &near), None, "{garbage}");
            let spoofed = format!("192.0.2.66, {garbage}, 10.0.0.1");
            assert_eq!(found(&[&spoofed], &near).as_deref(), Some("10.0.0.1"), "{garbage}");
        }
        let no_unix = TrustedPeers { unix: false, ..near };
        assert_eq!(found(&["192.0.2.1, unix:"], &no_unix), None);
    }

    #[test]
    fn the_last_scheme_counts() {
        for (values, https) in [
            (&["https"][..], Some(true)),
            (&["HTTPS"], Some(true)),
            (&["http"], Some(false)),
            (&["wss"], Some(true)),
            (&["ws"], Some(false)),
            (&["https, http"], Some(false)),
            (&["http", "https"], Some(true)),
            (&["https, "], Some(true)),
            (&["https, ftp"], None),
            (&["on"], None),
            (&["httpss"], None),
            (&[""], None),
            (&[], None),
        ] {
            let headers = headers(&X_FORWARDED_PROTO, values);
            assert_eq!(ProxyClaim::read(&headers, &trusted(&NEAR)).https, https, "{values:?}");
        }
    }

    #[test]
    fn peers_are_trusted_by_network_by_socket_or_all() {
        let near = trusted(&NEAR);
        for (address, trusts) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("::1", true),
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("::2", false),
            ("0.0.0.0", false),
        ] {
            assert_eq!(near.trusts(address.parse().ok()), trusts, "{address}");
        }
        assert!(near.trusts(None) && !TrustedPeers::default().trusts(None));
        let all = TrustedPeers { all: true, ..TrustedPeers::default() };
        assert!(all.trusts(None) && all.trusts("192.0.2.1".parse().ok()));
    }

    #[test]
    fn a_client_cannot_choose_its_address() {
        let near = trusted(&NEAR);
        let hops = ["10.0.0.1", "127.0.0.1:80", "[::1]", "::1", "::ffff:10.2.2.2", "unix:", ""];
        let lies = [
            "198.51.100.66",
            "10.6.6.6",
            "127.0.0.1",
            "unix:",
            "unknown",
            "",
            "[",
            "\"",
            ";",
            ":",
            "%",
            "\u{ff}",
            "::1",
            "192.0.2.1",
        ];
        let mut rng = Rng::new(0x9E37_79B9_7F4A_7C15);
        for round in 0..20_000 {
            // A client, which may send fields of its own, behind hops each of which appends to them or adds one.
            let sent: Vec<String> = (0..rng.index(3))
                .map(|_| (0..rng.index(4)).map(|_| rng.pick(&lies)).collect::<Vec<_>>().join(","))
                .collect();
            let mut values = sent;
            let client = rng.pick(&["192.0.2.1", "2001:db8::1", "[2001:db8::1]:4711"]);
            for hop in
                std::iter::once(client).chain((0..rng.index(4)).map(|_| rng.pick(&hops)).collect::<Vec<_>>())
            {
                match values.last_mut() {
                    Some(last) if rng.index(2) == 0 => last.extend([", ", hop]),
                    _ => values.push(hop.to_owned()),
                }
            }
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            let expected = client.strip_prefix('[').map_or(client, |_| "[2001:db8::1]:4711");
            assert_eq!(found(&values, &near).as_deref(), Some(expected), "round {round}: {values:?}");
        }
    }

    #[test]
    fn random_bytes_never_yield_an_address_that_was_not_sent() {
        let near = trusted(&NEAR);
        let mut rng = Rng::new(7);
        let alphabet: Vec<u8> =
            (b' '..=b'~').chain([b'\t', 0x80, 0xff]).chain(*b"0123456789.:[],,::..").collect();
        for round in 0..20_000 {
            let bytes: Vec<u8> = (0..rng.index(40)).map(|_| alphabet[rng.index(alphabet.len())]).collect();
            let mut headers = HeaderMap::new();
            headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(&bytes).unwrap());
            headers.append(X_FORWARDED_PROTO, HeaderValue::from_bytes(&bytes).unwrap());
            let ProxyClaim { client, https } = ProxyClaim::read(&headers, &near);
            assert!(
                https.is_none()
                    || bytes.to_ascii_lowercase().windows(2).any(|pair| pair == b"ws" || pair == b"tp")
            );
            if let Some(client) = client {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let sent = |element: &str| {
                    let element = element.trim_ascii();
                    let bare = element.trim_start_matches('[').split(']').next().unwrap_or_default();
                    element.parse::<SocketAddr>().map(|both| both.ip()).or_else(|_| bare.parse()).ok()
                };
                assert!(
                    text.split(',')
                        .any(|element| sent(element).map(|ip| ip.to_canonical()) == Some(client.ip())),
                    "round {round}: {client} of {text:?}"
                );
            }
        }
    }
}
