//! An HTTP/1.1 client that hides nothing: tests write the bytes themselves, answers are parsed strictly, and an
//! answer that breaks off is an outcome of its own. It follows no redirect, retries nothing and keeps no pool.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use super::DEADLINE;

/// Where a daemon listens.
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

macro_rules! each {
    ($self:expr, $socket:ident => $call:expr) => {
        match $self {
            Socket::Tcp($socket) => $call,
            Socket::Unix($socket) => $call,
        }
    };
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Client {
    socket: Socket,
    received: Vec<u8>,
}

/// A complete answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Interim answers (1xx) that came before it.
    pub(crate) interim: Vec<u16>,
}

/// Why there is no complete answer.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The connection ended before the first byte.
    Nothing,
    /// The connection ended within the answer; the status, if that had come.
    Truncated(Option<u16>),
    /// Nothing came for the whole deadline.
    Silence,
}

impl Answer {
    /// The value of a field that must be there once.
    pub(crate) fn field(&self, name: &str) -> &str {
        let mut values =
            self.fields.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str());
        match (values.next(), values.next()) {
            (Some(value), None) => value,
            found => panic!("{name} should be there once, not {found:?}: {:?}", self.fields),
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(other, _)| other == name)
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value after `name=` or `name: ` in the body.
    pub(crate) fn said(&self, name: &str) -> String {
        let text = self.text();
        let found = text.split(['\n', ' ']).find_map(|word| word.strip_prefix(&format!("{name}=")));
        let line = || text.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        found.or_else(line).unwrap_or_else(|| panic!("no {name} in {text:?}")).to_owned()
    }

    /// What every answer of the daemon's own has.
    pub(crate) fn is_a_refusal(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{}", self.text());
        let id = self.field("x-request-id");
        assert!(self.text().contains(id), "a person must be able to read the id: {}", self.text());
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
        client.patience(DEADLINE);
        Ok(client)
    }

    fn patience(&self, timeout: Duration) {
        each!(&self.socket, socket => {
            socket.set_read_timeout(Some(timeout)).expect("a timeout that is not 0");
            socket.set_write_timeout(Some(DEADLINE)).expect("a timeout that is not 0");
        });
    }

