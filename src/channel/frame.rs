//! Frames: what a record of the submission or completion ring says.
//!
//! Submission (daemon → worker), 48 bytes then the variable part:
//!
//! | offset | size | field | bound |
//! |---|---|---|---|
//! | 0 | 8 | exchange id | never 0 |
//! | 8 | 8 | body length, bytes | |
//! | 16 | 8 | received: `CLOCK_MONOTONIC` when the head was complete, ns | |
//! | 24 | 1 | kind: 1 = request | |
//! | 25 | 1 | method, index of [`METHODS`], 0 = literal | |
//! | 26 | 1 | version: 10 or 11 | |
//! | 27 | 1 | flags: 1 body is a descriptor ([`crate::control`]), 2 https, 4 the body comes in parts, 8 WebSocket | |
//! | 28 | 2 | number of fields | |
//! | 30 | 2 | listener, index of [`crate::control::Start::listeners`] | |
//! | 32 | 2·6 | lengths: literal method, path, query, peer address, request id, (reserved) | |
//! | 44 | 2 | peer port | |
//! | 46 | 2 | reserved, 0 | |
//! | 48 | | method, path, query, peer, request id; fields; body to the end (unless a descriptor) | |
//!
//! To an ASGI worker more may follow for an exchange that it has claimed ([`StreamFrame`]), 16 bytes then the variable part:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | exchange id |
//! | 8 | 16 | padding to where requests have their kind |
//! | 24 | 1 | kind: 2 = part (of the request's body, or a WebSocket message), 3 = disconnect |
//! | 25 | 1 | flags of a part: 1 END of the body, 2 text message, 4 the message goes on in the next part; of a disconnect: 1 cancel |
//! | 26 | 2 | WebSocket close code (RFC 6455 §7.4) of a disconnect |
//! | 28 | 4 | reserved, 0 |
//! | 32 | | bytes of the part, or the close reason |
//!
//! A field is `name u8` (index of [`NAMES`](crate::header::NAMES), or [`LITERAL`] followed by `len u16` and the
//! lower-case name), `len u16`, value.
//!
//! Completion (worker → daemon), 32 bytes then the variable part:
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 8 | exchange id |
//! | 8 | 1 | kind: 1 respond (head, perhaps with body), 2 body, 3 raised, 4 take, 5 early hints, 6 trailers, 7 close |
//! | 9 | 1 | flags: 1 END of the response, 2 body is a descriptor, 4 body is slab chunks, 8 DONE: the slot is free, 16 text message, 32 the message goes on |
//! | 10 | 2 | status |
//! | 12 | 2 | number of fields |
//! | 14 | 2 | number of slab chunks |
//! | 16 | 8 | service time so far, ns (valid with DONE) |
//! | 24 | 2 | slot in which the exchange runs: whose [`SLOT_ACKED`](crate::layout::SLOT_ACKED) the daemon moves |
//! | 26 | 2 | length of the reason phrase, bytes; 0: the canonical one ([`crate::status`]), or none |
//! | 28 | 4 | reserved, 0 |
//! | 32 | | reason phrase; fields; then slab chunks (`chunk u32, len u32`)·n, or `offset u64, len u64` of the descriptor ([`UNTIL_EOF`]), or body bytes |
//!
//! What only ASGI workers send: `take` says how many bytes of the request's body the application has room for,
//! counted from its beginning (u64, as the inline body); the daemon sends parts as far as that. `early hints` are the
//! fields of a 103 (RFC 8297), `trailers` the fields after the body; `close` ends a WebSocket with the code in
//! `status` and the reason as inline body. A `respond` with status 101 accepts a WebSocket: its `body` frames are
//! then messages, none of which has END, and its `parts` are messages too, of which each costs its bytes and
//! [`MESSAGE_COST`]; what it ends with is `close` or `raised`. Any other `respond` denies it and is an ordinary one.
//!
//! `raised` carries an [`AppError`]; before the head it becomes a 500, after it a reset, after END a log
//! entry. It ends the response; another `raised` may follow (closing the iterable failed, too), and the last
//! one has DONE. A response whose END came before DONE gets DONE as long as it lies in the ring
//! ([`crate::ring::CompletionSender::mark_done`]; no service time then), or is followed by an empty body frame with END and DONE. So ends
//! also, without a head, an exchange of which the worker was told that its client is gone or that it is cancelled.
#![warn(clippy::indexing_slicing)]

use std::ops::Range;

