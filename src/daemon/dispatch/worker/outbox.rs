//! The records that follow a request through its worker's submission ring, and whether the worker takes them.
//!
//! When the ring is full, parts of bodies wait at their senders, and other records wait here, in order. An event loop
//! that is blocked takes none of them: [`Outbox::pulse`] reports it.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::{Duration, Instant};

use rgun_channel::frame::{ExchangeId, StreamFrame};
use rgun_channel::ring::{Position, SubmissionSender};

use crate::dispatch::exchange::body::MAX_PART;

/// Bytes of a frame around a part.
const PART_OVERHEAD: usize = 32;

/// What waits to be said, and since when nothing is heard.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    frame: Vec<u8>,
    /// Frames for which there was no room.
    backlog: VecDeque<Vec<u8>>,
    /// Of those that have parts, for which there was none.
    wakers: Vec<Waker>,
    /// The record that was published last, of whatever kind.
    last_published: Option<Position>,
    /// Records published since the doorbell was last rung.
    pub(crate) unrung: u32,
    /// A record that the event loop has to come to, and when it was first seen to be there.
    watched: Option<(Position, Instant)>,
    /// How often its silence has been told.
    n_reported: u8,
    /// When there was last a sign of it.
    last_sign: Option<Instant>,
}

/// How an event loop does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoopHealth {
    /// It turns, or was told of already.
    Healthy,
    /// It has not turned for `timeouts.stall`.
    Stalled(Duration),
    /// Nor for as long again.
    Stuck(Duration),
}

/// No exchange has this id: what is said of it is passed over, but it has to be read for that.
const PING_EXCHANGE: ExchangeId = ExchangeId(0);

impl Outbox {
    /// Notes a record that has been pushed into the ring.
    pub(crate) fn note_published(&mut self, position: Position) {
        self.last_published = Some(position);
        self.unrung += 1;
    }

    /// Pushes the record, or keeps it until there is room.
    pub(crate) fn send(&mut self, submissions: &mut SubmissionSender, later: &StreamFrame<'_>) {
        let mut frame = std::mem::take(&mut self.frame);
        later.encode(&mut frame);
        // A broken ring is found out by whoever pushes next.
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
    pub(crate) fn send_part(
        &mut self,
        submissions: &mut SubmissionSender,
        part: &StreamFrame<'_>,
        waker: &Waker,
    ) -> Result<bool, String> {
        if self.backlog.is_empty() {
            let mut frame = std::mem::take(&mut self.frame);
            part.encode(&mut frame);
            let pushed = submissions.push(&frame);
            self.frame = frame;
            if let Some(position) = pushed.map_err(|broken| broken.to_string())? {
                self.note_published(position);
                return Ok(true);
            }
        }
        if !self.wakers.iter().any(|other| other.will_wake(waker)) {
            self.wakers.push(waker.clone());
        }
        Ok(false)
    }

    /// Is something to be said for which there was no room?
    pub(crate) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty() || !self.wakers.is_empty()
    }

    /// Pushes the records for which there is room now. Returns whether a sender of parts was woken.
    pub(crate) fn flush(&mut self, submissions: &mut SubmissionSender) -> Result<bool, String> {
        while let Some(frame) = self.backlog.front() {
            let pushed = submissions.push(frame).map_err(|broken| broken.to_string())?;
            let Some(position) = pushed else { return Ok(false) };
            self.backlog.pop_front();
            self.note_published(position);
        }
        let has_room =
            submissions.check_room(PART_OVERHEAD + MAX_PART).map_err(|broken| broken.to_string())?;
        if !has_room || self.wakers.is_empty() {
            return Ok(false);
        }
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
        Ok(true)
    }

    /// Returns whether the event loop has yet to take a certain record.
    pub(crate) fn is_awaiting_loop(&self) -> bool {
        self.watched.is_some()
    }

    /// Returns the state of the event loop. Call it repeatedly while the worker has exchanges. `progress` is when it last
    /// finished one.
    pub(crate) fn check_loop(
        &mut self,
        submissions: &mut SubmissionSender,
        stall: Duration,
        progress: Instant,
        now: Instant,
    ) -> LoopHealth {
        let silence = match self.watched {
            Some((position, since)) if !submissions.is_consumed(position) => {
                now.saturating_duration_since(since)
            }
            _ => {
                self.watched = self.last_unread(submissions).map(|last| (last, now));
                self.n_reported = 0;
                if self.watched.is_some() {
                    self.last_sign = Some(now);
                    return LoopHealth::Healthy;
                }
                // Nothing lies there. Exchanges that wait for something say nothing either: it is asked.
                let heard = *self.last_sign.get_or_insert(now);
                if now.saturating_duration_since(heard.max(progress)) > stall / 2 {
                    self.last_sign = Some(now);
                    self.send(
                        submissions,
                        &StreamFrame::Disconnect {
                            exchange: PING_EXCHANGE,
                            code: 0,
                            reason: b"",
                            cancel: false,
                        },
                    );
                }
                return LoopHealth::Healthy;
            }
        };
        match self.n_reported {
            0 if silence >= stall => {
                self.n_reported = 1;
                LoopHealth::Stalled(silence)
            }
            1 if silence >= stall * 2 => {
                self.n_reported = 2;
                LoopHealth::Stuck(silence)
            }
            _ => LoopHealth::Healthy,
        }
    }

    /// The last record, unless the event loop has come past it; one that was taken back is still to be passed.
    fn last_unread(&self, submissions: &SubmissionSender) -> Option<Position> {
        self.last_published.filter(|last| !submissions.is_consumed(*last))
    }
}
