//! Builds the frame of a request and submits the frame to the dispatcher.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, request};
use rgun_channel::frame;
use rgun_channel::frame::ExchangeId;

use crate::dispatch::{RequestBody, Ticket};
use crate::tls::TlsSession;

use super::body::client::ClientBody;
use super::body::receive::RequestBytes;
use super::context::{ConnContext, Server};
use super::fault::Refusal;
use super::head;
use super::request_meta::{FrameMeta, path};

/// Minimum size in bytes of a body that is kept apart from its frame. A body in memory may share the
/// connection's read buffer, which the connection cannot reuse meanwhile: a smaller body is copied
/// sooner than another buffer is allocated.
const MIN_SEPARATE_BODY: usize = 16 * 1024;

/// Submits a whole request. `complete` is the time at which all of it was received.
pub(super) fn submit<B: ClientBody>(
    server: &Server,
    parts: &request::Parts,
    body: RequestBytes,
    frame_meta: FrameMeta<'_>,
    complete: Instant,
) -> Result<Ticket, Refusal> {
    let body_len = body.len();
    let (small, body) = match body {
        RequestBytes::Inline(bytes) if bytes.len() < MIN_SEPARATE_BODY => (bytes, None),
        RequestBytes::Inline(bytes) => (Bytes::new(), Some(RequestBody::Inline(bytes))),
        RequestBytes::Spooled(body, _) => (Bytes::new(), Some(RequestBody::Spooled(body))),
    };
    let frame = frame::Request {
        body_len,
        body_is_fd: matches!(body, Some(RequestBody::Spooled(_))),
        body: &small,
        ..build_frame(parts, frame_meta)
    };
    submit_frame::<B>(server, &frame, &parts.headers, body, complete)
}

/// Submits a frame with these fields. The worker gets `Transfer-Encoding` only with a streamed
/// body.
pub(super) fn submit_frame<B: ClientBody>(
    server: &Server,
    frame: &frame::Request<'_>,
    headers: &HeaderMap,
    body: Option<RequestBody>,
    now: Instant,
) -> Result<Ticket, Refusal> {
    let submitted = if B::IS_STREAM {
        server.dispatcher.submit(frame, head::stream_fields(headers), body, now)
    } else {
        let is_decoded = !frame.body_streams && !frame.websocket;
        server.dispatcher.submit(frame, head::fields(headers, !is_decoded), body, now)
    };
    submitted.map_err(Refusal::Exchange)
}

/// Builds a request's frame without its body.
pub(super) fn build_frame<'p>(
    parts: &'p request::Parts,
    FrameMeta { id, origin, context, received_at }: FrameMeta<'p>,
) -> frame::Request<'p> {
    let ConnContext { server, connection, tls, .. } = context;
    let client = origin.and_then(|origin| origin.client.as_ref()).unwrap_or(&connection.peer);
    frame::Request {
        received: server.clock.monotonic_ns(received_at),
        method: parts.method.as_str().as_bytes(),
        version: head::version_code(parts.version),
        listener: connection.listener,
        path: path(parts),
        query: parts.uri.query().unwrap_or_default().as_bytes(),
        peer: client.address.as_bytes(),
        peer_port: client.port,
        https: origin.and_then(|origin| origin.https).unwrap_or(context.is_https()),
        server_port: origin.and_then(|origin| origin.port).unwrap_or(0),
        root_path: origin.and_then(|origin| origin.root_path.as_deref()).unwrap_or_default(),
        tls: tls.as_deref().map_or(b"", TlsSession::block),
        request_id: id.as_bytes(),
        ..frame::Request::new(ExchangeId(0))
    }
}
