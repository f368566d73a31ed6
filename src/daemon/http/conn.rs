//! Serves one connection: HTTP/1 requests, the last of which may open a WebSocket, or HTTP/2.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock, PoisonError};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1::{self, Parts};
use hyper::service::Service;
use hyper_util::rt::TokioIo;

use crate::negotiation::ErrorFormat;
use crate::net::{ClientStream, Connection};
use crate::websocket;

use super::body::response::ResponseBody;
use super::close_guard::CloseGuard;
use super::context::{ConnContext, RefusedHead, Server};
use super::forwarded::ForwardingHeaders;
use super::h1::Wire;
use super::h1::framing::Violation;
use super::h2;
use super::handshake::UpgradeSlot;
use super::request::start;
use super::response_future::ResponseFuture;

/// Bytes of a head that are neither in its request line nor in its fields: two CRLFs.
const HEAD_CRLF_BYTES: usize = 4;

/// hyper's default limit of fields. Up to this number, hyper parses fields without an allocation.
const HYPER_MAX_HEADERS: usize = 100;

/// Serves a connection until it is closed.
pub async fn serve(server: Arc<Server>, stream: ClientStream) {
    let connection = Arc::clone(stream.connection());
    // Boxed, so that the HTTP/1 connection does not enlarge this future while a WebSocket is
    // served.
    let serving = Box::new(http1_connection(server, stream, FirstInput::Stream));
    serve_http1(connection, serving).await;
}

/// Serves a connection of the previous daemon until the connection is closed. `unread` are the
/// bytes that the previous daemon has read and that belong to no request it served.
pub async fn resume(server: Arc<Server>, stream: ClientStream, unread: Vec<u8>) {
    let connection = Arc::clone(stream.connection());
    let serving = Box::new(http1_connection(server, stream, FirstInput::Unread(unread)));
    serve_http1(connection, serving).await;
}

/// Serves a connection with TLS until it is closed, in the HTTP version that its handshake has
/// negotiated (ALPN, RFC 7301).
pub async fn serve_negotiated(server: Arc<Server>, stream: ClientStream) {
    let is_http2 = stream.tls_session().is_some_and(|session| session.is_http2());
    match server.http2.filter(|_| is_http2) {
        None => serve(server, stream).await,
        Some(settings) => {
            let mut close_guard = CloseGuard::new(stream.connection());
            Box::pin(h2::serve(server, settings, stream, Bytes::new())).await;
            close_guard.finish();
        }
    }
}

/// Answers 400 to any request of a client that speaks HTTP without TLS to a listener with TLS.
pub async fn refuse_plain_http(server: Arc<Server>, stream: ClientStream) {
    let connection = Arc::clone(stream.connection());
    let serving = Box::new(http1_connection(server, stream, FirstInput::refused(Violation::PlainHttp)));
    serve_http1(connection, serving).await;
}

/// Answers 503 to a client of the previous daemon, and closes the connection: the client has sent a
/// request whose beginning or listener is lost.
pub async fn refuse_lost_request(server: Arc<Server>, stream: ClientStream) {
    let connection = Arc::clone(stream.connection());
    let serving = Box::new(http1_connection(server, stream, FirstInput::refused(Violation::LostInRestart)));
    serve_http1(connection, serving).await;
}

/// The first bytes that a connection reads.
enum FirstInput {
    /// Those of the stream.
    Stream,
    /// Bytes that the previous daemon has read, then those of the stream.
    Unread(Vec<u8>),
    /// No bytes: every head is refused before it is read.
    Refused(RefusedHead),
}

impl FirstInput {
    fn refused(violation: Violation) -> Self {
        // The head is not read, so its `Accept` is unknown.
        Self::Refused(RefusedHead { violation, excerpt: String::new(), error_format: ErrorFormat::Text })
    }
}

async fn serve_http1(connection: Arc<Connection>, mut serving: Box<HttpConn>) {
    // Dropped before `serving`, so that requests in flight find the close reason when they are
    // dropped.
    let mut close_guard = CloseGuard::new(&connection);
    loop {
        // hyper's connection also ends with an error when its request goes to the next daemon.
        if let Err(error) = (&mut *serving).await
            && !connection.should_leave_http()
        {
            tracing::debug!(client = %connection.peer.address, error = %crate::error_chain::Chain(&error),
                "a connection ended early");
            break;
        }
        match continuation(serving) {
            None => break,
            Some(Continuation::WebSocket(socket)) => break socket.await,
            Some(Continuation::Http2(serving)) => break serving.await,
            Some(Continuation::Parked { server, stream, unread }) => {
                let Some((stream, unread)) = stream.park(unread).await else { break };
                serving = Box::new(http1_connection(server, stream, FirstInput::Unread(unread)));
            }
        }
    }
    close_guard.finish();
}

type HttpConn = http1::Connection<TokioIo<Wire>, ConnService>;

