//! Starts a request: checks its head and submits it to the dispatcher as a handshake, as a whole
//! request, or with a streamed body. `service` calls [`start`] for each request.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use http::{HeaderMap, Request, request};
use rgun_channel::frame;

use crate::buffer_pool;
use crate::dispatch::Ticket;
use crate::files::{FileOutcome, LookupMode};
use crate::negotiation::ErrorFormat;
use crate::net::{Connection, Phase};

use super::body::client::ClientBody;
use super::body::receive::{self, ReceiveLimits, RequestBytes};
use super::body::stream::{self, BodyPump, StreamLimits};
use super::context::{ConnContext, Server};
use super::fault::{HealthResult, Refusal, RequestFault};
use super::file_server::{self, FileOrApp, FileServer, ServedFile};
use super::first_boot::FirstBoot;
use super::handshake::{Handshake, Upgrade, UpgradeSlot};
use super::head;
use super::request_id::RequestId;
use super::request_meta::{FrameMeta, RequestMeta, RequestOrigin, path};
use super::submit::{build_frame, submit, submit_frame};

/// The state of a request whose response is not decided.
pub(super) enum RequestProgress {
    /// The request was submitted to the dispatcher, or refused.
    Submitted(Result<Ticket, Refusal>),
    /// The body must be received before the request can be submitted, or a file must be looked up
    /// on a blocking thread. Boxed, because the future is large and rare.
    Receiving(Pin<Box<dyn Future<Output = Result<Admitted, LateRefusal>> + Send>>),
    /// A browser's request that was submitted before the first worker was ready. If the boot takes
    /// long, the browser gets a page.
    FirstBoot(Box<FirstBoot>),
    /// A health check, which the daemon answers.
    Health(HealthResult),
    /// The request is answered with a file.
    File(Box<ServedFile>),
    /// The client is treated as gone; the connection is about to close. Also stands in for a state
    /// that was moved out.
    Abandoned,
}

/// Facts about a request that few requests need for their response.
#[derive(Debug)]
pub(super) enum RequestExtra {
    /// The request is a WebSocket handshake.
    Handshake(Box<Upgrade>),
    /// The fields about ranges and preconditions, for a file that the application may name.
    Conditions(HeaderMap),
}

/// The outcome of [`RequestProgress::Receiving`].
pub(super) enum Admitted {
    /// The request was submitted to the dispatcher.
    Ticket(Ticket),
    /// The request is answered with a file.
    File(Box<ServedFile>),
}

/// The refusal of a request that was not submitted at once.
pub(super) struct LateRefusal {
    pub(super) refusal: Refusal,
    /// The format of the error response.
    pub(super) format: ErrorFormat,
}

impl RequestProgress {
    /// Returns the ticket, if the request is submitted.
    pub(super) fn ticket(&self) -> Option<&Ticket> {
        match self {
            Self::Submitted(Ok(ticket)) => Some(ticket),
            Self::FirstBoot(waiting) => Some(&waiting.ticket),
            Self::Submitted(Err(_))
            | Self::Receiving(_)
            | Self::Health(_)
            | Self::File(_)
            | Self::Abandoned => None,
        }
    }

    /// Returns a mutable reference to the ticket, if the request is submitted.
    pub(super) fn ticket_mut(&mut self) -> Option<&mut Ticket> {
        match self {
            Self::Submitted(Ok(ticket)) => Some(ticket),
            Self::FirstBoot(waiting) => Some(&mut waiting.ticket),
            Self::Submitted(Err(_))
            | Self::Receiving(_)
            | Self::Health(_)
            | Self::File(_)
            | Self::Abandoned => None,
        }
    }
}

