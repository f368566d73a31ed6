//! Checks the value of Host: `uri-host [ ":" port ]` (RFC 9110 §7.2, RFC 3986 §3.2.2).

use std::net::Ipv6Addr;
use std::str;

use super::bytes::table;

/// Unreserved characters and sub-delims; a percent sign is checked separately.
static NAME: [bool; 256] = table(b"-._~!$&'()*+,;=");

/// True for a host with or without a port, and for an empty value, which belongs to a target
/// without an authority (RFC 9112 §3.2).
pub(in crate::http) fn is_valid(value: &[u8]) -> bool {
    let plain = value.iter().position(|byte| !NAME[usize::from(*byte)]).unwrap_or(value.len());
    match value.get(plain..).unwrap_or_default() {
        [] => true,
        port @ [b':', ..] if plain > 0 => is_port(port),
        _ => is_valid_unusual(value),
    }
}

/// Checks a value that is an address in brackets, percent-encoded, or invalid.
#[cold]
fn is_valid_unusual(value: &[u8]) -> bool {
    if let Some(rest) = value.strip_prefix(b"[") {
        let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
        let (address, port) = rest.split_at(end);
        return is_literal(address) && is_port(port.get(1..).unwrap_or_default());
    }
    let colon = value.iter().position(|byte| *byte == b':').unwrap_or(value.len());
    let (name, port) = value.split_at(colon);
    !name.is_empty() && is_name(name) && is_port(port)
}

fn is_name(mut name: &[u8]) -> bool {
    loop {
        match name {
            [] => return true,
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                name = rest;
            }
            [byte, rest @ ..] if NAME[usize::from(*byte)] => name = rest,
            _ => return false,
        }
    }
}

/// True for an `IPv6address` or `IPvFuture`, without the brackets.
fn is_literal(address: &[u8]) -> bool {
    if let [b'v' | b'V', rest @ ..] = address {
        let Some(dot) = rest.iter().position(|byte| *byte == b'.') else { return false };
        let (version, name) = rest.split_at(dot);
        let is_future = |byte: &u8| NAME[usize::from(*byte)] || *byte == b':';
        return !version.is_empty()
            && version.iter().all(u8::is_ascii_hexdigit)
            && name.len() > 1
            && name[1..].iter().all(is_future);
    }
    str::from_utf8(address).is_ok_and(|address| address.parse::<Ipv6Addr>().is_ok())
}

/// True for a colon with or without a port number, and for an empty slice.
fn is_port(port: &[u8]) -> bool {
    match port {
        [] | [b':'] => true,
        [b':', digits @ ..] => digits
            .iter()
            .try_fold(0_u16, |port, digit| {
                let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
                port.checked_mul(10)?.checked_add(digit.into())
            })
            .is_some(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_address_with_an_optional_port() {
        for host in [
            "",
            "a",
            "a.example",
            "a_b.example:80",
            "a:",
            "127.0.0.1:65535",
            "[::1]",
            "[::1]:8",
            "[v1.a:b]",
            "xn--bcher-kva.example",
            "a%20b",
            "a,b",
            "a.",
        ] {
            assert!(is_valid(host.as_bytes()), "{host:?}");
        }
    }

    #[test]
    fn an_invalid_host_is_refused() {
        for host in [
            "a b",
            "a/b",
            "a@b",
            "http://a",
            "a:b",
            "a:80:80",
            ":80",
            "a:65536",
            "a:-1",
            "[::1",
            "::1",
            "[::1]x",
            "[]",
            "[1.2.3.4]",
            "[v1.]",
            "[v.a]",
            "a\tb",
            "a\"",
            "a<b",
            "a?b",
            "a#b",
            "b\u{fc}cher",
            "a%2",
            "a%zz",
            "a\\b",
            "[fe80::1%25eth0]",
            "a:+80",
        ] {
            assert!(!is_valid(host.as_bytes()), "{host:?}");
        }
    }
}
