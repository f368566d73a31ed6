//! Hands connections over to the next daemon through systemd's fd store, and takes over the
//! connections of the previous daemon.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::{SendFlags, send};

use crate::config::{FDSTORE_VARIABLE, Listen};
use crate::edge::Edge;
use crate::error_chain::Chain;
use crate::net::{
    ConnectionRecord, DetachedConnection, Listener, StoredConnection, coarse_ms, cookie, decode, encode,
};
use crate::systemd::fd_store::{self, CONNECTION_NAME, REQUEST_NAME, STATE_NAME, StoredDescriptor};
use crate::systemd::listen::InheritedDescriptors;
use crate::systemd::stop_job::is_followed_by_start_within;

/// Time allowed for systemd to receive and process the messages to its store, or to answer.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// Descriptors that the next process needs besides the stored ones until it has raised its limit:
/// listening sockets, standard streams, libraries.
const RESERVED_FDS: u64 = 64;

/// Returns the maximum number of connections that can be handed over. `soft_limit` is the limit of
/// open files with which the next process starts: systemd cannot pass more descriptors to a process,
/// so the service would not start.
pub(super) fn capacity(soft_limit: Option<u64>) -> usize {
    // systemd holds some descriptors twice while it moves them to the numbers from 3 on.
    let limit = soft_limit.map_or(usize::MAX, |limit| {
        usize::try_from(limit.saturating_sub(RESERVED_FDS) / 2).unwrap_or(usize::MAX)
    });
    // One more descriptor is the state.
    fd_store::capacity(FDSTORE_VARIABLE).min(limit).saturating_sub(1)
}

/// The response to a request that no daemon can serve any more. Without content, because the request may
/// be a HEAD.
const UNAVAILABLE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 5\r\n\
    connection: close\r\n\r\n";

/// Sends the connections that the drain has detached to the fd store. Requests are answered 503 instead
/// if the service has meanwhile been stopped for good.
pub(super) fn store_detached(edge: &Edge) {
    let mut connections = edge.take_detached();
    if connections.iter().any(DetachedConnection::has_request) && !is_followed_by_start_within(STORE_TIMEOUT)
    {
        let requests: Vec<_> = connections.extract_if(.., |connection| connection.has_request()).collect();
        refuse(requests.iter().map(|connection| connection.as_fd()));
    }
    if connections.is_empty() {
        return;
    }
    let deadline = Instant::now() + STORE_TIMEOUT;
    let store = || -> io::Result<()> {
        // The state is sent first, because a stored connection without a record can only be closed.
        let state = fd_store::seal(&encode(&connections, edge.listener_names())?)?;
        fd_store::store(STATE_NAME, &[state.as_fd()], deadline)?;
        let (with_request, idle): (Vec<_>, Vec<_>) =
            connections.iter().partition(|connection| connection.has_request());
        for (name, connections) in [(CONNECTION_NAME, idle), (REQUEST_NAME, with_request)] {
            let sockets: Vec<_> = connections.iter().map(|connection| connection.as_fd()).collect();
            fd_store::store(name, &sockets, deadline)?;
        }
        fd_store::synchronize(deadline)
    };
    let n_connections = connections.len();
    let n_requests = connections.iter().filter(|connection| connection.has_request()).count();
    match store() {
        Ok(()) => tracing::info!(
            rgun.connections = n_connections,
            "stored {n_connections} connections in systemd's fd store, {n_requests} with a request that has not \
             started, for the next rgun"
        ),
        Err(error) => tracing::warn!(
            %error,
            "cannot store {n_connections} connections in systemd's fd store, {n_requests} with a request that has not \
             started; the next rgun may close them"
        ),
    }
}

/// Keeps the connections that came with a request of the previous daemon, to refuse them if this daemon
/// does not start.
pub(super) struct RequestsAtStart(Vec<OwnedFd>);

impl RequestsAtStart {
    /// Copies the descriptors; one that cannot be copied is left out.
    pub(super) fn of(inherited: &InheritedDescriptors) -> Self {
        let requests = inherited.stored.iter().filter(|stored| stored.name == REQUEST_NAME);
        Self(requests.filter_map(|stored| stored.fd.try_clone().ok()).collect())
    }

    /// Answers the requests 503. systemd closes the connections when the service has failed.
    pub(super) fn refuse(&self) {
        refuse(self.0.iter().map(|socket| socket.as_fd()));
    }
}

/// Answers a request 503 on each connection.
fn refuse<'s>(sockets: impl Iterator<Item = BorrowedFd<'s>>) {
    let mut n_refused = 0;
    for socket in sockets {
        // A client that has left needs no answer.
        n_refused +=
            usize::from(send(socket, UNAVAILABLE, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).is_ok());
    }
    if n_refused > 0 {
        tracing::warn!("answered 503 to {n_refused} requests that have not started: no rgun serves them");
    }
}

/// Returns the connections of the previous daemon, and removes them from the fd store.
pub(super) fn take_over(
    stored: Vec<StoredDescriptor>,
    listeners: &[Listener],
    config: &Listen,
) -> Vec<StoredConnection> {
    if stored.is_empty() {
        return Vec::new();
    }
    for name in [CONNECTION_NAME, REQUEST_NAME, STATE_NAME] {
        fd_store::remove(name);
    }
    let (states, sockets): (Vec<_>, Vec<_>) =
        stored.into_iter().partition(|stored| stored.name == STATE_NAME);
    let mut records = HashMap::new();
    for state in states {
        match read_state(state.fd) {
            Ok(read) => records.extend(read),
            Err(reason) => tracing::warn!("closing connections of the previous rgun: {reason}"),
        }
    }
    let mut connections = Vec::new();
    for StoredDescriptor { fd: socket, name } in sockets {
        let record = cookie(socket.as_fd()).ok().and_then(|cookie| records.remove(&cookie));
        let listener = record.as_ref().and_then(|record| listener_index(record, listeners, config));
        connections.push(StoredConnection { socket, has_request: name == REQUEST_NAME, record, listener });
    }
    // systemd passes them in any order; the oldest request goes first.
    let now = coarse_ms();
    connections.sort_by_cached_key(|connection| {
        connection.record.as_ref().map(|record| (Reverse(record.phase_age(now)), record.position))
    });
    let n_continued = connections.iter().filter(|connection| connection.listener.is_some()).count();
    let n_closed = connections.len() - n_continued;
    tracing::info!(
        rgun.connections = n_continued,
        "took over {n_continued} connections of the previous rgun, closing {n_closed}"
    );
    connections
}

fn read_state(state: OwnedFd) -> Result<HashMap<u64, ConnectionRecord>, String> {
    let state = fd_store::read_sealed(state).map_err(|error| {
        format!("the descriptor {STATE_NAME} from systemd's fd store is unusable: {}", Chain(&error))
    })?;
    decode(&state).map_err(|error| error.to_string())
}

/// Returns the index of the listener that has the name of the connection's listener; `None` if there
/// is none any more, or if the listener has TLS.
fn listener_index(record: &ConnectionRecord, listeners: &[Listener], config: &Listen) -> Option<u16> {
    let name = record.listener();
    if config.speaks_tls(name) {
        return None;
    }
    let is_same =
        |index: &u16| listeners.get(usize::from(*index)).is_some_and(|listener| listener.name == name);
    let index = Some(record.listener_index()).filter(is_same);
    index.or_else(|| u16::try_from(listeners.iter().position(|listener| listener.name == name)?).ok())
}
