//! Reads the client's input, parses it and sends it to the application while the application has
//! room.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::ReadBuf;

use crate::dispatch::MAX_PART;
use crate::net::Transport;
use crate::websocket::context::Scratch;
use crate::websocket::frame::close_code;
use crate::websocket::receive::ClientEvent;

use super::{CloseFrame, CloseState, Disconnected, PendingPart, WebSocketConn};

/// Bytes read at once, unless the open frame is longer. A small number, because the connection
/// stores the bytes for which the application has no room.
const READ_BYTES: usize = 16 * 1024;

impl<T: Transport> WebSocketConn<T> {
    /// Reads at most once, and sends messages to the application while it has room. Returns the
    /// progress: the number of bytes read or added by decompression, plus the number of events.
    pub(super) fn read(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
    ) -> Result<usize, Disconnected> {
        let mut progress = 0;
        if self.is_open() {
            match self.poll_send_pending(cx) {
                Poll::Pending => return Ok(0),
                Poll::Ready(n_sent) => progress += n_sent,
            }
            if !self.update_reading(cx) {
                return Ok(progress);
            }
        }
        let unparsed = std::mem::take(&mut self.unparsed);
        let mut unparsed = unparsed.as_slice();
        let (mut start, mut end) = (0, copy_into(&mut scratch.input, &mut unparsed));
        let mut has_read = false;
        loop {
            progress += self.process_input(cx, scratch, &mut start, end);
            if !self.wants_input() || has_read {
                break;
            }
            scratch.input.copy_within(start..end, 0);
            (start, end) = (0, end - start);
            let limit =
                if self.receiver.frame_remaining() > READ_BYTES as u64 { MAX_PART } else { READ_BYTES };
            let Some(room) = scratch.input.get_mut(end..limit.max(end + 1)) else { break };
            if !unparsed.is_empty() {
                end += copy_into(room, &mut unparsed);
                continue;
            }
            let mut buffer = ReadBuf::new(room);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    has_read = true;
                    end += buffer.filled().len();
                    // Counted here, so that input that is dropped counts towards YIELD_AFTER_BYTES.
                    progress += buffer.filled().len();
                    self.timers.on_input(self.connection().coarse_now());
                }
                Poll::Ready(_) => return Err(Disconnected),
            }
        }
        if self.state != CloseState::Flushing {
            self.unparsed = [scratch.input.get(start..end).unwrap_or_default(), unparsed].concat();
        }
        Ok(progress)
    }

    /// Sends the pending part to the application. Returns the number of parts sent, 0 or 1.
    fn poll_send_pending(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        let (Some(part), Some(app)) = (&self.pending_part, &self.app) else { return Poll::Ready(0) };
        app.poll_send(cx, &part.bytes, part.text, part.more).map(|_| {
            self.pending_part = None;
            1
        })
    }

    fn wants_input(&self) -> bool {
        match self.state {
            CloseState::Open => self.timers.is_reading() && self.pending_part.is_none(),
            CloseState::Closing => true,
            CloseState::Flushing => false,
        }
    }

    /// Returns whether the application has room for a message. The client's input is read only
    /// while it has.
    fn update_reading(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(app) = &self.app else { return false };
        let is_reading = matches!(app.poll_room(cx), Poll::Ready(true));
        self.timers.set_reading(is_reading, self.connection().coarse_now());
        is_reading
    }

    /// Parses `scratch.input` from `start` to `end` while the application has room. Moves `start`
    /// past the parsed bytes, and returns the progress: the number of bytes that decompression
    /// added plus the number of events.
    fn process_input(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut Scratch,
        start: &mut usize,
        end: usize,
    ) -> usize {
        let mut progress = 0;
        while *start < end || self.receiver.has_pending() {
            let input = scratch.input.get_mut(*start..end).unwrap_or_default();
            let (used, event) = match self.receiver.next(input, &mut scratch.inflated, &self.resources.pool) {
                Ok(next) => next,
                Err(error) => {
                    match self.state {
                        CloseState::Open => self.fail(error),
                        // Our close frame is already queued or sent.
                        CloseState::Closing | CloseState::Flushing => self.state = CloseState::Flushing,
                    }
                    return progress + 1;
                }
            };
            *start += used;
            let Some(event) = event else { break };
            progress += 1;
            let can_continue = match event {
                ClientEvent::Part { bytes, text, more } => {
                    // `read` has counted the input already.
                    progress += bytes.len().saturating_sub(used);
                    self.on_part(cx, bytes, text, more)
                }
                ClientEvent::Ping(payload) => {
                    self.on_ping(payload);
                    true
                }
                ClientEvent::Pong => true,
                ClientEvent::Close(close) => {
                    self.on_close(close);
                    false
                }
            };
            if !can_continue {
                break;
            }
        }
        progress
    }

    /// Sends a part of a message to the application. Returns false if the application has no room
    /// for another part.
    fn on_part(&mut self, cx: &mut Context<'_>, bytes: &[u8], text: bool, more: bool) -> bool {
        let (CloseState::Open, Some(app)) = (self.state, &self.app) else { return true };
        self.log.count_received(bytes.len(), more);
        if app.poll_send(cx, bytes, text, more).is_pending() {
            self.pending_part = Some(Box::new(PendingPart { bytes: bytes.to_vec(), text, more }));
            return false;
        }
        self.update_reading(cx)
    }

    fn on_ping(&mut self, payload: &[u8]) {
        if !self.is_open() {
            return;
        }
        if self.pending_pong.is_none() && self.sender.can_send_message() {
            self.sender.push_pong(payload);
        } else {
            self.pending_pong = Some(payload.into());
        }
    }

    /// Completes the closing handshake; echoes the close frame if the client has started the
    /// handshake (RFC 6455 §5.5.1).
    fn on_close(&mut self, close: Option<(u16, &str)>) {
        if self.is_open() {
            let (code, reason) = close.unwrap_or((close_code::NONE, ""));
            self.disconnect_app(code, reason.as_bytes());
            let echo =
                close.map_or(CloseFrame::Empty, |(code, reason)| CloseFrame::WithCode(code, reason.into()));
            self.close_frame = Some(Box::new(echo));
        }
        self.enter(CloseState::Flushing);
    }
}

/// Copies bytes from the front of `bytes` into `room` while there is room, and removes them from
/// `bytes`. Returns their number.
fn copy_into(room: &mut [u8], bytes: &mut &[u8]) -> usize {
    let (moved, rest) = bytes.split_at(bytes.len().min(room.len()));
    if let Some(room) = room.get_mut(..moved.len()) {
        room.copy_from_slice(moved);
    }
    *bytes = rest;
    moved.len()
}
