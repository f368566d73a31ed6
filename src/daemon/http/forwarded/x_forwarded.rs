//! `X-Forwarded-For`, `-Proto`, `-Host`, `-Port` and `-Prefix`, the fields that most proxies write.
//!
//! In `X-Forwarded-For` the client is the first address from the right that is not trusted. For
//! every other field, the last value is used, because the peer itself has written it. If there is
//! no `X-Forwarded-Proto`, either `X-Forwarded-Ssl: on` or `X-Forwarded-Protocol: ssl` means https,
//! as in gunicorn.

use std::net::SocketAddr;

use http::HeaderValue;
use http::header::{GetAll, HeaderMap, HeaderName};

use super::claim::{self, ProxyClaim};
use super::settings::ForwardingSettings;
use crate::net::TrustedPeers;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_PROTOCOL: HeaderName = HeaderName::from_static("x-forwarded-protocol");
const X_FORWARDED_SSL: HeaderName = HeaderName::from_static("x-forwarded-ssl");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Reads the fields of a request that a trusted peer has sent.
pub(super) fn read(headers: &HeaderMap, settings: &ForwardingSettings) -> ProxyClaim {
    ProxyClaim {
        client: client(&headers.get_all(X_FORWARDED_FOR), &settings.trusted),
        https: https(headers),
        host: last(headers, X_FORWARDED_HOST).and_then(claim::host),
        port: last(headers, X_FORWARDED_PORT).and_then(claim::port),
        root_path: last(headers, X_FORWARDED_PREFIX).and_then(claim::root_path),
    }
}

/// Returns the right-most address that is not trusted; if all are trusted, the left-most, because
/// the client is then within the trusted network. An element that is not an address ends the
/// search, because any client may have written the elements left of it; the client is then the last
/// known hop, as in nginx.
fn client(fields: &GetAll<'_, HeaderValue>, trusted: &TrustedPeers) -> Option<SocketAddr> {
    let mut known = None;
    for element in elements_from_the_right(fields) {
        // nginx writes this for a client on a unix socket.
        if element == b"unix:" && trusted.trusts(None) {
            continue;
        }
        let Some(address) = claim::address(element) else { break };
        known = Some(address);
        if !trusted.trusts(Some(address.ip())) {
            break;
        }
    }
    known
}

/// Returns whether the client used TLS. If there is an `X-Forwarded-Proto`, the other fields are
/// ignored: a proxy that writes `X-Forwarded-Proto` may forward the other fields as its client sent
/// them.
fn https(headers: &HeaderMap) -> Option<bool> {
    if headers.contains_key(X_FORWARDED_PROTO) {
        return claim::parse_scheme(last(headers, X_FORWARDED_PROTO)?);
    }
    match last(headers, X_FORWARDED_PROTOCOL) {
        Some(protocol) if protocol.eq_ignore_ascii_case(b"ssl") => Some(true),
        Some(protocol) => claim::parse_scheme(protocol),
        None => last(headers, X_FORWARDED_SSL)?.eq_ignore_ascii_case(b"on").then_some(true),
    }
}

/// Returns the last list element of the last field with this name.
fn last(headers: &HeaderMap, name: HeaderName) -> Option<&[u8]> {
    elements_from_the_right(&headers.get_all(name)).next()
}

