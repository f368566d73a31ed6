//! The two rings of one worker, and both ends of each.
//!
//! A record is `len u32 | state u32 | frame`, aligned to 8. `head` counts all bytes published so
//! far, `tail` all bytes consumed; both only grow, so the ring holds `head - tail` bytes and a
//! position is never reused. A record never wraps: where it would, a `PAD` record fills the rest of
//! the ring, or of its first [`WARM_BYTES`] while few bytes are in use. In the completion ring, the
//! state word says whether DONE was added to the frame after the push.
//!
//! Each end belongs to one thread at a time (`&mut self`); a worker with several threads keeps its
//! ends behind mutexes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::ProtocolError;
use crate::layout::{Geometry, PAGE_BYTES, RECORD_ALIGN, Word};
use crate::map::Map;
use crate::state;

mod completion;
mod submission;

pub use completion::{CompletionReceiver, CompletionSender};
pub use submission::{FrameInRing, SubmissionReceiver, SubmissionSender};

/// Bytes at the beginning of a ring to which an almost empty ring returns. Without this, a ring that
/// never holds more than a few records would use all its memory, and no record would be in the
/// processor's cache.
const WARM_BYTES: u64 = 64 * 1024;

/// A ring is almost empty with at most this number of bytes in use. The padding takes the rest of
/// the ring until the peer has passed it.
const ALMOST_EMPTY_BYTES: u64 = 16 * 1024;

/// Maximum size in bytes of a record that returns to the beginning. The padding would leave no room for
/// further large records, which would then be passed on one by one.
const MAX_RETURNING_RECORD: u64 = 16 * 1024;

/// Position of a record: the bytes published in the ring before it. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(u64);

/// Location and size of a ring, the same for both ends.
#[derive(Debug)]
struct Ring {
    map: Arc<Map>,
    /// For error messages.
    name: &'static str,
    /// Offset of the ring in the map, bytes.
    offset: usize,
    /// Size, bytes; a power of two.
    capacity: u64,
    /// Offset of the head word.
    head: usize,
    /// Offset of the tail word.
    tail: usize,
}

impl Ring {
    fn submission(map: Arc<Map>, geometry: &Geometry) -> Self {
        Self {
            map,
            name: "submission",
            offset: geometry.submission_offset(),
            capacity: u64::from(geometry.submission),
            head: Geometry::word(Word::SubmissionHead),
            tail: Geometry::word(Word::SubmissionTail),
        }
    }

    fn completion(map: Arc<Map>, geometry: &Geometry) -> Self {
        Self {
            map,
            name: "completion",
            offset: geometry.completion_offset(),
            capacity: u64::from(geometry.completion),
            head: Geometry::word(Word::CompletionHead),
            tail: Geometry::word(Word::CompletionTail),
        }
    }

    /// Returns the map offset of the byte at `position`.
    #[expect(clippy::cast_possible_truncation, reason = "capacity is a u32 power of two")]
    fn offset_of(&self, position: u64) -> usize {
        self.offset + (position & (self.capacity - 1)) as usize
    }

    fn bytes_until_end(&self, position: u64) -> u64 {
        self.capacity - (position & (self.capacity - 1))
    }

    fn publish_head(&self, head: u64) {
        self.map.u64(self.head).store(head, Ordering::Release);
    }

    /// Reads the peer's tail, which may only grow and never passes our head.
    fn read_tail(&self, own_head: u64, last: u64) -> Result<u64, ProtocolError> {
        let tail = self.map.u64(self.tail).load(Ordering::Acquire);
        if tail < last || tail > own_head || !tail.is_multiple_of(RECORD_ALIGN as u64) {
            return Err(ProtocolError::Position {
                ring: self.name,
                which: "tail",
                value: tail,
                own: own_head,
            });
        }
        Ok(tail)
    }

    /// Reads the peer's head, which may only grow and be at most a ring's capacity ahead of our
    /// tail.
    fn read_head(&self, own_tail: u64) -> Result<u64, ProtocolError> {
        let head = self.map.u64(self.head).load(Ordering::Acquire);
        if head < own_tail || head - own_tail > self.capacity || !head.is_multiple_of(RECORD_ALIGN as u64) {
            return Err(ProtocolError::Position {
                ring: self.name,
                which: "head",
                value: head,
                own: own_tail,
            });
        }
        Ok(head)
    }

