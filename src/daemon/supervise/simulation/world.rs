//! The simulated world: the planned events, the processes, and the checks after each event.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use crate::id::{Generation, Incarnation, WorkerId};
use crate::rng::Rng;

use super::super::*;

/// `Err` names the violated expectation.
pub(super) type Check = Result<(), String>;

pub(super) fn ensure(holds: bool, what: &str) -> Check {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

/// The probabilities of faults in this world, in percent.
pub(super) struct Faults {
    pub(super) spawn_fails: u64,
    pub(super) boot_fails: u64,
    pub(super) boot_hangs: u64,
    pub(super) crashes: u64,
    pub(super) gets_stuck: u64,
    pub(super) misbehaves: u64,
    pub(super) reaches_limit: u64,
    pub(super) probe_fails: u64,
    pub(super) clock_jumps: u64,
    pub(super) unresponsive: u64,
}

/// A process that exists or is being created.
pub(super) struct Process {
    pub(super) generation: Generation,
    pub(super) method: SpawnMethod,
    pub(super) exists: bool,
    pub(super) reported_ready: bool,
    pub(super) admitted: bool,
    pub(super) ever_admitted: bool,
    pub(super) stuck: bool,
    pub(super) terminated: bool,
    pub(super) killed: bool,
    pub(super) promoted: bool,
    /// Since when the worker has been retiring without a deadline; `None` if it is not.
    pub(super) unbounded_since: Option<Instant>,
    /// The worker has no requests.
    pub(super) drained: bool,
}

impl Process {
    pub(super) fn serves(&self) -> bool {
        self.admitted && !self.terminated && !self.killed
    }

    pub(super) fn is_zygote(&self) -> bool {
        self.method == SpawnMethod::ExecZygote || self.promoted
    }
}

/// The code and configuration that a reload (or the start) loads.
#[derive(Clone)]
pub(super) struct Code {
    pub(super) policy: SupervisorPolicy,
    /// The probability in percent that a boot fails, until faults stop.
    pub(super) boot_failures: u64,
    /// The percentage of its responses that fail.
    pub(super) response_failures: u64,
    pub(super) forgotten: bool,
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) faults: Faults,
    pub(super) start: Instant,
    pub(super) now: Instant,
    /// When faults stop.
    pub(super) faults_end_at: Instant,
    pub(super) supervisor: Supervisor,
    /// The highest number of workers that any generation may have or had.
    pub(super) max_count: usize,
    pub(super) codes: BTreeMap<Generation, Code>,
    pub(super) live: Generation,
    /// Reloads without an answer yet. The value is true if faults had stopped when the reload was
    /// requested.
    pub(super) reloads: BTreeMap<Generation, bool>,
    pub(super) is_reloading: bool,
    /// The planned events in order; the number keeps events of one instant in order.
    plan: BTreeMap<(Instant, u64), Event>,
    n_planned: u64,
    pub(super) processes: BTreeMap<WorkerId, Process>,
    pub(super) newest: Incarnation,
    pub(super) ready_sent: bool,
    pub(super) n_stopping_sent: u32,
    pub(super) unavailable: bool,
    pub(super) presence: Presence,
    pub(super) exit: Option<u8>,
    /// A tick was sent before events that were due: a killed worker may have been abandoned too
    /// early.
    ticked_early: bool,
    pub(super) recovered: bool,
    pub(super) facts: BTreeMap<&'static str, u64>,
    pub(super) n_steps: u32,
    /// The events and actions so far, printed with a failure.
    pub(super) log: Vec<String>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let exits_on_first = rng.percent(50);
        let code = random_code(&mut rng, exits_on_first, 0);
        // Most worlds have one or two kinds of faults, some have all.
        let faults = Faults {
            spawn_fails: sometimes(&mut rng, 20, 60),
            boot_fails: sometimes(&mut rng, 40, 90),
            boot_hangs: sometimes(&mut rng, 30, 60),
            crashes: sometimes(&mut rng, 60, 100),
            gets_stuck: sometimes(&mut rng, 50, 100),
            misbehaves: sometimes(&mut rng, 30, 60),
            reaches_limit: sometimes(&mut rng, 60, 100),
            probe_fails: sometimes(&mut rng, 40, 80),
            clock_jumps: sometimes(&mut rng, 30, 10),
            unresponsive: sometimes(&mut rng, 50, 100),
        };
        let now = Instant::now();
        let faults_end_at = now + rng.up_to(Duration::from_secs(250));
        World {
            faults,
            start: now,
            now,
            faults_end_at,
            supervisor: Supervisor::new(code.policy.clone()),
            max_count: usize::from(code.policy.count.get()),
            codes: BTreeMap::from([(Generation(1), code)]),
            live: Generation(1),
            reloads: BTreeMap::new(),
            is_reloading: false,
            plan: BTreeMap::new(),
            n_planned: 0,
            processes: BTreeMap::new(),
            newest: Incarnation(0),
            ready_sent: false,
            n_stopping_sent: 0,
            unavailable: false,
            presence: Presence::Present,
            exit: None,
            ticked_early: false,
            recovered: false,
            facts: BTreeMap::new(),
            n_steps: 0,
            log: Vec::new(),
            rng,
        }
    }

    /// Plays the whole history.
    pub(super) fn run(&mut self) -> Check {
        self.plan(Event::Started, Duration::ZERO);
        self.plan_environment();
        while self.step()? {}
        if self.exit.is_none() && self.supervisor.snapshot().desired == 0 {
            // The workers are asleep: a request wakes them.
            self.plan(Event::WorkerRequested, Duration::ZERO);
            while self.step()? {}
        }
        if self.exit.is_none() {
            self.check_recovered()?;
            self.recovered = true;
            let is_hasty = self.rng.percent(30);
            self.plan(Event::Stop, Duration::ZERO);
            if is_hasty {
                let wait = self.rng.up_to(Duration::from_secs(40));
                self.plan(Event::StopNow, wait);
            }
            while self.step()? {}
        }
        self.check_exit()
    }

    fn check_recovered(&self) -> Check {
        let snapshot = self.supervisor.snapshot();
        let n_zygotes = usize::from(self.codes[&self.live].policy.preload);
        ensure(snapshot.desired > 0, "asleep after a request")?;
        ensure(snapshot.ready == snapshot.desired, "faults have stopped and not every seat is ready")?;
        let n_workers = snapshot.workers.len();
        ensure(n_workers == snapshot.desired + n_zygotes, "a worker is still retiring")?;
        ensure(self.n_serving() == snapshot.desired, "the supervisor counts workers that are not admitted")?;
        ensure(!self.unavailable, "all workers are ready and requests are refused")?;
        ensure(self.ready_sent && !self.is_reloading, "all workers are ready and READY=1 was not sent")?;
        ensure(self.reloads.is_empty(), "a reload without an answer")?;
        let status = format!("{0}/{0} workers ready", snapshot.desired);
        let rest =
            snapshot.status.strip_prefix(&status).ok_or("the status does not show all workers as ready")?;
        let rest = rest.strip_prefix("; drained by the operator").unwrap_or(rest);
        let is_note =
            rest.starts_with("; reload failed: ") || rest.starts_with("; rolled back from generation ");
        ensure(rest.is_empty() || is_note, "an unexpected note in the status")
    }

    fn check_exit(&self) -> Check {
        let Some(status) = self.exit else { return Err("no event is left and no Exit".to_owned()) };
        ensure(self.n_stopping_sent == 1, "STOPPING=1 was not sent exactly once")?;
        let is_abandoned = |process: &Process| self.ticked_early && process.killed;
        ensure(self.processes.values().all(is_abandoned), "a process is left behind")?;
        ensure(self.reloads.is_empty(), "a reload without an answer at the exit")?;
        ensure(status != 78 || !self.ready_sent, "a failed start after READY=1")
    }

    /// Plays the next event or tick; returns false if there is none.
    fn step(&mut self) -> Result<bool, String> {
        self.n_steps += 1;
        ensure(self.n_steps < 20_000, "the history does not end")?;
        let wakeup = self.supervisor.next_wakeup();
        let planned = self.plan.keys().next().map(|(at, _)| *at);
        let Some(next) = wakeup.into_iter().chain(planned).min() else { return Ok(false) };
        // A healthy daemon with a lifetime limit recycles workers without end.
        if planned.is_none() && self.is_only_expiring(next) {
            return Ok(false);
        }
        self.now = self.now.max(next);
        if self.rng.percent(self.faults.clock_jumps) && self.now < self.faults_end_at {
            self.now += self.rng.up_to(Duration::from_secs(90));
        }
        let is_planned = planned.is_some_and(|at| at <= self.now);
        let is_due = wakeup.is_some_and(|at| at <= self.now);
        // Due events usually come before the tick, as `run` guarantees. The wrong order must not
        // break an invariant.
        if is_due && (!is_planned || self.rng.percent(10)) {
            self.ticked_early |= is_planned;
            self.send(Event::Tick)?;
            ensure(
                self.supervisor.next_wakeup().is_none_or(|at| at > self.now),
                "a tick left a deadline that has passed",
            )?;
        } else if let Some((_, event)) = self.plan.pop_first() {
            self.play(event)?;
        }
        Ok(true)
    }

    /// Returns true if the daemon has recovered and only lifetimes can end.
    fn is_only_expiring(&self, next: Instant) -> bool {
        let expires = self.codes[&self.live].policy.max_lifetime.is_some();
        expires
            && next > self.faults_end_at
            && self.check_recovered().is_ok()
            && self.supervisor.snapshot().rollback.is_none()
    }

    /// Sends a planned event, unless its process no longer exists.
    fn play(&mut self, event: Event) -> Check {
        let event = match event {
            Event::Reload { .. } => return self.reload(),
            Event::Load(_) => Event::Load(self.measure()),
            event => event,
        };
        match &event {
            Event::Adjust { by } => self.max_count += usize::from(*by > 0),
            Event::SetCount { to } => self.max_count = self.max_count.max(usize::from(*to)),
            Event::Spawned { worker, .. } => {
                // The fork may have been lost with its zygote.
                let Some(process) = self.processes.get_mut(worker) else { return Ok(()) };
                process.exists = true;
            }
            Event::SpawnFailed { worker, .. } => {
                self.processes.remove(worker);
            }
            Event::Ready { worker } => {
                let Some(process) = self.processes.get_mut(worker) else { return Ok(()) };
                process.reported_ready = true;
            }
            Event::DeadlineExceeded { worker } => {
                if let Some(process) = self.processes.get_mut(worker) {
                    process.stuck = true;
                } else if self.rng.percent(50) {
                    return Ok(());
                }
            }
            Event::Drained { worker } => {
                let Some(process) = self.processes.get_mut(worker) else { return Ok(()) };
                if process.serves() {
                    return Ok(());
                }
                process.drained = true;
                let drain = self.codes[&self.live].policy.drain;
                let is_late = |since| self.now.duration_since(since) > drain;
                if process.unbounded_since.take().is_some_and(is_late) && !process.killed && !process.stuck {
                    self.count("finished after the drain limit");
                }
            }
            // Half of the events about processes that have exited are delivered.
            Event::BootFailed { worker, .. } | Event::RecycleDue { worker, .. }
                if !self.processes.contains_key(worker) && self.rng.percent(50) =>
            {
                return Ok(());
            }
            Event::Exited { worker, .. } => {
                if self.processes.remove(worker).is_none() {
                    return Ok(());
                }
                let lost =
                    |process: &Process| process.method == SpawnMethod::Fork(*worker) && !process.exists;
                let n_before = self.processes.len();
                self.processes.retain(|_, process| !lost(process));
                if self.processes.len() < n_before {
                    self.count("fork lost with its zygote");
                }
            }
            _ => {}
        }
        self.send(event)
    }

    fn reload(&mut self) -> Check {
        if self.exit.is_some() {
            return Ok(());
        }
        let exits_on_first = self.codes[&Generation(1)].policy.exit_on_first_boot_failure;
        let boot_failures = sometimes(&mut self.rng, 40, 100);
        let code = random_code(&mut self.rng, exits_on_first, boot_failures);
        let policy = code.policy.clone();
        let generation = self.supervisor.next_generation();
        ensure(!self.codes.contains_key(&generation), "a generation that is not new")?;
        self.max_count = self.max_count.max(usize::from(policy.count.get()));
        self.codes.insert(generation, code);
        self.reloads.insert(generation, self.now >= self.faults_end_at);
        if !self.ready_sent {
            self.count("reload before the first ready worker");
        }
        self.send(Event::Reload { policy })
    }

    fn send(&mut self, event: Event) -> Check {
        self.log.push(format!("{:?} {event:?}", self.now.duration_since(self.start)));
        let before = self.n_serving();
        let sent = event.clone();
        let actions = self.supervisor.handle(event, self.now);
        self.supervisor.check_invariants()?;
        ensure(self.exit.is_none() || actions.is_empty(), "an action after Exit")?;
        // At the process limit, retirements may get a deadline.
        if !self.supervisor.has_room(self.supervisor.live.generation) {
            self.bound_retirements(|_| true);
        }
        for action in &actions {
            self.log.push(format!("    {action:?}"));
            self.perform(action, &sent)?;
        }
        if self.unavailable {
            ensure(self.n_serving() == 0, "requests are refused while a worker is ready")?;
        }
        self.check_serving(&sent, &actions, before)
    }

    /// Checks that no worker is taken out of service without a reason, and none for a reload.
    fn check_serving(&self, event: &Event, actions: &[Action], before: usize) -> Check {
        let after = self.n_serving();
        let has = |is: fn(&Report) -> bool| {
            actions.iter().any(|action| matches!(action, Action::Report(report) if is(report)))
        };
        if actions.iter().any(|action| matches!(action, Action::GoLive { .. }))
            && !has(|report| matches!(report, Report::RolledBack { .. }))
        {
            let n_new = self.supervisor.snapshot().desired;
            return ensure(after >= before.min(n_new), "a reload reduces the number of ready workers");
        }
        let may_lose = match event {
            Event::Exited { .. }
            | Event::DeadlineExceeded { .. }
            | Event::Misbehaved { .. }
            | Event::BootFailed { .. } => 1,
            Event::Stop
            | Event::StopNow
            | Event::EdgeDrained
            | Event::Adjust { .. }
            | Event::SetCount { .. } => before,
            Event::Tick | Event::Unused { .. } if self.n_stopping_sent > 0 => before,
            Event::Load(_) | Event::MemoryPressure { .. }
                if has(|report| matches!(report, Report::Resized { .. })) =>
            {
                before
            }
            _ => 0,
        };
        let rolled_back = has(|report| matches!(report, Report::RolledBack { .. }));
        ensure(rolled_back || after + may_lose >= before, "a worker is taken out of service without a reason")
    }

    /// Notes that the retirements of these processes may have a deadline now.
    pub(super) fn bound_retirements(&mut self, is_bounded: impl Fn(&Process) -> bool) {
        for process in self.processes.values_mut().filter(|process| is_bounded(process)) {
            process.unbounded_since = None;
        }
    }

    pub(super) fn n_serving(&self) -> usize {
        self.processes.values().filter(|process| process.serves()).count()
    }

    pub(super) fn plan(&mut self, event: Event, wait: Duration) {
        self.n_planned += 1;
        self.plan.insert((self.now + wait, self.n_planned), event);
    }

    /// Returns true with a probability of `chance` percent until faults stop.
    pub(super) fn fails(&mut self, chance: u64) -> bool {
        self.now < self.faults_end_at && self.rng.percent(chance)
    }

    pub(super) fn count(&mut self, fact: &'static str) {
        *self.facts.entry(fact).or_default() += 1;
    }

    /// The number of generations whose configuration was not dropped.
    pub(super) fn n_configured(&self) -> usize {
        self.codes.values().filter(|code| !code.forgotten).count()
    }
}

