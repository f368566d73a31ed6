//! Both ends of the submission ring: the daemon sends requests, the worker claims them.

use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Position, Ring, record_size};
use crate::ProtocolError;
use crate::layout::{Geometry, RECORD_ALIGN};
use crate::map::Map;
use crate::state::{self, Claim};

/// Daemon's end of the submission ring.
#[derive(Debug)]
pub struct SubmissionSender {
    ring: Ring,
    head: u64,
    tail: u64,
}

impl SubmissionSender {
    /// Creates the daemon's end over a new map.
    pub fn new(map: Arc<Map>, geometry: &Geometry) -> Self {
        Self { ring: Ring::submission(map, geometry), head: 0, tail: 0 }
    }

    /// Publishes a frame. Returns `None` if there is no room now; the worker makes room by
    /// consuming records.
    ///
    /// # Errors
    /// The worker's tail is impossible.
    ///
    /// # Panics
    /// If the frame is longer than [`Geometry::max_submission_frame`].
    pub fn push(&mut self, frame: &[u8]) -> Result<Option<Position>, ProtocolError> {
        self.push_split(frame, &[])
    }

    /// Publishes a frame whose last bytes, `body`, are stored apart from the others.
    ///
    /// # Errors
    /// As [`SubmissionSender::push`].
    ///
    /// # Panics
    /// As [`SubmissionSender::push`], for both parts together.
    pub fn push_split(&mut self, head: &[u8], body: &[u8]) -> Result<Option<Position>, ProtocolError> {
        self.ring.push(&mut self.head, &mut self.tail, [head, body], state::READY)
    }

    /// Reads the worker's tail and returns whether a frame of this length fits now.
    ///
    /// # Errors
    /// The worker's tail is impossible.
    pub fn check_room(&mut self, len: usize) -> Result<bool, ProtocolError> {
        let (pad, need) = self.ring.record_space(self.head, len);
        self.tail = self.ring.read_tail(self.head, self.tail)?;
        Ok(self.head + pad + need - self.tail <= self.ring.capacity)
    }

    /// Revokes a record. Returns true if the worker had not claimed the record; the worker then
    /// skips it.
    pub fn revoke(&mut self, position: Position) -> bool {
        // A record that was overwritten meanwhile has been consumed.
        if self.head - position.0 > self.ring.capacity {
            return false;
        }
        state::revoke(self.ring.map.u32(self.ring.offset_of(position.0) + 4))
    }

    /// True if the worker's tail is past this record, claimed or not. The tail is not checked for
    /// plausibility.
    pub fn is_consumed(&self, position: Position) -> bool {
        self.ring.map.u64(self.ring.tail).load(Ordering::Acquire) > position.0
    }

    /// True if the record is claimed or revoked. The answer may be outdated at once; only
    /// [`Self::revoke`] decides.
    pub fn is_claimed(&self, position: Position) -> bool {
        self.head - position.0 > self.ring.capacity
            || self.ring.map.u32(self.ring.offset_of(position.0) + 4).load(Ordering::Acquire) != state::READY
    }
}

/// Worker's end of the submission ring.
#[derive(Debug)]
pub struct SubmissionReceiver {
    ring: Ring,
    tail: u64,
}

impl SubmissionReceiver {
    /// Creates the worker's end over a new map.
    pub fn new(map: Arc<Map>, geometry: &Geometry) -> Self {
        Self { ring: Ring::submission(map, geometry), tail: 0 }
    }

    /// Claims the next frame and copies it into `frame` (cleared first). Returns false if the ring
    /// is empty.
    ///
    /// # Errors
    /// A position, length or state written by the daemon is impossible.
    pub fn claim(&mut self, frame: &mut Vec<u8>) -> Result<bool, ProtocolError> {
        frame.clear();
        self.claim_with(|mut claimed| claimed.copy_out(claimed.len(), frame))
    }

    /// Claims the next frame and passes it to `read`, which copies it. Returns false if the ring is
    /// empty.
    ///
    /// # Errors
    /// As [`SubmissionReceiver::claim`].
    pub fn claim_with(&mut self, read: impl FnOnce(FrameInRing<'_>)) -> Result<bool, ProtocolError> {
        loop {
            let head = self.ring.read_head(self.tail)?;
            if head == self.tail {
                return Ok(false);
            }
            let len = self.ring.record_len(self.tail, head)?;
            let at = self.ring.offset_of(self.tail);
            let claim = state::claim(self.ring.map.u32(at + 4))?;
            self.tail += record_size(len);
            if claim == Claim::Claimed {
                read(FrameInRing { map: &self.ring.map, offset: at + RECORD_ALIGN, len: len as usize });
                self.publish_tail();
                return Ok(true);
            }
            self.publish_tail();
        }
    }

    fn publish_tail(&self) {
        self.ring.map.u64(self.ring.tail).store(self.tail, Ordering::Release);
    }

    /// True if the ring holds no record. If false, there may still be nothing to claim: the records
    /// may be revoked. Threads call this between announcing sleep and sleeping, and before
    /// deferring a wake-up of the daemon.
    pub fn is_empty(&self) -> bool {
        self.ring.map.u64(self.ring.head).load(Ordering::Acquire) == self.tail
    }
}

/// A claimed frame that is still in the ring. Its bytes are copied, not borrowed ([`Map`]).
#[derive(Debug)]
pub struct FrameInRing<'a> {
    map: &'a Map,
    /// Offset of the frame's next byte in the map.
    offset: usize,
    /// Number of bytes left.
    len: usize,
}

