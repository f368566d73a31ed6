//! What a connection holds of an exchange: first the [`Ticket`] for its head, then perhaps a [`BodyStream`].
//!
//! Dropping either abandons the exchange: a request that has not started never will, and what the worker
//! still says about it is discarded.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::HeaderMap;
use rgun_channel::frame::ExchangeId;

use crate::id::WorkerId;

use crate::dispatch::Dispatcher;
use crate::dispatch::data::Data;
use crate::dispatch::exchange::ExchangeState;
use crate::dispatch::exchange::response_parts::{FilePart, Piece, Progress, ResponseHead, ResponseStart};
use crate::dispatch::fault::Fault;
use crate::dispatch::handles::upload::Upload;

/// The application's answer: its head, and its body or where it will come from.
#[derive(Debug)]
pub struct AppResponse {
    /// Status and fields.
    pub head: ResponseHead,
    /// The body, if it is there already and one piece.
    pub body: Option<Data>,
    /// A file that is the body.
    pub file: Option<FilePart>,
    /// The rest of the body, when there is more to come.
    pub stream: Option<BodyStream>,
    /// Who answered.
    pub worker: Option<WorkerId>,
    /// How long the request waited before it was given to a worker.
    pub waited: Duration,
}

/// The right to an exchange's answer.
#[derive(Debug)]
pub struct Ticket {
    dispatcher: &'static Dispatcher,
    id: ExchangeId,
    is_settled: bool,
    /// Early hints that have come since they were last asked for.
    hints: Option<Box<HeaderMap>>,
}

/// The rest of a response body.
#[derive(Debug)]
pub struct BodyStream {
    pub(crate) dispatcher: &'static Dispatcher,
    pub(crate) id: ExchangeId,
    pub(crate) settled: bool,
    /// Bytes of it, if all of it was there when its head was taken.
    body_len: Option<u64>,
}

impl Ticket {
    pub(crate) fn new(dispatcher: &'static Dispatcher, id: ExchangeId) -> Self {
        Self { dispatcher, id, is_settled: false, hints: None }
    }

    /// The fields of early hints (RFC 8297) that the last poll has found while the head was still to come.
    pub fn take_hints(&mut self) -> Option<Box<HeaderMap>> {
        self.hints.take()
    }

    /// For whoever brings the body, if the request said that it comes in parts.
    pub fn upload(&self) -> Upload {
        Upload::new(self.dispatcher, self.id)
    }

    /// The client has closed its sending half. Until when the request may start, if it has not: then it is to be
    /// [taken back](Ticket::revoke).
    pub fn half_close(&self) -> Option<Instant> {
        self.dispatcher.half_close(self.id)
    }

    /// Takes the request back if it has not started, so that it never will; false if it has. If it is true, the ticket
    /// is to be dropped.
    pub fn revoke(&self) -> bool {
        self.dispatcher.revoke(self.id)
    }

