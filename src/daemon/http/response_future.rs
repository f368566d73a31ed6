//! The future of a request's response. The connection polls it: hyper for HTTP/1, the stream's task
//! for HTTP/2.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Response, StatusCode};
use tokio::time::{Sleep, sleep_until};

use crate::dispatch::{AppResponse, Fault, Ticket};
use crate::negotiation::ErrorFormat;
use crate::net::CloseReason;

use super::access_log::log_unanswered;
use super::body::response::ResponseBody;
use super::context::{ConnContext, X_REQUEST_ID};
use super::fault::{HealthResult, Refusal};
use super::file_server::{SendfileDecision, ServedFile, decide_sendfile};
use super::h1::{early_hints, replay};
use super::request::{Admitted, LateRefusal, RequestExtra, RequestProgress};
use super::request_meta::RequestMeta;
use super::response::{
    application_response, check_content_length, error_response, file_response, health_response,
    switching_protocols,
};
use super::takeover::TakeoverOutcome;

/// The response to one request. Dropping it early logs the request as unanswered.
///
/// Hand-written because hyper moves the future: an `async` block would store its arguments twice.
pub(super) struct ResponseFuture {
    /// `None` once the response was built; the response then logs the request.
    request: Option<(Arc<ConnContext>, RequestMeta)>,
    progress: RequestProgress,
    /// Facts that few requests need.
    extra: Option<Box<RequestExtra>>,
    /// Runs while the client has shut down its sending half and the request has not started. The
    /// request is abandoned when the timer expires.
    half_close_timer: Option<Pin<Box<Sleep>>>,
}

/// The content of a response.
enum ResponseSource {
    /// The application's response.
    App(AppResponse),
    /// A static file.
    File(Box<ServedFile>),
    /// The response to a health check.
    Health(HealthResult),
}

impl ResponseFuture {
    pub(super) fn new(
        context: Arc<ConnContext>,
        meta: RequestMeta,
        progress: RequestProgress,
        extra: Option<Box<RequestExtra>>,
    ) -> Self {
        Self { request: Some((context, meta)), progress, extra, half_close_timer: None }
    }

    fn is_shut_down(&self) -> bool {
        self.request
            .as_ref()
            .is_some_and(|(context, _)| context.connection.close_reason() == CloseReason::Shutdown)
    }

    fn set_error_format(&mut self, format: ErrorFormat) {
        if let Some((_, meta)) = &mut self.request {
            meta.error_format = format;
        }
    }

    /// Polls a request whose body is being received or whose file is being looked up. Ready when
    /// the request was submitted or refused, or the file was found.
    fn poll_receiving(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let RequestProgress::Receiving(receiving) = &mut self.progress else { return Poll::Ready(()) };
        self.progress = match ready!(receiving.as_mut().poll(cx)) {
            Ok(Admitted::Ticket(ticket)) => RequestProgress::Submitted(Ok(ticket)),
            Ok(Admitted::File(file)) => RequestProgress::File(file),
            Err(LateRefusal { mut refusal, format }) => {
                self.set_error_format(format);
                if matches!(refusal, Refusal::Client(..)) && self.is_shut_down() {
                    // The daemon, not the client, has ended the body early.
                    refusal = Refusal::Exchange(Fault::Unavailable("the daemon stops".into()));
                }
                RequestProgress::Submitted(Err(refusal))
            }
        };
        Poll::Ready(())
    }

