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

use super::record_transport::RecordTransport;
use super::socket::ClientSocket;
use crate::tls::TlsSession;

/// A socket whose handshake is complete.
#[derive(Debug)]
pub(super) struct TlsSocket {
    stream: TlsStream<RecordTransport>,
    session: Arc<TlsSession>,
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
        self.stream.get_ref().0.socket()
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
        self.stream.get_mut().0.begin_close();
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
