//! A client's bytes become parts of messages and control frames, or a violation.
//!
//! Knows neither socket nor clock: it is given what has been read, says how much of that it has used, and holds back
//! nothing but a frame's head, a message's length, half a character and the state of a compressor.

use super::deflate::{Inflating, NotDeflated, Pool, Room};
use super::frame::{self, Control, Data, Head, Mask, OpCode, Violation, code, protocol};
use super::utf8::{NotUtf8, Utf8};

/// The way of messages in.
#[derive(Debug)]
pub(super) struct Receiver {
    /// `websocket.max_message`.
    most: u64,
    /// permessage-deflate has been agreed on.
    may_inflate: bool,
    frame: Option<Frame>,
    message: Option<Message>,
}

/// A data frame whose head has been read.
#[derive(Debug, Clone, Copy)]
struct Frame {
    mask: Mask,
    left: u64,
    fin: bool,
}

#[derive(Debug)]
struct Message {
    /// Bytes so far; inflated.
    len: u64,
    text: Option<Utf8>,
    inflating: Option<Box<Inflating>>,
}

/// What has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event<'b> {
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

impl From<NotUtf8> for Violation {
    fn from(_: NotUtf8) -> Self {
        Self { code: code::NOT_UTF8, reason: "text that is not UTF-8" }
    }
}

impl From<NotDeflated> for Violation {
    fn from(_: NotDeflated) -> Self {
        protocol("compressed data is invalid")
    }
}

const TOO_BIG: Violation = Violation { code: code::TOO_BIG, reason: "message too big" };

impl Receiver {
    pub(super) fn new(most: u64, may_inflate: bool) -> Self {
        Self { most, may_inflate, frame: None, message: None }
    }

    /// For how many bytes more the client has announced that they belong together.
    pub(super) fn announced(&self) -> u64 {
        self.frame.map_or(0, |frame| frame.left)
    }

    /// Is there something to be had without more input?
    pub(super) fn is_behind(&self) -> bool {
        self.frame.is_some_and(|frame| frame.left == 0)
    }

    /// The next event in `input`, if enough of it is there, and how much of that is used up. Works in `input`, and in
    /// the room of `inflated`.
    pub(super) fn next<'b>(
        &mut self,
        input: &'b mut [u8],
        inflated: &'b mut Room,
        pool: &Pool,
    ) -> Result<(usize, Option<Event<'b>>), Violation> {
        let mut used = 0;
        loop {
            let Some(frame) = &mut self.frame else {
                let rest = input.get(used..).unwrap_or_default();
                let Some(head) = Head::read(rest)? else { return Ok((used, None)) };
                self.check(&head)?;
                if let OpCode::Control(control) = head.opcode {
                    let len = usize::try_from(head.len).unwrap_or(usize::MAX).saturating_add(head.own_len);
                    if rest.len() < len {
                        return Ok((used, None));
                    }
                    let payload = input.get_mut(used + head.own_len..used + len).unwrap_or_default();
                    head.mask.apply(payload);
                    let event = match control {
                        Control::Close => Event::Close(frame::read_close(payload)?),
                        Control::Ping => Event::Ping(payload),
                        _ => Event::Pong,
                    };
                    return Ok((used + len, Some(event)));
                }
                used += head.own_len;
                self.begin(&head, pool);
                continue;
            };
            let Some(message) = &mut self.message else { unreachable!("a data frame belongs to a message") };
            let here = input.len() - used;
            let len = usize::try_from(frame.left).unwrap_or(usize::MAX).min(here);
            if let Some(inflating) = &mut message.inflating {
                let bytes = input.get_mut(used..used + len).unwrap_or_default();
                frame.mask.apply(bytes);
                inflated.clear();
                let taken = inflating.inflate(bytes, inflated)?;
                // What has found no room is masked as it was.
                frame.advance(taken);
                frame.mask.apply(bytes.get_mut(taken..).unwrap_or_default());
                used += taken;
                let is_last = frame.left == 0 && frame.fin && inflating.finish(inflated)?;
                message.len += inflated.filled().len() as u64;
                if message.len > self.most {
                    return Err(TOO_BIG);
                }
                let is_over = frame.left == 0 && (is_last || !frame.fin);
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
                if is_last && let Some(Message { inflating: Some(inflating), .. }) = self.message.take() {
                    inflating.give_back(pool);
                }
                let bytes = inflated.filled();
                return Ok((used, Some(Event::Part { bytes, text, more: !is_last })));
            }
            let at = used;
            used += len;
            let bytes = input.get_mut(at..used).unwrap_or_default();
            frame.mask.apply(bytes);
            frame.advance(len);
            let is_last = frame.left == 0 && frame.fin;
            if len == 0 && !is_last {
                if frame.left == 0 {
                    // An empty piece in the middle says nothing.
                    self.frame = None;
                    continue;
                }
                return Ok((used, None));
            }
            let text = message.take(bytes, is_last)?;
            message.len += len as u64;
            if frame.left == 0 {
                self.frame = None;
            }
            if is_last {
                self.message = None;
            }
            let bytes = input.get(at..used).unwrap_or_default();
            return Ok((used, Some(Event::Part { bytes, text, more: !is_last })));
        }
    }

    /// May this come here (RFC 6455 §5.4, §5.5)?
    fn check(&self, head: &Head) -> Result<(), Violation> {
        let begins = matches!(head.opcode, OpCode::Data(Data::Text | Data::Binary));
        if head.rsv1 && !(begins && self.may_inflate) {
            return Err(protocol("reserved bits are set"));
        }
        let OpCode::Data(opcode) = head.opcode else { return Ok(()) };
        match (opcode, &self.message) {
            (Data::Continue, None) => return Err(protocol("nothing is to be continued")),
            (Data::Text | Data::Binary, Some(_)) => {
                return Err(protocol("a message begins before the last has ended"));
            }
            // What is compressed is measured when it is not any more.
            (_, Some(Message { inflating: Some(_), .. })) => return Ok(()),
            _ if head.rsv1 => return Ok(()),
            _ => {}
        }
        let so_far = self.message.as_ref().map_or(0, |message| message.len);
        if so_far.saturating_add(head.len) > self.most { Err(TOO_BIG) } else { Ok(()) }
    }

    fn begin(&mut self, head: &Head, pool: &Pool) {
        if head.opcode != OpCode::Data(Data::Continue) {
            let text = (head.opcode == OpCode::Data(Data::Text)).then(Utf8::default);
            let inflating = head.rsv1.then(|| Box::new(Inflating::new(pool)));
            self.message = Some(Message { len: 0, text, inflating });
        }
        self.frame = Some(Frame { mask: head.mask, left: head.len, fin: head.fin });
    }
}

impl Frame {
    fn advance(&mut self, len: usize) {
        self.left -= len as u64;
        self.mask = self.mask.after(len);
    }
}

impl Message {
    /// Checks what has come of it. Is it text?
    fn take(&mut self, bytes: &[u8], is_last: bool) -> Result<bool, NotUtf8> {
        let Some(utf8) = &mut self.text else { return Ok(false) };
        utf8.take(bytes)?;
        if is_last {
            utf8.end()?;
        }
        Ok(true)
    }
}
