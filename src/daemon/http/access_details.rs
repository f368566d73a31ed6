//! The facts about a request that only the access log has. [`copy`] is called only if each request
//! is logged.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, REFERER, USER_AGENT};
use http::{HeaderMap, Version, request};

use crate::journal::requests::{AccessDetails, BoundedText};
use crate::net::Peer;

use super::context::{AccessSettings, ConnContext, X_REQUEST_ID};

/// The name in the log of a client on a unix socket, which has no address.
const UNIX: &str = "unix";

/// Copies the details of a request. `https`: the client used TLS. `is_forwarded`: a trusted proxy
/// names the client.
pub(super) fn copy(
    settings: &AccessSettings,
    context: &ConnContext,
    parts: &request::Parts,
    https: bool,
    is_forwarded: bool,
) -> Arc<AccessDetails> {
    let AccessSettings { query, line } = settings;
    let field = |name: &str| parts.headers.get(name).map(|value| BoundedText::new(value.as_bytes()));
    let process = context.peer_process.as_deref();
    let peer = is_forwarded.then(|| client_name(&context.connection.peer));
    Arc::new(AccessDetails {
        query: parts.uri.query().filter(|_| *query).map(|query| BoundedText::new(query.as_bytes())),
        user_agent: field(USER_AGENT.as_str()),
        referrer: field(REFERER.as_str()),
        protocol: protocol(parts.version),
        scheme: if https { "https" } else { "http" },
        peer: process.map(str::to_owned).or(peer),
        user: line.as_ref().is_some_and(|line| line.has_user()).then(|| basic_user(&parts.headers)).flatten(),
        fields: line.iter().flat_map(|line| line.request_fields()).map(|name| field(name)).collect(),
        line: line.clone(),
    })
}

impl AccessSettings {
    /// Returns the values of the response fields that the access line names. `Content-Length` and
    /// `X-Request-ID` are set later, so their values come from `length` and `id`.
    pub(super) fn response_fields(
        &self,
        headers: &HeaderMap,
        length: Option<u64>,
        id: &str,
    ) -> Vec<Option<BoundedText>> {
        let names = self.line.iter().flat_map(|line| line.response_fields());
        let value = |name: &str| match name {
            _ if name == X_REQUEST_ID.as_str() => Some(BoundedText::new(id.as_bytes())),
            _ if name == CONTENT_LENGTH.as_str() => {
                length.map(|length| BoundedText::new(length.to_string().as_bytes()))
            }
            _ => headers.get(name).map(|value| BoundedText::new(value.as_bytes())),
        };
        names.map(|name| value(name)).collect()
    }
}

/// Returns the name under which a client is logged.
pub(super) fn client_name(peer: &Peer) -> String {
    if peer.address.is_empty() { UNIX.to_owned() } else { peer.address.clone() }
}

/// Returns the user of HTTP Basic authentication (RFC 7617), without the password.
fn basic_user(headers: &HeaderMap) -> Option<BoundedText> {
    let credentials = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, encoded) = credentials.split_at_checked("Basic ".len())?;
    if !scheme.eq_ignore_ascii_case(b"Basic ") {
        return None;
    }
    let decoded = STANDARD.decode(encoded.trim_ascii()).ok()?;
    let user = decoded.split(|byte| *byte == b':').next()?;
    (!user.is_empty()).then(|| BoundedText::new(user))
}

/// Returns the protocol as a request line names it.
fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/3.0",
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_the_user_of_basic_credentials_is_kept() {
        for (value, user) in [
            ("Basic YWxpY2U6c2VjcmV0", Some("alice")),
            ("basic YWxpY2U6c2U6Y3JldA==", Some("alice")),
            ("Basic OnNlY3JldA==", None),
            ("Basic !!!", None),
            ("Bearer YWxpY2U6c2VjcmV0", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))]);
            let found = basic_user(&headers);
            assert_eq!(found.as_ref().map(|user| user.shown().into_owned()).as_deref(), user, "{value}");
        }
    }
}
