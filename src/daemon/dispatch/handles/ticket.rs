//! A connection's handle to an exchange: first a [`Ticket`] for the response's head, then perhaps a
//! [`BodyStream`].
//!
//! Dropping either handle before its end abandons the exchange: a request that has not started
//! never starts, and the rest of a response is discarded.

use std::future::Future;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::HeaderMap;
use rgun_channel::frame::{ExchangeId, Request};

use crate::id::WorkerId;
use crate::negotiation::ErrorFormat;

use crate::dispatch::Dispatcher;
use crate::dispatch::data::Data;
use crate::dispatch::exchange::ExchangeState;
use crate::dispatch::exchange::response_parts::{
    BodyPiece, FilePart, RequestBody, ResponseHead, ResponseStart,
};
use crate::dispatch::fault::Fault;
use crate::dispatch::handles::upload::Upload;

/// The application's response: its head, and its body or the stream of it.
#[derive(Debug)]
pub struct AppResponse {
    /// Status and fields.
    pub head: Box<ResponseHead>,
    /// The body, or the stream of it.
    pub body: AppBody,
    /// The worker that answered.
    pub worker: Option<WorkerId>,
    /// Time from the request's submission to its assignment to that worker.
    pub waited: Duration,
}

/// The body of an [`AppResponse`].
#[derive(Debug)]
pub enum AppBody {
    /// No bytes.
    Empty,
    /// All of it, in one piece.
    Bytes(Data),
    /// A file, or a part of it.
    File(Box<FilePart>),
    /// A stream, because the body is not complete or has several pieces.
    Stream(BodyStream),
}

#[cfg(test)]
impl AppBody {
    /// Returns the stream; `None` for a body that is complete.
    pub(in crate::dispatch) fn into_stream(self) -> Option<BodyStream> {
        match self {
            Self::Stream(stream) => Some(stream),
            Self::Empty | Self::Bytes(_) | Self::File(_) => None,
        }
    }
}

/// A future of an exchange's response.
#[derive(Debug)]
pub struct Ticket {
    pub(super) dispatcher: &'static Dispatcher,
    pub(super) id: ExchangeId,
    /// The exchange needs nothing more from this handle, so dropping it does not notify the
    /// dispatcher.
    pub(super) is_settled: bool,
    /// The format of an error response to this request. Read from the request's frame only when the
    /// fault is set, because most requests have no fault.
    error_format: ErrorFormat,
    /// Early hints that the last poll found.
    hints: Option<Box<HeaderMap>>,
    /// The socket of a takeover that the last poll found. Kept here, because the exchange is removed
    /// once the ticket has resolved to a complete response.
    socket: Option<UnixStream>,
}

/// A response body that is delivered in pieces.
#[derive(Debug)]
pub struct BodyStream {
    pub(super) dispatcher: &'static Dispatcher,
    pub(super) id: ExchangeId,
    /// The exchange needs nothing more from this handle, so dropping it does not notify the
    /// dispatcher.
    pub(super) is_settled: bool,
    /// Length of the body in bytes, if it was complete when its head was taken.
    body_len: Option<u64>,
}

impl Ticket {
    pub(crate) fn new(dispatcher: &'static Dispatcher, id: ExchangeId) -> Self {
        let error_format = ErrorFormat::Text;
        Self { dispatcher, id, is_settled: false, error_format, hints: None, socket: None }
    }

    /// Returns the early hints (RFC 8297) that the last poll found instead of the head.
    pub fn take_hints(&mut self) -> Option<Box<HeaderMap>> {
        self.hints.take()
    }

    /// Returns the daemon's end of the socket pair on which a WSGI application may answer a
    /// WebSocket handshake, if the last poll found a new one. A pending poll is woken when a pair is
    /// created: at the assignment, and again if the request is moved to another worker, which has
    /// the other end of the new pair only.
    pub fn take_socket(&mut self) -> Option<UnixStream> {
        self.socket.take()
    }

    /// Returns the format of an error response, once the ticket has resolved to a fault.
    pub fn error_format(&self) -> ErrorFormat {
        self.error_format
    }

    /// Returns the sending end of the request's body, which accepts bytes only if the body travels
    /// in parts.
    pub fn upload(&self) -> Upload {
        Upload::new(self.dispatcher, self.id)
    }

    /// Notes that the client has closed its sending half. If the request has not started, returns
    /// the time at which the caller shall [revoke](Ticket::revoke) it.
    pub fn half_close(&self) -> Option<Instant> {
        self.dispatcher.half_close(self.id)
    }

    /// Revokes and ends the request; the ticket must not be polled after that. Returns false if the
    /// request has started.
    pub fn revoke(&self) -> bool {
        self.dispatcher.revoke(self.id)
    }