/// Creates the connection.
fn http1_connection(server: Arc<Server>, stream: ClientStream, input: FirstInput) -> HttpConn {
    let connection = Arc::clone(stream.connection());
    let tls = stream.tls_session().cloned();
    let peer_process = server.access_log.as_ref().and_then(|_| stream.peer_process());
    let limits = &server.limits;
    let mut builder = http1::Builder::new();
    builder
        // The tracker's sweep checks `timeouts.header` without a timer per request.
        .header_read_timeout(None)
        // `Wire` watches the client while a request is served.
        .half_close(true)
        // `pipeline_flush` stays off: it buffers without bound for a client that does not read.
        // `keep_alive` stays on: without it, hyper adds `Connection: close` to a 101. The framing
        // has checked the limits; hyper's limit must not be lower.
        .max_header_size(limits.header + limits.request_line + HEAD_CRLF_BYTES);
    if limits.headers != HYPER_MAX_HEADERS {
        builder.max_headers(limits.headers);
    }
    let trusts_peer = server.forwarding.trusted.trusts(connection.peer.ip);
    let reads_forwarded = trusts_peer && server.forwarding.headers != ForwardingHeaders::Off;
    let (refused_head, unread) = match input {
        FirstInput::Stream => (OnceLock::new(), Vec::new()),
        FirstInput::Unread(unread) => (OnceLock::new(), unread),
        FirstInput::Refused(head) => (OnceLock::from(head), Vec::new()),
    };
    let is_refused = refused_head.get().is_some();
    connection.set_http1(!is_refused, stream.is_plain());
    let context = Arc::new(ConnContext {
        server,
        connection,
        trusts_peer,
        reads_forwarded,
        tls,
        refused_head,
        withdrawn: OnceLock::new(),
        stream_signals: None,
        peer_process,
    });
    let wire = Wire::new(stream, Arc::clone(&context));
    let wire = if is_refused { wire.refusing_all() } else { wire.resuming(&unread) };
    builder.serve_connection(TokioIo::new(wire), ConnService { context, upgrade_slot: OnceLock::new() })
}

/// The protocol that follows HTTP/1 on a connection, or the wait for its next request.
enum Continuation {
    /// No request is in progress: the connection is parked until the client sends one, or the next
    /// daemon continues the connection.
    Parked { server: Arc<Server>, stream: ClientStream, unread: Vec<u8> },
    /// The last response was a 101.
    WebSocket(websocket::UpgradedConn),
    /// The connection began with the HTTP/2 preface.
    Http2(Pin<Box<dyn Future<Output = ()> + Send>>),
}

/// Returns the continuation of the connection, with the bytes that were read beyond the last HTTP/1
/// message; `None` if hyper has closed the socket.
///
/// Takes the box, so that its memory is free while the connection is parked.
fn continuation(http_conn: Box<HttpConn>) -> Option<Continuation> {
    let Parts { io, read_buf, service, .. } = http_conn.into_parts();
    let wire = io.into_inner();
    let server = &service.context.server;
    if wire.is_detached() {
        let (stream, buffered) = wire.into_parts();
        let request = service.context.withdrawn.get().map_or(&[][..], Vec::as_slice);
        let unread = [request, &*read_buf, &*buffered].concat();
        return Some(Continuation::Parked { server: Arc::clone(server), stream, unread });
    }
    service.context.connection.set_http1(false, false);
    if let (true, Some(settings)) = (wire.is_http2(), server.http2) {
        let server = Arc::clone(server);
        let (stream, buffered) = wire.into_parts();
        let serving = h2::serve(server, settings, stream, buffered.freeze());
        return Some(Continuation::Http2(Box::pin(serving)));
    }
    let accepted = service.take_upgrade()?;
    let (stream, buffered) = wire.into_parts();
    let socket = websocket::serve(stream, &[&*read_buf, &*buffered].concat(), accepted);
    Some(Continuation::WebSocket(socket))
}

/// The service that hyper calls for each request of an HTTP/1 connection.
struct ConnService {
    context: Arc<ConnContext>,
    /// Created at the first WebSocket handshake.
    upgrade_slot: OnceLock<UpgradeSlot>,
}

impl ConnService {
    /// Takes the WebSocket that the last request accepted, if any.
    fn take_upgrade(&self) -> Option<websocket::AcceptedUpgrade> {
        self.upgrade_slot.get()?.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Service<Request<Incoming>> for ConnService {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = ResponseFuture;

    fn call(&self, request: Request<Incoming>) -> ResponseFuture {
        // Called here and not in the future, so that the head is released in time: hyper reads
        // ahead before it polls the future, and must allocate a buffer while the head exists (see
        // `RequestMeta`).
        let (meta, progress, extra) = start(&self.context, &self.upgrade_slot, request);
        ResponseFuture::new(Arc::clone(&self.context), meta, progress, extra)
    }
}