/// Returns the elements of a list over all its fields, the last one first, without empty ones
/// (RFC 9110 §5.6.1).
fn elements_from_the_right<'h>(fields: &GetAll<'h, HeaderValue>) -> impl Iterator<Item = &'h [u8]> + use<'h> {
    fields
        .iter()
        .rev()
        .flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn trusted(networks: &[&str]) -> TrustedPeers {
        let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        TrustedPeers { all: false, unix: true, networks }
    }

    fn read_all(headers: &HeaderMap, trusted: &TrustedPeers) -> ProxyClaim {
        read(headers, &ForwardingSettings { trusted: trusted.clone(), ..ForwardingSettings::default() })
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
        let client = read_all(&headers, trusted).client?;
        Some(if client.port() == 0 { client.ip().to_string() } else { client.to_string() })
    }

    const PROXY_NETWORKS: [&str; 3] = ["127.0.0.0/8", "::1/128", "10.0.0.0/8"];

    #[test]
    fn the_right_most_untrusted_address_is_the_client() {
        let proxies = trusted(&PROXY_NETWORKS);
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
            assert_eq!(found(values, &proxies).as_deref(), client, "{values:?}");
        }
        let all = TrustedPeers { all: true, ..TrustedPeers::default() };
        assert_eq!(found(&["198.51.100.9, 192.0.2.1"], &all).as_deref(), Some("198.51.100.9"));
    }

    #[test]
    fn addresses_are_parsed_in_every_form_proxies_write() {
        let proxies = trusted(&PROXY_NETWORKS);
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
            assert_eq!(found(&[value], &proxies).as_deref(), Some(client), "{value}");
        }
    }

    #[test]
    fn invalid_address_ends_the_search() {
        let proxies = trusted(&PROXY_NETWORKS);
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
            assert_eq!(found(&[garbage], &proxies), None, "{garbage}");
            let spoofed = format!("192.0.2.66, {garbage}, 10.0.0.1");
            assert_eq!(found(&[&spoofed], &proxies).as_deref(), Some("10.0.0.1"), "{garbage}");
        }
        let no_unix = TrustedPeers { unix: false, ..proxies };
        assert_eq!(found(&["192.0.2.1, unix:"], &no_unix), None);
    }

    #[test]
    fn the_last_scheme_is_used() {
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
            assert_eq!(read_all(&headers, &trusted(&PROXY_NETWORKS)).https, https, "{values:?}");
        }
    }

    #[test]
    fn other_scheme_fields_are_used_without_x_forwarded_proto() {
        for (fields, https) in [
            (&[("x-forwarded-ssl", "on")][..], Some(true)),
            (&[("x-forwarded-ssl", "off")], None),
            (&[("x-forwarded-protocol", "ssl")], Some(true)),
            (&[("x-forwarded-protocol", "https")], Some(true)),
            (&[("x-forwarded-protocol", "http")], Some(false)),
            (&[("x-forwarded-protocol", "http"), ("x-forwarded-ssl", "on")], Some(false)),
            (&[("x-forwarded-proto", "http"), ("x-forwarded-ssl", "on")], Some(false)),
            (&[("x-forwarded-proto", "http"), ("x-forwarded-protocol", "ssl")], Some(false)),
            (&[("x-forwarded-proto", "ftp"), ("x-forwarded-ssl", "on")], None),
            (&[("x-forwarded-proto", ""), ("x-forwarded-ssl", "on")], None),
        ] {
            let headers = fields
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
            assert_eq!(read_all(&headers.collect(), &trusted(&PROXY_NETWORKS)).https, https, "{fields:?}");
        }
    }

    #[test]
    fn the_last_host_port_and_prefix_are_used() {
        let mut headers = headers(&X_FORWARDED_HOST, &["evil.example, a.example:8443"]);
        headers.append(X_FORWARDED_PORT, HeaderValue::from_static("1, 8443"));
        headers.append(X_FORWARDED_PREFIX, HeaderValue::from_static("//evil"));
        headers.append(X_FORWARDED_PREFIX, HeaderValue::from_static("/shop/"));
        let claim = read_all(&headers, &trusted(&PROXY_NETWORKS));
        assert_eq!(claim.host.unwrap(), "a.example:8443");
        assert_eq!(claim.port, Some(8443));
        assert_eq!(claim.root_path.as_deref(), Some(&b"/shop"[..]));
    }

    #[test]
    fn a_client_cannot_choose_its_address() {
        let proxies = trusted(&PROXY_NETWORKS);
        let hops = ["10.0.0.1", "127.0.0.1:80", "[::1]", "::1", "::ffff:10.2.2.2", "unix:", ""];
        let forged = [
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
            // The client may send fields of its own. Each hop appends to the last field or adds a
            // field.
            let sent: Vec<String> = (0..rng.index(3))
                .map(|_| (0..rng.index(4)).map(|_| rng.pick(&forged)).collect::<Vec<_>>().join(","))
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
            assert_eq!(found(&values, &proxies).as_deref(), Some(expected), "round {round}: {values:?}");
        }
    }

    #[test]
    fn random_bytes_never_yield_an_address_that_was_not_sent() {
        let proxies = trusted(&PROXY_NETWORKS);
        let mut rng = Rng::new(7);
        let alphabet: Vec<u8> =
            (b' '..=b'~').chain([b'\t', 0x80, 0xff]).chain(*b"0123456789.:[],,::..").collect();
        for round in 0..20_000 {
            let bytes: Vec<u8> = (0..rng.index(40)).map(|_| alphabet[rng.index(alphabet.len())]).collect();
            let mut headers = HeaderMap::new();
            headers.append(X_FORWARDED_FOR, HeaderValue::from_bytes(&bytes).unwrap());
            headers.append(X_FORWARDED_PROTO, HeaderValue::from_bytes(&bytes).unwrap());
            let ProxyClaim { client, https, .. } = read_all(&headers, &proxies);
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
