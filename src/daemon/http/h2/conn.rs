//! Serves one connection: accepts its streams, announces the drain, and closes the connection when
//! it is idle or abusive.

use std::future::poll_fn;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;

use crate::error_chain::Chain;
use crate::http::access_log::log_flood;
use crate::http::close_guard::CloseGuard;
use crate::http::context::{ConnContext, Http2Settings, RequestLimits, Server};
use crate::http::forwarded::ForwardingHeaders;
use crate::net::{ClientStream, Connection, Phase};
use crate::tls::TlsSession;

use super::data::StreamData;
use super::meter::{Meter, MeteredStream};
use super::signals::StreamSignals;
use super::stream::StreamTask;
use super::{MAX_SEND_BUFFER, STREAM_WINDOW};

/// Bytes that HTTP/2 counts for each field in addition to its name and value (RFC 9113 §6.5.2).
const FIELD_OVERHEAD: usize = 32;

/// Heads up to this many times the HTTP/1.1 limits reach the daemon's own checks, whose 431 or 414
/// has an error page.
const OVERSIZE_FACTOR: usize = 2;

/// h2 ends a connection after it has reset this many streams because of the client's errors.
const MAX_ERROR_RESETS: usize = 128;

type H2Connection = h2::server::Connection<MeteredStream, StreamData>;

/// Serves a connection that begins with the preface. `early` has the bytes that were read while the
/// protocol was recognised. Returns when the connection is closed.
pub(in crate::http) async fn serve(
    server: Arc<Server>,
    settings: Http2Settings,
    stream: ClientStream,
    early: Bytes,
) {
    let connection = Arc::clone(stream.connection());
    let tls = stream.tls_session().cloned();
    let peer_process = server.access_log.as_ref().and_then(|_| stream.peer_process());
    // `timeouts.header` runs until the first request.
    connection.set_phase(Phase::New);
    let meter = Meter::new();
    let handshake = builder(&server.limits, settings, server.dispatcher.accepts_handshakes())
        .handshake(MeteredStream::new(stream, early, Arc::clone(&meter)));
    let flood_log = Arc::clone(&server);
    let served = match handshake.await {
        Ok(mut h2) => {
            let trusts_peer = server.forwarding.trusted.trusts(connection.peer.ip);
            let mut driver = Driver {
                trusts_peer,
                tls,
                peer_process,
                reads_forwarded: trusts_peer && server.forwarding.headers != ForwardingHeaders::Off,
                server,
                connection: Arc::clone(&connection),
                meter,
                stage: Stage::Serving,
            };
            // Declared after `h2`, so that it is dropped first: h2 holds pieces of responses, whose
            // journal entries need the close reason.
            let mut close_guard = CloseGuard::new(&connection);
            let served = poll_fn(|cx| driver.poll(cx, &mut h2)).await;
            close_guard.finish();
            served
        }
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        if let Some(flood) = flood_of(&error) {
            log_flood(&flood_log, &connection, flood);
        } else {
            tracing::debug!(client = %connection.peer.address, error = %Chain(&error),
                "an HTTP/2 connection ended early");
        }
    }
}

/// The floods that h2 recognises: the debug data of its GOAWAY, and what the client does.
const H2_FLOODS: [(&str, &str); 4] = [
    ("too_many_resets", "it resets its requests before they are accepted"),
    ("too_many_internal_resets", "it violates the protocol on too many streams"),
    ("too_many_continuations", "it sends too many CONTINUATION frames for one head"),
    ("too_many_data_frames", "it sends too many empty or small DATA frames"),
];

/// Returns what the client did, if h2 has ended the connection because of a flood.
fn flood_of(error: &h2::Error) -> Option<String> {
    if !error.is_library() || error.reason() != Some(Reason::ENHANCE_YOUR_CALM) {
        return None;
    }
    let text = error.to_string();
    let known = H2_FLOODS.iter().find(|(token, _)| text.contains(&format!("\"{token}\"")));
    // h2 gives no debug data for a head that is far too long.
    let long_head = || "it sends an endless head, or causes excessive load otherwise".to_owned();
    Some(known.map_or_else(long_head, |(token, what)| format!("{what} ({token})")))
}

fn builder(limits: &RequestLimits, settings: Http2Settings, serves_websockets: bool) -> Builder {
    // h2 answers a longer head with a 431 without content.
    let list_size =
        OVERSIZE_FACTOR * (limits.header + limits.request_line + FIELD_OVERHEAD * (limits.headers + 1));
    let window = u64::from(settings.max_streams) * u64::from(STREAM_WINDOW);
    let mut builder = Builder::new();
    builder
        .max_header_list_size(u32::try_from(list_size).unwrap_or(u32::MAX))
        .max_concurrent_streams(settings.max_streams)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(u32::try_from(window).unwrap_or(MAX_WINDOW).min(MAX_WINDOW))
        .max_send_buffer_size(MAX_SEND_BUFFER)
        .max_local_error_reset_streams(Some(MAX_ERROR_RESETS));
    if serves_websockets {
        builder.enable_connect_protocol();
    }
    builder
}