/// Checks a request's head, then submits the request, or answers it without the application. A
/// request whose body must be received first is submitted later ([`RequestProgress::Receiving`]).
pub(super) fn start<B: ClientBody>(
    context: &Arc<ConnContext>,
    upgrade_slot: &OnceLock<UpgradeSlot>,
    request: Request<B>,
) -> (RequestMeta, RequestProgress, Option<Box<RequestExtra>>) {
    let ConnContext { server, connection, .. } = &**context;
    connection.set_phase(Phase::Busy);
    let received_at = Instant::now();
    if let Some(refused) = context.refused_head.get() {
        let meta = RequestMeta::for_refused_head(server, refused.error_format, received_at);
        return (meta, RequestProgress::Submitted(Err(Refusal::Framing(refused.violation))), None);
    }
    let (mut parts, mut incoming) = request.into_parts();
    let (mut meta, has_upgrade, checked) = check_head::<B>(context, &mut parts, received_at);
    let has_body = !incoming.is_end_stream();
    if let (Some(paths), Ok(())) = (&server.health, &checked)
        && let Some(checked) = paths.check(&parts, has_body, server.dispatcher)
    {
        let refuse = |refusal| refuse(&mut meta, &parts, refusal);
        let progress = checked.map_or_else(refuse, RequestProgress::Health);
        return (meta, progress, None);
    }
    let checked = checked.and_then(|()| check_policies(context, &parts, &meta));
    if let (Some(files), Ok(())) = (&server.files, &checked) {
        match start_file(context, files, &mut meta, parts, incoming) {
            Ok(progress) => return (meta, progress, None),
            Err(request) => (parts, incoming) = request,
        }
    }
    let mut extra = prepare_for_files(server, &parts, &mut meta);
    let progress = match checked {
        Err(refusal) => refuse(&mut meta, &parts, refusal),
        Ok(()) if (B::IS_STREAM || has_upgrade) && !has_body && B::is_handshake(&parts) => {
            let slot = Arc::clone(upgrade_slot.get_or_init(UpgradeSlot::default));
            match start_handshake::<B>(context, parts, &mut meta) {
                Err(refusal) => RequestProgress::Submitted(Err(refusal)),
                Ok((progress, handshake)) => {
                    extra = Some(Box::new(RequestExtra::Handshake(Box::new(Upgrade::new(handshake, slot)))));
                    progress
                }
            }
        }
        Ok(()) if !has_body => submit_bodiless::<B>(context, parts, &mut meta),
        Ok(()) if server.dispatcher.is_asgi() && stream::should_stream(&incoming, &parts.headers) => {
            let frame_meta = meta.frame_meta(context);
            match submit_streaming(server, connection, &parts, incoming, frame_meta, received_at) {
                Ok(ticket) => RequestProgress::Submitted(Ok(ticket)),
                Err(refusal) => refuse(&mut meta, &parts, refusal),
            }
        }
        Ok(()) => {
            let (id, origin) = (meta.id.clone(), meta.origin.clone());
            let request = RequestHead { parts, id, origin, received_at };
            RequestProgress::Receiving(Box::pin(receive_and_submit(Arc::clone(context), request, incoming)))
        }
    };
    (meta, progress, extra)
}

/// Refuses a request that the daemon answers instead of the application: with a redirect to HTTPS,
/// or with the page about code that does not load.
fn check_policies(context: &ConnContext, parts: &request::Parts, meta: &RequestMeta) -> Result<(), Refusal> {
    let ConnContext { server, connection, .. } = context;
    if let Some(policy) = &server.https {
        policy.check(parts, meta.is_https(context))?;
    }
    match &server.failure_page {
        Some(page) => page.check(parts, connection),
        None => Ok(()),
    }
}

/// Refuses a request, in the format that the client wants.
fn refuse(meta: &mut RequestMeta, parts: &request::Parts, refusal: Refusal) -> RequestProgress {
    meta.error_format = head::error_format(&parts.headers);
    RequestProgress::Submitted(Err(refusal))
}

