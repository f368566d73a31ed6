//! What hyper reads from and writes to: the connection's stream, behind the framing.
//!
//! ```text
//! socket ──▶ Stream (net) ──▶ Wire: Framing::accept ──▶ hyper ──▶ the service
//! ```
//! A head is handed on when it is complete and has been accepted; a body as it comes; what comes after a message waits
//! until hyper asks for the next one. In the ordinary case a head comes in one piece and is looked at where it was
//! read: in hyper's buffer.
//!
//! A head that is refused never reaches hyper. In its place goes [`STAND_IN`], and the service answers that with the
//! refusal: after the answers to the requests before it, with a request id and an entry in the journal as every answer.
//!
//! While a request is served hyper does not read, so the wire does: see [`Wire::poll_client`].

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::{Phase, Stream};

use super::context::{RefusedHead, Served};
use super::framing::{Framing, HeadLimits, Violation, empty_lines};

/// A connection between the socket and hyper.
#[derive(Debug)]
pub(super) struct Wire {
    stream: Stream,
    served: Arc<Served>,
    framing: Framing,
    /// What has been read and not handed on: part of a head, or what follows a message.
    held: BytesMut,
    /// So much of it has been accepted.
    accepted: usize,
    /// The stand-in for a refused head has been handed on: it is the last.
    has_refused: bool,
    /// The client sends nothing more.
    has_ended: bool,
}

/// What hyper is given in the place of a head that is refused.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n";
/// The same in the place of a HEAD request, whose answer has no content (RFC 9110 §9.3.2).
const STAND_IN_HEAD: &[u8] = b"HEAD / HTTP/1.1\r\nconnection: close\r\n\r\n";

/// Bytes read at a time when they do not go into hyper's buffer; and of the next requests while one is served.
const BLOCK: usize = 8 * 1024;

/// Bytes of a refused head that the journal gets.
const MAX_EXCERPT: usize = 80;

impl Wire {
    pub(super) fn new(stream: Stream, served: Arc<Served>) -> Self {
        let limits = &served.server.limits;
        let framing = Framing::new(HeadLimits {
            request_line: limits.request_line,
            fields: limits.header,
            n_fields: limits.headers,
        });
        Self {
            stream,
            served,
            framing,
            held: BytesMut::new(),
            accepted: 0,
            has_refused: false,
            has_ended: false,
        }
    }

    /// The stream, and what has been read from it and not handed on.
    pub(super) fn into_parts(self) -> (Stream, BytesMut) {
        (self.stream, self.held)
    }

    /// Reads into hyper's buffer. What of that it may not have yet is held back.
    fn poll_read_through(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<Got>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = buf.filled_mut().get_mut(before..).unwrap_or_default();
        if read.is_empty() {
            return Poll::Ready(Ok(Got::End));
        }
        let skips = !self.framing.is_mid_body() && empty_lines(read) > 0;
        let accepted = if skips { Ok(0) } else { self.framing.accept(read) };
        if let Ok(accepted) = accepted {
            self.held.extend_from_slice(&read[accepted..]);
            buf.set_filled(before + accepted);
            return Poll::Ready(Ok(if accepted > 0 { Got::Accepted } else { Got::More }));
        }
        self.held.extend_from_slice(read);
        buf.set_filled(before);
        // The framing says the same again of what is held.
        Poll::Ready(Ok(Got::More))
    }

