//! The two rings of one worker, and both ends of each.
//!
//! A record is `len u32 | state u32 | frame`, aligned to 8. `head` counts the bytes ever published,
//! `tail` the bytes ever consumed; both only grow, so `head - tail` is what is in the ring and a
//! position names a record for ever. A record never wraps: where it would, the rest of the ring is
//! filled with a `PAD` record. In the completion ring the second word says whether the frame got DONE after it was
//! pushed.
//!
//! Each end is owned by one thread at a time (`&mut self`); a worker with several threads puts its ends
//! behind a mutex of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::ProtocolError;
use crate::frame;
use crate::layout::{Geometry, RECORD_ALIGN, Word};
use crate::map::Map;
use crate::state::{self, Claim};

/// Where a record stands: bytes published in the ring before it. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(u64);

/// What both ends of a ring know of it.
#[derive(Debug)]
struct Ring {
    map: Arc<Map>,
    name: &'static str,
    offset: usize,
    capacity: u64,
    head: usize,
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

    /// Offset in the map of the byte at `position`.
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

    /// The other side's tail; it may only move forward, and not beyond our head.
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

    /// The other side's head; it may only move forward, and not more than the ring holds.
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

    /// What a record of a frame of this length takes: filler up to the end of the ring, and itself.
    fn record_space(&self, head: u64, len: usize) -> (u64, u64) {
        let need = (RECORD_ALIGN + len).next_multiple_of(RECORD_ALIGN) as u64;
        let until_end = self.bytes_until_end(head);
        (if need > until_end { until_end } else { 0 }, need)
    }

    /// Writes one record and publishes it, or says that there is no room now.
    fn push(
        &self,
        head: &mut u64,
        tail: &mut u64,
        frame: &[u8],
        state: u32,
    ) -> Result<Option<Position>, ProtocolError> {
        let (pad, need) = self.record_space(*head, frame.len());
        assert!(need <= self.capacity / 2, "a frame of {} bytes never fits its ring", frame.len());
        if *head + pad + need - *tail > self.capacity {
            *tail = self.read_tail(*head, *tail)?;
            if *head + pad + need - *tail > self.capacity {
                return Ok(None);
            }
        }
        if pad > 0 {
            let at = self.offset_of(*head);
            self.map.u32(at).store(to_u32(pad - RECORD_ALIGN as u64), Ordering::Relaxed);
            self.map.u32(at + 4).store(state::PAD, Ordering::Relaxed);
            *head += pad;
        }
        let position = *head;
        let at = self.offset_of(position);
        self.map.u32(at).store(to_u32(frame.len() as u64), Ordering::Relaxed);
        self.map.copy_in(at + RECORD_ALIGN, frame);
        self.map.u32(at + 4).store(state, Ordering::Relaxed);
        *head += need;
        self.publish_head(*head);
        Ok(Some(Position(position)))
    }

    /// Length of the record at `tail`, read once and checked against what is published.
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

/// Daemon's end of the submission ring.
#[derive(Debug)]
pub struct SubmissionSender {
    ring: Ring,
    head: u64,
    tail: u64,
}

impl SubmissionSender {
    /// The daemon's end of a fresh map.
    pub fn new(map: Arc<Map>, geometry: &Geometry) -> Self {
        Self { ring: Ring::submission(map, geometry), head: 0, tail: 0 }
    }

    /// Publishes a frame. `None`: no room now, try again when the worker has consumed something.
    ///
    /// # Errors
    /// When the worker's tail is impossible.
    ///
    /// # Panics
    /// If the frame is longer than [`Geometry::max_submission_frame`].
    pub fn push(&mut self, frame: &[u8]) -> Result<Option<Position>, ProtocolError> {
        self.ring.push(&mut self.head, &mut self.tail, frame, state::READY)
    }

    /// Reads the worker's tail and returns whether a frame of this length fits now.
    ///
    /// # Errors
    /// When the worker's tail is impossible.
    pub fn check_room(&mut self, len: usize) -> Result<bool, ProtocolError> {
        let (pad, need) = self.ring.record_space(self.head, len);
        self.tail = self.ring.read_tail(self.head, self.tail)?;
        Ok(self.head + pad + need - self.tail <= self.ring.capacity)
    }

