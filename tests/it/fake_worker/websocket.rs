//! Serves WebSockets in place of an ASGI application. The path of the handshake selects the
//! behaviour. *End* is a disconnect or a cancellation.
//!
//! | path | behaviour |
//! |---|---|
//! | `/echo` | echoes each part of a message |
//! | `/echo?whole` | echoes whole messages |
//! | `/subprotocol/NAME` | accepts with that subprotocol and `x-own: yes`, then as `/echo` |
//! | `/scope` | sends one message: version, path, query, flags and fields, in the format of HTTP's `/echo` |
//! | `/deny` | 401 and a body instead of an accept |
//! | `/refuse` | 403 without a body, as a `websocket.close` before the accept |
//! | `/undecided` | nothing until the end |
//! | `/late` | accepts at the end, then as `/echo` |
//! | `/close/CODE/REASON` | accepts and closes |
//! | `/close-within/CODE` | closes in the middle of a message |
//! | `/return` | accepts and returns |
//! | `/send/N/S` | N binary messages of S bytes, then returns |
//! | `/fragments` | one text message in three parts, cut within a character, then an empty one; then as `/echo` |
//! | `/stops-reading` | accepts, opens the window once, receives nothing until the end |
//! | `/never-reads` | accepts, never opens the window |
//! | `/slow/MS` | receives a message every MS; after the message `end` it sends `messages=… bytes=…` |
//! | `/once` | receives one message, then nothing until the end |
//! | `/raise`, `/raise-first` | raises after the first message / before the accept |
//! | `/die` | exit 3 at the first message |
//! | `/breach-code` | closes with an invalid code |
//!
//! An HTTP request for `/codes` gets one line for each WebSocket that has ended: path, code and
//! reason.

use std::collections::VecDeque;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;

use rgun_channel::frame::{Body, CompletionKind, MESSAGE_COST, Request, encode_field};
use rgun_channel::layout::CHUNK_BYTES;

use crate::asgi::{Inbox, Loop, Received};
use crate::requests::{Exchange, echo};
use crate::{Outcome, lock, milliseconds, pattern, quit};

/// Maximum bytes of messages that the daemon may send ahead of the application.
const WINDOW: u64 = 64 * 1024;

/// A part of a message.
pub(crate) struct Part {
    pub(crate) bytes: Vec<u8>,
    pub(crate) text: bool,
    pub(crate) more: bool,
}

/// The state of a WebSocket in the application.
struct Session<'i> {
    inbox: &'i Inbox,
    received: u64,
    window_end: u64,
}

impl Exchange<'_, '_> {
    pub(crate) fn serve_websocket(&mut self, events: &Loop, inbox: &Inbox, request: &Request<'_>) -> Outcome {
        let path = String::from_utf8_lossy(request.path).into_owned();
        let mut parts = path.trim_start_matches('/').split('/');
        let (name, first, second) =
            (parts.next().unwrap_or_default(), parts.next().unwrap_or("0"), parts.next().unwrap_or_default());
        let mut socket = Session { inbox, received: 0, window_end: 0 };
        match name {
            "deny" => return self.text(401, "not you"),
            "refuse" => return self.respond(403, None, Body::Inline(b""), true, true),
            "raise-first" => return self.raise(),
            "undecided" => {
                inbox.wait_until_ended();
                events.record_close(&path, inbox);
                return self.finish();
            }
            "late" => {
                inbox.wait_until_ended();
                self.accept(&[])?;
            }
            "subprotocol" => {
                let fields = [(&b"sec-websocket-protocol"[..], first.as_bytes()), (b"x-own", b"yes")];
                self.accept(&fields)?;
            }
            _ => self.accept(&[])?,
        }
        match name {
            "echo" | "late" | "subprotocol" => self.echo_messages(&mut socket, request.query == b"whole")?,
            "scope" => {
                let scope = echo(request)?;
                self.message(format!("websocket: {}\n{scope}", request.websocket).as_bytes(), true, false)?;
            }
            "close" => return self.close_and_wait(first.parse()?, second, events, &path, inbox),
            "close-within" => {
                self.message(b"half a mess", true, true)?;
                return self.close_and_wait(first.parse()?, "", events, &path, inbox);
            }
            "breach-code" => return self.close_and_wait(1005, "", events, &path, inbox),
            "return" => {}
            "send" => {
                let bytes = pattern(second.parse()?);
                for _ in 0..first.parse::<u32>()? {
                    if inbox.has_ended() {
                        break;
                    }
                    self.long_message(&bytes, false)?;
                }
            }
            "fragments" => {
                let text = "Hällo, wörld".as_bytes();
                self.message(&text[..2], true, true)?;
                self.message(&text[2..9], true, true)?;
                self.message(&text[9..], true, false)?;
                self.message(b"", true, false)?;
                self.echo_messages(&mut socket, false)?;
            }
            "stops-reading" => {
                self.send_asgi_frame(CompletionKind::WindowUpdate, &[], &WINDOW.to_le_bytes(), false)?;
                inbox.wait_until_ended();
            }
            "never-reads" => inbox.wait_until_ended(),
            "slow" => self.count_messages(&mut socket, milliseconds(first)?)?,
            "once" => {
                self.receive_part(&mut socket)?;
                inbox.wait_until_ended();
            }
            "raise" => {
                self.receive_part(&mut socket)?;
                return self.raise();
            }
            "die" => {
                self.receive_part(&mut socket)?;
                quit(3, "exits, as the path requests");
            }
            _ => return Err("unknown path of a WebSocket".into()),
        }
        events.record_close(&path, inbox);
        self.close(1000, "", true)
    }

