//! Completions on their way to the ring: in order, without ever blocking the event loop.
//!
//! Frames go into the ring while it has room. One that finds none waits here, and all that come later behind it, until
//! the daemon says that it has taken some. What waits is bounded: an exchange whose frame waits sends no body before it
//! has gone ([`super::response`]).

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rgun_channel::ProtocolError;
use rgun_channel::ring::Position;

use crate::output::{MAX_WAKEUP_DELAY_NS, Output};
use crate::python::lock;

/// Frames that wait.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    frames: Mutex<VecDeque<Vec<u8>>>,
    /// There are some. Only the loop's thread writes it.
    is_backed_up: AtomicBool,
    /// Since when nobody may have rung for what was pushed; 0: nothing was.
    unannounced_since: AtomicU64,
    /// When the last answer ended, by a clock that ticks every few milliseconds.
    last_end_tick: AtomicU64,
}

impl Outbox {
    /// Has a frame to wait?
    pub(super) fn is_backed_up(&self) -> bool {
        self.is_backed_up.load(Ordering::Relaxed)
    }

    /// Between two exchanges that begin: rings if what the earlier ones have sent has waited for long enough.
    pub(super) fn wake_if_overdue(&self, output: &Output, now: u64) {
        match self.unannounced_since.load(Ordering::Relaxed) {
            0 => self.unannounced_since.store(now, Ordering::Relaxed),
            since if now.saturating_sub(since) > MAX_WAKEUP_DELAY_NS => {
                output.wake_daemon();
                self.unannounced_since.store(now, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    /// An answer has ended: rings if it is alone. There is little to be gained by waiting for company, and much to be lost
    /// if the application now keeps the loop from coming to the end of its turn: one that does is alone with each answer.
    /// (In a crowd the daemon is awake anyway, and sees what lies there.)
    pub(super) fn on_response_end(&self, output: &Output) {
        let tick = coarse_now();
        if self.last_end_tick.load(Ordering::Relaxed) != tick {
            self.last_end_tick.store(tick, Ordering::Relaxed);
            self.wake_daemon(output);
        }
    }

    /// Sends a frame, now or later: where it is in the ring if that was now. The doorbell is the turn's
    /// ([`super::tick`]).
    pub(super) fn push(&self, output: &Output, frame: &[u8]) -> Result<Option<Position>, ProtocolError> {
        if !self.is_backed_up()
            && let Some(position) = output.try_push(frame)?
        {
            return Ok(Some(position));
        }
        lock(&self.frames).push_back(frame.to_vec());
        self.is_backed_up.store(true, Ordering::Relaxed);
        self.flush(output)?;
        Ok(None)
    }

    /// Sends what waits; true if nothing does any more.
    pub(super) fn flush(&self, output: &Output) -> Result<bool, ProtocolError> {
        while let Some(frame) = self.pop() {
            if output.try_push(&frame)?.is_none() {
                // Announced, then looked at once more: either we see the room or the daemon sees us.
                output.space_flag().announce_wait();
                if output.try_push(&frame)?.is_none() {
                    lock(&self.frames).push_front(frame);
                    self.wake_daemon(output);
                    return Ok(false);
                }
            }
        }
        self.is_backed_up.store(false, Ordering::Relaxed);
        Ok(true)
    }

    fn pop(&self) -> Option<Vec<u8>> {
        lock(&self.frames).pop_front()
    }

    /// Wakes the daemon if it sleeps and there is something that it does not know of.
    pub(super) fn wake_daemon(&self, output: &Output) {
        self.unannounced_since.store(0, Ordering::Relaxed);
        output.wake_daemon();
    }
}

/// `CLOCK_MONOTONIC_COARSE`: the time of the kernel's last tick, for the price of reading it from memory.
fn coarse_now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
