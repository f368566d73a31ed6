//! A connection's bytes: TCP or unix, with its phase kept and its orders obeyed.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::connection::{Connection, Order, Phase};

/// The socket of an accepted connection.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// An accepted connection.
#[derive(Debug)]
pub struct Stream {
    socket: Socket,
    connection: Arc<Connection>,
    /// The rest of an interim answer of which a part is out.
    hint: Vec<u8>,
}

/// What a client gets whose head did not arrive in time (RFC 9110 §15.5.9).
const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

macro_rules! with_socket {
    ($self:ident, $socket:ident => $call:expr) => {
        match &mut $self.socket {
            Socket::Tcp($socket) => $call,
            Socket::Unix($socket) => $call,
        }
    };
}

impl Stream {
    pub(super) fn new(socket: Socket, connection: Arc<Connection>) -> Self {
        Self { socket, connection, hint: Vec::new() }
    }

    /// What is known of it.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Nothing to read: does the daemon want something of this connection?
    fn obey(&mut self) -> Poll<io::Result<()>> {
        match (self.connection.order(), self.connection.phase()) {
            (Order::Break, _) => Poll::Ready(Err(self.break_off())),
            (Order::CloseIdle, Phase::Fresh | Phase::Idle) => Poll::Ready(Ok(())),
            (Order::HeadTooSlow, Phase::Head) => {
                // Nothing of an answer is under way in this phase, so the socket is ours to write on. A client
                // that does not even take this gets the end of the connection alone.
                let written = match &self.socket {
                    Socket::Tcp(socket) => socket.try_write(REQUEST_TIMEOUT),
                    Socket::Unix(socket) => socket.try_write(REQUEST_TIMEOUT),
                };
                tracing::debug!(client = %self.connection.peer.address, told = written.is_ok(),
                    "a request's head took longer than timeouts.header");
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            (Order::Stay | Order::CloseIdle | Order::HeadTooSlow, _) => Poll::Pending,
        }
    }

    fn break_off(&self) -> io::Error {
        if self.connection.is_answering() {
            self.connection.breaks_off();
        }
        io::ErrorKind::TimedOut.into()
    }

    /// Reads what still comes and drops it, until the client has closed its end or its time is up. Closed with
    /// unread input, a connection is reset, and the client may lose the answer (RFC 9112 §9.6).
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.connection.phase() != Phase::Closing {
            self.connection.enter(Phase::Closing);
        }
        let mut scrap = [MaybeUninit::uninit(); 4096];
        loop {
            let mut scrap = ReadBuf::uninit(&mut scrap);
            match with_socket!(self, socket => Pin::new(socket).poll_read(cx, &mut scrap)) {
                Poll::Ready(Ok(())) if !scrap.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    self.connection.remember(cx.waker());
                    return self.obey().map(drop);
                }
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // A unix socket knows no reset (unix(7)).
        if self.connection.is_broken()
            && let Socket::Tcp(socket) = &self.socket
            && let Err(error) = socket.set_zero_linger()
        {
            tracing::debug!(%error, "cannot reset a connection, closing it");
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let this = &mut *self;
        match with_socket!(this, socket => Pin::new(socket).poll_read(cx, buf)) {
            Poll::Ready(Ok(())) => {
                if buf.filled().len() > before {
                    this.connection.has_read();
                }
                Poll::Ready(Ok(()))
            }
            Poll::Pending => {
                this.connection.remember(cx.waker());
                this.obey()
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        }
    }
}

impl Stream {
    /// Writes what is left of an interim answer, before anything else is written.
    fn poll_hint(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.hint.is_empty() {
            let written = with_socket!(self, socket => Pin::new(socket).poll_write(cx, &self.hint));
            let written = ready!(self.note(written))?;
            self.hint.drain(..written);
            if self.hint.is_empty() {
                self.hint = Vec::new();
                self.connection.set_hinting(false);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(_) => self.connection.has_written(true),
            Poll::Pending => {
                self.connection.has_written(false);
                if self.connection.order() == Order::Break {
                    return Poll::Ready(Err(self.break_off()));
                }
            }
        }
        written
    }
}

/// Up to so many bytes in several slices are copied into one: `send` takes 150 ns less of the kernel's time for a head
/// with a short body than `writev` (measured over loopback, Linux 6.18).
const JOINED: usize = 2048;

/// The slices as one, if that is worth it and `room` is enough.
fn join<'r>(slices: &[io::IoSlice<'_>], room: &'r mut [MaybeUninit<u8>]) -> Option<ReadBuf<'r>> {
    let len: usize = slices.iter().map(|slice| slice.len()).sum();
    if len > room.len() {
        return None;
    }
    let mut joined = ReadBuf::uninit(room);
    for slice in slices {
        joined.put_slice(slice);
    }
    Some(joined)
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_hint(cx))?;
        let written = with_socket!(this, socket => Pin::new(socket).poll_write(cx, bytes));
        this.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut room = [MaybeUninit::uninit(); JOINED];
        if let Some(joined) = join(slices, &mut room) {
            return self.poll_write(cx, joined.filled());
        }
        let this = &mut *self;
        ready!(this.poll_hint(cx))?;
        let written = with_socket!(this, socket => Pin::new(socket).poll_write_vectored(cx, slices));
        this.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes when it has nothing more to write, and whenever it waits for an answer: now an interim one can
        // go between. But for that nothing is buffered here: sockets write through.
        let this = &mut *self;
        if this.hint.is_empty() {
            this.hint = this.connection.take_hint();
            if !this.hint.is_empty() {
                this.connection.set_hinting(true);
            }
        }
        this.poll_hint(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.connection.phase() != Phase::Closing {
            ready!(with_socket!(this, socket => Pin::new(socket).poll_shutdown(cx)))?;
            if !this.connection.is_unread() {
                return Poll::Ready(Ok(()));
            }
        }
        this.poll_rest(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_joined_in_order_and_nothing_else() {
        let (head, body) = (vec![b'h'; 120], vec![b'b'; JOINED - 120]);
        let mut room = [MaybeUninit::uninit(); JOINED];
        let slices = [io::IoSlice::new(&head), io::IoSlice::new(b""), io::IoSlice::new(&body)];
        let joined = join(&slices, &mut room).unwrap();
        assert_eq!(joined.filled(), [head.as_slice(), &body].concat());
        let slices = [io::IoSlice::new(&head), io::IoSlice::new(&body), io::IoSlice::new(b"1")];
        assert!(join(&slices, &mut room).is_none());
    }
}