    /// Returns the bytes that a frame of this length occupies: padding before the record, and the
    /// record.
    fn record_space(&self, head: u64, len: usize) -> (u64, u64) {
        let need = (RECORD_ALIGN + len).next_multiple_of(RECORD_ALIGN) as u64;
        let until_end = self.bytes_until_end(head);
        (if need > until_end { until_end } else { 0 }, need)
    }

    /// Returns the padding after which the next record is at the beginning of the ring, if that
    /// record is not large and would enter another page behind the first [`WARM_BYTES`], and the ring
    /// is almost empty; else zero.
    fn padding_to_begin(&self, head: u64, tail: &mut u64, need: u64) -> Result<u64, ProtocolError> {
        let begin = self.capacity - self.bytes_until_end(head);
        let last_page = |end: u64| (end - 1) / PAGE_BYTES as u64;
        if begin < WARM_BYTES || need > MAX_RETURNING_RECORD || last_page(begin) == last_page(begin + need) {
            return Ok(0);
        }
        *tail = self.read_tail(head, *tail)?;
        let (used, pad) = (head - *tail, self.bytes_until_end(head));
        let is_wanted = used <= ALMOST_EMPTY_BYTES && used + pad + need <= self.capacity;
        Ok(if is_wanted { pad } else { 0 })
    }

    /// Writes and publishes one record, whose frame is both parts together; `None` if the ring has no
    /// room for it now.
    fn push(
        &self,
        head: &mut u64,
        tail: &mut u64,
        [first, second]: [&[u8]; 2],
        state: u32,
    ) -> Result<Option<Position>, ProtocolError> {
        let len = first.len() + second.len();
        let (mut pad, need) = self.record_space(*head, len);
        assert!(need <= self.capacity / 2, "a frame of {len} bytes never fits its ring");
        if *head + pad + need - *tail > self.capacity {
            *tail = self.read_tail(*head, *tail)?;
            if *head + pad + need - *tail > self.capacity {
                return Ok(None);
            }
        }
        if pad == 0 {
            pad = self.padding_to_begin(*head, tail, need)?;
        }
        if pad > 0 {
            let at = self.offset_of(*head);
            self.map.u32(at).store(to_u32(pad - RECORD_ALIGN as u64), Ordering::Relaxed);
            self.map.u32(at + 4).store(state::PAD, Ordering::Relaxed);
            *head += pad;
        }
        let position = *head;
        let at = self.offset_of(position);
        self.map.u32(at).store(to_u32(len as u64), Ordering::Relaxed);
        self.map.copy_in(at + RECORD_ALIGN, first);
        if !second.is_empty() {
            self.map.copy_in(at + RECORD_ALIGN + first.len(), second);
        }
        self.map.u32(at + 4).store(state, Ordering::Relaxed);
        *head += need;
        self.publish_head(*head);
        Ok(Some(Position(position)))
    }

    /// Returns the length of the record at `tail`. The length is read once, and checked against the
    /// number of published bytes.
    fn record_len(&self, tail: u64, head: u64) -> Result<u32, ProtocolError> {
        let len = self.map.u32(self.offset_of(tail)).load(Ordering::Relaxed);
        let available = (head - tail).min(self.bytes_until_end(tail));
        if RECORD_ALIGN as u64 + u64::from(len) > available {
            return Err(ProtocolError::RecordLength { ring: self.name, len, available });
        }
        Ok(len)
    }
}

fn to_u32(value: u64) -> u32 {
    u32::try_from(value).expect("ring sizes are u32")
}

fn record_size(len: u32) -> u64 {
    (RECORD_ALIGN as u64 + u64::from(len)).next_multiple_of(RECORD_ALIGN as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map with rings of the smallest size.
    pub(super) fn small_map() -> (Arc<Map>, Geometry) {
        let geometry = Geometry { submission: 4096, completion: 4096, chunks: 1, slots: 1 };
        let (map, _fd) = Map::create("ring", geometry.total_bytes()).unwrap();
        (Arc::new(map), geometry)
    }
}
