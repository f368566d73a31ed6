//! One WebSocket client, in a task of its own: it opens, idles, sends messages, and closes as
//! `main` commands.
//!
//! The client always answers pings. Every message is different, and an echo must equal its message,
//! so that a server that mixes up two clients fails the measurement.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::frame;

/// The key of RFC 6455 section 1.3, and the server's response to it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// The offer of a browser.
const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
const READ_BYTES: usize = 4096;
/// Minimum length of a message, because every message begins with two hexadecimal numbers.
pub(crate) const MIN_MESSAGE_BYTES: usize = 24;

/// The parameters of all clients.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) address: SocketAddr,
    pub(crate) path: String,
    /// The length of a message, at least [`MIN_MESSAGE_BYTES`].
    pub(crate) bytes: usize,
    /// Whether permessage-deflate is offered.
    pub(crate) deflate: bool,
}

/// An open WebSocket.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    number: usize,
    sequence: u64,
    bytes: usize,
    /// Whether permessage-deflate is in use: the server accepted the offer.
    pub(crate) deflate: bool,
    /// Received bytes that have not been parsed yet.
    input: Vec<u8>,
    /// The payload of the current message so far.
    message: Vec<u8>,
    /// The current message has begun and is incomplete.
    within: bool,
    /// The current message is compressed.
    compressed: bool,
    /// The last message that was sent, to compare its echo with.
    sent: Vec<u8>,
    /// Encoded frames that have not been written yet.
    output: Vec<u8>,
}

/// An event that a received frame completes.
enum Event {
    /// `Client::message` is complete.
    Message,
    /// The server closes, with this code if its close frame has a code.
    Close(Option<u16>),
}

impl Client {
    /// Connects and performs the opening handshake.
    pub(crate) async fn open(plan: &Plan, number: usize) -> io::Result<Self> {
        let opened = timeout(OPEN_TIMEOUT, Self::shake_hands(plan, number)).await;
        opened.unwrap_or_else(|_| Err(failure(number, "no answer to the handshake within 30 s")))
    }

