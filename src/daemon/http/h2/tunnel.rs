//! An HTTP/2 stream as the transport of a WebSocket (RFC 8441).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::net::{Connection, Transport};

use super::MAX_SEND_BUFFER;
use super::data::StreamData;
use super::meter::Meter;

/// The bytes of a WebSocket within a stream. If the tunnel is dropped before it was shut down, the
/// stream is reset.
pub(super) struct Tunnel {
    send: SendStream<StreamData>,
    received: RecvStream,
    connection: Arc<Connection>,
    meter: Arc<Meter>,
    /// The rest of a DATA frame that has not been read yet.
    unread: Bytes,
    is_shut_down: bool,
}

impl Tunnel {
    pub(super) fn new(
        send: SendStream<StreamData>,
        received: RecvStream,
        connection: Arc<Connection>,
        meter: Arc<Meter>,
    ) -> Self {
        Self { send, received, connection, meter, unread: Bytes::new(), is_shut_down: false }
    }
}

impl Transport for Tunnel {
    fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

fn broken(error: h2::Error) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.unread.is_empty() {
            match ready!(this.received.poll_data(cx)) {
                Some(data) => this.unread = data.map_err(broken)?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let len = this.unread.len().min(buf.remaining());
        buf.put_slice(this.unread.get(..len).unwrap_or_default());
        this.unread.advance(len);
        this.meter.add_useful(len);
        // Gives credit only for bytes that were read, so that a client whose WebSocket is not read
        // stops sending.
        Poll::Ready(this.received.flow_control().release_capacity(len).map_err(broken))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.send.reserve_capacity(bytes.len().min(MAX_SEND_BUFFER));
        let mut capacity = this.send.capacity();
        while capacity == 0 {
            match this.send.poll_capacity(cx) {
                Poll::Pending => {
                    this.connection.on_write_blocked();
                    return Poll::Pending;
                }
                Poll::Ready(Some(Ok(_))) => capacity = this.send.capacity(),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(broken(error))),
                Poll::Ready(None) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let part = bytes.get(..capacity).unwrap_or(bytes);
        this.send.send_data(StreamData::Bytes(Bytes::copy_from_slice(part)), false).map_err(broken)?;
        this.connection.on_written(part.len());
        this.meter.add_useful(part.len());
        Poll::Ready(Ok(part.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_shut_down {
            self.is_shut_down = true;
            self.send.send_data(StreamData::End, true).map_err(broken)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // The equivalent of a TCP reset (RFC 8441 §5). Without this call, h2 would send its queued
        // data before the reset.
        if !self.is_shut_down && self.connection.is_reset() {
            self.send.send_reset(Reason::CANCEL);
        }
    }
}
