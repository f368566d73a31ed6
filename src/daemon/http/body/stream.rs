//! Streams a request's body to an ASGI application, reading from the client only as fast as the
//! application receives.
//!
//! ```text
//! client ──ClientBody──▶ BodyPump ──Upload (dispatch)──▶ worker: receive()
//! ```
//! The pump is a task of its own, because an application may send its response while it still
//! receives the request. If the client waits for `100 Continue`, the first read sends it (RFC 9110
//! §10.1.1), so the pump does not read before the application calls `receive`.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http::header::EXPECT;
use rgun_channel::layout::MAX_INLINE_BODY;
use tokio::time::{Sleep, sleep, timeout};

use crate::dispatch::{Dispatcher, Fault, MAX_PART, Upload, UploadFault};
use crate::net::Connection;

use super::client::ClientBody;
use super::rate::{DataRate, MinDataRate};
use crate::http::context::YIELD_AFTER_BYTES;
use crate::http::fault::{Refusal, RequestFault};
use crate::http::h1::framing::Violation;

/// Maximum number of bytes of an unwanted body that are read and dropped to keep the connection
/// usable. If there are more, the connection is closed (RFC 9112 §9.3).
pub(in crate::http) const MAX_DISCARD: usize = 1024 * 1024;

/// Maximum time spent on dropping the rest of a body.
pub(in crate::http) const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// Moves one body from the client to the dispatcher.
pub(in crate::http) struct BodyPump<B> {
    incoming: B,
    /// The client waits for `100 Continue`, which has not been sent yet.
    awaits_continue: bool,
    connection: Arc<Connection>,
    dispatcher: &'static Dispatcher,
    /// The data to send next.
    current: Bytes,
    /// The data after `current`, read ahead to notice a client that closed; `None`: not read yet.
    lookahead: Option<Lookahead>,
    received: u64,
    /// Runs while the application waits for the client.
    rate_timer: Option<Pin<Box<Sleep>>>,
    rate: DataRate,
}

enum Lookahead {
    Piece(Bytes),
    End,
}

/// The pump's next step.
enum PumpStep {
    /// Send at most this many bytes of `current`.
    Send(u64),
    /// The body has ended: tell the application.
    End,
    /// The application does not receive any more: drop the rest.
    Discard,
    Fail(UploadFault),
}

/// Limits of a streamed body.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct StreamLimits {
    /// `limits.body`; `None`: no limit.
    pub(in crate::http) max_body: Option<u64>,
    /// The minimum rate while the application waits.
    pub(in crate::http) min_rate: MinDataRate,
}

/// True if an ASGI application should receive this body streamed: a small one of known length
/// travels in the request's frame, unless the client waits for `100 Continue`.
pub(in crate::http) fn should_stream(incoming: &impl ClientBody, headers: &HeaderMap) -> bool {
    let is_small = incoming.size_hint().exact().is_some_and(|len| len <= MAX_INLINE_BODY as u64);
    !is_small || expects_continue(headers)
}

/// True if the client waits for `100 Continue`.
pub(in crate::http) fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Returns the declared length; `None` if the body is chunked. Fails if the length exceeds
/// `max_body`.
pub(in crate::http) fn declared_len(
    incoming: &impl ClientBody,
    max_body: Option<u64>,
) -> Result<Option<u64>, Refusal> {
    let declared = incoming.size_hint().exact();
    if declared.is_some_and(|len| max_body.is_some_and(|max| len > max)) {
        return Err(Refusal::Client(RequestFault::BodyTooLarge));
    }
    Ok(declared)
}

impl<B: ClientBody> BodyPump<B> {
    pub(in crate::http) fn new(
        incoming: B,
        headers: &HeaderMap,
        connection: Arc<Connection>,
        dispatcher: &'static Dispatcher,
    ) -> Self {
        Self {
            incoming,
            awaits_continue: expects_continue(headers),
            connection,
            dispatcher,
            current: Bytes::new(),
            lookahead: None,
            received: 0,
            rate_timer: None,
            rate: DataRate::default(),
        }
    }

    /// Sends the body to the application as fast as the application calls `receive`. Drops the rest
    /// when the application no longer receives.
    pub(in crate::http) async fn run(mut self, upload: Upload, limits: StreamLimits) {
        let mut bytes_since_yield = 0;
        loop {
            let (part, end) = match poll_fn(|cx| self.poll_step(cx, &upload, limits)).await {
                PumpStep::Send(credit) => {
                    let len =
                        usize::try_from(credit).unwrap_or(MAX_PART).min(MAX_PART).min(self.current.len());
                    (self.current.split_to(len), self.is_exhausted())
                }
                PumpStep::End => (Bytes::new(), true),
                PumpStep::Discard => return self.drain_rest().await,
                PumpStep::Fail(fault) => {
                    self.connection.mark_unread_input();
                    return upload.fail(Fault::Upload(fault));
                }
            };
            if !poll_fn(|cx| upload.poll_send(cx, &part, end)).await {
                return self.drain_rest().await;
            }
            if end {
                return;
            }
            bytes_since_yield += part.len();
            if bytes_since_yield >= YIELD_AFTER_BYTES {
                // A fast client must not keep the reactor from its other tasks and from worker
                // completions.
                bytes_since_yield = 0;
                self.dispatcher.poll_now();
                tokio::task::yield_now().await;
            }
        }
    }

