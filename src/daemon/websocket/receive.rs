//! Parses a client's bytes into parts of messages and control frames, and checks them (RFC 6455 §5,
//! §8.1).
//!
//! Uses neither socket nor clock. The caller stores the input; the [`Receiver`] stores the open
//! frame's head, the message's length, an incomplete UTF-8 character and the state of the
//! decompressor.

use super::deflate::{DeflatePool, InflateBuffer, Inflater, InvalidDeflate};
use super::frame::{
    self, Control, Data, FrameHead, Mask, OpCode, WebSocketError, close_code, protocol_error,
};
use super::utf8::{InvalidUtf8, Utf8Validator};

/// The parser of one connection's input.
#[derive(Debug)]
pub(super) struct Receiver {
    /// `websocket.max_message`: bytes of a message, after decompression.
    max_message: u64,
    /// permessage-deflate was negotiated.
    allows_compression: bool,
    /// The data frame whose payload is being received.
    frame: Option<OpenFrame>,
    /// The message whose last frame has not been received. Always present while `frame` is.
    message: Option<IncomingMessage>,
}

/// A data frame whose head was parsed.
#[derive(Debug, Clone, Copy)]
struct OpenFrame {
    /// The mask for the next byte of the payload.
    mask: Mask,
    /// Bytes of the payload that are still to come.
    remaining: u64,
    fin: bool,
}

#[derive(Debug)]
struct IncomingMessage {
    /// Bytes so far, after decompression.
    len: u64,
    /// None for a binary message.
    text: Option<Utf8Validator>,
    /// None for an uncompressed message.
    inflater: Option<Box<Inflater>>,
}