use crate::ProtocolError;
use crate::header::{LITERAL, METHOD_LITERAL, METHODS, name_of};
use crate::status::is_reason;

const REQUEST: u8 = 1;
const PART: u8 = 2;
const DISCONNECT: u8 = 3;
/// Where a submission frame has its kind.
const SUBMISSION_KIND_OFFSET: usize = 24;
const PART_TEXT: u8 = 2;
const PART_MORE: u8 = 4;
const DISCONNECT_CANCEL: u8 = 1;
const DISCONNECT_HALF: u8 = 2;
const REQUEST_HEAD_BYTES: usize = 48;
const COMPLETION_HEAD_BYTES: usize = 32;

/// Identifies an exchange on its channel, and in the daemon while it lives. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeId(pub u64);

/// Why a request could not be put into a frame: one of its parts is longer than 65,535 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is longer than 65535 bytes")]
pub struct TooLong(pub &'static str);

/// A request, as the daemon writes it and the worker reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// The exchange.
    pub exchange: ExchangeId,
    /// Bytes of the body, inline or in the descriptor.
    pub body_len: u64,
    /// `CLOCK_MONOTONIC` when the head was complete, nanoseconds.
    pub received: u64,
    /// The method as sent (RFC 9110 §9: case-sensitive).
    pub method: &'a [u8],
    /// 10 or 11.
    pub version: u8,
    /// The body is a descriptor, sent on the control socket before this frame was published.
    pub body_is_fd: bool,
    /// The body is not in the frame: it comes in parts ([`StreamFrame::Part`]) as the application takes it. `body_len` is then
    /// what Content-Length said, or [`UNKNOWN_LENGTH`].
    pub body_streams: bool,
    /// A WebSocket handshake (RFC 6455 §4.1).
    pub websocket: bool,
    /// The client used TLS.
    pub https: bool,
    /// Which listener accepted the connection.
    pub listener: u16,
    /// The path as sent, percent-encoded (RFC 3986 §3.3).
    pub path: &'a [u8],
    /// The query as sent, without `?`.
    pub query: &'a [u8],
    /// The client's address as text; empty on a unix socket.
    pub peer: &'a [u8],
    /// The client's port; 0 on a unix socket.
    pub peer_port: u16,
    /// The request id that the response and the journal carry.
    pub request_id: &'a [u8],
    /// Number of fields.
    pub n_fields: u16,
    /// The encoded fields; empty while encoding. Read with [`Request::fields`].
    pub encoded_fields: &'a [u8],
    /// The body, when it is inline.
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    /// A request without fields and body, for filling in and [`Request::encode`].
    pub const fn new(exchange: ExchangeId) -> Self {
        Self {
            exchange,
            body_len: 0,
            received: 0,
            method: b"GET",
            version: 11,
            body_is_fd: false,
            body_streams: false,
            websocket: false,
            https: false,
            listener: 0,
            path: b"/",
            query: b"",
            peer: b"",
            peer_port: 0,
            request_id: b"",
            n_fields: 0,
            encoded_fields: b"",
            body: b"",
        }
    }

    /// Writes the frame into `out` (cleared first). `fields` yields lower-case names and values; the
    /// number of fields is counted, `n_fields` and `encoded_fields` of self are ignored.
    ///
    /// # Errors
    /// When a part is longer than the frame's lengths can say.
    pub fn encode<'f>(
        &self,
        fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
        out: &mut Vec<u8>,
    ) -> Result<(), TooLong> {
        let method_index = crate::header::method_index(self.method);
        let method: &[u8] = if method_index == METHOD_LITERAL { self.method } else { b"" };
        out.clear();
        out.extend_from_slice(&self.exchange.0.to_le_bytes());
        out.extend_from_slice(&self.body_len.to_le_bytes());
        out.extend_from_slice(&self.received.to_le_bytes());
        let flags = u8::from(self.body_is_fd)
            | u8::from(self.https) << 1
            | u8::from(self.body_streams) << 2
            | u8::from(self.websocket) << 3;
        out.extend_from_slice(&[REQUEST, method_index, self.version, flags, 0, 0]);
        out.extend_from_slice(&self.listener.to_le_bytes());
        for (what, part) in [
            ("method", method),
            ("path", self.path),
            ("query", self.query),
            ("peer address", self.peer),
            ("request id", self.request_id),
            ("", b""),
        ] {
            out.extend_from_slice(&u16_len(what, part.len())?.to_le_bytes());
        }
        out.extend_from_slice(&self.peer_port.to_le_bytes());
        out.extend_from_slice(&[0, 0]);
        for part in [method, self.path, self.query, self.peer, self.request_id] {
            out.extend_from_slice(part);
        }
        let n_fields = encode_fields(fields, out)?;
        if let Some(count) = out.get_mut(28..30) {
            count.copy_from_slice(&n_fields.to_le_bytes());
        }
        out.extend_from_slice(self.body);
        Ok(())
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// When a length or value is impossible.
    pub fn decode(frame: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader(frame);
        let exchange = ExchangeId(reader.u64()?);
        let body_len = reader.u64()?;
        let received = reader.u64()?;
        let (kind, method_index, version, flags) = (reader.u8()?, reader.u8()?, reader.u8()?, reader.u8()?);
        let n_fields = reader.u16()?;
        let listener = reader.u16()?;
        let lengths =
            [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
        let [method_len, path_len, query_len, peer_len, request_id_len, _] = lengths.map(usize::from);
        let peer_port = reader.u16()?;
        reader.u16()?;
        if kind != REQUEST || exchange.0 == 0 {
            return Err(ProtocolError::Frame("not a request"));
        }
        let literal = reader.bytes(method_len)?;
        let method = if method_index == METHOD_LITERAL {
            literal
        } else {
            METHODS
                .get(usize::from(method_index))
                .ok_or(ProtocolError::Frame("unknown method index"))?
                .as_bytes()
        };
        let path = reader.bytes(path_len)?;
        let query = reader.bytes(query_len)?;
        let peer = reader.bytes(peer_len)?;
        let request_id = reader.bytes(request_id_len)?;
        let before = reader.0;
        for _ in 0..n_fields {
            reader.field()?;
        }
        let fields = before.get(..before.len() - reader.0.len()).unwrap_or_default();
        let (body_is_fd, body_streams) = (flags & 1 != 0, flags & 4 != 0);
        let is_elsewhere = body_is_fd || body_streams;
        let body = if is_elsewhere { &[][..] } else { reader.0 };
        if !is_elsewhere && body.len() as u64 != body_len {
            return Err(ProtocolError::Frame("inline body is not as long as announced"));
        }
        Ok(Self {
            exchange,
            body_len,
            received,
            method,
            version,
            body_is_fd,
            body_streams,
            websocket: flags & 8 != 0,
            https: flags & 2 != 0,
            listener,
            path,
            query,
            peer,
            peer_port,
            request_id,
            n_fields,
            encoded_fields: fields,
            body,
        })
    }

    /// The fields in order.
    pub fn fields(&self) -> Fields<'a> {
        Fields { reader: Reader(self.encoded_fields), remaining: self.n_fields }
    }
}

