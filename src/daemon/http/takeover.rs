//! Reads the response to a handshake that a WSGI application writes to the socket in its environ.
//!
//! `flask-sock`, `simple-websocket` and Flask-SocketIO write a 101 to the socket and then speak
//! WebSocket on it; the response that the application returns afterwards is discarded. Any other
//! response on the socket is served as if the application had returned it. If the application
//! writes nothing to the socket, the response that it returns is used.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, StatusCode};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::UnixStream;

use crate::dispatch::{AppBody, AppResponse, ContentLength, Data, Fault, ResponseHead, Ticket};
use crate::id::WorkerId;
use crate::websocket::TakenConnection;

/// Status of a response after which the application speaks another protocol (RFC 9110 §15.2.2).
const SWITCHING: u16 = 101;

/// Maximum length of the head of a response, in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Maximum number of fields of a response.
const MAX_HEAD_FIELDS: usize = 128;

/// Maximum length in bytes of the body of a response whose status is not 101.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// Number of bytes that are read at once.
const READ_BYTES: usize = 4096;

/// The state of a handshake that a WSGI application may answer in two places: on its socket, or
/// with the response that it returns.
#[derive(Debug, Default)]
pub(super) struct Takeover {
    /// The daemon's end of the newest socket pair; `None` until a pair is created for a worker.
    socket: Option<AppSocket>,
    /// The response that the application returned, or the fault that ended the exchange.
    returned: Option<Result<AppResponse, Fault>>,
    /// The connection that the application has taken over with a 101.
    taken: Option<TakenConnection>,
}

/// The outcome of a handshake.
#[derive(Debug)]
pub(super) enum TakeoverOutcome {
    /// Nothing was written to the socket. Contains the response that the application returned, or
    /// the fault.
    NotUsed(Result<AppResponse, Fault>),
    /// The application answered on the socket, with a status other than 101.
    Answered(AppResponse),
    /// The response on the socket is invalid, incomplete or too long; with the reason.
    Malformed(Option<WorkerId>, &'static str),
    /// The application answered with a 101. [`Takeover::settle`] must be called.
    TakenOver(AppResponse),
}

impl Takeover {
    /// Polls the socket and the ticket.
    pub(super) fn poll(&mut self, ticket: &mut Ticket, cx: &mut Context<'_>) -> Poll<TakeoverOutcome> {
        // The ticket first: once it has resolved, everything that the application wrote can be
        // read.
        if self.returned.is_none()
            && let Poll::Ready(returned) = Pin::new(&mut *ticket).poll(cx)
        {
            self.returned = Some(returned);
        }
        // The handshake has a new pair if it was moved to another worker before it started. That worker
        // has the other end of the newest pair.
        if let Some(socket) = ticket.take_socket() {
            self.socket = AppSocket::new(socket).ok();
        }
        let has_failed = matches!(&self.returned, Some(Err(fault)) if !matches!(fault, Fault::Raised { .. }));
        let response = match &mut self.socket {
            Some(socket) if !has_failed => {
                let has_returned = self.returned.is_some();
                ready!(socket.poll_response(cx, has_returned))
            }
            _ => None,
        };
        let Some(response) = response else {
            self.socket = None;
            return self
                .returned
                .take()
                .map_or(Poll::Pending, |own| Poll::Ready(TakeoverOutcome::NotUsed(own)));
        };
        let (worker, waited) = match &self.returned {
            Some(Ok(AppResponse { worker, waited, .. })) => (*worker, *waited),
            Some(Err(_)) | None => (ticket.worker(), ticket.waited()),
        };
        let respond = |head, body| AppResponse { head, body, worker, waited };
        Poll::Ready(match response {
            SocketResponse::Switch { head, rest } => {
                let Some(AppSocket { stream, .. }) = self.socket.take() else {
                    unreachable!("the response was read from this socket")
                };
                let fault = match self.returned.take() {
                    Some(Err(fault)) => Some(fault).filter(|fault| !ends_takeover(fault)),
                    Some(Ok(_)) | None => None,
                };
                self.taken =
                    Some(TakenConnection { socket: stream, early_output: rest, handle: None, fault });
                TakeoverOutcome::TakenOver(respond(head, AppBody::Empty))
            }
            SocketResponse::Whole { head, body } => {
                self.socket = None;
                TakeoverOutcome::Answered(respond(head, AppBody::Bytes(Data::with_reservation(body, None))))
            }
            SocketResponse::Malformed(reason) => TakeoverOutcome::Malformed(worker, reason),
        })
    }

