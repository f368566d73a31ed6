//! A request's body for an ASGI application, which takes it in parts: read from the client only as far as that.
//!
//! ```text
//! hyper ──Incoming──▶ bring ──Upload (dispatch)──▶ worker: receive()
//!                      ▲ reads no further than the application takes
//! ```
//! It is a task of its own, because an application may answer while it still reads, and read on after the head of its
//! answer. The `100 Continue` that a client may wait for (RFC 9110 §10.1.1) is sent by hyper when the first piece is
//! asked for: when the application asks for it.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http::header::EXPECT;
use http_body::Body as _;
use hyper::body::Incoming;
use rgun_channel::layout::MAX_INLINE_BODY;
use tokio::time::{Sleep, sleep, timeout};

use crate::dispatch::{Dispatcher, Fault, MAX_PART, Upload, UploadFault};
use crate::net::Connection;

use super::rate::{DataRate, MinDataRate};
use crate::http::context::YIELD_AFTER_BYTES;
use crate::http::fault::{Refusal, RequestFault};
use crate::http::h1;
use crate::http::h1::framing::Violation;

/// What is left of a body that nobody wants is read and dropped up to here, so that the connection can go on. Of more,
/// or what does not come at once, the end of the connection is the end (RFC 9112 §9.3).
const MAX_DISCARD: usize = 1024 * 1024;
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// A body on its way.
pub(in crate::http) struct BodyPump {
    incoming: Incoming,
    /// The client waits to be asked for it, and has not been.
    awaits_continue: bool,
    connection: Arc<Connection>,
    dispatcher: &'static Dispatcher,
    /// What is given next.
    current: Bytes,
    /// What comes after that. It is read ahead of time to see whether the client is still there.
    lookahead: Option<Lookahead>,
    received: u64,
    /// Since the application waits for the client.
    rate_timer: Option<Pin<Box<Sleep>>>,
    rate: DataRate,
}

enum Lookahead {
    Piece(Bytes),
    End,
}

/// What is to be done next.
enum PumpStep {
    /// So much of what is in hand can be given.
    Send(u64),
    /// The application waits, and nothing comes any more.
    End,
    /// The application wants no more.
    Discard,
    Fail(UploadFault),
}

/// What bounds it.
#[derive(Debug, Clone, Copy)]
pub(in crate::http) struct StreamLimits {
    /// `limits.body`.
    pub(in crate::http) max_body: Option<u64>,
    /// How fast it has to come, while the application waits for it.
    pub(in crate::http) min_rate: MinDataRate,
}

/// Is this body better given in parts? A small one of known length travels in the frame, unless the client waits to be
/// asked for it.
pub(in crate::http) fn should_stream(incoming: &Incoming, headers: &HeaderMap) -> bool {
    let is_small = incoming.size_hint().exact().is_some_and(|len| len <= MAX_INLINE_BODY as u64);
    !is_small || expects_continue(headers)
}

/// Does the client wait for a `100 Continue`?
fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Its length, if it is known and allowed.
pub(in crate::http) fn declared_len(incoming: &Incoming, most: Option<u64>) -> Result<Option<u64>, Refusal> {
    let announced = incoming.size_hint().exact();
    if announced.is_some_and(|len| most.is_some_and(|most| len > most)) {
        return Err(Refusal::Client(RequestFault::BodyTooLarge));
    }
    Ok(announced)
}

impl BodyPump {
    pub(in crate::http) fn new(
        incoming: Incoming,
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

    /// Brings the body to the application as far as it takes it, and what it does not take out of the way.
    pub(in crate::http) async fn run(mut self, upload: Upload, bounds: StreamLimits) {
        let mut given = 0;
        loop {
            let (part, end) = match poll_fn(|cx| self.poll_step(cx, &upload, bounds)).await {
                PumpStep::Send(room) => {
                    let len = usize::try_from(room).unwrap_or(MAX_PART).min(MAX_PART).min(self.current.len());
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
            given += part.len();
            if given >= YIELD_AFTER_BYTES {
                // A client as fast as this one would keep the reactor for megabytes, and its turn from ending.
                given = 0;
                self.dispatcher.poll_now();
                tokio::task::yield_now().await;
            }
        }
    }

    /// Does nothing come after what has been taken out of the hand?
    fn is_exhausted(&self) -> bool {
        let is_last = match self.lookahead {
            None => self.incoming.is_end_stream(),
            Some(Lookahead::End) => true,
            Some(Lookahead::Piece(_)) => false,
        };
        self.current.is_empty() && is_last
    }

    fn poll_step(&mut self, cx: &mut Context<'_>, upload: &Upload, bounds: StreamLimits) -> Poll<PumpStep> {
        let room = match upload.poll_room(cx) {
            Poll::Ready(None) => return Poll::Ready(PumpStep::Discard),
            Poll::Ready(Some(room)) => room,
            Poll::Pending => 0,
        };
        if room > 0 {
            self.awaits_continue = false;
        }
        if !self.awaits_continue
            && let Err(fault) = self.read_ahead(cx, bounds.max_body)
        {
            return Poll::Ready(PumpStep::Fail(fault));
        }
        if room == 0 {
            self.stop_timer();
            return Poll::Pending;
        }
        if !self.current.is_empty() {
            return Poll::Ready(PumpStep::Send(room));
        }
        if self.lookahead.is_some() {
            return Poll::Ready(PumpStep::End);
        }
        let clock = match &mut self.rate_timer {
            Some(clock) => clock,
            none => {
                let patience = self.rate.begin_wait(bounds.min_rate, Instant::now());
                none.insert(Box::pin(sleep(patience)))
            }
        };
        clock.as_mut().poll(cx).map(|()| PumpStep::Fail(UploadFault::TooSlow))
    }

    /// Nobody waits for the client any more.
    fn stop_timer(&mut self) {
        if self.rate_timer.take().is_some() {
            self.rate.end_wait(Instant::now());
        }
    }

    /// Fills what is empty of hand and ahead. Trailers are read and dropped: ASGI has no place for them.
    fn read_ahead(&mut self, cx: &mut Context<'_>, most: Option<u64>) -> Result<(), UploadFault> {
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
                    tracing::debug!(error = %crate::error_chain::Chain(&error), "a request's body broke off");
                    return Err(match h1::violation_of(&error) {
                        Some(Violation::Chunk(reason)) => UploadFault::Malformed(reason),
                        _ => UploadFault::Truncated,
                    });
                }
                Poll::Ready(Some(Ok(frame))) => {
                    self.stop_timer();
                    let Ok(data) = frame.into_data() else { continue };
                    self.rate.add(data.len());
                    self.received += data.len() as u64;
                    if most.is_some_and(|most| self.received > most) {
                        return Err(UploadFault::TooLarge);
                    }
                    if !data.is_empty() {
                        self.lookahead = Some(Lookahead::Piece(data));
                    }
                }
            }
        }
    }

    /// Reads and drops what is left of a body that nobody wants, or gives the connection up.
    pub(in crate::http) async fn drain_rest(mut self) {
        // Who waits to be asked for it has sent nothing of it, and must not be asked now.
        let is_gone = matches!(self.lookahead, Some(Lookahead::End))
            || !self.awaits_continue
                && timeout(DISCARD_TIMEOUT, read_to_end(&mut self.incoming)).await.unwrap_or(false);
        if !is_gone {
            self.connection.mark_unread_input();
        }
    }
}

/// True when it has come to its end.
async fn read_to_end(incoming: &mut Incoming) -> bool {
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
