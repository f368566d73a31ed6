//! The TLS handshake of a new connection, before HTTP.
//!
//! A handshake costs a signature and a key exchange, up to milliseconds of processor time. The
//! reactor's thread only reads the client's first message; threads of lower priority compute the
//! answer, so that running requests go first.
//!
//! A handshake must be complete within `timeouts.header`. Until then the connection counts as idle,
//! and may be closed to make room for a new connection.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::AsRawFd;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::Poll;
use std::time::Duration;

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::rustls::server::Acceptor;
use tokio_rustls::rustls::{HandshakeKind, ProtocolVersion, ServerConfig};
use tokio_rustls::server::Accept;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::connection::Connection;
use super::directive::Directive;
use super::phase::Phase;
use super::record_transport::RecordTransport;
use super::socket::ClientSocket;
use super::stream::ClientStream;
use super::tls_socket::TlsSocket;
use crate::tls::{HandshakeFault, TlsContext};

/// A connection that has been accepted, and from which nothing has been read.
#[derive(Debug)]
pub struct NewConnection {
    pub(super) socket: ClientSocket,
    pub(super) connection: Arc<Connection>,
    /// `None` if the connection has no TLS.
    pub(super) tls: Option<Arc<TlsContext>>,
}

/// The TLS settings of a listener's new connections; a reload replaces them.
#[derive(Debug, Default)]
pub struct ListenerTls(RwLock<Option<Arc<TlsContext>>>);

impl ListenerTls {
    /// Replaces the settings; `None`: connections have no TLS.
    pub fn set(&self, tls: Option<Arc<TlsContext>>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = tls;
    }

    /// Returns the settings for a new connection.
    pub(super) fn get(&self) -> Option<Arc<TlsContext>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The outcome of a handshake.
#[derive(Debug)]
pub enum HandshakeOutcome {
    /// The handshake is complete.
    Complete(ClientStream),
    /// The client speaks HTTP without TLS. Nothing has been read.
    PlainHttp(ClientStream),
}

/// A handshake that failed.
#[derive(Debug)]
pub struct FailedHandshake {
    /// The reason for the log. `None`: the client sent nothing.
    pub reason: Option<String>,
    /// The connection, if an alert was sent to the client. The caller shuts it down instead of
    /// dropping it: closing a socket with unread input resets the connection, and the client may
    /// lose the alert.
    pub stream: Option<ClientStream>,
}

impl FailedHandshake {
    /// Creates a failure without an alert to the client.
    fn new(reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), stream: None }
    }

    /// Converts the error of a handshake that has begun. `transport` is the connection's socket, if
    /// it still exists.
    fn of(error: &io::Error, transport: Option<RecordTransport>) -> Self {
        let fault = HandshakeFault::of(error);
        let transport = transport.filter(|_| fault.is_alerted());
        let stream = transport.map(|transport| {
            let (socket, connection) = transport.into_socket();
            connection.mark_unread_input();
            ClientStream::new(socket, connection)
        });
        Self { reason: Some(fault.to_string()), stream }
    }
}

/// The first byte of a TLS record with a handshake message (RFC 8446 §5.1).
const HANDSHAKE_RECORD: u8 = 22;

impl NewConnection {
    /// Returns the stream of a connection without TLS.
    pub fn into_stream(self) -> ClientStream {
        ClientStream::new(self.socket, self.connection)
    }

    /// Returns the state that the connection shares with the tracker.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Returns the TLS settings; `None` for a connection without TLS.
    pub fn tls(&self) -> Option<&Arc<TlsContext>> {
        self.tls.as_ref()
    }

    /// Performs the handshake.
    ///
    /// # Errors
    /// The client violated the protocol, is not allowed, left, or was too slow; or the connection
    /// was evicted, or the daemon stopped.
    pub async fn handshake(
        self,
        tls: &TlsContext,
        threads: &HandshakeThreads,
    ) -> Result<HandshakeOutcome, FailedHandshake> {
        let (connection, has_begun) = (Arc::clone(&self.connection), AtomicBool::new(false));
        bounded(&connection, &has_begun, self.unbounded_handshake(tls, threads, &has_begun)).await
    }

    /// Performs the handshake without a time limit. Sets `has_begun` at the client's first byte.
    async fn unbounded_handshake(
        self,
        tls: &TlsContext,
        threads: &HandshakeThreads,
        has_begun: &AtomicBool,
    ) -> Result<HandshakeOutcome, FailedHandshake> {
        match first_byte(&self.socket).await {
            Ok(None) | Err(_) => return Err(FailedHandshake { reason: None, stream: None }),
            // The first letter of a method (RFC 9110 §9.1). Other bytes get an alert.
            Ok(Some(byte)) if byte != HANDSHAKE_RECORD && byte.is_ascii_alphabetic() => {
                return Ok(HandshakeOutcome::PlainHttp(self.into_stream()));
            }
            Ok(Some(_)) => has_begun.store(true, Ordering::Relaxed),
        }
        let Self { socket, connection, .. } = self;
        let transport = RecordTransport::new(socket, Arc::clone(&connection));
        let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), transport);
        let started = match (&mut acceptor).await {
            Ok(started) => started,
            Err(error) => return Err(FailedHandshake::of(&error, acceptor.take_io())),
        };
        let hello = started.client_hello();
        let identity = tls.choose(&hello);
        let identity =
            identity.ok_or_else(|| FailedHandshake::new("there is no certificate for the client"))?;
        let config = Arc::clone(identity.config(&hello));
        let accepting = threads.run(move || accept(started, config)).await;
        let accepting = accepting.map_err(|error| FailedHandshake::new(error.to_string()))?;
        let accepted = accepting.into_fallible().await;
        let mut stream =
            accepted.map_err(|(error, transport)| FailedHandshake::of(&error, Some(transport)))?;
        let session = identity.session(stream.get_ref().1);
        let session = session.map_err(|error| FailedHandshake::new(error.to_string()))?;
        // `timeouts.header` starts again, for the first request.
        connection.set_phase(Phase::New);
        stream.get_mut().0.release();
        let socket = TlsSocket::new(stream, session);
        Ok(HandshakeOutcome::Complete(ClientStream::with_tls(socket, connection)))
    }
}

