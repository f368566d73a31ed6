//! The queue before the completion ring: keeps frames in order and never blocks the event loop.
//!
//! Frames are pushed into the ring while it has space. When the ring is full, further frames wait
//! here until the daemon announces space. The queue is bounded: while it is not empty, no exchange
//! sends a part of its body ([`super::response`]).

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rgun_channel::ProtocolError;
use rgun_channel::ring::Position;

use crate::output::Output;
use crate::python::lock;

/// Frames that wait for ring space, and when to wake the daemon.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    frames: Mutex<VecDeque<Vec<u8>>>,
    /// `frames` is not empty. Written only by the loop's thread.
    is_backed_up: AtomicBool,
    /// Start of the first exchange since the daemon was last woken, `CLOCK_MONOTONIC`, nanoseconds;
    /// 0 for none.
    unannounced_since: AtomicU64,
    /// Time at which the last response ended, `CLOCK_MONOTONIC_COARSE`, nanoseconds.
    last_response_end: AtomicU64,
}

impl Outbox {
    /// Returns whether frames wait for ring space.
    pub(super) fn is_backed_up(&self) -> bool {
        self.is_backed_up.load(Ordering::Relaxed)
    }

    /// Wakes the daemon if frames may have waited longer than [`Output::wakeup_delay_ns`], unless the
    /// daemon waits for workers only and so reads the frames soon. Called at each start of an exchange.
    pub(super) fn wake_if_overdue(&self, output: &Output, now: u64) {
        match self.unannounced_since.load(Ordering::Relaxed) {
            0 => self.unannounced_since.store(now, Ordering::Relaxed),
            since if now.saturating_sub(since) > output.wakeup_delay_ns() => {
                if !output.is_daemon_waiting() {
                    output.wake_daemon();
                }
                self.unannounced_since.store(now, Ordering::Relaxed);
            }
            _ => {}
        }
    }

    /// Wakes the daemon at the end of a response, but only once in a period of the coarse clock.
    /// The other responses are left to the wake-up at the end of the loop's iteration. Under low
    /// load there is nothing to batch, and the application may block the loop; under high load the
    /// daemon is awake anyway. A daemon that waits for workers only is not woken: it reads the response
    /// within a few milliseconds.
    pub(super) fn on_response_end(&self, output: &Output) {
        let now = coarse_now();
        if self.last_response_end.load(Ordering::Relaxed) != now {
            self.last_response_end.store(now, Ordering::Relaxed);
            if !output.is_daemon_waiting() {
                self.wake_daemon(output);
            }
        }
    }

    /// Pushes a frame into the ring and returns its position, or queues it. Does not wake the
    /// daemon; the loop tick ([`super::tick`]) does so later.
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

    /// Pushes queued frames while there is space. Returns whether the queue is empty.
    pub(super) fn flush(&self, output: &Output) -> Result<bool, ProtocolError> {
        while let Some(frame) = self.pop() {
            if output.try_push(&frame)?.is_none() {
                // Tried again after the announcement: either this attempt sees the space, or the
                // daemon sees the announcement.
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

    /// Wakes the daemon if it sleeps and frames were pushed since the last call.
    pub(super) fn wake_daemon(&self, output: &Output) {
        self.unannounced_since.store(0, Ordering::Relaxed);
        output.wake_daemon();
    }
}

/// Returns `CLOCK_MONOTONIC_COARSE` in nanoseconds. The kernel advances this clock every few
/// milliseconds; reading it takes no system call.
fn coarse_now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