    /// True if `current` is empty and nothing follows it.
    fn is_exhausted(&self) -> bool {
        let is_last = match self.lookahead {
            None => self.incoming.is_end_stream(),
            Some(Lookahead::End) => true,
            Some(Lookahead::Piece(_)) => false,
        };
        self.current.is_empty() && is_last
    }

    /// Polls for the next step.
    fn poll_step(&mut self, cx: &mut Context<'_>, upload: &Upload, limits: StreamLimits) -> Poll<PumpStep> {
        let credit = match upload.poll_room(cx) {
            Poll::Ready(None) => return Poll::Ready(PumpStep::Discard),
            Poll::Ready(Some(credit)) => credit,
            Poll::Pending => 0,
        };
        if credit > 0 {
            self.awaits_continue = false;
        }
        if !self.awaits_continue
            && let Err(fault) = self.read_ahead(cx, limits.max_body)
        {
            return Poll::Ready(PumpStep::Fail(fault));
        }
        if credit == 0 {
            self.stop_timer();
            return Poll::Pending;
        }
        if !self.current.is_empty() {
            return Poll::Ready(PumpStep::Send(credit));
        }
        if self.lookahead.is_some() {
            return Poll::Ready(PumpStep::End);
        }
        let timer = match &mut self.rate_timer {
            Some(timer) => timer,
            unset => {
                let wait = self.rate.begin_wait(limits.min_rate, Instant::now());
                unset.insert(Box::pin(sleep(wait)))
            }
        };
        timer.as_mut().poll(cx).map(|()| PumpStep::Fail(UploadFault::TooSlow))
    }

    /// Stops the wait for the client.
    fn stop_timer(&mut self) {
        if self.rate_timer.take().is_some() {
            self.rate.end_wait(Instant::now());
        }
    }

    /// Fills `current` and `lookahead`. Trailers are dropped: ASGI cannot receive them.
    fn read_ahead(&mut self, cx: &mut Context<'_>, max_body: Option<u64>) -> Result<(), UploadFault> {
        loop {
            if self.current.is_empty()
                && let Some(Lookahead::Piece(piece)) =
                    self.lookahead.take_if(|ahead| matches!(ahead, Lookahead::Piece(_)))
            {
                self.current = piece;
            }
            if self.lookahead.is_some() {
                return Ok(());
            }
            match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(None) => self.lookahead = Some(Lookahead::End),
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(error = %crate::error_chain::Chain(&error), "a request's body ended early");
                    return Err(match B::violation_of(&error) {
                        Some(Violation::Chunk(reason)) => UploadFault::Malformed(reason),
                        _ => UploadFault::Truncated,
                    });
                }
                Poll::Ready(Some(Ok(frame))) => {
                    self.stop_timer();
                    let Ok(data) = frame.into_data() else { continue };
                    self.rate.add(data.len());
                    self.received += data.len() as u64;
                    if max_body.is_some_and(|max| self.received > max) {
                        return Err(UploadFault::TooLarge);
                    }
                    if !data.is_empty() {
                        self.lookahead = Some(Lookahead::Piece(data));
                    }
                }
            }
        }
    }

    /// Reads and drops the rest of the body, or marks the connection to be closed.
    pub(in crate::http) async fn drain_rest(mut self) {
        // A client that waits for `100 Continue` has sent no body yet, and reading it would send
        // the 100.
        let is_complete = matches!(self.lookahead, Some(Lookahead::End))
            || !self.awaits_continue
                && timeout(DISCARD_TIMEOUT, read_to_end(&mut self.incoming)).await.unwrap_or(false);
        if !is_complete {
            self.connection.mark_unread_input();
        }
    }
}

/// Reads and drops a body. Returns true if the body ended within [`MAX_DISCARD`] bytes.
async fn read_to_end(incoming: &mut impl ClientBody) -> bool {
    let mut dropped = 0;
    while dropped <= MAX_DISCARD {
        match poll_fn(|cx| Pin::new(&mut *incoming).poll_frame(cx)).await {
            None => return true,
            Some(Err(_)) => return false,
            Some(Ok(frame)) => dropped += frame.into_data().map_or(0, |data| data.len()),
        }
    }
    false
}