/// A part of a message, or a control frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ClientEvent<'b> {
    Part {
        bytes: &'b [u8],
        text: bool,
        more: bool,
    },
    Ping(&'b [u8]),
    Pong,
    /// Code and reason; None if the frame was empty.
    Close(Option<(u16, &'b str)>),
}

/// Result of receiving payload of the open frame.
enum PayloadStep {
    Part {
        text: bool,
        more: bool,
    },
    /// There is no event yet; the input may have more to parse.
    Continue,
    /// There is no event, and all input is used up.
    NeedInput,
}

impl From<InvalidUtf8> for WebSocketError {
    fn from(_: InvalidUtf8) -> Self {
        Self { code: close_code::NOT_UTF8, reason: "text that is not UTF-8" }
    }
}

impl From<InvalidDeflate> for WebSocketError {
    fn from(_: InvalidDeflate) -> Self {
        protocol_error("compressed data is invalid")
    }
}

const TOO_BIG: WebSocketError = WebSocketError { code: close_code::TOO_BIG, reason: "message too big" };

impl Receiver {
    pub(super) fn new(max_message: u64, allows_compression: bool) -> Self {
        Self { max_message, allows_compression, frame: None, message: None }
    }

    /// Returns how many bytes of the open frame's payload are still to come.
    pub(super) fn frame_remaining(&self) -> u64 {
        self.frame.map_or(0, |frame| frame.remaining)
    }

    /// True if [`Receiver::next`] may return an event without more input, because decompressed
    /// bytes had no room.
    pub(super) fn has_pending(&self) -> bool {
        self.frame.is_some_and(|frame| frame.remaining == 0)
    }

    /// Returns how many bytes of `input` are used up, and the next event; None if `input` does not
    /// hold enough for one. Unmasks in place; decompresses into `inflated`.
    pub(super) fn next<'b>(
        &mut self,
        input: &'b mut [u8],
        inflated: &'b mut InflateBuffer,
        pool: &DeflatePool,
    ) -> Result<(usize, Option<ClientEvent<'b>>), WebSocketError> {
        let mut used = 0;
        loop {
            if self.frame.is_none() {
                let Some(head) = FrameHead::parse(input.get(used..).unwrap_or_default())? else {
                    return Ok((used, None));
                };
                self.check_head(&head)?;
                if let OpCode::Control(control) = head.opcode {
                    let event = read_control(&head, control, input.get_mut(used..).unwrap_or_default())?;
                    return Ok(event.map_or((used, None), |(len, event)| (used + len, Some(event))));
                }
                used += head.head_len;
                self.start_frame(&head, pool);
            }
            let start = used;
            let is_compressed = self.message.as_ref().is_some_and(|message| message.inflater.is_some());
            let payload = input.get_mut(start..).unwrap_or_default();
            let (len, step) =
                if is_compressed { self.inflate(payload, inflated, pool)? } else { self.unmask(payload)? };
            used += len;
            match step {
                PayloadStep::Part { text, more } => {
                    let bytes = if is_compressed {
                        inflated.filled()
                    } else {
                        input.get(start..used).unwrap_or_default()
                    };
                    return Ok((used, Some(ClientEvent::Part { bytes, text, more })));
                }
                PayloadStep::Continue => {}
                PayloadStep::NeedInput => return Ok((used, None)),
            }
        }
    }

    /// Decompresses payload of the open frame into `inflated`. Returns how many bytes of `input`
    /// are used up.
    fn inflate(
        &mut self,
        input: &mut [u8],
        inflated: &mut InflateBuffer,
        pool: &DeflatePool,
    ) -> Result<(usize, PayloadStep), WebSocketError> {
        let max_message = self.max_message;
        let (frame, message) = self.open_frame();
        let Some(inflater) = &mut message.inflater else { unreachable!("the message is compressed") };
        let bytes = input.get_mut(..frame.available(input.len())).unwrap_or_default();
        frame.mask.apply(bytes);
        inflated.clear();
        let used = inflater.inflate(bytes, inflated)?;
        frame.advance(used);
        // Bytes whose output had no room stay in the input and are masked again.
        frame.mask.apply(bytes.get_mut(used..).unwrap_or_default());
        let is_last = frame.remaining == 0 && frame.fin && inflater.finish(inflated)?;
        message.len += inflated.filled().len() as u64;
        if message.len > max_message {
            return Err(TOO_BIG);
        }
        let is_frame_end = frame.remaining == 0 && (is_last || !frame.fin);
        let step = if inflated.filled().is_empty() && !is_last {
            if is_frame_end || used < input.len() { PayloadStep::Continue } else { PayloadStep::NeedInput }
        } else {
            PayloadStep::Part { text: message.validate(inflated.filled(), is_last)?, more: !is_last }
        };
        if is_frame_end {
            self.frame = None;
        }
        if is_last && let Some(IncomingMessage { inflater: Some(inflater), .. }) = self.message.take() {
            inflater.recycle(pool);
        }
        Ok((used, step))
    }

    /// Unmasks payload of the open frame in place. Returns how many bytes of `input` are used up.
    fn unmask(&mut self, input: &mut [u8]) -> Result<(usize, PayloadStep), WebSocketError> {
        let (frame, message) = self.open_frame();
        let len = frame.available(input.len());
        let bytes = input.get_mut(..len).unwrap_or_default();
        frame.mask.apply(bytes);
        frame.advance(len);
        let is_frame_end = frame.remaining == 0;
        let is_last = is_frame_end && frame.fin;
        let step = if len == 0 && !is_last {
            if is_frame_end { PayloadStep::Continue } else { PayloadStep::NeedInput }
        } else {
            message.len += len as u64;
            PayloadStep::Part { text: message.validate(bytes, is_last)?, more: !is_last }
        };
        if is_frame_end {
            self.frame = None;
        }
        if is_last {
            self.message = None;
        }
        Ok((len, step))
    }

    fn open_frame(&mut self) -> (&mut OpenFrame, &mut IncomingMessage) {
        match (&mut self.frame, &mut self.message) {
            (Some(frame), Some(message)) => (frame, message),
            _ => unreachable!("an open data frame belongs to a message"),
        }
    }

    /// Checks that the frame may follow the earlier frames (RFC 6455 §5.4, §5.5), and that the
    /// message is not too big.
    fn check_head(&self, head: &FrameHead) -> Result<(), WebSocketError> {
        let is_first = matches!(head.opcode, OpCode::Data(Data::Text | Data::Binary));
        if head.rsv1 && !(is_first && self.allows_compression) {
            return Err(protocol_error("reserved bits are set"));
        }
        let OpCode::Data(opcode) = head.opcode else { return Ok(()) };
        match (opcode, &self.message) {
            (Data::Continue, None) => return Err(protocol_error("continuation frame without a message")),
            (Data::Text | Data::Binary, Some(_)) => {
                return Err(protocol_error("new message before the end of the last one"));
            }
            // The limit applies to decompressed bytes: `inflate` checks them.
            (_, Some(IncomingMessage { inflater: Some(_), .. })) => return Ok(()),
            _ if head.rsv1 => return Ok(()),
            _ => {}
        }
        let len = self.message.as_ref().map_or(0, |message| message.len);
        if len.saturating_add(head.payload_len) > self.max_message { Err(TOO_BIG) } else { Ok(()) }
    }

    fn start_frame(&mut self, head: &FrameHead, pool: &DeflatePool) {
        if head.opcode != OpCode::Data(Data::Continue) {
            let text = (head.opcode == OpCode::Data(Data::Text)).then(Utf8Validator::default);
            let inflater = head.rsv1.then(|| Box::new(Inflater::new(pool)));
            self.message = Some(IncomingMessage { len: 0, text, inflater });
        }
        self.frame = Some(OpenFrame { mask: head.mask, remaining: head.payload_len, fin: head.fin });
    }
}

/// Reads the control frame at the start of `input`. Returns its length and event, or None if it is
/// incomplete.
fn read_control<'b>(
    head: &FrameHead,
    control: Control,
    input: &'b mut [u8],
) -> Result<Option<(usize, ClientEvent<'b>)>, WebSocketError> {
    let len = usize::try_from(head.payload_len).unwrap_or(usize::MAX).saturating_add(head.head_len);
    let Some(payload) = input.get_mut(head.head_len..len) else { return Ok(None) };
    head.mask.apply(payload);
    let event = match control {
        Control::Close => ClientEvent::Close(frame::parse_close(payload)?),
        Control::Ping => ClientEvent::Ping(payload),
        _ => ClientEvent::Pong,
    };
    Ok(Some((len, event)))
}

impl OpenFrame {
    /// Returns how many of `len` bytes of input belong to this frame.
    fn available(&self, len: usize) -> usize {
        usize::try_from(self.remaining).unwrap_or(usize::MAX).min(len)
    }

    fn advance(&mut self, len: usize) {
        self.remaining -= len as u64;
        self.mask = self.mask.advanced(len);
    }
}

impl IncomingMessage {
    /// Checks the UTF-8 of a text message's next bytes. Returns whether the message is text.
    fn validate(&mut self, bytes: &[u8], is_last: bool) -> Result<bool, InvalidUtf8> {
        let Some(utf8) = &mut self.text else { return Ok(false) };
        utf8.push(bytes)?;
        if is_last {
            utf8.finish()?;
        }
        Ok(true)
    }
}
