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

use crate::net::{ClientStream, Phase};

use super::framing::{Framing, HeadLimits, Violation, empty_lines};
use crate::http::context::{ConnContext, RefusedHead};

/// A connection between the socket and hyper.
#[derive(Debug)]
pub(in crate::http) struct Wire {
    stream: ClientStream,
    context: Arc<ConnContext>,
    framing: Framing,
    /// What has been read and not handed on: part of a head, or what follows a message.
    buffered: BytesMut,
    /// So much of it has been accepted.
    accepted_len: usize,
    /// The stand-in for a refused head has been handed on: it is the last.
    has_refused: bool,
    /// The client sends nothing more.
    input_ended: bool,
}

/// What hyper is given in the place of a head that is refused.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n";
/// The same in the place of a HEAD request, whose answer has no content (RFC 9110 §9.3.2).
const STAND_IN_HEAD: &[u8] = b"HEAD / HTTP/1.1\r\nconnection: close\r\n\r\n";

/// Bytes read at a time when they do not go into hyper's buffer; and of the next requests while one is served.
const READ_BLOCK_BYTES: usize = 8 * 1024;

/// Bytes of a refused head that the journal gets.
const MAX_EXCERPT: usize = 80;

impl Wire {
    pub(in crate::http) fn new(stream: ClientStream, context: Arc<ConnContext>) -> Self {
        let limits = &context.server.limits;
        let framing = Framing::new(HeadLimits {
            request_line: limits.request_line,
            fields: limits.header,
            n_fields: limits.headers,
        });
        Self {
            stream,
            context,
            framing,
            buffered: BytesMut::new(),
            accepted_len: 0,
            has_refused: false,
            input_ended: false,
        }
    }

    /// The stream, and what has been read from it and not handed on.
    pub(in crate::http) fn into_parts(self) -> (ClientStream, BytesMut) {
        (self.stream, self.buffered)
    }

    /// Reads into hyper's buffer. What of that it may not have yet is held back.
    fn poll_read_direct(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<ReadOutcome>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = buf.filled_mut().get_mut(before..).unwrap_or_default();
        if read.is_empty() {
            return Poll::Ready(Ok(ReadOutcome::Eof));
        }
        let skips = !self.framing.is_mid_body() && empty_lines(read) > 0;
        let accepted = if skips { Ok(0) } else { self.framing.accept(read) };
        if let Ok(accepted) = accepted {
            self.buffered.extend_from_slice(&read[accepted..]);
            buf.set_filled(before + accepted);
            return Poll::Ready(Ok(if accepted > 0 { ReadOutcome::Accepted } else { ReadOutcome::Buffered }));
        }
        self.buffered.extend_from_slice(read);
        buf.set_filled(before);
        // The framing says the same again of what is held.
        Poll::Ready(Ok(ReadOutcome::Buffered))
    }

