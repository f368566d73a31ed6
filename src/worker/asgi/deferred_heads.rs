//! Heads that wait for their bodies.
//!
//! An answer whose body follows its head at once is one frame, and one write of the daemon's. Of one whose body takes
//! its time (a stream of events) the client is to have the head meanwhile. *At once* is before the loop has gone round
//! [`MAX_ITERATIONS`] times. So the turn that finds a head puts one of its own at the end of the loop's queue, behind whatever
//! the application has put there, and that one sends it, or goes to the end once more.
//!
//! An answer that is sent without a pause costs a push and a pop here: when its body comes, its head is the last one.

use rgun_channel::frame::ExchangeId;

/// Exchanges whose heads are here. Some of them may have had their bodies since, or be over.
#[derive(Debug, Default)]
pub(super) struct DeferredHeads {
    /// No turn finds them yet.
    unscheduled: Vec<ExchangeId>,
    /// They are sent when the loop has gone round: a turn is scheduled for that if there are any.
    scheduled: Vec<ExchangeId>,
    /// How often it still has to.
    iterations_left: u8,
}

/// From the head of a small answer to its body, which it passes between tasks, Starlette's `BaseHTTPMiddleware` needs one
/// round of the loop; several, one around the other, need two.
const MAX_ITERATIONS: u8 = 2;

impl DeferredHeads {
    pub(super) fn push(&mut self, id: ExchangeId) {
        self.unscheduled.push(id);
    }

    /// Its head goes now.
    pub(super) fn remove(&mut self, id: ExchangeId) {
        if self.unscheduled.last() == Some(&id) {
            self.unscheduled.pop();
        }
    }

    /// True if a turn is to be scheduled. While there is one, those that come later wait for the next.
    pub(super) fn begin_wait(&mut self) -> bool {
        if self.unscheduled.is_empty() || !self.scheduled.is_empty() {
            return false;
        }
        std::mem::swap(&mut self.scheduled, &mut self.unscheduled);
        self.iterations_left = MAX_ITERATIONS;
        true
    }

    /// That turn could not be scheduled.
    pub(super) fn cancel_wait(&mut self) {
        self.unscheduled.append(&mut self.scheduled);
    }

    /// The loop has gone round: those for which that was the last time.
    pub(super) fn take_due(&mut self) -> Vec<ExchangeId> {
        self.iterations_left = self.iterations_left.saturating_sub(1);
        if self.iterations_left == 0 { std::mem::take(&mut self.scheduled) } else { Vec::new() }
    }

    /// Has it to go round once more?
    pub(super) fn has_scheduled(&self) -> bool {
        !self.scheduled.is_empty()
    }
}
