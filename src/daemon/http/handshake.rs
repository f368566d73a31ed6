//! The HTTP side of a WebSocket handshake: checks the request and sets the fields of the 101
//! (RFC 6455 §4.2), or of the 2xx on an HTTP/2 stream (RFC 8441 §5).

use std::sync::{Arc, Mutex, PoisonError};

use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, request};

use crate::websocket::{self, AcceptedUpgrade, DeflateParams};

use super::fault::{Refusal, RequestFault};
use super::takeover::Takeover;

/// Holds an accepted WebSocket until the HTTP exchange has ended: with HTTP/1, when hyper releases
/// the connection.
pub(super) type UpgradeSlot = Arc<Mutex<Option<AcceptedUpgrade>>>;

/// A request with which the client asks for a WebSocket.
#[derive(Debug)]
pub(super) struct Upgrade {
    /// `None` if the application is WSGI, which performs the handshake itself.
    pub(super) handshake: Option<Handshake>,
    /// The response that a WSGI application writes to its socket.
    pub(super) takeover: Takeover,
    slot: UpgradeSlot,
}

impl Upgrade {
    pub(super) fn new(handshake: Option<Handshake>, slot: UpgradeSlot) -> Self {
        Self { handshake, takeover: Takeover::default(), slot }
    }

    /// Passes the WebSocket to the connection, which continues with it after the 101.
    pub(super) fn fill_slot(&self, accepted: AcceptedUpgrade) {
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(accepted);
    }
}

/// A valid handshake that the application may accept.
#[derive(Debug)]
pub(super) struct Handshake {
    /// The value of `Sec-WebSocket-Accept`; `None` on an HTTP/2 stream, where neither side sends
    /// keys.
    accept: Option<HeaderValue>,
    pub(super) deflate: Option<DeflateParams>,
}

/// True if the request is a WebSocket handshake, which is an HTTP/1.1 GET (RFC 6455 §4.1). Other
/// protocols in `Upgrade` are ignored, as a server may (RFC 9110 §7.8).
pub(super) fn is_handshake(parts: &request::Parts) -> bool {
    parts.headers.contains_key(UPGRADE)
        && parts.method == Method::GET
        && parts.version == Version::HTTP_11
        && contains_token(&parts.headers, &UPGRADE, "websocket")
        && contains_token(&parts.headers, &CONNECTION, "upgrade")
}

/// True if one of these fields lists the token (RFC 9110 §5.6.1).
fn contains_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|listed| listed.trim().eq_ignore_ascii_case(token))
}

impl Handshake {
    /// Checks the requirements of RFC 6455 §4.2.1 that [`is_handshake`] does not check, and
    /// negotiates compression if `compression` is true.
    pub(super) fn new(parts: &request::Parts, compression: bool) -> Result<Self, Refusal> {
        let headers = &parts.headers;
        if single_value(headers, &SEC_WEBSOCKET_VERSION).is_none_or(|version| version.as_bytes() != b"13") {
            return Err(Refusal::Client(RequestFault::WebSocketVersion));
        }
        let accept = if parts.version == Version::HTTP_2 { None } else { Some(accept_value(headers)?) };
        let offers = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter().map(HeaderValue::as_bytes);
        let deflate = if compression { websocket::negotiate(offers) } else { None };
        Ok(Self { accept, deflate })
    }

    /// Turns the fields of the application's acceptance into those of the response. A subprotocol
    /// that the client did not offer is kept, as in uvicorn: the client must reject it.
    pub(super) fn set_response_fields(&self, fields: &mut HeaderMap) {
        for own in [CONTENT_LENGTH, TRANSFER_ENCODING, SEC_WEBSOCKET_EXTENSIONS] {
            fields.remove(own);
        }
        if let Some(accept) = &self.accept {
            fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
            fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            fields.insert(SEC_WEBSOCKET_ACCEPT, accept.clone());
        } else {
            fields.remove(SEC_WEBSOCKET_ACCEPT);
        }
        if let Some(deflate) = self.deflate
            && let Ok(value) = HeaderValue::from_str(&deflate.to_string())
        {
            fields.insert(SEC_WEBSOCKET_EXTENSIONS, value);
        }
    }

    /// Returns the status of the response: the application's 101, or on an HTTP/2 stream the
    /// default status of `response`, 200.
    pub(super) fn status<B>(&self, application: StatusCode, response: &Response<B>) -> StatusCode {
        if self.accept.is_some() { application } else { response.status() }
    }
}