    /// Keeps the exchange of a connection that was taken over, unless the exchange has ended.
    pub(super) fn settle(&mut self, ticket: Ticket) {
        if let Some(taken) = &mut self.taken {
            taken.handle = ticket.take_over();
        }
    }

    /// Returns the connection that the application has taken over, if any.
    pub(super) fn take_connection(&mut self) -> Option<TakenConnection> {
        self.taken.take()
    }
}

fn ends_takeover(fault: &Fault) -> bool {
    matches!(fault, Fault::Raised { ends_takeover: true, .. })
}

/// The daemon's end of the socket pair, until the application's first response is complete.
#[derive(Debug)]
struct AppSocket {
    stream: UnixStream,
    received: Vec<u8>,
    /// The head of a response other than 101, whose body is being read.
    head: Option<(Box<ResponseHead>, BodyFraming)>,
    /// The application has closed its end.
    has_ended: bool,
}

/// A response on the socket.
#[derive(Debug)]
enum SocketResponse {
    /// A 101, and the bytes after it.
    Switch { head: Box<ResponseHead>, rest: Vec<u8> },
    /// Another status, with its whole body.
    Whole { head: Box<ResponseHead>, body: Bytes },
    /// Bytes that are no response; the text describes the defect.
    Malformed(&'static str),
}

impl AppSocket {
    fn new(socket: std::os::unix::net::UnixStream) -> io::Result<Self> {
        let stream = UnixStream::from_std(socket)?;
        Ok(Self { stream, received: Vec::new(), head: None, has_ended: false })
    }

    /// Reads the response; `None` if there is none. `has_returned`: the application has returned,
    /// so no bytes follow those that can be read now.
    fn poll_response(&mut self, cx: &mut Context<'_>, has_returned: bool) -> Poll<Option<SocketResponse>> {
        loop {
            match self.next_response() {
                Ok(Some(response)) => return Poll::Ready(Some(response)),
                Ok(None) => {}
                Err(reason) => return Poll::Ready(Some(SocketResponse::Malformed(reason))),
            }
            if self.has_ended {
                let is_unused = self.received.is_empty() && self.head.is_none();
                return match (is_unused, has_returned) {
                    (true, true) => Poll::Ready(None),
                    (true, false) => Poll::Pending,
                    (false, _) => Poll::Ready(Some(SocketResponse::Malformed(TRUNCATED))),
                };
            }
            if self.poll_fill(cx).is_pending() {
                // tokio knows that the socket is readable only after it has polled the kernel
                // again.
                if has_returned && self.fill_now() {
                    continue;
                }
                let is_unused = self.received.is_empty() && self.head.is_none();
                return if has_returned && is_unused { Poll::Ready(None) } else { Poll::Pending };
            }
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut block = [0; READ_BYTES];
        let mut block = ReadBuf::new(&mut block);
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut block));
        // An error of a socket pair means that the other end is closed.
        self.has_ended = read.is_err() || block.filled().is_empty();
        self.received.extend_from_slice(block.filled());
        Poll::Ready(())
    }

    /// Reads without waiting for tokio. Returns true if it read bytes or the end of input.
    fn fill_now(&mut self) -> bool {
        let mut block = [0; READ_BYTES];
        match rustix::io::read(&self.stream, &mut block) {
            Ok(len) => {
                self.has_ended = len == 0;
                self.received.extend_from_slice(block.get(..len).unwrap_or_default());
                true
            }
            Err(_) => false,
        }
    }