/// What a streamed body's length is when the client did not say (chunked, RFC 9112 §7.1).
pub const UNKNOWN_LENGTH: u64 = u64::MAX;

/// What a WebSocket message's frame costs beside its bytes, in bytes, wherever bytes are counted that may wait (what
/// [`CompletionKind::WindowUpdate`] says, [`RESPONSE_WINDOW`](crate::layout::RESPONSE_WINDOW)): else empty messages could be
/// piled up without bound.
pub const MESSAGE_COST: u64 = 64;

/// A submission frame that follows a request which was claimed. ASGI only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamFrame<'a> {
    /// A part of the request's body, or (a part of) a WebSocket message.
    Part {
        /// The exchange.
        exchange: ExchangeId,
        /// The bytes; may be empty.
        bytes: &'a [u8],
        /// Nothing of the body follows.
        end: bool,
        /// The message is text (UTF-8, checked); else binary. Of messages only.
        text: bool,
        /// The message goes on in the next part. Of messages only.
        more: bool,
    },
    /// The client has gone: `http.disconnect`, `websocket.disconnect`.
    Disconnect {
        /// The exchange.
        exchange: ExchangeId,
        /// RFC 6455 §7.4; 0 for HTTP.
        code: u16,
        /// The close frame's reason, UTF-8.
        reason: &'a [u8],
        /// Its deadline has passed: the task is to be cancelled, not told.
        cancel: bool,
    },
    /// The client has closed its sending half: `http.disconnect` behind the request's body, and what the application
    /// sends all the same is sent. Of no WebSocket.
    HalfClose {
        /// The exchange.
        exchange: ExchangeId,
    },
}