    /// Polls until the response's content is decided; `None` if the connection ends without a
    /// response.
    fn poll_outcome(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<ResponseSource, Refusal>>> {
        if let RequestProgress::Receiving(_) = &self.progress {
            ready!(self.poll_receiving(cx));
        }
        let ticket = match &mut self.progress {
            RequestProgress::Submitted(Ok(ticket)) => match self.extra.as_deref_mut() {
                Some(RequestExtra::Handshake(upgrade)) => {
                    let polled = upgrade.takeover.poll(ticket, cx);
                    return self.on_upgrade_polled(cx, polled);
                }
                Some(RequestExtra::Conditions(_)) | None => ticket,
            },
            RequestProgress::Submitted(Err(refusal)) => return Poll::Ready(Some(Err(refusal.clone()))),
            RequestProgress::FirstBoot(waiting) => match waiting.poll_expired(cx) {
                Poll::Ready(true) => {
                    self.set_error_format(ErrorFormat::Html);
                    return Poll::Ready(Some(Err(Refusal::FirstBoot)));
                }
                Poll::Ready(false) | Poll::Pending => &mut waiting.ticket,
            },
            RequestProgress::Health(health) => {
                return Poll::Ready(Some(Ok(ResponseSource::Health(*health))));
            }
            RequestProgress::Abandoned => return Poll::Ready(None),
            RequestProgress::File(_) => return Poll::Ready(self.take_file().map(Ok)),
            RequestProgress::Receiving(_) => unreachable!("replaced above when it is ready"),
        };
        let polled = Pin::new(ticket).poll(cx);
        self.on_polled(cx, polled)
    }

    /// Handles the result of polling the exchange.
    fn on_polled(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<Result<AppResponse, Fault>>,
    ) -> Poll<Option<Result<ResponseSource, Refusal>>> {
        match polled {
            Poll::Ready(Err(Fault::ClientHalfClosed)) => {
                self.abandon();
                Poll::Ready(None)
            }
            Poll::Ready(Ok(response)) => self.poll_sendfile(cx, response),
            Poll::Ready(Err(fault)) => {
                if let Some(ticket) = self.progress.ticket() {
                    let format = ticket.error_format();
                    self.set_error_format(format);
                }
                Poll::Ready(Some(Err(Refusal::Exchange(fault))))
            }
            Poll::Pending => {
                if let Some(ticket) = self.progress.ticket_mut()
                    && let (Some(hints), Some((context, meta))) = (ticket.take_hints(), &self.request)
                    && !meta.is_http_10
                {
                    // An HTTP/1.0 client must not get interim responses (RFC 9110 §15.2).
                    match &context.stream_signals {
                        None => context.connection.interim.push(early_hints::encode(&hints)),
                        Some(signals) => signals.push_hints(hints),
                    }
                }
                self.poll_half_close(cx);
                self.withdraw_for_next_daemon();
                Poll::Pending
            }
        }
    }

    /// Takes the request back from the dispatcher if the connection goes to the next daemon and the
    /// request has not started. The connection then leaves HTTP when it is flushed, after this poll.
    fn withdraw_for_next_daemon(&mut self) {
        let Some((context, _)) = &self.request else { return };
        let Some(max_body) = context.connection.movable_body_len() else { return };
        let Some(ticket) = self.progress.ticket_mut() else { return };
        if let Some(text) = ticket.withdraw(|request, body| replay::encode(request, body, max_body)) {
            self.progress = RequestProgress::Abandoned;
            // Cannot be set already: the connection serves nothing after this request.
            let _ = context.withdrawn.set(text);
        }
    }

    /// Handles the result of polling a handshake, which a WSGI application may answer on its
    /// socket.
    fn on_upgrade_polled(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<TakeoverOutcome>,
    ) -> Poll<Option<Result<ResponseSource, Refusal>>> {
        match polled {
            Poll::Pending => self.on_polled(cx, Poll::Pending),
            Poll::Ready(TakeoverOutcome::NotUsed(outcome)) => self.on_polled(cx, Poll::Ready(outcome)),
            Poll::Ready(TakeoverOutcome::Answered(response)) => {
                Poll::Ready(Some(Ok(ResponseSource::App(response))))
            }
            Poll::Ready(TakeoverOutcome::Malformed(worker, reason)) => {
                Poll::Ready(Some(Err(Refusal::Takeover(worker, reason))))
            }
            Poll::Ready(TakeoverOutcome::TakenOver(response)) => {
                let progress = std::mem::replace(&mut self.progress, RequestProgress::Abandoned);
                if let (RequestProgress::Submitted(Ok(ticket)), Some(RequestExtra::Handshake(upgrade))) =
                    (progress, self.extra.as_deref_mut())
                {
                    upgrade.takeover.settle(ticket);
                }
                Poll::Ready(Some(Ok(ResponseSource::App(response))))
            }
        }
    }

    /// Abandons a request whose client has shut down its sending half: a handshake at once, another
    /// request if it has not started when the timer expires. A client may half-close and still wait
    /// for its response.
    fn poll_half_close(&mut self, cx: &mut Context<'_>) {
        let (Some(ticket), Some((context, _))) = (self.progress.ticket(), &self.request) else { return };
        if !context.connection.is_half_closed() {
            return;
        }
        let is_handshake = matches!(self.extra.as_deref(),
            Some(RequestExtra::Handshake(upgrade)) if upgrade.handshake.is_some());
        if is_handshake {
            return self.abandon();
        }
        let Some(until) = ticket.half_close() else {
            self.half_close_timer = None;
            return;
        };
        let timer = self.half_close_timer.get_or_insert_with(|| Box::pin(sleep_until(until.into())));
        if timer.as_mut().poll(cx).is_ready() && ticket.revoke() {
            self.abandon();
        }
    }

    /// Takes the file with which the request is answered.
    fn take_file(&mut self) -> Option<ResponseSource> {
        match std::mem::replace(&mut self.progress, RequestProgress::Abandoned) {
            RequestProgress::File(file) => Some(ResponseSource::File(file)),
            _ => None,
        }
    }

    /// Replaces the application's response with a file if the response names one.
    fn poll_sendfile(
        &mut self,
        cx: &mut Context<'_>,
        response: AppResponse,
    ) -> Poll<Option<Result<ResponseSource, Refusal>>> {
        let Some((context, meta)) = &self.request else { return Poll::Ready(None) };
        let Some(files) = &context.server.files else {
            return Poll::Ready(Some(Ok(ResponseSource::App(response))));
        };
        let conditions = match self.extra.as_deref() {
            Some(RequestExtra::Handshake(_)) => return Poll::Ready(Some(Ok(ResponseSource::App(response)))),
            Some(RequestExtra::Conditions(fields)) => Some(fields),
            None => None,
        };
        let Some(roots) = &files.sendfile else {
            return Poll::Ready(Some(Ok(ResponseSource::App(response))));
        };
        match decide_sendfile(roots, &meta.method, conditions, response) {
            SendfileDecision::Unchanged(response) => Poll::Ready(Some(Ok(ResponseSource::App(response)))),
            SendfileDecision::File(file) => Poll::Ready(Some(Ok(ResponseSource::File(file)))),
            SendfileDecision::Refused(refusal) => Poll::Ready(Some(Err(refusal))),
            SendfileDecision::NeedsDisk(request, origin) => {
                let (sending, format) = (Arc::clone(files).send_blocking(request), meta.error_format);
                self.progress = RequestProgress::Receiving(Box::pin(async move {
                    let response = sending.await.map_err(|refusal| LateRefusal { refusal, format })?;
                    Ok(Admitted::File(origin.served(response)))
                }));
                self.poll_outcome(cx)
            }
        }
    }

    /// Ends the connection without a response, as if the client had closed it.
    fn abandon(&mut self) {
        self.progress = RequestProgress::Abandoned;
        if let Some((context, _)) = &self.request {
            context.connection.abandon();
        }
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<ResponseBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        // Without an outcome the future stays pending until it is dropped with its connection or
        // stream.
        let Some(outcome) = ready!(this.poll_outcome(cx)) else { return Poll::Pending };
        let Some((context, meta)) = this.request.take() else {
            unreachable!("a future is not polled again after it was ready")
        };
        // An interim response must not follow the final one.
        drop(context.connection.interim.take());
        let mut response = match outcome {
            Ok(ResponseSource::File(file)) => file_response(context, &meta, *file),
            Ok(ResponseSource::Health(health)) => health_response(context, &meta, health),
            Ok(ResponseSource::App(response)) => {
                match (&mut this.extra, check_content_length(&meta.method, &response)) {
                    (_, Err(refusal)) => error_response(context, &meta, &refusal),
                    (Some(extra), Ok(())) if response.head.status == StatusCode::SWITCHING_PROTOCOLS => {
                        match &mut **extra {
                            RequestExtra::Handshake(upgrade) => {
                                switching_protocols(context, &meta, response, upgrade)
                            }
                            RequestExtra::Conditions(_) => application_response(context, &meta, response),
                        }
                    }
                    (_, Ok(())) => application_response(context, &meta, response),
                }
            }
            Err(refusal) => error_response(context, &meta, &refusal),
        };
        // Replaces an id that the application set, so that the client and the journal have the same
        // id.
        response.headers_mut().insert(X_REQUEST_ID, meta.id.into_value());
        Poll::Ready(Ok(response))
    }
}

impl Drop for ResponseFuture {
    fn drop(&mut self) {
        let Some((context, meta)) = self.request.take() else { return };
        if context.withdrawn.get().is_some() && !context.connection.is_closed() {
            // The next daemon logs the request.
            return;
        }
        let worker = self.progress.ticket().and_then(Ticket::worker);
        context.connection.count_unanswered();
        log_unanswered(&context, &meta, worker);
    }
}
