//! Reads a PROXY header from a socket, and no byte beyond it.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;

use super::header::{self, HeaderError, ProxyHeader};
use crate::net::socket::ClientSocket;

/// Maximum number of bytes that are peeked at once. Most headers are shorter.
const PEEK_BYTES: usize = 256;

/// The reason why no header was received.
#[derive(Debug, thiserror::Error)]
pub(in crate::net) enum ReceiveError {
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The peer sent nothing, as health checks of load balancers do.
    #[error("it ended before its first byte")]
    Empty,
    #[error("it ended before its PROXY header was complete")]
    Eof,
    #[error("reading its PROXY header failed")]
    Io(#[from] io::Error),
}

/// Receives the header that a connection begins with. The caller limits the time; if it ends, `received`
/// has the beginning of the header.
pub(in crate::net) async fn receive(
    socket: &ClientSocket,
    received: &mut Vec<u8>,
) -> Result<ProxyHeader, ReceiveError> {
    let mut buffer = [0; PEEK_BYTES];
    loop {
        let peeked = peek(socket, &mut buffer).await?;
        let next = match buffer.get(..peeked).unwrap_or_default() {
            [] if received.is_empty() => return Err(ReceiveError::Empty),
            [] => return Err(ReceiveError::Eof),
            next => next,
        };
        let (len, is_complete) = header::measure(received, next)?;
        received.extend_from_slice(next.get(..len).unwrap_or_default());
        take(socket, buffer.get_mut(..len).unwrap_or_default())?;
        if is_complete {
            return Ok(header::parse(received)?);
        }
    }
}

/// Copies the bytes that can be read and leaves them in the socket. Returns 0 at the end of input.
async fn peek(socket: &ClientSocket, buffer: &mut [u8]) -> io::Result<usize> {
    let mut peek = |fd| recv(fd, buffer, MsgFlags::MSG_PEEK).map_err(io::Error::from);
    match socket {
        ClientSocket::Tcp(socket) => socket.async_io(Interest::READABLE, || peek(socket.as_raw_fd())).await,
        ClientSocket::Unix(socket) => socket.async_io(Interest::READABLE, || peek(socket.as_raw_fd())).await,
    }
}

/// Reads bytes that were peeked before and are therefore in the socket's buffer.
fn take(socket: &ClientSocket, bytes: &mut [u8]) -> io::Result<()> {
    let mut taken = 0;
    while let Some(rest) = bytes.get_mut(taken..).filter(|rest| !rest.is_empty()) {
        taken += match socket {
            ClientSocket::Tcp(socket) => socket.try_read(rest)?,
            ClientSocket::Unix(socket) => socket.try_read(rest)?,
        };
    }
    Ok(())
}
