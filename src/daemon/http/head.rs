//! Checks of a request's head beyond its framing, and its conversion from the types of the `http`
//! crate to the channel's.

use std::sync::atomic::{AtomicBool, Ordering};

use http::header::{ACCEPT, CONTENT_LENGTH, HOST, HeaderName, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Version, request};

use crate::negotiation::ErrorFormat;

use super::context::{UnderscorePolicy, X_REQUEST_ID};
use super::fault::{Refusal, RequestFault};
use super::h1::framing;

/// The name of the `Host` field.
const HOST_NAME: &[u8] = b"host";

/// The result of one pass over a request's fields.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct HeaderScan<'h> {
    n_hosts: usize,
    /// The first `X-Request-ID` field.
    pub(super) request_id: Option<&'h HeaderValue>,
    /// The first `traceparent` field.
    pub(super) traceparent: Option<&'h HeaderValue>,
    /// Whether there is a `Forwarded` field or an `X-Forwarded-*` field.
    pub(super) is_forwarded: bool,
    /// There is a `Proxy` field.
    has_proxy: bool,
    /// A field's name has an underscore.
    has_underscore: bool,
    /// There is an `Upgrade` field.
    pub(super) has_upgrade: bool,
}

impl<'h> HeaderScan<'h> {
    /// Scans all fields. A head has few, so this pass costs about as much as one lookup by name.
    pub(super) fn of(headers: &'h HeaderMap) -> Self {
        let mut scan = Self::default();
        for (name, value) in headers {
            let name = name.as_str().as_bytes();
            scan.has_underscore |= has_underscore(name);
            match name {
                b"host" => scan.n_hosts += 1,
                b"proxy" => scan.has_proxy = true,
                b"upgrade" => scan.has_upgrade = true,
                b"x-request-id" => scan.request_id = scan.request_id.or(Some(value)),
                b"traceparent" => scan.traceparent = scan.traceparent.or(Some(value)),
                b"forwarded"
                | b"x-forwarded-for"
                | b"x-forwarded-proto"
                | b"x-forwarded-protocol"
                | b"x-forwarded-ssl"
                | b"x-forwarded-host"
                | b"x-forwarded-port"
                | b"x-forwarded-prefix" => {
                    scan.is_forwarded = true;
                }
                _ => {}
            }
        }
        scan
    }

    /// True if [`remove_unsafe`] has fields to remove.
    pub(super) fn has_unsafe(&self, underscores: UnderscorePolicy) -> bool {
        self.has_proxy || self.has_underscore && underscores == UnderscorePolicy::Drop
    }
}

/// True if the name has an underscore. Checks eight bytes at a time; the last eight may overlap the
/// others. For a short name this takes a quarter of the 64 instructions that a vectorized loop or
/// `memchr` takes.
fn has_underscore(name: &[u8]) -> bool {
    let in_word = |word: &[u8; 8]| {
        let difference = u64::from_ne_bytes(*word) ^ u64::from_ne_bytes([b'_'; 8]);
        // The high bit of a byte is set if the byte is zero, or follows a byte that is zero.
        difference.wrapping_sub(u64::from_ne_bytes([0x01; 8])) & !difference & u64::from_ne_bytes([0x80; 8])
            != 0
    };
    match name.last_chunk() {
        Some(last) => in_word(last) || name.as_chunks().0.iter().any(in_word),
        None => name.contains(&b'_'),
    }
}

/// Removes fields that collide in a CGI environment. `Proxy` becomes `HTTP_PROXY`, from which many
/// libraries take their outgoing proxy (CVE-2016-5385). `X_Real_IP` gets the same key as the
/// `X-Real-IP` that a proxy has set; names with an underscore are kept only if they are allowed.
pub(super) fn remove_unsafe(headers: &mut HeaderMap, underscores: UnderscorePolicy) {
    headers.remove("proxy");
    if underscores == UnderscorePolicy::Allow {
        return;
    }
    let names: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().contains('_')).cloned().collect();
    for name in names {
        if name == "script_name" {
            warn_script_name();
        }
        headers.remove(name);
    }
}

