//! The client of the control socket, for commands: it blocks, and needs no runtime.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Map, Value};

use super::fault::RemoteError;
use super::message::{CallMessage, ReplyMessage, encode};

/// Maximum length of a reply in bytes.
const MAX_REPLY_BYTES: u64 = 64 << 20;

/// A connection to a daemon.
#[derive(Debug)]
pub struct ControlClient {
    stream: BufReader<UnixStream>,
}

/// The reason why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The daemon cannot be reached, or does not speak the protocol.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The daemon closed the connection before the last reply, or a reply is longer than
    /// [`MAX_REPLY_BYTES`].
    #[error("the daemon closed the connection")]
    Closed,
    /// The daemon replied with an error.
    #[error("{}", .0.name)]
    Remote(RemoteError),
}

impl ControlClient {
    /// Connects to the socket.
    ///
    /// # Errors
    /// Those of connect(2).
    pub fn connect(path: &Path) -> io::Result<Self> {
        Ok(Self { stream: BufReader::new(UnixStream::connect(path)?) })
    }

    /// Limits the time to wait for each reply.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.stream.get_ref().set_read_timeout(Some(timeout))
    }

    /// Calls a method and returns the parameters of its last reply. `on_progress` is called with the
    /// parameters of each earlier reply; with `None`, the daemon sends only one reply.
    ///
    /// # Errors
    /// The connection failed, or the daemon replied with an error.
    pub fn call(
        &mut self,
        method: &str,
        parameters: Map<String, Value>,
        mut on_progress: Option<&mut dyn FnMut(Value)>,
    ) -> Result<Value, CallError> {
        let message = CallMessage {
            method: method.to_owned(),
            parameters: Some(parameters),
            more: on_progress.is_some().then_some(true),
            oneway: None,
        };
        self.stream.get_mut().write_all(&encode(&message).map_err(io::Error::from)?)?;
        loop {
            let ReplyMessage { error, parameters, continues } = self.read_reply()?;
            let parameters = parameters.unwrap_or_default();
            match (error, continues, &mut on_progress) {
                (Some(name), _, _) => return Err(CallError::Remote(RemoteError { name, parameters })),
                (None, Some(true), Some(on_progress)) => on_progress(Value::Object(parameters)),
                (None, _, _) => return Ok(Value::Object(parameters)),
            }
        }
    }

    fn read_reply(&mut self) -> Result<ReplyMessage, CallError> {
        let mut bytes = Vec::new();
        (&mut self.stream).take(MAX_REPLY_BYTES).read_until(0, &mut bytes)?;
        if bytes.pop() == Some(0) {
            Ok(serde_json::from_slice(&bytes).map_err(io::Error::from)?)
        } else {
            // The stream has ended, or the reply is too long.
            Err(CallError::Closed)
        }
    }
}