    /// Writes all of it.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.try_send(bytes).expect("the daemon takes what it is sent");
        self
    }

    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        each!(&mut self.socket, socket => socket.write_all(bytes.as_ref()))
    }

    /// From now on `try_send` fails when the daemon takes nothing for so long.
    pub(crate) fn write_timeout(&self, timeout: Duration) {
        each!(&self.socket, socket => socket.set_write_timeout(Some(timeout)).expect("a timeout that is not 0"));
    }

    /// A request without a body, on a connection that stays.
    pub(crate) fn ask(&mut self, path: &str) -> &mut Self {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"))
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.ask(path).answer()
    }

    /// The next answer, which must be complete.
    pub(crate) fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    pub(crate) fn answer_to(&mut self, method: &str) -> Answer {
        self.try_answer(method).unwrap_or_else(|broken| panic!("no complete answer: {broken:?}"))
    }

    /// The next answer as far as its head goes: its body stays to be read.
    pub(crate) fn head(&mut self) -> Answer {
        self.read_head().unwrap_or_else(|broken| panic!("no head of an answer: {broken:?}"))
    }

    pub(crate) fn try_answer(&mut self, method: &str) -> Result<Answer, Broken> {
        let mut answer = self.read_head()?;
        let truncated = |broken| match broken {
            Broken::Silence => Broken::Silence,
            Broken::Nothing | Broken::Truncated(_) => Broken::Truncated(Some(answer.status)),
        };
        let body = if method == "HEAD" || matches!(answer.status, 204 | 304) {
            Ok(Vec::new())
        } else if answer.has("transfer-encoding") {
            assert_eq!(answer.field("transfer-encoding"), "chunked");
            assert!(!answer.has("content-length"), "RFC 9112 §6.2: {:?}", answer.fields);
            self.read_chunks()
        } else if answer.has("content-length") {
            self.take(answer.field("content-length").parse().expect("a length"))
        } else {
            self.read_to_end()
        };
        answer.body = body.map_err(truncated)?;
        Ok(answer)
    }

    /// The daemon closes the connection and says nothing more.
    pub(crate) fn is_closed(&mut self) {
        match self.read() {
            Err(Broken::Nothing) => {}
            other => panic!("the connection should end, but {other:?}: {:?}", self.received_text()),
        }
    }

    /// Reads at least once, and says whether the connection goes on.
    pub(crate) fn read(&mut self) -> Result<(), Broken> {
        let mut block = vec![0; 64 * 1024];
        match each!(&mut self.socket, socket => socket.read(&mut block)) {
            Ok(0) => Err(Broken::Nothing),
            Ok(len) => {
                self.received.extend_from_slice(&block[..len]);
                Ok(())
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(Broken::Silence),
                io::ErrorKind::Interrupted => Ok(()),
                io::ErrorKind::ConnectionReset => Err(Broken::Nothing),
                _ => panic!("cannot read: {error}"),
            },
        }
    }

    /// Has nothing come that was not read yet?
    pub(crate) fn is_silent(&mut self) -> bool {
        self.is_silent_for(Duration::from_millis(1))
    }

    /// And for so long nothing comes?
    pub(crate) fn is_silent_for(&mut self, time: Duration) -> bool {
        if !self.received.is_empty() {
            return false;
        }
        self.patience(time);
        let silent = matches!(self.read(), Err(Broken::Silence));
        self.patience(DEADLINE);
        silent
    }

    /// Sends nothing more.
    pub(crate) fn finish(&mut self) -> &mut Self {
        each!(&self.socket, socket => socket.shutdown(Shutdown::Write)).expect("the connection is open");
        self
    }

    /// Ends the connection with a reset. TCP only.
    pub(crate) fn reset(self) {
        let Socket::Tcp(socket) = self.socket else { panic!("a unix socket knows no reset") };
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Linger, &linger)
            .expect("it is open");
    }

    /// The rest of a chunked answer whose head was read, as text.
    pub(crate) fn rest_in_chunks(&mut self) -> String {
        let body = self.read_chunks().unwrap_or_else(|broken| panic!("no complete answer: {broken:?}"));
        String::from_utf8_lossy(&body).into_owned()
    }

    /// Exactly `len` bytes of what comes next.
    pub(crate) fn take(&mut self, len: usize) -> Result<Vec<u8>, Broken> {
        while self.received.len() < len {
            self.read()?;
        }
        let rest = self.received.split_off(len);
        Ok(std::mem::replace(&mut self.received, rest))
    }

    /// What has been read from the socket and not taken yet.
    pub(crate) fn received(&self) -> &[u8] {
        &self.received
    }

    fn received_text(&self) -> String {
        String::from_utf8_lossy(&self.received).into_owned()
    }

    fn line(&mut self) -> Result<String, Broken> {
        loop {
            if let Some(end) = self.received.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.take(end + 2)?;
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            self.read()?;
        }
    }

    fn read_head(&mut self) -> Result<Answer, Broken> {
        let mut interim = Vec::new();
        loop {
            let began = |client: &Self| !client.received.is_empty();
            let first = match self.line() {
                Err(Broken::Nothing) if began(self) => return Err(Broken::Truncated(None)),
                first => first?,
            };
            let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
            let status: u16 = status.unwrap_or_else(|| panic!("not a status line: {first:?}"));
            assert!(first.starts_with("HTTP/1."), "not a status line: {first:?}");
            let mut fields = Vec::new();
            loop {
                let line = self.line().map_err(|broken| match broken {
                    Broken::Silence => Broken::Silence,
                    _ => Broken::Truncated(Some(status)),
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
                return Ok(Answer { status, fields, body: Vec::new(), interim });
            }
        }
    }

    fn read_chunks(&mut self) -> Result<Vec<u8>, Broken> {
        let mut body = Vec::new();
        loop {
            let size = self.line()?;
            let len =
                usize::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("not a chunk size: {size:?}"));
            body.extend(self.take(len)?);
            let end = self.line()?;
            assert!(end.is_empty(), "a chunk longer than its size, or trailers: {end:?}");
            if len == 0 {
                return Ok(body);
            }
        }
    }

    fn read_to_end(&mut self) -> Result<Vec<u8>, Broken> {
        loop {
            match self.read() {
                Ok(()) => {}
                Err(Broken::Nothing) => return Ok(std::mem::take(&mut self.received)),
                Err(broken) => return Err(broken),
            }
        }
    }
}
