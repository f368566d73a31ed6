//! Thousands of invented histories: a world in which spawns fail, imports hang, workers crash, get stuck, lie and
//! ignore being asked to leave, and the clock jumps; and an operator who stops the daemon at any moment.
//!
//! The world performs the actions as `run` would and holds the supervisor to its promises: no order that makes no
//! sense, never too many processes, invariants after each step; and in the end, that everything heals once faults
//! stop, and that a stop leaves nobody behind and exits exactly once. A failure names its seed:
//! `RGUN_SIMULATION_SEED=… cargo test -p rgun supervise::simulation` plays that history alone.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use super::*;

/// splitmix64 (Steele, Lea, Flood 2014): enough randomness for a world, and the same on every machine.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    fn up_to(&mut self, longest: Duration) -> Duration {
        let longest = u64::try_from(longest.as_millis()).expect("a history is short");
        Duration::from_millis(self.below(longest + 1))
    }
}

/// How bad this world's days are, in percent.
struct Faults {
    spawn_fails: u64,
    boot_fails: u64,
    boot_hangs: u64,
    crashes: u64,
    gets_stuck: u64,
    misbehaves: u64,
    clock_jumps: u64,
    rude: u64,
}

/// A process as the world knows it.
#[derive(Default)]
struct Process {
    exists: bool,
    said_ready: bool,
    admitted: bool,
    retired: bool,
    asked_to_leave: bool,
    killed: bool,
    is_gone: bool,
}

impl Process {
    fn serves(&self) -> bool {
        self.admitted && !self.retired && !self.asked_to_leave && !self.killed && !self.is_gone
    }
}

struct World {
    dice: Dice,
    faults: Faults,
    begin: Instant,
    now: Instant,
    /// After this nothing new goes wrong.
    peace_at: Instant,
    supervisor: Supervisor,
    count: usize,
    boot_limit: Option<Duration>,
    /// What is going to happen, in order.
    plan: BTreeMap<(Instant, u64), Event>,
    n_planned: u64,
    processes: BTreeMap<WorkerId, Process>,
    n_ready_told: u32,
    n_stopping_told: u32,
    unavailable: bool,
    exit: Option<u8>,
    /// Time was counted before what had been received was told: a killed worker may have been given up unjustly.
    ticked_early: bool,
    healed: bool,
    reports: BTreeMap<&'static str, u64>,
    n_steps: u32,
    /// For a failure: what led to it.
    log: Vec<String>,
}

type Verdict = Result<(), String>;

