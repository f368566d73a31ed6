//! Encodes messages and control frames for a client.
//!
//! Uses neither socket nor clock. Small payloads are copied into one buffer, so that many messages
//! leave in one write. A large payload is not copied; no other frame is accepted until it is
//! written.

use std::io::IoSlice;

use bytes::{Buf, Bytes};

use super::deflate::{DeflatePool, Deflater};
use super::extension::DeflateParams;
use super::frame::{Control, Data, MAX_CONTROL_PAYLOAD, OpCode, write_head};

/// Maximum length of a payload that is copied into the buffer. A longer payload is cheaper to write
/// from a slice of its own.
const MAX_COPY_BYTES: usize = 4096;

/// Bytes in the buffer above which no more messages are accepted.
const MAX_BATCH_BYTES: usize = 32 * 1024;

/// Bytes of the shortest message that is compressed: without the context of earlier messages, a
/// shorter one hardly shrinks. (`ws` of Node.js has the same threshold.)
const MIN_DEFLATE_BYTES: usize = 1024;

/// The encoder of one connection's output.
#[derive(Debug)]
pub(super) struct Sender {
    /// `None` if messages are not compressed.
    deflate: Option<DeflateParams>,
    /// The message whose last part is still to come.
    message: Option<OutgoingMessage>,
    /// Encoded frames, of which the first `written` bytes were written. `large_payload` follows
    /// them.
    output: Vec<u8>,
    written: usize,
    large_payload: Bytes,
}

#[derive(Debug)]
struct OutgoingMessage {
    /// No frame of the message has been encoded yet.
    is_first_frame: bool,
    /// None if the message is not compressed.
    deflater: Option<Box<Deflater>>,
}

impl Sender {
    pub(super) fn new(deflate: Option<DeflateParams>) -> Self {
        Self { deflate, message: None, output: Vec::new(), written: 0, large_payload: Bytes::new() }
    }

    /// True if there is room for a message.
    pub(super) fn can_send_message(&self) -> bool {
        self.can_send_control() && self.output.len() < MAX_BATCH_BYTES
    }

    /// True if there is room for a control frame: no large payload is being written.
    pub(super) fn can_send_control(&self) -> bool {
        self.large_payload.is_empty()
    }

    /// True if everything was written.
    pub(super) fn is_empty(&self) -> bool {
        self.written == self.output.len() && self.large_payload.is_empty()
    }

    /// Encodes a message or a part of one. `work` is a scratch buffer for compressed bytes.
    pub(super) fn push_message(
        &mut self,
        bytes: Bytes,
        text: bool,
        more: bool,
        work: &mut Vec<u8>,
        pool: &DeflatePool,
    ) {
        let OutgoingMessage { mut is_first_frame, mut deflater } = self.message.take().unwrap_or_else(|| {
            let params = self.deflate.filter(|_| more || bytes.len() >= MIN_DEFLATE_BYTES);
            let deflater = params.map(|params| Box::new(Deflater::new(params, pool)));
            OutgoingMessage { is_first_frame: true, deflater }
        });
        let opcode = match (is_first_frame, text) {
            (false, _) => Data::Continue,
            (true, true) => Data::Text,
            (true, false) => Data::Binary,
        };
        let rsv1 = is_first_frame && deflater.is_some();
        if let Some(deflater) = &mut deflater {
            work.clear();
            deflater.deflate(&bytes, !more, work);
            // The compressor may keep a whole part until later parts come.
            if !(more && work.is_empty()) {
                write_head(OpCode::Data(opcode), !more, rsv1, work.len(), &mut self.output);
                self.output.extend_from_slice(work);
                is_first_frame = false;
            }
        } else {
            write_head(OpCode::Data(opcode), !more, rsv1, bytes.len(), &mut self.output);
            is_first_frame = false;
            if bytes.len() <= MAX_COPY_BYTES {
                self.output.extend_from_slice(&bytes);
            } else {
                self.large_payload = bytes;
            }
        }
        if more {
            self.message = Some(OutgoingMessage { is_first_frame, deflater });
        } else if let Some(deflater) = deflater {
            deflater.recycle(pool);
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

    /// Encodes a close frame; None: without a code. No frame may follow.
    pub(super) fn push_close(&mut self, close: Option<(u16, &[u8])>) {
        let Some((code, reason)) = close else {
            return write_head(OpCode::Control(Control::Close), true, false, 0, &mut self.output);
        };
        write_head(OpCode::Control(Control::Close), true, false, 2 + reason.len(), &mut self.output);
        self.output.extend_from_slice(&code.to_be_bytes());
        self.output.extend_from_slice(reason);
    }

    /// Returns the bytes to be written next.
    pub(super) fn unwritten(&self) -> [IoSlice<'_>; 2] {
        [IoSlice::new(self.output.get(self.written..).unwrap_or_default()), IoSlice::new(&self.large_payload)]
    }

    /// Removes the first `len` bytes of [`Sender::unwritten`], after they were written.
    pub(super) fn advance(&mut self, len: usize) {
        let from_output = len.min(self.output.len() - self.written);
        self.written += from_output;
        self.large_payload.advance((len - from_output).min(self.large_payload.len()));
        if self.large_payload.is_empty() {
            // An empty slice would keep the payload's memory allocated.
            self.large_payload = Bytes::new();
        }
        if self.is_empty() {
            self.output.clear();
            self.written = 0;
        }
    }

    /// Takes over the shared output buffer for one poll, unless there are unwritten bytes from the
    /// last poll.
    pub(super) fn borrow_buffer(&mut self, shared: &mut Vec<u8>) {
        if self.output.is_empty() {
            self.output = std::mem::take(shared);
        }
    }

    /// Returns the shared buffer, and keeps a copy of the unwritten bytes.
    pub(super) fn return_buffer(&mut self, shared: &mut Vec<u8>) {
        let rest = self.output.get(self.written..).unwrap_or_default().to_vec();
        self.written = 0;
        let mut output = std::mem::replace(&mut self.output, rest);
        if shared.capacity() == 0 {
            output.clear();
            *shared = output;
        }
    }
}
