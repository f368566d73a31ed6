//! Completion frames, which a worker sends to the daemon.

use std::ops::Range;

use super::ExchangeId;
use super::field::read_field;
use super::reader::{ArrayWriter, Reader, put_text};
use crate::ProtocolError;
use crate::status::is_reason;

/// Bytes before the variable part.
const HEAD_BYTES: usize = 32;
const _: () = assert!(HEAD_BYTES == 8 + 1 + 1 + 2 + 2 + 2 + 8 + 2 + 2 + 4);

/// The kind of a completion frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompletionKind {
    /// The response's head, perhaps with (the first part of) its body.
    Respond,
    /// A further part of the body, possibly empty.
    Body,
    /// The application failed; the body is an [`AppError`].
    AppRaised,
    /// The number of request body bytes, counted from the body's start, that the application has
    /// room for; see [`decode_window_update`].
    WindowUpdate,
    /// The fields of a 103 (Early Hints).
    EarlyHints,
    /// The fields after the body.
    Trailers,
    /// The close of a WebSocket; `status` is the close code, the inline body the reason.
    Close,
}

/// Decodes the inline body of a [`CompletionKind::WindowUpdate`] into a number of bytes, counted
/// from the start of the request's body.
///
/// # Errors
/// The body does not have 8 bytes.
pub fn decode_window_update(body: &[u8]) -> Result<u64, ProtocolError> {
    <[u8; 8]>::try_from(body)
        .map(u64::from_le_bytes)
        .map_err(|_| ProtocolError::Frame("window update has no number"))
}

/// Maximum number of header fields of a response. (A header map of the `http` crate panics beyond
/// 2^15.) Worker and daemon both check it.
pub const MAX_FIELDS: u16 = 4096;

/// The fixed part of a completion frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// The exchange that the frame belongs to.
    pub exchange: ExchangeId,
    /// The kind of frame.
    pub kind: CompletionKind,
    /// Whether this frame is the last of the response.
    pub end: bool,
    /// The exchange's slot is free: the application has returned, the iterable is closed.
    pub done: bool,
    /// The WebSocket message is text; else binary.
    pub text: bool,
    /// The WebSocket message continues in the next frame.
    pub more: bool,
    /// Only for [`CompletionKind::AppRaised`] of a takeover
    /// ([`Request::is_takeover`](super::Request::is_takeover)): the failure is a usual end of the
    /// request, that is, an exception of a certain type or a missing response.
    pub ends_takeover: bool,
    /// Status code (RFC 9110 §15); 101 accepts a WebSocket; the close code of
    /// [`CompletionKind::Close`]; else 0.
    pub status: u16,
    /// Nanoseconds from claim to this frame; valid if `done`.
    pub service: u64,
    /// The slot in which the exchange runs. The receiver checks it against the geometry.
    pub slot: u16,
}

/// Location of the body of a completion frame. Ranges are byte ranges of the frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyPart {
    /// In the frame itself; may be empty.
    Inline(Range<usize>),
    /// In slab chunks; the range holds `chunk u32, len u32` pairs, see [`chunks`].
    Chunks(Range<usize>),
    /// In a file whose descriptor was sent on the worker socket.
    File {
        /// Offset of the first byte.
        offset: u64,
        /// Number of bytes, or [`UNTIL_EOF`].
        len: u64,
    },
}

/// Length of a file that is read to its end because `stat` reports a wrong size (procfs, sysfs).
pub const UNTIL_EOF: u64 = u64::MAX;

/// A decoded completion frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedCompletion {
    /// The fixed part.
    pub head: Completion,
    /// Byte range of the reason phrase of a [`CompletionKind::Respond`]; empty for the canonical
    /// phrase.
    pub reason: Range<usize>,
    /// Number of fields.
    pub n_fields: u16,
    /// Byte range of the encoded fields, see [`fields`](super::fields()).
    pub fields: Range<usize>,
    /// The body, or the encoded [`AppError`] of [`CompletionKind::AppRaised`].
    pub body: BodyPart,
}

const END: u8 = 1;
const BODY_FD: u8 = 2;
const BODY_CHUNKS: u8 = 4;
const DONE: u8 = 8;
/// Offset of the flags byte.
#[cfg(not(loom))]
const FLAGS_OFFSET: usize = 9;
const TEXT: u8 = 16;
const MORE: u8 = 32;
const ENDS_TAKEOVER: u8 = 64;

