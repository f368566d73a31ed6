//! The accept loop of one listener.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tokio::sync::watch;

use super::connection::{Connection, ConnectionTracker};
use super::listener::{Acceptor, Listener};
use super::peer::Peer;
use super::stream::{ClientSocket, ClientStream};

/// How often the log is told of running out of descriptors or memory.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Accepts until `stop` says so; then, of a socket that systemd does not keep, what waits already. `index` is the
/// listener's number, told to the application; `serve` gets each connection.
///
/// A connection is accepted before there is a place for it, because only then another one is to be closed for it: beside
/// `limits.connections` there may be one for each listener.
///
/// # Errors
/// When the listener cannot be registered, or `accept(2)` fails in a way that will not pass.
pub async fn accept(
    listener: &Listener,
    index: u16,
    connections: &Arc<ConnectionTracker>,
    mut stop: watch::Receiver<bool>,
    serve: impl Fn(ClientStream),
) -> io::Result<()> {
    let acceptor = listener.acceptor()?;
    let take = |socket, peer| {
        let connection = connections.register(Connection::new(peer, index, connections));
        serve(ClientStream::new(socket, connection));
    };
    let mut reported = None;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = acceptor.accept() => accepted,
        };
        match accepted {
            Ok((_, peer)) if !connections.admit(&peer) => {}
            Ok((socket, peer)) => {
                tokio::select! {
                    biased;
                    // It is served all the same: its client takes itself for connected.
                    _ = stop.wait_for(|stop| *stop) => {}
                    () = connections.wait_for_capacity() => {}
                }
                take(socket, peer);
            }
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
                    let now = Instant::now();
                    if reported.is_none_or(|reported| now.duration_since(reported) >= REPORT_INTERVAL) {
                        reported = Some(now);
                        tracing::warn!(%error, rgun.listener = %listener.name,
                            "cannot accept for now: the connection that has been idle for longest is closed for each \
                             further client, and while none is, it waits; raise LimitNOFILE= if this goes on");
                    }
                    // The backlog holds the clients meanwhile.
                    connections.evict_idle().await;
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
    async fn accept(&self) -> io::Result<(ClientSocket, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Answers are written whole: waiting for more (Nagle) only delays their last segment.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "cannot set TCP_NODELAY, ignoring");
                }
                Ok((ClientSocket::Tcp(stream), Peer::from(address)))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((ClientSocket::Unix(stream), Peer::unix()))
            }
        }
    }
}
