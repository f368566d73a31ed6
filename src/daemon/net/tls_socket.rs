//! A client's socket after its TLS handshake.
//!
//! ```text
//! ClientStream ──▶ TlsSocket ──▶ rustls (records) ──▶ RecordTransport (timeouts, bytes) ──▶ socket
//! ```
//! rustls accepts output while the socket would block. Written bytes and blocked writes are
//! therefore counted below rustls, where the records are written to the socket.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::connection::Connection;
use super::socket::ClientSocket;
use crate::tls::TlsSession;

/// A socket whose handshake is complete.
#[derive(Debug)]
pub(super) struct TlsSocket {
    stream: TlsStream<RecordTransport>,
    session: Arc<TlsSession>,
}

/// A socket as rustls reads and writes it.
#[derive(Debug)]
pub(super) struct RecordTransport {
    pub(super) socket: ClientSocket,
    pub(super) connection: Arc<Connection>,
}

impl TlsSocket {
    pub(super) fn new(stream: TlsStream<RecordTransport>, session: Arc<TlsSession>) -> Self {
        Self { stream, session }
    }

    /// Returns the parameters that the handshake has negotiated, and the client's certificate.
    pub(super) fn session(&self) -> &Arc<TlsSession> {
        &self.session
    }

    pub(super) fn socket(&self) -> &ClientSocket {
        &self.stream.get_ref().0.socket
    }
}

impl AsyncRead for TlsSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            // Many clients close without close_notify (RFC 9112 §9.8). An incomplete request is
            // noticed by its length instead.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Poll::Ready(Ok(())),
            polled => polled,
        }
    }
}

impl AsyncWrite for TlsSocket {
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
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Sends close_notify and shuts down the sending half (RFC 8446 §6.1). The client may still
    /// send.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl RecordTransport {
    fn record(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => self.connection.on_written(*bytes),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.connection.on_write_blocked(),
        }
        written
    }
}

impl AsyncRead for RecordTransport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.socket {
            ClientSocket::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            ClientSocket::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for RecordTransport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match &mut self.socket {
            ClientSocket::Tcp(socket) => Pin::new(socket).poll_write(cx, bytes),
            ClientSocket::Unix(socket) => Pin::new(socket).poll_write(cx, bytes),
        };
        self.record(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.socket {
            ClientSocket::Tcp(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            ClientSocket::Unix(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
        };
        self.record(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Sockets buffer nothing in this process.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            ClientSocket::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            ClientSocket::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
        }
    }
}
