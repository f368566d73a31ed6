//! Builds the responses that the connection writes: the application's, the 101 of a WebSocket, and
//! the daemon's error responses. `response_future` calls this module once per request.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, LOCATION, REFRESH,
    RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE, VARY,
};
use http::{HeaderMap, Method, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::ext::ReasonPhrase;

use crate::dispatch::{AppBody, AppResponse, ContentLength, Data, ResponseHead};
use crate::files::{FileBody, FileFault};
use crate::id::WorkerId;
use crate::journal::requests::AccessEntry;
use crate::websocket;

use super::access_log::{AccessRecord, log_error_line, log_refusal, logged_request};
use super::body::file::{FileReader, read_small};
use super::body::multipart::MultipartReader;
use super::body::response::{BodySource, ResponseBody};
use super::compression;
use super::context::{ConnContext, Server};
use super::error_page;
use super::fault::{ErrorResponse, HealthResult, Refusal, RequestFault, health_status_and_text};
use super::file_server::ServedFile;
use super::h1::framing::Violation;
use super::handshake::Upgrade;
use super::https;
use super::request_meta::RequestMeta;

/// Maximum size in bytes of a body in memory whose end is not tracked unless every request is
/// logged: the socket takes such a body at once, so it cannot be cut off.
const MAX_UNTRACKED_BODY: usize = 16 * 1024;

/// Refuses a response whose `Content-Length` is not the length of its body. hyper trusts the field
/// (`encode_headers`), so an HTTP/1 client would read the rest of the body as the next response.
/// Responses to HEAD and 304 have no body and may declare a length (RFC 9110 §8.6). The bytes of a
/// streamed body are counted as they are written.
pub(super) fn check_content_length(method: &Method, response: &AppResponse) -> Result<(), Refusal> {
    let AppResponse { head, body, worker, .. } = response;
    if *method == Method::HEAD || head.status == StatusCode::NOT_MODIFIED {
        return Ok(());
    }
    let len = match body {
        AppBody::Empty => Some(0),
        AppBody::Bytes(data) => Some(data.len() as u64),
        AppBody::File(file) => file.len,
        AppBody::Stream(stream) => match stream.body_len() {
            None => return Ok(()),
            len => len,
        },
    };
    if head.length.matches(len) { Ok(()) } else { Err(Refusal::WrongLength(*worker)) }
}

/// Builds the application's response.
pub(super) fn application_response(
    context: Arc<ConnContext>,
    meta: &RequestMeta,
    response: AppResponse,
) -> Response<ResponseBody> {
    let AppResponse { mut head, body, worker, waited } = response;
    let mut source = match body {
        AppBody::Empty => BodySource::Empty,
        AppBody::Bytes(data) => BodySource::Bytes(data),
        AppBody::File(file) => BodySource::File(Box::new(FileReader::new(*file, context.server.dispatcher))),
        AppBody::Stream(stream) => BodySource::Stream(stream),
    };
    if let Some(policy) = &context.server.compression {
        source = compression::apply(policy, meta, &mut head, source, context.server.dispatcher);
    }
    build_response(context, meta, Draft { head, source, worker, waited, must_close: false })
}

/// Builds a response with a file.
pub(super) fn file_response(
    context: Arc<ConnContext>,
    meta: &RequestMeta,
    file: ServedFile,
) -> Response<ResponseBody> {
    let ServedFile { response, worker, waited, leaves_input_unread } = file;
    let dispatcher = context.server.dispatcher;
    let source = match response.body {
        FileBody::Empty => BodySource::Empty,
        FileBody::One(fd, range) => match read_small(&fd, &range, dispatcher) {
            Some(data) => BodySource::Bytes(data),
            None => BodySource::File(Box::new(FileReader::of_range(fd, range, dispatcher))),
        },
        FileBody::Several(parts) => BodySource::Multipart(Box::new(MultipartReader::new(parts, dispatcher))),
    };
    let head = ResponseHead {
        status: response.status,
        reason: None,
        fields: response.fields,
        length: response.len.map_or(ContentLength::Absent, ContentLength::Bytes),
    };
    let head = head.into_box();
    if leaves_input_unread {
        context.connection.mark_unread_input();
    }
    build_response(context, meta, Draft { head, source, worker, waited, must_close: leaves_input_unread })
}

/// A response before it is converted to an [`http::Response`].
struct Draft {
    head: Box<ResponseHead>,
    source: BodySource,
    /// The worker that answered; `None`: the daemon.
    worker: Option<WorkerId>,
    /// Time for which the request waited for the worker.
    waited: Duration,
    /// The connection cannot serve another request.
    must_close: bool,
}

/// Returns whether a complete response is logged: with an access log each response, else only a
/// response of the application with a status of 500 or above.
fn is_logged(server: &Server, head: &ResponseHead, worker: Option<WorkerId>) -> bool {
    server.access_log.is_some() || worker.is_some() && head.status.is_server_error()
}

/// Builds a response, with its access record and the fields of the connection.
fn build_response(context: Arc<ConnContext>, meta: &RequestMeta, draft: Draft) -> Response<ResponseBody> {
    let ConnContext { server, connection, .. } = &*context;
    let Draft { head, mut source, worker, waited, must_close } = draft;
    let mut head = ResponseHead::unbox(head);
    connection.count_response(head.status.as_u16());
    if let Some(policy) = &server.https {
        https::set_hsts(&mut head.fields, policy.hsts(meta.is_https(&context)));
    }
    // Only a body that takes several writes can be aborted; for other bodies a record is not worth
    // its allocation, unless the response is logged.
    let may_be_cut_off = match &mut source {
        BodySource::File(file) => {
            if context.tls.is_none() && context.stream_signals.is_none() {
                file.send_directly(connection);
            }
            true
        }
        BodySource::Stream(_)
        | BodySource::FileInStream(..)
        | BodySource::Multipart(_)
        | BodySource::Compressed(_) => true,
        BodySource::Bytes(data) => data.len() > MAX_UNTRACKED_BODY,
        BodySource::Empty => false,
    };
    // Responses to HEAD and 304 have no body, even if they declare a length. The connection omits
    // their bodies.
    let declared = match head.length {
        ContentLength::Bytes(len) => Some(len),
        ContentLength::Absent | ContentLength::Invalid => None,
    };
    let record = (may_be_cut_off || is_logged(server, &head, worker)).then(|| {
        let entry = AccessEntry {
            request: logged_request(connection, meta),
            status: head.status.as_u16(),
            bytes: 0,
            duration: Duration::ZERO,
            queued: waited,
            worker,
            fields: match &server.access_log {
                Some(settings) => settings.response_fields(&head.fields, declared, meta.id.as_str()),
                None => Vec::new(),
            },
        };
        let (received_at, log_access) = (meta.received_at, server.access_log.is_some());
        Box::new(AccessRecord { entry, received_at, context: Arc::clone(&context), log_access })
    });
    let must_close = must_close || connection.closes_after_response() || !server.limits.keepalive;
    let body = ResponseBody::new(source, context, record, declared);
    // For an HTTP/1.0 client, only the end of the connection ends a body without a length (RFC 9112
    // §9.3). hyper closes the connection, but would send `keep-alive` nevertheless.
    let ends_by_close = meta.is_http_10 && declared.is_none() && body.size_hint().exact().is_none();
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = head.fields;
    set_reason(&mut response, head.reason);
    if must_close || ends_by_close {
        set_close(&mut response, meta);
    }
    response
}

/// Sets `Connection: close`.
fn set_close(response: &mut Response<ResponseBody>, meta: &RequestMeta) {
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    if meta.is_http_10 {
        // hyper adds `keep-alive` to an HTTP/1.1 response if an HTTP/1.0 client asked for it.
        *response.version_mut() = Version::HTTP_10;
    }
}

/// Sets the reason phrase, unless hyper writes the same for the status code. For a code without a
/// standard phrase hyper would write `<none>`; RFC 9112 §4 allows an empty one.
fn set_reason(response: &mut Response<ResponseBody>, reason: Option<Box<[u8]>>) {
    if reason.is_none() && response.status().canonical_reason().is_some() {
        return;
    }
    // `ReasonPhrase` only refuses control bytes, and the dispatcher has refused those already.
    let reason = reason.and_then(|reason| ReasonPhrase::try_from(reason.into_vec()).ok());
    response.extensions_mut().insert(reason.unwrap_or(ReasonPhrase::from_static(b"")));
}

/// Builds the response that accepts a WebSocket: 101, or 200 on an HTTP/2 stream. Passes the
/// WebSocket to the connection.
pub(super) fn switching_protocols(
    context: Arc<ConnContext>,
    meta: &RequestMeta,
    response: AppResponse,
    upgrade: &mut Upgrade,
) -> Response<ResponseBody> {
    let ConnContext { server, connection, .. } = &*context;
    let AppResponse { mut head, body, worker, waited } = response;
    let accepted = websocket::AcceptedRequest {
        settings: server.websocket,
        resources: Arc::clone(&server.websockets),
        request: logged_request(connection, meta),
        worker,
        handshake_at: meta.received_at,
        log_access: server.access_log.is_some(),
    };
    if let Some(taken) = upgrade.takeover.take_connection() {
        upgrade.fill_slot(websocket::AcceptedUpgrade::Takeover(Box::new(taken), Box::new(accepted)));
    } else if let (Some(handshake), AppBody::Stream(stream)) = (&upgrade.handshake, body) {
        handshake.set_response_fields(&mut head.fields);
        let (websocket, deflate) = (stream.into_websocket(), handshake.deflate);
        let accepted = Box::new(websocket::AcceptedHandshake { websocket, deflate, accepted });
        upgrade.fill_slot(websocket::AcceptedUpgrade::Messages(accepted));
    }
    let mut response = Response::new(());
    // `None`: a WSGI application has written its own 101, on an HTTP/1.1 connection.
    let handshake = upgrade.handshake.as_ref();
    *response.status_mut() =
        handshake.map_or(head.status, |handshake| handshake.status(head.status, &response));
    *response.headers_mut() = head.fields;
    connection.count_response(response.status().as_u16());
    if let Some(settings) = &server.access_log {
        server.journal.access(AccessEntry {
            request: logged_request(connection, meta),
            status: response.status().as_u16(),
            bytes: 0,
            duration: meta.received_at.elapsed(),
            queued: waited,
            worker,
            fields: settings.response_fields(response.headers(), None, meta.id.as_str()),
        });
    }
    response.map(|()| ResponseBody::new(BodySource::Empty, context, None, None))
}

/// Builds the daemon's own response to a request that was refused or failed, and logs it.
pub(super) fn error_response(
    context: Arc<ConnContext>,
    meta: &RequestMeta,
    refusal: &Refusal,
) -> Response<ResponseBody> {
    let ConnContext { server, connection, .. } = &*context;
    let error = refusal.to_response();
    log_refusal(&context, meta, refusal, &error);
    let has_unread_input = error.leaves_input_unread();
    // Without its head, the request has no known `Accept`, and the response is always text.
    let is_unread = matches!(refusal, Refusal::Framing(Violation::PlainHttp | Violation::LostInRestart));
    let (content_type, text) =
        error_page::render(&error, meta.id.as_str(), meta.error_format, server.error_pages.as_deref());
    let ErrorResponse { status, retry_after, refresh, .. } = error;
    connection.count_response(status.as_u16());
    log_error_line(&context, meta, refusal, status.as_u16(), text.len());
    if has_unread_input {
        connection.mark_unread_input();
    }
    let must_close = connection.closes_after_response() || has_unread_input || !server.limits.keepalive;
    let hsts = server.https.as_ref().and_then(|policy| policy.hsts(meta.is_https(&context)));
    let text = BodySource::Bytes(Data::with_reservation(text, None));
    let mut response = Response::new(ResponseBody::new(text, context, None, None));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    if !is_unread {
        headers.insert(VARY, HeaderValue::from_static("accept"));
    }
    https::set_hsts(headers, hsts);
    if let Some(pause) = retry_after {
        headers.insert(RETRY_AFTER, HeaderValue::from(pause.as_secs()));
        if refresh {
            headers.insert(REFRESH, HeaderValue::from(pause.as_secs()));
        }
    }
    set_refusal_fields(headers, refusal);
    if must_close {
        set_close(&mut response, meta);
    }
    if *refusal == Refusal::Client(RequestFault::WebSocketVersion) {
        // RFC 9110 §15.5.22, RFC 6455 §4.2.2.
        let headers = response.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.append(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    response
}

/// Sets the fields that explain a refusal, except those about the connection.
fn set_refusal_fields(headers: &mut HeaderMap, refusal: &Refusal) {
    if *refusal == Refusal::Client(RequestFault::HealthMethod) {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    if *refusal == Refusal::Client(RequestFault::Connect) {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS"));
    }
    match refusal {
        Refusal::File(FileFault::Method) => {
            headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        // RFC 9110 §14.4.
        Refusal::File(FileFault::Unsatisfiable(len)) => {
            if let Ok(range) = HeaderValue::try_from(format!("bytes */{len}")) {
                headers.insert(CONTENT_RANGE, range);
            }
        }
        Refusal::HttpsRedirect(location) => {
            headers.insert(LOCATION, location.clone());
        }
        _ => {}
    }
}

/// Builds the response to a health check, which is not logged.
pub(super) fn health_response(
    context: Arc<ConnContext>,
    meta: &RequestMeta,
    health: HealthResult,
) -> Response<ResponseBody> {
    let must_close = context.connection.closes_after_response() || !context.server.limits.keepalive;
    let (status, text) = health_status_and_text(health);
    let text = BodySource::Bytes(Data::with_reservation(Bytes::from_static(text.as_bytes()), None));
    let mut response = Response::new(ResponseBody::new(text, context, None, None));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if must_close {
        set_close(&mut response, meta);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker omits the standard phrase of a status code, and hyper writes its own.
    #[test]
    fn the_channel_and_hyper_have_the_same_reason_phrases() {
        for code in 100..=999 {
            let hypers = StatusCode::from_u16(code).unwrap().canonical_reason().unwrap_or_default();
            assert_eq!(rgun_channel::status::canonical_reason(code), hypers, "{code}");
        }
    }
}
