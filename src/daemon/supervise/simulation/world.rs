//! The world: what is going to happen, what processes there are, and what must hold after each event.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use crate::id::{Generation, Life, WorkerId};
use crate::rng::Rng;

use super::super::*;

pub(super) type Verdict = Result<(), String>;

pub(super) fn ensure(holds: bool, what: &str) -> Verdict {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

/// How bad this world's days are, in percent.
pub(super) struct Faults {
    pub(super) spawn_fails: u64,
    pub(super) boot_fails: u64,
    pub(super) boot_hangs: u64,
    pub(super) crashes: u64,
    pub(super) gets_stuck: u64,
    pub(super) misbehaves: u64,
    pub(super) wears_out: u64,
    pub(super) probe_fails: u64,
    pub(super) clock_jumps: u64,
    pub(super) rude: u64,
}

/// A process as the world knows it; those that are gone are forgotten.
pub(super) struct Process {
    pub(super) generation: Generation,
    pub(super) method: SpawnMethod,
    pub(super) exists: bool,
    pub(super) said_ready: bool,
    pub(super) admitted: bool,
    pub(super) ever_admitted: bool,
    pub(super) stuck: bool,
    pub(super) asked_to_leave: bool,
    pub(super) killed: bool,
    pub(super) promoted: bool,
    /// Since when it finishes what it has, for as long as that takes.
    pub(super) lingers_since: Option<Instant>,
    /// It has nothing that anybody waits for.
    pub(super) drained: bool,
}

impl Process {
    pub(super) fn serves(&self) -> bool {
        self.admitted && !self.asked_to_leave && !self.killed
    }

    pub(super) fn is_zygote(&self) -> bool {
        self.method == SpawnMethod::ExecZygote || self.promoted
    }
}

/// One load of code and configuration.
#[derive(Clone)]
pub(super) struct Code {
    pub(super) policy: SupervisorPolicy,
    /// While there is no peace, each boot fails with this chance.
    pub(super) broken: u64,
    /// Of a hundred answers, so many fail.
    pub(super) fails: u64,
    pub(super) forgotten: bool,
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) faults: Faults,
    pub(super) begin: Instant,
    pub(super) now: Instant,
    /// After this nothing new goes wrong.
    pub(super) peace_at: Instant,
    pub(super) supervisor: Supervisor,
    /// The most workers any generation may have had.
    pub(super) most: usize,
    pub(super) codes: BTreeMap<Generation, Code>,
    pub(super) live: Generation,
    /// Reloads without a verdict, and whether there is peace for them.
    pub(super) reloads: BTreeMap<Generation, bool>,
    pub(super) is_reloading: bool,
    /// What is going to happen, in order.
    plan: BTreeMap<(Instant, u64), Event>,
    n_planned: u64,
    pub(super) processes: BTreeMap<WorkerId, Process>,
    pub(super) newest: Life,
    pub(super) told_ready: bool,
    pub(super) n_stopping_told: u32,
    pub(super) unavailable: bool,
    pub(super) exit: Option<u8>,
    /// Time was counted before what had been received was told: a killed worker may have been given up unjustly.
    ticked_early: bool,
    pub(super) healed: bool,
    pub(super) facts: BTreeMap<&'static str, u64>,
    pub(super) n_steps: u32,
    /// For a failure: what led to it.
    pub(super) log: Vec<String>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let exits_on_first = rng.percent(50);
        let code = invent(&mut rng, exits_on_first, 0);
        // Most worlds have one or two things wrong with them, some have everything.
        let faults = Faults {
            spawn_fails: sometimes(&mut rng, 20, 60),
            boot_fails: sometimes(&mut rng, 40, 90),
            boot_hangs: sometimes(&mut rng, 30, 60),
            crashes: sometimes(&mut rng, 60, 100),
            gets_stuck: sometimes(&mut rng, 50, 100),
            misbehaves: sometimes(&mut rng, 30, 60),
            wears_out: sometimes(&mut rng, 60, 100),
            probe_fails: sometimes(&mut rng, 40, 80),
            clock_jumps: sometimes(&mut rng, 30, 10),
            rude: sometimes(&mut rng, 50, 100),
        };
        let now = Instant::now();
        let peace_at = now + rng.up_to(Duration::from_secs(250));
        World {
            faults,
            begin: now,
            now,
            peace_at,
            supervisor: Supervisor::new(code.policy.clone()),
            most: usize::from(code.policy.count.get()),
            codes: BTreeMap::from([(Generation(1), code)]),
            live: Generation(1),
            reloads: BTreeMap::new(),
            is_reloading: false,
            plan: BTreeMap::new(),
            n_planned: 0,
            processes: BTreeMap::new(),
            newest: Life(0),
            told_ready: false,
            n_stopping_told: 0,
            unavailable: false,
            exit: None,
            ticked_early: false,
            healed: false,
            facts: BTreeMap::new(),
            n_steps: 0,
            log: Vec::new(),
            rng,
        }
    }

    /// One whole history.
    pub(super) fn live(&mut self) -> Verdict {
        self.plan(Event::Started, Duration::ZERO);
        self.plan_operator();
        while self.step()? {}
        if self.exit.is_none() && self.supervisor.snapshot().count == 0 {
            // It sleeps, as it should.
            self.plan(Event::WorkerRequested, Duration::ZERO);
            while self.step()? {}
        }
        if self.exit.is_none() {
            self.is_healed()?;
            self.healed = true;
            let is_hasty = self.rng.percent(30);
            self.plan(Event::Stop, Duration::ZERO);
            if is_hasty {
                let wait = self.rng.up_to(Duration::from_secs(40));
                self.plan(Event::StopNow, wait);
            }
            while self.step()? {}
        }
        self.is_over()
    }

    /// What people do, and what is measured.
    fn plan_operator(&mut self) {
        let whole = Duration::from_secs(290);
        // In most histories the operator waits until all is well again, in some not.
        if self.rng.percent(40) {
            let stop = if self.rng.percent(70) { Event::Stop } else { Event::StopNow };
            let wait = self.rng.up_to(whole);
            self.plan(stop, wait);
        }
        for _ in 0..sometimes(&mut self.rng, 70, 5) {
            // What is loaded is decided when it is.
            let policy = self.codes[&Generation(1)].policy.clone();
            let mut wait = self.rng.up_to(whole);
            for _ in 0..=sometimes(&mut self.rng, 30, 2) {
                self.plan(Event::Reload { policy: policy.clone() }, wait);
                wait += self.rng.up_to(Duration::from_secs(20));
            }
        }
        for _ in 0..sometimes(&mut self.rng, 30, 5) {
            let by = if self.rng.percent(50) { 1 } else { -1 };
            let wait = self.rng.up_to(whole);
            self.plan(Event::Adjust { by }, wait);
        }
        if self.rng.percent(60) {
            let mut wait = Duration::ZERO;
            while wait < whole {
                self.plan(Event::Load(LoadSample::default()), wait);
                wait += Duration::from_secs(1) + self.rng.up_to(Duration::from_secs(12));
            }
            for _ in 0..self.rng.below(6) {
                let wait = self.rng.up_to(whole);
                self.plan(Event::WorkerRequested, wait);
            }
        }
    }

    fn is_healed(&self) -> Verdict {
        let snapshot = self.supervisor.snapshot();
        let n_zygotes = usize::from(self.codes[&self.live].policy.preload);
        ensure(snapshot.count > 0, "somebody is wanted and it sleeps")?;
        ensure(snapshot.ready == snapshot.count, "faults have stopped and not every seat is ready")?;
        let n_workers = snapshot.workers.len();
        ensure(n_workers == snapshot.count + n_zygotes, "all is quiet and somebody is still leaving")?;
        ensure(self.n_serving() == snapshot.count, "the supervisor counts workers that do not serve")?;
        ensure(!self.unavailable, "everybody serves and clients are refused")?;
        ensure(self.told_ready && !self.is_reloading, "everybody serves and systemd was not told")?;
        ensure(self.reloads.is_empty(), "a reload without a verdict")?;
        let status = format!("{0}/{0} workers ready", snapshot.count);
        let rest = snapshot.status.strip_prefix(&status).ok_or("a healthy daemon does not say so")?;
        let is_remark =
            rest.starts_with("; reload failed: ") || rest.starts_with("; rolled back from generation ");
        ensure(rest.is_empty() || is_remark, "the status of a healthy daemon is not plain")
    }

    fn is_over(&self) -> Verdict {
        let Some(status) = self.exit else { return Err("nothing more happens and no Exit".to_owned()) };
        ensure(self.n_stopping_told == 1, "STOPPING=1 is to be told once")?;
        let is_over = |process: &Process| self.ticked_early && process.killed;
        ensure(self.processes.values().all(is_over), "a process is left behind")?;
        ensure(self.reloads.is_empty(), "who asked for a reload never hears of it")?;
        ensure(status == 0 || !self.told_ready, "a failed start after a good one")
    }

    /// Lets the next thing happen; false when nothing will ever again.
    fn step(&mut self) -> Result<bool, String> {
        self.n_steps += 1;
        ensure(self.n_steps < 20_000, "the history does not end")?;
        let wakeup = self.supervisor.next_wakeup();
        let planned = self.plan.keys().next().map(|(at, _)| *at);
        let Some(next) = wakeup.into_iter().chain(planned).min() else { return Ok(false) };
        // Workers age for ever; that is no history.
        if planned.is_none() && self.is_only_ageing(next) {
            return Ok(false);
        }
        self.now = self.now.max(next);
        if self.rng.percent(self.faults.clock_jumps) && self.now < self.peace_at {
            self.now += self.rng.up_to(Duration::from_secs(90));
        }
        let is_planned = planned.is_some_and(|at| at <= self.now);
        let is_due = wakeup.is_some_and(|at| at <= self.now);
        // Mostly what has been received is told first, as it should be; a wrong order may not break anything.
        if is_due && (!is_planned || self.rng.percent(10)) {
            self.ticked_early |= is_planned;
            self.tell(Event::Tick)?;
            ensure(
                self.supervisor.next_wakeup().is_none_or(|at| at > self.now),
                "a tick does not take what it was due for",
            )?;
        } else if let Some((_, event)) = self.plan.pop_first() {
            self.happen(event)?;
        }
        Ok(true)
    }

    /// All is well, and the next thing is a worker's age.
    fn is_only_ageing(&self, next: Instant) -> bool {
        let ages = self.codes[&self.live].policy.max_lifetime.is_some();
        ages && next > self.peace_at
            && self.is_healed().is_ok()
            && self.supervisor.snapshot().rollback.is_none()
    }

    /// A planned event, if it can still come from a process that exists.
    fn happen(&mut self, event: Event) -> Verdict {
        let event = match event {
            Event::Reload { .. } => return self.reload(),
            Event::Load(_) => Event::Load(self.measure()),
            event => event,
        };
        match &event {
            Event::Adjust { by } => self.most += usize::from(*by > 0),
            Event::Spawned { worker, .. } => {
                // A fork may have been lost with its zygote.
                let Some(process) = self.processes.get_mut(worker) else { return Ok(()) };
                process.exists = true;
            }
            Event::SpawnFailed { worker, .. } => {
                self.processes.remove(worker);
            }
            Event::Ready { worker } => {
                let Some(process) = self.processes.get_mut(worker) else { return Ok(()) };
                process.said_ready = true;
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
                if process.lingers_since.take().is_some_and(is_late) && !process.killed && !process.stuck {
                    self.note("finished after the drain limit");
                }
            }
            // Words about the dead do arrive now and then.
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
                    self.note("fork lost with its zygote");
                }
            }
            _ => {}
        }
        self.tell(event)
    }

    fn reload(&mut self) -> Verdict {
        if self.exit.is_some() {
            return Ok(());
        }
        let exits_on_first = self.codes[&Generation(1)].policy.exit_on_first_boot_failure;
        let broken = sometimes(&mut self.rng, 40, 100);
        let code = invent(&mut self.rng, exits_on_first, broken);
        let policy = code.policy.clone();
        let generation = self.supervisor.next_generation();
        ensure(!self.codes.contains_key(&generation), "a generation that is not new")?;
        self.most = self.most.max(usize::from(policy.count.get()));
        self.codes.insert(generation, code);
        self.reloads.insert(generation, self.now >= self.peace_at);
        if !self.told_ready {
            self.note("reload before anybody was ready");
        }
        self.tell(Event::Reload { policy })
    }

    fn measure(&mut self) -> LoadSample {
        let mut load = LoadSample::default();
        match self.rng.below(4) {
            0 => {
                load.longest_wait = Duration::from_millis(50 + self.rng.below(5000));
                (load.queued, load.running, load.max_running) = (3, 4, 4);
            }
            1 => load.idle_for = self.rng.up_to(Duration::from_secs(100)),
            _ => load.max_running = usize::from(self.rng.percent(10)),
        }
        for (generation, code) in &self.codes {
            let answered = self.rng.below(400);
            load.responses
                .push((*generation, ResponseStats { answered, failed: answered * code.fails / 100 }));
        }
        load
    }

    pub(super) fn tell(&mut self, event: Event) -> Verdict {
        self.log.push(format!("{:?} {event:?}", self.now.duration_since(self.begin)));
        let before = self.n_serving();
        let what = event.clone();
        let actions = self.supervisor.handle(event, self.now);
        self.supervisor.check_invariants()?;
        ensure(self.exit.is_none() || actions.is_empty(), "an action after Exit")?;
        // From now on somebody may need the room of those that linger.
        if !self.supervisor.has_room(self.supervisor.live.generation) {
            self.nobody_lingers(|_| true);
        }
        for action in &actions {
            self.log.push(format!("    {action:?}"));
            self.perform(action, &what)?;
        }
        if self.unavailable {
            ensure(self.n_serving() == 0, "clients are refused while somebody serves")?;
        }
        self.nobody_is_missed(&what, &actions, before)
    }

    /// Who serves is only ever taken from service for a reason, and never for a reload.
    fn nobody_is_missed(&self, event: &Event, actions: &[Action], before: usize) -> Verdict {
        let after = self.n_serving();
        let has = |is: fn(&Report) -> bool| {
            actions.iter().any(|action| matches!(action, Action::Report(report) if is(report)))
        };
        if actions.iter().any(|action| matches!(action, Action::GoLive { .. }))
            && !has(|report| matches!(report, Report::RolledBack { .. }))
        {
            let n_new = self.supervisor.snapshot().count;
            return ensure(after >= before.min(n_new), "a reload takes more from service than it brings");
        }
        let may_lose = match event {
            Event::Exited { .. }
            | Event::DeadlineExceeded { .. }
            | Event::Misbehaved { .. }
            | Event::BootFailed { .. } => 1,
            Event::Stop | Event::StopNow | Event::EdgeDrained | Event::Adjust { .. } => before,
            Event::Tick if self.n_stopping_told > 0 => before,
            Event::Load(_) if has(|report| matches!(report, Report::Resized { .. })) => before,
            _ => 0,
        };
        let went_back = has(|report| matches!(report, Report::RolledBack { .. }));
        ensure(went_back || after + may_lose >= before, "somebody is taken from service for nothing")
    }

    /// Those have a limit now.
    pub(super) fn nobody_lingers(&mut self, who: impl Fn(&Process) -> bool) {
        for process in self.processes.values_mut().filter(|process| who(process)) {
            process.lingers_since = None;
        }
    }

    pub(super) fn n_serving(&self) -> usize {
        self.processes.values().filter(|process| process.serves()).count()
    }

    pub(super) fn plan(&mut self, event: Event, wait: Duration) {
        self.n_planned += 1;
        self.plan.insert((self.now + wait, self.n_planned), event);
    }

    pub(super) fn goes_wrong(&mut self, chance: u64) -> bool {
        self.now < self.peace_at && self.rng.percent(chance)
    }

    pub(super) fn note(&mut self, fact: &'static str) {
        *self.facts.entry(fact).or_default() += 1;
    }

    /// The generations whose configuration is still needed.
    pub(super) fn n_remembered(&self) -> usize {
        self.codes.values().filter(|code| !code.forgotten).count()
    }
}

