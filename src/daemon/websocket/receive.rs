//! A client's bytes become parts of messages and control frames, or a violation.
//!
//! Knows neither socket nor clock: it is given what has been read, says how much of that it has used, and holds back
//! nothing but a frame's head, a message's length, half a character and the state of a compressor.

use super::deflate::{DeflatePool, InflateBuffer, Inflater, InvalidDeflate};
use super::frame::{self, Control, Data, FrameHead, Mask, OpCode, WebSocketError, code, protocol_error};
use super::utf8::{InvalidUtf8, Utf8Validator};

/// The way of messages in.
#[derive(Debug)]
pub(super) struct Receiver {
    /// `websocket.max_message`.
    max_message: u64,
    /// permessage-deflate has been agreed on.
    allows_compression: bool,
    frame: Option<OpenFrame>,
    message: Option<IncomingMessage>,
}

/// A data frame whose head has been read.
#[derive(Debug, Clone, Copy)]
struct OpenFrame {
    mask: Mask,
    remaining: u64,
    fin: bool,
}

#[derive(Debug)]
struct IncomingMessage {
    /// Bytes so far; inflated.
    len: u64,
    text: Option<Utf8Validator>,
    inflater: Option<Box<Inflater>>,
}

/// What has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ClientEvent<'b> {
    Part {
        bytes: &'b [u8],
        text: bool,
        more: bool,
    },
    Ping(&'b [u8]),
    Pong,
    /// Code and reason, if there were any.
    Close(Option<(u16, &'b str)>),
}

impl From<InvalidUtf8> for WebSocketError {
    fn from(_: InvalidUtf8) -> Self {
        Self { code: code::NOT_UTF8, reason: "text that is not UTF-8" }
    }
}

impl From<InvalidDeflate> for WebSocketError {
    fn from(_: InvalidDeflate) -> Self {
        protocol_error("compressed data is invalid")
    }
}

const TOO_BIG: WebSocketError = WebSocketError { code: code::TOO_BIG, reason: "message too big" };

impl Receiver {
    pub(super) fn new(most: u64, may_inflate: bool) -> Self {
        Self { max_message: most, allows_compression: may_inflate, frame: None, message: None }
    }

    /// For how many bytes more the client has announced that they belong together.
    pub(super) fn frame_remaining(&self) -> u64 {
        self.frame.map_or(0, |frame| frame.remaining)
    }

    /// Is there something to be had without more input?
    pub(super) fn has_pending(&self) -> bool {
        self.frame.is_some_and(|frame| frame.remaining == 0)
    }

    /// The next event in `input`, if enough of it is there, and how much of that is used up. Works in `input`, and in
    /// the room of `inflated`.
    pub(super) fn next<'b>(
        &mut self,
        input: &'b mut [u8],
        inflated: &'b mut InflateBuffer,
        pool: &DeflatePool,
    ) -> Result<(usize, Option<ClientEvent<'b>>), WebSocketError> {
        let mut used = 0;
        loop {
            let Some(frame) = &mut self.frame else {
                let rest = input.get(used..).unwrap_or_default();
                let Some(head) = FrameHead::parse(rest)? else { return Ok((used, None)) };
                self.check_head(&head)?;
                if let OpCode::Control(control) = head.opcode {
                    let len =
                        usize::try_from(head.payload_len).unwrap_or(usize::MAX).saturating_add(head.head_len);
                    if rest.len() < len {
                        return Ok((used, None));
                    }
                    let payload = input.get_mut(used + head.head_len..used + len).unwrap_or_default();
                    head.mask.apply(payload);
                    let event = match control {
                        Control::Close => ClientEvent::Close(frame::parse_close(payload)?),
                        Control::Ping => ClientEvent::Ping(payload),
                        _ => ClientEvent::Pong,
                    };
                    return Ok((used + len, Some(event)));
                }
                used += head.head_len;
                self.start_frame(&head, pool);
                continue;
            };
            let Some(message) = &mut self.message else { unreachable!("a data frame belongs to a message") };
            let here = input.len() - used;
            let len = usize::try_from(frame.remaining).unwrap_or(usize::MAX).min(here);
            if let Some(inflating) = &mut message.inflater {
                let bytes = input.get_mut(used..used + len).unwrap_or_default();
                frame.mask.apply(bytes);
                inflated.clear();
                let taken = inflating.inflate(bytes, inflated)?;
                // What has found no room is masked as it was.
                frame.advance(taken);
                frame.mask.apply(bytes.get_mut(taken..).unwrap_or_default());
                used += taken;
                let is_last = frame.remaining == 0 && frame.fin && inflating.finish(inflated)?;
                message.len += inflated.filled().len() as u64;
                if message.len > self.max_message {
                    return Err(TOO_BIG);
                }
                let is_over = frame.remaining == 0 && (is_last || !frame.fin);
                if inflated.filled().is_empty() && !is_last {
                    if is_over {
                        self.frame = None;
                    } else if used == input.len() {
                        return Ok((used, None));
                    }
                    continue;
                }
                let text = message.take(inflated.filled(), is_last)?;
                if is_over {
                    self.frame = None;
                }
                if is_last
                    && let Some(IncomingMessage { inflater: Some(inflating), .. }) = self.message.take()
                {
                    inflating.recycle(pool);
                }
                let bytes = inflated.filled();
                return Ok((used, Some(ClientEvent::Part { bytes, text, more: !is_last })));
            }
            let at = used;
            used += len;
            let bytes = input.get_mut(at..used).unwrap_or_default();
            frame.mask.apply(bytes);
            frame.advance(len);
            let is_last = frame.remaining == 0 && frame.fin;
            if len == 0 && !is_last {
                if frame.remaining == 0 {
                    // An empty piece in the middle says nothing.
                    self.frame = None;
                    continue;
                }
                return Ok((used, None));
            }
            let text = message.take(bytes, is_last)?;
            message.len += len as u64;
            if frame.remaining == 0 {
                self.frame = None;
            }
            if is_last {
                self.message = None;
            }
            let bytes = input.get(at..used).unwrap_or_default();
            return Ok((used, Some(ClientEvent::Part { bytes, text, more: !is_last })));
        }
    }

    /// May this come here (RFC 6455 §5.4, §5.5)?
    fn check_head(&self, head: &FrameHead) -> Result<(), WebSocketError> {
        let begins = matches!(head.opcode, OpCode::Data(Data::Text | Data::Binary));
        if head.rsv1 && !(begins && self.allows_compression) {
            return Err(protocol_error("reserved bits are set"));
        }
        let OpCode::Data(opcode) = head.opcode else { return Ok(()) };
        match (opcode, &self.message) {
            (Data::Continue, None) => return Err(protocol_error("nothing is to be continued")),
            (Data::Text | Data::Binary, Some(_)) => {
                return Err(protocol_error("a message begins before the last has ended"));
            }
            // What is compressed is measured when it is not any more.
            (_, Some(IncomingMessage { inflater: Some(_), .. })) => return Ok(()),
            _ if head.rsv1 => return Ok(()),
            _ => {}
        }
        let so_far = self.message.as_ref().map_or(0, |message| message.len);
        if so_far.saturating_add(head.payload_len) > self.max_message { Err(TOO_BIG) } else { Ok(()) }
    }

    fn start_frame(&mut self, head: &FrameHead, pool: &DeflatePool) {
        if head.opcode != OpCode::Data(Data::Continue) {
            let text = (head.opcode == OpCode::Data(Data::Text)).then(Utf8Validator::default);
            let inflating = head.rsv1.then(|| Box::new(Inflater::new(pool)));
            self.message = Some(IncomingMessage { len: 0, text, inflater: inflating });
        }
        self.frame = Some(OpenFrame { mask: head.mask, remaining: head.payload_len, fin: head.fin });
    }
}

impl OpenFrame {
    fn advance(&mut self, len: usize) {
        self.remaining -= len as u64;
        self.mask = self.mask.advanced(len);
    }
}

impl IncomingMessage {
    /// Checks what has come of it. Is it text?
    fn take(&mut self, bytes: &[u8], is_last: bool) -> Result<bool, InvalidUtf8> {
        let Some(utf8) = &mut self.text else { return Ok(false) };
        utf8.push(bytes)?;
        if is_last {
            utf8.finish()?;
        }
        Ok(true)
    }
}