fn ensure(holds: bool, what: &str) -> Verdict {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let count = u16::try_from(1 + dice.below(5)).expect("few");
        let boot = (!dice.percent(20)).then(|| Duration::from_secs(1 + dice.below(60)));
        let drain = Duration::from_secs(dice.below(30));
        let count = NonZeroU16::new(count).expect("at least one");
        let exit_on_first_boot_failure = dice.percent(50);
        let policy =
            Policy { exit_on_first_boot_failure, ..Policy::new("app".to_owned(), count, boot, drain) };
        // Most worlds have one or two things wrong with them, some have everything.
        let mut chance = |often: u64, most: u64| if dice.percent(often) { dice.below(most + 1) } else { 0 };
        let faults = Faults {
            spawn_fails: chance(30, 60),
            boot_fails: chance(40, 90),
            boot_hangs: chance(30, 60),
            crashes: chance(60, 100),
            gets_stuck: chance(50, 100),
            misbehaves: chance(30, 60),
            clock_jumps: chance(30, 10),
            rude: chance(50, 100),
        };
        let now = Instant::now();
        let peace_at = now + dice.up_to(Duration::from_secs(250));
        World {
            faults,
            begin: now,
            now,
            peace_at,
            supervisor: Supervisor::new(policy),
            count: usize::from(count.get()),
            boot_limit: boot,
            plan: BTreeMap::new(),
            n_planned: 0,
            processes: BTreeMap::new(),
            n_ready_told: 0,
            n_stopping_told: 0,
            unavailable: false,
            exit: None,
            ticked_early: false,
            healed: false,
            reports: BTreeMap::new(),
            n_steps: 0,
            log: Vec::new(),
            dice,
        }
    }

    /// One whole history.
    fn live(&mut self) -> Verdict {
        self.plan(Event::Started, Duration::ZERO);
        // In most histories the operator waits until all is well again, in some not.
        if self.dice.percent(40) {
            let stop = if self.dice.percent(70) { Event::Stop } else { Event::StopNow };
            let wait = self.dice.up_to(Duration::from_secs(290));
            self.plan(stop, wait);
        }
        while self.step()? {}
        if self.exit.is_none() {
            self.is_healed()?;
            self.healed = true;
            let is_hasty = self.dice.percent(30);
            self.plan(Event::Stop, Duration::ZERO);
            if is_hasty {
                let wait = self.dice.up_to(Duration::from_secs(40));
                self.plan(Event::StopNow, wait);
            }
            while self.step()? {}
        }
        self.is_over()
    }

    fn is_healed(&self) -> Verdict {
        let snapshot = self.supervisor.snapshot();
        ensure(snapshot.ready == self.count, "faults have stopped and not every seat is ready")?;
        ensure(snapshot.workers.len() == self.count, "all is quiet and somebody is still leaving")?;
        let n_serving = self.processes.values().filter(|process| process.serves()).count();
        ensure(n_serving == self.count, "the supervisor counts workers that do not serve")?;
        ensure(!self.unavailable, "everybody serves and clients are refused")?;
        ensure(self.n_ready_told == 1, "everybody serves and systemd was not told")?;
        let status = format!("{0}/{0} workers ready", self.count);
        ensure(snapshot.status == status, "the status of a healthy daemon is not plain")
    }

    fn is_over(&self) -> Verdict {
        let Some(status) = self.exit else { return Err("nothing more happens and no Exit".to_owned()) };
        ensure(self.n_stopping_told == 1, "STOPPING=1 is to be told once")?;
        let is_over = |process: &Process| process.is_gone || (self.ticked_early && process.killed);
        ensure(self.processes.values().all(is_over), "a process is left behind")?;
        ensure(status == 0 || self.n_ready_told == 0, "a failed start after a good one")
    }

    /// Lets the next thing happen; false when nothing will ever again.
    fn step(&mut self) -> Result<bool, String> {
        self.n_steps += 1;
        ensure(self.n_steps < 20_000, "the history does not end")?;
        let wakeup = self.supervisor.next_wakeup();
        let planned = self.plan.keys().next().map(|(at, _)| *at);
        let Some(next) = wakeup.into_iter().chain(planned).min() else { return Ok(false) };
        self.now = self.now.max(next);
        if self.dice.percent(self.faults.clock_jumps) && self.now < self.peace_at {
            self.now += self.dice.up_to(Duration::from_secs(90));
        }
        let is_planned = planned.is_some_and(|at| at <= self.now);
        let is_due = wakeup.is_some_and(|at| at <= self.now);
        // Mostly what has been received is told first, as it should be; a wrong order may not break anything.
        if is_due && (!is_planned || self.dice.percent(10)) {
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

    /// A planned event, if it can still come from a process that exists.
    fn happen(&mut self, event: Event) -> Verdict {
        match &event {
            Event::Spawned { worker, .. } => {
                self.processes.get_mut(worker).ok_or("a process nobody asked for")?.exists = true;
            }
            Event::Ready { worker } => {
                let process = self.processes.get_mut(worker).ok_or("ready, and never asked for")?;
                if process.is_gone {
                    return Ok(());
                }
                process.said_ready = true;
            }
            Event::BootFailed { worker, .. }
            | Event::DeadlineExceeded { worker }
            | Event::Drained { worker } => {
                let is_gone = self.processes.get(worker).is_none_or(|process| process.is_gone);
                // Words about the dead do arrive now and then.
                let is_heard = !is_gone || self.dice.percent(50);
                if !is_heard {
                    return Ok(());
                }
            }
            Event::Exited { worker, .. } => {
                let process = self.processes.get_mut(worker).ok_or("an exit of nobody")?;
                if process.is_gone {
                    return Ok(());
                }
                process.is_gone = true;
            }
            _ => {}
        }
        self.tell(event)
    }

    fn tell(&mut self, event: Event) -> Verdict {
        self.log.push(format!("{:?} {event:?}", self.now.duration_since(self.begin)));
        let actions = self.supervisor.handle(event, self.now);
        self.supervisor.check_invariants()?;
        ensure(self.exit.is_none() || actions.is_empty(), "an action after Exit")?;
        for action in actions {
            self.log.push(format!("    {action:?}"));
            self.perform(action)?;
        }
        if self.unavailable {
            let nobody = !self.processes.values().any(Process::serves);
            ensure(nobody, "clients are refused while somebody serves")?;
        }
        Ok(())
    }

    fn plan(&mut self, event: Event, wait: Duration) {
        self.n_planned += 1;
        self.plan.insert((self.now + wait, self.n_planned), event);
    }

    fn goes_wrong(&mut self, chance: u64) -> bool {
        self.now < self.peace_at && self.dice.percent(chance)
    }

    fn living(&mut self, worker: WorkerId, order: &str) -> Result<&mut Process, String> {
        let process = self.processes.get_mut(&worker).filter(|process| !process.is_gone);
        process.ok_or_else(|| format!("{order} for a process that is not there"))
    }

    fn perform(&mut self, action: Action) -> Verdict {
        ensure(self.exit.is_none(), "an action after Exit")?;
        match action {
            Action::Spawn { worker, .. } => self.spawn(worker)?,
            Action::Admit { worker } => {
                let process = self.living(worker, "Admit")?;
                ensure(process.said_ready && !process.admitted, "Admit before Ready, or twice")?;
                ensure(!process.killed && !process.asked_to_leave, "Admit of a leaving worker")?;
                process.admitted = true;
                self.serve(worker);
            }
            Action::Retire { worker } => {
                let process = self.living(worker, "Retire")?;
                ensure(process.serves(), "Retire of a worker that does not serve")?;
                process.retired = true;
                if !self.goes_wrong(self.faults.rude) {
                    let wait = self.dice.up_to(Duration::from_secs(20));
                    self.plan(Event::Drained { worker }, wait);
                }
            }
            Action::Terminate { worker } => {
                let process = self.living(worker, "Terminate")?;
                ensure(!process.asked_to_leave && !process.killed, "Terminate of a leaving worker")?;
                process.asked_to_leave = true;
                if !self.dice.percent(self.faults.rude) {
                    let wait = self.dice.up_to(Duration::from_secs(8));
                    self.plan(Event::Exited { worker, how: Exit::Code(0) }, wait);
                }
            }
            Action::Kill { worker } => {
                let process = self.living(worker, "Kill")?;
                ensure(process.exists && !process.killed, "Kill before Spawned, or twice")?;
                process.killed = true;
                let wait = self.dice.up_to(Duration::from_millis(300));
                let how = Exit::Signal { signal: 9, core_dumped: false };
                self.plan(Event::Exited { worker, how }, wait);
            }
            Action::NotifyReady => {
                self.n_ready_told += 1;
                ensure(self.n_ready_told == 1 && self.n_stopping_told == 0, "READY=1 at the wrong time")?;
                ensure(self.processes.values().any(Process::serves), "READY=1 and nobody serves")?;
            }
            Action::NotifyStopping => self.n_stopping_told += 1,
            Action::DrainEdge { deadline } => {
                ensure(self.n_stopping_told == 1, "the edge is drained without STOPPING=1")?;
                ensure(deadline >= self.now, "a deadline in the past")?;
                if !self.dice.percent(self.faults.rude / 2) {
                    let wait = self.dice.up_to(Duration::from_secs(40));
                    let wait = if self.dice.percent(50) { Duration::ZERO } else { wait };
                    self.plan(Event::EdgeDrained, wait);
                }
            }
            Action::Unavailable(reason) => {
                ensure(self.unavailable || reason.is_some(), "taken back what was not said")?;
                self.unavailable = reason.is_some();
            }
            Action::Exit { status, reason } => {
                ensure((status == 0) == reason.is_none(), "a failure has a reason, a success has none")?;
                self.exit = Some(status);
            }
            Action::Status(line) => ensure(!line.contains('\n'), "a status of two lines")?,
            Action::ExtendTimeout(wait) => ensure(!wait.is_zero(), "an extension by nothing")?,
            Action::Probe { .. }
            | Action::TakeStacks { .. }
            | Action::Promote { .. }
            | Action::GoLive { .. }
            | Action::Forget { .. }
            | Action::Verdict { .. }
            | Action::NotifyReloading => {}
            Action::Report(report) => *self.reports.entry(report_name(&report)).or_default() += 1,
        }
        Ok(())
    }

    fn spawn(&mut self, worker: WorkerId) -> Verdict {
        ensure(usize::from(worker.number.0) < self.count, "a seat that does not exist")?;
        let newest = self.processes.keys().map(|id| id.life).max();
        ensure(newest.is_none_or(|life| life < worker.life), "a life that is not new")?;
        self.processes.insert(worker, Process::default());
        let n_alive = self.processes.values().filter(|process| !process.is_gone).count();
        ensure(n_alive <= 2 * self.count, "more processes than twice the count")?;

        // Mostly the answer comes before anything else can; the supervisor may not rely on that.
        let spawn = Duration::from_millis(if self.dice.percent(80) { 0 } else { 40 });
        if self.goes_wrong(self.faults.spawn_fails) {
            self.processes.entry(worker).or_default().is_gone = true;
            let fault = if self.dice.percent(80) { SpawnFault::System } else { SpawnFault::Config };
            let reason = "no process to be had".to_owned();
            self.plan(Event::SpawnFailed { worker, fault, reason }, spawn);
            return Ok(());
        }
        let pid = u32::try_from(worker.life.0).expect("a history is short");
        self.plan(Event::Spawned { worker, pid }, spawn);

        // A boot that is slow but allowed; half the limit leaves room for a late tick.
        let limit = self.boot_limit.unwrap_or(Duration::from_secs(20));
        let boot = spawn + self.dice.up_to(limit / 2);
        if self.goes_wrong(self.faults.boot_fails) {
            match self.dice.below(3) {
                0 => self.plan(Event::Exited { worker, how: Exit::Code(3) }, boot),
                1 => self.plan(Event::Misbehaved { worker, why: "sent garbage".to_owned() }, boot),
                _ => {
                    let kind = BootFailureKind::App;
                    let summary = format!("ImportError: No module named 'x{}'", self.dice.below(2));
                    let failure = BootFailure { kind, summary, traceback: None };
                    self.plan(Event::BootFailed { worker, failure }, boot);
                    if !self.dice.percent(self.faults.rude) {
                        self.plan(
                            Event::Exited { worker, how: Exit::Code(1) },
                            boot + Duration::from_millis(20),
                        );
                    }
                }
            }
        } else if self.boot_limit.is_none() || !self.goes_wrong(self.faults.boot_hangs) {
            self.plan(Event::Ready { worker }, boot);
        }
        Ok(())
    }

    /// What becomes of a worker that serves.
    fn serve(&mut self, worker: WorkerId) {
        let longest = if self.dice.percent(50) { Duration::from_secs(5) } else { Duration::from_secs(50) };
        if self.goes_wrong(self.faults.crashes) {
            let wait = self.dice.up_to(longest);
            self.plan(Event::Exited { worker, how: Exit::Signal { signal: 11, core_dumped: true } }, wait);
        }
        if self.goes_wrong(self.faults.gets_stuck) {
            // Several of its threads may be.
            for _ in 0..=self.dice.below(3) {
                let wait = self.dice.up_to(longest);
                self.plan(Event::DeadlineExceeded { worker }, wait);
            }
        }
        if self.goes_wrong(self.faults.misbehaves) {
            let wait = self.dice.up_to(longest);
            self.plan(Event::Misbehaved { worker, why: "sent garbage".to_owned() }, wait);
        }
    }
}

#[test]
fn every_history_keeps_the_promises_and_ends_well() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("RGUN_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RGUN_SIMULATION_HISTORIES").unwrap_or(5000),
    };
    let mut seen = Seen::default();
    for seed in seeds.clone() {
        let mut world = World::new(seed);
        if let Err(why) = world.live() {
            let tail = world.log.len().saturating_sub(60);
            let log = world.log[tail..].join("\n");
            panic!("RGUN_SIMULATION_SEED={seed}: {why}\n{log}");
        }
        seen.note(&world);
    }
    if seeds.end - seeds.start >= 1000 {
        seen.is_enough();
    }
}