    /// Reads into what is held.
    fn poll_hold(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Got>> {
        let mut block = [MaybeUninit::uninit(); BLOCK];
        let mut block = ReadBuf::uninit(&mut block);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut block))?;
        if block.filled().is_empty() {
            return Poll::Ready(Ok(Got::End));
        }
        self.held.extend_from_slice(block.filled());
        Poll::Ready(Ok(Got::More))
    }

    /// Hands on what has been accepted of what is held.
    fn hand_on(&mut self, buf: &mut ReadBuf<'_>) {
        let len = self.accepted.min(buf.remaining());
        buf.put_slice(self.held.get(..len).unwrap_or_default());
        self.held.advance(len);
        self.accepted -= len;
    }

    /// Part of a body, or its end.
    fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.held.is_empty() {
                self.accepted = self.framing.accept(&mut self.held).map_err(broken)?;
                self.hand_on(buf);
                return Poll::Ready(Ok(()));
            }
            // Of a body all is accepted that is not wrong, or beyond its end.
            match ready!(self.poll_read_through(cx, buf))? {
                Got::Accepted | Got::End => return Poll::Ready(Ok(())),
                Got::More => {}
            }
        }
    }

    /// A head, or the end of the connection before it.
    fn poll_head(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            self.held.advance(empty_lines(&self.held));
            let got = if self.held.is_empty() {
                ready!(self.poll_read_through(cx, buf))?
            } else {
                match self.framing.accept(&mut self.held) {
                    Ok(0) => {}
                    Ok(accepted) => {
                        self.accepted = accepted;
                        self.hand_on(buf);
                        return Poll::Ready(Ok(()));
                    }
                    Err(violation) => return self.refuse(violation, buf),
                }
                self.served.connection.begin_head();
                match self.poll_hold(cx) {
                    Poll::Ready(got) => got?,
                    Poll::Pending if self.served.connection.is_head_overdue() => {
                        return self.refuse(Violation::SlowHead, buf);
                    }
                    Poll::Pending => return Poll::Pending,
                }
            };
            match got {
                // A client that leaves in mid-head has asked for nothing.
                Got::Accepted | Got::End => return Poll::Ready(Ok(())),
                Got::More => {}
            }
        }
    }

    fn refuse(&mut self, violation: Violation, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let excerpt = excerpt(&self.held);
        let stand_in = if self.held.starts_with(b"HEAD ") { STAND_IN_HEAD } else { STAND_IN };
        // There is one at most: after it nothing is read.
        let _ = self.served.refused_head.set(RefusedHead { violation, excerpt });
        self.has_refused = true;
        self.held = BytesMut::new();
        buf.put_slice(stand_in);
        Poll::Ready(Ok(()))
    }

    /// Looks at the client while its request is served: whether it is still there, and what it asks next, as far as
    /// there is room. An orderly end of what it sends is no reason to leave its request unanswered; a reset is.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let connection = &self.served.connection;
        if connection.is_to_break() {
            return Err(self.stream.break_off());
        }
        if connection.is_abandoned() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let is_served = connection.phase() == Phase::Busy && !self.framing.is_mid_body();
        if !is_served || self.has_refused {
            return Ok(());
        }
        if self.has_ended {
            return self.check_hangup();
        }
        while self.held.len() < BLOCK {
            match self.poll_hold(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(Got::End)) => {
                    self.has_ended = true;
                    self.check_hangup()?;
                    self.served.connection.half_close();
                    // Whoever makes the answer looks at that when it is polled.
                    cx.waker().wake_by_ref();
                    break;
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        Ok(())
    }

    fn check_hangup(&self) -> io::Result<()> {
        if self.stream.is_hung_up() { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

/// What a look at the socket has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Got {
    /// Something for hyper.
    Accepted,
    /// Something that is held.
    More,
    /// The end of what the client sends.
    End,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.has_refused {
            return Poll::Ready(Ok(()));
        }
        if this.accepted > 0 {
            this.hand_on(buf);
            return Poll::Ready(Ok(()));
        }
        if this.framing.is_mid_body() { this.poll_body(cx, buf) } else { this.poll_head(cx, buf) }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        // hyper flushes when it has nothing more to write, and whenever it waits for an answer.
        Poll::Ready(self.poll_client(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The error that hyper gets instead of the rest of a body, and whoever reads the body through it: see
/// [`violation_of`].
fn broken(violation: Violation) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, BrokenBody(violation))
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?}")]
struct BrokenBody(Violation);

/// What was wrong with a body that hyper could not read on, if that was found here.
pub(super) fn violation_of(error: &hyper::Error) -> Option<Violation> {
    let error = std::error::Error::source(error)?.downcast_ref::<io::Error>()?;
    let BrokenBody(violation) = error.get_ref()?.downcast_ref()?;
    Some(*violation)
}

/// The request line as far as it is printable and no secret: without the query.
fn excerpt(head: &[u8]) -> String {
    let end = head.iter().take(MAX_EXCERPT).position(|byte| b"?\r\n".contains(byte));
    let end = end.unwrap_or(head.len().min(MAX_EXCERPT));
    head.get(..end).unwrap_or_default().escape_ascii().to_string()
}
