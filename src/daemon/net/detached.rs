//! Connections on their way to the next daemon, and the state that describes them there.
//!
//! Only an HTTP/1 connection without TLS is handed over: a new or idle one, or one with an
//! incomplete head, or with a request that has not started. When the tracker has chosen a
//! connection, the connection's task detaches its socket from HTTP
//! ([`ClientStream::hand_over`](super::ClientStream::hand_over)). `run` passes the sockets and the
//! state through systemd's fd store to the next daemon, whose `edge` continues them
//! ([`ConnectionTracker::adopt`](super::ConnectionTracker::adopt)).

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use bytes::{Buf, BufMut, TryGetError};
use rustix::net::sockopt;

use super::peer::{Client, Peer};
use super::phase::Phase;

/// The first bytes of the state.
const MAGIC: &[u8; 8] = b"rgunconn";

/// The version of the format of [`encode`]. A daemon takes over connections of its own version
/// only.
const VERSION: u32 = 1;

/// A connection that this daemon serves no more: HTTP has released the socket, and nothing reads it.
#[derive(Debug)]
pub struct DetachedConnection {
    /// The socket, non-blocking.
    pub(super) socket: OwnedFd,
    /// Index of the listener that accepted the connection.
    pub(super) listener: u16,
    pub(super) client: Client,
    pub(super) phase: Phase,
    /// Coarse time in milliseconds at which the phase began.
    pub(super) phase_since: u32,
    /// Bytes that this daemon has read and that belong to no request that was served. They may begin
    /// with a whole request, which `http` has written again; the phase is then [`Phase::Idle`].
    pub(super) unread: Vec<u8>,
}

/// The state of a connection that the next daemon needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionRecord {
    /// Its position in the state, in which the previous daemon's order is kept.
    pub position: u32,
    /// The name of the listener that accepted the connection.
    listener: String,
    /// Its index in the previous daemon.
    listener_index: u16,
    pub(super) client: Client,
    /// [`Phase::New`], [`Phase::Head`] or [`Phase::Idle`].
    pub(super) phase: Phase,
    /// Coarse time in milliseconds at which the phase began. All processes have the same clock.
    pub(super) phase_since: u32,
    /// Bytes that the previous daemon has read and that belong to no request that was served.
    pub(super) unread: Vec<u8>,
}

impl ConnectionRecord {
    /// Returns the name of the listener that accepted the connection.
    pub fn listener(&self) -> &str {
        &self.listener
    }

    /// Returns the time since the phase began, or since the request began that has not started. `now` is the
    /// coarse time: ages are comparable only at the same time.
    pub fn phase_age(&self, now: u32) -> Duration {
        Duration::from_millis(u64::from(now.wrapping_sub(self.phase_since)))
    }

    /// Returns the index that the listener had in the previous daemon. Several listeners may have
    /// the same name.
    pub fn listener_index(&self) -> u16 {
        self.listener_index
    }
}

/// An error in the state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// The state has another format: that of another version of rgun.
    #[error("their state has format {0}, and this version of rgun reads format {VERSION}")]
    Version(u32),
    /// The state does not begin with [`MAGIC`], or is damaged.
    #[error("their state is damaged")]
    Damaged,
}

impl From<TryGetError> for StateError {
    fn from(_: TryGetError) -> Self {
        Self::Damaged
    }
}

/// Returns the state that describes the connections, for [`decode`]. `listeners` has the names of the
/// listeners by index.
///
/// ```text
/// state:  MAGIC, version u32, number u32, records
/// record: SO_COOKIE u64, phase u8, phase_since u32, https u8, length of the IP address u8 (0, 4 or
///         16), IP address, port u16, index of the listener u16, length of its name u16, name,
///         length of the unread bytes u32, unread bytes
/// ```
/// Numbers are little-endian.
///
/// # Errors
/// The cookie of a socket cannot be read.
pub fn encode(connections: &[DetachedConnection], listeners: &[String]) -> io::Result<Vec<u8>> {
    let mut state = Vec::new();
    state.put_slice(MAGIC);
    state.put_u32_le(VERSION);
    state.put_u32_le(to_len(connections.len())?);
    for connection in connections {
        let listener = listeners.get(usize::from(connection.listener)).map_or("", String::as_str);
        state.put_u64_le(cookie(connection.socket.as_fd())?);
        state.put_u8(connection.phase as u8);
        state.put_u32_le(connection.phase_since);
        let Client { peer, https } = &connection.client;
        state.put_u8(u8::from(*https));
        match peer.ip {
            None => state.put_u8(0),
            Some(IpAddr::V4(ip)) => {
                state.put_u8(4);
                state.put_slice(&ip.octets());
            }
            Some(IpAddr::V6(ip)) => {
                state.put_u8(16);
                state.put_slice(&ip.octets());
            }
        }
        state.put_u16_le(peer.port);
        state.put_u16_le(connection.listener);
        state.put_u16_le(to_len(listener.len())?);
        state.put_slice(listener.as_bytes());
        state.put_u32_le(to_len(connection.unread.len())?);
        state.put_slice(&connection.unread);
    }
    Ok(state)
}