impl<'a> StreamFrame<'a> {
    /// Writes the frame into `out` (cleared first).
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (exchange, kind, flags, code, rest) = match *self {
            Self::Part { exchange, bytes, end, text, more } => {
                let flags =
                    u8::from(end) | if text { PART_TEXT } else { 0 } | if more { PART_MORE } else { 0 };
                (exchange, PART, flags, 0, bytes)
            }
            Self::Disconnect { exchange, code, reason, cancel } => {
                (exchange, DISCONNECT, if cancel { DISCONNECT_CANCEL } else { 0 }, code, reason)
            }
            Self::HalfClose { exchange } => (exchange, DISCONNECT, DISCONNECT_HALF, 0, &[][..]),
        };
        out.clear();
        out.extend_from_slice(&exchange.0.to_le_bytes());
        out.extend_from_slice(&[0; 16]);
        out.extend_from_slice(&[kind, flags]);
        out.extend_from_slice(&code.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(rest);
    }

    fn decode(frame: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader(frame);
        let exchange = ExchangeId(reader.u64()?);
        reader.bytes(16)?;
        let (kind, flags, code) = (reader.u8()?, reader.u8()?, reader.u16()?);
        reader.bytes(4)?;
        match kind {
            PART => Ok(Self::Part {
                exchange,
                bytes: reader.0,
                end: flags & 1 != 0,
                text: flags & PART_TEXT != 0,
                more: flags & PART_MORE != 0,
            }),
            DISCONNECT if flags & DISCONNECT_HALF != 0 => Ok(Self::HalfClose { exchange }),
            DISCONNECT => Ok(Self::Disconnect {
                exchange,
                code,
                reason: reader.0,
                cancel: flags & DISCONNECT_CANCEL != 0,
            }),
            _ => Err(ProtocolError::Frame("unknown kind of submission")),
        }
    }
}

/// Any submission frame, as an ASGI worker reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submission<'a> {
    /// Something new.
    Request(Request<'a>),
    /// More of something known.
    Stream(StreamFrame<'a>),
}

impl<'a> Submission<'a> {
    /// Reads a frame.
    ///
    /// # Errors
    /// When a length or value is impossible.
    pub fn decode(frame: &'a [u8]) -> Result<Self, ProtocolError> {
        match frame.get(SUBMISSION_KIND_OFFSET) {
            Some(&REQUEST) => Request::decode(frame).map(Self::Request),
            Some(_) => StreamFrame::decode(frame).map(Self::Stream),
            None => Err(ProtocolError::Frame("ends too early")),
        }
    }
}

/// The name of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldName<'a> {
    /// Index of [`NAMES`](crate::header::NAMES).
    Known(u8),
    /// Any other name, lower-case in requests.
    Literal(&'a [u8]),
}

impl<'a> FieldName<'a> {
    /// The name as bytes.
    pub fn as_bytes(&self) -> &'a [u8] {
        match self {
            Self::Known(index) => name_of(*index).unwrap_or_default().as_bytes(),
            Self::Literal(name) => name,
        }
    }
}

/// Iterates over the fields of a frame that has been checked by its decoder.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    reader: Reader<'a>,
    remaining: u16,
}

impl<'a> Iterator for Fields<'a> {
    type Item = (FieldName<'a>, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.remaining = self.remaining.checked_sub(1)?;
        self.reader.field().ok()
    }
}

fn u16_len(what: &'static str, len: usize) -> Result<u16, TooLong> {
    u16::try_from(len).map_err(|_| TooLong(what))
}

/// Writes one field with a name of the table.
///
/// # Errors
/// When the value is too long.
pub fn encode_known_field(name: u8, value: &[u8], out: &mut Vec<u8>) -> Result<(), TooLong> {
    let [low, high] = u16_len("field value", value.len())?.to_le_bytes();
    out.extend_from_slice(&[name, low, high]);
    out.extend_from_slice(value);
    Ok(())
}

/// Writes one field; the name must be lower-case to be found in the table.
///
/// # Errors
/// When name or value are too long.
pub fn encode_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) -> Result<(), TooLong> {
    if let Some(index) = crate::header::index_of(name) {
        return encode_known_field(index, value, out);
    }
    out.push(LITERAL);
    out.extend_from_slice(&u16_len("field name", name.len())?.to_le_bytes());
    out.extend_from_slice(name);
    out.extend_from_slice(&u16_len("field value", value.len())?.to_le_bytes());
    out.extend_from_slice(value);
    Ok(())
}