    /// Takes a record back. True: it had not been claimed and never will be.
    pub fn revoke(&mut self, position: Position) -> bool {
        // A record that has been overwritten since was consumed long ago.
        if self.head - position.0 > self.ring.capacity {
            return false;
        }
        state::revoke(self.ring.map.u32(self.ring.offset_of(position.0) + 4))
    }

    /// Has the worker come past this record, whatever became of it? A look at a word that it writes: any number.
    pub fn is_consumed(&self, position: Position) -> bool {
        self.ring.map.u64(self.ring.tail).load(Ordering::Acquire) > position.0
    }

    /// Has the worker taken this record (or was it revoked)? A look, not a decision.
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
    /// The worker's end of a fresh map.
    pub fn new(map: Arc<Map>, geometry: &Geometry) -> Self {
        Self { ring: Ring::submission(map, geometry), tail: 0 }
    }

    /// Claims the next frame and copies it into `frame` (cleared first). False: the ring is empty.
    ///
    /// # Errors
    /// When the daemon's positions, lengths or states are impossible.
    pub fn claim(&mut self, frame: &mut Vec<u8>) -> Result<bool, ProtocolError> {
        frame.clear();
        loop {
            let head = self.ring.read_head(self.tail)?;
            if head == self.tail {
                return Ok(false);
            }
            let len = self.ring.record_len(self.tail, head)?;
            let at = self.ring.offset_of(self.tail);
            let claim = state::claim(self.ring.map.u32(at + 4))?;
            if claim == Claim::Claimed {
                self.ring.map.copy_out(at + RECORD_ALIGN, len as usize, frame);
            }
            self.tail += record_size(len);
            self.ring.map.u64(self.ring.tail).store(self.tail, Ordering::Release);
            if claim == Claim::Claimed {
                return Ok(true);
            }
        }
    }

    /// Is there something to claim (it may turn out to be revoked)? What a thread asks between
    /// announcing sleep and sleeping, and what tells whether a doorbell may wait.
    pub fn is_empty(&self) -> bool {
        self.ring.map.u64(self.ring.head).load(Ordering::Acquire) == self.tail
    }
}

/// Worker's end of the completion ring.
#[derive(Debug)]
pub struct CompletionSender {
    ring: Ring,
    head: u64,
    tail: u64,
}

impl CompletionSender {
    /// The worker's end of a fresh map.
    pub fn new(map: Arc<Map>, geometry: &Geometry) -> Self {
        Self { ring: Ring::completion(map, geometry), head: 0, tail: 0 }
    }

    /// Publishes a frame. False: no room now ([`Word::SpaceWait`] is what to wait on).
    ///
    /// # Errors
    /// When the daemon's tail is impossible.
    ///
    /// # Panics
    /// If the frame is longer than [`Geometry::max_completion_frame`].
    pub fn push(&mut self, frame: &[u8]) -> Result<bool, ProtocolError> {
        Ok(self.push_positioned(frame)?.is_some())
    }

    /// The same, for who wants to [`CompletionSender::mark_done`] it: says where it is.
    ///
    /// # Errors
    /// As [`CompletionSender::push`].
    pub fn push_positioned(&mut self, frame: &[u8]) -> Result<Option<Position>, ProtocolError> {
        self.ring.push(&mut self.head, &mut self.tail, frame, state::READY)
    }

    /// Adds DONE to a frame that was pushed with END. False: the daemon has taken it, DONE needs a frame of its own.
    pub fn mark_done(&mut self, position: Position) -> bool {
        // A record that has been overwritten since was taken long ago.
        self.head - position.0 <= self.ring.capacity
            && state::mark_done(self.ring.map.u32(self.ring.offset_of(position.0) + 4))
    }
}

/// Daemon's end of the completion ring.
#[derive(Debug)]
pub struct CompletionReceiver {
    ring: Ring,
    tail: u64,
}

impl CompletionReceiver {
    /// The daemon's end of a fresh map.
    pub fn new(map: Arc<Map>, geometry: &Geometry) -> Self {
        Self { ring: Ring::completion(map, geometry), tail: 0 }
    }

