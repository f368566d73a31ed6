//! The submission frames that follow a claimed request: body parts, WebSocket messages and the
//! disconnect.

use super::ExchangeId;
use super::reader::Reader;
use super::request::{KIND_OFFSET, KIND_REQUEST, Request};
use crate::ProtocolError;

const KIND_PART: u8 = 2;
const KIND_DISCONNECT: u8 = 3;
const PART_END: u8 = 1;
const PART_TEXT: u8 = 2;
const PART_MORE: u8 = 4;
const DISCONNECT_CANCEL: u8 = 1;
const DISCONNECT_HALF: u8 = 2;

/// Bytes charged for each WebSocket message in addition to its payload, wherever buffered bytes are
/// limited ([`CompletionKind::WindowUpdate`](super::CompletionKind::WindowUpdate),
/// [`RESPONSE_WINDOW`](crate::layout::RESPONSE_WINDOW)). The charge limits the number of empty
/// messages.
pub const MESSAGE_COST: u64 = 64;

/// A submission frame for an exchange that the worker has claimed. ASGI only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamFrame<'a> {
    /// A part of the request's body, or a WebSocket message or a part of one.
    Part {
        /// The exchange that the frame belongs to.
        exchange: ExchangeId,
        /// The bytes; may be empty.
        bytes: &'a [u8],
        /// Whether this part is the last of the body.
        end: bool,
        /// The message is text (valid UTF-8); else binary. Messages only.
        text: bool,
        /// The message continues in the next part. Messages only.
        more: bool,
    },
    /// The client has disconnected: `http.disconnect`, `websocket.disconnect`.
    Disconnect {
        /// The exchange that the frame belongs to.
        exchange: ExchangeId,
        /// Close code (RFC 6455 §7.4); 0 for HTTP.
        code: u16,
        /// The close frame's reason, UTF-8.
        reason: &'a [u8],
        /// The request has failed, because its deadline has passed or the worker exits: the worker
        /// cancels the task instead of sending it an event, and reports its stack.
        cancel: bool,
    },
    /// The client has closed its sending side: `http.disconnect` follows the request's body, and
    /// the response is still sent. Not for WebSockets.
    HalfClose {
        /// The exchange that the frame belongs to.
        exchange: ExchangeId,
    },
}

impl<'a> StreamFrame<'a> {
    /// Encodes the frame into `out` (cleared first).
    pub fn encode(&self, out: &mut Vec<u8>) {
        let payload = self.encode_head(out);
        out.extend_from_slice(payload);
    }

    /// Encodes the frame without its payload into `out` (cleared first), and returns the payload.
    pub fn encode_head(&self, out: &mut Vec<u8>) -> &'a [u8] {
        let (exchange, kind, flags, code, rest) = match *self {
            Self::Part { exchange, bytes, end, text, more } => {
                let flags =
                    u8::from(end) | if text { PART_TEXT } else { 0 } | if more { PART_MORE } else { 0 };
                (exchange, KIND_PART, flags, 0, bytes)
            }
            Self::Disconnect { exchange, code, reason, cancel } => {
                (exchange, KIND_DISCONNECT, if cancel { DISCONNECT_CANCEL } else { 0 }, code, reason)
            }
            Self::HalfClose { exchange } => (exchange, KIND_DISCONNECT, DISCONNECT_HALF, 0, &[][..]),
        };
        out.clear();
        out.extend_from_slice(&exchange.0.to_le_bytes());
        out.extend_from_slice(&[0; 16]);
        out.extend_from_slice(&[kind, flags]);
        out.extend_from_slice(&code.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        rest
    }

    fn decode(frame: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader(frame);
        let exchange = ExchangeId(reader.u64()?);
        reader.bytes(16)?;
        let (kind, flags, code) = (reader.u8()?, reader.u8()?, reader.u16()?);
        reader.bytes(4)?;
        match kind {
            KIND_PART => Ok(Self::Part {
                exchange,
                bytes: reader.0,
                end: flags & PART_END != 0,
                text: flags & PART_TEXT != 0,
                more: flags & PART_MORE != 0,
            }),
            KIND_DISCONNECT if flags & DISCONNECT_HALF != 0 => Ok(Self::HalfClose { exchange }),
            KIND_DISCONNECT => Ok(Self::Disconnect {
                exchange,
                code,
                reason: reader.0,
                cancel: flags & DISCONNECT_CANCEL != 0,
            }),
            _ => Err(ProtocolError::Frame("unknown kind of submission")),
        }
    }
}

/// Any submission frame, as an ASGI worker decodes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Submission<'a> {
    /// A new exchange.
    Request(Request<'a>),
    /// A further frame of a claimed exchange.
    Stream(StreamFrame<'a>),
}

impl<'a> Submission<'a> {
    /// Decodes a frame.
    ///
    /// # Errors
    /// A length or value is impossible.
    pub fn decode(frame: &'a [u8]) -> Result<Self, ProtocolError> {
        match frame.get(KIND_OFFSET) {
            Some(&KIND_REQUEST) => Request::decode(frame).map(Self::Request),
            Some(_) => StreamFrame::decode(frame).map(Self::Stream),
            None => Err(ProtocolError::Frame("ends too early")),
        }
    }
}