fn encode_fields<'f>(
    fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
    out: &mut Vec<u8>,
) -> Result<u16, TooLong> {
    let mut count: u16 = 0;
    for (name, value) in fields {
        encode_field(name, value, out)?;
        count = count.checked_add(1).ok_or(TooLong("list of fields"))?;
    }
    Ok(count)
}

/// What a completion frame is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompletionKind {
    /// The response's head, perhaps with (the first part of) its body.
    Respond,
    /// A further part of the body, possibly empty.
    Body,
    /// The application failed: [`AppError`] follows.
    AppRaised,
    /// How far the application takes the request's body, bytes from its beginning: see [`taken`].
    WindowUpdate,
    /// The fields of a 103 (Early Hints).
    EarlyHints,
    /// The fields after the body.
    Trailers,
    /// The end of a WebSocket: its code is in `status`, its reason the inline body.
    Close,
}

/// The number in the inline body of a [`CompletionKind::WindowUpdate`].
///
/// # Errors
/// When it is none.
pub fn decode_window_update(body: &[u8]) -> Result<u64, ProtocolError> {
    <[u8; 8]>::try_from(body).map(u64::from_le_bytes).map_err(|_| ProtocolError::Frame("take says no number"))
}

/// Most header fields of a response: a header map of the `http` crate panics beyond 2^15, and no client takes as many.
/// The worker refuses an application's that has more; the daemon believes no other.
pub const MAX_FIELDS: u16 = 4096;

/// The fixed part of a completion frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// The exchange.
    pub exchange: ExchangeId,
    /// What it is about.
    pub kind: CompletionKind,
    /// Nothing of the response follows.
    pub end: bool,
    /// The exchange's slot is free: the application has returned, the iterable is closed.
    pub done: bool,
    /// A WebSocket message is text; else binary.
    pub text: bool,
    /// A WebSocket message goes on in the next frame.
    pub more: bool,
    /// Status code (RFC 9110 §15); 101 accepts a WebSocket; the close code of [`CompletionKind::Close`]; else 0.
    pub status: u16,
    /// Nanoseconds from claim to here; meant when `done`.
    pub service: u64,
    /// The slot in which the exchange runs. The receiver checks it against the geometry.
    pub slot: u16,
}

/// Where the body of a completion frame is. Ranges are byte ranges of the frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyPart {
    /// In the frame itself; may be empty.
    Inline(Range<usize>),
    /// In slab chunks; the range holds `chunk u32, len u32` pairs, see [`chunks`].
    Chunks(Range<usize>),
    /// In a file, whose descriptor came on the control socket.
    File {
        /// First byte.
        offset: u64,
        /// Number of bytes, or [`UNTIL_EOF`].
        len: u64,
    },
}

/// The length of a file whose end is found by reading: what `stat` says of it is not so (procfs, sysfs).
pub const UNTIL_EOF: u64 = u64::MAX;

/// A decoded completion frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedCompletion {
    /// The fixed part.
    pub head: Completion,
    /// Byte range of the reason phrase of a [`CompletionKind::Respond`]; mostly empty.
    pub reason: Range<usize>,
    /// Number of fields.
    pub n_fields: u16,
    /// Byte range of the encoded fields, see [`fields`].
    pub fields: Range<usize>,
    /// The body, or the encoded [`AppError`] of [`CompletionKind::AppRaised`].
    pub body: BodyPart,
}

const END: u8 = 1;
const BODY_FD: u8 = 2;
const BODY_CHUNKS: u8 = 4;
const DONE: u8 = 8;
/// Where a completion frame has its flags.
const COMPLETION_FLAGS_OFFSET: usize = 9;
const TEXT: u8 = 16;
const MORE: u8 = 32;

