//! Serves one stream: a request, its response, and the response's body or a WebSocket.
//!
//! The stream's task ends early when the client resets the stream, when the connection ends, or at
//! the tracker's directive: the client has not read for too long, or the deadline of the daemon's
//! drain has passed.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Buf;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Body as _;

use crate::http::body::response::ResponseBody;
use crate::http::body::stream::expects_continue;
use crate::http::context::ConnContext;
use crate::http::handshake::UpgradeSlot;
use crate::http::request::start;
use crate::http::response_future::ResponseFuture;
use crate::net::Connection;
use crate::websocket;

use super::body::StreamBody;
use super::data::StreamData;
use super::indexing::FieldIndexing;
use super::meter::Meter;
use super::tunnel::Tunnel;
use super::{MAX_SEND_BUFFER, head};

/// The task of a stream: serves it to its end.
///
/// Hand-written, because an `async` block would store its arguments twice, and the allocator is slow
/// for tasks of more than a kibibyte.
pub(super) struct StreamTask {
    context: Arc<ConnContext>,
    /// The connection that has the stream.
    socket: Arc<Connection>,
    meter: Arc<Meter>,
    respond: SendResponse<StreamData>,
    /// Filled if the application accepts a WebSocket.
    upgrade_slot: OnceLock<UpgradeSlot>,
    /// The input of a WebSocket; `None` for other requests, and once the WebSocket has begun.
    tunnelled: Option<RecvStream>,
    is_head: bool,
    stage: StreamStage,
}

/// The progress of a stream.
enum StreamStage {
    /// There is no response yet.
    Request(ResponseFuture),
    /// The response's body is being sent.
    Body(BodySender),
    /// Boxed, so that the task of a request need not have room for a WebSocket.
    WebSocket(Pin<Box<dyn Future<Output = ()> + Send>>),
}

impl StreamTask {
    /// Starts a request.
    pub(super) fn open(
        context: Arc<ConnContext>,
        socket: Arc<Connection>,
        request: Request<RecvStream>,
        respond: SendResponse<StreamData>,
        meter: Arc<Meter>,
    ) -> Self {
        let is_head = *request.method() == Method::HEAD;
        let (request, tunnelled) = with_body(request, &context, &meter);
        let upgrade_slot = OnceLock::new();
        let (meta, progress, extra) = start(&context, &upgrade_slot, request);
        let stage = StreamStage::Request(ResponseFuture::new(Arc::clone(&context), meta, progress, extra));
        Self { context, socket, meter, respond, upgrade_slot, tunnelled, is_head, stage }
    }

    /// Ends a stream that has no response.
    fn end_early(&mut self) {
        self.context.connection.mark_closed();
        if self.meter.on_early_reset() {
            // The connection's task ends an abusive connection.
            self.socket.wake();
        }
        self.respond.send_reset(Reason::CANCEL);
    }

    /// Sends the head of the response. Returns the next stage, or `None` if the stream has ended.
    fn send_head(&mut self, response: Response<ResponseBody>) -> Option<StreamStage> {
        self.meter.on_response();
        let accepted = self.upgrade_slot.get().and_then(take_accepted);
        if self.tunnelled.is_some() && accepted.is_none() && response.status().is_success() {
            // On a stream, any 2xx response would accept the WebSocket.
            self.respond.send_reset(Reason::CONNECT_ERROR);
            return None;
        }
        let (response, body) = match &accepted {
            Some(_) => (finish_head(response, &self.meter.indexing), None),
            None => split_response(response, self.is_head, &self.meter.indexing),
        };
        let is_end = body.is_none() && accepted.is_none();
        let connection = &self.context.connection;
        let send = match self.respond.send_response(response, is_end) {
            Ok(send) => send,
            Err(error) => {
                tracing::debug!(%error, "cannot send a response on a stream");
                connection.mark_closed();
                return None;
            }
        };
        match (accepted, self.tunnelled.take(), body) {
            (Some(accepted), Some(received), _) => {
                let tunnel = Tunnel::new(send, received, Arc::clone(connection), Arc::clone(&self.meter));
                Some(StreamStage::WebSocket(Box::pin(websocket::serve_messages(tunnel, &[], *accepted))))
            }
            (_, _, Some(body)) => {
                Some(StreamStage::Body(BodySender { send, body, current: None, is_last: false }))
            }
            _ => None,
        }
    }

