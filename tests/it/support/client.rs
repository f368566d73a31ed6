//! The HTTP/1.1 client of the integration tests: tests write the bytes themselves, responses are
//! parsed strictly, and an incomplete response is a separate error. The client follows no redirect,
//! does not retry and keeps no pool.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use super::DEADLINE;

/// An address on which the daemon listens.
#[derive(Debug, Clone)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

macro_rules! on_socket {
    ($self:expr, $socket:ident => $call:expr) => {
        match $self {
            Socket::Tcp($socket) => $call,
            Socket::Unix($socket) => $call,
        }
    };
}

/// A client connection.
#[derive(Debug)]
pub(crate) struct Client {
    socket: Socket,
    received: Vec<u8>,
}

/// A complete response.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names and values; names are in lower case.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Status codes of interim responses (1xx) before this one.
    pub(crate) interim: Vec<u16>,
}

/// The reason why no complete response was read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The connection ended before the first byte.
    Closed,
    /// The connection ended within the response. The status, if it was read.
    Truncated(Option<u16>),
    /// Nothing arrived until the timeout.
    TimedOut,
}

impl Response {
    /// Returns the value of a field that must occur exactly once.
    pub(crate) fn field(&self, name: &str) -> &str {
        let mut values =
            self.fields.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str());
        match (values.next(), values.next()) {
            (Some(value), None) => value,
            found => panic!("{name} must occur once, not {found:?}: {:?}", self.fields),
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(other, _)| other == name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the value after `name=` or `name: ` in the body.
    pub(crate) fn value(&self, name: &str) -> String {
        let text = self.text();
        let found = text.split(['\n', ' ']).find_map(|word| word.strip_prefix(&format!("{name}=")));
        let line = || text.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        found.or_else(line).unwrap_or_else(|| panic!("no {name} in {text:?}")).to_owned()
    }

    /// Asserts the properties of all error responses of the daemon: status, request id in field and
    /// body, no traceback.
    pub(crate) fn assert_error(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}", self.text());
        let id = self.field("x-request-id");
        assert!(self.text().contains(id), "the body must contain the request's id: {}", self.text());
        assert!(!self.text().contains("Traceback"), "{}", self.text());
        self
    }
}