/// Returns a number in `0..=max` with a probability of `percent`, else 0.
fn sometimes(rng: &mut Rng, percent: u64, max: u64) -> u64 {
    if rng.percent(percent) { rng.below(max + 1) } else { 0 }
}

/// Returns a number in `1..=max`.
fn one_to(rng: &mut Rng, max: u16) -> NonZeroU16 {
    let n = u16::try_from(1 + rng.below(u64::from(max))).expect("at most `max`");
    NonZeroU16::new(n).expect("at least one")
}

fn invent(rng: &mut Rng, exit_on_first_boot_failure: bool, broken: u64) -> Code {
    let count = one_to(rng, 5);
    let boot = (!rng.percent(20)).then(|| Duration::from_secs(1 + rng.below(60)));
    let drain = Duration::from_secs(rng.below(30));
    let min = if rng.percent(60) { count } else { one_to(rng, count.get()) };
    // Long enough that its crew can be replaced one by one meanwhile, or it would never come to an end.
    let boots = boot.unwrap_or(Duration::from_secs(20)) / 2 * (u32::from(count.get()) + 6);
    let policy = SupervisorPolicy {
        exit_on_first_boot_failure,
        min,
        preload: rng.percent(30),
        probe: rng.percent(30),
        watch: rng.percent(30).then(|| Duration::from_secs(1 + rng.below(60))),
        max_lifetime: rng.percent(20).then(|| boots + Duration::from_secs(10 + rng.below(60))),
        idle_exit: rng.percent(20).then(|| Duration::from_secs(10 + rng.below(60))),
        boots_at_once: one_to(rng, 3),
        ..SupervisorPolicy::new("app".to_owned(), count, boot, drain)
    };
    let fails = sometimes(rng, 30, 50);
    Code { policy, broken, fails, forgotten: false }
}
