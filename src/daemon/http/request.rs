//! A request's way in: checked, and given to the dispatcher as the kind of request that it is.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use http::{Request, request};
use http_body::Body as _;
use hyper::body::Incoming;
use rgun_channel::frame;
use rgun_channel::frame::ExchangeId;

use crate::buffer_pool;
use crate::dispatch::Ticket;
use crate::net::{Connection, Phase};

use super::body::receive::{self, ReceiveLimits, RequestBytes};
use super::body::stream::{self, BodyPump, StreamLimits};
use super::context::{ConnContext, Server};
use super::fault::Refusal;
use super::handshake::{self, Handshake, UpgradeSlot};
use super::head;
use super::request_meta::{FrameMeta, RequestMeta, path};

/// How far a request has come before its future is polled.
pub(super) enum RequestProgress {
    /// To the dispatcher, or to a refusal.
    Submitted(Result<Ticket, Refusal>),
    /// Its body must be received first. Boxed: it is large, rare, and would be moved about with every future.
    Receiving(Pin<Box<dyn Future<Output = Result<Ticket, Refusal>> + Send>>),
    /// Its client counts as gone, and the connection is about to end.
    Abandoned,
}

pub(super) fn start(
    served: &Arc<ConnContext>,
    place: &OnceLock<UpgradeSlot>,
    request: Request<Incoming>,
) -> (RequestMeta, RequestProgress, Option<Box<Handshake>>) {
    let ConnContext { server, connection, .. } = &**served;
    connection.set_phase(Phase::Busy);
    let begun = Instant::now();
    if let Some(refused) = served.refused_head.get() {
        return (
            RequestMeta::for_refused_head(server, begun),
            RequestProgress::Submitted(Err(Refusal::Framing(refused.violation))),
            None,
        );
    }
    let (mut parts, incoming) = request.into_parts();
    let seen = head::HeaderScan::of(&parts.headers);
    let asked = RequestMeta::new(served, &parts, &seen, begun);
    let checked = head::check(&parts, &seen, server.underscores);
    let (has_id, has_unsafe) = (seen.request_id.is_some(), seen.has_unsafe(server.underscores));
    if has_id {
        head::set_request_id(&mut parts.headers, asked.id.clone().into_value());
    }
    if has_unsafe {
        head::remove_unsafe(&mut parts.headers, server.underscores);
    }
    let checked = checked.and_then(|()| head::set_host(&mut parts));
    let mut handshake = None;
    let started = match checked {
        Err(refusal) => RequestProgress::Submitted(Err(refusal)),
        Ok(())
            if server.dispatcher.accepts_handshakes()
                && incoming.is_end_stream()
                && handshake::is_handshake(&parts) =>
        {
            let place = Arc::clone(place.get_or_init(UpgradeSlot::default));
            let checked = Handshake::new(&parts, server.websocket.compression, place);
            RequestProgress::Submitted(checked.and_then(|checked| {
                handshake = Some(Box::new(checked));
                submit_handshake(server, connection, &parts, asked.frame_meta())
            }))
        }
        Ok(()) if incoming.is_end_stream() => {
            let nothing = RequestBytes::Inline(bytes::Bytes::new());
            let submitted = submit(server, connection, &parts, nothing, asked.frame_meta(), begun);
            buffer_pool::recycle(parts.headers);
            RequestProgress::Submitted(submitted)
        }
        Ok(()) if server.dispatcher.is_asgi() && stream::should_stream(&incoming, &parts.headers) => {
            RequestProgress::Submitted(submit_streaming(
                server,
                connection,
                &parts,
                incoming,
                asked.frame_meta(),
            ))
        }
        Ok(()) => {
            let served = Arc::clone(served);
            let (id, origin) = (asked.id.clone(), asked.origin.clone());
            RequestProgress::Receiving(Box::pin(async move {
                let ConnContext { server, connection, .. } = &*served;
                let identity = FrameMeta { id: &id, origin: origin.as_deref(), begun };
                if stream::should_stream(&incoming, &parts.headers) {
                    // How it is to be received depends on who it is for.
                    server.dispatcher.wait_for_interface().await;
                    if server.dispatcher.is_asgi() {
                        return submit_streaming(server, connection, &parts, incoming, identity);
                    }
                }
                let body = receive_body(server, &mut parts, incoming).await?;
                submit(server, connection, &parts, body, identity, Instant::now())
            }))
        }
    };
    (asked, started, handshake)
}

