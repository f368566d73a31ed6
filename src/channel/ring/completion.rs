//! Both ends of the completion ring: the worker sends responses, the daemon pops them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Position, Ring, record_size};
use crate::ProtocolError;
use crate::frame;
use crate::layout::{Geometry, RECORD_ALIGN};
use crate::map::Map;
use crate::state;

/// Worker's end of the completion ring.
#[derive(Debug)]
pub struct CompletionSender {
    ring: Ring,
    head: u64,
    tail: u64,
}

impl CompletionSender {
    /// Creates the worker's end over a new map.
    pub fn new(map: Arc<Map>, geometry: &Geometry) -> Self {
        Self { ring: Ring::completion(map, geometry), head: 0, tail: 0 }
    }

    /// Publishes a frame. Returns false if there is no room now; the caller then waits on
    /// [`Word::SpaceWait`](crate::layout::Word).
    ///
    /// # Errors
    /// The daemon's tail is impossible.
    ///
    /// # Panics
    /// If the frame is longer than [`Geometry::max_completion_frame`].
    pub fn push(&mut self, frame: &[u8]) -> Result<bool, ProtocolError> {
        Ok(self.push_positioned(frame)?.is_some())
    }

    /// Pushes like [`CompletionSender::push`], and returns the position for
    /// [`CompletionSender::mark_done`].
    ///
    /// # Errors
    /// As [`CompletionSender::push`].
    pub fn push_positioned(&mut self, frame: &[u8]) -> Result<Option<Position>, ProtocolError> {
        self.ring.push(&mut self.head, &mut self.tail, [frame, &[]], state::READY)
    }

    /// Adds DONE to a frame pushed with END. Returns false if the daemon has popped the frame: DONE
    /// then needs another frame.
    pub fn mark_done(&mut self, position: Position) -> bool {
        // A record that was overwritten meanwhile has been popped.
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
    /// Creates the daemon's end over a new map.
    pub fn new(map: Arc<Map>, geometry: &Geometry) -> Self {
        Self { ring: Ring::completion(map, geometry), tail: 0 }
    }

    /// Appends the next frame to `out` and returns its length; `None` if the ring is empty. The
    /// space is free at once; the caller notifies the worker ([`crate::wake::WaitFlag::notify`]).
    ///
    /// # Errors
    /// The worker's head or a length is impossible.
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

    /// True if there is nothing to pop. False for an impossible head, so that `pop` reports it.
    pub fn is_empty(&self) -> bool {
        self.ring.map.u64(self.ring.head).load(Ordering::Acquire) == self.tail
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Body, Completion, CompletionKind, ExchangeId};
    use crate::layout::Word;
    use crate::ring::tests::small_map;

    #[test]
    fn done_is_added_to_a_completion_until_it_is_popped() {
        let (map, geometry) = small_map();
        let mut sender = CompletionSender::new(map.clone(), &geometry);
        let mut receiver = CompletionReceiver::new(map, &geometry);
        let ended = Completion {
            exchange: ExchangeId(7),
            kind: CompletionKind::Respond,
            end: true,
            done: false,
            text: false,
            more: false,
            ends_takeover: false,
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
        assert!(!sender.mark_done(first), "its record was overwritten");
    }

    #[test]
    fn exactly_the_marked_completions_are_done_across_wraps() {
        let (map, geometry) = small_map();
        let mut sender = CompletionSender::new(map.clone(), &geometry);
        let mut receiver = CompletionReceiver::new(map, &geometry);
        let (mut frame, mut out) = (Vec::new(), Vec::new());
        // By exchange: the position of its frame, and whether it was marked done.
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
                let (position, was_marked) = placed[at];
                let is_marked = sender.mark_done(position);
                assert_eq!(is_marked, at >= popped && !was_marked, "exchange {at} of {}", placed.len());
                placed[at].1 |= is_marked;
                n_late += usize::from(at < popped);
            } else {
                let ended = Completion {
                    exchange: ExchangeId(placed.len() as u64),
                    kind: CompletionKind::Body,
                    end: true,
                    done: false,
                    text: false,
                    more: false,
                    ends_takeover: false,
                    status: 0,
                    service: 0,
                    slot: 0,
                };
                // Bodies of READY words: a state word read at a wrong offset would look markable.
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
    fn impossible_heads_and_lengths_are_errors() {
        let (map, geometry) = small_map();
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
}