fn to_len<T: TryFrom<usize>>(len: usize) -> io::Result<T> {
    T::try_from(len).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Returns the records of a state by the cookies of their sockets.
///
/// # Errors
/// The state has another format, or is damaged.
pub fn decode(mut state: &[u8]) -> Result<HashMap<u64, ConnectionRecord>, StateError> {
    if take(&mut state, MAGIC.len())? != MAGIC {
        return Err(StateError::Damaged);
    }
    let version = state.try_get_u32_le()?;
    if version != VERSION {
        return Err(StateError::Version(version));
    }
    let count = state.try_get_u32_le()?;
    let mut records = HashMap::new();
    for position in 0..count {
        let cookie = state.try_get_u64_le()?;
        records.insert(cookie, decode_record(&mut state, position)?);
    }
    if state.is_empty() { Ok(records) } else { Err(StateError::Damaged) }
}

fn decode_record(state: &mut &[u8], position: u32) -> Result<ConnectionRecord, StateError> {
    let phase = match state.try_get_u8()? {
        byte if byte == Phase::New as u8 => Phase::New,
        byte if byte == Phase::Head as u8 => Phase::Head,
        byte if byte == Phase::Idle as u8 => Phase::Idle,
        _ => return Err(StateError::Damaged),
    };
    let phase_since = state.try_get_u32_le()?;
    let https = state.try_get_u8()? != 0;
    let ip: Option<IpAddr> = match state.try_get_u8()? {
        0 => None,
        4 => Some(state.try_get_u32()?.to_be_bytes().into()),
        16 => Some(state.try_get_u128()?.to_be_bytes().into()),
        _ => return Err(StateError::Damaged),
    };
    let port = state.try_get_u16_le()?;
    let listener_index = state.try_get_u16_le()?;
    let listener_len = state.try_get_u16_le()?;
    let listener = take(state, usize::from(listener_len))?;
    let listener = str::from_utf8(listener).map_err(|_| StateError::Damaged)?.to_owned();
    let unread_len = state.try_get_u32_le()?;
    let unread = take(state, usize::try_from(unread_len).unwrap_or(usize::MAX))?.to_vec();
    let client = Client { peer: Peer::new(ip, port), https };
    Ok(ConnectionRecord { position, listener, listener_index, client, phase, phase_since, unread })
}

/// Takes `len` bytes from the beginning of the state.
fn take<'s>(state: &mut &'s [u8], len: usize) -> Result<&'s [u8], StateError> {
    state.split_off(..len).ok_or(StateError::Damaged)
}

/// Returns the number by which the kernel identifies a socket, the same in every process
/// (`SO_COOKIE`, socket(7)).
///
/// # Errors
/// The descriptor is not a socket.
pub fn cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(sockopt::socket_cookie(socket)?)
}

impl DetachedConnection {
    /// True if the client has sent a request, or a part of one, that this daemon has read.
    pub fn has_request(&self) -> bool {
        !self.unread.is_empty()
    }
}

impl AsFd for DetachedConnection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::rng::Rng;

    fn socket() -> OwnedFd {
        TcpListener::bind("127.0.0.1:0").unwrap().into()
    }

    fn connections() -> Vec<DetachedConnection> {
        let peers: [Option<IpAddr>; 3] =
            [None, Some([192, 0, 2, 7].into()), Some("2001:db8::7".parse::<IpAddr>().unwrap())];
        let phases = [Phase::New, Phase::Head, Phase::Idle];
        let unread: [&[u8]; 3] = [b"", b"GET / HTT", b"\r\n"];
        (0..3)
            .map(|index: u16| DetachedConnection {
                socket: socket(),
                listener: index % 2,
                client: Client {
                    peer: Peer::new(peers[usize::from(index)], 4711 + index),
                    https: index == 1,
                },
                phase: phases[usize::from(index)],
                phase_since: u32::MAX - u32::from(index),
                unread: unread[usize::from(index)].to_vec(),
            })
            .collect()
    }

    fn state(connections: &[DetachedConnection]) -> Vec<u8> {
        encode(connections, &["web".to_owned(), "unix:/run/ü".to_owned()]).unwrap()
    }

    #[test]
    fn records_are_read_as_written_by_cookie() {
        let connections = connections();
        let records = decode(&state(&connections)).unwrap();
        assert_eq!(records.len(), 3);
        let positions: std::collections::BTreeSet<_> =
            records.values().map(|record| record.position).collect();
        assert!(positions.into_iter().eq(0..3));
        for connection in connections {
            let record = &records[&cookie(connection.as_fd()).unwrap()];
            let expected = ConnectionRecord {
                position: record.position,
                listener_index: connection.listener,
                listener: ["web", "unix:/run/ü"][usize::from(connection.listener)].to_owned(),
                client: connection.client,
                phase: connection.phase,
                phase_since: connection.phase_since,
                unread: connection.unread,
            };
            assert_eq!(*record, expected);
        }
    }

    #[test]
    fn cookie_is_the_same_for_a_copy_of_the_socket() {
        let (one, other) = (socket(), socket());
        let copy = one.try_clone().unwrap();
        assert_eq!(cookie(one.as_fd()).unwrap(), cookie(copy.as_fd()).unwrap());
        assert_ne!(cookie(one.as_fd()).unwrap(), cookie(other.as_fd()).unwrap());
        assert!(cookie(std::fs::File::open("/dev/null").unwrap().as_fd()).is_err());
    }

    #[test]
    fn state_of_another_version_is_refused() {
        let mut state = state(&[]);
        state[MAGIC.len()] = 7;
        assert_eq!(decode(&state), Err(StateError::Version(7)));
    }

    #[test]
    fn truncated_or_extended_state_is_damaged() {
        let state = state(&connections());
        for len in 0..state.len() {
            assert_eq!(decode(&state[..len]), Err(StateError::Damaged), "{len}");
        }
        assert_eq!(decode(&[&*state, b"\0"].concat()), Err(StateError::Damaged));
    }

    #[test]
    fn any_bytes_are_read_or_refused() {
        let original = state(&connections());
        let mut rng = Rng::new(1);
        for _ in 0..20_000 {
            let mut state = original.clone();
            for _ in 0..=rng.below(4) {
                let at = rng.index(state.len());
                state[at] = rng.byte();
            }
            // Must neither panic nor allocate as much memory as a changed length claims.
            drop(decode(&state));
        }
    }
}