/// The body of a completion frame, for encoding.
#[derive(Debug, Clone, Copy)]
pub enum Body<'a> {
    /// Bytes in the frame.
    Inline(&'a [u8]),
    /// Slab chunks: number and length.
    Chunks(&'a [(u32, u32)]),
    /// A file whose descriptor has been sent on the control socket before.
    File {
        /// First byte.
        offset: u64,
        /// Number of bytes, or [`UNTIL_EOF`].
        len: u64,
    },
}

/// Adds DONE to a completion that was pushed without it.
pub(crate) fn add_done(frame: &mut [u8]) {
    if let Some(flags) = frame.get_mut(COMPLETION_FLAGS_OFFSET) {
        *flags |= DONE;
    }
}

impl Completion {
    /// Starts a frame in `out` (cleared first): the fixed part. Fields follow with
    /// [`encode_field`] (their number given here), then [`Body::encode`].
    pub fn encode(&self, n_fields: u16, body: &Body<'_>, out: &mut Vec<u8>) {
        self.encode_with_reason(0, n_fields, body, out);
    }

    /// As [`Completion::encode`], for a [`CompletionKind::Respond`] whose reason phrase has `reason_len` bytes. These
    /// come first, before the fields.
    pub fn encode_with_reason(&self, reason_len: u16, n_fields: u16, body: &Body<'_>, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.exchange.0.to_le_bytes());
        let kind = match self.kind {
            CompletionKind::Respond => 1,
            CompletionKind::Body => 2,
            CompletionKind::AppRaised => 3,
            CompletionKind::WindowUpdate => 4,
            CompletionKind::EarlyHints => 5,
            CompletionKind::Trailers => 6,
            CompletionKind::Close => 7,
        };
        let (body_flag, n_chunks) = match body {
            Body::Inline(_) => (0, 0),
            Body::Chunks(chunks) => (BODY_CHUNKS, u16::try_from(chunks.len()).expect("chunks of one slab")),
            Body::File { .. } => (BODY_FD, 0),
        };
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        let flags = flag(self.end, END)
            | flag(self.done, DONE)
            | flag(self.text, TEXT)
            | flag(self.more, MORE)
            | body_flag;
        out.extend_from_slice(&[kind, flags]);
        out.extend_from_slice(&self.status.to_le_bytes());
        out.extend_from_slice(&n_fields.to_le_bytes());
        out.extend_from_slice(&n_chunks.to_le_bytes());
        out.extend_from_slice(&self.service.to_le_bytes());
        out.extend_from_slice(&self.slot.to_le_bytes());
        out.extend_from_slice(&reason_len.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
    }

    /// Reads a frame.
    ///
    /// # Errors
    /// When a length or value is impossible.
    pub fn decode(frame: &[u8]) -> Result<DecodedCompletion, ProtocolError> {
        let mut reader = Reader(frame);
        let exchange = ExchangeId(reader.u64()?);
        let (kind, flags) = (reader.u8()?, reader.u8()?);
        let (status, n_fields, n_chunks) = (reader.u16()?, reader.u16()?, reader.u16()?);
        let service = reader.u64()?;
        let (slot, reason_len) = (reader.u16()?, reader.u16()?);
        reader.bytes(4)?;
        let kind = match kind {
            1 if status == 101 || (200..=999).contains(&status) => CompletionKind::Respond,
            2 => CompletionKind::Body,
            3 => CompletionKind::AppRaised,
            4 => CompletionKind::WindowUpdate,
            5 => CompletionKind::EarlyHints,
            6 => CompletionKind::Trailers,
            7 => CompletionKind::Close,
            _ => return Err(ProtocolError::Frame("unknown kind of completion, or impossible status")),
        };
        if reason_len > 0 && (kind != CompletionKind::Respond || !is_reason(reader.bytes(reason_len.into())?))
        {
            return Err(ProtocolError::Frame("a reason phrase with control bytes, or without a status"));
        }
        let after_reason = COMPLETION_HEAD_BYTES + usize::from(reason_len);
        for _ in 0..n_fields {
            reader.field()?;
        }
        let after_fields = frame.len() - reader.0.len();
        let body = match flags & (BODY_FD | BODY_CHUNKS) {
            0 => BodyPart::Inline(after_fields..frame.len()),
            BODY_CHUNKS => {
                reader.bytes(usize::from(n_chunks) * 8)?;
                BodyPart::Chunks(after_fields..after_fields + usize::from(n_chunks) * 8)
            }
            BODY_FD => BodyPart::File { offset: reader.u64()?, len: reader.u64()? },
            _ => return Err(ProtocolError::Frame("body is both chunks and a descriptor")),
        };
        Ok(DecodedCompletion {
            head: Self {
                exchange,
                kind,
                end: flags & END != 0,
                done: flags & DONE != 0,
                text: flags & TEXT != 0,
                more: flags & MORE != 0,
                status,
                service,
                slot,
            },
            reason: COMPLETION_HEAD_BYTES..after_reason,
            n_fields,
            fields: after_reason..after_fields,
            body,
        })
    }
}

impl Body<'_> {
    /// Appends the body, after the fields.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Inline(bytes) => out.extend_from_slice(bytes),
            Self::Chunks(chunks) => {
                for (chunk, len) in *chunks {
                    out.extend_from_slice(&chunk.to_le_bytes());
                    out.extend_from_slice(&len.to_le_bytes());
                }
            }
            Self::File { offset, len } => {
                out.extend_from_slice(&offset.to_le_bytes());
                out.extend_from_slice(&len.to_le_bytes());
            }
        }
    }
}

