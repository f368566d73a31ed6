//! Checks a request's head on a stream, so that the application gets no head that the HTTP/1.1
//! framing would refuse.
//!
//! A head that this module refuses gets a response with a request id, and an entry in the journal.
//! h2 itself refuses some requests earlier, without response and entry:
//!
//! | h2 finds | and answers |
//! |---|---|
//! | missing, repeated and misplaced pseudo-header fields, connection-specific fields, `TE` other than "trailers", a body that is not as long as `Content-Length`, trailers without the end of the stream | RST_STREAM (PROTOCOL_ERROR), as RFC 9113 §8.1.1 asks for |
//! | uppercase and other invalid characters in a name, control bytes in a value, unknown pseudo-header fields, an invalid method, a path that is not UTF-8 | GOAWAY (PROTOCOL_ERROR), which RFC 9113 §5.4.1 allows: h2's HPACK decoder stops there, so later requests cannot be decoded |
//! | a fragment in the path, pseudo-header fields in trailers | nothing: h2 drops them, so they have no effect |

use h2::ext::Protocol;
use http::header::{COOKIE, HOST};
use http::{HeaderMap, HeaderValue, Method, request};

use crate::http::context::RequestLimits;
use crate::http::fault::{Refusal, RequestFault};
use crate::http::h1::framing::{self, Violation};

/// Bytes of a field's line in HTTP/1.1 in addition to its name and value: ": " and CRLF.
const FIELD_LINE_BYTES: usize = 4;

/// Bytes of a request line in HTTP/1.1 in addition to method and target: two spaces and the
/// version.
const REQUEST_LINE_BYTES: usize = " / HTTP/1.1".len() - 1;

/// Checks the head and gives it the HTTP/1.1 form: `Host` from `:authority`, one `Cookie` field
/// (RFC 9113 §8.2.3), and GET for a WebSocket handshake (RFC 8441 §5).
pub(super) fn prepare(parts: &mut request::Parts, limits: &RequestLimits) -> Result<(), Refusal> {
    let scan = FieldScan::of(&parts.headers);
    check_size(parts, &scan, limits).map_err(Refusal::Framing)?;
    scan.check_length().map_err(Refusal::Framing)?;
    let host = scan.host(parts)?;
    let has_crumbs = scan.n_cookies > 1;
    if let Some(protocol) = parts.extensions.get::<Protocol>() {
        // By RFC 8441 §4 the value is case-sensitive; by RFC 9110 §7.8 it is not.
        if !protocol.as_str().eq_ignore_ascii_case("websocket") {
            return Err(Refusal::Client(RequestFault::Protocol));
        }
        parts.method = Method::GET;
    } else if parts.method == Method::CONNECT {
        return Err(Refusal::Client(RequestFault::Connect));
    }
    if let Some(host) = host {
        parts.headers.insert(HOST, host);
    }
    if has_crumbs {
        join_cookies(&mut parts.headers);
    }
    Ok(())
}

/// True for a WebSocket handshake, once [`prepare`] has accepted it.
pub(super) fn is_websocket(parts: &request::Parts) -> bool {
    parts.extensions.get::<Protocol>().is_some()
}

/// The result of one pass over a request's fields.
#[derive(Default)]
struct FieldScan<'h> {
    /// Length in bytes that the fields would have in HTTP/1.1.
    len: usize,
    /// A value begins or ends with whitespace.
    has_outer_space: bool,
    /// The first `Host` field.
    host: Option<&'h HeaderValue>,
    n_hosts: usize,
    /// The first `Content-Length` field.
    length: Option<&'h HeaderValue>,
    n_lengths: usize,
    n_cookies: usize,
}

