//! Stream frames on their way into a worker's submission ring.
//!
//! When the ring is full, the [`Outbox`] keeps frames in order. It keeps no parts of bodies, only
//! the wakers of the tasks that send them.

use std::collections::VecDeque;
use std::task::Waker;

use rgun_channel::frame::StreamFrame;
use rgun_channel::ring::{Position, SubmissionSender};

use crate::dispatch::exchange::body::MAX_PART;
use crate::dispatch::worker::contract::ContractBreach;

/// Bytes that a frame adds to its part.
const PART_OVERHEAD: usize = 32;

/// Frames and senders that wait for room in the ring.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// The encoder's buffer.
    frame: Vec<u8>,
    /// Frames that wait for room.
    backlog: VecDeque<Vec<u8>>,
    /// Senders of parts that wait for room.
    wakers: Vec<Waker>,
    /// The last record in the ring, whether a request or a stream frame.
    last_published: Option<Position>,
    /// Number of records published since the worker was last woken.
    pub(super) n_unrung: u32,
    /// The number of them that are parts of bodies.
    pub(super) n_unrung_parts: u32,
}

impl Outbox {
    /// Notes a record that was pushed into the ring.
    pub(super) fn note_published(&mut self, position: Position) {
        self.last_published = Some(position);
        self.n_unrung += 1;
    }

    /// Pushes a frame, or keeps it until there is room.
    pub(super) fn send(&mut self, submissions: &mut SubmissionSender, stream_frame: &StreamFrame<'_>) {
        let mut frame = std::mem::take(&mut self.frame);
        stream_frame.encode(&mut frame);
        // The error of a corrupt ring is returned to the next caller that pushes.
        if self.backlog.is_empty()
            && let Ok(Some(position)) = submissions.push(&frame)
        {
            self.note_published(position);
        } else {
            self.backlog.push_back(frame.clone());
        }
        self.frame = frame;
    }

    /// Pushes a part and returns true, or returns false and wakes `waker` when there is room.
    pub(super) fn send_part(
        &mut self,
        submissions: &mut SubmissionSender,
        part: &StreamFrame<'_>,
        waker: &Waker,
    ) -> Result<bool, ContractBreach> {
        if self.backlog.is_empty() {
            let mut head = std::mem::take(&mut self.frame);
            let payload = part.encode_head(&mut head);
            let pushed = submissions.push_split(&head, payload);
            self.frame = head;
            if let Some(position) = pushed? {
                self.note_published(position);
                self.n_unrung_parts += 1;
                return Ok(true);
            }
        }
        if !self.wakers.iter().any(|other| other.will_wake(waker)) {
            self.wakers.push(waker.clone());
        }
        Ok(false)
    }

    /// Returns whether frames or senders wait for room.
    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty() || !self.wakers.is_empty()
    }

    /// Pushes the frames for which there is room now. Returns whether a sender of parts was woken.
    pub(super) fn flush(&mut self, submissions: &mut SubmissionSender) -> Result<bool, ContractBreach> {
        while let Some(frame) = self.backlog.front() {
            let Some(position) = submissions.push(frame)? else { return Ok(false) };
            self.backlog.pop_front();
            self.note_published(position);
        }
        let has_room = submissions.check_room(PART_OVERHEAD + MAX_PART)?;
        if !has_room || self.wakers.is_empty() {
            return Ok(false);
        }
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
        Ok(true)
    }

    /// Returns the last record, unless the worker has consumed it. The worker must consume revoked
    /// records, too.
    pub(super) fn last_unread(&self, submissions: &SubmissionSender) -> Option<Position> {
        self.last_published.filter(|last| !submissions.is_consumed(*last))
    }
}
