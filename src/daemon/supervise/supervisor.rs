//! The transition function: [`Supervisor::handle`], one event in, the actions it calls for out.
//!
//! After each event the same four steps put the whole in order: fill vacancies, leave when nobody is left, ask
//! systemd for time, tell what has changed. So an event handler only says what happened to one worker, and cannot
//! forget a consequence elsewhere.
//!
//! Decisions worth their reasons:
//! - **A canary first.** Until a worker has become ready, and again while nobody serves and boots fail, one seat
//!   boots at a time and all vacancies share its wait: an import error is told once, not by nine interpreters in
//!   chorus, and a database that comes back is not met by nine connections at the same instant.
//! - **At most twice `count` processes**, those on their way out included. A stuck worker does not hold its seat, so
//!   each seat may have a replacement beside it; when even those are stuck, the one that has been retiring longest
//!   is killed rather than a seat left empty for the rest of a drain timeout.
//! - **A failed start drains too**: who has connected meanwhile gets a 503 with the reason, not a reset.
//! - **Booting workers are killed, not asked, when the daemon leaves**: an importing interpreter reads no messages.
//!
//! A reload adds lives of a new generation beside the seats' current ones; what decides about a seat's next life is
//! [`Supervisor::fill`], and whatever retires one goes through [`Supervisor::retire`].

use std::collections::BTreeMap;
use std::mem;
use std::time::{Duration, Instant};

use super::event::{BootFailure, BootFailureKind, Event, Exit, SpawnFault};
use super::state::{Phase, Seat, State, Worker, after};
use super::{Action, Generation, Life, Origin, Policy, Report, WorkerId, WorkerNr};

/// Decides about workers and about the daemon's own start and end. See the module's text for what `run` owes it.
#[derive(Clone, Debug)]
pub struct Supervisor {
    pub(super) policy: Policy,
    pub(super) phase: Phase,
    pub(super) generation: Generation,
    /// One per worker that is to serve; the index is the worker number.
    pub(super) seats: Vec<Seat>,
    /// Every life that is not over, current or on its way out.
    pub(super) workers: BTreeMap<Life, Worker>,
    pub(super) next_life: Life,
    /// The latest instant seen. An event with an earlier one happens at this one.
    pub(super) clock: Option<Instant>,
    /// Some worker has been ready: the application can boot.
    pub(super) ever_ready: bool,
    /// A boot has failed while nobody was ready, and nobody has become ready since: one attempt at a time.
    pub(super) probing: bool,
    /// Why requests are answered 503 instead of queued; until a worker is ready.
    pub(super) outage: Option<String>,
    /// What to exit with, when that is not 0.
    pub(super) verdict: Option<Verdict>,
    /// The last boot failure reported since a worker became ready.
    told_failure: Option<BootFailure>,
    told_unavailable: Option<String>,
    told_status: String,
    pub(super) told_ready: bool,
    told_stopping: bool,
    /// When systemd is next asked for more time, while it has to be.
    extend_at: Option<Instant>,
    pub(super) boot_failures: u64,
    pub(super) crashes: u64,
    actions: Vec<Action>,
}

/// Why the daemon cannot go on.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) status: u8,
    pub(super) reason: String,
}

impl Supervisor {
    /// A supervisor that waits for [`Event::Started`].
    pub fn new(policy: Policy) -> Self {
        let seats = vec![Seat::default(); usize::from(policy.count.get())];
        Supervisor {
            policy,
            phase: Phase::Idle,
            generation: Generation(1),
            seats,
            workers: BTreeMap::new(),
            next_life: Life(1),
            clock: None,
            ever_ready: false,
            probing: false,
            outage: None,
            verdict: None,
            told_failure: None,
            told_unavailable: None,
            told_status: String::new(),
            told_ready: false,
            told_stopping: false,
            extend_at: None,
            boot_failures: 0,
            crashes: 0,
            actions: Vec::new(),
        }
    }

