//! The records that follow a request through its worker's submission ring, and whether the worker takes them.
//!
//! When the ring is full, parts of bodies wait at their senders, and other records wait here, in order. An event loop
//! that is blocked takes none of them: [`Outbox::pulse`] reports it.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::{Duration, Instant};

use rgun_channel::frame::{ExchangeId, StreamFrame};
use rgun_channel::ring::{Position, SubmissionSender};

use crate::dispatch::exchange::body::PART;

/// Bytes of a frame around a part.
const PART_HEAD: usize = 32;

/// What waits to be said, and since when nothing is heard.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    frame: Vec<u8>,
    /// Frames for which there was no room.
    waiting: VecDeque<Vec<u8>>,
    /// Of those that have parts, for which there was none.
    wakers: Vec<Waker>,
    /// The record that was published last, of whatever kind.
    last: Option<Position>,
    /// Records published since the doorbell was last rung.
    pub(crate) unrung: u32,
    /// A record that the event loop has to come to, and when it was first seen to be there.
    watched: Option<(Position, Instant)>,
    /// How often its silence has been told.
    told: u8,
    /// When there was last a sign of it.
    heard: Option<Instant>,
}

/// How an event loop does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pulse {
    /// It turns, or was told of already.
    Fine,
    /// It has not turned for `timeouts.stall`.
    Stalled(Duration),
    /// Nor for as long again.
    Stuck(Duration),
}

/// No exchange has this id: what is said of it is passed over, but it has to be read for that.
const NOBODY: ExchangeId = ExchangeId(0);

impl Outbox {
    /// Notes a record that has been pushed into the ring.
    pub(crate) fn published(&mut self, position: Position) {
        self.last = Some(position);
        self.unrung += 1;
    }

    /// Pushes the record, or keeps it until there is room.
    pub(crate) fn say(&mut self, submissions: &mut SubmissionSender, later: &StreamFrame<'_>) {
        let mut frame = std::mem::take(&mut self.frame);
        later.encode(&mut frame);
        // A broken ring is found out by whoever pushes next.
        if self.waiting.is_empty()
            && let Ok(Some(position)) = submissions.push(&frame)
        {
            self.published(position);
        } else {
            self.waiting.push_back(frame.clone());
        }
        self.frame = frame;
    }

    /// Pushes a part and returns true, or returns false and wakes `waker` when there is room.
    pub(crate) fn say_part(
        &mut self,
        submissions: &mut SubmissionSender,
        part: &StreamFrame<'_>,
        waker: &Waker,
    ) -> Result<bool, String> {
        if self.waiting.is_empty() {
            let mut frame = std::mem::take(&mut self.frame);
            part.encode(&mut frame);
            let pushed = submissions.push(&frame);
            self.frame = frame;
            if let Some(position) = pushed.map_err(|broken| broken.to_string())? {
                self.published(position);
                return Ok(true);
            }
        }
        if !self.wakers.iter().any(|other| other.will_wake(waker)) {
            self.wakers.push(waker.clone());
        }
        Ok(false)
    }

    /// Is something to be said for which there was no room?
    pub(crate) fn has_more_to_say(&self) -> bool {
        !self.waiting.is_empty() || !self.wakers.is_empty()
    }

    /// Pushes the records for which there is room now. Returns whether a sender of parts was woken.
    pub(crate) fn say_more(&mut self, submissions: &mut SubmissionSender) -> Result<bool, String> {
        while let Some(frame) = self.waiting.front() {
            let pushed = submissions.push(frame).map_err(|broken| broken.to_string())?;
            let Some(position) = pushed else { return Ok(false) };
            self.waiting.pop_front();
            self.published(position);
        }
        let has_room = submissions.check_room(PART_HEAD + PART).map_err(|broken| broken.to_string())?;
        if !has_room || self.wakers.is_empty() {
            return Ok(false);
        }
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
        Ok(true)
    }

    /// Returns whether the event loop has yet to take a certain record.
    pub(crate) fn is_watching(&self) -> bool {
        self.watched.is_some()
    }

    /// Returns the state of the event loop. Call it repeatedly while the worker has exchanges. `progress` is when it last
    /// finished one.
    pub(crate) fn pulse(
        &mut self,
        submissions: &mut SubmissionSender,
        stall: Duration,
        progress: Instant,
        now: Instant,
    ) -> Pulse {
        let silence = match self.watched {
            Some((position, since)) if !submissions.is_consumed(position) => {
                now.saturating_duration_since(since)
            }
            _ => {
                self.watched = self.lying(submissions).map(|last| (last, now));
                self.told = 0;
                if self.watched.is_some() {
                    self.heard = Some(now);
                    return Pulse::Fine;
                }
                // Nothing lies there. Exchanges that wait for something say nothing either: it is asked.
                let heard = *self.heard.get_or_insert(now);
                if now.saturating_duration_since(heard.max(progress)) > stall / 2 {
                    self.heard = Some(now);
                    self.say(
                        submissions,
                        &StreamFrame::Disconnect { exchange: NOBODY, code: 0, reason: b"", cancel: false },
                    );
                }
                return Pulse::Fine;
            }
        };
        match self.told {
            0 if silence >= stall => {
                self.told = 1;
                Pulse::Stalled(silence)
            }
            1 if silence >= stall * 2 => {
                self.told = 2;
                Pulse::Stuck(silence)
            }
            _ => Pulse::Fine,
        }
    }

    /// The last record, unless the event loop has come past it; one that was taken back is still to be passed.
    fn lying(&self, submissions: &SubmissionSender) -> Option<Position> {
        self.last.filter(|last| !submissions.is_consumed(*last))
    }
}
