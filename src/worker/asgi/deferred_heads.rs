//! Response heads that wait for their bodies.
//!
//! A response whose body follows its head at once takes one frame, and one write by the daemon. If
//! the body is late (an event stream), the head is sent alone after a *wait* of [`MAX_ITERATIONS`]
//! iterations of the event loop. To count them, a tick schedules another tick at the end of the
//! loop's queue, behind the callbacks of the application.
//!
//! A response that is sent without a pause costs one push and one pop here: when its body comes,
//! its head is the last in the list.

use rgun_channel::frame::ExchangeId;

/// Exchanges with deferred heads. Some of them may meanwhile have sent their bodies, or have ended.
#[derive(Debug, Default)]
pub(super) struct DeferredHeads {
    /// Heads that were deferred since the last wait began.
    unscheduled: Vec<ExchangeId>,
    /// Heads that are sent at the end of the current wait. If there are any, a tick is scheduled.
    scheduled: Vec<ExchangeId>,
    /// Iterations of the loop until the end of the current wait.
    iterations_left: u8,
}

/// Maximum number of loop iterations between a head and its body. Starlette's `BaseHTTPMiddleware`
/// passes the body between tasks, which takes one iteration; two nested middlewares take two.
const MAX_ITERATIONS: u8 = 2;

impl DeferredHeads {
    /// Defers a head.
    pub(super) fn push(&mut self, id: ExchangeId) {
        self.unscheduled.push(id);
    }

    /// Removes a head that is about to be sent, if it is the last in the list. A sent head that
    /// stays in the list is skipped when its wait ends.
    pub(super) fn remove(&mut self, id: ExchangeId) {
        if self.unscheduled.last() == Some(&id) {
            self.unscheduled.pop();
        }
    }

    /// Starts a wait if there are new heads and no wait is running. Returns whether a wait
    /// was started; the caller then schedules a tick.
    pub(super) fn begin_wait(&mut self) -> bool {
        if self.unscheduled.is_empty() || !self.scheduled.is_empty() {
            return false;
        }
        std::mem::swap(&mut self.scheduled, &mut self.unscheduled);
        self.iterations_left = MAX_ITERATIONS;
        true
    }

    /// Ends the wait without sending, because the tick could not be scheduled.
    pub(super) fn cancel_wait(&mut self) {
        self.unscheduled.append(&mut self.scheduled);
    }

    /// Counts an iteration of the loop. Takes the heads to send if this was the last iteration.
    pub(super) fn take_due(&mut self) -> Vec<ExchangeId> {
        self.iterations_left = self.iterations_left.saturating_sub(1);
        if self.iterations_left == 0 { std::mem::take(&mut self.scheduled) } else { Vec::new() }
    }

    /// Returns whether the wait continues, so that another tick is needed.
    pub(super) fn has_scheduled(&self) -> bool {
        !self.scheduled.is_empty()
    }
}
