//! The accept loop of one listener, run by `edge`.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::handshake::NewConnection;
use super::listener::{Acceptor, Listener};
use super::peer::{Client, Peer};
use super::proxy_protocol::{self, HeaderFault, ProxyHeader, ReceiveError, RejectedHeader};
use super::socket::ClientSocket;
use super::tracker::{ConnectionReservation, ConnectionTracker};
use crate::error_chain::Chain;
use crate::tls::TlsContext;

/// Maximum time for which a PROXY header is still awaited after the daemon was asked to stop.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Minimum interval between two log lines about missing descriptors or memory.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Accepts connections until `stop` is true. Then, if systemd does not keep the socket, accepts the
/// connections that are still in the backlog. `index` is the listener's number, which the
/// application receives; `serve` receives each connection, `reject` those whose PROXY header is
/// refused.
///
/// At the connection limit, a new connection is accepted first, and an idle one is closed
/// afterwards. Each listener may therefore exceed `limits.connections` by one connection.
///
/// # Errors
/// The listener cannot be registered, or `accept(2)` failed permanently.
pub async fn accept(
    listener: &Listener,
    index: u16,
    tracker: &Arc<ConnectionTracker>,
    mut stop: watch::Receiver<bool>,
    serve: impl Fn(NewConnection) + Clone + Send + 'static,
    reject: impl Fn(RejectedHeader) + Clone + Send + 'static,
) -> io::Result<()> {
    let acceptor = listener.acceptor()?;
    let starter = Starter { tracker, index, serve, reject };
    let mut shortage = ShortageLog::default();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = acceptor.accept() => accepted,
        };
        match accepted {
            Ok((_, peer)) if !starter.admit(listener, &peer) => {}
            Ok((socket, peer)) => {
                tokio::select! {
                    biased;
                    // The client is connected already, so it is served even at the connection
                    // limit.
                    _ = stop.wait_for(|stop| *stop) => {}
                    () = tracker.wait_for_capacity() => {}
                }
                starter.start(listener, socket, peer, &stop);
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
        drain_backlog(listener, &acceptor, &starter, &stop).await;
    }
    Ok(())
}

/// Accepts the connections in the backlog, which the kernel would reset when the socket is closed.
async fn drain_backlog(
    listener: &Listener,
    acceptor: &Acceptor,
    starter: &Starter<
        '_,
        impl Fn(NewConnection) + Clone + Send + 'static,
        impl Fn(RejectedHeader) + Clone + Send + 'static,
    >,
    stop: &watch::Receiver<bool>,
) {
    // Lets the reactor poll the kernel, so that it knows of the connections in the backlog.
    tokio::task::yield_now().await;
    loop {
        tokio::select! {
            biased;
            accepted = acceptor.accept() => match accepted {
                Ok((_, peer)) if listener.proxy_protocol.is_required() && !starter.admit(listener, &peer) => {}
                Ok((socket, peer)) => starter.start(listener, socket, peer, stop),
                Err(error) => {
                    tracing::debug!(%error, "cannot accept the rest of the backlog, ignoring");
                    break;
                }
            },
            () = std::future::ready(()) => break,
        }
    }
}

/// Starts to serve accepted connections.
struct Starter<'t, S, R> {
    tracker: &'t Arc<ConnectionTracker>,
    index: u16,
    serve: S,
    reject: R,
}

impl<S, R> Starter<'_, S, R>
where
    S: Fn(NewConnection) + Clone + Send + 'static,
    R: Fn(RejectedHeader) + Clone + Send + 'static,
{
    /// Returns false for a connection that must be closed at once: its client has too many connections,
    /// or the peer may not send a PROXY header.
    fn admit(&self, listener: &Listener, peer: &Peer) -> bool {
        if !listener.proxy_protocol.is_required() {
            return self.tracker.admit(peer);
        }
        let is_trusted = listener.proxy_protocol.trusts(peer);
        if !is_trusted {
            let (peer, listener) = (peer.address.clone(), listener.name.clone());
            (self.reject)(RejectedHeader { peer, listener, fault: HeaderFault::Untrusted });
        }
        is_trusted
    }

    /// Serves a connection, after its PROXY header if the listener requires one.
    fn start(&self, listener: &Listener, socket: ClientSocket, peer: Peer, stop: &watch::Receiver<bool>) {
        if !listener.proxy_protocol.is_required() {
            let connection = self.tracker.register(peer.into(), self.index);
            return (self.serve)(NewConnection { socket, connection, tls: listener.tls.get() });
        }
        tokio::spawn(serve_proxied(
            ProxiedConnection {
                socket,
                proxy: peer,
                tls: listener.tls.get(),
                listener: listener.name.clone(),
                index: self.index,
                reservation: self.tracker.reserve(),
            },
            Arc::clone(self.tracker),
            stop.clone(),
            self.serve.clone(),
            self.reject.clone(),
        ));
    }
}

/// A connection whose PROXY header has not been received.
struct ProxiedConnection {
    socket: ClientSocket,
    /// The peer that will send the header.
    proxy: Peer,
    /// The TLS settings for the bytes after the header.
    tls: Option<Arc<TlsContext>>,
    /// The listener's name.
    listener: String,
    /// The listener's number.
    index: u16,
    /// Counts the connection until it is registered, so that a drain and `limits.connections`
    /// include it.
    reservation: ConnectionReservation,
}

/// Receives a PROXY header, and serves the connection as one from the client that the header names.
async fn serve_proxied(
    pending: ProxiedConnection,
    tracker: Arc<ConnectionTracker>,
    mut stop: watch::Receiver<bool>,
    serve: impl Fn(NewConnection),
    reject: impl Fn(RejectedHeader),
) {
    let ProxiedConnection { socket, proxy, tls, listener, index, reservation } = pending;
    let mut beginning = Vec::new();
    let header = timeout(tracker.header_timeout(), proxy_protocol::receive(&socket, &mut beginning));
    // The header of a connection that was accepted before the stop is on its way.
    let stopped = async {
        drop(stop.wait_for(|stop| *stop).await);
        sleep(STOP_GRACE).await;
    };
    let received = tokio::select! {
        received = header => match received {
            Ok(Err(ReceiveError::Empty)) => return,
            Ok(received) => received.map_err(|error| HeaderFault::Invalid(Chain(&error).to_string())),
            Err(_) => Err(HeaderFault::Late),
        },
        () = stopped => Err(HeaderFault::Stopped),
    };
    // A client that has sent nothing misses nothing.
    if matches!(received, Err(HeaderFault::Stopped)) && beginning.is_empty() {
        return;
    }
    match received {
        Ok(ProxyHeader { source, https }) => {
            let peer = source.map_or(proxy, Peer::from);
            if tracker.admit(&peer) {
                let connection = tracker.register(Client { peer, https }, index);
                drop(reservation);
                serve(NewConnection { socket, connection, tls });
            }
        }
        Err(fault) => reject(RejectedHeader { peer: proxy.address, listener, fault }),
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
            "cannot accept for now: each further client replaces the connection that has been idle longest, \
             or waits if none is idle; raise LimitNOFILE= if this goes on");
    }
}

impl Acceptor {
    /// Accepts one connection.
    ///
    /// # Errors
    /// The error of `accept4(2)`.
    pub async fn accept(&self) -> io::Result<(ClientSocket, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Responses are written whole: Nagle's algorithm would only delay their last
                // segment.
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