    /// Takes in one event and says what to do about it, in order.
    ///
    /// An event about a life that is over, or that its worker's state has no use for, changes nothing. After
    /// [`Action::Exit`] nothing changes any more.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        if self.phase == Phase::Over {
            return Vec::new();
        }
        let now = self.clock.map_or(now, |clock| clock.max(now));
        self.clock = Some(now);
        self.take_in(event, now);
        self.fill(now);
        self.leave_when_alone();
        self.extend_timeout(now);
        self.publish();
        mem::take(&mut self.actions)
    }

    /// The earliest instant at which a [`Event::Tick`] is due; `None` when only an event can change anything.
    pub fn next_wakeup(&self) -> Option<Instant> {
        let clock = self.clock?;
        if self.phase == Phase::Over {
            return None;
        }
        let workers = self.workers.values().filter_map(Worker::deadline);
        let edge = match self.phase {
            Phase::Draining { deadline, .. } => Some(deadline),
            Phase::Idle | Phase::Running | Phase::Leaving | Phase::Over => None,
        };
        // A vacancy whose wait is over and that is still one waits for something else than time.
        let seats = self.seats.iter().filter(|seat| seat.current.is_none() && self.fills());
        let retries = seats.filter_map(|seat| seat.retry_at).filter(|at| *at > clock);
        workers.chain(edge).chain(retries).chain(self.extend_at).min()
    }

    // The life of a worker. `*` ends the hold on the seat; what is below `Retiring` is only waited for.
    //
    //                  Spawn
    //                    │
    //   SpawnFailed   ┌──▼─────┐
    //  (gone)   *◀────┤Spawning├───────────────────┐
    //                 └──┬─────┘                   │
    //                    │ Spawned                 │ boot limit,
    //   BootFailed    ┌──▼─────┐                   │ Misbehaved,
    //        *┌───────┤Booting ├───────────────────┤ the daemon leaves
    //         │       └──┬─────┘                   │*
    //         │          │ Ready ─▶ Admit          │
    //         │       ┌──▼─────┐  Misbehaved       │
    //         │       │ Ready  ├──────────────────▶┤*
    //         │       └──┬───┬─┘                   │
    //         │          │   │ the daemon leaves   │
    //         │          │   │ ─▶ Terminate        │
    //         │          │   └─────────┐*          │
    //         │          │ Deadline-   │           │
    //         │          │ Exceeded    │           │
    //         │          │*─▶ Retire   │           │
    //   ┌─────▼──┐    ┌──▼─────┐  ┌────▼──────┐    │
    //   │ Failed │    │Retiring│  │Terminating│    │
    //   └─────┬──┘    └──┬─────┘  └────┬──────┘    │
    //         │ grace    │ Drained,    │ grace     │
    //         │          │ drain limit │           │
    //         └──────────┴──────┬──────┘           │
    //                        ┌──▼─────┐            │
    //                        │ Killed │◀───────────┘ ─▶ Kill
    //                        └──┬─────┘
    //                           │ Exited, from any state: gone
    fn take_in(&mut self, event: Event, now: Instant) {
        match event {
            Event::Started => {
                if self.phase == Phase::Idle {
                    self.phase = Phase::Running;
                }
            }
            Event::Spawned { worker, pid } => self.spawned(worker, pid, now),
            Event::SpawnFailed { worker, fault, reason } => self.spawn_failed(worker, fault, reason, now),
            Event::Ready { worker } => self.ready(worker, now),
            Event::BootFailed { worker, failure } => self.told_boot_failure(worker, failure, now),
            Event::Exited { worker, how } => self.exited(worker, how, now),
            Event::DeadlineExceeded { worker } => {
                if self.worker(worker).is_some_and(Worker::is_ready) {
                    self.retire(worker, now);
                }
            }
            Event::Misbehaved { worker, why } => self.misbehaved(worker, why, now),
            Event::Drained { worker } => {
                if self.worker(worker).is_some_and(|w| matches!(w.state, State::Retiring { .. })) {
                    self.kill(worker, now);
                }
            }
            Event::Stop => self.stop(now),
            Event::StopNow => self.stop_now(now),
            Event::EdgeDrained => {
                if let Phase::Draining { deadline, .. } = self.phase {
                    // What the requests did not need of the drain's time is the workers' own shutdown's.
                    self.send_away(deadline.max(after(now, self.policy.terminate_grace)), now);
                }
            }
            Event::StacksTaken { .. }
            | Event::WornOut { .. }
            | Event::Probed { .. }
            | Event::Reload { .. }
            | Event::Adjust { .. }
            | Event::Load(_)
            | Event::Wanted => {}
            Event::Tick => self.run_out(now),
        }
    }

    fn spawned(&mut self, id: WorkerId, pid: u32, now: Instant) {
        let Some(worker) = self.worker_mut(id) else { return };
        worker.pid = Some(pid);
        match worker.state {
            State::Spawning { deadline } => worker.enter(State::Booting { deadline }, now),
            // Doomed before it existed.
            State::Killed { give_up_at: None, .. } => self.kill(id, now),
            _ => {}
        }
    }

    fn spawn_failed(&mut self, id: WorkerId, fault: SpawnFault, reason: String, now: Instant) {
        let Some(worker) = self.worker(id) else { return };
        let was_wanted = matches!(worker.state, State::Spawning { .. });
        self.remove(id);
        if was_wanted {
            let kind = match fault {
                SpawnFault::Config => BootFailureKind::Spawn,
                SpawnFault::System => BootFailureKind::System,
            };
            self.boot_failed(id, BootFailure { kind, summary: reason, traceback: None }, now);
        }
    }

    fn ready(&mut self, id: WorkerId, now: Instant) {
        let Some(worker) = self.worker_mut(id) else { return };
        if !matches!(worker.state, State::Booting { .. }) {
            return;
        }
        let took = now.duration_since(worker.asked_at);
        worker.enter(State::Ready, now);
        self.actions.push(Action::Admit { worker: id });
        self.outage = None;
        self.ever_ready = true;
        self.told_failure = None;
        if mem::take(&mut self.probing) {
            // The canary lives: what kept the others from booting is over.
            for seat in self.seats.iter_mut().filter(|seat| seat.current.is_none()) {
                seat.wait_no_longer();
            }
        }
        self.report(Report::WorkerReady { worker: id, took });
        let seat = self.seat(id);
        seat.failure = None;
        if let Some(old) = seat.replaces.take() {
            self.report(Report::Replaced { worker: old, by: id });
        }
        if !self.told_ready && !self.told_stopping {
            self.told_ready = true;
            self.actions.push(Action::NotifyReady);
        }
    }

    fn told_boot_failure(&mut self, id: WorkerId, failure: BootFailure, now: Instant) {
        let Some(worker) = self.worker_mut(id) else { return };
        if worker.is_booting() {
            // It exits by itself, so that its output is complete; threads that its import started may prevent that.
            worker.enter(State::Failed { kill_at: after(now, FAILED_GRACE) }, now);
            self.vacate(id);
            self.boot_failed(id, failure, now);
        } else if worker.is_ready() {
            self.misbehaved(id, format!("said that it cannot boot after it was ready: {failure}"), now);
        }
    }

    fn exited(&mut self, id: WorkerId, how: Exit, now: Instant) {
        let Some(worker) = self.worker(id) else { return };
        let (state, since) = (worker.life_state(), worker.since);
        let (was_booting, was_ready) = (worker.is_booting(), worker.is_ready());
        self.remove(id);
        if was_booting {
            let summary = format!("the worker {how} while booting");
            let failure = BootFailure { kind: BootFailureKind::Died, summary, traceback: None };
            self.boot_failed(id, failure, now);
            return;
        }
        let retry_in = was_ready.then(|| {
            self.crashes += 1;
            self.served_until_now(id, since, format!("the worker {how}"), now)
        });
        self.report(Report::WorkerExited { worker: id, how, state, retry_in });
    }

    fn misbehaved(&mut self, id: WorkerId, why: String, now: Instant) {
        let Some(worker) = self.worker(id) else { return };
        let since = worker.since;
        match worker.state {
            State::Spawning { .. } | State::Booting { .. } => {
                self.kill(id, now);
                let kind = BootFailureKind::Misbehaved;
                self.boot_failed(id, BootFailure { kind, summary: why, traceback: None }, now);
            }
            State::Ready => {
                self.kill(id, now);
                let wait = self.served_until_now(id, since, why.clone(), now);
                self.report(Report::WorkerMisbehaved { worker: id, why, retry_in: Some(wait) });
            }
            State::Retiring { .. } => {
                self.kill(id, now);
                self.report(Report::WorkerMisbehaved { worker: id, why, retry_in: None });
            }
            // It hangs up while it leaves: whether it goes is all that counts now.
            State::Failed { .. } | State::Terminating { .. } | State::Killed { .. } => {}
        }
    }

    fn stop(&mut self, now: Instant) {
        match self.phase {
            Phase::Idle => {
                self.notify_stopping();
                self.phase = Phase::Leaving;
            }
            Phase::Running => {
                self.notify_stopping();
                self.drain_edge(self.policy.drain, now);
            }
            Phase::Draining { .. } | Phase::Leaving | Phase::Over => {}
        }
    }

    fn stop_now(&mut self, now: Instant) {
        self.notify_stopping();
        match self.phase {
            Phase::Idle | Phase::Running | Phase::Draining { .. } => {
                self.actions.push(Action::DrainEdge { deadline: now });
            }
            Phase::Leaving | Phase::Over => {}
        }
        self.phase = Phase::Leaving;
        for id in self.ids() {
            if self.worker(id).is_some_and(|worker| !matches!(worker.state, State::Killed { .. })) {
                self.kill(id, now);
            }
        }
    }

    /// Runs out every deadline that has passed.
    fn run_out(&mut self, now: Instant) {
        for id in self.ids() {
            let Some(worker) = self.worker_mut(id) else { continue };
            if worker.deadline().is_none_or(|at| at > now) {
                continue;
            }
            let (state, waited) = (worker.life_state(), now.duration_since(worker.since));
            match worker.state {
                State::Spawning { .. } | State::Booting { .. } => {
                    self.kill(id, now);
                    self.boot_failed(id, self.boot_timed_out(), now);
                }
                State::Retiring { .. } | State::Failed { .. } | State::Terminating { .. } => {
                    self.report(Report::Overdue { worker: id, state, waited });
                    self.kill(id, now);
                }
                State::Killed { give_up_at, .. } => {
                    worker.state = State::Killed { give_up_at, given_up: true };
                    self.report(Report::Overdue { worker: id, state, waited });
                }
                State::Ready => {}
            }
        }
        if let Phase::Draining { since, deadline } = self.phase
            && deadline <= now
        {
            self.report(Report::DrainRanOut { waited: now.duration_since(since) });
            self.send_away(after(now, self.policy.terminate_grace), now);
        }
    }

    fn boot_timed_out(&self) -> BootFailure {
        let limit = self.policy.boot.unwrap_or_default();
        let summary = format!(
            "not ready after timeouts.boot = {}; the import hangs or needs a longer limit",
            super::status::span(limit)
        );
        BootFailure { kind: BootFailureKind::Timeout, summary, traceback: None }
    }

    // === what several events come down to ===

    /// A life ended, or is about to, without having been ready; it does not hold its seat any more.
    fn boot_failed(&mut self, id: WorkerId, failure: BootFailure, now: Instant) {
        self.boot_failures += 1;
        let told_before = self.told_failure.as_ref() == Some(&failure);
        self.told_failure = Some(failure.clone());
        let is_final = self.phase == Phase::Running
            && self.policy.exit_on_first_boot_failure
            && !self.ever_ready
            && failure.kind.is_lasting();
        if is_final {
            let summary = failure.summary.clone();
            self.report(Report::WorkerBootFailed { worker: id, failure, retry_in: None, told_before });
            self.fail_start(summary, now);
            return;
        }

        let summary = failure.summary.clone();
        let nobody_ready = !self.anybody_ready();
        let limits = self.policy.backoff;
        let seat = self.seat(id);
        let wait = seat.backoff.fail(limits);
        seat.wait_for(wait, now);
        seat.failure = Some(summary.clone());
        let (retry_at, wait) = (seat.retry_at, seat.wait);
        if nobody_ready {
            self.probing = true;
            self.outage = Some(summary);
            for seat in self.seats.iter_mut().filter(|seat| seat.current.is_none()) {
                (seat.retry_at, seat.wait) = (retry_at, wait);
            }
        }
        self.report(Report::WorkerBootFailed { worker: id, failure, retry_in: Some(wait), told_before });
    }

    /// A life that was ready has ended and does not hold its seat any more: how long its seat stays empty.
    fn served_until_now(
        &mut self,
        id: WorkerId,
        ready_since: Instant,
        why: String,
        now: Instant,
    ) -> Duration {
        let is_settled = now.duration_since(ready_since) >= self.policy.settled;
        let limits = self.policy.backoff;
        let seat = self.seat(id);
        if is_settled {
            seat.backoff.reset();
            seat.wait_no_longer();
        } else {
            let wait = seat.backoff.fail(limits);
            seat.wait_for(wait, now);
            seat.failure = Some(why.clone());
        }
        let wait = seat.wait;
        // The application boots, and then its workers die: below PATIENCE a request is better off in the queue.
        if self.seats.iter().all(|seat| seat.current.is_none() && seat.wait >= PATIENCE) {
            self.outage = Some(why);
        }
        wait
    }

    /// Replace first, kill second: the seat is vacant at once, the old life finishes what can be finished.
    fn retire(&mut self, id: WorkerId, now: Instant) {
        let deadline = after(now, self.policy.drain);
        let settled = self.policy.settled;
        let Some(worker) = self.worker_mut(id) else { return };
        let is_settled = now.duration_since(worker.since) >= settled;
        worker.enter(State::Retiring { deadline }, now);
        self.vacate(id);
        let seat = self.seat(id);
        if is_settled {
            seat.backoff.reset();
        }
        seat.wait_no_longer();
        seat.replaces = Some(id);
        self.report(Report::Replacing { worker: id });
        self.actions.push(Action::Retire { worker: id });
    }

    fn kill(&mut self, id: WorkerId, now: Instant) {
        let Some(worker) = self.worker_mut(id) else { return };
        let exists = worker.pid.is_some();
        let give_up_at = exists.then(|| after(now, REAP_PATIENCE));
        worker.enter(State::Killed { give_up_at, given_up: false }, now);
        if exists {
            self.actions.push(Action::Kill { worker: id });
        }
        self.vacate(id);
    }

    /// Nobody has ever been ready and nobody will be: answer who waits, and exit with the reason.
    fn fail_start(&mut self, reason: String, now: Instant) {
        self.outage = Some(reason.clone());
        self.verdict = Some(Verdict { status: EX_CONFIG, reason });
        self.notify_stopping();
        self.publish_unavailable();
        self.drain_edge(self.policy.drain.min(FAILED_START_DRAIN), now);
        for id in self.ids() {
            if self.worker(id).is_some_and(Worker::is_current) {
                self.kill(id, now);
            }
        }
    }

    fn drain_edge(&mut self, limit: Duration, now: Instant) {
        let deadline = after(now, limit);
        self.phase = Phase::Draining { since: now, deadline };
        self.actions.push(Action::DrainEdge { deadline });
    }

    /// Tells every worker to go.
    fn send_away(&mut self, kill_at: Instant, now: Instant) {
        self.phase = Phase::Leaving;
        for id in self.ids() {
            let Some(worker) = self.worker_mut(id) else { continue };
            match worker.state {
                State::Ready => {
                    worker.enter(State::Terminating { kill_at }, now);
                    self.vacate(id);
                    self.actions.push(Action::Terminate { worker: id });
                }
                // A retiring worker has a thread that does not end: it would not leave when asked.
                State::Spawning { .. } | State::Booting { .. } | State::Retiring { .. } => self.kill(id, now),
                State::Failed { .. } | State::Terminating { .. } | State::Killed { .. } => {}
            }
        }
    }

    // === what follows from the whole, after each event ===

    /// Gives vacant seats their next life, as far as time, the canary rule and the number of processes allow.
    fn fill(&mut self, now: Instant) {
        while let Some(idx) = self.vacancy(now) {
            if self.workers.len() >= self.most_processes() {
                self.make_room(now);
                return;
            }
            self.spawn(idx, now);
        }
    }

    /// The seat to fill next.
    pub(super) fn vacancy(&self, now: Instant) -> Option<usize> {
        if !self.fills() || (self.one_at_a_time() && self.seats.iter().any(|seat| seat.current.is_some())) {
            return None;
        }
        let due = self.seats.iter().enumerate().filter(|(_, seat)| seat.is_due(now));
        due.min_by_key(|(_, seat)| seat.retry_at).map(|(idx, _)| idx)
    }

    /// Whether vacancies are filled at all.
    pub(super) fn fills(&self) -> bool {
        match self.phase {
            Phase::Running => true,
            // What is queued is still to be answered, unless it cannot be.
            Phase::Draining { .. } => self.verdict.is_none(),
            Phase::Idle | Phase::Leaving | Phase::Over => false,
        }
    }

    /// Whether a seat is filled only when no other has anybody: the canary before anybody was ready and while boots
    /// fail, and the last one needed to empty the queue before the end.
    pub(super) fn one_at_a_time(&self) -> bool {
        let is_canary = (!self.ever_ready || self.probing) && !self.anybody_ready();
        is_canary || self.phase != Phase::Running
    }

    pub(super) fn most_processes(&self) -> usize {
        2 * self.seats.len()
    }

    fn spawn(&mut self, idx: usize, now: Instant) {
        let number = u16::try_from(idx).expect("seats are as many as a u16 counts");
        let id = WorkerId { number: WorkerNr(number), life: self.next_life };
        self.next_life = Life(id.life.0 + 1);
        let deadline = self.policy.boot.map(|limit| after(now, limit));
        let state = State::Spawning { deadline };
        let generation = self.generation;
        self.workers.insert(id.life, Worker { id, generation, pid: None, asked_at: now, since: now, state });
        self.seat(id).current = Some(id.life);
        self.actions.push(Action::Spawn { worker: id, generation, origin: Origin::Exec });
    }

    /// There are due vacancies and too many processes on their way out.
    fn make_room(&mut self, now: Instant) {
        let n_due = self.seats.iter().filter(|seat| seat.is_due(now)).count();
        let n_dying = self.workers.values().filter(|worker| worker.is_dying()).count();
        let mut retiring: Vec<(Instant, WorkerId)> = self
            .workers
            .values()
            .filter(|worker| matches!(worker.state, State::Retiring { .. }))
            .map(|worker| (worker.since, worker.id))
            .collect();
        retiring.sort_unstable();
        for (_, id) in retiring.into_iter().take(n_due.saturating_sub(n_dying)) {
            self.report(Report::RetirementCut { worker: id });
            self.kill(id, now);
        }
    }

    fn leave_when_alone(&mut self) {
        if self.phase == Phase::Leaving && self.workers.values().all(Worker::is_given_up) {
            self.phase = Phase::Over;
            self.extend_at = None;
            let (status, reason) = match self.verdict.take() {
                Some(verdict) => (verdict.status, Some(verdict.reason)),
                None => (0, None),
            };
            self.actions.push(Action::Exit { status, reason });
        }
    }

    /// While starting and stopping take their time on purpose, systemd is asked for a little more of it again and
    /// again (`sd_notify(3)`): so a daemon that hangs is still found out by TimeoutStartSec= and TimeoutStopSec=.
    /// After a failed attempt to boot it is not asked: whether a start that retries is one is the unit's decision.
    fn extend_timeout(&mut self, now: Instant) {
        let needs_time = match self.phase {
            Phase::Running => !self.ever_ready && self.boot_failures == 0,
            Phase::Draining { .. } | Phase::Leaving => true,
            Phase::Idle | Phase::Over => false,
        };
        if !needs_time {
            self.extend_at = None;
        } else if self.extend_at.is_none_or(|at| at <= now) {
            self.actions.push(Action::ExtendTimeout(EXTEND_EVERY * 2));
            self.extend_at = Some(after(now, EXTEND_EVERY));
        }
    }

    fn publish(&mut self) {
        if self.phase == Phase::Over {
            return;
        }
        self.publish_unavailable();
        let status = self.status_line();
        if self.told_status != status {
            self.told_status.clone_from(&status);
            self.actions.push(Action::Status(status));
        }
    }

    fn publish_unavailable(&mut self) {
        if self.told_unavailable != self.outage {
            self.told_unavailable.clone_from(&self.outage);
            self.actions.push(Action::Unavailable(self.outage.clone()));
        }
    }

    // === small ones ===

    pub(super) fn worker(&self, id: WorkerId) -> Option<&Worker> {
        self.workers.get(&id.life).filter(|worker| worker.id == id)
    }

    fn worker_mut(&mut self, id: WorkerId) -> Option<&mut Worker> {
        self.workers.get_mut(&id.life).filter(|worker| worker.id == id)
    }

    /// A copy, since what is done to one may change the map.
    fn ids(&self) -> Vec<WorkerId> {
        self.workers.values().map(|worker| worker.id).collect()
    }

    fn seat(&mut self, id: WorkerId) -> &mut Seat {
        &mut self.seats[usize::from(id.number.0)]
    }

    /// The life does not hold its seat any more.
    fn vacate(&mut self, id: WorkerId) {
        let seat = self.seat(id);
        if seat.current == Some(id.life) {
            seat.current = None;
        }
    }

    fn remove(&mut self, id: WorkerId) {
        self.vacate(id);
        self.workers.remove(&id.life);
    }

    pub(super) fn anybody_ready(&self) -> bool {
        self.workers.values().any(Worker::is_ready)
    }

    fn notify_stopping(&mut self) {
        if !self.told_stopping {
            self.told_stopping = true;
            self.actions.push(Action::NotifyStopping);
        }
    }

    fn report(&mut self, report: Report) {
        self.actions.push(Action::Report(report));
    }
}

/// What a worker that said it cannot boot has to finish its output.
const FAILED_GRACE: Duration = Duration::from_secs(1);
/// A process that is not reaped this long after SIGKILL sleeps uninterruptibly.
const REAP_PATIENCE: Duration = Duration::from_secs(5);
/// What a start that failed gives the edge to answer who has connected meanwhile.
const FAILED_START_DRAIN: Duration = Duration::from_secs(3);
/// A wait for the next life that is better answered with 503 than with the queue.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often systemd is asked for more time; each time for twice as much.
const EXTEND_EVERY: Duration = Duration::from_secs(15);
/// sysexits.h: the configuration or the application is at fault; the unit's RestartPreventExitStatus= names it.
const EX_CONFIG: u8 = 78;
