//! What an ASGI worker is told of exchanges that it has: parts of their bodies, that their clients are gone, that they
//! are cancelled. And whether it listens: an event loop that does not turn leaves all that lie.
//!
//! All of it goes through the submission ring. When that is full, parts wait where they come from, and the rest waits
//! here, in front of whatever is to be said later.

use std::collections::VecDeque;
use std::task::Waker;
use std::time::{Duration, Instant};

use rgun_channel::frame::{ExchangeId, Later};
use rgun_channel::ring::{Position, SubmissionSender};

use super::body::PART;
use super::exchange::Exchange;
use super::socket::ABNORMAL;
use super::worker::Worker;

/// Bytes of a frame around a part.
const PART_HEAD: usize = 32;

/// What waits to be said, and since when nothing is heard.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    frame: Vec<u8>,
    /// Frames for which there was no room.
    waiting: VecDeque<Vec<u8>>,
    /// Of those that have parts, for which there was none.
    wakers: Vec<Waker>,
    /// The record that was published last, of whatever kind.
    pub(super) last: Option<Position>,
    /// A record that the event loop has to come to, and when it was first seen to be there.
    watched: Option<(Position, Instant)>,
    /// How often its silence has been told.
    told: u8,
    /// When there was last a sign of it.
    heard: Option<Instant>,
}

/// How an event loop does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pulse {
    /// It turns, or was told of already.
    Fine,
    /// It has not turned for `timeouts.stall`.
    Stalled(Duration),
    /// Nor for as long again.
    Stuck(Duration),
}

impl Worker {
    /// Says it now, or as soon as there is room.
    pub(super) fn say(&mut self, later: &Later<'_>) {
        let mut frame = std::mem::take(&mut self.outbox.frame);
        later.encode(&mut frame);
        // A broken ring is found out by whoever pushes next.
        if self.outbox.waiting.is_empty()
            && let Ok(Some(position)) = self.submissions.push(&frame)
        {
            self.published(position);
        } else {
            self.outbox.waiting.push_back(frame.clone());
        }
        self.outbox.frame = frame;
    }

    /// Says a part, or has whoever brings it woken when there is room.
    pub(super) fn say_part(&mut self, part: &Later<'_>, waker: &Waker) -> Result<bool, String> {
        if self.outbox.waiting.is_empty() {
            let mut frame = std::mem::take(&mut self.outbox.frame);
            part.encode(&mut frame);
            let pushed = self.submissions.push(&frame);
            self.outbox.frame = frame;
            if let Some(position) = pushed.map_err(|broken| broken.to_string())? {
                self.published(position);
                return Ok(true);
            }
        }
        if !self.outbox.wakers.iter().any(|other| other.will_wake(waker)) {
            self.outbox.wakers.push(waker.clone());
        }
        Ok(false)
    }

    /// Is something to be said for which there was no room?
    pub(super) fn has_more_to_say(&self) -> bool {
        !self.outbox.waiting.is_empty() || !self.outbox.wakers.is_empty()
    }

    /// Says what there is room for now. True if somebody was woken to say more.
    pub(super) fn say_more(&mut self) -> Result<bool, String> {
        while let Some(frame) = self.outbox.waiting.front() {
            let pushed = self.submissions.push(frame).map_err(|broken| broken.to_string())?;
            let Some(position) = pushed else { return Ok(false) };
            self.outbox.waiting.pop_front();
            self.published(position);
        }
        let has_room = self.submissions.check_room(PART_HEAD + PART).map_err(|broken| broken.to_string())?;
        if !has_room || self.outbox.wakers.is_empty() {
            return Ok(false);
        }
        for waker in self.outbox.wakers.drain(..) {
            waker.wake();
        }
        Ok(true)
    }

    /// Nobody waits for the answer to this exchange any more: it is told so once, unless it has said everything.
    pub(super) fn tell_gone(&mut self, exchange: &mut Exchange) {
        let code = if exchange.websocket.is_some() { ABNORMAL } else { 0 };
        self.tell_disconnect(exchange, code, b"");
    }

    /// The same of a WebSocket that is closed with this code.
    pub(super) fn tell_disconnect(&mut self, exchange: &mut Exchange, code: u16, reason: &[u8]) {
        if self.is_asgi() && !exchange.has_ended() && !std::mem::replace(&mut exchange.told_gone, true) {
            self.say(&Later::Disconnect { exchange: exchange.id, code, reason, cancel: false });
        }
    }

    /// The time of this exchange is up: its task is to be cancelled.
    pub(super) fn cancel(&mut self, exchange: &mut Exchange) {
        exchange.told_gone = true;
        self.say(&Later::Disconnect { exchange: exchange.id, code: 0, reason: b"", cancel: true });
    }

    /// Is it to be asked for its pulse?
    pub(super) fn has_pulse(&self) -> bool {
        self.is_asgi() && (self.n_running() > 0 || self.n_sockets() > 0 || self.outbox.watched.is_some())
    }

    /// Does its event loop turn? To be asked again and again while it has exchanges.
    pub(super) fn pulse(&mut self, stall: Duration, now: Instant) -> Pulse {
        let silence = match self.outbox.watched {
            Some((position, since)) if !self.submissions.is_passed(position) => {
                now.saturating_duration_since(since)
            }
            _ => {
                self.outbox.watched = self.outbox.lying(&self.submissions).map(|last| (last, now));
                self.outbox.told = 0;
                if self.outbox.watched.is_some() {
                    self.outbox.heard = Some(now);
                    return Pulse::Fine;
                }
                // Nothing lies there. Exchanges that wait for something say nothing either: it is asked.
                let heard = *self.outbox.heard.get_or_insert(now);
                if now.saturating_duration_since(heard.max(self.progress())) > stall / 2 {
                    self.outbox.heard = Some(now);
                    self.say(&Later::Disconnect { exchange: NOBODY, code: 0, reason: b"", cancel: false });
                }
                return Pulse::Fine;
            }
        };
        match self.outbox.told {
            0 if silence >= stall => {
                self.outbox.told = 1;
                Pulse::Stalled(silence)
            }
            1 if silence >= stall * 2 => {
                self.outbox.told = 2;
                Pulse::Stuck(silence)
            }
            _ => Pulse::Fine,
        }
    }
}

/// No exchange has this id: what is said of it is passed over, but it has to be read for that.
const NOBODY: ExchangeId = ExchangeId(0);

impl Outbox {
    /// The last record, unless the event loop has come past it; one that was taken back is still to be passed.
    fn lying(&self, submissions: &SubmissionSender) -> Option<Position> {
        self.last.filter(|last| !submissions.is_passed(*last))
    }
}