    fn accept(&mut self, fields: &[(&[u8], &[u8])]) -> Outcome {
        let mut frame = std::mem::take(&mut self.slot.frame);
        let body = Body::Inline(b"");
        let n_fields = u16::try_from(fields.len())?;
        self.completion(CompletionKind::Respond, 101, false, false)?.encode(n_fields, &body, &mut frame);
        for (name, value) in fields {
            encode_field(name, value, &mut frame)?;
        }
        body.encode(&mut frame);
        self.publish(frame)
    }

    /// Sends a message, or a part of one, that fits into a frame.
    fn message(&mut self, bytes: &[u8], text: bool, more: bool) -> Outcome {
        self.wait_for_credit();
        let chunk;
        let body = if bytes.len() <= CHUNK_BYTES / 4 {
            Body::Inline(bytes)
        } else {
            chunk = [(self.slot.worker.fill_chunk(bytes)?, u32::try_from(bytes.len())?)];
            Body::Chunks(&chunk)
        };
        let mut frame = std::mem::take(&mut self.slot.frame);
        let head = self.completion(CompletionKind::Body, 0, false, false)?;
        rgun_channel::frame::Completion { text, more, ..head }.encode(0, &body, &mut frame);
        body.encode(&mut frame);
        self.slot.count(&body);
        self.slot.sent += MESSAGE_COST;
        self.publish(frame)
    }

    fn long_message(&mut self, bytes: &[u8], text: bool) -> Outcome {
        let mut parts = bytes.chunks(CHUNK_BYTES).peekable();
        if parts.peek().is_none() {
            return self.message(b"", text, false);
        }
        while let Some(part) = parts.next() {
            self.message(part, text, parts.peek().is_some())?;
        }
        Ok(())
    }

    fn close(&mut self, code: u16, reason: &str, done: bool) -> Outcome {
        let mut frame = std::mem::take(&mut self.slot.frame);
        let body = Body::Inline(reason.as_bytes());
        let mut head = self.completion(CompletionKind::Close, code, true, done)?;
        head.status = code;
        head.encode(0, &body, &mut frame);
        body.encode(&mut frame);
        self.publish(frame)
    }

    fn close_and_wait(
        &mut self,
        code: u16,
        reason: &str,
        events: &Loop,
        path: &str,
        inbox: &Inbox,
    ) -> Outcome {
        self.close(code, reason, false)?;
        events.record_close(path, inbox);
        self.finish()
    }

    fn echo_messages(&mut self, socket: &mut Session<'_>, whole: bool) -> Outcome {
        let mut message = Vec::new();
        while let Some(Part { bytes, text, more }) = self.receive_part(socket)? {
            if !whole {
                self.message(&bytes, text, more)?;
                continue;
            }
            message.extend_from_slice(&bytes);
            if !more {
                self.long_message(&std::mem::take(&mut message), text)?;
            }
        }
        Ok(())
    }

    fn count_messages(&mut self, socket: &mut Session<'_>, pause: Duration) -> Outcome {
        let (mut messages, mut count) = (0, 0);
        while let Some(Part { bytes, more, .. }) = self.receive_part(socket)? {
            if bytes == b"end" {
                self.message(format!("messages={messages} bytes={count}").as_bytes(), true, false)?;
            }
            if !more {
                thread::sleep(pause);
                messages += 1;
            }
            count += bytes.len();
        }
        Ok(())
    }

    /// Receives the next part of a message, and opens the window. None at the end.
    fn receive_part(&mut self, socket: &mut Session<'_>) -> Outcome<Option<Part>> {
        let window_end = socket.received + WINDOW;
        // As in the real worker, small updates are not sent.
        if window_end - socket.window_end >= WINDOW / 4 {
            socket.window_end = window_end;
            self.send_asgi_frame(CompletionKind::WindowUpdate, &[], &window_end.to_le_bytes(), false)?;
        }
        let waits =
            |received: &mut Received| received.messages.is_empty() && !received.gone && !received.cancelled;
        let guard = socket.inbox.arrived.wait_while(lock(&socket.inbox.received), waits);
        let part = guard.unwrap_or_else(PoisonError::into_inner).messages.pop_front();
        if let Some(part) = &part {
            socket.received += part.bytes.len() as u64 + MESSAGE_COST;
            // The daemon may exceed the window by one part.
            if socket.received > socket.window_end + 64 * 1024 + MESSAGE_COST {
                return Err("the daemon sent more than the window".into());
            }
        }
        Ok(part)
    }
}

impl Loop {
    /// Records the end of a WebSocket: path, close code and reason, or that the application has
    /// received no code.
    fn record_close(&self, path: &str, inbox: &Inbox) {
        let received = lock(&inbox.received);
        let end = match &received.end {
            Some((code, reason)) => format!("{path} {code} {reason}"),
            None => format!("{path} without a code"),
        };
        drop(received);
        lock(&self.ends).push_back(end);
    }

    pub(crate) fn codes(&self) -> String {
        let ends: &VecDeque<String> = &lock(&self.ends);
        ends.iter().fold(String::new(), |lines, end| lines + end + "\n")
    }
}
