//! `Forwarded` (RFC 7239): a list to which each proxy appends an element, with the address of its
//! client and the scheme and host that the client used.
//!
//! ```text
//! Forwarded: for=192.0.2.60;proto=https;host=a.example, for="[2001:db8::1]:4711"
//! ```
//! The list is read from its right end, where the trusted proxies have appended: a client may write
//! anything into the left part of the list, even an open quote, and must not affect how the
//! elements to its right are read.

use std::borrow::Cow;

use http::header::{FORWARDED, HeaderMap};

use super::claim::{self, ProxyClaim};
use super::settings::ForwardingSettings;

/// The parameters of one element that are used. One proxy has written the element.
#[derive(Debug, Default, PartialEq, Eq)]
struct Element<'h> {
    client: Option<Cow<'h, [u8]>>,
    proto: Option<Cow<'h, [u8]>>,
    host: Option<Cow<'h, [u8]>>,
}

/// Reads the `Forwarded` fields of a request that a trusted peer has sent.
///
/// The client is the right-most address that is not trusted; if all are trusted, the left-most.
/// Scheme and host are taken from the element with the client's address, because the proxy that the
/// client connected to has written it. An element without an address (`unknown`, `_hidden`,
/// malformed) ends the search: any client may have written the elements to its left.
pub(super) fn read(headers: &HeaderMap, settings: &ForwardingSettings) -> ProxyClaim {
    let mut claim = ProxyClaim::default();
    for value in headers.get_all(FORWARDED).iter().rev() {
        let mut rest = Some(value.as_bytes());
        while let Some(list) = rest {
            let Some((before, element)) = split_last(list) else { return claim };
            rest = before;
            if element.is_empty() {
                continue;
            }
            let Some(element) = parse(element) else { return claim };
            claim.https = element.proto.as_deref().and_then(claim::parse_scheme);
            claim.host = element.host.as_deref().and_then(claim::host);
            let address = element.client.as_deref().and_then(node_address);
            claim.client = address.or(claim.client);
            if !address.is_some_and(|address| settings.trusted.trusts(Some(address.ip()))) {
                return claim;
            }
        }
    }
    claim
}

/// Splits a list before its last element and trims that element; `None` if the quotes are
/// malformed.
fn split_last(list: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let mut at = list.len();
    let mut in_quotes = false;
    while at > 0 {
        at -= 1;
        match list[at] {
            // Read from the right, the first quote that is not escaped ends a string, and the next
            // one begins it.
            b'"' if !is_escaped(list, at) => in_quotes = !in_quotes,
            // Only strings have escapes.
            b'"' if !in_quotes => return None,
            b',' if !in_quotes => return Some((Some(&list[..at]), list[at + 1..].trim_ascii())),
            _ => {}
        }
    }
    (!in_quotes).then(|| (None, list.trim_ascii()))
}

/// True if an odd number of backslashes precedes the byte.
fn is_escaped(list: &[u8], at: usize) -> bool {
    list[..at].iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// Parses an element: `name=value` pairs that are separated by semicolons, with each name at most
/// once.
fn parse(element: &[u8]) -> Option<Element<'_>> {
    let mut parsed = Element::default();
    let mut rest = element;
    loop {
        let equals = rest.iter().position(|byte| *byte == b'=')?;
        let name = rest[..equals].trim_ascii_start();
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return None;
        }
        let (value, after) = take_value(&rest[equals + 1..])?;
        let known =
            [(&b"for"[..], &mut parsed.client), (b"proto", &mut parsed.proto), (b"host", &mut parsed.host)];
        for (known, slot) in known {
            if name.eq_ignore_ascii_case(known) && slot.replace(value.clone()).is_some() {
                return None;
            }
        }
        match after.trim_ascii_start() {
            [] => return Some(parsed),
            [b';', more @ ..] => rest = more,
            _ => return None,
        }
    }
}

/// Returns the unquoted value at the beginning of the bytes, and the bytes that follow it.
fn take_value(bytes: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let Some(quoted) = bytes.strip_prefix(b"\"") else {
        // RFC 7239 §4 requires quotes around colons and brackets; some proxies omit the quotes.
        let is_value = |byte: u8| is_token(byte) || b":[]".contains(&byte);
        let end = bytes.iter().position(|byte| !is_value(*byte)).unwrap_or(bytes.len());
        return (end > 0).then(|| (Cow::Borrowed(&bytes[..end]), &bytes[end..]));
    };
    let mut value = Cow::Borrowed(&b""[..]);
    let mut at = 0;
    loop {
        match *quoted.get(at..)? {
            [b'"', ..] => return Some((value, &quoted[at + 1..])),
            [b'\\', escaped, ..] => {
                value.to_mut().push(escaped);
                at += 2;
            }
            [b'\\'] | [] => return None,
            [byte, ..] => {
                match &mut value {
                    Cow::Borrowed(plain) => *plain = &quoted[..=at],
                    Cow::Owned(unescaped) => unescaped.push(byte),
                }
                at += 1;
            }
        }
    }
}

