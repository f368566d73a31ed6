//! The socket below rustls: writes TLS records, with as few packets as possible.
//!
//! Each packet costs processor time of the kernel on both sides. Two kinds of records are therefore
//! not sent alone:
//! - The session ticket, which TLS 1.3 sends after the client's last message of the handshake, is
//!   sent with the first response. If no request has arrived after one turn of the reactor, the
//!   ticket is sent alone.
//! - close_notify is sent in one packet with the end of the output (FIN).

use std::future::Future as _;
use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::Connection;
use super::phase::Phase;
use super::socket::ClientSocket;

/// A socket as rustls reads and writes it.
#[derive(Debug)]
pub(super) struct RecordTransport {
    socket: ClientSocket,
    connection: Arc<Connection>,
    mode: WriteMode,
    /// Records that are written before any others.
    held: Vec<u8>,
    /// The reactor has had a turn since the handshake was complete.
    has_yielded: bool,
}

/// The handling of records that rustls writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriteMode {
    /// They are written at once, after those that are held.
    Write,
    /// They are the server's messages of a handshake, and are written at once. The records after
    /// them will be held.
    Flight,
    /// As [`Flight`](Self::Flight), but some were not written, because the socket's buffer is full.
    BlockedFlight,
    /// They are held.
    Hold,
    /// They are written with the end of the output.
    Close,
}

/// Maximum number of slices in one write; rustls writes the rest again.
const MAX_SLICES: usize = 16;

impl RecordTransport {
    pub(super) fn new(socket: ClientSocket, connection: Arc<Connection>) -> Self {
        Self { socket, connection, mode: WriteMode::Write, held: Vec::new(), has_yielded: false }
    }

    pub(super) fn socket(&self) -> &ClientSocket {
        &self.socket
    }

    /// Holds the records that follow the server's first messages, which have not been written yet.
    pub(super) fn hold_after_flight(&mut self) {
        self.mode = WriteMode::Flight;
    }

    /// Lets the records that are held be written with the next ones. Called when the handshake is
    /// complete.
    pub(super) fn release(&mut self) {
        self.mode = WriteMode::Write;
    }

    /// Makes the kernel send close_notify in one packet with the end of the output. Called before
    /// close_notify is written.
    pub(super) fn begin_close(&mut self) {
        // Unix sockets have no packets (unix(7)).
        if matches!(self.socket, ClientSocket::Tcp(_)) {
            self.mode = WriteMode::Close;
        }
    }

    /// Returns the socket after a handshake that failed. Records that are held, such as an alert,
    /// are written if the socket has room for them.
    pub(super) fn into_socket(self) -> (ClientSocket, Arc<Connection>) {
        if !self.held.is_empty() {
            let written = match &self.socket {
                ClientSocket::Tcp(socket) => socket.try_write(&self.held),
                ClientSocket::Unix(socket) => socket.try_write(&self.held),
            };
            match written {
                Ok(bytes) => self.connection.on_written(bytes),
                Err(error) => tracing::debug!(%error, "cannot send a TLS alert, ignoring"),
            }
        }
        (self.socket, self.connection)
    }

    /// Writes slices, and counts the bytes that were written.
    fn poll_send(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = if self.mode == WriteMode::Close {
            self.socket.poll_write_with(cx, |socket| send_more(socket, slices))
        } else {
            Pin::new(&mut self.socket).poll_write_vectored(cx, slices)
        };
        match &written {
            Poll::Ready(Ok(bytes)) => self.connection.on_written(*bytes),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                self.connection.on_write_blocked();
                if self.mode == WriteMode::Flight {
                    self.mode = WriteMode::BlockedFlight;
                }
            }
        }
        written
    }

    /// Writes the records that are held, and slices after them. Returns the number of bytes of the
    /// slices, zero if only the held records were written.
    fn poll_send_held(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut held = std::mem::take(&mut self.held);
        while !held.is_empty() {
            let mut joined = [IoSlice::new(&[]); MAX_SLICES];
            let sources = std::iter::once(&*held).chain(slices.iter().map(|slice| &**slice));
            for (slot, source) in joined.iter_mut().zip(sources) {
                *slot = IoSlice::new(source);
            }
            match self.poll_send(cx, &joined) {
                Poll::Ready(Ok(written)) if written >= held.len() => {
                    return Poll::Ready(Ok(written - held.len()));
                }
                Poll::Ready(Ok(written)) => drop(held.drain(..written)),
                unwritten => {
                    self.held = held;
                    return unwritten;
                }
            }
        }
        Poll::Ready(Ok(0))
    }
}

/// Sends slices, and announces that more follows: the kernel waits for the rest of the packet
/// (send(2), `MSG_MORE`), at most 200 ms.
fn send_more(socket: BorrowedFd<'_>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
    Ok(sendmsg(socket, slices, &mut SendAncillaryBuffer::default(), flags)?)
}

impl AsyncRead for RecordTransport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        self.connection.on_received(buf.filled().len() - before);
        let awaits_request = read.is_pending() && self.connection.phase() == Phase::New;
        if !awaits_request || self.mode != WriteMode::Write || self.held.is_empty() {
            return read;
        }
        // Most clients send the request right after the handshake.
        if !std::mem::replace(&mut self.has_yielded, true) {
            return pin!(tokio::task::yield_now()).poll(cx).map(Ok);
        }
        ready!(self.poll_send_held(cx, &[]))?;
        // The read has registered the task's waker.
        Poll::Pending
    }
}

impl AsyncWrite for RecordTransport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.mode == WriteMode::Hold {
            let before = self.held.len();
            for slice in slices {
                self.held.extend_from_slice(slice);
            }
            return Poll::Ready(Ok(self.held.len() - before));
        }
        if !self.held.is_empty() {
            let written = ready!(self.poll_send_held(cx, slices))?;
            if written > 0 {
                return Poll::Ready(Ok(written));
            }
        }
        self.poll_send(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Called when rustls has no more records to write, or could not write all of them.
    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.mode = match self.mode {
            WriteMode::Flight => WriteMode::Hold,
            WriteMode::BlockedFlight => WriteMode::Flight,
            mode => mode,
        };
        // Sockets buffer nothing in this process.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