    /// Ends a stream whose body was sent, or cannot be sent. Resets the stream if the body or the
    /// client has failed.
    fn end_body(&mut self, outcome: &SendOutcome) {
        let connection = &self.context.connection;
        let reset = match outcome {
            SendOutcome::Complete => return,
            SendOutcome::ClientGone => None,
            SendOutcome::BodyFailed => Some(Reason::INTERNAL_ERROR),
            SendOutcome::Stalled => {
                connection.mark_reset();
                Some(Reason::CANCEL)
            }
        };
        // Marked before the body is dropped, because dropping it writes the journal entry.
        connection.mark_closed();
        if let (Some(reason), StreamStage::Body(sender)) = (reset, &mut self.stage) {
            sender.send.send_reset(reason);
        }
    }
}

impl Future for StreamTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        loop {
            match &mut this.stage {
                StreamStage::Request(future) => {
                    let polled = poll_response(cx, &this.context, future, &mut this.respond);
                    let Some(response) = ready!(polled) else {
                        this.end_early();
                        return Poll::Ready(());
                    };
                    match this.send_head(response) {
                        Some(next) => this.stage = next,
                        None => return Poll::Ready(()),
                    }
                }
                StreamStage::Body(sender) => {
                    let outcome = ready!(sender.poll(cx, &this.context.connection, &this.meter));
                    this.end_body(&outcome);
                    return Poll::Ready(());
                }
                StreamStage::WebSocket(messages) => return messages.as_mut().poll(cx),
            }
        }
    }
}

/// Returns the request with its body. The input of a WebSocket is returned separately: it is not a
/// body, and is read only after the application has accepted the handshake.
fn with_body(
    request: Request<RecvStream>,
    context: &Arc<ConnContext>,
    meter: &Arc<Meter>,
) -> (Request<StreamBody>, Option<RecvStream>) {
    let (parts, received) = request.into_parts();
    let (received, tunnelled) =
        if head::is_websocket(&parts) { (None, Some(received)) } else { (Some(received), None) };
    let declared = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let body = StreamBody {
        received,
        declared,
        awaits_continue: expects_continue(&parts.headers),
        context: Arc::clone(context),
        meter: Arc::clone(meter),
    };
    (Request::from_parts(parts, body), tunnelled)
}

fn take_accepted(slot: &UpgradeSlot) -> Option<Box<websocket::AcceptedHandshake>> {
    match slot.lock().unwrap_or_else(PoisonError::into_inner).take()? {
        websocket::AcceptedUpgrade::Messages(accepted) => Some(accepted),
        // Only an HTTP/1.1 handshake is passed to a WSGI application.
        websocket::AcceptedUpgrade::Takeover(..) => None,
    }
}

/// Polls for the response, and sends interim responses meanwhile. Returns `None` if the stream ends
/// first.
fn poll_response(
    cx: &mut Context<'_>,
    context: &ConnContext,
    future: &mut ResponseFuture,
    respond: &mut SendResponse<StreamData>,
) -> Poll<Option<Response<ResponseBody>>> {
    let connection = &context.connection;
    connection.register_waker(cx.waker());
    if connection.should_abort() {
        connection.mark_reset();
        return Poll::Ready(None);
    }
    if let Poll::Ready(response) = Pin::new(future).poll(cx) {
        let Ok(response) = response;
        return Poll::Ready(Some(response));
    }
    if let Some(signals) = &context.stream_signals {
        if signals.take_continue() {
            send_interim(respond, StatusCode::CONTINUE, HeaderMap::new());
        }
        if let Some(fields) = signals.take_hints() {
            send_interim(respond, StatusCode::EARLY_HINTS, *fields);
        }
    }
    // An error means that the connection has ended.
    respond.poll_reset(cx).map(|_| None)
}

fn send_interim(respond: &mut SendResponse<StreamData>, status: StatusCode, mut fields: HeaderMap) {
    remove_connection_fields(&mut fields);
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = fields;
    if let Err(error) = respond.send_informational(response) {
        tracing::debug!(%error, "cannot send an interim response, ignoring");
    }
}

/// True for the fields that belong to an HTTP/1 connection (RFC 9113 §8.2.2). An application may
/// send them although it must not.
fn is_connection_field(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "transfer-encoding"
            | "upgrade"
            | "te"
            | "keep-alive"
            | "proxy-connection"
            | "http2-settings"
    )
}

fn remove_connection_fields(fields: &mut HeaderMap) {
    while let Some(name) = fields.keys().find(|name| is_connection_field(name)).cloned() {
        fields.remove(name);
    }
}