    /// Returns the response if it is complete.
    fn next_response(&mut self) -> Result<Option<SocketResponse>, &'static str> {
        while self.head.is_none() {
            let Some((head, len)) = parse_head(&self.received)? else { return Ok(None) };
            let rest = self.received.split_off(len);
            self.received = rest;
            if head.status.as_u16() == SWITCHING {
                let rest = std::mem::take(&mut self.received);
                return Ok(Some(SocketResponse::Switch { head: switching_head(head), rest }));
            }
            // Interim responses are dropped; the final response follows them.
            if !head.status.is_informational() {
                let framing = BodyFraming::of(&head)?;
                self.head = Some((ordinary_head(head), framing));
            }
        }
        let Some((_, framing)) = &self.head else { return Ok(None) };
        let Some(body) = framing.body(&self.received, self.has_ended)? else { return Ok(None) };
        let Some((head, _)) = self.head.take() else { return Ok(None) };
        Ok(Some(SocketResponse::Whole { head, body: body.into() }))
    }
}

const NO_RESPONSE: &str = "the application wrote something other than an HTTP response to the connection";
const TRUNCATED: &str = "the application did not finish the response that it wrote to the connection";
const TOO_LONG: &str = "the response that the application wrote to the connection is too long";

/// Parses the head at the beginning of `bytes`, and returns its length.
fn parse_head(bytes: &[u8]) -> Result<Option<(Box<ResponseHead>, usize)>, &'static str> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEAD_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let len = match response.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if bytes.len() <= MAX_HEAD_BYTES => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(TOO_LONG),
        Err(_) => return Err(NO_RESPONSE),
    };
    let status = response.code.and_then(|code| StatusCode::try_from(code).ok()).ok_or(NO_RESPONSE)?;
    let reason = response.reason.filter(|reason| Some(*reason) != status.canonical_reason());
    let reason = reason.filter(|reason| !reason.is_empty()).map(|reason| reason.as_bytes().into());
    let mut map = HeaderMap::with_capacity(response.headers.len());
    for field in response.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| NO_RESPONSE)?;
        let value = HeaderValue::from_bytes(field.value).map_err(|_| NO_RESPONSE)?;
        map.append(name, value);
    }
    Ok(Some((Box::new(ResponseHead { status, reason, fields: map, length: ContentLength::Absent }), len)))
}

/// Prepares the head of a 101 for the connection: removes body framing and restores the upgrade
/// fields.
fn switching_head(mut head: Box<ResponseHead>) -> Box<ResponseHead> {
    for framing in [CONTENT_LENGTH, TRANSFER_ENCODING] {
        head.fields.remove(framing);
    }
    if !head.fields.contains_key(UPGRADE) {
        head.fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    head.fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    head
}

/// Removes the fields that belong to the connection (RFC 9110 §7.6.1), and the length, which the
/// connection sets.
fn ordinary_head(mut head: Box<ResponseHead>) -> Box<ResponseHead> {
    for own in [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE] {
        head.fields.remove(own);
    }
    for own in ["keep-alive", "proxy-connection", "te", "trailer"] {
        head.fields.remove(own);
    }
    head
}

/// The end of a body (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyFraming {
    Length(usize),
    Chunked,
    /// The body ends when the application closes its end.
    Close,
}

impl BodyFraming {
    fn of(head: &ResponseHead) -> Result<Self, &'static str> {
        if matches!(head.status.as_u16(), 204 | 304) {
            return Ok(Self::Length(0));
        }
        let mut codings = head.fields.get_all(TRANSFER_ENCODING).iter();
        if let Some(coding) = codings.next() {
            let is_chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
            return if is_chunked { Ok(Self::Chunked) } else { Err(NO_RESPONSE) };
        }
        let values = head.fields.get_all(CONTENT_LENGTH).iter();
        match values.fold(ContentLength::Absent, |length, value| length.combine(value.as_bytes())) {
            ContentLength::Absent => Ok(Self::Close),
            ContentLength::Invalid => Err(NO_RESPONSE),
            ContentLength::Bytes(len) => usize::try_from(len)
                .ok()
                .filter(|len| *len <= MAX_ANSWER_BYTES)
                .map(Self::Length)
                .ok_or(TOO_LONG),
        }
    }

    /// Returns the body if all of it is in `received`.
    fn body(self, received: &[u8], has_ended: bool) -> Result<Option<Vec<u8>>, &'static str> {
        let body = match self {
            Self::Length(len) => received.get(..len).map(<[u8]>::to_vec),
            Self::Close => has_ended.then(|| received.to_vec()),
            Self::Chunked => dechunk(received)?,
        };
        if body.is_none() && received.len() > MAX_ANSWER_BYTES { Err(TOO_LONG) } else { Ok(body) }
    }
}