/// Returns a number in `0..=max` with a probability of `percent`, else 0.
pub(super) fn sometimes(rng: &mut Rng, percent: u64, max: u64) -> u64 {
    if rng.percent(percent) { rng.below(max + 1) } else { 0 }
}

/// Returns a number in `1..=max`.
fn one_to(rng: &mut Rng, max: u16) -> NonZeroU16 {
    let n = u16::try_from(1 + rng.below(u64::from(max))).expect("at most `max`");
    NonZeroU16::new(n).expect("at least one")
}

/// Chooses the policy and the faults of one load of code.
fn random_code(rng: &mut Rng, exit_on_first_boot_failure: bool, boot_failures: u64) -> Code {
    let count = one_to(rng, 5);
    let boot = (!rng.percent(20)).then(|| Duration::from_secs(1 + rng.below(60)));
    let drain = Duration::from_secs(rng.below(30));
    let min = if rng.percent(60) { count } else { one_to(rng, count.get()) };
    // Long enough to replace all workers one by one; otherwise the replacements would never end.
    let boots = boot.unwrap_or(Duration::from_secs(20)) / 2 * (u32::from(count.get()) + 6);
    let policy = SupervisorPolicy {
        exit_on_first_boot_failure,
        min,
        preload: rng.percent(30),
        drain_delay: if rng.percent(30) { Duration::from_secs(rng.below(40)) } else { Duration::ZERO },
        probe: rng.percent(30),
        watch: rng.percent(30).then(|| Duration::from_secs(1 + rng.below(60))),
        max_lifetime: rng.percent(20).then(|| boots + Duration::from_secs(10 + rng.below(60))),
        idle_exit: rng.percent(20).then(|| Duration::from_secs(10 + rng.below(60))),
        boots_at_once: one_to(rng, 3),
        ..SupervisorPolicy::new("app".to_owned(), count, boot, drain)
    };
    let response_failures = sometimes(rng, 30, 50);
    Code { policy, boot_failures, response_failures, forgotten: false }
}