/// Returns the address of a node (RFC 7239 §6), with port 0 in place of an obfuscated port.
fn node_address(node: &[u8]) -> Option<std::net::SocketAddr> {
    let obfuscated = node.windows(2).rposition(|pair| pair == b":_");
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
    match obfuscated {
        Some(at) if node[at + 2..].iter().all(is_name) && node.len() > at + 2 => claim::address(&node[..at]),
        _ => claim::address(node),
    }
}

/// True if the byte may be in a token (RFC 9110 §5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::TrustedPeers;
    use crate::rng::Rng;
    use http::HeaderValue;

    fn read_values(values: &[&str]) -> (Option<String>, Option<bool>, Option<String>) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(FORWARDED, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let networks = ["127.0.0.0/8", "::1/128", "10.0.0.0/8"].map(|network| network.parse().unwrap());
        let trusted = TrustedPeers { all: false, unix: true, networks: networks.to_vec() };
        let claim = read(&headers, &ForwardingSettings { trusted, ..ForwardingSettings::default() });
        let client = claim.client.map(|client| match client.port() {
            0 => client.ip().to_string(),
            _ => client.to_string(),
        });
        (client, claim.https, claim.host.map(|host| host.to_str().unwrap().to_owned()))
    }

    fn client(values: &[&str]) -> Option<String> {
        read_values(values).0
    }

    #[test]
    fn the_right_most_untrusted_node_is_the_client() {
        for (values, expected) in [
            (&["for=192.0.2.1"][..], Some("192.0.2.1")),
            (&["for=198.51.100.9, for=192.0.2.1"], Some("192.0.2.1")),
            (&["for=198.51.100.9, for=192.0.2.1, for=10.1.2.3, for=127.0.0.1"], Some("192.0.2.1")),
            (&["for=198.51.100.9", "for=192.0.2.1", "for=10.1.2.3"], Some("192.0.2.1")),
            (&["for=192.0.2.1,For=10.1.2.3,,\t, "], Some("192.0.2.1")),
            (&["for=10.9.9.9, for=10.1.2.3"], Some("10.9.9.9")),
            (&["by=203.0.113.43;FOR=192.0.2.1;proto=http"], Some("192.0.2.1")),
            (&[""], None),
            (&[], None),
        ] {
            assert_eq!(client(values).as_deref(), expected, "{values:?}");
        }
    }

    #[test]
    fn nodes_are_parsed_in_every_form_of_the_rfc() {
        for (node, expected) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("\"192.0.2.1:4711\"", Some("192.0.2.1:4711")),
            ("192.0.2.1:4711", Some("192.0.2.1:4711")),
            ("\"[2001:db8::1]\"", Some("2001:db8::1")),
            ("\"[2001:DB8::1]:4711\"", Some("[2001:db8::1]:4711")),
            ("[2001:db8::1]:4711", Some("[2001:db8::1]:4711")),
            ("\"[::ffff:192.0.2.1]\"", Some("192.0.2.1")),
            ("\"192.0.2.1:_port\"", Some("192.0.2.1")),
            ("\"[2001:db8::1]:_p.1\"", Some("2001:db8::1")),
            ("\"192.0.2\\.1\"", Some("192.0.2.1")),
            ("\"192.0.2.1:_\"", None),
            ("unknown", None),
            ("_hidden", None),
            ("\"\"", None),
            ("\"192.0.2.1", None),
            ("192.0.2.1\"", None),
            ("'192.0.2.1'", None),
        ] {
            assert_eq!(client(&[&format!("for={node}")]).as_deref(), expected, "{node}");
        }
    }

    #[test]
    fn scheme_and_host_come_from_the_clients_element() {
        for (values, expected) in [
            (&["for=192.0.2.1;proto=https;host=a.example"][..], (Some(true), Some("a.example"))),
            (
                &["for=192.0.2.1;proto=https;host=\"a.example:8443\", for=10.0.0.1;proto=http;host=inner"],
                (Some(true), Some("a.example:8443")),
            ),
            (
                &["for=6.6.6.6;proto=https;host=evil, for=192.0.2.1;proto=http;host=a.example"],
                (Some(false), Some("a.example")),
            ),
            (&["for=6.6.6.6;proto=https;host=evil, for=192.0.2.1"], (None, None)),
            (&["proto=https;host=evil, for=unknown;proto=http"], (Some(false), None)),
            (&["for=192.0.2.1;proto=ftp;host=\"a b\""], (None, None)),
        ] {
            let (_, https, host) = read_values(values);
            assert_eq!((https, host.as_deref()), expected, "{values:?}");
        }
    }

    #[test]
    fn a_malformed_element_ends_the_search() {
        for garbage in [
            "unknown",
            "for",
            "for=",
            "=192.0.2.1",
            "for=1.2.3.4;",
            "for=1.2.3.4;;proto=http",
            "for=1.2.3.4 x",
            "for=1.2.3.4;for=1.2.3.4",
            "for = 1.2.3.4",
            "for=\"1.2.3.4",
            "for=\"1.2.3.4\\\"",
            "\"",
            "\\\"",
            "\\",
            "for=1.2.3.4\"",
            "for=\"a\"b",
            "for=<script>",
        ] {
            assert_eq!(client(&[garbage]), None, "{garbage}");
            let spoofed = format!("for=6.6.6.6, {garbage}, for=10.0.0.1");
            assert_eq!(client(&[&spoofed]).as_deref(), Some("10.0.0.1"), "{garbage}");
        }
    }

    #[test]
    fn quoted_commas_and_semicolons_do_not_separate() {
        let read = read_values(&["for=6.6.6.6, for=192.0.2.1;ext=\"a,b;\\\"c\\\\\";proto=https"]);
        assert_eq!(read, (Some("192.0.2.1".to_owned()), Some(true), None));
        assert_eq!(client(&["for=\"192.0.2.1, for=6.6.6.6\""]), None);
    }

    #[test]
    fn a_client_cannot_choose_its_address() {
        let hops = ["for=10.0.0.1", "for=\"127.0.0.1:80\";proto=http", "by=_x;for=\"[::1]\"", ""];
        let forged = [
            "for=6.6.6.6",
            "for=10.6.6.6",
            "for=\"",
            "\"",
            "\\",
            "for=\"6.6.6.6\\",
            ";",
            "=",
            "for=unknown",
            "",
            "for=\"a, for=6.6.6.6",
            "\\\"",
            "proto=https;host=evil",
            "\u{ff}",
            "for=\"\\\\\"",
            "for=::1",
        ];
        let mut rng = Rng::new(0x9E37_79B9_7F4A_7C15);
        for round in 0..20_000 {
            let mut values: Vec<String> = (0..rng.index(3))
                .map(|_| (0..rng.index(4)).map(|_| rng.pick(&forged)).collect::<Vec<_>>().join(","))
                .collect();
            let (written, expected) = rng.pick(&[
                ("for=192.0.2.1;proto=http", "192.0.2.1"),
                ("for=\"[2001:db8::1]:4711\";proto=http", "[2001:db8::1]:4711"),
            ]);
            let nearer: Vec<&str> = (0..rng.index(4)).map(|_| rng.pick(&hops)).collect();
            for hop in std::iter::once(written).chain(nearer) {
                match values.last_mut() {
                    Some(last) if rng.index(2) == 0 => last.extend([", ", hop]),
                    _ => values.push(hop.to_owned()),
                }
            }
            let values: Vec<&str> = values.iter().map(String::as_str).collect();
            let read = read_values(&values);
            assert_eq!(read, (Some(expected.to_owned()), Some(false), None), "round {round}: {values:?}");
        }
    }

    #[test]
    fn random_bytes_never_yield_a_value_that_was_not_sent() {
        let mut rng = Rng::new(7);
        let words = [
            "for=",
            "proto=",
            "host=",
            "\"",
            "\\",
            ";",
            ",",
            " ",
            "192.0.2.1",
            "10.0.0.1",
            "[::1]",
            ":80",
            "https",
            "http",
            "a.example",
            "unknown",
            "_x",
            "=",
            "\u{ff}",
            "\t",
        ];
        for round in 0..40_000 {
            let value: String = (0..rng.index(14)).map(|_| rng.pick(&words)).collect();
            let (client, https, host) = read_values(&[&value]);
            let plain = value.replace('\\', "").to_ascii_lowercase();
            for (read, name) in
                [(client, "for="), (https.map(|_| "http".to_owned()), "proto="), (host, "host=")]
            {
                let Some(read) = read else { continue };
                let bare = read.trim_start_matches('[').split(']').next().unwrap_or_default();
                let bare = if name == "for=" { bare.trim_end_matches(":80") } else { bare };
                assert!(plain.contains(name) && plain.contains(bare), "round {round}: {read} of {value:?}");
            }
        }
    }
}
