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
use rgun_channel::layout::INLINE_BODY;
use tokio::time::{Sleep, sleep, timeout};

use crate::dispatch::{Dispatcher, Fault, PART, Upload, UploadFault};
use crate::net::Connection;

use super::context::TURN;
use super::fault::{Refusal, RequestFault};
use super::framing::Violation;
use super::pace::{MinPace, Pace};
use super::wire;

/// What is left of a body that nobody wants is read and dropped up to here, so that the connection can go on. Of more,
/// or what does not come at once, the end of the connection is the end (RFC 9112 §9.3).
const DREGS: usize = 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(1);

/// A body on its way.
pub(super) struct Bringer {
    incoming: Incoming,
    /// The client waits to be asked for it, and has not been.
    is_awaited: bool,
    connection: Arc<Connection>,
    dispatcher: &'static Dispatcher,
    /// What is given next.
    hand: Bytes,
    /// What comes after that. It is read ahead of time to see whether the client is still there.
    ahead: Option<Ahead>,
    received: u64,
    /// Since the application waits for the client.
    clock: Option<Pin<Box<Sleep>>>,
    pace: Pace,
}

enum Ahead {
    Piece(Bytes),
    End,
}

/// What is to be done next.
enum Step {
    /// So much of what is in hand can be given.
    Give(u64),
    /// The application waits, and nothing comes any more.
    End,
    /// The application wants no more.
    Unwanted,
    Fail(UploadFault),
}

/// What bounds it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// `limits.body`.
    pub(super) most: Option<u64>,
    /// How fast it has to come, while the application waits for it.
    pub(super) pace: MinPace,
}

/// Is this body better given in parts? A small one of known length travels in the frame, unless the client waits to be
/// asked for it.
pub(super) fn comes_in_parts(incoming: &Incoming, headers: &HeaderMap) -> bool {
    let is_small = incoming.size_hint().exact().is_some_and(|len| len <= INLINE_BODY as u64);
    !is_small || expects(headers)
}