/// Time between the beginning of a drain and its first GOAWAY, in which open streams may end. Some
/// clients, such as httpx, fail all open requests when they receive a GOAWAY. A connection that
/// becomes idle in this time is closed without the two GOAWAY frames of a drain.
pub(super) const GOAWAY_DELAY: Duration = Duration::from_secs(2);

/// Time for which a draining connection waits for the acknowledgement of its PING, one round trip.
/// Streams that the client opens later are ignored. A WINDOW_UPDATE on one of them is a connection
/// error, because h2 considers that stream idle.
pub(super) const DRAIN_PING_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum size of a flow-control window in bytes (RFC 9113 §6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;

/// The progress of a connection towards its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Serving,
    /// The drain has begun at the coarse time `since`, and no GOAWAY has been sent.
    Leaving {
        since: u32,
    },
    /// The first GOAWAY has asked the client to open no more streams. Streams that the client opens
    /// nevertheless are served until the second GOAWAY. `since` is the coarse time of the first
    /// GOAWAY; `None` once h2 was asked for the second.
    Draining {
        since: Option<u32>,
    },
    /// All streams were directed to end. Until the next poll they may send a last frame.
    Aborting,
    /// The last GOAWAY is being sent.
    Closing,
}

/// The state of the connection's task.
struct Driver {
    server: Arc<Server>,
    connection: Arc<Connection>,
    trusts_peer: bool,
    reads_forwarded: bool,
    tls: Option<Arc<TlsSession>>,
    peer_process: Option<Arc<str>>,
    meter: Arc<Meter>,
    stage: Stage,
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>, h2: &mut H2Connection) -> Poll<Result<(), h2::Error>> {
        self.connection.register_waker(cx.waker());
        self.meter.begin_poll();
        self.follow_directives(cx, h2);
        loop {
            match h2.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => self.open_stream(request, respond),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
        }
        if self.stage == Stage::Closing && self.connection.should_abort() {
            return Poll::Ready(Ok(()));
        }
        if self.stage != Stage::Closing
            && let Some(abuse) = self.meter.abuse()
        {
            log_flood(&self.server, &self.connection, abuse.to_owned());
            self.close(h2, Reason::ENHANCE_YOUR_CALM);
            cx.waker().wake_by_ref();
        } else if self.meter.is_poll_exhausted() {
            // A fast client must not keep the reactor from its other tasks and from worker
            // completions.
            self.server.dispatcher.poll_now();
        }
        Poll::Pending
    }

    /// Follows the tracker's directive, and announces the drain.
    fn follow_directives(&mut self, cx: &mut Context<'_>, h2: &mut H2Connection) {
        if self.connection.should_abort() {
            match self.stage {
                Stage::Serving | Stage::Leaving { .. } | Stage::Draining { .. } => {
                    self.stage = Stage::Aborting;
                    self.meter.stop_reading();
                    self.connection.abort_streams();
                    cx.waker().wake_by_ref();
                }
                Stage::Aborting => self.close(h2, Reason::NO_ERROR),
                Stage::Closing => {}
            }
        } else if self.connection.should_close_idle() {
            self.close(h2, Reason::NO_ERROR);
        } else if self.connection.is_draining() {
            self.drain(h2);
        }
    }

    /// Takes the next due step of the drain. Called repeatedly: a drain wakes its connections at an
    /// interval.
    fn drain(&mut self, h2: &mut H2Connection) {
        let now = self.connection.coarse_now();
        let has_passed = |since: u32, time: Duration| u128::from(now.wrapping_sub(since)) >= time.as_millis();
        match self.stage {
            Stage::Serving => self.stage = Stage::Leaving { since: now },
            Stage::Leaving { since } if has_passed(since, GOAWAY_DELAY) => {
                self.stage = Stage::Draining { since: Some(now) };
                h2.graceful_shutdown();
            }
            Stage::Draining { since: Some(since) } if has_passed(since, DRAIN_PING_TIMEOUT) => {
                self.stage = Stage::Draining { since: None };
                self.meter.acknowledge_drain_ping();
            }
            Stage::Leaving { .. } | Stage::Draining { .. } | Stage::Aborting | Stage::Closing => {}
        }
    }

    /// Ends the connection once its output is written. Open streams are reset.
    fn close(&mut self, h2: &mut H2Connection, reason: Reason) {
        if self.stage != Stage::Closing {
            self.stage = Stage::Closing;
            h2.abrupt_shutdown(reason);
        }
    }

    fn open_stream(&mut self, request: Request<RecvStream>, respond: SendResponse<StreamData>) {
        let head_len: usize = request
            .headers()
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD)
            .sum();
        self.meter.add_useful(head_len + FIELD_OVERHEAD);
        let context = Arc::new(ConnContext {
            server: Arc::clone(&self.server),
            connection: self.connection.open_stream(),
            trusts_peer: self.trusts_peer,
            reads_forwarded: self.reads_forwarded,
            tls: self.tls.clone(),
            refused_head: OnceLock::new(),
            withdrawn: OnceLock::new(),
            stream_signals: Some(StreamSignals::default()),
            peer_process: self.peer_process.clone(),
        });
        let (socket, meter) = (Arc::clone(&self.connection), Arc::clone(&self.meter));
        // Boxed, because tokio moves a task's future several times.
        tokio::spawn(Box::pin(StreamTask::open(context, socket, request, respond, meter)));
    }
}
