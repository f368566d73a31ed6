//! Compares the bytes that a connection receives with the bytes that are of use, and recognises
//! floods.
//!
//! h2 does not report the frames that it handles itself (PING, SETTINGS, WINDOW_UPDATE and others).
//! [`MeteredStream`] counts the bytes that arrive, [`Meter`] compares their number with that of the
//! bytes in heads and bodies.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::http::context::YIELD_AFTER_BYTES;
use crate::net::{ClientStream, Phase};

use super::frame_cursor::FrameCursor;
use super::indexing::FieldIndexing;

/// Maximum excess of requests that ended before their response over requests that were answered. A
/// browser that leaves a page may have that many open.
pub(super) const MAX_EARLY_RESETS: i32 = 200;

/// Number of bytes that a connection may receive in addition to those that [`MAX_OVERHEAD`] allows.
const FREE_BYTES: u64 = 1024 * 1024;

/// Maximum number of bytes received per byte of heads and bodies (received and sent). DATA frames,
/// whose header has nine bytes, stay below it even with a few bytes of payload.
const MAX_OVERHEAD: u64 = 8;

/// Maximum number of bytes that are read and dropped after the output has ended.
const MAX_LINGER_BYTES: usize = 256 * 1024;

/// The client's acknowledgement of the PING that h2 sends after the first GOAWAY of a drain. h2
/// sends the second GOAWAY when it reads this frame, and has no other way to trigger it.
const DRAIN_PING_ACK: &[u8] = b"\0\0\x08\x06\x01\0\0\0\0\x0b\x7b\xa2\xf0\x8b\x9b\xfe\x54";

/// The counters of one connection, shared by its task and those of its streams.
#[derive(Debug)]
pub(super) struct Meter {
    /// Bytes received.
    received: AtomicU64,
    /// Bytes of heads and bodies, received and sent.
    useful: AtomicU64,
    /// Requests that may still end before their response.
    reset_credit: AtomicI32,
    /// Bytes received in the current poll of the connection's task.
    in_poll: AtomicUsize,
    /// Nothing more is read.
    has_stopped: AtomicBool,
    /// [`DRAIN_PING_ACK`] is to be read before the next frame.
    wants_drain_ack: AtomicBool,
    /// The fields of responses that have entered the HPACK table.
    pub(super) indexing: FieldIndexing,
}

impl Meter {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            received: AtomicU64::new(0),
            useful: AtomicU64::new(0),
            reset_credit: AtomicI32::new(MAX_EARLY_RESETS),
            in_poll: AtomicUsize::new(0),
            has_stopped: AtomicBool::new(false),
            wants_drain_ack: AtomicBool::new(false),
            indexing: FieldIndexing::default(),
        })
    }

    /// Counts bytes of a head or a body.
    pub(super) fn add_useful(&self, bytes: usize) {
        self.useful.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts a request that was answered.
    pub(super) fn on_response(&self) {
        let credit = self.reset_credit.load(Ordering::Relaxed);
        self.reset_credit.store(MAX_EARLY_RESETS.min(credit + 1), Ordering::Relaxed);
    }

    /// Counts a request that ended before its response. Returns true if there were too many.
    pub(super) fn on_early_reset(&self) -> bool {
        self.reset_credit.fetch_sub(1, Ordering::Relaxed) <= 0
    }

    /// Returns the kind of abuse for the log; `None` if there is none.
    pub(super) fn abuse(&self) -> Option<&'static str> {
        let allowed = FREE_BYTES + MAX_OVERHEAD * self.useful.load(Ordering::Relaxed);
        if self.received.load(Ordering::Relaxed) > allowed {
            return Some("it sends frames that carry nothing");
        }
        (self.reset_credit.load(Ordering::Relaxed) < 0).then_some("it resets most of its requests")
    }

    /// Notes the beginning of a poll of the connection's task.
    pub(super) fn begin_poll(&self) {
        self.in_poll.store(0, Ordering::Relaxed);
    }

    /// True once the current poll has read [`YIELD_AFTER_BYTES`].
    pub(super) fn is_poll_exhausted(&self) -> bool {
        self.in_poll.load(Ordering::Relaxed) >= YIELD_AFTER_BYTES
    }

    /// Stops reading. Pending output is still flushed.
    pub(super) fn stop_reading(&self) {
        self.has_stopped.store(true, Ordering::Relaxed);
    }

    /// Acts as if the client had acknowledged the PING of the drain. h2 ignores a second
    /// acknowledgement.
    pub(super) fn acknowledge_drain_ping(&self) {
        self.wants_drain_ack.store(true, Ordering::Relaxed);
    }
}