/// The request's body, and its length in the fields if only now it is known.
async fn receive_body(
    server: &Server,
    parts: &mut request::Parts,
    incoming: Incoming,
) -> Result<RequestBytes, Refusal> {
    let chunked = incoming.size_hint().exact().is_none();
    let limits = ReceiveLimits {
        max_body: server.limits.body,
        min_rate: server.limits.min_body_rate(),
        budgets: server.spool_budgets,
        spool_dir: &server.spool_dir,
        dispatcher: server.dispatcher,
    };
    let body = receive::receive(incoming, &limits).await?;
    if chunked {
        head::set_content_length(&mut parts.headers, body.len());
    }
    Ok(body)
}

/// Gives a whole request to the dispatcher. `complete` is when all of it was there.
fn submit(
    server: &Server,
    connection: &Connection,
    parts: &request::Parts,
    body: RequestBytes,
    identity: FrameMeta<'_>,
    complete: Instant,
) -> Result<Ticket, Refusal> {
    let body_len = body.len();
    let (inline, spooled) = match body {
        RequestBytes::Inline(bytes) => (bytes, None),
        RequestBytes::Spooled(body, _) => (bytes::Bytes::new(), Some(body)),
    };
    let frame = frame::Request {
        body_len,
        body_is_fd: spooled.is_some(),
        body: &inline,
        ..build_frame(server, connection, parts, identity)
    };
    let fields = head::fields(&parts.headers, false);
    server.dispatcher.submit(&frame, fields, spooled, complete).map_err(Refusal::Exchange)
}

/// All of a request's frame but its body.
fn build_frame<'p>(
    server: &Server,
    connection: &'p Connection,
    parts: &'p request::Parts,
    FrameMeta { id, origin, begun }: FrameMeta<'p>,
) -> frame::Request<'p> {
    let client = origin.and_then(|origin| origin.client.as_ref()).unwrap_or(&connection.peer);
    frame::Request {
        received: server.clock.monotonic_ns(begun),
        method: parts.method.as_str().as_bytes(),
        version: head::version_code(parts.version),
        listener: connection.listener,
        path: path(parts),
        query: parts.uri.query().unwrap_or_default().as_bytes(),
        peer: client.address.as_bytes(),
        peer_port: client.port,
        https: origin.is_some_and(|origin| origin.https),
        request_id: id.as_bytes(),
        ..frame::Request::new(ExchangeId(0))
    }
}

/// Gives the dispatcher a request whose body follows as the application takes it.
fn submit_streaming(
    server: &Server,
    connection: &Arc<Connection>,
    parts: &request::Parts,
    incoming: Incoming,
    identity: FrameMeta<'_>,
) -> Result<Ticket, Refusal> {
    let announced = stream::declared_len(&incoming, server.limits.body)?;
    let frame = frame::Request {
        body_len: announced.unwrap_or(frame::UNKNOWN_LENGTH),
        body_streams: true,
        ..build_frame(server, connection, parts, identity)
    };
    let fields = head::fields(&parts.headers, true);
    let submitted = server.dispatcher.submit(&frame, fields, None, identity.begun);
    let (connection, dispatcher) = (Arc::clone(connection), server.dispatcher);
    let bringer = BodyPump::new(incoming, &parts.headers, connection, dispatcher);
    match &submitted {
        Ok(ticket) => {
            let bounds =
                StreamLimits { max_body: server.limits.body, min_rate: server.limits.min_body_rate() };
            tokio::spawn(bringer.run(ticket.upload(), bounds));
        }
        Err(_) => drop(tokio::spawn(bringer.drain_rest())),
    }
    submitted.map_err(Refusal::Exchange)
}

/// Gives the dispatcher the handshake of a WebSocket.
fn submit_handshake(
    server: &Server,
    connection: &Connection,
    parts: &request::Parts,
    identity: FrameMeta<'_>,
) -> Result<Ticket, Refusal> {
    let frame = frame::Request { websocket: true, ..build_frame(server, connection, parts, identity) };
    let fields = head::fields(&parts.headers, true);
    server.dispatcher.submit(&frame, fields, None, identity.begun).map_err(Refusal::Exchange)
}