impl FrameInRing<'_> {
    /// Number of bytes that have not been copied.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True if all bytes have been copied.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends the next `len` bytes to `out`.
    ///
    /// # Panics
    /// Fewer bytes are left.
    pub fn copy_out(&mut self, len: usize, out: &mut Vec<u8>) {
        self.map.copy_out(self.advance(len), len, out);
    }

    /// Fills `out` with the next bytes.
    ///
    /// # Panics
    /// Fewer bytes are left.
    pub fn copy_to(&mut self, out: &mut [MaybeUninit<u8>]) {
        self.map.copy_to(self.advance(out.len()), out);
    }

    fn advance(&mut self, len: usize) -> usize {
        assert!(len <= self.len, "{len} bytes of a frame that has {} left", self.len);
        let offset = self.offset;
        (self.offset, self.len) = (offset + len, self.len - len);
        offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Word;
    use crate::ring::WARM_BYTES;
    use crate::ring::tests::small_map;

    #[test]
    fn frames_arrive_in_order_across_many_wraps() {
        let (map, geometry) = small_map();
        let mut sender = SubmissionSender::new(map.clone(), &geometry);
        let mut receiver = SubmissionReceiver::new(map, &geometry);
        let mut out = Vec::new();
        let mut expected = std::collections::VecDeque::new();
        for n in 0..5_000_usize {
            let frame = vec![u8::try_from(n % 251).unwrap(); (n * 37) % 900];
            let (head, body) = frame.split_at((n * 11) % (frame.len() + 1));
            while sender.push_split(head, body).unwrap().is_none() {
                assert!(receiver.claim(&mut out).unwrap());
                assert_eq!(out, expected.pop_front().unwrap());
            }
            expected.push_back(frame);
        }
        while receiver.claim(&mut out).unwrap() {
            assert_eq!(out, expected.pop_front().unwrap());
        }
        assert!(expected.is_empty());
    }

    #[test]
    fn a_record_is_either_claimed_or_revoked() {
        let (map, geometry) = small_map();
        let mut sender = SubmissionSender::new(map.clone(), &geometry);
        let mut receiver = SubmissionReceiver::new(map, &geometry);
        let first = sender.push(b"first").unwrap().unwrap();
        let second = sender.push(b"second").unwrap().unwrap();
        let third = sender.push(b"third").unwrap().unwrap();
        let mut out = Vec::new();
        assert!(receiver.claim(&mut out).unwrap());
        assert_eq!(out, b"first");
        assert!(sender.is_claimed(first) && !sender.is_claimed(second));
        assert!(!sender.revoke(first));
        assert!(sender.revoke(second));
        assert!(!sender.revoke(second));
        assert!(receiver.claim(&mut out).unwrap());
        assert_eq!(out, b"third");
        assert!(!sender.revoke(third));
        assert!(!receiver.claim(&mut out).unwrap());
    }

    #[test]
    fn claimed_frame_is_copied_in_parts() {
        let (map, geometry) = small_map();
        let mut sender = SubmissionSender::new(map.clone(), &geometry);
        let mut receiver = SubmissionReceiver::new(map, &geometry);
        sender.push_split(b"head", b"body").unwrap().unwrap();
        sender.push(b"next").unwrap().unwrap();
        let (mut head, mut body) = (Vec::new(), Vec::new());
        let claimed = receiver.claim_with(|mut frame| {
            frame.copy_out(5, &mut head);
            frame.copy_to(&mut [MaybeUninit::uninit(); 1]);
            frame.copy_out(2, &mut body);
            assert!(frame.is_empty());
        });
        assert!(claimed.unwrap());
        assert_eq!((&head[..], &body[..]), (&b"headb"[..], &b"dy"[..]));
        assert!(receiver.claim(&mut head).unwrap());
        assert_eq!(head, b"next", "a frame begins with an empty buffer");
        assert!(!receiver.claim_with(|_| unreachable!()).unwrap());
    }

    #[test]
    fn check_room_agrees_with_push() {
        let (map, geometry) = small_map();
        let mut sender = SubmissionSender::new(map.clone(), &geometry);
        let mut receiver = SubmissionReceiver::new(map, &geometry);
        let (mut out, mut full) = (Vec::new(), 0);
        for n in 0..2_000_usize {
            let frame = vec![0; (n * 97) % 1900];
            let has_room = sender.check_room(frame.len()).unwrap();
            assert_eq!(sender.push(&frame).unwrap().is_some(), has_room);
            if !has_room {
                full += 1;
                assert!(receiver.claim(&mut out).unwrap());
            }
        }
        assert!(full > 100);
    }

    /// Returns both ends of a ring of the standard size.
    fn standard_ring() -> (SubmissionSender, SubmissionReceiver) {
        let geometry = Geometry::standard(1);
        let map = Arc::new(Map::create("ring", geometry.total_bytes()).unwrap().0);
        (SubmissionSender::new(map.clone(), &geometry), SubmissionReceiver::new(map, &geometry))
    }

    #[test]
    fn large_records_use_the_whole_ring_after_small_ones() {
        let (mut sender, mut receiver) = standard_ring();
        let (mut out, large, small) =
            (Vec::new(), vec![1; crate::layout::MAX_INLINE_BODY + 500], vec![2; 300]);
        for n_small in [0, 1, 300, 900, 2500] {
            for _ in 0..n_small {
                sender.push(&small).unwrap().unwrap();
                assert!(receiver.claim(&mut out).unwrap());
            }
            let mut n_pushed = 0;
            while sender.push(&large).unwrap().is_some() {
                n_pushed += 1;
            }
            // A record does not wrap, so up to one of them is lost to padding.
            assert!((6..=7).contains(&n_pushed), "{n_pushed} after {n_small}");
            assert!(sender.push(&small).unwrap().is_some() || n_pushed == 7);
            while receiver.claim(&mut out).unwrap() {
                assert!(out == large || out == small);
            }
        }
    }

    #[test]
    fn returning_ring_loses_no_record() {
        let (mut sender, mut receiver) = standard_ring();
        let (mut out, mut waiting) = (Vec::new(), std::collections::VecDeque::new());
        for n in 0..20_000_usize {
            // A sequence without a short period: mostly small records, and at times large ones.
            let choice = n * n % 1009;
            let len = if choice % 5 == 0 { 9_000 + 50 * choice } else { choice };
            let frame = vec![u8::try_from(n % 251).unwrap(); len];
            let has_room = sender.check_room(len).unwrap();
            assert_eq!(sender.push(&frame).unwrap().is_some(), has_room);
            if has_room {
                waiting.push_back(frame);
            }
            // Now and then the ring runs empty.
            let n_claims = if !has_room || choice % 7 == 0 { waiting.len() } else { choice % 2 };
            for _ in 0..n_claims.min(waiting.len()) {
                assert!(receiver.claim(&mut out).unwrap());
                assert_eq!(out, waiting.pop_front().unwrap());
            }
        }
    }

    #[test]
    fn almost_empty_ring_stays_at_its_beginning() {
        let (mut sender, mut receiver) = standard_ring();
        let capacity = sender.ring.capacity;
        let (mut out, mut laps) = (Vec::new(), 0);
        for n in 0..20_000_usize {
            let frame = vec![u8::try_from(n % 251).unwrap(); (n * 37) % 900];
            let Position(position) = sender.push(&frame).unwrap().unwrap();
            assert!(position % capacity < WARM_BYTES + 4096, "{position}");
            laps = position / capacity;
            // Up to twelve records are in the ring.
            while n % 12 == 0 && receiver.claim(&mut out).unwrap() {}
        }
        assert!(laps > 100, "{laps}");
    }

    #[test]
    fn ring_with_a_backlog_uses_all_its_memory() {
        let (mut sender, mut receiver) = standard_ring();
        let frame = [7; 500];
        let most = Geometry::standard(1).submission as usize / frame.len();
        let (mut out, mut waiting) = (Vec::new(), 0);
        for _ in 0..10 {
            while sender.push(&frame).unwrap().is_some() {
                waiting += 1;
            }
            assert!(waiting > most * 9 / 10, "{waiting} of {most}");
            for _ in 0..100 {
                assert!(receiver.claim(&mut out).unwrap());
                assert_eq!(out, frame);
                waiting -= 1;
            }
        }
    }

    #[test]
    fn a_position_whose_record_was_overwritten_is_not_revoked() {
        let (map, geometry) = small_map();
        let mut sender = SubmissionSender::new(map.clone(), &geometry);
        let mut receiver = SubmissionReceiver::new(map, &geometry);
        let old = sender.push(&[1; 500]).unwrap().unwrap();
        let mut out = Vec::new();
        for _ in 0..20 {
            assert!(receiver.claim(&mut out).unwrap());
            sender.push(&[2; 500]).unwrap().unwrap();
        }
        assert!(!sender.revoke(old));
        assert!(sender.is_claimed(old));
    }

    #[test]
    fn a_tail_that_moves_back_or_beyond_the_head_is_an_error() {
        let (map, geometry) = small_map();
        let mut sender = SubmissionSender::new(map.clone(), &geometry);
        while sender.push(&[0; 1000]).unwrap().is_some() {}
        map.u64(Geometry::word(Word::SubmissionTail)).store(1 << 40, Ordering::Release);
        assert!(matches!(sender.push(&[0; 1000]), Err(ProtocolError::Position { which: "tail", .. })));
    }
}