/// Checks the key and returns the value of `Sec-WebSocket-Accept`.
fn accept_value(headers: &HeaderMap) -> Result<HeaderValue, Refusal> {
    let key = single_value(headers, &SEC_WEBSOCKET_KEY).map(|key| key.as_bytes().trim_ascii());
    let Some(key) = key.filter(|key| websocket::is_key(key)) else {
        return Err(Refusal::Client(RequestFault::WebSocketKey));
    };
    Ok(HeaderValue::from_str(&websocket::accept(key)).expect("base64 is a field value"))
}

/// Returns the field's value if it occurs exactly once.
fn single_value<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(change: impl FnOnce(&mut request::Parts)) -> request::Parts {
        let request = http::Request::builder()
            .uri("/chat")
            .header(UPGRADE, "websocket")
            .header(CONNECTION, "keep-alive, Upgrade")
            .header(SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==")
            .header(SEC_WEBSOCKET_VERSION, "13");
        let mut parts = request.body(()).unwrap().into_parts().0;
        change(&mut parts);
        parts
    }

    fn set(name: HeaderName, value: &'static str) -> impl FnOnce(&mut request::Parts) {
        move |parts| drop(parts.headers.insert(name, HeaderValue::from_static(value)))
    }

    #[test]
    fn a_handshake_needs_upgrade_and_connection() {
        assert!(is_handshake(&parts(|_| {})));
        assert!(is_handshake(&parts(set(UPGRADE, "h2c, WebSocket"))));
        assert!(!is_handshake(&parts(set(UPGRADE, "h2c"))));
        assert!(!is_handshake(&parts(set(CONNECTION, "keep-alive"))));
        assert!(!is_handshake(&parts(|parts| parts.method = Method::POST)));
        assert!(!is_handshake(&parts(|parts| parts.version = Version::HTTP_10)));
        assert!(!is_handshake(&parts(|parts| drop(parts.headers.remove(UPGRADE)))));
    }

    #[test]
    fn a_handshake_without_its_version_or_key_is_refused() {
        let refusal = |parts| Handshake::new(&parts, true).err();
        let version = Some(Refusal::Client(RequestFault::WebSocketVersion));
        let key = Some(Refusal::Client(RequestFault::WebSocketKey));
        assert_eq!(refusal(parts(|_| {})), None);
        assert_eq!(refusal(parts(set(SEC_WEBSOCKET_VERSION, "8"))), version);
        let without = |name| parts(|parts| drop(parts.headers.remove(name)));
        assert_eq!(refusal(without(SEC_WEBSOCKET_VERSION)), version);
        assert_eq!(refusal(without(SEC_WEBSOCKET_KEY)), key);
        assert_eq!(refusal(parts(set(SEC_WEBSOCKET_KEY, "short"))), key);
        let twice = parts(|parts| {
            parts.headers.append(SEC_WEBSOCKET_KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        });
        assert_eq!(refusal(twice), key);
    }

    #[test]
    fn the_server_replaces_the_applications_handshake_fields() {
        let parts = parts(set(SEC_WEBSOCKET_EXTENSIONS, "permessage-deflate"));
        for (compression, extensions) in [
            (true, Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover")),
            (false, None),
        ] {
            let handshake = Handshake::new(&parts, compression).unwrap();
            let mut fields = HeaderMap::new();
            for (name, value) in [
                (UPGRADE, "h2c"),
                (SEC_WEBSOCKET_EXTENSIONS, "x-own"),
                (CONTENT_LENGTH, "5"),
                (http::header::SEC_WEBSOCKET_PROTOCOL, "chat"),
            ] {
                fields.insert(name, HeaderValue::from_static(value));
            }
            handshake.set_response_fields(&mut fields);
            let value = |name: HeaderName| fields.get(name).map(|value| value.to_str().unwrap().to_owned());
            assert_eq!(value(UPGRADE).as_deref(), Some("websocket"));
            assert_eq!(value(CONNECTION).as_deref(), Some("Upgrade"));
            assert_eq!(value(SEC_WEBSOCKET_ACCEPT).as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
            assert_eq!(value(SEC_WEBSOCKET_EXTENSIONS).as_deref(), extensions);
            assert_eq!(value(http::header::SEC_WEBSOCKET_PROTOCOL).as_deref(), Some("chat"));
            assert_eq!(value(CONTENT_LENGTH), None);
        }
    }
}