/// Decodes a chunked body (RFC 9112 §7.1) if it is complete up to its last chunk; extensions and
/// trailers are dropped.
fn dechunk(mut bytes: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    let mut body = Vec::new();
    loop {
        let (head, size) = match httparse::parse_chunk_size(bytes) {
            Ok(httparse::Status::Complete(parsed)) => parsed,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(NO_RESPONSE),
        };
        if size == 0 {
            return Ok(Some(body));
        }
        let size = usize::try_from(size).map_err(|_| TOO_LONG)?;
        let end = head.checked_add(size).ok_or(TOO_LONG)?;
        let (Some(data), Some(rest)) = (bytes.get(head..end), bytes.get(end..)) else { return Ok(None) };
        body.extend_from_slice(data);
        bytes = match rest {
            [b'\r', b'\n', next @ ..] => next,
            [] | [b'\r'] => return Ok(None),
            _ => return Err(NO_RESPONSE),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses the response from `bytes`, which are all that the application wrote before it closed
    /// its end.
    fn parse_response(bytes: &[u8]) -> Result<Option<SocketResponse>, &'static str> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let _context = runtime.enter();
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut socket = AppSocket::new(ours).unwrap();
        socket.received = bytes.to_vec();
        socket.has_ended = true;
        socket.next_response()
    }

    fn response(bytes: &[u8]) -> (u16, HeaderMap, Bytes) {
        match parse_response(bytes) {
            Ok(Some(SocketResponse::Whole { head, body })) => (head.status.as_u16(), head.fields, body),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_101_keeps_its_fields_and_the_bytes_after_it() {
        let bytes = b"HTTP/1.1 101 \r\nSec-WebSocket-Accept: abc\r\nContent-Length: 4\r\n\r\n\x81\x00";
        let Ok(Some(SocketResponse::Switch { head, rest })) = parse_response(bytes) else {
            panic!("no switch")
        };
        assert_eq!(rest, b"\x81\x00");
        let value = |name: &str| head.fields.get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(value("sec-websocket-accept").as_deref(), Some("abc"));
        assert_eq!(value("upgrade").as_deref(), Some("websocket"));
        assert_eq!(value("connection").as_deref(), Some("Upgrade"));
        assert_eq!(value("content-length"), None);
    }

    #[test]
    fn body_ends_by_length_chunk_or_close() {
        for body in [
            "Content-Length: 3\r\n\r\nnono",
            "Transfer-Encoding: chunked\r\n\r\n1\r\nn\r\n2;a=b\r\non\r\n0\r\n\r\n",
            "Connection: close\r\n\r\nnon",
        ] {
            let bytes = format!("HTTP/1.1 403 Forbidden\r\nX-Why: no\r\n{body}");
            let (status, fields, body) = response(bytes.as_bytes());
            assert_eq!((status, &*body), (403, &b"non"[..]));
            assert_eq!(fields.len(), 1, "{fields:?}");
        }
    }

    #[test]
    fn interim_responses_are_dropped() {
        let bytes = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 \r\n\r\n";
        assert_eq!(response(bytes).0, 204);
    }

    #[test]
    fn incomplete_answer_is_awaited() {
        for bytes in [
            &b"HTTP/1.1 101"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nno",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nno",
        ] {
            assert!(matches!(parse_response(bytes), Ok(None)), "{bytes:?}");
        }
    }

    #[test]
    fn malformed_and_too_long_answers_fail() {
        let long = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(MAX_HEAD_BYTES));
        for (bytes, reason) in [
            (&b"\x81\x05hello"[..], NO_RESPONSE),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", NO_RESPONSE),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", NO_RESPONSE),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx", NO_RESPONSE),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n", TOO_LONG),
            (long.as_bytes(), TOO_LONG),
        ] {
            assert_eq!(parse_response(bytes).err(), Some(reason));
        }
    }
}