    /// Appends the next frame to `out` and returns its length; `None` when the ring is empty. The room
    /// is the worker's again at once ([`crate::wake::WaitFlag::notify`] tells it).
    ///
    /// # Errors
    /// When the worker's head or a length is impossible.
    pub fn pop(&mut self, out: &mut Vec<u8>) -> Result<Option<usize>, ProtocolError> {
        loop {
            let head = self.ring.read_head(self.tail)?;
            if head == self.tail {
                return Ok(None);
            }
            let len = self.ring.record_len(self.tail, head)?;
            let at = self.ring.offset_of(self.tail);
            let state = state::take(self.ring.map.u32(at + 4));
            let pad = state == state::PAD;
            if !pad {
                let before = out.len();
                self.ring.map.copy_out(at + RECORD_ALIGN, len as usize, out);
                if state == state::DONE {
                    frame::add_done(&mut out[before..]);
                }
            }
            self.tail += record_size(len);
            self.ring.map.u64(self.ring.tail).store(self.tail, Ordering::Release);
            if !pad {
                return Ok(Some(len as usize));
            }
        }
    }

    /// Is there nothing to pop? A broken head counts as something, so that `pop` reports it.
    pub fn is_empty(&self) -> bool {
        self.ring.map.u64(self.ring.head).load(Ordering::Acquire) == self.tail
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Body, Completion, CompletionKind, ExchangeId};

    fn pair() -> (Arc<Map>, Geometry) {
        let geometry = Geometry { submission: 4096, completion: 4096, chunks: 1, slots: 1 };
        let (map, _fd) = Map::create("ring", geometry.total_bytes()).unwrap();
        (Arc::new(map), geometry)
    }

