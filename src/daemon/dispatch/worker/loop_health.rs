//! Detects an event loop that does not run its callbacks: it leaves records unread in the
//! submission ring.

use std::time::{Duration, Instant};

use rgun_channel::frame::{ExchangeId, StreamFrame};
use rgun_channel::ring::{Position, SubmissionSender};

use crate::dispatch::worker::outbox::Outbox;

/// An id that no exchange has. The worker ignores a frame for it, but has to read the frame.
const PING_EXCHANGE: ExchangeId = ExchangeId(0);

/// The state of an event loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoopHealth {
    /// The loop runs, or was reported already.
    Healthy,
    /// The loop has not run for this long, more than `timeouts.stall`. Returned once.
    Stalled(Duration),
    /// The loop has not run for this long, more than twice `timeouts.stall`. Returned once.
    Stuck(Duration),
}

/// The watch over one event loop.
#[derive(Debug, Default)]
pub(crate) struct LoopWatch {
    /// A record that the loop has to read, and when it was first seen unread.
    watched: Option<(Position, Instant)>,
    /// Number of reports of the current stall.
    n_reported: u8,
    /// When an unread record was last found, or a ping was last sent; `None` before the first
    /// check.
    last_record_at: Option<Instant>,
}

impl LoopWatch {
    /// Returns whether a record is known to be unread.
    pub(super) fn is_waiting(&self) -> bool {
        self.watched.is_some()
    }

    /// Returns the state of the event loop. The caller repeats this while the worker has exchanges.
    /// `progress` is when the worker last finished one.
    pub(super) fn check(
        &mut self,
        outbox: &mut Outbox,
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
                self.watched = outbox.last_unread(submissions).map(|last| (last, now));
                self.n_reported = 0;
                if self.watched.is_some() {
                    self.last_record_at = Some(now);
                    return LoopHealth::Healthy;
                }
                // A loop whose exchanges all await an event publishes nothing, like a blocked one.
                // A ping distinguishes them.
                let last_record_at = *self.last_record_at.get_or_insert(now);
                if now.saturating_duration_since(last_record_at.max(progress)) > stall / 2 {
                    self.last_record_at = Some(now);
                    let (exchange, code, reason) = (PING_EXCHANGE, 0, &b""[..]);
                    let ping = StreamFrame::Disconnect { exchange, code, reason, cancel: false };
                    outbox.send(submissions, &ping);
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
}
