//! Messages and control frames become bytes for a client.
//!
//! Knows neither socket nor clock. What is small is gathered, so that many messages are one write; what is large is
//! written from where it lies. Nothing more is to be given before that is out.

use std::io::IoSlice;

use bytes::Bytes;

use super::deflate::{DeflatePool, Deflater};
use super::extension::DeflateParams;
use super::frame::{Control, Data, MAX_CONTROL_PAYLOAD, OpCode, write_head};

/// Up to here bytes are copied beside others; above, copying costs more than another piece in a write.
const MAX_COPY_BYTES: usize = 4096;

/// So much is gathered for one write.
const MAX_BATCH_BYTES: usize = 32 * 1024;

/// Shorter messages are not compressed: without what came before there is nothing in them to save, and compressing
/// takes longer than sending. (`ws` of Node.js has the same threshold.)
const MIN_DEFLATE_BYTES: usize = 1024;

/// The way of messages out.
#[derive(Debug)]
pub(super) struct Sender {
    deflate: Option<DeflateParams>,
    /// A part of a message is out, or as good as.
    message: Option<OutgoingMessage>,
    /// Bytes to be written from `at` on, then `large`.
    output: Vec<u8>,
    written: usize,
    large_payload: Bytes,
}

#[derive(Debug)]
struct OutgoingMessage {
    /// Its first frame is still to come.
    is_first_frame: bool,
    deflater: Option<Box<Deflater>>,
}

impl Sender {
    pub(super) fn new(agreed: Option<DeflateParams>) -> Self {
        Self { deflate: agreed, message: None, output: Vec::new(), written: 0, large_payload: Bytes::new() }
    }

    /// May more messages be given?
    pub(super) fn can_send_message(&self) -> bool {
        self.can_send_control() && self.output.len() < MAX_BATCH_BYTES
    }

    /// May a control frame be given? Not behind what is written last.
    pub(super) fn can_send_control(&self) -> bool {
        self.large_payload.is_empty()
    }

    /// Is everything out?
    pub(super) fn is_empty(&self) -> bool {
        self.written == self.output.len() && self.large_payload.is_empty()
    }

    /// A message, or a part of one. `work` is room to work in.
    pub(super) fn push_message(
        &mut self,
        bytes: Bytes,
        text: bool,
        more: bool,
        work: &mut Vec<u8>,
        pool: &DeflatePool,
    ) {
        let OutgoingMessage { is_first_frame: mut is_first, deflater: mut deflating } =
            self.message.take().unwrap_or_else(|| {
                let agreed = self.deflate.filter(|_| more || bytes.len() >= MIN_DEFLATE_BYTES);
                let deflating = agreed.map(|agreed| Box::new(Deflater::new(agreed, pool)));
                OutgoingMessage { is_first_frame: true, deflater: deflating }
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
            if bytes.len() <= MAX_COPY_BYTES {
                self.output.extend_from_slice(&bytes);
            } else {
                self.large_payload = bytes;
            }
        }
        if more {
            self.message = Some(OutgoingMessage { is_first_frame: is_first, deflater: deflating });
        } else if let Some(deflating) = deflating {
            deflating.give_back(pool);
        }
    }

    pub(super) fn push_ping(&mut self) {
        write_head(OpCode::Control(Control::Ping), true, false, 0, &mut self.output);
    }

    pub(super) fn push_pong(&mut self, payload: &[u8]) {
        let payload = payload.get(..MAX_CONTROL_PAYLOAD).unwrap_or(payload);
        write_head(OpCode::Control(Control::Pong), true, false, payload.len(), &mut self.output);
        self.output.extend_from_slice(payload);
    }

    /// `None`: without a code. Nothing may follow.
    pub(super) fn push_close(&mut self, close: Option<(u16, &[u8])>) {
        let Some((code, reason)) = close else {
            return write_head(OpCode::Control(Control::Close), true, false, 0, &mut self.output);
        };
        write_head(OpCode::Control(Control::Close), true, false, 2 + reason.len(), &mut self.output);
        self.output.extend_from_slice(&code.to_be_bytes());
        self.output.extend_from_slice(reason);
    }

    /// What is to be written next. Nothing when [`Sender::is_empty`].
    pub(super) fn unwritten(&self) -> [IoSlice<'_>; 2] {
        [IoSlice::new(self.output.get(self.written..).unwrap_or_default()), IoSlice::new(&self.large_payload)]
    }

    /// Removes the first `len` bytes of [`Sender::slices`], which were written.
    pub(super) fn advance(&mut self, len: usize) {
        let of_output = len.min(self.output.len() - self.written);
        self.written += of_output;
        let _out = self.large_payload.split_to((len - of_output).min(self.large_payload.len()));
        if self.large_payload.is_empty() {
            // Not a slice of nothing, that holds what it is a slice of.
            self.large_payload = Bytes::new();
        }
        if self.is_empty() {
            self.output.clear();
            self.written = 0;
        }
    }

    /// Takes room to write into, while it has a turn.
    pub(super) fn borrow_buffer(&mut self, room: &mut Vec<u8>) {
        if self.output.is_empty() {
            self.output = std::mem::take(room);
        }
    }

    /// Gives it back, and keeps of it no more than is to be written.
    pub(super) fn return_buffer(&mut self, room: &mut Vec<u8>) {
        let rest = self.output.get(self.written..).unwrap_or_default().to_vec();
        self.written = 0;
        let mut output = std::mem::replace(&mut self.output, rest);
        if room.capacity() == 0 {
            output.clear();
            *room = output;
        }
    }
}
