//! The transport that hyper reads and writes: the connection's stream behind the framing.
//!
//! ```text
//! socket ──▶ ClientStream (net) ──▶ Wire: Framing::accept ──▶ hyper ──▶ the service
//! ```
//! A head is delivered when it is complete and accepted, a body as it arrives. Bytes after a
//! message are buffered until hyper reads the next one. Usually a head arrives in one piece and is
//! checked in place, in hyper's buffer.
//!
//! A refused head never reaches hyper. Instead, hyper reads [`STAND_IN`], and the service answers
//! that request with the error response. So the error follows the responses to earlier requests,
//! and has a request id and a journal entry.
//!
//! hyper does not read while a request is served; [`Wire::watch_client`] does, to notice that the
//! client has closed the connection.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::negotiation::ErrorFormat;
use crate::net::{ClientStream, Phase};

use super::framing::{Framing, HeadLimits, Violation, empty_lines};
use crate::http::context::{ConnContext, RefusedHead};

/// A stream with framing, and the input that hyper has not read yet.
#[derive(Debug)]
pub(in crate::http) struct Wire {
    stream: ClientStream,
    context: Arc<ConnContext>,
    framing: Framing,
    /// Input not delivered to hyper: part of a head, or bytes after a message.
    buffered: BytesMut,
    /// Leading bytes of `buffered` that the framing accepted.
    accepted_len: usize,
    /// A stand-in was delivered, or the HTTP/2 preface was found. hyper gets nothing after that.
    has_refused: bool,
    /// The client closed its sending half.
    input_ended: bool,
    /// The connection began with the HTTP/2 preface; hyper gets the end of input instead.
    found_http2: bool,
    /// The connection goes on without this transport: it is parked, or the next daemon continues it.
    /// hyper got the end of input.
    is_detached: bool,
}

/// Delivered to hyper in place of a refused head.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n";
/// Delivered in place of a refused HEAD request, whose response has no content (RFC 9110 §9.3.2).
const STAND_IN_HEAD: &[u8] = b"HEAD / HTTP/1.1\r\nconnection: close\r\n\r\n";

/// The first line of the HTTP/2 preface (RFC 9113 §3.4). HTTP/1 does not allow it, so only refused
/// heads are compared with it.
const HTTP2_PREFACE_LINE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// Maximum number of bytes of one read into `buffered`, and of the read-ahead while a request is
/// served.
const READ_BLOCK_BYTES: usize = 8 * 1024;

