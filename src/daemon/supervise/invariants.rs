//! What is true between any two events, whatever happened. The simulation asks after each step; `run` may in debug
//! builds.

use super::Supervisor;
use super::state::{Phase, State, Worker};

impl Supervisor {
    /// Whether the supervisor's memory is consistent with itself and with its promises.
    ///
    /// # Errors
    /// When it is not: which promise, and the state it was found in.
    pub fn check_invariants(&self) -> Result<(), String> {
        let broken = |what: &str| Err(format!("{what}: {self:#?}"));

        for (idx, seat) in self.seats.iter().enumerate() {
            let Some(life) = seat.current else { continue };
            match self.workers.get(&life) {
                Some(worker) if usize::from(worker.id.number.0) != idx => {
                    return broken("a seat is held by a worker of another number");
                }
                Some(worker) if worker.is_current() => {}
                Some(_) => return broken("a seat is held by a worker that is on its way out"),
                None => return broken("a seat is held by a life that is over"),
            }
        }
        for (life, worker) in &self.workers {
            if *life != worker.id.life || worker.id.life >= self.next_life {
                return broken("a life that was never given out");
            }
            let seat = self.seats.get(usize::from(worker.id.number.0));
            if worker.is_current() && seat.and_then(|seat| seat.current) != Some(*life) {
                return broken("a worker serves or boots without a seat");
            }
            let may_wait_for_ever = match worker.state {
                State::Ready => true,
                State::Spawning { .. } | State::Booting { .. } => self.policy.boot.is_none(),
                // `run` owes the answer to `Spawn`.
                State::Killed { give_up_at: None, .. } => worker.pid.is_none(),
                _ => worker.is_given_up(),
            };
            if !may_wait_for_ever && worker.deadline().is_none() {
                return broken("a worker that nothing moves on");
            }
        }

        if self.workers.len() > self.most_processes() {
            return broken("more processes than twice the count");
        }
        if !self.ever_ready && self.workers.values().filter(|worker| worker.is_booting()).count() > 1 {
            return broken("more than a canary before anybody was ready");
        }
        if self.anybody_ready() && (!self.ever_ready || self.outage.is_some() || self.probing) {
            return broken("somebody is ready and the daemon does not know");
        }
        if self.told_ready && !self.ever_ready {
            return broken("READY=1 before anybody was ready");
        }
        if let Some(clock) = self.clock
            && self.vacancy(clock).is_some()
        {
            let dying = self.workers.values().any(|worker| worker.is_dying() || worker.is_given_up());
            if self.workers.len() < self.most_processes() || !dying {
                return broken("a vacancy that could be filled or made room for");
            }
        }
        match self.phase {
            Phase::Idle if !self.workers.is_empty() => broken("a worker before the start"),
            Phase::Leaving if self.workers.values().any(Worker::is_current) => {
                broken("a worker that was not told to go")
            }
            Phase::Leaving if self.workers.values().all(Worker::is_given_up) => {
                broken("nobody is left and the daemon stays")
            }
            Phase::Over if !self.workers.values().all(Worker::is_given_up) => {
                broken("the daemon went before its workers")
            }
            _ => Ok(()),
        }
    }
}
