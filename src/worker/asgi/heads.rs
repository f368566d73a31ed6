//! Heads that wait for their bodies.
//!
//! An answer whose body follows its head at once is one frame, and one write of the daemon's. Of one whose body takes
//! its time (a stream of events) the client is to have the head meanwhile. *At once* is before the loop has gone round
//! [`ROUNDS`] times. So the turn that finds a head puts one of its own at the end of the loop's queue, behind whatever
//! the application has put there, and that one sends it, or goes to the end once more.
//!
//! An answer that is sent without a pause costs a push and a pop here: when its body comes, its head is the last one.

use rgun_channel::frame::ExchangeId;

/// Exchanges whose heads are here. Some of them may have had their bodies since, or be over.
#[derive(Debug, Default)]
pub(super) struct Heads {
    /// No turn finds them yet.
    new: Vec<ExchangeId>,
    /// They are sent when the loop has gone round: a turn is scheduled for that if there are any.
    due: Vec<ExchangeId>,
    /// How often it still has to.
    rounds: u8,
}

/// From the head of a small answer to its body, which it passes between tasks, Starlette's `BaseHTTPMiddleware` needs one
/// round of the loop; several, one around the other, need two.
const ROUNDS: u8 = 2;

impl Heads {
    pub(super) fn push(&mut self, id: ExchangeId) {
        self.new.push(id);
    }

    /// Its head goes now.
    pub(super) fn remove(&mut self, id: ExchangeId) {
        if self.new.last() == Some(&id) {
            self.new.pop();
        }
    }

    /// True if a turn is to be scheduled. While there is one, those that come later wait for the next.
    pub(super) fn begin_rounds(&mut self) -> bool {
        if self.new.is_empty() || !self.due.is_empty() {
            return false;
        }
        std::mem::swap(&mut self.due, &mut self.new);
        self.rounds = ROUNDS;
        true
    }

    /// That turn could not be scheduled.
    pub(super) fn break_off_rounds(&mut self) {
        self.new.append(&mut self.due);
    }

    /// The loop has gone round: those for which that was the last time.
    pub(super) fn take_due(&mut self) -> Vec<ExchangeId> {
        self.rounds = self.rounds.saturating_sub(1);
        if self.rounds == 0 { std::mem::take(&mut self.due) } else { Vec::new() }
    }

    /// Has it to go round once more?
    pub(super) fn is_waiting(&self) -> bool {
        !self.due.is_empty()
    }
}