    #[test]
    fn frames_arrive_in_order_across_many_wraps() {
        let (map, geometry) = pair();
        let mut sender = SubmissionSender::new(map.clone(), &geometry);
        let mut receiver = SubmissionReceiver::new(map, &geometry);
        let mut out = Vec::new();
        let mut expected = std::collections::VecDeque::new();
        for n in 0..5_000_usize {
            let frame = vec![u8::try_from(n % 251).unwrap(); (n * 37) % 900];
            while sender.push(&frame).unwrap().is_none() {
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
    fn a_revoked_record_is_skipped_and_a_claimed_one_cannot_be_revoked() {
        let (map, geometry) = pair();
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
    fn a_completion_gets_done_while_it_lies_there_and_not_when_it_was_taken() {
        let (map, geometry) = pair();
        let mut sender = CompletionSender::new(map.clone(), &geometry);
        let mut receiver = CompletionReceiver::new(map, &geometry);
        let ended = Completion {
            exchange: ExchangeId(7),
            kind: CompletionKind::Respond,
            end: true,
            done: false,
            text: false,
            more: false,
            status: 200,
            service: 0,
            slot: 0,
        };
        let mut frame = Vec::new();
        ended.encode(0, &Body::Inline(b""), &mut frame);
        let mut out = Vec::new();
        let first = sender.push_positioned(&frame).unwrap().unwrap();
        let second = sender.push_positioned(&frame).unwrap().unwrap();
        assert!(sender.mark_done(second));
        assert!(!sender.mark_done(second), "twice");
        for done in [false, true] {
            out.clear();
            assert_eq!(receiver.pop(&mut out).unwrap(), Some(frame.len()));
            assert_eq!(Completion::decode(&out).unwrap().head, Completion { done, ..ended });
        }
        assert!(!sender.mark_done(first) && !sender.mark_done(second));
        for _ in 0..200 {
            assert!(sender.push(&frame).unwrap());
            out.clear();
            assert_eq!(receiver.pop(&mut out).unwrap(), Some(frame.len()));
        }
        assert!(!sender.mark_done(first), "its record is another's");
    }

    #[test]
    fn what_the_sender_has_amended_and_nothing_else_is_done_for_the_receiver_across_many_wraps() {
        let (map, geometry) = pair();
        let mut sender = CompletionSender::new(map.clone(), &geometry);
        let mut receiver = CompletionReceiver::new(map, &geometry);
        let (mut frame, mut out) = (Vec::new(), Vec::new());
        // By exchange: where it was placed, and whether that was amended.
        let mut placed: Vec<(Position, bool)> = Vec::new();
        let (mut popped, mut n_done, mut n_late) = (0, 0, 0);
        for step in 0..40_000_usize {
            // A sequence without a short period.
            let choice = step * step % 1009;
            if choice % 3 == 0 && popped < placed.len() {
                out.clear();
                assert!(receiver.pop(&mut out).unwrap().is_some());
                let head = Completion::decode(&out).unwrap().head;
                assert_eq!((head.exchange.0, head.done), (popped as u64, placed[popped].1));
                n_done += usize::from(head.done);
                popped += 1;
            } else if choice % 3 == 1 && !placed.is_empty() {
                let back = choice % 60;
                let Some(at) = placed.len().checked_sub(back + 1) else { continue };
                let (position, amended) = placed[at];
                let could = sender.mark_done(position);
                assert_eq!(could, at >= popped && !amended, "exchange {at} of {}", placed.len());
                placed[at].1 |= could;
                n_late += usize::from(at < popped);
            } else {
                let ended = Completion {
                    exchange: ExchangeId(placed.len() as u64),
                    kind: CompletionKind::Body,
                    end: true,
                    done: false,
                    text: false,
                    more: false,
                    status: 0,
                    service: 0,
                    slot: 0,
                };
                // Bodies that look like the state of a record that can be amended, wherever it is looked for.
                let body = state::READY.to_le_bytes().repeat(choice % 97);
                ended.encode(0, &Body::Inline(&body), &mut frame);
                frame.extend_from_slice(&body);
                if let Some(position) = sender.push_positioned(&frame).unwrap() {
                    placed.push((position, false));
                }
            }
        }
        assert!(popped > 1000 && n_done > 100 && n_late > 100, "{popped} {n_done} {n_late}");
    }

    #[test]
    fn there_is_room_exactly_when_a_frame_can_be_pushed() {
        let (map, geometry) = pair();
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

    #[test]
    fn a_position_whose_record_was_overwritten_is_not_revoked() {
        let (map, geometry) = pair();
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
    fn impossible_heads_and_lengths_are_errors() {
        let (map, geometry) = pair();
        let head = Geometry::word(Word::CompletionHead);
        let mut out = Vec::new();
        for value in [u64::MAX, 4097, 8192, 7] {
            map.u64(head).store(value, Ordering::Release);
            let mut receiver = CompletionReceiver::new(map.clone(), &geometry);
            assert!(matches!(receiver.pop(&mut out), Err(ProtocolError::Position { .. })), "{value}");
        }
        map.u64(head).store(64, Ordering::Release);
        for len in [u32::MAX, 57, 4096] {
            map.u32(geometry.completion_offset()).store(len, Ordering::Release);
            let mut receiver = CompletionReceiver::new(map.clone(), &geometry);
            assert!(matches!(receiver.pop(&mut out), Err(ProtocolError::RecordLength { .. })), "{len}");
        }
        assert!(out.is_empty());
    }

    #[test]
    fn a_tail_that_moves_back_or_beyond_the_head_is_an_error() {
        let (map, geometry) = pair();
        let mut sender = SubmissionSender::new(map.clone(), &geometry);
        while sender.push(&[0; 1000]).unwrap().is_some() {}
        map.u64(Geometry::word(Word::SubmissionTail)).store(1 << 40, Ordering::Release);
        assert!(matches!(sender.push(&[0; 1000]), Err(ProtocolError::Position { which: "tail", .. })));
    }
}