/// Returns a response's head as it is sent; its body is dropped.
fn finish_head<B>(response: Response<B>, indexing: &FieldIndexing) -> Response<()> {
    let mut head = response.map(drop);
    *head.version_mut() = http::Version::HTTP_2;
    *head.extensions_mut() = http::Extensions::new();
    remove_connection_fields(head.headers_mut());
    indexing.prepare(head.headers_mut());
    head
}

/// Returns a response's head as it is sent, and its body if it has one.
fn split_response(
    response: Response<ResponseBody>,
    is_head: bool,
    indexing: &FieldIndexing,
) -> (Response<()>, Option<ResponseBody>) {
    let (parts, body) = response.into_parts();
    let mut head = finish_head(Response::from_parts(parts, ()), indexing);
    // RFC 9110 §6.4.1.
    let is_bodiless = is_head || matches!(head.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if head.status() == StatusCode::NO_CONTENT {
        // RFC 9110 §8.6.
        head.headers_mut().remove(CONTENT_LENGTH);
    } else if !is_bodiless && let Some(len) = body.size_hint().exact() {
        head.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(len));
    }
    let has_body = !is_bodiless && !body.is_end_stream();
    (head, has_body.then_some(body))
}

/// The reason why the sending of a body has ended.
enum SendOutcome {
    Complete,
    /// The client reset the stream, or the connection has ended.
    ClientGone,
    /// The body ended early; its journal entry is written.
    BodyFailed,
    /// The client does not read, or the deadline of the drain has passed.
    Stalled,
}

/// Sends a body within the client's flow-control windows.
struct BodySender {
    send: SendStream<StreamData>,
    body: ResponseBody,
    /// The piece to send next.
    current: Option<StreamData>,
    /// Nothing follows `current`.
    is_last: bool,
}

impl BodySender {
    fn poll(&mut self, cx: &mut Context<'_>, connection: &Connection, meter: &Meter) -> Poll<SendOutcome> {
        if connection.should_abort() {
            return Poll::Ready(SendOutcome::Stalled);
        }
        if self.send.poll_reset(cx).is_ready() {
            return Poll::Ready(SendOutcome::ClientGone);
        }
        loop {
            if let Some(data) = self.current.take() {
                if let Some(outcome) = ready!(self.poll_send(cx, connection, meter, data)) {
                    return Poll::Ready(outcome);
                }
                continue;
            }
            let sent = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => self.send.send_data(StreamData::End, true),
                Some(Err(_)) => return Poll::Ready(SendOutcome::BodyFailed),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.is_last = self.body.is_end_stream();
                        self.current = Some(StreamData::Whole(data));
                        continue;
                    }
                    Err(frame) => {
                        let mut trailers = frame.into_trailers().unwrap_or_default();
                        remove_connection_fields(&mut trailers);
                        self.send.send_trailers(trailers)
                    }
                },
            };
            let outcome = if sent.is_ok() { SendOutcome::Complete } else { SendOutcome::ClientGone };
            return Poll::Ready(outcome);
        }
    }

    /// Sends as much of a piece as the windows allow, and stores the rest. Returns the outcome when
    /// the stream has ended.
    ///
    /// Capacity is reserved only for bytes that are ready to be sent, because the connection's
    /// other streams cannot use reserved capacity.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        connection: &Connection,
        meter: &Meter,
        data: StreamData,
    ) -> Poll<Option<SendOutcome>> {
        let len = data.remaining();
        let mut capacity = 0;
        if len > 0 {
            self.send.reserve_capacity(len.min(MAX_SEND_BUFFER));
            capacity = self.send.capacity();
        }
        while capacity == 0 && len > 0 {
            match self.send.poll_capacity(cx) {
                Poll::Pending => {
                    self.current = Some(data);
                    connection.on_write_blocked();
                    return Poll::Pending;
                }
                Poll::Ready(Some(Ok(_))) => capacity = self.send.capacity(),
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Some(SendOutcome::ClientGone)),
            }
        }
        let (part, rest) = data.split(capacity);
        let sent_len = part.remaining();
        let is_end = self.is_last && rest.is_none();
        self.current = rest;
        if self.send.send_data(part, is_end).is_err() {
            return Poll::Ready(Some(SendOutcome::ClientGone));
        }
        if sent_len > 0 {
            connection.on_written(sent_len);
            meter.add_useful(sent_len);
        }
        Poll::Ready(is_end.then_some(SendOutcome::Complete))
    }
}