/// Submits a request without a body.
fn submit_bodiless<B: ClientBody>(
    context: &ConnContext,
    parts: request::Parts,
    meta: &mut RequestMeta,
) -> RequestProgress {
    let server = &context.server;
    let empty = RequestBytes::Inline(bytes::Bytes::new());
    let frame_meta = meta.frame_meta(context);
    let submitted = submit::<B>(server, &parts, empty, frame_meta, meta.received_at);
    let progress = match submitted {
        Ok(ticket) if server.dispatcher.awaits_first_worker() => {
            match FirstBoot::new(ticket, &parts, server.boot_page) {
                Ok(waiting) => RequestProgress::FirstBoot(Box::new(waiting)),
                Err(ticket) => RequestProgress::Submitted(Ok(ticket)),
            }
        }
        Ok(ticket) => RequestProgress::Submitted(Ok(ticket)),
        Err(refusal) => refuse(meta, &parts, refusal),
    };
    buffer_pool::recycle(parts.headers);
    progress
}

/// Prepares for a response that names a file (`app.sendfile_roots`). Sets the format of an error
/// response in `meta`, and returns the fields that decide which part of the file is sent.
fn prepare_for_files(
    server: &Server,
    parts: &request::Parts,
    meta: &mut RequestMeta,
) -> Option<Box<RequestExtra>> {
    server.files.as_ref()?.sendfile.as_ref()?;
    meta.error_format = head::error_format(&parts.headers);
    file_server::conditions(&parts.headers).map(|fields| Box::new(RequestExtra::Conditions(fields)))
}

/// Answers a request whose path belongs to `[[static]]`. The request is returned if the application
/// answers it.
#[expect(clippy::result_large_err, reason = "the error is the request itself, which is served next")]
fn start_file<B: ClientBody>(
    context: &Arc<ConnContext>,
    files: &Arc<FileServer>,
    meta: &mut RequestMeta,
    parts: request::Parts,
    incoming: B,
) -> Result<RequestProgress, (request::Parts, B)> {
    let found = files.mounts.as_ref().and_then(|mounts| mounts.find(path(&parts)));
    let Some((idx, mount)) = found else { return Err((parts, incoming)) };
    if mount.falls_back_to_app() && B::is_handshake(&parts) {
        return Err((parts, incoming));
    }
    let leaves_input_unread = !incoming.is_end_stream();
    let outcome = mount.serve(&file_server::file_request(&parts, meta.received_at), LookupMode::Cached);
    if matches!(outcome, FileOutcome::NeedsDisk) {
        let request = RequestHead {
            parts,
            id: meta.id.clone(),
            origin: meta.origin.clone(),
            received_at: meta.received_at,
        };
        let looking_up = find_or_submit(Arc::clone(context), Arc::clone(files), idx, request, incoming);
        return Ok(RequestProgress::Receiving(Box::pin(looking_up)));
    }
    match file_server::into_response(outcome) {
        None => Err((parts, incoming)),
        Some(Err(refusal)) => Ok(refuse(meta, &parts, refusal)),
        Some(Ok(response)) => {
            buffer_pool::recycle(parts.headers);
            context.connection.mark_use();
            context.server.dispatcher.note_served_file();
            Ok(RequestProgress::File(ServedFile::of_static(response, leaves_input_unread)))
        }
    }
}

/// A request's head and the facts about it.
struct RequestHead {
    parts: request::Parts,
    id: RequestId,
    origin: Option<Box<RequestOrigin>>,
    received_at: Instant,
}

/// Looks a file up on a blocking thread, and submits the request if the application answers it.
async fn find_or_submit<B: ClientBody>(
    context: Arc<ConnContext>,
    files: Arc<FileServer>,
    mount: usize,
    request: RequestHead,
    incoming: B,
) -> Result<Admitted, LateRefusal> {
    let RequestHead { parts, id, origin, received_at } = request;
    let has_body = !incoming.is_end_stream();
    let format = head::error_format(&parts.headers);
    let located = files.serve_blocking(mount, parts, Instant::now()).await;
    let parts = match located.map_err(|refusal| LateRefusal { refusal, format })? {
        FileOrApp::File(response) => {
            context.connection.mark_use();
            context.server.dispatcher.note_served_file();
            return Ok(Admitted::File(ServedFile::of_static(response, has_body)));
        }
        FileOrApp::App(parts) => parts,
    };
    if has_body {
        return receive_and_submit(context, RequestHead { parts, id, origin, received_at }, incoming).await;
    }
    let frame_meta = FrameMeta { id: &id, origin: origin.as_deref(), context: &context, received_at };
    let empty = RequestBytes::Inline(bytes::Bytes::new());
    submit::<B>(&context.server, &parts, empty, frame_meta, Instant::now())
        .map(Admitted::Ticket)
        .map_err(|refusal| LateRefusal { refusal, format })
}

