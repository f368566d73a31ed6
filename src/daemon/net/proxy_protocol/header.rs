//! Finds the end of a PROXY header and parses it. Pure functions.
//!
//! The specification is HAProxy's `doc/proxy-protocol.txt`; the sections in this module are its
//! sections. The crate `ppp` parses a complete header. This module finds the end of the header,
//! because the bytes after it belong to TLS or HTTP and must not be read.

use std::net::SocketAddr;

use ppp::{v1, v2};

/// Maximum length in bytes of a line of version 1, with CRLF (§2.1).
const MAX_LINE: usize = 107;
/// Bytes of version 2 before the addresses (§2.2).
const V2_FIXED: usize = 16;
/// Maximum length in bytes of a header of version 2, the same as in nginx.
const MAX_V2: usize = 4096;
/// The command of a connection that the proxy opened for itself, such as a health check (§2.2).
const V2_LOCAL: u8 = 0x20;
/// The type of the TLV (type, length, value) about the client's TLS (§2.2.5).
const PP2_TYPE_SSL: u8 = 0x20;
/// The bit that is set in the first byte of `PP2_TYPE_SSL` if the client used TLS.
const PP2_CLIENT_SSL: u8 = 1;

/// The client that a header names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::net) struct ProxyHeader {
    /// The client's address. `None` if the proxy opened the connection for itself (LOCAL) or the
    /// client has no IP address (UNKNOWN, a unix socket); then the peer is the client.
    pub(in crate::net) source: Option<SocketAddr>,
    /// Whether the client used TLS on its connection to the proxy.
    pub(in crate::net) https: bool,
}

/// A defect of a header. In the log, the message follows "closed a connection of …: ".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::net) enum HeaderError {
    #[error("it does not begin with a PROXY header")]
    Missing,
    #[error("its PROXY header is malformed")]
    Malformed,
    #[error("its PROXY header is longer than {MAX_V2} bytes")]
    TooLong,
}

/// Finds the end of a header. `header` has the bytes of the header so far, `next` the bytes that
/// follow. Returns how many bytes of `next` belong to the header, and whether they complete it.
pub(super) fn measure(header: &[u8], next: &[u8]) -> Result<(usize, bool), HeaderError> {
    let byte = |at: usize| header.get(at).or_else(|| next.get(at - header.len())).copied();
    let len = header.len() + next.len();
    let begins_with = |prefix: &[u8]| (0..len.min(prefix.len())).all(|at| byte(at) == Some(prefix[at]));
    if begins_with(v2::PROTOCOL_PREFIX) {
        let total = match (byte(V2_FIXED - 2), byte(V2_FIXED - 1)) {
            (Some(high), Some(low)) => V2_FIXED + usize::from(u16::from_be_bytes([high, low])),
            _ => V2_FIXED,
        };
        if total > MAX_V2 {
            return Err(HeaderError::TooLong);
        }
        return Ok(((total - header.len()).min(next.len()), len >= total && len >= V2_FIXED));
    }
    if !begins_with(b"PROXY ") {
        return Err(HeaderError::Missing);
    }
    if let Some(end) = (0..len).find(|at| byte(*at) == Some(b'\n')) {
        let total = end + 1;
        return if total > MAX_LINE { Err(HeaderError::Malformed) } else { Ok((total - header.len(), true)) };
    }
    if len >= MAX_LINE { Err(HeaderError::Malformed) } else { Ok((next.len(), false)) }
}

/// Parses a complete header.
pub(super) fn parse(header: &[u8]) -> Result<ProxyHeader, HeaderError> {
    if header.starts_with(v2::PROTOCOL_PREFIX) { parse_v2(header) } else { parse_v1(header) }
}

fn parse_v1(line: &[u8]) -> Result<ProxyHeader, HeaderError> {
    let line = line.strip_suffix(b"\r\n").ok_or(HeaderError::Malformed)?;
    // The bytes after UNKNOWN must be ignored (§2.1).
    if line == b"PROXY UNKNOWN" || line.starts_with(b"PROXY UNKNOWN ") {
        return Ok(ProxyHeader::default());
    }
    let text = str::from_utf8(line).map_err(|_| HeaderError::Malformed)?;
    if !text.rsplit(' ').take(2).all(is_port) {
        return Err(HeaderError::Malformed);
    }
    let source =
        match v1::Header::try_from(&*format!("{text}\r\n")).map_err(|_| HeaderError::Malformed)?.addresses {
            v1::Addresses::Tcp4(ip) => Some((ip.source_address, ip.source_port).into()),
            v1::Addresses::Tcp6(ip) => Some((ip.source_address, ip.source_port).into()),
            v1::Addresses::Unknown => None,
        };
    Ok(ProxyHeader { source, https: false })
}