/// The body of a completion frame, for encoding.
#[derive(Debug, Clone, Copy)]
pub enum Body<'a> {
    /// Bytes in the frame.
    Inline(&'a [u8]),
    /// Slab chunks: number and length.
    Chunks(&'a [(u32, u32)]),
    /// A file whose descriptor was sent on the worker socket before.
    File {
        /// Offset of the first byte.
        offset: u64,
        /// Number of bytes, or [`UNTIL_EOF`].
        len: u64,
    },
}

/// Adds DONE to an encoded completion.
#[cfg(not(loom))]
pub(crate) fn add_done(frame: &mut [u8]) {
    if let Some(flags) = frame.get_mut(FLAGS_OFFSET) {
        *flags |= DONE;
    }
}

impl Completion {
    /// Encodes the fixed part into `out` (cleared first). The caller appends `n_fields` fields with
    /// [`encode_field`](super::encode_field), then the body with [`Body::encode`].
    pub fn encode(&self, n_fields: u16, body: &Body<'_>, out: &mut Vec<u8>) {
        self.encode_with_reason(0, n_fields, body, out);
    }

    /// Encodes like [`Completion::encode`], for a [`CompletionKind::Respond`] with a reason phrase
    /// of `reason_len` bytes, which the caller appends before the fields.
    pub fn encode_with_reason(&self, reason_len: u16, n_fields: u16, body: &Body<'_>, out: &mut Vec<u8>) {
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
            | flag(self.ends_takeover, ENDS_TAKEOVER)
            | body_flag;
        let mut fixed = [0; HEAD_BYTES];
        let mut writer = ArrayWriter(&mut fixed);
        writer.put(self.exchange.0.to_le_bytes());
        writer.put([kind, flags]);
        writer.put(self.status.to_le_bytes());
        writer.put(n_fields.to_le_bytes());
        writer.put(n_chunks.to_le_bytes());
        writer.put(self.service.to_le_bytes());
        writer.put(self.slot.to_le_bytes());
        writer.put(reason_len.to_le_bytes());
        out.clear();
        out.extend_from_slice(&fixed);
    }

    /// Decodes a frame.
    ///
    /// # Errors
    /// A length or value is impossible.
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
        let after_reason = HEAD_BYTES + usize::from(reason_len);
        for _ in 0..n_fields {
            read_field(&mut reader)?;
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
                ends_takeover: flags & ENDS_TAKEOVER != 0,
                status,
                service,
                slot,
            },
            reason: HEAD_BYTES..after_reason,
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

/// Iterates over the chunks (number and length) of a decoded frame; `bytes` is its range of
/// [`BodyPart::Chunks`].
pub fn chunks(bytes: &[u8]) -> impl Iterator<Item = (u32, u32)> {
    bytes.as_chunks::<8>().0.iter().map(|pair| {
        let pair = u64::from_le_bytes(*pair);
        #[expect(clippy::cast_possible_truncation, reason = "the low half, then the high half")]
        (pair as u32, (pair >> 32) as u32)
    })
}

/// An error of the application. The daemon logs it with the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppError<'a> {
    /// One line: type and message, UTF-8.
    pub summary: &'a str,
    /// The formatted traceback, UTF-8, many lines; may be empty.
    pub traceback: &'a str,
}

impl<'a> AppError<'a> {
    /// Maximum length of the summary, bytes.
    pub const MAX_SUMMARY_BYTES: usize = 1024;
    /// Maximum length of the traceback, bytes. The middle of a longer traceback is cut out.
    pub const MAX_TRACEBACK_BYTES: usize = 32 * 1024;

    /// Appends the error as the body of a [`CompletionKind::AppRaised`] frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_text(self.summary, out);
        put_text(self.traceback, out);
    }

    /// Decodes the body of a [`CompletionKind::AppRaised`] frame.
    ///
    /// # Errors
    /// A length is impossible, or the text is not UTF-8.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader(bytes);
        Ok(Self { summary: reader.text()?, traceback: reader.text()? })
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::frame::{encode_field, fields};

    #[test]
    fn completion_survives_encoding_and_decoding() {
        let head = Completion {
            exchange: ExchangeId(77),
            kind: CompletionKind::Respond,
            end: true,
            done: false,
            text: true,
            more: true,
            ends_takeover: true,
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
    fn reason_phrase_is_decoded_and_validated() {
        let frame_of = |kind, reason: &[u8]| {
            let head = Completion {
                exchange: ExchangeId(1),
                kind,
                end: true,
                done: true,
                text: false,
                more: false,
                ends_takeover: false,
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
    fn application_error_survives_encoding_and_decoding() {
        let error = AppError { summary: "ValueError: nö", traceback: "Traceback…\n  File" };
        let mut bytes = Vec::new();
        error.encode(&mut bytes);
        assert_eq!(AppError::decode(&bytes).unwrap(), error);
        assert!(AppError::decode(&bytes[..bytes.len() - 1]).is_err());
    }
}