    /// Takes back a request that has not started. `copy` gets the request and its body, if that is
    /// not in the request, and returns what the caller needs of them, or `None` to leave the request.
    /// The ticket must not be polled after a request was taken back.
    pub fn withdraw<T>(
        &mut self,
        copy: impl FnOnce(&Request<'_>, Option<&RequestBody>) -> Option<T>,
    ) -> Option<T> {
        let copied = self.dispatcher.withdraw(self.id, copy)?;
        self.is_settled = true;
        Some(copied)
    }

    /// Returns the time from the request's submission to its assignment to a worker; zero before
    /// that.
    pub fn waited(&self) -> Duration {
        let state = self.dispatcher.lock();
        let exchange = state.exchanges.get(self.id);
        let assigned =
            exchange.and_then(|exchange| Some((exchange.attempt.assigned_at?, exchange.submitted_at)));
        assigned.map_or(Duration::ZERO, |(assigned_at, submitted_at)| assigned_at - submitted_at)
    }

    /// Returns the worker that has the request or has finished it.
    pub fn worker(&self) -> Option<WorkerId> {
        let state = self.dispatcher.lock();
        let exchange = state.exchanges.get(self.id)?;
        match exchange.state {
            ExchangeState::Assigned { .. } | ExchangeState::Finished => exchange.attempt.worker,
            // A worker from which the request was revoked did not serve it.
            ExchangeState::Queued | ExchangeState::Held(_) => None,
        }
    }
}

impl Future for Ticket {
    type Output = Result<AppResponse, Fault>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.dispatcher.lock();
        let Some(exchange) = state.exchanges.get_mut(self.id) else {
            unreachable!("an exchange stays until its ticket is settled")
        };
        let worker = exchange.attempt.worker;
        let (submitted_at, assigned_at) = (exchange.submitted_at, exchange.attempt.assigned_at);
        let poll = exchange.poll_head(cx.waker());
        let hints = if poll.is_pending() { exchange.take_hints() } else { None };
        let socket = exchange.take_socket();
        if matches!(poll, Poll::Ready(Err(_))) {
            self.error_format = exchange.error_format();
            state.release(self.id);
        }
        state.exchanges.remove_if_finished(self.id);
        drop(state);
        if socket.is_some() {
            self.socket = socket;
        }
        let Poll::Ready(outcome) = poll else {
            self.hints = hints;
            return Poll::Pending;
        };
        self.is_settled = true;
        let ResponseStart { head, body, file, is_complete, body_len } = outcome?;
        let body = match (body, file) {
            _ if !is_complete => {
                let (dispatcher, id) = (self.dispatcher, self.id);
                AppBody::Stream(BodyStream { dispatcher, id, is_settled: false, body_len })
            }
            (_, Some(file)) => AppBody::File(file),
            (Some(data), None) => AppBody::Bytes(data),
            (None, None) => AppBody::Empty,
        };
        // Most requests do not wait.
        let waited = assigned_at.filter(|assigned_at| *assigned_at != submitted_at);
        let waited = waited.map_or(Duration::ZERO, |assigned_at| assigned_at - submitted_at);
        Poll::Ready(Ok(AppResponse { head, body, worker, waited }))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_settled {
            self.dispatcher.abandon(self.id);
        }
    }
}

impl BodyStream {
    /// Returns the exchange's dispatcher.
    pub fn dispatcher(&self) -> &'static Dispatcher {
        self.dispatcher
    }

    /// Notes that the client has closed its sending half, for an ASGI application.
    pub fn half_close(&self) {
        if !self.is_settled {
            self.dispatcher.half_close(self.id);
        }
    }

    /// Returns the length of the whole body in bytes, if it is known.
    pub fn body_len(&self) -> Option<u64> {
        self.body_len
    }

    /// Returns whether nothing is left of the body.
    pub fn is_settled(&self) -> bool {
        self.is_settled
    }

    /// Returns the next piece; `None` when the body is complete.
    ///
    /// # Errors
    /// The fault that ended the exchange. The caller must reset the connection, so that the client
    /// does not take the body for complete.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BodyPiece, Fault>>> {
        if self.is_settled {
            return Poll::Ready(None);
        }
        let mut state = self.dispatcher.lock();
        let state = &mut *state;
        let Some(exchange) = state.exchanges.get_mut(self.id) else {
            unreachable!("an exchange stays until its stream is settled")
        };
        let outcome = match exchange.poll_piece(cx.waker()) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(fault)) => {
                self.is_settled = true;
                Some(Err(fault))
            }
            Poll::Ready(Ok(None)) => {
                self.is_settled = true;
                None
            }
            Poll::Ready(Ok(Some((piece, credit)))) => {
                if let Some(credit) = credit
                    && let Some(worker) = state.workers.get_mut(credit.worker).and_then(Option::as_mut)
                {
                    if exchange.waits_for_credit() {
                        // The worker is woken when half of the window is free: woken for each piece,
                        // the worker would send one and wait again.
                        worker.channel.add_credit(credit.slot, credit.bytes);
                    } else {
                        worker.channel.acknowledge(credit.slot, credit.bytes);
                    }
                    if exchange.client_wait.since.is_some() && !exchange.waits_for_credit() {
                        exchange.end_client_wait(worker, Instant::now());
                    }
                }
                if matches!(piece, BodyPiece::Bytes(_)) {
                    self.is_settled = exchange.mark_done_if_taken();
                }
                Some(Ok(piece))
            }
        };
        state.exchanges.remove_if_finished(self.id);
        Poll::Ready(outcome)
    }
}

impl Drop for BodyStream {
    fn drop(&mut self) {
        if !self.is_settled {
            self.dispatcher.abandon(self.id);
        }
    }
}

impl Dispatcher {
    /// Ends an exchange whose client is gone, and assigns queued requests to the slot that becomes
    /// free.
    pub(super) fn abandon(&self, id: ExchangeId) {
        let mut state = self.lock();
        let state = &mut *state;
        let now = Instant::now();
        let freed = state.abandon(id, now);
        self.refill_freed(state, freed, now);
    }
}
