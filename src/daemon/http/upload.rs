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
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::EXPECT;
use http::{HeaderMap, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use rgun_channel::layout::INLINE_BODY;
use tokio::time::{sleep, timeout};

use crate::dispatch::{Dispatcher, Fault, PART, Upload, UploadFault};
use crate::net::Connection;

use super::TURN;
use super::fault::Refusal;

/// What is left of a body that nobody wants is read and dropped up to here, so that the connection can go on. Of more,
/// or what does not come at once, the end of the connection is the end (RFC 9112 §9.3).
const DREGS: usize = 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(1);

/// A body on its way.
pub(super) struct Bringer {
    pub(super) incoming: Incoming,
    /// The client waits to be asked for it.
    pub(super) expects: bool,
    pub(super) connection: Arc<Connection>,
    pub(super) dispatcher: Arc<Dispatcher>,
}

/// What bounds it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// `limits.body`.
    pub(super) most: Option<u64>,
    /// `timeouts.body`: the longest pause between two pieces.
    pub(super) pause: Duration,
}

/// Is this body better given in parts? A small one of known length travels in the frame, unless the client waits to be
/// asked for it.
pub(super) fn comes_in_parts(incoming: &Incoming, headers: &HeaderMap) -> bool {
    let is_small = incoming.size_hint().exact().is_some_and(|len| len <= INLINE_BODY as u64);
    !is_small || expects(headers)
}

/// Does the client wait for a `100 Continue`?
pub(super) fn expects(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Its length, if it is known and allowed.
pub(super) fn announced(incoming: &Incoming, most: Option<u64>) -> Result<Option<u64>, Refusal> {
    let announced = incoming.size_hint().exact();
    if announced.is_some_and(|len| most.is_some_and(|most| len > most)) {
        return Err(Refusal::Client(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the request's body is larger than limits.body",
        ));
    }
    Ok(announced)
}

/// What comes next of a body.
enum Next {
    Piece(Bytes),
    End,
    /// The application wants no more.
    Unwanted,
    Broken(UploadFault),
}

impl Bringer {
    /// Brings the body to the application as far as it takes it, and what it does not take out of the way.
    pub(super) async fn bring(mut self, upload: Upload, bounds: Bounds) {
        let mut has_begun = false;
        let mut received = 0_u64;
        let mut given = 0;
        let mut piece = Bytes::new();
        while let Some(room) = poll_fn(|cx| upload.poll_room(cx)).await {
            if piece.is_empty() {
                has_begun = true;
                piece = match self.next(&upload, bounds.pause).await {
                    Next::Piece(piece) => piece,
                    Next::End => Bytes::new(),
                    Next::Unwanted => break,
                    Next::Broken(fault) => return upload.fail(Fault::Upload(fault)),
                };
                received += piece.len() as u64;
                if bounds.most.is_some_and(|most| received > most) {
                    self.connection.leaves_unread();
                    return upload.fail(Fault::Upload(UploadFault::TooLarge));
                }
            }
            let len = usize::try_from(room).unwrap_or(PART).min(PART).min(piece.len());
            let part = piece.split_to(len);
            let end = piece.is_empty() && self.incoming.is_end_stream() || part.is_empty();
            if !poll_fn(|cx| upload.poll_send(cx, &part, end)).await {
                break;
            }
            if end {
                return;
            }
            given += len;
            if given >= TURN {
                // A client as fast as this one would keep the reactor for megabytes, and its turn from ending.
                given = 0;
                self.dispatcher.look();
                tokio::task::yield_now().await;
            }
        }
        self.clear_away(has_begun).await;
    }

    /// The next piece of data. Trailers are read and dropped: ASGI has no place for them.
    async fn next(&mut self, upload: &Upload, pause: Duration) -> Next {
        let incoming = &mut self.incoming;
        let mut clock = None;
        loop {
            let polled = poll_fn(|cx| {
                let frame = Pin::new(&mut *incoming).poll_frame(cx);
                if frame.is_pending() && upload.poll_over(cx).is_ready() {
                    return Poll::Ready(None);
                }
                match (frame, &mut clock) {
                    (Poll::Ready(frame), _) => Poll::Ready(Some(Ok(frame))),
                    // What has arrived already needs no timer.
                    (Poll::Pending, clock) => {
                        let clock = clock.get_or_insert_with(|| Box::pin(sleep(pause)));
                        clock.as_mut().poll(cx).map(|()| Some(Err(UploadFault::TooSlow)))
                    }
                }
            });
            match polled.await {
                None => return Next::Unwanted,
                Some(Err(fault)) => return Next::Broken(fault),
                Some(Ok(None)) => return Next::End,
                Some(Ok(Some(Err(error)))) => {
                    tracing::debug!(error = %crate::report::Chain(&error), "a request's body broke off");
                    return Next::Broken(UploadFault::Broken);
                }
                Some(Ok(Some(Ok(frame)))) => {
                    if let Ok(data) = frame.into_data()
                        && !data.is_empty()
                    {
                        return Next::Piece(data);
                    }
                }
            }
        }
    }

    /// Reads and drops what is left of a body that nobody wants, or gives the connection up.
    pub(super) async fn clear_away(mut self, has_begun: bool) {
        // Who waits to be asked for it has sent nothing of it, and must not be asked now.
        let may_read = has_begun || !self.expects;
        let is_gone = may_read && timeout(PATIENCE, drop_rest(&mut self.incoming)).await.unwrap_or(false);
        if !is_gone {
            self.connection.leaves_unread();
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