/// A connection's stream as h2 reads and writes it.
#[derive(Debug)]
pub(super) struct MeteredStream {
    stream: ClientStream,
    /// Bytes already read from the stream, to be delivered next: at first the bytes that were read
    /// to recognise HTTP/2.
    early: Bytes,
    /// Follows the input that was delivered.
    cursor: FrameCursor,
    meter: Arc<Meter>,
    /// Number of bytes dropped since the output was shut down; `None` before that.
    lingered: Option<usize>,
}

impl MeteredStream {
    pub(super) fn new(stream: ClientStream, early: Bytes, meter: Arc<Meter>) -> Self {
        Self { stream, early, cursor: FrameCursor::new(), meter, lingered: None }
    }
}

impl AsyncRead for MeteredStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.meter.has_stopped.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        if this.meter.is_poll_exhausted() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let wants_ack = this.meter.wants_drain_ack.load(Ordering::Relaxed);
        if wants_ack && this.cursor.is_between_frames() && buf.remaining() >= DRAIN_PING_ACK.len() {
            this.meter.wants_drain_ack.store(false, Ordering::Relaxed);
            buf.put_slice(DRAIN_PING_ACK);
            return Poll::Ready(Ok(()));
        }
        let read = if this.early.is_empty() {
            let read = Pin::new(&mut this.stream).poll_read(cx, buf);
            let len = buf.filled().len() - before;
            this.meter.received.fetch_add(len as u64, Ordering::Relaxed);
            this.meter.in_poll.fetch_add(len, Ordering::Relaxed);
            read
        } else {
            let len = this.early.len().min(buf.remaining());
            buf.put_slice(this.early.get(..len).unwrap_or_default());
            this.early.advance(len);
            Poll::Ready(Ok(()))
        };
        let input = buf.filled().get(before..).unwrap_or_default();
        if !wants_ack {
            this.cursor.advance(input);
            return read;
        }
        let len = this.cursor.advance_to_boundary(input);
        if let Some(rest) = input.get(len..).filter(|rest| !rest.is_empty()) {
            this.early = [rest, &this.early].concat().into();
            buf.set_filled(before + len);
        }
        read
    }
}

impl AsyncWrite for MeteredStream {
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
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Shuts the output down, then reads and drops input until the client closes, at most
    /// [`MAX_LINGER_BYTES`]. Closing a socket with unread input resets the connection, and the
    /// client could lose the GOAWAY.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.lingered.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            this.stream.connection().set_phase(Phase::Lingering);
        }
        let lingered = this.lingered.get_or_insert(0);
        let mut dropped = [MaybeUninit::uninit(); 4096];
        while *lingered < MAX_LINGER_BYTES {
            let mut dropped = ReadBuf::uninit(&mut dropped);
            // Fails at the time limit of `Phase::Lingering`.
            match ready!(Pin::new(&mut this.stream).poll_read(cx, &mut dropped)) {
                Ok(()) if !dropped.filled().is_empty() => *lingered += dropped.filled().len(),
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_without_payload_are_abuse_after_the_free_bytes() {
        let meter = Meter::new();
        let receive = |bytes| {
            meter.received.fetch_add(bytes, Ordering::Relaxed);
        };
        receive(FREE_BYTES);
        assert_eq!(meter.abuse(), None);
        receive(1);
        assert!(meter.abuse().is_some());
        meter.add_useful(1);
        assert_eq!(meter.abuse(), None);
        receive(7);
        assert_eq!(meter.abuse(), None);
        receive(1);
        assert!(meter.abuse().is_some());
    }

    #[test]
    fn early_resets_are_abuse_when_they_outnumber_responses() {
        let meter = Meter::new();
        for _ in 0..10 * MAX_EARLY_RESETS {
            meter.on_response();
            assert!(!meter.on_early_reset());
        }
        // The last early reset used one unit of the credit, which responses had filled.
        for _ in 1..MAX_EARLY_RESETS {
            assert!(!meter.on_early_reset());
        }
        assert_eq!(meter.abuse(), None);
        assert!(meter.on_early_reset());
        assert!(meter.abuse().is_some());
    }
}
