//! The socket of an accepted connection.

use tokio::net::{TcpStream, UnixStream};

/// A connected socket by address family.
#[derive(Debug)]
pub(super) enum ClientSocket {
    Tcp(TcpStream),
    Unix(UnixStream),
}
