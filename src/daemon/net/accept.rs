//! The accept loop of one listener.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::sync::watch;

use super::connection::{Connection, Connections, Peer};
use super::listener::{Acceptor, Listener};
use super::stream::{Socket, Stream};

/// Pause after running out of descriptors or memory: the backlog holds the clients meanwhile.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// Accepts until `stop` says so; then, of a socket that systemd does not keep, what waits already. `index` is the listener's number, told to the application; `serve` gets
/// each connection.
///
/// # Errors
/// When the listener cannot be registered, or `accept(2)` fails in a way that will not pass.
pub async fn accept(
    listener: &Listener,
    index: u16,
    connections: &Arc<Connections>,
    mut stop: watch::Receiver<bool>,
    serve: impl Fn(Stream),
) -> io::Result<()> {
    let acceptor = listener.acceptor()?;
    let take = |socket, peer| {
        let connection = connections.register(Connection::new(peer, index, connections));
        serve(Stream::new(socket, connection));
    };
    loop {
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            () = connections.permit() => {}
        }
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = acceptor.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => take(socket, peer),
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                // accept(2): the connection died in the backlog; the next one is fine.
                Some(
                    Errno::ECONNABORTED
                    | Errno::EINTR
                    | Errno::EPROTO
                    | Errno::ENETDOWN
                    | Errno::ENOPROTOOPT
                    | Errno::EHOSTDOWN
                    | Errno::ENONET
                    | Errno::EHOSTUNREACH
                    | Errno::EOPNOTSUPP
                    | Errno::ENETUNREACH
                    | Errno::EPERM,
                ) => tracing::debug!(%error, "a connection ended before it was accepted, ignoring"),
                Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => {
                    tracing::warn!(%error, rgun.listener = %listener.name,
                        "cannot accept for now, pausing; raise LimitNOFILE= if this goes on");
                    tokio::time::sleep(EXHAUSTED).await;
                }
                _ => return Err(error),
            },
        }
    }
    if listener.is_own() {
        // The backlog goes with the socket, and who is in it takes himself for connected. After one turn of the
        // reactor it is known whether there is anybody.
        tokio::task::yield_now().await;
        loop {
            tokio::select! {
                biased;
                accepted = acceptor.accept() => match accepted {
                    Ok((socket, peer)) => take(socket, peer),
                    Err(error) => {
                        tracing::debug!(%error, "cannot accept what is left in the backlog, ignoring");
                        break;
                    }
                },
                () = std::future::ready(()) => break,
            }
        }
    }
    Ok(())
}

impl Acceptor {
    async fn accept(&self) -> io::Result<(Socket, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Answers are written whole: waiting for more (Nagle) only delays their last segment.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY, ignoring");
                }
                Ok((Socket::Tcp(stream), Peer::from(address)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Socket::Unix(stream), Peer::unix()))
            }
        }
    }
}