    /// Who has the request, or had it to its end.
    pub fn worker(&self) -> Option<WorkerId> {
        let state = self.dispatcher.lock();
        let exchange = state.exchanges.get(self.id)?;
        match exchange.state {
            ExchangeState::Assigned { .. } | ExchangeState::Finished => exchange.worker,
            // One that had it and did not start it has nothing to do with it.
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
        let worker = exchange.worker;
        let (received, given) = (exchange.submitted_at, exchange.assigned_at);
        let progress = exchange.poll_head(cx.waker());
        let hints = if matches!(progress, Progress::Pending) { exchange.take_hints() } else { None };
        if matches!(progress, Progress::Failed(_)) {
            state.release(self.id);
        }
        state.exchanges.remove_if_finished(self.id);
        drop(state);
        match progress {
            Progress::Pending => {
                self.hints = hints;
                Poll::Pending
            }
            Progress::Failed(fault) => {
                self.is_settled = true;
                Poll::Ready(Err(fault))
            }
            Progress::Ready(ResponseStart {
                head,
                body: first,
                file,
                is_complete: complete,
                body_len: total,
            }) => {
                self.is_settled = true;
                let stream = (!complete).then(|| BodyStream {
                    dispatcher: self.dispatcher,
                    id: self.id,
                    settled: false,
                    body_len: total,
                });
                let queued = given.map_or(Duration::ZERO, |given| given - received);
                Poll::Ready(Ok(AppResponse { head, body: first, file, stream, worker, waited: queued }))
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if !self.is_settled {
            self.dispatcher.abandon(self.id);
        }
    }
}

/// A piece of a streamed body.
#[derive(Debug)]
pub enum BodyPiece {
    /// Bytes to send.
    Bytes(Data),
    /// Bytes to send that were kept in a file meanwhile; others may follow.
    Spilled(FilePart),
    /// A file to send.
    File(FilePart),
    /// The fields that follow; nothing comes after them.
    Trailers(Box<HeaderMap>),
}

impl BodyStream {
    /// Where it comes from.
    pub fn dispatcher(&self) -> &'static Dispatcher {
        self.dispatcher
    }

    /// The client has closed its sending half: an ASGI application is told so.
    pub fn half_close(&self) {
        if !self.settled {
            self.dispatcher.half_close(self.id);
        }
    }

    /// Bytes of the whole body, if that is known.
    pub fn body_len(&self) -> Option<u64> {
        self.body_len
    }

    /// Is there nothing left of it?
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// The next piece; `None` when the body is complete, an error when it never will be.
    ///
    /// # Errors
    /// The fault that ended the exchange; the connection must be reset, so that the client does not take
    /// the body for complete.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<BodyPiece, Fault>>> {
        if self.settled {
            return Poll::Ready(None);
        }
        let mut state = self.dispatcher.lock();
        let state = &mut *state;
        let Some(exchange) = state.exchanges.get_mut(self.id) else {
            unreachable!("an exchange stays until its stream is settled")
        };
        let progress = exchange.poll_piece(cx.waker());
        let outcome = match progress {
            Progress::Pending => return Poll::Pending,
            Progress::Failed(fault) => {
                self.settled = true;
                Some(Err(fault))
            }
            Progress::Ready((Piece::End, _)) => {
                self.settled = true;
                None
            }
            Progress::Ready((Piece::Trailers(trailers), _)) => Some(Ok(BodyPiece::Trailers(trailers))),
            Progress::Ready((Piece::File(file), _)) => Some(Ok(BodyPiece::File(file))),
            Progress::Ready((Piece::Spilled(file), _)) => Some(Ok(BodyPiece::Spilled(file))),
            Progress::Ready((Piece::Bytes(data), ack)) => {
                if let Some(leaving) = ack
                    && let Some(worker) = state.workers.get_mut(leaving.worker).and_then(Option::as_mut)
                {
                    worker.acknowledge(leaving.slot, leaving.bytes);
                    if exchange.held_since.is_some() && !exchange.waits_for_credit() {
                        exchange.end_hold(worker, Instant::now());
                    }
                }
                self.settled = exchange.mark_done_if_taken();
                Some(Ok(BodyPiece::Bytes(data)))
            }
        };
        state.exchanges.remove_if_finished(self.id);
        Poll::Ready(outcome)
    }
}

impl Drop for BodyStream {
    fn drop(&mut self) {
        if !self.settled {
            self.dispatcher.abandon(self.id);
        }
    }
}

impl Dispatcher {
    fn abandon(&self, id: ExchangeId) {
        let mut state = self.lock();
        let state = &mut *state;
        let now = Instant::now();
        if let Some(freed) = state.abandon(id, now) {
            self.refill(state, freed, now);
        }
        // Somebody may have waited for its permit, or behind it for less than it needed.
        if !state.queue.is_empty() {
            self.refill_all(state, now);
        }
    }
}