/// The fields of a decoded frame: `bytes` is the frame's range [`DecodedCompletion::fields`].
pub fn fields(bytes: &[u8], n_fields: u16) -> Fields<'_> {
    Fields { reader: Reader(bytes), remaining: n_fields }
}

/// The chunks of a decoded frame: `bytes` is the frame's range of [`BodyPart::Chunks`].
pub fn chunks(bytes: &[u8]) -> impl Iterator<Item = (u32, u32)> {
    bytes.as_chunks::<8>().0.iter().map(|pair| {
        let pair = u64::from_le_bytes(*pair);
        #[expect(clippy::cast_possible_truncation, reason = "the low half, then the high half")]
        (pair as u32, (pair >> 32) as u32)
    })
}

/// What went wrong in the application, as data: the daemon logs it with the exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppError<'a> {
    /// One line: type and message, UTF-8.
    pub summary: &'a str,
    /// The formatted traceback, UTF-8, many lines; may be empty.
    pub traceback: &'a str,
}

impl<'a> AppError<'a> {
    /// Longest summary, bytes.
    pub const MAX_SUMMARY_BYTES: usize = 1024;
    /// Longest traceback, bytes; a longer one loses its middle.
    pub const MAX_TRACEBACK_BYTES: usize = 32 * 1024;

    /// Appends the error as the body of a [`CompletionKind::AppRaised`] frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_text(self.summary, out);
        put_text(self.traceback, out);
    }

    /// Reads the body of a [`CompletionKind::AppRaised`] frame.
    ///
    /// # Errors
    /// When a length is impossible or the text is not UTF-8.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader(bytes);
        Ok(Self { summary: reader.text()?, traceback: reader.text()? })
    }
}

/// Appends `len u32` and the text. Shared with [`crate::control`].
pub(crate) fn put_text(text: &str, out: &mut Vec<u8>) {
    put_bytes(text.as_bytes(), out);
}

/// The same for bytes that need not be text.
pub(crate) fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    let len = u32::try_from(bytes.len()).expect("texts are bounded by their writers");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Reads fields off the front of a slice; every read is checked.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], ProtocolError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(ProtocolError::Frame("ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ProtocolError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(ProtocolError::Frame("ends too early"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, ProtocolError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, ProtocolError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, ProtocolError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, ProtocolError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, ProtocolError> {
        std::str::from_utf8(self.sized_bytes()?).map_err(|_| ProtocolError::Frame("text is not UTF-8"))
    }

    /// What [`put_bytes`] has written.
    pub(crate) fn sized_bytes(&mut self) -> Result<&'a [u8], ProtocolError> {
        let len = self.u32()? as usize;
        self.bytes(len)
    }

    fn field(&mut self) -> Result<(FieldName<'a>, &'a [u8]), ProtocolError> {
        let name = match self.u8()? {
            LITERAL => {
                let len = usize::from(self.u16()?);
                FieldName::Literal(self.bytes(len)?)
            }
            index if name_of(index).is_some() => FieldName::Known(index),
            _ => return Err(ProtocolError::Frame("unknown field name index")),
        };
        let len = usize::from(self.u16()?);
        Ok((name, self.bytes(len)?))
    }
}