/// Maximum number of bytes of a refused head in the journal.
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
            found_http2: false,
            is_detached: false,
        }
    }

    /// Makes hyper read the stand-in instead of the client's bytes. The context must have the
    /// reason for the refusal.
    pub(in crate::http) fn refusing_all(mut self) -> Self {
        self.buffered.extend_from_slice(STAND_IN);
        self.accepted_len = STAND_IN.len();
        self.has_refused = true;
        self
    }

    /// Makes hyper read these bytes of the client before those of the stream.
    pub(in crate::http) fn resuming(mut self, unread: &[u8]) -> Self {
        self.buffered.extend_from_slice(unread);
        self
    }

    /// True if the connection goes on without this transport: it is parked, or the next daemon
    /// continues it.
    pub(in crate::http) fn is_detached(&self) -> bool {
        self.is_detached
    }

    /// True if the client speaks HTTP/2. The HTTP/2 server must then get the parts of this
    /// transport.
    pub(in crate::http) fn is_http2(&self) -> bool {
        self.found_http2
    }

    /// Returns the stream and the input that was not delivered.
    pub(in crate::http) fn into_parts(self) -> (ClientStream, BytesMut) {
        (self.stream, self.buffered)
    }

    /// Reads into hyper's buffer, and moves the bytes that the framing does not accept yet to
    /// `buffered`.
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
            if accepted < read.len() {
                self.buffered.extend_from_slice(&read[accepted..]);
                buf.set_filled(before + accepted);
            }
            return Poll::Ready(Ok(if accepted > 0 { ReadOutcome::Accepted } else { ReadOutcome::Buffered }));
        }
        self.buffered.extend_from_slice(read);
        buf.set_filled(before);
        // The framing returns the same violation for `buffered`.
        Poll::Ready(Ok(ReadOutcome::Buffered))
    }

    /// Reads into `buffered`.
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

    /// Delivers accepted bytes of `buffered` to hyper.
    fn deliver(&mut self, buf: &mut ReadBuf<'_>) {
        let len = self.accepted_len.min(buf.remaining());
        buf.put_slice(self.buffered.get(..len).unwrap_or_default());
        self.buffered.advance(len);
        self.accepted_len -= len;
    }

    /// Delivers part of a body, or its end.
    fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.buffered.is_empty() {
                self.accepted_len = self.framing.accept(&mut self.buffered).map_err(body_error)?;
                self.deliver(buf);
                return Poll::Ready(Ok(()));
            }
            // The framing accepts every byte of a body up to its end or the first malformed one.
            match ready!(self.poll_read_direct(cx, buf))? {
                ReadOutcome::Accepted | ReadOutcome::Eof => return Poll::Ready(Ok(())),
                ReadOutcome::Buffered => {}
            }
        }
    }

    /// Delivers a head, or the end of input before it.
    fn poll_head(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.buffered.is_empty() {
                self.buffered.advance(empty_lines(&self.buffered));
            }
            let outcome = if self.buffered.is_empty() {
                ready!(self.poll_read_direct(cx, buf))?
            } else if self.context.connection.should_leave_http() {
                ReadOutcome::Eof
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
                    Poll::Ready(outcome) => outcome?,
                    Poll::Pending if self.context.connection.is_head_overdue() => {
                        return self.refuse(Violation::SlowHead, buf);
                    }
                    Poll::Pending => return Poll::Pending,
                }
            };
            match outcome {
                ReadOutcome::Accepted => return Poll::Ready(Ok(())),
                // After end of input within a head there is no request to answer.
                ReadOutcome::Eof => {
                    self.is_detached = self.context.connection.should_leave_http();
                    return Poll::Ready(Ok(()));
                }
                ReadOutcome::Buffered => {}
            }
        }
    }

    /// Records the refused head and delivers the stand-in. Delivers nothing if the head is the
    /// HTTP/2 preface.
    #[cold]
    fn refuse(&mut self, violation: Violation, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // A client with prior knowledge begins with the preface (RFC 9113 §3.3). The preface is an
        // ordinary violation after a response, and with TLS, where the handshake selects the
        // protocol.
        let is_preface = violation == Violation::Version && self.buffered.starts_with(HTTP2_PREFACE_LINE);
        let is_http2_on = self.context.server.http2.is_some();
        if is_preface
            && is_http2_on
            && self.context.tls.is_none()
            && self.context.connection.output.written() == 0
        {
            self.found_http2 = true;
            self.has_refused = true;
            return Poll::Ready(Ok(()));
        }
        let violation = if is_preface && !is_http2_on { Violation::Http2Off } else { violation };
        let excerpt = excerpt(&self.buffered);
        let stand_in = if self.buffered.starts_with(b"HEAD ") { STAND_IN_HEAD } else { STAND_IN };
        // Cannot be set already: nothing is read after a refusal.
        let error_format = ErrorFormat::of_accept(accept_values(&self.buffered));
        let _ = self.context.refused_head.set(RefusedHead { violation, excerpt, error_format });
        self.has_refused = true;
        self.buffered = BytesMut::new();
        buf.put_slice(stand_in);
        Poll::Ready(Ok(()))
    }

    /// Watches the client while its request is served: reads ahead, up to a limit, and reports a
    /// reset as an error. After an orderly end of input the request is still answered. Also ends
    /// hyper's connection when the request was taken back for the next daemon.
    fn watch_client(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let connection = &self.context.connection;
        if self.context.withdrawn.get().is_some() {
            connection.end_withdrawn_request();
            self.is_detached = true;
            // Ends hyper's connection; `conn` takes the socket from it.
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
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
                    // The task polls the response future again, which reacts to the half-close.
                    cx.waker().wake_by_ref();
                    break;
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Fails if the client can no longer read a response.
    fn check_hangup(&self) -> io::Result<()> {
        if self.stream.is_hung_up() { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

/// The outcome of one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadOutcome {
    /// Bytes were delivered to hyper.
    Accepted,
    /// Bytes were read, and none delivered.
    Buffered,
    /// End of input.
    Eof,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.accepted_len > 0 {
            this.deliver(buf);
            return Poll::Ready(Ok(()));
        }
        if this.has_refused {
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
        // hyper flushes when it has nothing more to write and whenever it waits for a response.
        Poll::Ready(self.watch_client(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.found_http2 || self.is_detached {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Returns the read error that hyper passes on to the reader of the body; [`violation_of`] unwraps
/// it there.
fn body_error(violation: Violation) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, MalformedBody(violation))
}

#[derive(Debug, thiserror::Error)]
#[error("{0:?}")]
struct MalformedBody(Violation);

/// Returns the framing violation that ended a body, if that is the cause of hyper's error.
pub(in crate::http) fn violation_of(error: &hyper::Error) -> Option<Violation> {
    let error = std::error::Error::source(error)?.downcast_ref::<io::Error>()?;
    let MalformedBody(violation) = error.get_ref()?.downcast_ref()?;
    Some(*violation)
}

/// Returns the values of the `Accept` fields among the complete lines of a head, which may be
/// malformed: only the format of the response depends on these values.
fn accept_values(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    const NAME: &[u8] = b"accept:";
    let lines = head.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
    let fields = lines.skip(1).take_while(|line| !line.trim_ascii().is_empty());
    fields.filter_map(|line| {
        let (name, value) = line.split_at_checked(NAME.len())?;
        name.eq_ignore_ascii_case(NAME).then(|| value.trim_ascii())
    })
}

/// Returns the beginning of a head for the journal: the request line, escaped, without the query,
/// which may hold secrets.
fn excerpt(head: &[u8]) -> String {
    let end = head.iter().take(MAX_EXCERPT).position(|byte| b"?\r\n".contains(byte));
    let end = end.unwrap_or(head.len().min(MAX_EXCERPT));
    head.get(..end).unwrap_or_default().escape_ascii().to_string()
}