impl Client {
    pub(crate) fn connect(address: &Address) -> io::Result<Self> {
        let socket = match address {
            Address::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, DEADLINE)?;
                stream.set_nodelay(true)?;
                Socket::Tcp(stream)
            }
            Address::Unix(path) => Socket::Unix(UnixStream::connect(path)?),
        };
        let client = Self { socket, received: Vec::new() };
        client.set_timeouts(DEADLINE);
        Ok(client)
    }

    fn set_timeouts(&self, timeout: Duration) {
        on_socket!(&self.socket, socket => {
            socket.set_read_timeout(Some(timeout)).expect("a timeout that is not 0");
            socket.set_write_timeout(Some(DEADLINE)).expect("a timeout that is not 0");
        });
    }

    /// Writes all bytes.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.try_send(bytes).expect("the daemon reads");
        self
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        on_socket!(&mut self.socket, socket => socket.write_all(bytes.as_ref()))
    }

    /// Lets `try_send` fail when the daemon reads nothing for this time.
    pub(crate) fn write_timeout(&self, timeout: Duration) {
        on_socket!(&self.socket, socket => socket.set_write_timeout(Some(timeout)).expect("a timeout that is not 0"));
    }

    /// Sends a GET request, and keeps the connection open.
    pub(crate) fn send_get(&mut self, path: &str) -> &mut Self {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
    }

    pub(crate) fn get(&mut self, path: &str) -> Response {
        self.send_get(path).response()
    }

    /// Reads the next response, which must be complete.
    pub(crate) fn response(&mut self) -> Response {
        self.response_to("GET")
    }

    pub(crate) fn response_to(&mut self, method: &str) -> Response {
        self.try_response(method).unwrap_or_else(|error| panic!("no complete response: {error:?}"))
    }

    /// Reads the head of the next response, and leaves its body unread.
    pub(crate) fn response_head(&mut self) -> Response {
        self.read_head().unwrap_or_else(|error| panic!("no response head: {error:?}"))
    }

    pub(crate) fn try_response(&mut self, method: &str) -> Result<Response, ReadError> {
        let mut response = self.read_head()?;
        let truncated = |error| match error {
            ReadError::TimedOut => ReadError::TimedOut,
            ReadError::Closed | ReadError::Truncated(_) => ReadError::Truncated(Some(response.status)),
        };
        let body = if method == "HEAD" || matches!(response.status, 204 | 304) {
            Ok(Vec::new())
        } else if response.has("transfer-encoding") {
            assert_eq!(response.field("transfer-encoding"), "chunked");
            assert!(!response.has("content-length"), "RFC 9112 §6.2: {:?}", response.fields);
            self.read_chunks()
        } else if response.has("content-length") {
            self.read_exact(response.field("content-length").parse().expect("a length"))
        } else {
            self.read_to_end()
        };
        response.body = body.map_err(truncated)?;
        Ok(response)
    }

    /// Asserts that the daemon closes the connection without sending anything more.
    pub(crate) fn assert_closed(&mut self) {
        match self.read() {
            Err(ReadError::Closed) => {}
            other => panic!("the connection should end, but {other:?}: {:?}", self.received_text()),
        }
    }

    /// Reads once into the buffer. Returns an error at the end of the connection.
    pub(crate) fn read(&mut self) -> Result<(), ReadError> {
        let mut block = vec![0; 64 * 1024];
        match on_socket!(&mut self.socket, socket => socket.read(&mut block)) {
            Ok(0) => Err(ReadError::Closed),
            Ok(len) => {
                self.received.extend_from_slice(&block[..len]);
                Ok(())
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(ReadError::TimedOut),
                io::ErrorKind::Interrupted => Ok(()),
                io::ErrorKind::ConnectionReset => Err(ReadError::Closed),
                _ => panic!("cannot read: {error}"),
            },
        }
    }

    /// Returns true if nothing unread has arrived.
    pub(crate) fn receives_nothing(&mut self) -> bool {
        self.receives_nothing_for(Duration::from_millis(1))
    }

    /// Returns true if nothing unread has arrived, nor arrives within `time`.
    pub(crate) fn receives_nothing_for(&mut self, time: Duration) -> bool {
        if !self.received.is_empty() {
            return false;
        }
        self.set_timeouts(time);
        let is_silent = matches!(self.read(), Err(ReadError::TimedOut));
        self.set_timeouts(DEADLINE);
        is_silent
    }

    /// Closes the sending half of the connection.
    pub(crate) fn shutdown_write(&mut self) -> &mut Self {
        on_socket!(&self.socket, socket => socket.shutdown(Shutdown::Write)).expect("the connection is open");
        self
    }

    /// Resets the connection. TCP only.
    pub(crate) fn reset(self) {
        let Socket::Tcp(socket) = self.socket else { panic!("a unix socket cannot be reset") };
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Linger, &linger)
            .expect("the socket is open");
    }

    /// Reads the rest of a chunked response whose head was read, as text.
    pub(crate) fn chunked_text(&mut self) -> String {
        let body = self.read_chunks().unwrap_or_else(|error| panic!("no complete response: {error:?}"));
        String::from_utf8_lossy(&body).into_owned()
    }

    /// Reads exactly `len` bytes.
    pub(crate) fn read_exact(&mut self, len: usize) -> Result<Vec<u8>, ReadError> {
        while self.received.len() < len {
            self.read()?;
        }
        let rest = self.received.split_off(len);
        Ok(std::mem::replace(&mut self.received, rest))
    }

    /// Returns the bytes that were read from the socket but not yet returned.
    pub(crate) fn received(&self) -> &[u8] {
        &self.received
    }

    fn received_text(&self) -> String {
        String::from_utf8_lossy(&self.received).into_owned()
    }

    fn line(&mut self) -> Result<String, ReadError> {
        loop {
            if let Some(end) = self.received.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.read_exact(end + 2)?;
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.read()?;
        }
    }

    fn read_head(&mut self) -> Result<Response, ReadError> {
        let mut interim = Vec::new();
        loop {
            let began = |client: &Self| !client.received.is_empty();
            let first = match self.line() {
                Err(ReadError::Closed) if began(self) => return Err(ReadError::Truncated(None)),
                first => first?,
            };
            let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
            let status: u16 = status.unwrap_or_else(|| panic!("not a status line: {first:?}"));
            assert!(first.starts_with("HTTP/1."), "not a status line: {first:?}");
            let mut fields = Vec::new();
            loop {
                let line = self.line().map_err(|error| match error {
                    ReadError::TimedOut => ReadError::TimedOut,
                    _ => ReadError::Truncated(Some(status)),
                })?;
                if line.is_empty() {
                    break;
                }
                let (name, value) =
                    line.split_once(": ").unwrap_or_else(|| panic!("not a header field: {line:?}"));
                fields.push((name.to_ascii_lowercase(), value.to_owned()));
            }
            if (100..200).contains(&status) && status != 101 {
                interim.push(status);
            } else {
                return Ok(Response { status, fields, body: Vec::new(), interim });
            }
        }
    }

    fn read_chunks(&mut self) -> Result<Vec<u8>, ReadError> {
        let mut body = Vec::new();
        loop {
            let size = self.line()?;
            let len =
                usize::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("not a chunk size: {size:?}"));
            body.extend(self.read_exact(len)?);
            let end = self.line()?;
            assert!(end.is_empty(), "a chunk longer than its size, or trailers: {end:?}");
            if len == 0 {
                return Ok(body);
            }
        }
    }

    fn read_to_end(&mut self) -> Result<Vec<u8>, ReadError> {
        loop {
            match self.read() {
                Ok(()) => {}
                Err(ReadError::Closed) => return Ok(std::mem::take(&mut self.received)),
                Err(error) => return Err(error),
            }
        }
    }
}