const _: () = assert!(REQUEST_HEAD_BYTES == 8 * 3 + 4 + 2 + 2 + 2 * 6 + 2 + 2);
const _: () = assert!(COMPLETION_HEAD_BYTES == 8 + 1 + 1 + 2 + 2 + 2 + 8 + 2 + 2 + 4);

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_request_comes_back_as_it_was_written() {
        let fields: [(&[u8], &[u8]); 3] =
            [(b"host", b"example.org"), (b"x-odd", b"\xff\x80"), (b"cookie", b"a=1")];
        let request = Request {
            body_len: 4,
            received: 123_456,
            method: b"PROPFIND",
            version: 10,
            https: true,
            listener: 2,
            path: b"/a%20b",
            query: b"q=1",
            peer: b"::1",
            peer_port: 54_321,
            request_id: b"abc",
            body: b"body",
            ..Request::new(ExchangeId(9))
        };
        let mut frame = Vec::new();
        request.encode(fields.into_iter(), &mut frame).unwrap();
        let decoded = Request::decode(&frame).unwrap();
        assert_eq!(Request { n_fields: 0, encoded_fields: b"", ..decoded }, request,);
        let back: Vec<_> = decoded.fields().map(|(name, value)| (name.as_bytes(), value)).collect();
        assert_eq!(back, fields);
    }

    #[test]
    fn every_truncation_of_a_request_is_an_error() {
        let mut frame = Vec::new();
        let request = Request { body_len: 3, body: b"xyz", ..Request::new(ExchangeId(1)) };
        request.encode([(&b"host"[..], &b"h"[..])].into_iter(), &mut frame).unwrap();
        for len in 0..frame.len() {
            assert!(Request::decode(&frame[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn a_field_too_long_is_refused_by_name() {
        let value = vec![b'x'; 70_000];
        let mut frame = Vec::new();
        let error = Request::new(ExchangeId(1))
            .encode([(&b"cookie"[..], &value[..])].into_iter(), &mut frame)
            .unwrap_err();
        assert_eq!(error, TooLong("field value"));
    }

    #[test]
    fn a_completion_comes_back_as_it_was_written() {
        let head = Completion {
            exchange: ExchangeId(77),
            kind: CompletionKind::Respond,
            end: true,
            done: false,
            text: true,
            more: true,
            status: 201,
            service: 42,
            slot: 7,
        };
        for body in
            [Body::Inline(b"hello"), Body::Chunks(&[(1, 65_536), (5, 3)]), Body::File { offset: 9, len: 10 }]
        {
            let mut frame = Vec::new();
            head.encode(1, &body, &mut frame);
            encode_field(b"content-type", b"text/plain", &mut frame).unwrap();
            body.encode(&mut frame);
            let decoded = Completion::decode(&frame).unwrap();
            assert_eq!(decoded.head, head);
            let field = fields(&frame[decoded.fields.clone()], decoded.n_fields).next().unwrap();
            assert_eq!((field.0.as_bytes(), field.1), (&b"content-type"[..], &b"text/plain"[..]));
            match (body, decoded.body) {
                (Body::Inline(bytes), BodyPart::Inline(range)) => assert_eq!(&frame[range], bytes),
                (Body::Chunks(pairs), BodyPart::Chunks(range)) => {
                    assert_eq!(chunks(&frame[range]).collect::<Vec<_>>(), pairs);
                }
                (Body::File { .. }, back) => assert_eq!(back, BodyPart::File { offset: 9, len: 10 }),
                (body, back) => panic!("{body:?} came back as {back:?}"),
            }
        }
    }

    #[test]
    fn a_reason_comes_before_the_fields_and_only_in_a_clean_head() {
        let frame_of = |kind, reason: &[u8]| {
            let head = Completion {
                exchange: ExchangeId(1),
                kind,
                end: true,
                done: true,
                text: false,
                more: false,
                status: 299,
                service: 0,
                slot: 0,
            };
            let mut frame = Vec::new();
            head.encode_with_reason(u16::try_from(reason.len()).unwrap(), 1, &Body::Inline(b"x"), &mut frame);
            frame.extend_from_slice(reason);
            encode_field(b"content-type", b"text/plain", &mut frame).unwrap();
            frame.push(b'x');
            frame
        };
        let frame = frame_of(CompletionKind::Respond, b"Odd Reason");
        let decoded = Completion::decode(&frame).unwrap();
        assert_eq!(&frame[decoded.reason], b"Odd Reason");
        let field = fields(&frame[decoded.fields], decoded.n_fields).next().unwrap();
        assert_eq!(field.1, b"text/plain");
        assert_eq!(decoded.body, BodyPart::Inline(frame.len() - 1..frame.len()));
        assert!(Completion::decode(&frame_of(CompletionKind::Respond, b"two\r\nlines")).is_err());
        assert!(Completion::decode(&frame_of(CompletionKind::Body, b"no status")).is_err());
    }

    #[test]
    fn an_application_error_comes_back() {
        let error = AppError { summary: "ValueError: nö", traceback: "Traceback…\n  File" };
        let mut bytes = Vec::new();
        error.encode(&mut bytes);
        assert_eq!(AppError::decode(&bytes).unwrap(), error);
        assert!(AppError::decode(&bytes[..bytes.len() - 1]).is_err());
    }
}
