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

use super::body::{self, Body, BodyLimits};
use super::context::{Served, Server};
use super::fault::Refusal;
use super::handshake::{self, Handshake, Place};
use super::head;
use super::request::{Asked, Identity, path};
use super::upload::{self, Bounds, Bringer};

/// How far a request has come before its future is polled.
pub(super) enum Started {
    /// To the dispatcher, or to a refusal.
    Submitted(Result<Ticket, Refusal>),
    /// Its body must be received first. Boxed: it is large, rare, and would be moved about with every future.
    Receiving(Pin<Box<dyn Future<Output = Result<Ticket, Refusal>> + Send>>),
    /// Its client counts as gone, and the connection is about to end.
    Forsaken,
}

pub(super) fn start(
    served: &Arc<Served>,
    place: &OnceLock<Place>,
    request: Request<Incoming>,
) -> (Asked, Started, Option<Box<Handshake>>) {
    let Served { server, connection, .. } = &**served;
    connection.enter(Phase::Busy);
    let begun = Instant::now();
    if let Some(refused) = served.refused_head.get() {
        return (
            Asked::stand_in(server, begun),
            Started::Submitted(Err(Refusal::Framing(refused.violation))),
            None,
        );
    }
    let (mut parts, incoming) = request.into_parts();
    let seen = head::Seen::of(&parts.headers);
    let asked = Asked::new(served, &parts, &seen, begun);
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
        Err(refusal) => Started::Submitted(Err(refusal)),
        Ok(())
            if server.dispatcher.takes_handshakes()
                && incoming.is_end_stream()
                && handshake::is_asked_for(&parts) =>
        {
            let place = Arc::clone(place.get_or_init(Place::default));
            let checked = Handshake::new(&parts, server.websocket.compression, place);
            Started::Submitted(checked.and_then(|checked| {
                handshake = Some(Box::new(checked));
                submit_handshake(server, connection, &parts, asked.identity())
            }))
        }
        Ok(()) if incoming.is_end_stream() => {
            let nothing = Body::Inline(bytes::Bytes::new());
            let submitted = submit(server, connection, &parts, nothing, asked.identity(), begun);
            buffer_pool::recycle(parts.headers);
            Started::Submitted(submitted)
        }
        Ok(()) if server.dispatcher.is_asgi() && upload::comes_in_parts(&incoming, &parts.headers) => {
            Started::Submitted(submit_in_parts(server, connection, &parts, incoming, asked.identity()))
        }
        Ok(()) => {
            let served = Arc::clone(served);
            let (id, origin) = (asked.id.clone(), asked.origin.clone());
            Started::Receiving(Box::pin(async move {
                let Served { server, connection, .. } = &*served;
                let identity = Identity { id: &id, origin: origin.as_deref(), begun };
                if upload::comes_in_parts(&incoming, &parts.headers) {
                    // How it is to be received depends on who it is for.
                    server.dispatcher.knows_interface().await;
                    if server.dispatcher.is_asgi() {
                        return submit_in_parts(server, connection, &parts, incoming, identity);
                    }
                }
                let body = receive(server, &mut parts, incoming).await?;
                submit(server, connection, &parts, body, identity, Instant::now())
            }))
        }
    };
    (asked, started, handshake)
}

/// The request's body, and its length in the fields if only now it is known.
async fn receive(server: &Server, parts: &mut request::Parts, incoming: Incoming) -> Result<Body, Refusal> {
    let chunked = incoming.size_hint().exact().is_none();
    let limits = BodyLimits {
        most: server.limits.body,
        pace: server.limits.pace(),
        spools: server.spools,
        spool: &server.spool,
        dispatcher: server.dispatcher,
    };
    let body = body::receive(incoming, &limits).await?;
    if chunked {
        head::set_length(&mut parts.headers, body.len());
    }
    Ok(body)
}

/// Gives a whole request to the dispatcher. `complete` is when all of it was there.
fn submit(
    server: &Server,
    connection: &Connection,
    parts: &request::Parts,
    body: Body,
    identity: Identity<'_>,
    complete: Instant,
) -> Result<Ticket, Refusal> {
    let body_len = body.len();
    let (inline, spooled) = match body {
        Body::Inline(bytes) => (bytes, None),
        Body::Spooled(body, _) => (bytes::Bytes::new(), Some(body)),
    };
    let frame = frame::Request {
        body_len,
        body_is_fd: spooled.is_some(),
        body: &inline,
        ..frame_of(server, connection, parts, identity)
    };
    let fields = head::fields(&parts.headers, false);
    server.dispatcher.submit(&frame, fields, spooled, complete).map_err(Refusal::Exchange)
}

/// All of a request's frame but its body.
fn frame_of<'p>(
    server: &Server,
    connection: &'p Connection,
    parts: &'p request::Parts,
    Identity { id, origin, begun }: Identity<'p>,
) -> frame::Request<'p> {
    let client = origin.and_then(|origin| origin.client.as_ref()).unwrap_or(&connection.peer);
    frame::Request {
        received: server.clock.nanoseconds(begun),
        method: parts.method.as_str().as_bytes(),
        version: head::version(parts.version),
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
fn submit_in_parts(
    server: &Server,
    connection: &Arc<Connection>,
    parts: &request::Parts,
    incoming: Incoming,
    identity: Identity<'_>,
) -> Result<Ticket, Refusal> {
    let announced = upload::announced(&incoming, server.limits.body)?;
    let frame = frame::Request {
        body_len: announced.unwrap_or(frame::UNKNOWN_LENGTH),
        body_streams: true,
        ..frame_of(server, connection, parts, identity)
    };
    let fields = head::fields(&parts.headers, true);
    let submitted = server.dispatcher.submit(&frame, fields, None, identity.begun);
    let (connection, dispatcher) = (Arc::clone(connection), server.dispatcher);
    let bringer = Bringer::new(incoming, &parts.headers, connection, dispatcher);
    match &submitted {
        Ok(ticket) => {
            let bounds = Bounds { most: server.limits.body, pace: server.limits.pace() };
            tokio::spawn(bringer.bring(ticket.upload(), bounds));
        }
        Err(_) => drop(tokio::spawn(bringer.clear_away())),
    }
    submitted.map_err(Refusal::Exchange)
}

/// Gives the dispatcher the handshake of a WebSocket.
fn submit_handshake(
    server: &Server,
    connection: &Connection,
    parts: &request::Parts,
    identity: Identity<'_>,
) -> Result<Ticket, Refusal> {
    let frame = frame::Request { websocket: true, ..frame_of(server, connection, parts, identity) };
    let fields = head::fields(&parts.headers, true);
    server.dispatcher.submit(&frame, fields, None, identity.begun).map_err(Refusal::Exchange)
}