/// A simulation in which nothing happens keeps every promise: what the histories have to contain together.
#[derive(Debug, Default)]
struct Seen {
    histories: u64,
    steps: u64,
    failed_starts: u64,
    healed: u64,
    reports: BTreeMap<&'static str, u64>,
}

impl Seen {
    fn note(&mut self, world: &World) {
        self.histories += 1;
        self.steps += u64::from(world.n_steps);
        self.failed_starts += u64::from(world.exit == Some(78));
        self.healed += u64::from(world.healed);
        for (name, n) in &world.reports {
            *self.reports.entry(name).or_default() += n;
        }
    }

    fn is_enough(&self) {
        println!("{self:#?}");
        assert!(self.failed_starts > self.histories / 100, "{self:#?}");
        assert!(self.healed > self.histories / 3, "{self:#?}");
        for name in ALL_REPORTS {
            assert!(self.reports.get(name).is_some_and(|n| *n >= 20), "too few {name}: {self:#?}");
        }
    }
}

fn report_name(report: &Report) -> &'static str {
    match report {
        Report::WorkerReady { .. } => "ready",
        Report::WorkerBootFailed { .. } => "boot failed",
        Report::WorkerExited { state: LifeState::Ready, .. } => "crashed",
        Report::WorkerExited { .. } => "exited",
        Report::WorkerMisbehaved { .. } => "misbehaved",
        Report::Replacing { .. } => "replacing",
        Report::Replaced { .. } => "replaced",
        Report::Overdue { state, .. } => state.as_str(),
        Report::RetirementCut { .. } => "retirement cut",
        Report::DrainRanOut { .. } => "drain ran out",
        _ => "other",
    }
}

const ALL_REPORTS: [&str; 12] = [
    "ready",
    "boot failed",
    "crashed",
    "exited",
    "misbehaved",
    "replacing",
    "replaced",
    "retiring",
    "terminating",
    "failed",
    "retirement cut",
    "drain ran out",
];
