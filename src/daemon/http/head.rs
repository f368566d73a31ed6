//! A request's head: hyper's types to the channel's.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode, Version, request};

use super::fault::Refusal;
use super::server::Limits;

/// Refuses what RFC 9110 and 9112 say must be refused and hyper lets through, and what is over the limits.
pub(super) fn check(parts: &request::Parts, limits: &Limits) -> Result<(), Refusal> {
    let refuse = |status, reason| Err(Refusal::Client(status, reason));
    if parts.method == Method::CONNECT {
        // RFC 9110 §9.3.6: an origin server that is no tunnel.
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "CONNECT is not served here");
    }
    // RFC 9112 §3.2: 400 for a request of HTTP/1.1 without Host, or with more than one.
    let mut hosts = parts.headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if parts.version == Version::HTTP_11 => {
            return refuse(StatusCode::BAD_REQUEST, "the Host field is missing");
        }
        (Some(_), Some(_)) => return refuse(StatusCode::BAD_REQUEST, "there is more than one Host field"),
        _ => {}
    }
    let target = parts.uri.path().len() + parts.uri.query().map_or(0, |query| query.len() + 1);
    if target > limits.request_line {
        return refuse(StatusCode::URI_TOO_LONG, "the request's target is longer than limits.request_line");
    }
    let fields: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if fields > limits.header {
        return refuse(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the request's fields are longer than limits.header",
        );
    }
    Ok(())
}

/// The fields as the worker gets them: without `Transfer-Encoding`, because the body it gets has been decoded
/// (RFC 9112 §7.1.3).
pub(super) fn fields(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    headers
        .iter()
        .filter(|(name, _)| **name != TRANSFER_ENCODING)
        .map(|(name, value)| (name.as_str().as_bytes(), value.as_bytes()))
}

/// After decoding a chunked body its length is known: the worker sees it as `Content-Length`, which is what
/// frameworks look at (Django reads nothing without it).
pub(super) fn set_length(headers: &mut HeaderMap, len: u64) {
    headers.insert(CONTENT_LENGTH, http::HeaderValue::from(len));
}

/// 10 or 11.
pub(super) fn version(version: Version) -> u8 {
    if version == Version::HTTP_10 { 10 } else { 11 }
}
