//! What is true between any two events, whatever happened. The simulation asks after each step; `run` may in debug
//! builds.

use super::Supervisor;
use super::crew::Crew;
use super::fill::MOST_ZYGOTES;
use super::state::{Phase, State, Worker};

impl Supervisor {
    /// Whether the supervisor's memory is consistent with itself and with its promises.
    ///
    /// # Errors
    /// When it is not: which promise, and the state it was found in.
    pub fn check_invariants(&self) -> Result<(), String> {
        let broken = self
            .crews()
            .find_map(|crew| self.broken_crew(crew))
            .or_else(|| self.workers.values().find_map(|worker| self.broken_worker(worker)))
            .or_else(|| self.broken_number())
            .or_else(|| self.broken_whole())
            .or_else(|| self.broken_reload());
        match broken {
            Some(what) => Err(format!("{what}: {self:#?}")),
            None => Ok(()),
        }
    }

    fn broken_crew(&self, crew: &Crew) -> Option<&'static str> {
        if crew.min > crew.max || crew.target < crew.min || crew.target > crew.max || crew.min == 0 {
            return Some("a number of workers the operator does not want");
        }
        if usize::from(crew.max) > crew.seats.len() {
            return Some("more workers than seats");
        }
        for (idx, seat) in crew.seats.iter().enumerate() {
            if seat.current.is_some() && idx >= crew.wanted() {
                return Some("a seat that is closed is held");
            }
            if seat.successor.is_some() && seat.current.is_none() {
                return Some("a successor of nobody");
            }
            for life in seat.current.into_iter().chain(seat.successor) {
                match self.workers.get(&life) {
                    Some(worker) if usize::from(worker.id.number.0) != idx || worker.is_zygote() => {
                        return Some("a seat is held by a worker of another number");
                    }
                    Some(worker) if worker.generation != crew.generation => {
                        return Some("a seat is held by a worker of another generation");
                    }
                    Some(worker) if worker.is_current() => {}
                    Some(_) => return Some("a seat is held by a worker that is on its way out"),
                    None => return Some("a seat is held by a life that is over"),
                }
            }
            let worker = |life| self.workers.get(&life);
            if seat.successor.and_then(worker).is_some_and(|worker| !worker.is_booting()) {
                return Some("a successor that does not take over");
            }
        }
        let zygote = crew.zygote.as_ref().and_then(|place| place.current);
        match zygote.map(|life| self.workers.get(&life)) {
            None => None,
            Some(Some(worker)) if worker.is_zygote() && (worker.is_booting() || worker.is_standby()) => None,
            Some(_) => Some("the zygote is not one"),
        }
    }

    fn broken_worker(&self, worker: &Worker) -> Option<&'static str> {
        let life = worker.id.life;
        if life >= self.next_life {
            return Some("a life that was never given out");
        }
        let crew = self.crew(worker.generation);
        let holds = |crew: &Crew| {
            let mut places = crew.seats.iter().chain(crew.zygote.as_ref());
            places.any(|seat| seat.current == Some(life) || seat.successor == Some(life))
        };
        if worker.is_current() && !crew.is_some_and(holds) {
            return Some("a worker serves, boots or stands by without a place");
        }
        if worker.is_ready() && worker.generation != self.live.generation {
            return Some("a worker serves for a generation that is not live");
        }
        let is_live = worker.generation == self.live.generation;
        if worker.is_standby() && is_live && !worker.is_zygote() {
            return Some("a worker of the live generation could serve and does not");
        }
        if worker.is_booting() && self.warm.as_ref().is_some_and(|w| w.crew.generation == worker.generation) {
            return Some("a worker boots for a generation that is kept warm");
        }
        let may_wait_for_ever = match worker.state {
            State::Ready | State::Standby => true,
            State::Spawning { .. } | State::Booting { .. } => {
                crew.is_some_and(|crew| crew.policy.boot.is_none())
            }
            // `run` owes the answer to `Spawn`.
            State::Killed { give_up_at: None, .. } => worker.pid.is_none(),
            // Its requests' limits move it on, as long as it serves the code that is live and can be asked to leave.
            State::Retiring { deadline: None, stuck } => !stuck && is_live,
            _ => worker.is_given_up(),
        };
        (!may_wait_for_ever && worker.deadline().is_none()).then_some("a worker that nothing moves on")
    }

    fn broken_number(&self) -> Option<&'static str> {
        // How many there may be in all is a question at each spawn: the limit shrinks with the last of a large crew.
        for crew in self.crews() {
            if self.n_workers(crew.generation) > 2 * crew.seats.len() {
                return Some("more processes of a generation than twice its count");
            }
            if self.n_zygotes(crew.generation) > MOST_ZYGOTES + 1 {
                return Some("too many zygotes");
            }
        }
        let booting = self.workers.values().filter(|worker| worker.is_booting());
        if !self.ever_ready && booting.count() > 1 {
            return Some("more than a canary before anybody was ready");
        }
        let successors = self.live.seats.iter().filter_map(|seat| seat.successor);
        if successors.count() > 1 {
            return Some("more than one worn-out worker is being replaced");
        }
        None
    }

    fn broken_whole(&self) -> Option<&'static str> {
        if self.anybody_ready() && (!self.ever_ready || self.outage.is_some() || self.probing) {
            return Some("somebody is ready and the daemon does not know");
        }
        if self.told_ready && !self.ever_ready {
            return Some("READY=1 before anybody was ready");
        }
        if let Some(clock) = self.clock
            && self.vacancy(clock).is_some()
        {
            let may_finish = self.anybody_ready();
            let is_going = |worker: &Worker| match worker.state {
                State::Retiring { deadline, stuck } => may_finish && !stuck && deadline.is_some(),
                _ => worker.is_dying() || worker.is_given_up(),
            };
            if self.has_room(self.live.generation) || !self.workers.values().any(is_going) {
                return Some("a vacancy that could be filled or made room for");
            }
        }
        if self.clock.is_some_and(|clock| self.lacks_zygote(clock)) {
            return Some("a zygote that could be made");
        }
        match self.phase {
            Phase::Idle if !self.workers.is_empty() => Some("a worker before the start"),
            Phase::Leaving if self.workers.values().any(Worker::is_current) => {
                Some("a worker that was not told to go")
            }
            Phase::Leaving if self.workers.values().all(Worker::is_given_up) => {
                Some("nobody is left and the daemon stays")
            }
            Phase::Over if !self.workers.values().all(Worker::is_given_up) => {
                Some("the daemon went before its workers")
            }
            _ => None,
        }
    }

    fn broken_reload(&self) -> Option<&'static str> {
        if self.coming.is_some() && self.warm.is_some() {
            return Some("three generations at a time");
        }
        let is_under_way = self.coming.is_some() || self.awaited.is_some() || self.warm.is_some();
        if is_under_way && !matches!(self.phase, Phase::Idle | Phase::Running) {
            return Some("a reload while the daemon stops");
        }
        if self.is_reloading && self.coming.is_none() && !self.told_stopping {
            return Some("RELOADING=1 and nothing is reloaded");
        }
        let has_limit = |worker: &Worker| !worker.is_lingering() && !worker.is_current();
        if let Some(coming) = &self.coming
            && coming.crew.open().any(|(_, seat)| seat.current.is_none())
            && !self.has_room(coming.crew.generation)
            && !self.workers.values().any(has_limit)
        {
            return Some("a reload without room that nobody makes");
        }
        if self.awaited.is_some() && self.ever_ready {
            return Some("somebody is ready, and who reloads is not told");
        }
        None
    }
}
