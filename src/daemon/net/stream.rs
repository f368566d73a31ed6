//! The byte stream of an accepted connection: a TCP or unix socket, with or without TLS, that
//! follows the tracker's directives.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::Connection;
use super::directive::Directive;
use super::phase::Phase;
use super::socket::ClientSocket;
use super::tls_socket::TlsSocket;
use crate::tls::TlsSession;

/// The transport of a connection's bytes.
#[derive(Debug)]
enum StreamIo {
    Plain(ClientSocket),
    Tls(Box<TlsSocket>),
}

/// A byte stream to a client: a connection, or a stream of a multiplexed one.
pub trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// Returns the state shared with the tracker.
    fn connection(&self) -> &Arc<Connection>;
}

/// An accepted connection.
#[derive(Debug)]
pub struct ClientStream {
    io: StreamIo,
    connection: Arc<Connection>,
    /// The unwritten rest of an interim response; empty if there is none.
    interim: Vec<u8>,
}

macro_rules! with_socket {
    ($self:ident, $socket:ident => $call:expr) => {
        match &mut $self.io {
            StreamIo::Plain($socket) => $call,
            StreamIo::Tls($socket) => $call,
        }
    };
}

impl Transport for ClientStream {
    fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl ClientStream {
    pub(super) fn new(socket: ClientSocket, connection: Arc<Connection>) -> Self {
        Self { io: StreamIo::Plain(socket), connection, interim: Vec::new() }
    }

    pub(super) fn with_tls(socket: TlsSocket, connection: Arc<Connection>) -> Self {
        Self { io: StreamIo::Tls(Box::new(socket)), connection, interim: Vec::new() }
    }

    /// Returns the result of the TLS handshake; `None` without TLS.
    pub fn tls_session(&self) -> Option<&Arc<TlsSession>> {
        match &self.io {
            StreamIo::Plain(_) => None,
            StreamIo::Tls(socket) => Some(socket.session()),
        }
    }

    /// Returns the process that connected to the unix socket (`SO_PEERCRED`, unix(7)), written as
    /// `unix, pid 4711, uid 33`. `None` on TCP.
    pub fn peer_process(&self) -> Option<Arc<str>> {
        let ClientSocket::Unix(socket) = self.socket() else { return None };
        let credentials = socket.peer_cred().ok()?;
        let pid = credentials.pid().map(|pid| format!("pid {pid}, ")).unwrap_or_default();
        Some(format!("unix, {pid}uid {}", credentials.uid()).into())
    }

    /// True without TLS.
    pub fn is_plain(&self) -> bool {
        matches!(self.io, StreamIo::Plain(_))
    }

    /// Takes the socket out of service, for the next daemon. `unread` are the bytes that were read
    /// and belong to no request that was served.
    pub fn hand_over(self, unread: Vec<u8>) {
        // The stream's own descriptor is registered with the reactor, and is closed.
        match self.socket().as_fd().try_clone_to_owned() {
            Ok(socket) => self.connection.hand_over(socket, unread),
            Err(error) if !unread.is_empty() => {
                tracing::warn!(%error, "cannot keep a request for the next daemon, closing its connection");
            }
            Err(error) => tracing::debug!(%error, "cannot keep a connection for the next daemon, closing it"),
        }
    }

    pub(super) fn socket(&self) -> &ClientSocket {
        match &self.io {
            StreamIo::Plain(socket) => socket,
            StreamIo::Tls(socket) => socket.socket(),
        }
    }

    /// Returns the state that the connection shares with its requests and the tracker.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Follows the tracker's directive when there is nothing to read. Returns end of input, an
    /// error, or pending.
    fn poll_directive(&mut self) -> Poll<io::Result<()>> {
        match (self.connection.directive(), self.connection.phase()) {
            (Directive::Abort, _) => Poll::Ready(Err(self.abort())),
            (Directive::CloseIdle | Directive::Evict, Phase::New | Phase::Idle) => Poll::Ready(Ok(())),
            // `http` checks `Connection::should_leave_http`, too.
            (Directive::HandOver | Directive::Park, _) if self.connection.should_leave_http() => {
                Poll::Ready(Ok(()))
            }
            // `http` checks `Connection::is_head_overdue` and answers 408.
            _ => Poll::Pending,
        }
    }

    /// Marks a response in flight as aborted. Returns the error to end the connection with.
    pub fn abort(&self) -> io::Error {
        if self.connection.is_responding() {
            self.connection.mark_reset();
        }
        io::ErrorKind::TimedOut.into()
    }

    /// True if the client reset the connection or closed both halves, so it cannot read a response.
    /// After an orderly close over TCP this is false: it looks as if the client had only shut down
    /// its sending half.
    pub fn is_hung_up(&self) -> bool {
        let fd = self.socket().as_fd();
        // POLLHUP and POLLERR are always reported (poll(2)).
        let mut fds = [PollFd::new(&fd, PollFlags::empty())];
        match poll(&mut fds, Some(&Timespec::default())) {
            Ok(_) => fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR),
            Err(error) => {
                tracing::debug!(%error, "cannot poll a half-closed connection, ignoring");
                false
            }
        }
    }

