//! Messages and control frames become bytes for a client.
//!
//! Knows neither socket nor clock. What is small is gathered, so that many messages are one write; what is large is
//! written from where it lies. Nothing more is to be given before that is out.

use std::io::IoSlice;

use bytes::Bytes;

use super::deflate::{Deflating, Pool};
use super::extension::Agreed;
use super::frame::{CONTROL, Control, Data, OpCode, write_head};

/// Up to here bytes are copied beside others; above, copying costs more than another piece in a write.
const SMALL: usize = 4096;

/// So much is gathered for one write.
const ENOUGH: usize = 32 * 1024;

/// Shorter messages are not compressed: without what came before there is nothing in them to save, and compressing
/// takes longer than sending. (`ws` of Node.js has the same threshold.)
const WORTH_IT: usize = 1024;

/// The way of messages out.
#[derive(Debug)]
pub(super) struct Sender {
    agreed: Option<Agreed>,
    /// A part of a message is out, or as good as.
    message: Option<Begun>,
    /// Bytes to be written from `at` on, then `large`.
    output: Vec<u8>,
    at: usize,
    large: Bytes,
}

#[derive(Debug)]
struct Begun {
    /// Its first frame is still to come.
    is_first: bool,
    deflating: Option<Box<Deflating>>,
}

impl Sender {
    pub(super) fn new(agreed: Option<Agreed>) -> Self {
        Self { agreed, message: None, output: Vec::new(), at: 0, large: Bytes::new() }
    }

    /// May more messages be given?
    pub(super) fn has_room(&self) -> bool {
        self.can_add() && self.output.len() < ENOUGH
    }

    /// May a control frame be given? Not behind what is written last.
    pub(super) fn can_add(&self) -> bool {
        self.large.is_empty()
    }

    /// Is everything out?
    pub(super) fn is_empty(&self) -> bool {
        self.at == self.output.len() && self.large.is_empty()
    }

    /// A message, or a part of one. `work` is room to work in.
    pub(super) fn message(&mut self, bytes: Bytes, text: bool, more: bool, work: &mut Vec<u8>, pool: &Pool) {
        let Begun { mut is_first, mut deflating } = self.message.take().unwrap_or_else(|| {
            let agreed = self.agreed.filter(|_| more || bytes.len() >= WORTH_IT);
            let deflating = agreed.map(|agreed| Box::new(Deflating::new(agreed, pool)));
            Begun { is_first: true, deflating }
        });
        let opcode = match (is_first, text) {
            (false, _) => Data::Continue,
            (true, true) => Data::Text,
            (true, false) => Data::Binary,
        };
        let rsv1 = is_first && deflating.is_some();
        if let Some(deflating) = &mut deflating {
            work.clear();
            deflating.deflate(&bytes, !more, work);
            // What has gone in may all be still inside.
            if !(more && work.is_empty()) {
                write_head(OpCode::Data(opcode), !more, rsv1, work.len(), &mut self.output);
                self.output.extend_from_slice(work);
                is_first = false;
            }
        } else {
            write_head(OpCode::Data(opcode), !more, rsv1, bytes.len(), &mut self.output);
            is_first = false;
            if bytes.len() <= SMALL {
                self.output.extend_from_slice(&bytes);
            } else {
                self.large = bytes;
            }
        }
        if more {
            self.message = Some(Begun { is_first, deflating });
        } else if let Some(deflating) = deflating {
            deflating.give_back(pool);
        }
    }

    pub(super) fn ping(&mut self) {
        write_head(OpCode::Control(Control::Ping), true, false, 0, &mut self.output);
    }

    pub(super) fn pong(&mut self, payload: &[u8]) {
        let payload = payload.get(..CONTROL).unwrap_or(payload);
        write_head(OpCode::Control(Control::Pong), true, false, payload.len(), &mut self.output);
        self.output.extend_from_slice(payload);
    }

    /// `None`: without a code. Nothing may follow.
    pub(super) fn close(&mut self, close: Option<(u16, &[u8])>) {
        let Some((code, reason)) = close else {
            return write_head(OpCode::Control(Control::Close), true, false, 0, &mut self.output);
        };
        write_head(OpCode::Control(Control::Close), true, false, 2 + reason.len(), &mut self.output);
        self.output.extend_from_slice(&code.to_be_bytes());
        self.output.extend_from_slice(reason);
    }

    /// What is to be written next. Nothing when [`Sender::is_empty`].
    pub(super) fn slices(&self) -> [IoSlice<'_>; 2] {
        [IoSlice::new(self.output.get(self.at..).unwrap_or_default()), IoSlice::new(&self.large)]
    }

    /// Removes the first `len` bytes of [`Sender::slices`], which were written.
    pub(super) fn advance(&mut self, len: usize) {
        let of_output = len.min(self.output.len() - self.at);
        self.at += of_output;
        let _out = self.large.split_to((len - of_output).min(self.large.len()));
        if self.large.is_empty() {
            // Not a slice of nothing, that holds what it is a slice of.
            self.large = Bytes::new();
        }
        if self.is_empty() {
            self.output.clear();
            self.at = 0;
        }
    }

    /// Takes room to write into, while it has a turn.
    pub(super) fn borrow(&mut self, room: &mut Vec<u8>) {
        if self.output.is_empty() {
            self.output = std::mem::take(room);
        }
    }

    /// Gives it back, and keeps of it no more than is to be written.
    pub(super) fn give_back(&mut self, room: &mut Vec<u8>) {
        let rest = self.output.get(self.at..).unwrap_or_default().to_vec();
        self.at = 0;
        let mut output = std::mem::replace(&mut self.output, rest);
        if room.capacity() == 0 {
            output.clear();
            *room = output;
        }
    }
}