/// Says how a proxy names the path prefix, once: gunicorn takes it from a field with an underscore.
fn warn_script_name() {
    static WARNED: AtomicBool = AtomicBool::new(false);
    if !WARNED.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            "a request has the field SCRIPT_NAME, which is dropped as all fields with an underscore: if the proxy sets \
             it, write app.root_path, or let the proxy set X-Forwarded-Prefix and add that to proxy.fields (logged once)"
        );
    }
}

/// Refuses a head that the parser (framing and hyper, or h2) accepts, but RFC 9110, RFC 9112 or
/// `http.underscores` forbids.
pub(super) fn check(
    parts: &request::Parts,
    scan: &HeaderScan<'_>,
    underscores: UnderscorePolicy,
) -> Result<(), Refusal> {
    let refuse = |fault| Err(Refusal::Client(fault));
    if parts.method == Method::CONNECT {
        return refuse(RequestFault::Connect);
    }
    // RFC 9112 §3.2: a path, alone or in a URI; `*` only for OPTIONS; an authority alone only for
    // CONNECT.
    let path = parts.uri.path();
    let is_target = path.starts_with('/') || path == "*" && parts.method == Method::OPTIONS;
    if !is_target {
        return refuse(RequestFault::Target);
    }
    // RFC 9112 §3.2: 400 for an HTTP/1.1 request without Host, or with more than one.
    match scan.n_hosts {
        0 if parts.version == Version::HTTP_11 => {
            return refuse(RequestFault::NoHost);
        }
        0 | 1 => {}
        _ => return refuse(RequestFault::ManyHosts),
    }
    if scan.has_underscore && underscores == UnderscorePolicy::Refuse {
        return refuse(RequestFault::Underscore);
    }
    Ok(())
}

/// Replaces an `X-Request-ID` field with the request's id.
pub(super) fn set_request_id(headers: &mut HeaderMap, id: HeaderValue) {
    headers.insert(X_REQUEST_ID, id);
}

/// Replaces `Host` with the host of an HTTP/1.1 request's absolute-form target, which takes
/// precedence (RFC 9112 §3.2.2).
pub(super) fn set_host(parts: &mut request::Parts) -> Result<(), Refusal> {
    let Some(authority) = parts.uri.authority() else { return Ok(()) };
    // RFC 9110: user information (§4.2.4) and an empty host (§4.2.1) are errors.
    let host = authority.as_str();
    let host = Some(host).filter(|host| !host.is_empty() && framing::is_host(host.as_bytes()));
    let host = host.and_then(|host| HeaderValue::from_str(host).ok());
    parts.headers.insert(HOST, host.ok_or(Refusal::Client(RequestFault::TargetHost))?);
    Ok(())
}

/// Returns the fields for the worker. `Transfer-Encoding` is removed when the body was decoded
/// whole (RFC 9112 §7.1.3), and kept for an ASGI application that receives a streamed body.
pub(super) fn fields(
    headers: &HeaderMap,
    keep_transfer_encoding: bool,
) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers
        .iter()
        .filter(move |(name, _)| keep_transfer_encoding || **name != TRANSFER_ENCODING)
        .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
}

/// Returns the fields of an HTTP/2 request for the worker. `Host` comes first, as the ASGI
/// specification recommends.
pub(super) fn stream_fields(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let host = headers.get(HOST).map(|value| (HOST_NAME, value.as_bytes()));
    let others = headers.iter().filter(|(name, _)| name.as_str().as_bytes() != HOST_NAME);
    host.into_iter().chain(others.map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes())))
}

/// Sets the length of a chunked body that was received whole. Frameworks need the field: without
/// it, Django reads no body.
pub(super) fn set_content_length(headers: &mut HeaderMap, len: u64) {
    headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
}

/// Returns the format in which the client wants an error response.
pub(super) fn error_format(headers: &HeaderMap) -> ErrorFormat {
    ErrorFormat::of_accept(headers.get_all(ACCEPT).iter().map(HeaderValue::as_bytes))
}