/// True if the text is a port as version 1 writes it: digits without a sign or leading zeros
/// (§2.1). `ppp` also accepts other numbers that Rust parses, such as `+1`.
fn is_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'))
}

fn parse_v2(header: &[u8]) -> Result<ProxyHeader, HeaderError> {
    // The bytes after LOCAL must be ignored, even the address family (§2.2).
    if header.get(v2::PROTOCOL_PREFIX.len()) == Some(&V2_LOCAL) {
        return Ok(ProxyHeader::default());
    }
    let header = v2::Header::try_from(header).map_err(|_| HeaderError::Malformed)?;
    let source = match header.addresses {
        _ if header.protocol != v2::Protocol::Stream => None,
        v2::Addresses::IPv4(ip) => Some((ip.source_address, ip.source_port).into()),
        v2::Addresses::IPv6(ip) => Some((ip.source_address, ip.source_port).into()),
        v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
    };
    let client_flags = header
        .tlvs()
        .map_while(Result::ok)
        .find(|tlv| tlv.kind == PP2_TYPE_SSL)
        .and_then(|tlv| tlv.value.first().copied());
    Ok(ProxyHeader { source, https: client_flags.is_some_and(|flags| flags & PP2_CLIENT_SSL != 0) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn v2_header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[command, family], &len, rest].concat()
    }

    fn tcp4(tlvs: &[u8]) -> Vec<u8> {
        let addresses = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0x01, 0xbb];
        v2_header(0x21, 0x11, &[&addresses[..], tlvs].concat())
    }

    fn source(address: &str) -> ProxyHeader {
        ProxyHeader { source: Some(address.parse().unwrap()), https: false }
    }

    #[test]
    fn version_1_names_the_tcp_client() {
        for (line, expected) in [
            ("PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n", source("192.0.2.7:4711")),
            ("PROXY TCP6 2001:db8::1 ::1 4711 443\r\n", source("[2001:db8::1]:4711")),
            ("PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", source("[::ffff:192.0.2.7]:1")),
            ("PROXY TCP4 192.0.2.7 198.51.100.1 0 65535\r\n", source("192.0.2.7:0")),
            ("PROXY UNKNOWN\r\n", ProxyHeader::default()),
            ("PROXY UNKNOWN ffff:f...f:ffff a b c d e f\r\n", ProxyHeader::default()),
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(expected), "{line:?}");
        }
    }

    #[test]
    fn malformed_version_1_is_refused() {
        for line in [
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP4 192.0.2.7\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443 \r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443 5\r\n",
            "PROXY TCP4  192.0.2.7 198.51.100.1 4711 443\r\n",
            "PROXY TCP4 ::1 ::1 4711 443\r\n",
            "PROXY TCP6 192.0.2.7 198.51.100.1 4711 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 -1 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 +1 443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 +443\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 01 443\r\n",
            "PROXY TCP6 2001:db8::1 ::1 1 00\r\n",
            "PROXY TCP4 192.0.2.007 198.51.100.1 1 443\r\n",
            "PROXY UDP4 192.0.2.7 198.51.100.1 1 443\r\n",
            "PROXY UNKNOWNX\r\n",
            "PROXY TCP4 192.0.2.7\0 198.51.100.1 1 2\r\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Err(HeaderError::Malformed), "{line:?}");
        }
        assert_eq!(parse(b"PROXY TCP4 \xff 198.51.100.1 1 2\r\n"), Err(HeaderError::Malformed));
    }

    #[test]
    fn version_2_names_the_tcp_client() {
        assert_eq!(parse(&tcp4(&[])), Ok(source("192.0.2.7:4711")));
        let ipv6 = ["2001:db8::1", "::1"].map(|text| text.parse::<std::net::Ipv6Addr>().unwrap().octets());
        let addresses = [ipv6.concat(), vec![0x12, 0x67, 0x01, 0xbb]].concat();
        assert_eq!(parse(&v2_header(0x21, 0x21, &addresses)), Ok(source("[2001:db8::1]:4711")));
    }

    #[test]
    fn local_unix_and_unknown_headers_name_no_client() {
        for header in [
            v2_header(0x20, 0x00, &[]),
            v2_header(0x20, 0x11, &[]),
            v2_header(0x20, 0xff, b"anything"),
            v2_header(0x21, 0x00, &[]),
            v2_header(0x21, 0x00, &[1, 2, 3]),
            v2_header(0x21, 0x31, &[b'/'; 216]),
            v2_header(0x21, 0x12, &[0; 12]),
        ] {
            assert_eq!(parse(&header), Ok(ProxyHeader::default()), "{}", header.escape_ascii());
        }
    }

    #[test]
    fn malformed_version_2_is_refused() {
        for header in [
            v2_header(0x11, 0x11, &[0; 12]),
            v2_header(0x22, 0x11, &[0; 12]),
            v2_header(0x21, 0x41, &[0; 12]),
            v2_header(0x21, 0x13, &[0; 12]),
            v2_header(0x21, 0x11, &[0; 11]),
            v2_header(0x21, 0x21, &[0; 35]),
            v2_header(0x21, 0x31, &[0; 215]),
        ] {
            assert_eq!(parse(&header), Err(HeaderError::Malformed), "{}", header.escape_ascii());
        }
    }

    #[test]
    fn the_ssl_tlv_says_whether_the_client_used_tls() {
        let alpn = [1, 0, 2, b'h', b'2'];
        let ssl = |flags| [0x20, 0, 5, flags, 0, 0, 0, 0];
        for (tlvs, https) in [
            (ssl(1).to_vec(), true),
            (ssl(7).to_vec(), true),
            (ssl(0).to_vec(), false),
            ([&alpn[..], &ssl(1)].concat(), true),
            (alpn.to_vec(), false),
            (vec![0x20, 0, 0], false),
            // Malformed TLVs are not used.
            (vec![0x20, 0, 9, 1], false),
            (vec![0x20], false),
        ] {
            let expected = ProxyHeader { https, ..source("192.0.2.7:4711") };
            assert_eq!(parse(&tcp4(&tlvs)), Ok(expected), "{tlvs:?}");
        }
    }

    #[test]
    fn a_header_ends_where_the_clients_bytes_begin() {
        let mut rng = Rng::new(11);
        for header in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n".to_vec(),
            tcp4(&[]),
            tcp4(&[4; 300]),
            v2_header(0x20, 0, &[]),
        ] {
            let sent = [&header[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
            for _ in 0..200 {
                let mut header_bytes = Vec::new();
                let mut at = 0;
                loop {
                    let next = &sent[at..sent.len().min(at + 1 + rng.index(40))];
                    let (len, is_complete) = measure(&header_bytes, next).unwrap();
                    header_bytes.extend_from_slice(&next[..len]);
                    at += len;
                    if is_complete {
                        break;
                    }
                    assert_eq!(len, next.len());
                }
                assert_eq!(header_bytes.escape_ascii().to_string(), header.escape_ascii().to_string());
            }
        }
    }

    #[test]
    fn other_bytes_are_not_a_header() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x03\x01",
            b"PROXYX",
            b"proxy TCP4",
            b"\r\n\r\n\0\r\nQUIX",
            b"\n",
        ] {
            assert_eq!(measure(b"", bytes), Err(HeaderError::Missing), "{}", bytes.escape_ascii());
        }
        assert_eq!(measure(b"PRO", b"XX"), Err(HeaderError::Missing));
        assert_eq!(
            measure(b"PROXY TCP4 ", &[b'1'; 96]),
            Err(HeaderError::Malformed),
            "no end within 107 bytes"
        );
        let line = [&b"PROXY UNKNOWN "[..], &[b'x'; 92], b"\r\n"].concat();
        assert_eq!(measure(b"", &line), Err(HeaderError::Malformed), "108 bytes");
        assert_eq!(measure(b"", &line[1..]), Err(HeaderError::Missing));
        let long = v2_header(0x21, 0x11, &[0; MAX_V2]);
        assert_eq!(measure(b"", &long), Err(HeaderError::TooLong));
    }

    #[test]
    fn random_bytes_are_parsed_or_refused() {
        let mut rng = Rng::new(5);
        let mut parsed = 0;
        for _ in 0..50_000 {
            let mut header =
                if rng.index(2) == 0 { tcp4(&[]) } else { b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n".to_vec() };
            for _ in 0..=rng.index(3) {
                let at = rng.index(header.len());
                header[at] = u8::try_from(rng.index(256)).unwrap();
            }
            if let Ok((len, true)) = measure(b"", &header) {
                parsed += usize::from(parse(&header[..len]).is_ok());
            }
        }
        assert!(parsed > 1000, "{parsed}");
    }
}