/// Checks a head and changes its fields into those that the application receives. Also returns
/// whether there is an `Upgrade` field.
fn check_head<B: ClientBody>(
    context: &ConnContext,
    parts: &mut request::Parts,
    received_at: Instant,
) -> (RequestMeta, bool, Result<(), Refusal>) {
    let underscores = context.server.underscores;
    let prepared = B::prepare_head(parts, &context.server.limits);
    let scan = head::HeaderScan::of(&parts.headers);
    let meta = RequestMeta::new(context, parts, &scan, received_at);
    let checked = prepared.and_then(|()| head::check(parts, &scan, underscores));
    let (has_id, has_unsafe) = (scan.request_id.is_some(), scan.has_unsafe(underscores));
    let has_upgrade = scan.has_upgrade;
    if has_id {
        head::set_request_id(&mut parts.headers, meta.id.clone().into_value());
    }
    if has_unsafe {
        head::remove_unsafe(&mut parts.headers, underscores);
    }
    let set_host = |()| if B::IS_STREAM { Ok(()) } else { head::set_host(parts) };
    let checked = checked.and_then(set_host);
    if let Some(origin) = &meta.origin {
        origin.set_host(&mut parts.headers, context.is_https());
    }
    (meta, has_upgrade, checked)
}

/// Receives a body whole and submits the request, or submits it streamed if the application turns
/// out to be ASGI.
async fn receive_and_submit<B: ClientBody>(
    context: Arc<ConnContext>,
    request: RequestHead,
    incoming: B,
) -> Result<Admitted, LateRefusal> {
    let RequestHead { mut parts, id, origin, received_at } = request;
    let frame_meta = FrameMeta { id: &id, origin: origin.as_deref(), context: &context, received_at };
    let submitted = submit_streamed_or_whole(&context, &mut parts, incoming, frame_meta).await;
    submitted
        .map(Admitted::Ticket)
        .map_err(|refusal| LateRefusal { refusal, format: head::error_format(&parts.headers) })
}

/// Submits the request with a streamed body if the application is ASGI, else receives the body
/// first.
async fn submit_streamed_or_whole<B: ClientBody>(
    context: &ConnContext,
    parts: &mut request::Parts,
    incoming: B,
    frame_meta: FrameMeta<'_>,
) -> Result<Ticket, Refusal> {
    let ConnContext { server, connection, .. } = context;
    if stream::should_stream(&incoming, &parts.headers) {
        // Whether the application is WSGI or ASGI is unknown until the first worker has loaded it.
        if let Err(fault) = server.dispatcher.wait_for_interface().await {
            let pump = BodyPump::new(incoming, &parts.headers, Arc::clone(connection), server.dispatcher);
            drop(tokio::spawn(pump.drain_rest()));
            return Err(Refusal::Exchange(fault));
        }
        if server.dispatcher.is_asgi() {
            return submit_streaming(server, connection, parts, incoming, frame_meta, Instant::now());
        }
    }
    let body = receive_body(server, parts, incoming).await?;
    submit::<B>(server, parts, body, frame_meta, Instant::now())
}

/// Receives the body; sets `Content-Length` if it was chunked.
async fn receive_body<B: ClientBody>(
    server: &Server,
    parts: &mut request::Parts,
    incoming: B,
) -> Result<RequestBytes, Refusal> {
    let is_chunked = incoming.size_hint().exact().is_none();
    let limits = ReceiveLimits {
        max_body: server.limits.body,
        min_rate: server.limits.min_body_rate(),
        budgets: server.spool_budgets,
        spool_dir: &server.spool_dir,
        dispatcher: server.dispatcher,
    };
    let body = receive::receive(incoming, &limits).await?;
    if is_chunked {
        head::set_content_length(&mut parts.headers, body.len());
    }
    Ok(body)
}