/// Does the client wait for a `100 Continue`?
fn expects(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Its length, if it is known and allowed.
pub(super) fn announced(incoming: &Incoming, most: Option<u64>) -> Result<Option<u64>, Refusal> {
    let announced = incoming.size_hint().exact();
    if announced.is_some_and(|len| most.is_some_and(|most| len > most)) {
        return Err(Refusal::Client(RequestFault::BodyTooLarge));
    }
    Ok(announced)
}

impl Bringer {
    pub(super) fn new(
        incoming: Incoming,
        headers: &HeaderMap,
        connection: Arc<Connection>,
        dispatcher: &'static Dispatcher,
    ) -> Self {
        Self {
            incoming,
            is_awaited: expects(headers),
            connection,
            dispatcher,
            hand: Bytes::new(),
            ahead: None,
            received: 0,
            clock: None,
            pace: Pace::default(),
        }
    }

    /// Brings the body to the application as far as it takes it, and what it does not take out of the way.
    pub(super) async fn bring(mut self, upload: Upload, bounds: Bounds) {
        let mut given = 0;
        loop {
            let (part, end) = match poll_fn(|cx| self.poll_step(cx, &upload, bounds)).await {
                Step::Give(room) => {
                    let len = usize::try_from(room).unwrap_or(PART).min(PART).min(self.hand.len());
                    (self.hand.split_to(len), self.is_given())
                }
                Step::End => (Bytes::new(), true),
                Step::Unwanted => return self.clear_away().await,
                Step::Fail(fault) => {
                    self.connection.mark_unread_input();
                    return upload.fail(Fault::Upload(fault));
                }
            };
            if !poll_fn(|cx| upload.poll_send(cx, &part, end)).await {
                return self.clear_away().await;
            }
            if end {
                return;
            }
            given += part.len();
            if given >= TURN {
                // A client as fast as this one would keep the reactor for megabytes, and its turn from ending.
                given = 0;
                self.dispatcher.look();
                tokio::task::yield_now().await;
            }
        }
    }

    /// Does nothing come after what has been taken out of the hand?
    fn is_given(&self) -> bool {
        let is_last = match self.ahead {
            None => self.incoming.is_end_stream(),
            Some(Ahead::End) => true,
            Some(Ahead::Piece(_)) => false,
        };
        self.hand.is_empty() && is_last
    }

    fn poll_step(&mut self, cx: &mut Context<'_>, upload: &Upload, bounds: Bounds) -> Poll<Step> {
        let room = match upload.poll_room(cx) {
            Poll::Ready(None) => return Poll::Ready(Step::Unwanted),
            Poll::Ready(Some(room)) => room,
            Poll::Pending => 0,
        };
        if room > 0 {
            self.is_awaited = false;
        }
        if !self.is_awaited
            && let Err(fault) = self.read_ahead(cx, bounds.most)
        {
            return Poll::Ready(Step::Fail(fault));
        }
        if room == 0 {
            self.stop_clock();
            return Poll::Pending;
        }
        if !self.hand.is_empty() {
            return Poll::Ready(Step::Give(room));
        }
        if self.ahead.is_some() {
            return Poll::Ready(Step::End);
        }
        let clock = match &mut self.clock {
            Some(clock) => clock,
            none => {
                let patience = self.pace.begin_wait(bounds.pace, Instant::now());
                none.insert(Box::pin(sleep(patience)))
            }
        };
        clock.as_mut().poll(cx).map(|()| Step::Fail(UploadFault::TooSlow))
    }

    /// Nobody waits for the client any more.
    fn stop_clock(&mut self) {
        if self.clock.take().is_some() {
            self.pace.end_wait(Instant::now());
        }
    }

    /// Fills what is empty of hand and ahead. Trailers are read and dropped: ASGI has no place for them.
    fn read_ahead(&mut self, cx: &mut Context<'_>, most: Option<u64>) -> Result<(), UploadFault> {
        loop {
            if self.hand.is_empty()
                && let Some(Ahead::Piece(piece)) =
                    self.ahead.take_if(|ahead| matches!(ahead, Ahead::Piece(_)))
            {
                self.hand = piece;
            }
            if self.ahead.is_some() {
                return Ok(());
            }
            match Pin::new(&mut self.incoming).poll_frame(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(None) => self.ahead = Some(Ahead::End),
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(error = %crate::error_chain::Chain(&error), "a request's body broke off");
                    return Err(match wire::violation_of(&error) {
                        Some(Violation::Chunk(reason)) => UploadFault::Malformed(reason),
                        _ => UploadFault::Broken,
                    });
                }
                Poll::Ready(Some(Ok(frame))) => {
                    self.stop_clock();
                    let Ok(data) = frame.into_data() else { continue };
                    self.pace.count(data.len());
                    self.received += data.len() as u64;
                    if most.is_some_and(|most| self.received > most) {
                        return Err(UploadFault::TooLarge);
                    }
                    if !data.is_empty() {
                        self.ahead = Some(Ahead::Piece(data));
                    }
                }
            }
        }
    }

    /// Reads and drops what is left of a body that nobody wants, or gives the connection up.
    pub(super) async fn clear_away(mut self) {
        // Who waits to be asked for it has sent nothing of it, and must not be asked now.
        let is_gone = matches!(self.ahead, Some(Ahead::End))
            || !self.is_awaited && timeout(PATIENCE, drop_rest(&mut self.incoming)).await.unwrap_or(false);
        if !is_gone {
            self.connection.mark_unread_input();
        }
    }
}

/// True when it has come to its end.
async fn drop_rest(incoming: &mut Incoming) -> bool {
    let mut dropped = 0;
    while dropped <= DREGS {
        match poll_fn(|cx| Pin::new(&mut *incoming).poll_frame(cx)).await {
            None => return true,
            Some(Err(_)) => return false,
            Some(Ok(frame)) => dropped += frame.into_data().map_or(0, |data| data.len()),
        }
    }
    false
}
