//! The response's state in its exchange, between the worker that sends it and the client that reads
//! it.

use http::HeaderMap;
use rgun_channel::frame::MAX_FIELDS;

use crate::budget::Budget;
use crate::dispatch::data::Data;
use crate::dispatch::exchange::length_check::LengthCheck;
use crate::dispatch::exchange::response_buffer::ResponseBuffer;
use crate::dispatch::exchange::response_parts::{FilePart, Payload, ResponseHead};

/// Maximum bytes of early hints that are merged into one interim response; more are dropped.
const MAX_HINT_BYTES: usize = 64 * 1024;

/// Longest whole body, in bytes, that is not charged to `limits.response_memory`.
const MAX_UNCOUNTED_BODY: usize = 16 * 1024;

/// The client's progress in the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum ClientState {
    /// The client has nothing yet.
    #[default]
    AwaitingHead,
    /// The client has the head with this status and waits for the body.
    Streaming(u16),
    /// The client has the whole response, or is gone.
    Done,
}

/// The response of one attempt.
#[derive(Debug, Default)]
pub(crate) struct ResponseState {
    /// The head, until the client takes it.
    pub(super) head: Option<Box<ResponseHead>>,
    /// The body's bytes that the client has not taken.
    pub(crate) buffer: ResponseBuffer,
    /// The body or its rest, if it is a file.
    pub(super) file: Option<Box<FilePart>>,
    /// Early hints (RFC 8297) that the client has not taken.
    pub(super) hints: Option<Box<HeaderMap>>,
    /// The trailers, until the client takes them.
    pub(super) trailers: Option<Box<HeaderMap>>,
    /// Body bytes for which the worker has not got its credit back yet.
    pub(crate) unacked: u64,
    /// Compares the body with the declared length.
    pub(super) length: LengthCheck,
    pub(super) client: ClientState,
    /// The worker has sent the head.
    pub(super) head_received: bool,
    /// The worker has sent the end.
    pub(super) ended: bool,
    /// The application raised, or answered with a status of 500 or above.
    pub(super) app_failed: bool,
    /// Number of exceptions reported: one for the response, one for its `close()`.
    pub(super) n_raised: u8,
}

impl ResponseState {
    /// Buffers a part of the body. `is_whole`: the response has no other part.
    pub(super) fn store_payload(&mut self, payload: Payload, is_whole: bool, memory: &'static Budget) {
        match payload {
            Payload::File(file) => self.file = Some(file),
            Payload::Bytes(bytes) if bytes.is_empty() => {}
            Payload::Bytes(bytes) => {
                let is_uncounted = is_whole && bytes.len() <= MAX_UNCOUNTED_BODY;
                let data = if is_uncounted { Data::small(bytes) } else { Data::new(bytes, memory) };
                self.buffer.push(data, memory);
            }
            Payload::Chunks(chunks) => {
                // Empty chunks are dropped: they do not count against the window, so a worker could
                // send any number.
                for chunk in chunks.into_iter().filter(|chunk| !chunk.bytes().is_empty()) {
                    self.buffer.push(Data::from_chunk(chunk, memory), memory);
                }
            }
        }
    }

    /// Adds early hints to those that the client has not taken. Beyond [`MAX_FIELDS`] and
    /// [`MAX_HINT_BYTES`] they are dropped.
    pub(super) fn add_hints(&mut self, fields: Option<Box<HeaderMap>>) {
        match (&mut self.hints, fields) {
            (Some(hints), Some(fields)) => {
                let len = hints.len() + fields.len();
                let bytes = encoded_len(hints) + encoded_len(&fields);
                if len <= usize::from(MAX_FIELDS) && bytes <= MAX_HINT_BYTES {
                    for (name, value) in fields.iter() {
                        hints.append(name, value.clone());
                    }
                }
            }
            (hints, fields) => *hints = fields,
        }
    }

    pub(super) fn drop_parts(&mut self) {
        self.buffer = ResponseBuffer::default();
        self.file = None;
        self.trailers = None;
    }

    /// Returns whether the client has taken everything of a response that has ended.
    pub(super) fn is_drained(&self) -> bool {
        self.ended && self.buffer.is_empty() && self.file.is_none() && self.trailers.is_none()
    }
}

/// Returns the bytes of header fields in HTTP/1 syntax.
fn encoded_len(fields: &HeaderMap) -> usize {
    fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}
