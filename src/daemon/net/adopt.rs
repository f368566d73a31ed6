//! Registers connections of the previous daemon, so that this daemon serves or closes them.

use std::io;
use std::os::fd::OwnedFd;

use super::detached::ConnectionRecord;
use super::phase::Phase;
use super::socket::ClientSocket;
use super::stream::ClientStream;
use super::tracker::ConnectionTracker;

/// A connection of the previous daemon, for [`ConnectionTracker::adopt`].
#[derive(Debug)]
pub struct StoredConnection {
    /// The socket.
    pub socket: OwnedFd,
    /// The client has sent a request or a part of one, which the previous daemon has read.
    pub has_request: bool,
    /// The connection's record; `None` if it is lost or cannot be read.
    pub record: Option<ConnectionRecord>,
    /// Index of the listener whose settings apply; `None` if no listener of this daemon can continue
    /// the connection, which must then be closed.
    pub listener: Option<u16>,
}

/// An adopted connection.
#[derive(Debug)]
pub enum Adopted {
    /// Serve the connection. The previous daemon has read the bytes; they come before those of the
    /// stream.
    Resumed(ClientStream, Vec<u8>),
    /// The client has begun a request that cannot be served: answer 503 and close.
    Refused(ClientStream),
    /// The client has begun no request: close.
    Idle(ClientStream),
}

impl ConnectionTracker {
    /// Registers a connection of the previous daemon. Must be called on the reactor.
    ///
    /// # Errors
    /// The descriptor is not a socket of a client, or cannot be registered with the reactor.
    pub fn adopt(&self, stored: StoredConnection) -> io::Result<Adopted> {
        let StoredConnection { socket, has_request, record, listener } = stored;
        let has_input = has_request || rustix::io::ioctl_fionread(&socket)? > 0;
        let socket = ClientSocket::from_stored(socket)?;
        match (record, listener) {
            (Some(record), Some(listener)) => {
                let connection = self.register(record.client, listener);
                // The timeouts of a head go on; a whole request has met them.
                let is_whole = has_request && record.phase == Phase::Idle;
                let since = if is_whole { connection.coarse_now() } else { record.phase_since };
                connection.resume(record.phase, since);
                Ok(Adopted::Resumed(ClientStream::new(socket, connection), record.unread))
            }
            (record, listener) => {
                let client = match record {
                    Some(record) => record.client,
                    None => socket.peer()?.into(),
                };
                let stream = ClientStream::new(socket, self.register(client, listener.unwrap_or_default()));
                Ok(if has_input { Adopted::Refused(stream) } else { Adopted::Idle(stream) })
            }
        }
    }
}