    /// Reads into what is held.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<ReadOutcome>> {
        let mut block = [MaybeUninit::uninit(); READ_BLOCK_BYTES];
        let mut block = ReadBuf::uninit(&mut block);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut block))?;
        if block.filled().is_empty() {
            return Poll::Ready(Ok(ReadOutcome::Eof));
        }
        self.buffered.extend_from_slice(block.filled());
        Poll::Ready(Ok(ReadOutcome::Buffered))
    }

    /// Hands on what has been accepted of what is held.
    fn deliver(&mut self, buf: &mut ReadBuf<'_>) {
        let len = self.accepted_len.min(buf.remaining());
        buf.put_slice(self.buffered.get(..len).unwrap_or_default());
        self.buffered.advance(len);
        self.accepted_len -= len;
    }

    /// Part of a body, or its end.
    fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.buffered.is_empty() {
                self.accepted_len = self.framing.accept(&mut self.buffered).map_err(body_error)?;
                self.deliver(buf);
                return Poll::Ready(Ok(()));
            }
            // Of a body all is accepted that is not wrong, or beyond its end.
            match ready!(self.poll_read_direct(cx, buf))? {
                ReadOutcome::Accepted | ReadOutcome::Eof => return Poll::Ready(Ok(())),
                ReadOutcome::Buffered => {}
            }
        }
    }

    /// A head, or the end of the connection before it.
    fn poll_head(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            self.buffered.advance(empty_lines(&self.buffered));
            let got = if self.buffered.is_empty() {
                ready!(self.poll_read_direct(cx, buf))?
            } else {
                match self.framing.accept(&mut self.buffered) {
                    Ok(0) => {}
                    Ok(accepted) => {
                        self.accepted_len = accepted;
                        self.deliver(buf);
                        return Poll::Ready(Ok(()));
                    }
                    Err(violation) => return self.refuse(violation, buf),
                }
                self.context.connection.begin_head();
                match self.poll_fill(cx) {
                    Poll::Ready(got) => got?,
                    Poll::Pending if self.context.connection.is_head_overdue() => {
                        return self.refuse(Violation::SlowHead, buf);
                    }
                    Poll::Pending => return Poll::Pending,
                }
            };
            match got {
                // A client that leaves in mid-head has asked for nothing.
                ReadOutcome::Accepted | ReadOutcome::Eof => return Poll::Ready(Ok(())),
                ReadOutcome::Buffered => {}
            }
        }
    }

    fn refuse(&mut self, violation: Violation, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let excerpt = excerpt(&self.buffered);
        let stand_in = if self.buffered.starts_with(b"HEAD ") { STAND_IN_HEAD } else { STAND_IN };
        // There is one at most: after it nothing is read.
        let _ = self.context.refused_head.set(RefusedHead { violation, excerpt });
        self.has_refused = true;
        self.buffered = BytesMut::new();
        buf.put_slice(stand_in);
        Poll::Ready(Ok(()))
    }

    /// Looks at the client while its request is served: whether it is still there, and what it asks next, as far as
    /// there is room. An orderly end of what it sends is no reason to leave its request unanswered; a reset is.
    fn watch_client(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let connection = &self.context.connection;
        if connection.should_abort() {
            return Err(self.stream.abort());
        }
        if connection.is_abandoned() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let is_served = connection.phase() == Phase::Busy && !self.framing.is_mid_body();
        if !is_served || self.has_refused {
            return Ok(());
        }
        if self.input_ended {
            return self.check_hangup();
        }
        while self.buffered.len() < READ_BLOCK_BYTES {
            match self.poll_fill(cx) {
                Poll::Pending => break,
                Poll::Ready(Ok(ReadOutcome::Eof)) => {
                    self.input_ended = true;
                    self.check_hangup()?;
                    self.context.connection.mark_half_closed();
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
enum ReadOutcome {
    /// Something for hyper.
    Accepted,
    /// Something that is held.
    Buffered,
    /// The end of what the client sends.
    Eof,
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
        if this.accepted_len > 0 {
            this.deliver(buf);
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
        Poll::Ready(self.watch_client(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The error that hyper gets instead of the rest of a body, and whoever reads the body through it: see
/// [`violation_of`].
fn body_error(violation: Violation) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, MalformedBody(violation))
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?}")]
struct MalformedBody(Violation);

/// What was wrong with a body that hyper could not read on, if that was found here.
pub(in crate::http) fn violation_of(error: &hyper::Error) -> Option<Violation> {
    let error = std::error::Error::source(error)?.downcast_ref::<io::Error>()?;
    let MalformedBody(violation) = error.get_ref()?.downcast_ref()?;
    Some(*violation)
}

/// The request line as far as it is printable and no secret: without the query.
fn excerpt(head: &[u8]) -> String {
    let end = head.iter().take(MAX_EXCERPT).position(|byte| b"?\r\n".contains(byte));
    let end = end.unwrap_or(head.len().min(MAX_EXCERPT));
    head.get(..end).unwrap_or_default().escape_ascii().to_string()
}