    async fn shake_hands(plan: &Plan, number: usize) -> io::Result<Self> {
        let mut stream = TcpStream::connect(plan.address).await?;
        stream.set_nodelay(true)?;
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{}\r\n",
            plan.path,
            if plan.deflate { OFFER } else { "" },
        );
        stream.write_all(request.as_bytes()).await?;
        let mut input = Vec::with_capacity(READ_BYTES);
        let end = loop {
            if let Some(at) = input.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut input).await? == 0 {
                return Err(failure(number, "closed within the handshake"));
            }
        };
        let head = String::from_utf8_lossy(&input[..end]).into_owned();
        input.drain(..end);
        let deflate = check_head(&head, plan.deflate).map_err(|why| failure(number, &why))?;
        Ok(Self {
            stream,
            number,
            sequence: 0,
            bytes: plan.bytes,
            deflate,
            input,
            message: Vec::new(),
            within: false,
            compressed: false,
            sent: Vec::new(),
            output: Vec::new(),
        })
    }

    /// Answers pings. Returns when the server closes or sends a message. Cancel safe.
    pub(crate) async fn idle(&mut self) -> io::Error {
        match self.event().await {
            Ok(Event::Message) => failure(self.number, "an unexpected message"),
            Ok(Event::Close(code)) => self.closed(code),
            Err(error) => error,
        }
    }

    /// Sends one message and waits for its echo.
    pub(crate) async fn echo(&mut self) -> io::Result<()> {
        self.sequence += 1;
        self.sent.clear();
        write!(self.sent, "{:08x}{:016x}", self.number, self.sequence)?;
        self.sent.resize(self.bytes, b'x');
        let build = if self.deflate { frame::build_stored } else { frame::build };
        build(&mut self.output, frame::TEXT, &self.sent);
        self.flush().await?;
        match self.event().await? {
            // A compressed echo is not decompressed, so its content is not compared.
            Event::Message if self.compressed || self.message == self.sent => Ok(()),
            Event::Message => Err(failure(self.number, "the echo differs from the message")),
            Event::Close(code) => Err(self.closed(code)),
        }
    }

    /// Performs the closing handshake, for at most two seconds. Errors are ignored: the handshake
    /// is not measured, and the server may end the connection instead.
    pub(crate) async fn close(mut self) {
        frame::build(&mut self.output, frame::CLOSE, &1000_u16.to_be_bytes());
        let handshake = async {
            self.flush().await?;
            while !matches!(self.event().await?, Event::Close(_)) {}
            Ok::<(), io::Error>(())
        };
        let _ = timeout(CLOSE_TIMEOUT, handshake).await;
    }

    /// Returns the next event. Cancel safe: input and an unwritten rest of a pong are kept.
    async fn event(&mut self) -> io::Result<Event> {
        loop {
            while let Some(head) = frame::parse(&self.input).map_err(|why| failure(self.number, why))? {
                let event = self.take(&head)?;
                self.input.drain(..head.end);
                if let Some(event) = event {
                    return Ok(event);
                }
            }
            self.flush().await?;
            self.input.reserve(READ_BYTES);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(failure(self.number, "the connection ended without a close frame"));
            }
        }
    }

    /// Processes one frame.
    fn take(&mut self, head: &frame::Head) -> io::Result<Option<Event>> {
        let payload = &self.input[head.begin..head.end];
        match head.opcode {
            frame::PING => frame::build(&mut self.output, frame::PONG, payload),
            frame::PONG => {}
            frame::CLOSE => {
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                return Ok(Some(Event::Close(code)));
            }
            opcode => {
                if (opcode == frame::CONTINUATION) != self.within {
                    return Err(failure(
                        self.number,
                        "a message begins within another, or a continuation has no beginning",
                    ));
                }
                if !self.within {
                    self.message.clear();
                    self.compressed = head.compressed;
                }
                if self.compressed && !self.deflate {
                    return Err(failure(self.number, "a message is compressed without negotiation"));
                }
                self.message.extend_from_slice(payload);
                self.within = !head.last;
                if head.last {
                    return Ok(Some(Event::Message));
                }
            }
        }
        Ok(None)
    }

    /// Writes the pending output.
    async fn flush(&mut self) -> io::Result<()> {
        while !self.output.is_empty() {
            let count = self.stream.write(&self.output).await?;
            self.output.drain(..count);
        }
        Ok(())
    }

    fn closed(&self, code: Option<u16>) -> io::Error {
        let code = code.map_or("without a code".to_owned(), |code| format!("with {code}"));
        failure(self.number, &format!("the server closed {code}"))
    }
}

/// Checks the response to the handshake (RFC 6455 section 4.1). Returns whether permessage-deflate
/// is in use.
fn check_head(head: &str, offered: bool) -> Result<bool, String> {
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 101") {
        return Err(format!("the handshake was answered with {status:?}"));
    }
    let field = |name: &str| {
        let mut fields = lines.clone().filter_map(|line| line.split_once(':'));
        fields.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    };
    let accept = field("sec-websocket-accept").unwrap_or_default();
    if accept != ACCEPT {
        return Err(format!("Sec-WebSocket-Accept is {accept:?} instead of {ACCEPT:?}"));
    }
    match field("sec-websocket-extensions") {
        None => Ok(false),
        Some(taken) if offered && taken.starts_with("permessage-deflate") => Ok(true),
        Some(taken) => Err(format!("the server accepted the extension {taken:?}, which was not offered")),
    }
}

/// Returns an error with the number of the client.
fn failure(number: usize, why: &str) -> io::Error {
    io::Error::other(format!("client {number}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(fields: &str) -> String {
        format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\n\r\n")
    }

    #[test]
    fn a_handshake_needs_the_right_accept_value() {
        assert_eq!(check_head(&head(&format!("SEC-WebSocket-Accept: {ACCEPT}")), false), Ok(false));
        assert!(check_head(&head("Sec-WebSocket-Accept: AAAA"), false).unwrap_err().contains("AAAA"));
        assert!(check_head("HTTP/1.1 403 Forbidden\r\n\r\n", false).unwrap_err().contains("403"));
    }

    #[test]
    fn an_extension_is_taken_only_if_offered() {
        let deflate =
            head(&format!("Sec-WebSocket-Accept: {ACCEPT}\r\nSec-WebSocket-Extensions: permessage-deflate"));
        assert_eq!(check_head(&deflate, true), Ok(true));
        assert!(check_head(&deflate, false).is_err());
    }
}
