//! The accept loop of one listener, run by `edge`.

use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tokio::sync::watch;

use super::listener::{Acceptor, Listener};
use super::peer::Peer;
use super::stream::{ClientSocket, ClientStream};
use super::tracker::ConnectionTracker;

/// Minimum interval between two log lines about missing descriptors or memory.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Accepts connections until `stop` is true; then, from a socket that systemd does not keep, those in the backlog.
/// `index` is the listener's number, which the application receives; `serve` receives each connection.
///
/// A connection is accepted before there is room for it, because only then an idle one should be closed for it: there
/// may be one more than `limits.connections` per listener.
///
/// # Errors
/// The listener cannot be registered, or `accept(2)` failed permanently.
pub async fn accept(
    listener: &Listener,
    index: u16,
    tracker: &ConnectionTracker,
    mut stop: watch::Receiver<bool>,
    serve: impl Fn(ClientStream),
) -> io::Result<()> {
    let acceptor = listener.acceptor()?;
    let start = |socket, peer| {
        let connection = tracker.register(peer, index);
        serve(ClientStream::new(socket, connection));
    };
    let mut shortage = ShortageLog::default();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = acceptor.accept() => accepted,
        };
        match accepted {
            Ok((_, peer)) if !tracker.admit(&peer) => {}
            Ok((socket, peer)) => {
                tokio::select! {
                    biased;
                    // It is served without room for it: its client is connected already.
                    _ = stop.wait_for(|stop| *stop) => {}
                    () = tracker.wait_for_capacity() => {}
                }
                start(socket, peer);
            }
            Err(error) => match AcceptError::from(&error) {
                AcceptError::Connection => {
                    tracing::debug!(%error, "a connection ended before it was accepted, ignoring");
                }
                AcceptError::Shortage => {
                    shortage.report(&error, listener);
                    // The clients wait in the backlog.
                    tracker.evict_idle().await;
                }
                AcceptError::Permanent => return Err(error),
            },
        }
    }
    if listener.is_own() {
        drain_backlog(&acceptor, start).await;
    }
    Ok(())
}

/// Accepts the connections in the backlog: the kernel ends them when the socket is closed.
async fn drain_backlog(acceptor: &Acceptor, start: impl Fn(ClientSocket, Peer)) {
    // The reactor learns only in its next turn whether the backlog is empty.
    tokio::task::yield_now().await;
    loop {
        tokio::select! {
            biased;
            accepted = acceptor.accept() => match accepted {
                Ok((socket, peer)) => start(socket, peer),
                Err(error) => {
                    tracing::debug!(%error, "cannot accept what is left in the backlog, ignoring");
                    break;
                }
            },
            () = std::future::ready(()) => break,
        }
    }
}

/// The kinds of errors of `accept(2)`.
enum AcceptError {
    /// The error of one connection in the backlog; the next one is not affected.
    Connection,
    /// No descriptor or memory at the moment.
    Shortage,
    /// The listener is unusable.
    Permanent,
}

impl From<&io::Error> for AcceptError {
    fn from(error: &io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
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
            ) => Self::Connection,
            Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => Self::Shortage,
            _ => Self::Permanent,
        }
    }
}

/// Logs shortages at a limited rate.
#[derive(Default)]
struct ShortageLog {
    /// Time of the last log line.
    reported: Option<Instant>,
}

impl ShortageLog {
    fn report(&mut self, error: &io::Error, listener: &Listener) {
        let now = Instant::now();
        if self.reported.is_some_and(|reported| now.duration_since(reported) < REPORT_INTERVAL) {
            return;
        }
        self.reported = Some(now);
        tracing::warn!(%error, rgun.listener = %listener.name,
            "cannot accept for now: the connection that has been idle for longest is closed for each \
             further client, and while none is, it waits; raise LimitNOFILE= if this goes on");
    }
}

impl Acceptor {
    async fn accept(&self) -> io::Result<(ClientSocket, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Responses are written whole: Nagle's algorithm would only delay their last segment.
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