/// Returns the channel's code of the version: 10, 11 or 20.
pub(super) fn version_code(version: Version) -> u8 {
    match version {
        Version::HTTP_10 => 10,
        Version::HTTP_2 => 20,
        _ => 11,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(method: Method, target: &str) -> request::Parts {
        let request = http::Request::builder().method(method).uri(target).header(HOST, "field.example");
        request.body(()).unwrap().into_parts().0
    }

    fn checked(parts: &request::Parts) -> Result<(), Refusal> {
        check(parts, &HeaderScan::of(&parts.headers), UnderscorePolicy::Drop)
    }

    #[test]
    fn a_target_is_a_path_a_uri_or_a_star_for_options() {
        for (method, target) in [(Method::GET, "/"), (Method::GET, "http://a/b"), (Method::OPTIONS, "*")] {
            assert_eq!(checked(&parts(method, target)), Ok(()), "{target}");
        }
        for (method, target) in [(Method::GET, "*"), (Method::GET, "a.example:80"), (Method::OPTIONS, "a")] {
            let refused = checked(&parts(method, target));
            assert_eq!(refused, Err(Refusal::Client(RequestFault::Target)), "{target}");
        }
    }

    #[test]
    fn underscore_policy_drops_refuses_or_allows_fields() {
        let mut sent = parts(Method::GET, "/");
        for name in ["x-real-ip", "x_real_ip", "_", "proxy", "proxy-connection", "proxy_"] {
            let name = HeaderName::from_static(name);
            sent.headers.append(name.clone(), HeaderValue::from_static("1"));
            sent.headers.append(name, HeaderValue::from_static("2"));
        }
        for (underscores, left) in [
            (UnderscorePolicy::Drop, &["host", "proxy-connection", "x-real-ip"][..]),
            (UnderscorePolicy::Allow, &["_", "host", "proxy-connection", "proxy_", "x-real-ip", "x_real_ip"]),
        ] {
            let mut parts = sent.clone();
            let scan = HeaderScan::of(&parts.headers);
            assert_eq!(check(&parts, &scan, underscores), Ok(()));
            assert!(scan.has_unsafe(underscores));
            remove_unsafe(&mut parts.headers, underscores);
            let mut names: Vec<_> = parts.headers.keys().map(HeaderName::as_str).collect();
            names.sort_unstable();
            assert_eq!(names, left, "{underscores:?}");
            assert!(!HeaderScan::of(&parts.headers).has_unsafe(underscores));
        }
        let refused = check(&sent, &HeaderScan::of(&sent.headers), UnderscorePolicy::Refuse);
        assert_eq!(refused, Err(Refusal::Client(RequestFault::Underscore)));
        let plain = parts(Method::GET, "/");
        assert_eq!(check(&plain, &HeaderScan::of(&plain.headers), UnderscorePolicy::Refuse), Ok(()));
    }

    #[test]
    fn underscore_is_found_at_each_place_of_a_name() {
        for len in 0..40 {
            let plain = "x-9^a~q".repeat(6);
            assert!(!has_underscore(&plain.as_bytes()[..len]), "{len}");
            for at in 0..len {
                let mut name = plain.as_bytes()[..len].to_vec();
                name[at] = b'_';
                assert!(has_underscore(&name), "{at} of {len}");
            }
        }
    }

    #[test]
    fn a_host_in_the_target_replaces_the_field() {
        for (target, host) in
            [("/", "field.example"), ("http://a.example/", "a.example"), ("http://[::1]:8/", "[::1]:8")]
        {
            let mut parts = parts(Method::GET, target);
            set_host(&mut parts).unwrap();
            assert_eq!(parts.headers.get_all(HOST).iter().collect::<Vec<_>>(), [host]);
        }
    }

    #[test]
    fn host_is_the_first_field_of_an_http2_request() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("accept", "*/*"), ("x-a", "1"), ("accept", "b"), ("host", "a")] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let fields: Vec<_> = stream_fields(&headers).map(|(name, value)| [name, value]).collect();
        let expected = [["host", "a"], ["accept", "*/*"], ["accept", "b"], ["x-a", "1"]];
        assert_eq!(fields, expected.map(|field| field.map(str::as_bytes)));
    }

    #[test]
    fn a_target_with_an_invalid_host_is_refused() {
        for target in ["http://me@a.example/", "http://a:b/", "http://a:99999/", "http://:80/"] {
            let Ok(uri) = target.parse::<http::Uri>() else { continue };
            let mut parts = parts(Method::GET, "/");
            parts.uri = uri;
            let refused = set_host(&mut parts);
            assert!(refused == Err(Refusal::Client(RequestFault::TargetHost)), "{target}");
        }
    }
}