impl<'h> FieldScan<'h> {
    fn of(headers: &'h HeaderMap) -> Self {
        let mut scan = Self::default();
        for (name, value) in headers {
            let name = name.as_str();
            let bytes = value.as_bytes();
            scan.len += name.len() + bytes.len() + FIELD_LINE_BYTES;
            let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
            scan.has_outer_space |= is_space(bytes.first()) || is_space(bytes.last());
            match name {
                "host" => {
                    scan.host = scan.host.or(Some(value));
                    scan.n_hosts += 1;
                }
                "content-length" => {
                    scan.length = scan.length.or(Some(value));
                    scan.n_lengths += 1;
                }
                "cookie" => scan.n_cookies += 1,
                _ => {}
            }
        }
        scan
    }

    /// Checks that there is at most one `Content-Length`, in digits; h2 accepts several equal ones.
    /// h2 itself compares the value with the body.
    fn check_length(&self) -> Result<(), Violation> {
        let Some(length) = self.length else { return Ok(()) };
        if self.n_lengths > 1 {
            return Err(Violation::Length("there is more than one Content-Length"));
        }
        if length.is_empty() || !length.as_bytes().iter().all(u8::is_ascii_digit) {
            return Err(Violation::Length("Content-Length is not a number"));
        }
        Ok(())
    }

    /// Checks the request's host (RFC 9113 §8.3.1): `:authority`, or `Host` if there is no
    /// `:authority`, as proxies that translate from HTTP/1.1 may send it. If both are present, they
    /// must be equal. Returns the new value of `Host`; `None` if the field stays as it is.
    fn host(&self, parts: &request::Parts) -> Result<Option<HeaderValue>, Refusal> {
        let refuse = |fault| Err(Refusal::Client(fault));
        if self.n_hosts > 1 {
            return refuse(RequestFault::ManyHosts);
        }
        match (parts.uri.authority(), self.host) {
            (None, None) => refuse(RequestFault::NoHost),
            (None, Some(field)) if framing::is_host(field.as_bytes()) => Ok(None),
            (None, Some(_)) => Err(Refusal::Framing(Violation::Host)),
            (Some(authority), Some(field))
                if !field.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
            {
                refuse(RequestFault::HostConflict)
            }
            // The `http` crate accepts user information and an empty host.
            (Some(authority), _) if !framing::is_host(authority.as_str().as_bytes()) => {
                refuse(RequestFault::TargetHost)
            }
            (Some(authority), _) => match HeaderValue::from_str(authority.as_str()) {
                Ok(host) => Ok(Some(host)),
                Err(_) => refuse(RequestFault::TargetHost),
            },
        }
    }
}

/// Checks the length that the head would have in HTTP/1.1 against the limits, and that no value
/// begins or ends with whitespace (RFC 9113 §8.2.1).
fn check_size(parts: &request::Parts, scan: &FieldScan<'_>, limits: &RequestLimits) -> Result<(), Violation> {
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if parts.method.as_str().len() + target + REQUEST_LINE_BYTES > limits.request_line {
        return Err(Violation::RequestLineTooLong);
    }
    if scan.has_outer_space {
        return Err(Violation::Field("a header field begins or ends with a space"));
    }
    if scan.len > limits.header {
        return Err(Violation::FieldsTooLong);
    }
    if parts.headers.len() > limits.headers {
        return Err(Violation::TooManyFields);
    }
    Ok(())
}