    /// Lingering close (RFC 9112 §9.6): reads and drops input until the client closes its end or
    /// the tracker's timeout expires. A socket closed with unread input resets the connection, and
    /// the client may lose the response.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.connection.phase() != Phase::Lingering {
            self.connection.set_phase(Phase::Lingering);
        }
        let mut discarded = [MaybeUninit::uninit(); 4096];
        loop {
            let mut discarded = ReadBuf::uninit(&mut discarded);
            match with_socket!(self, socket => Pin::new(socket).poll_read(cx, &mut discarded)) {
                Poll::Ready(Ok(())) if !discarded.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    self.connection.register_waker(cx.waker());
                    return self.poll_directive().map(drop);
                }
            }
        }
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        // Unix sockets have no reset (unix(7)).
        if self.connection.is_reset()
            && let ClientSocket::Tcp(socket) = self.socket()
            && let Err(error) = socket.set_zero_linger()
        {
            tracing::debug!(%error, "cannot reset a connection, closing it");
        }
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = with_socket!(this, socket => Pin::new(socket).poll_read(cx, buf));
        if read.is_pending() {
            this.connection.register_waker(cx.waker());
            return this.poll_directive();
        }
        if this.is_plain() {
            // Over TLS, `RecordTransport` counts.
            this.connection.on_received(buf.filled().len() - before);
        }
        read
    }
}

impl ClientStream {
    /// Writes the rest of an interim response, which must precede everything else.
    fn poll_write_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.interim.is_empty() {
            let written = with_socket!(self, socket => Pin::new(socket).poll_write(cx, &self.interim));
            let written = ready!(self.record_write(written))?;
            self.interim.drain(..written);
            if self.interim.is_empty() {
                self.interim = Vec::new();
                self.connection.interim.set_in_flight(false);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Writes a slice while parts of files are queued: the slice itself, or a part if the slice is
    /// its stand-in.
    fn poll_write_file(&mut self, cx: &mut Context<'_>, slice: &[u8]) -> Poll<io::Result<usize>> {
        let StreamIo::Plain(socket) = &self.io else {
            return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
        };
        let files = &self.connection.output.files;
        let written = socket.poll_write_with(cx, |socket| files.write(socket, slice));
        if files.is_truncated() {
            self.connection.mark_reset();
        }
        self.record_write(written)
    }

    /// Records the outcome of a write for the timeouts. Over TLS, `RecordTransport` does so.
    fn record_write(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let StreamIo::Tls(_) = self.io {
            return self.or_abort(written);
        }
        match &written {
            Poll::Ready(Ok(bytes)) => self.connection.on_written(*bytes),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                self.connection.on_write_blocked();
                return self.or_abort(written);
            }
        }
        written
    }

    /// Returns an error instead of pending if the connection must end now.
    fn or_abort<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_pending() && self.connection.should_abort() {
            return Poll::Ready(Err(self.abort()));
        }
        polled
    }
}

/// Maximum total length in bytes of slices that are copied into one: for a head with a short body,
/// `send` takes 150 ns less of kernel time than `writev` (measured over loopback, Linux 6.18).
const COALESCE_MAX: usize = 2048;

/// Copies the slices into `buffer`. Returns `None` if they do not fit.
fn coalesce<'b>(slices: &[io::IoSlice<'_>], buffer: &'b mut [MaybeUninit<u8>]) -> Option<ReadBuf<'b>> {
    let len: usize = slices.iter().map(|slice| slice.len()).sum();
    if len > buffer.len() {
        return None;
    }
    let mut coalesced = ReadBuf::uninit(buffer);
    for slice in slices {
        coalesced.put_slice(slice);
    }
    Some(coalesced)
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_write_interim(cx))?;
        if this.connection.output.files.is_pending() {
            return this.poll_write_file(cx, bytes);
        }
        let written = with_socket!(this, socket => Pin::new(socket).poll_write(cx, bytes));
        this.record_write(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.connection.output.files.is_pending() {
            // A stand-in is recognised by its address, so it must not be copied. hyper writes the
            // rest again.
            let first = slices.iter().find(|slice| !slice.is_empty());
            return self.poll_write(cx, first.map_or(&[], |slice| slice));
        }
        let mut buffer = [MaybeUninit::uninit(); COALESCE_MAX];
        if let Some(coalesced) = coalesce(slices, &mut buffer) {
            return self.poll_write(cx, coalesced.filled());
        }
        let this = &mut *self;
        ready!(this.poll_write_interim(cx))?;
        let written = with_socket!(this, socket => Pin::new(socket).poll_write_vectored(cx, slices));
        this.record_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes after its last write and whenever it waits for a response. An interim
        // response may be sent only at these points.
        let this = &mut *self;
        if this.interim.is_empty() {
            this.interim = this.connection.interim.take();
            if !this.interim.is_empty() {
                this.connection.interim.set_in_flight(true);
            }
        }
        ready!(this.poll_write_interim(cx))?;
        match &mut this.io {
            StreamIo::Plain(_) => Poll::Ready(Ok(())),
            StreamIo::Tls(socket) => {
                let flushed = Pin::new(socket).poll_flush(cx);
                this.or_abort(flushed)
            }
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.connection.phase() != Phase::Lingering {
            let shut_down = with_socket!(this, socket => Pin::new(socket).poll_shutdown(cx));
            ready!(this.or_abort(shut_down))?;
            if !this.connection.has_unread_input() {
                return Poll::Ready(Ok(()));
            }
        }
        this.poll_linger(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_that_fit_are_coalesced_in_order() {
        let (head, body) = (vec![b'h'; 120], vec![b'b'; COALESCE_MAX - 120]);
        let mut buffer = [MaybeUninit::uninit(); COALESCE_MAX];
        let slices = [io::IoSlice::new(&head), io::IoSlice::new(b""), io::IoSlice::new(&body)];
        let coalesced = coalesce(&slices, &mut buffer).unwrap();
        assert_eq!(coalesced.filled(), [head.as_slice(), &body].concat());
        let slices = [io::IoSlice::new(&head), io::IoSlice::new(&body), io::IoSlice::new(b"1")];
        assert!(coalesce(&slices, &mut buffer).is_none());
    }
}
