//! Heads that wait for their bodies.
//!
//! An answer whose body follows its head at once is one frame, and one write of the daemon's. Of one whose body takes
//! its time (a stream of events) the client is to have the head meanwhile. *At once* is before the loop has gone round
//! once: frameworks that pass messages between tasks (Starlette's `BaseHTTPMiddleware`) need a round from the head to the
//! body. So the turn that finds a head puts one of its own at the end of the loop's queue, behind whatever the application
//! has put there, and that one sends it.
//!
//! An answer that is sent without a pause costs a push and a pop here: when its body comes, its head is the last one.

use pyo3::prelude::*;
use rgun_channel::Broken;
use rgun_channel::frame::ExchangeId;

use super::Application;
use super::exchange::{Carried, Stage, State};

/// Exchanges whose heads are here. Some of them may have had their bodies since, or be over.
#[derive(Debug, Default)]
pub(super) struct Heads {
    /// No turn finds them yet.
    new: Vec<ExchangeId>,
    /// They are sent when the loop has gone round: a turn is scheduled for that if there are any.
    due: Vec<ExchangeId>,
}

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
    pub(super) fn begin_round(&mut self) -> bool {
        if self.new.is_empty() || !self.due.is_empty() {
            return false;
        }
        std::mem::swap(&mut self.due, &mut self.new);
        true
    }

    /// That turn could not be scheduled.
    pub(super) fn break_off_round(&mut self) {
        self.new.append(&mut self.due);
    }
}

impl Application {
    /// The loop has gone round: sends the heads for which no body has come.
    pub(super) fn send_heads(&self, py: Python<'_>) -> Result<(), Broken> {
        let due = std::mem::take(&mut self.exchanges(py).heads.due);
        for id in due {
            let Some(exchange) = self.exchange(py, id) else { continue };
            exchange.get().borrow_mut(py).send_head(py)?;
        }
        Ok(())
    }
}

impl State {
    /// Sends the head alone.
    fn send_head(&mut self, py: Python<'_>) -> Result<(), Broken> {
        if self.stage != Stage::Prepared || self.is_head_sent || self.is_disconnected {
            return Ok(());
        }
        let has_all = matches!(self.head.status, 204 | 304) || self.head.length == Some(0);
        // The client of a HEAD has all of it, too. But what its application would send may have no end, so the daemon is
        // left to tell it that nobody listens.
        self.is_head_all = has_all && !self.is_head && !self.has_trailers;
        self.send_inline(py, &[], Carried::Body { end: self.is_head_all })
    }
}
