//! The socket of an accepted connection.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::net::{AddressFamily, sockopt};
use tokio::io::Interest;
use tokio::net::{TcpStream, UnixStream};

use super::peer::Peer;

/// A connected socket by address family.
#[derive(Debug)]
pub(super) enum ClientSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsFd for ClientSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

impl ClientSocket {
    /// Registers a non-blocking socket of the previous daemon with the current reactor.
    pub(super) fn from_stored(fd: OwnedFd) -> io::Result<Self> {
        Ok(match sockopt::socket_domain(&fd)? {
            AddressFamily::UNIX => Self::Unix(UnixStream::from_std(fd.into())?),
            _ => Self::Tcp(TcpStream::from_std(fd.into())?),
        })
    }

    /// Returns the address of the peer.
    pub(super) fn peer(&self) -> io::Result<Peer> {
        match self {
            Self::Tcp(socket) => Ok(socket.peer_addr()?.into()),
            Self::Unix(_) => Ok(Peer::unix()),
        }
    }

    /// Calls `write` when the socket is writable, until `write` succeeds or fails for good.
    pub(super) fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        mut write: impl FnMut(BorrowedFd<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let written = match self {
                Self::Tcp(socket) => {
                    ready!(socket.poll_write_ready(cx))?;
                    socket.try_io(Interest::WRITABLE, || write(socket.as_fd()))
                }
                Self::Unix(socket) => {
                    ready!(socket.poll_write_ready(cx))?;
                    socket.try_io(Interest::WRITABLE, || write(socket.as_fd()))
                }
            };
            match written {
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                written => return Poll::Ready(written),
            }
        }
    }
}