/// Joins the `Cookie` fields: for better compression a client may send each cookie in its own
/// field.
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<_> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let joined = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]));
    headers.insert(COOKIE, joined.expect("joined field values are a field value"));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::header::HeaderName;

    use super::*;

    const LIMITS: RequestLimits = RequestLimits {
        body: None,
        header: 200,
        headers: 5,
        request_line: 40,
        body_timeout: Duration::ZERO,
        body_rate: None,
        spool_memory: 0,
        spool_disk: 0,
        keepalive: true,
    };

    fn parts(target: &str, fields: &[(&'static str, &str)]) -> request::Parts {
        let mut parts = http::Request::builder().uri(target).body(()).unwrap().into_parts().0;
        for (name, value) in fields {
            parts.headers.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        parts
    }

    fn prepared(target: &str, fields: &[(&'static str, &str)]) -> Result<request::Parts, Refusal> {
        let mut parts = parts(target, fields);
        prepare(&mut parts, &LIMITS).map(|()| parts)
    }

    #[test]
    fn host_is_the_authority_or_else_the_field() {
        for (target, fields, host) in [
            ("http://a.example/", &[("accept", "*/*")][..], "a.example"),
            ("http://a.example/", &[("host", "A.example")], "a.example"),
            ("/", &[("accept", "*/*"), ("host", "b:8")], "b:8"),
        ] {
            let parts = prepared(target, fields).unwrap();
            assert_eq!(parts.headers.get_all(HOST).iter().collect::<Vec<_>>(), [host], "{fields:?}");
        }
    }

    #[test]
    fn ambiguous_and_invalid_hosts_are_refused() {
        let client = |fault| Some(Refusal::Client(fault));
        for (target, fields, refusal) in [
            ("/", &[][..], client(RequestFault::NoHost)),
            ("/", &[("host", "a"), ("host", "a")], client(RequestFault::ManyHosts)),
            ("/", &[("host", "a b")], Some(Refusal::Framing(Violation::Host))),
            ("http://a/", &[("host", "b")], client(RequestFault::HostConflict)),
            ("http://a/", &[("host", "a:80")], client(RequestFault::HostConflict)),
            ("http://me@a/", &[], client(RequestFault::TargetHost)),
            ("http://a/", &[("host", "a"), ("host", "a")], client(RequestFault::ManyHosts)),
        ] {
            assert_eq!(prepared(target, fields).err(), refusal, "{target} {fields:?}");
        }
    }

    #[test]
    fn cookie_crumbs_become_one_field() {
        let fields = [("cookie", "a=1"), ("x", "y"), ("cookie", "b=2"), ("cookie", "c=3; d=4")];
        let parts = prepared("http://a/", &fields).unwrap();
        assert_eq!(parts.headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3; d=4"]);
    }

    #[test]
    fn a_head_over_a_limit_is_refused() {
        let long = "x".repeat(200);
        for (target, fields, violation) in [
            ("http://a/123456789012345678901234567890", &[][..], Violation::RequestLineTooLong),
            ("http://a/", &[("x", &*long)], Violation::FieldsTooLong),
            ("http://a/", &[("x", "y"); 6], Violation::TooManyFields),
            ("http://a/", &[("x", " y")], Violation::Field("a header field begins or ends with a space")),
            ("http://a/", &[("x", "y\t")], Violation::Field("a header field begins or ends with a space")),
            (
                "http://a/",
                &[("content-length", "1"), ("content-length", "1")],
                Violation::Length("there is more than one Content-Length"),
            ),
            ("http://a/", &[("content-length", "+1")], Violation::Length("Content-Length is not a number")),
            ("http://a/", &[("content-length", "")], Violation::Length("Content-Length is not a number")),
        ] {
            assert_eq!(prepared(target, fields).err(), Some(Refusal::Framing(violation)), "{target}");
        }
        // "GET /1234567890123456789012345 HTTP/1.1" has 39 bytes, 41 with its CRLF.
        assert!(prepared("http://a/1234567890123456789012345", &[]).is_ok());
    }

    #[test]
    fn connect_is_refused_except_for_a_websocket() {
        let connect = |protocol: Option<&'static str>| {
            let mut parts = parts("http://a/chat", &[]);
            parts.method = Method::CONNECT;
            if let Some(protocol) = protocol {
                parts.extensions.insert(Protocol::from_static(protocol));
            }
            prepare(&mut parts, &LIMITS).map(|()| (parts.method.clone(), is_websocket(&parts)))
        };
        assert_eq!(connect(Some("websocket")), Ok((Method::GET, true)));
        assert_eq!(connect(Some("connect-udp")), Err(Refusal::Client(RequestFault::Protocol)));
        assert_eq!(connect(None), Err(Refusal::Client(RequestFault::Connect)));
    }
}