/// Computes the server's answer to the client's first message.
fn accept(started: StartHandshake<RecordTransport>, config: Arc<ServerConfig>) -> Accept<RecordTransport> {
    let mut ends_with_ticket = false;
    let mut accepting = started.into_stream_with(config, |connection| {
        // After a HelloRetryRequest the server has messages to send twice.
        let is_retried = connection.handshake_kind() == Some(HandshakeKind::FullWithHelloRetryRequest);
        ends_with_ticket = connection.protocol_version() == Some(ProtocolVersion::TLSv1_3) && !is_retried;
    });
    if ends_with_ticket && let Some(transport) = accepting.get_mut() {
        transport.hold_after_flight();
    }
    accepting
}

/// Runs `future`, and fails when the tracker directs the connection to end.
async fn bounded<T>(
    connection: &Connection,
    has_begun: &AtomicBool,
    future: impl Future<Output = Result<T, FailedHandshake>>,
) -> Result<T, FailedHandshake> {
    let mut future = pin!(future);
    poll_fn(|cx| {
        connection.register_waker(cx.waker());
        match future.as_mut().poll(cx) {
            Poll::Pending if connection.directive() != Directive::None => {
                let reason = has_begun.load(Ordering::Relaxed).then(|| interruption(connection));
                Poll::Ready(Err(FailedHandshake { reason, stream: None }))
            }
            polled => polled,
        }
    })
    .await
}

/// Returns the reason for the log when the tracker directs the connection to end.
fn interruption(connection: &Connection) -> String {
    let age = connection.age().as_secs_f32();
    if connection.directive() == Directive::Evict {
        format!("its connection was closed after {age:.1} s to make room for a new one")
    } else if connection.is_draining() {
        "rgun stopped before it was complete".to_owned()
    } else {
        format!("it was not complete after {age:.1} s")
    }
}

/// Waits for the first byte and returns it without reading it; `None` at the end of input.
async fn first_byte(socket: &ClientSocket) -> io::Result<Option<u8>> {
    let mut byte = [0];
    let mut peek = |fd| recv(fd, &mut byte, MsgFlags::MSG_PEEK).map_err(io::Error::from);
    let received = match socket {
        ClientSocket::Tcp(socket) => socket.async_io(Interest::READABLE, || peek(socket.as_raw_fd())).await,
        ClientSocket::Unix(socket) => socket.async_io(Interest::READABLE, || peek(socket.as_raw_fd())).await,
    };
    let [byte] = byte;
    Ok((received? > 0).then_some(byte))
}

/// Threads that compute handshakes, at most one per core. Further handshakes wait in order of
/// arrival. A thread starts when there is work for it and ends after [`KEEP_ALIVE`] without work.
pub struct HandshakeThreads {
    /// Taken when the pool is dropped.
    runtime: Option<Runtime>,
}

/// Time without work after which a thread ends.
const KEEP_ALIVE: Duration = Duration::from_mins(1);

/// Addition to the nice value of the threads (sched(7)): under load they get a third of the time of
/// the threads that serve requests.
const NICE_INCREMENT: i32 = 5;

impl HandshakeThreads {
    /// Creates the pool, without threads.
    ///
    /// # Errors
    /// The runtime cannot be created.
    pub fn new() -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Builder::new_current_thread()
            .max_blocking_threads(cores)
            .thread_keep_alive(KEEP_ALIVE)
            .thread_name("tls")
            .on_thread_start(lower_priority)
            .build()
            .map(|runtime| Self { runtime: Some(runtime) })
    }

    /// Runs a computation on one of the threads.
    async fn run<T: Send + 'static>(&self, compute: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let runtime = self.runtime.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        runtime.spawn_blocking(compute).await.map_err(io::Error::other)
    }
}

impl Drop for HandshakeThreads {
    fn drop(&mut self) {
        // Dropping the runtime would wait for its threads and block the reactor.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl fmt::Debug for HandshakeThreads {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HandshakeThreads").finish_non_exhaustive()
    }
}

/// Lowers the priority of this thread: on Linux, the nice value is a thread's, not a process's
/// (setpriority(2)).
fn lower_priority() {
    if let Err(error) = rustix::process::nice(NICE_INCREMENT) {
        tracing::debug!(%error, "cannot lower the priority of the TLS threads, ignoring");
    }
}