/// Submits a request whose body follows as the application reads it; starts the task that pumps the
/// body. `now` is the time of the submission.
fn submit_streaming<B: ClientBody>(
    server: &Server,
    connection: &Arc<Connection>,
    parts: &request::Parts,
    incoming: B,
    frame_meta: FrameMeta<'_>,
    now: Instant,
) -> Result<Ticket, Refusal> {
    let body_len = stream::declared_len(&incoming, server.limits.body)?;
    let frame = frame::Request {
        body_len: body_len.unwrap_or(frame::UNKNOWN_LENGTH),
        body_streams: true,
        ..build_frame(parts, frame_meta)
    };
    let submitted = submit_frame::<B>(server, &frame, &parts.headers, None, now);
    let (connection, dispatcher) = (Arc::clone(connection), server.dispatcher);
    let pump = BodyPump::new(incoming, &parts.headers, connection, dispatcher);
    match &submitted {
        Ok(ticket) => {
            let limits =
                StreamLimits { max_body: server.limits.body, min_rate: server.limits.min_body_rate() };
            tokio::spawn(pump.run(ticket.upload(), limits));
        }
        Err(_) => drop(tokio::spawn(pump.drain_rest())),
    }
    submitted
}

/// Submits the handshake of a WebSocket. A WSGI application checks the handshake itself and may
/// answer it like any request; no [`Handshake`] is returned then. On an HTTP/2 stream the handshake
/// is submitted only when the application is known to be ASGI, because a CONNECT cannot become an
/// ordinary request.
fn start_handshake<B: ClientBody>(
    context: &Arc<ConnContext>,
    parts: request::Parts,
    meta: &mut RequestMeta,
) -> Result<(RequestProgress, Option<Handshake>), Refusal> {
    let server = &context.server;
    meta.error_format = head::error_format(&parts.headers);
    let is_takeover = !B::IS_STREAM && !server.dispatcher.accepts_handshakes();
    let handshake =
        if is_takeover { None } else { Some(Handshake::new(&parts, server.websocket.compression)?) };
    if !B::IS_STREAM {
        let (frame_meta, now) = (meta.frame_meta(context), meta.received_at);
        let ticket = submit_handshake::<B>(server, &parts, frame_meta, is_takeover, now)?;
        return Ok((RequestProgress::Submitted(Ok(ticket)), handshake));
    }
    let (context, id) = (Arc::clone(context), meta.id.clone());
    let (origin, received_at, format) = (meta.origin.clone(), meta.received_at, meta.error_format);
    let submitting = async move {
        let server = &context.server;
        let refuse = |refusal| LateRefusal { refusal, format };
        let is_known = server.dispatcher.wait_for_interface().await;
        is_known.map_err(|fault| refuse(Refusal::Exchange(fault)))?;
        if !server.dispatcher.accepts_handshakes() {
            return Err(refuse(Refusal::Client(RequestFault::Protocol)));
        }
        let frame_meta = FrameMeta { id: &id, origin: origin.as_deref(), context: &context, received_at };
        let submitted = submit_handshake::<B>(server, &parts, frame_meta, false, Instant::now());
        submitted.map(Admitted::Ticket).map_err(refuse)
    };
    Ok((RequestProgress::Receiving(Box::pin(submitting)), handshake))
}

/// Submits a handshake. `now` is the time of the submission.
fn submit_handshake<B: ClientBody>(
    server: &Server,
    parts: &request::Parts,
    frame_meta: FrameMeta<'_>,
    is_takeover: bool,
    now: Instant,
) -> Result<Ticket, Refusal> {
    let frame = build_frame(parts, frame_meta);
    let frame = frame::Request { websocket: true, body_is_fd: is_takeover, ..frame };
    submit_frame::<B>(server, &frame, &parts.headers, None, now)
}
