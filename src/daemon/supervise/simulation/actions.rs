//! What the supervisor orders, performed as `run` would, and what comes of it; an order that makes no sense is a
//! failure.

use std::time::Duration;

use crate::id::{Generation, WorkerId, WorkerNr};

use super::super::*;
use super::fact;
use super::world::{Process, Verdict, World, ensure};

impl World {
    pub(super) fn perform(&mut self, action: &Action, event: &Event) -> Verdict {
        ensure(self.exit.is_none(), "an action after Exit")?;
        match action {
            Action::Spawn { worker, generation, method } => self.spawn(*worker, *generation, *method)?,
            Action::Admit { worker } => self.admit(*worker)?,
            Action::Retire { worker } => {
                let (live, now) = (self.live, self.now);
                let process = self.living(*worker, "Retire")?;
                ensure(process.serves(), "Retire of a worker that does not serve")?;
                process.admitted = false;
                // Not because it is stuck, nor for new code: worn out, or one too many.
                let lingers = process.generation == live && !process.stuck;
                process.lingers_since = lingers.then_some(now);
                let is_slow = self.goes_wrong(self.faults.rude);
                let long = self.rng.up_to(Duration::from_mins(5));
                if !is_slow {
                    let wait = self.rng.up_to(Duration::from_secs(20));
                    self.plan(Event::Drained { worker: *worker }, wait);
                } else if lingers && self.rng.percent(50) {
                    // A request that is allowed to take long,
                    self.plan(Event::Drained { worker: *worker }, long);
                } else if lingers {
                    // and one that takes longer than it is allowed to.
                    self.plan(Event::DeadlineExceeded { worker: *worker }, long);
                }
            }
            Action::Terminate { worker } => {
                let process = self.living(*worker, "Terminate")?;
                ensure(process.exists, "Terminate before Spawned")?;
                ensure(!process.asked_to_leave && !process.killed, "Terminate of a leaving worker")?;
                process.asked_to_leave = true;
                if !self.rng.percent(self.faults.rude) {
                    let wait = self.rng.up_to(Duration::from_secs(8));
                    self.plan(Event::Exited { worker: *worker, exit: Exit::Code(0) }, wait);
                }
            }
            Action::Kill { worker, abort } => self.kill(*worker, *abort, event)?,
            Action::Probe { worker } => {
                let process = self.living(*worker, "Probe")?;
                ensure(process.said_ready && !process.admitted, "a probe of one that serves or cannot")?;
                let generation = process.generation;
                let limit = self.codes[&generation].policy.boot;
                let may_be_silent = limit.is_some();
                let wait = self.rng.up_to(limit.unwrap_or(Duration::from_secs(6)) / 2);
                if !self.goes_wrong(self.faults.probe_fails) {
                    self.plan(Event::Probed { worker: *worker, outcome: Ok(()) }, wait);
                } else if !may_be_silent || self.rng.percent(70) {
                    let outcome = Err("the probe was answered with status 500".to_owned());
                    self.plan(Event::Probed { worker: *worker, outcome }, wait);
                }
            }
            Action::DumpStacks { worker } => {
                ensure(self.living(*worker, "DumpStacks")?.exists, "stacks of what does not exist")?;
                self.note("stacks taken");
                if self.rng.percent(70) {
                    let wait = self.rng.up_to(Duration::from_secs(1));
                    let stacks = self.rng.percent(50).then(|| "Thread 1".to_owned());
                    self.plan(Event::StacksDumped { worker: *worker, stacks }, wait);
                }
            }
            Action::Promote { worker } => self.promote(*worker)?,
            Action::GoLive { generation } => {
                let code = self.codes.get(generation).ok_or("a generation that nobody asked for")?;
                ensure(!code.forgotten, "a generation that was forgotten goes live")?;
                ensure(*generation != self.live, "what is live goes live")?;
                self.live = *generation;
                self.nobody_lingers(|process| process.generation != *generation);
            }
            Action::ForgetGeneration { generation } => {
                ensure(*generation != self.live, "the live generation is forgotten")?;
                let code = self.codes.get_mut(generation).ok_or("a generation that nobody asked for")?;
                ensure(!code.forgotten, "forgotten twice")?;
                code.forgotten = true;
            }
            Action::AnswerReload { generation, outcome } => self.judge(*generation, outcome)?,
            Action::NotifyReloading => {
                ensure(self.told_ready && self.n_stopping_told == 0, "RELOADING=1 at the wrong time")?;
                self.is_reloading = true;
            }
            Action::NotifyReady => {
                ensure(self.n_stopping_told == 0, "READY=1 after STOPPING=1")?;
                ensure(!self.told_ready || self.is_reloading, "READY=1 for nothing")?;
                let is_first = !self.told_ready;
                ensure(!is_first || self.n_serving() > 0, "READY=1 and nobody serves")?;
                (self.told_ready, self.is_reloading) = (true, false);
            }
            Action::NotifyStopping => self.n_stopping_told += 1,
            Action::DrainEdge { deadline } => {
                ensure(self.n_stopping_told == 1, "the edge is drained without STOPPING=1")?;
                ensure(*deadline >= self.now, "a deadline in the past")?;
                if !self.rng.percent(self.faults.rude / 2) {
                    let wait = self.rng.up_to(Duration::from_secs(40));
                    let wait = if self.rng.percent(50) { Duration::ZERO } else { wait };
                    self.plan(Event::EdgeDrained, wait);
                }
            }
            Action::Unavailable(reason) => {
                ensure(self.unavailable || reason.is_some(), "taken back what was not said")?;
                self.unavailable = reason.is_some();
            }
            Action::Exit { status, reason } => {
                ensure((*status == 0) == reason.is_none(), "a failure has a reason, a success has none")?;
                self.exit = Some(*status);
            }
            Action::Status(line) => ensure(!line.contains('\n'), "a status of two lines")?,
            Action::ExtendTimeout(wait) => ensure(!wait.is_zero(), "an extension by nothing")?,
            Action::Report(report) => {
                self.note(fact(report));
                if let Report::ZygoteReady { worker, .. } = report
                    && self.goes_wrong(self.faults.crashes / 2)
                {
                    let wait = self.rng.up_to(Duration::from_secs(50));
                    let exit = Exit::Signal { signal: 9, core_dumped: false };
                    self.plan(Event::Exited { worker: *worker, exit }, wait);
                }
            }
        }
        Ok(())
    }

    fn living(&mut self, worker: WorkerId, order: &str) -> Result<&mut Process, String> {
        self.processes.get_mut(&worker).ok_or_else(|| format!("{order} for a process that is not there"))
    }

    fn admit(&mut self, worker: WorkerId) -> Verdict {
        let live = self.live;
        let process = self.living(worker, "Admit")?;
        ensure(process.said_ready && !process.admitted, "Admit before Ready, or twice")?;
        ensure(!process.killed && !process.asked_to_leave, "Admit of a leaving worker")?;
        ensure(process.generation == live, "Admit of a generation that is not live")?;
        ensure(!process.is_zygote(), "Admit of a zygote")?;
        process.admitted = true;
        process.drained = false;
        if std::mem::replace(&mut process.ever_admitted, true) {
            self.note("admitted again");
        }
        self.serve(worker);
        Ok(())
    }

    fn kill(&mut self, worker: WorkerId, abort: Option<AbortReason>, event: &Event) -> Verdict {
        let nobody_serves = self.n_serving() == 0;
        let process = self.living(worker, "Kill")?;
        ensure(process.exists && !process.killed, "Kill before Spawned, or twice")?;
        let is_of_use = process.ever_admitted && !process.stuck && !process.asked_to_leave;
        // Time that ran out, a seat that has to be filled, an order; not because it is not needed any more.
        let is_excused = matches!(
            event,
            Event::Tick
                | Event::Stop
                | Event::StopNow
                | Event::Misbehaved { .. }
                | Event::BootFailed { .. }
                | Event::Exited { .. }
                | Event::SpawnFailed { .. }
                | Event::DeadlineExceeded { .. }
        );
        let is_excused = is_excused || nobody_serves;
        ensure(!is_of_use || is_excused, "a worker that is not needed is killed instead of asked")?;
        let is_to_blame = matches!(
            event,
            Event::Misbehaved { worker: bad, .. } | Event::BootFailed { worker: bad, .. } if *bad == worker
        );
        let lingers = is_of_use && process.lingers_since.is_some() && !process.promoted;
        ensure(
            !lingers || is_to_blame || abort == Some(AbortReason::Shutdown),
            "a worn-out worker is killed in the middle of a request that may take long",
        )?;
        ensure(
            !is_of_use || is_to_blame || process.promoted || process.drained || abort.is_some(),
            "a worker is killed while it finishes what it has, and that is not said",
        )?;
        process.killed = true;
        let wait = self.rng.up_to(Duration::from_millis(300));
        let exit = Exit::Signal { signal: 9, core_dumped: false };
        self.plan(Event::Exited { worker, exit }, wait);
        Ok(())
    }

    fn promote(&mut self, worker: WorkerId) -> Verdict {
        let process = self.living(worker, "Promote")?;
        ensure(process.ever_admitted && !process.admitted && !process.stuck, "Promote of one that is busy")?;
        ensure(!process.killed && !process.asked_to_leave, "Promote of a leaving worker")?;
        process.promoted = true;
        let wait = self.rng.up_to(Duration::from_secs(2));
        let is_well = !self.goes_wrong(self.faults.boot_fails.max(self.faults.crashes));
        match self.rng.below(3) {
            _ if is_well => self.plan(Event::Ready { worker }, wait),
            0 => self.plan(Event::Exited { worker, exit: Exit::Code(1) }, wait),
            // It hangs.
            _ => {}
        }
        Ok(())
    }

    fn judge(&mut self, generation: Generation, outcome: &Result<(), BootFailure>) -> Verdict {
        let in_peace =
            self.reloads.remove(&generation).ok_or("a second verdict, or one that was not asked for")?;
        match outcome {
            Ok(()) => {
                ensure(generation == self.live, "a success that is not live")?;
                ensure(self.n_serving() > 0, "a success and nobody serves")?;
                if in_peace {
                    self.note("reload in peace");
                }
                Ok(())
            }
            Err(BootFailure { kind: BootFailureKind::Superseded | BootFailureKind::Stopped, .. }) => Ok(()),
            Err(failure) => {
                ensure(!in_peace, &format!("nothing goes wrong any more and a reload fails: {failure}"))
            }
        }
    }

    fn spawn(&mut self, worker: WorkerId, generation: Generation, method: SpawnMethod) -> Verdict {
        let code = self.codes.get(&generation).ok_or("a generation that nobody asked for")?.clone();
        ensure(!code.forgotten, "a worker of a generation that was forgotten")?;
        ensure(self.n_remembered() <= 3, "more than two generations beside the live one")?;
        ensure(self.newest < worker.life, "a life that is not new")?;
        self.newest = worker.life;
        let is_zygote = method == SpawnMethod::ExecZygote;
        ensure(is_zygote == (worker.number == WorkerNr::ZYGOTE), "a zygote has a number of its own")?;
        ensure(is_zygote || usize::from(worker.number.0) < self.most, "a seat that does not exist")?;
        ensure((method == SpawnMethod::Exec) != code.policy.preload, "preload is not as the policy has it")?;
        if let SpawnMethod::Fork(zygote) = method {
            let process = self.processes.get(&zygote).ok_or("a fork of the dead")?;
            let is_able =
                process.is_zygote() && process.said_ready && !process.killed && !process.asked_to_leave;
            ensure(is_able && process.generation == generation, "a fork of one that is no zygote")?;
        }
        let process = Process {
            generation,
            method,
            exists: false,
            said_ready: false,
            admitted: false,
            ever_admitted: false,
            stuck: false,
            asked_to_leave: false,
            killed: false,
            promoted: false,
            lingers_since: None,
            drained: false,
        };
        self.processes.insert(worker, process);
        let n_zygotes = self.processes.values().filter(|process| process.is_zygote()).count();
        ensure(
            self.processes.len() - n_zygotes <= 3 * self.most,
            "more processes than three times the count",
        )?;
        self.boot(worker, method, &code);
        Ok(())
    }

    /// What becomes of a boot.
    fn boot(&mut self, worker: WorkerId, method: SpawnMethod, code: &super::world::Code) {
        // Mostly the answer comes before anything else can; the supervisor may not rely on that.
        let spawn = Duration::from_millis(if self.rng.percent(80) { 0 } else { 40 });
        if self.goes_wrong(self.faults.spawn_fails) {
            let fault = if self.rng.percent(80) { SpawnFault::System } else { SpawnFault::Config };
            let reason = "no process to be had".to_owned();
            self.plan(Event::SpawnFailed { worker, fault, reason }, spawn);
            return;
        }
        let pid = u32::try_from(worker.life.0).expect("a history is short");
        self.plan(Event::Spawned { worker, pid }, spawn);

        // A boot that is slow but allowed; half the limit leaves room for a late tick.
        let limit = code.policy.boot.unwrap_or(Duration::from_secs(20));
        let import =
            if matches!(method, SpawnMethod::Fork(_)) { Duration::from_millis(50) } else { limit / 2 };
        let boot = spawn + self.rng.up_to(import);
        if self.goes_wrong(self.faults.boot_fails.max(code.broken)) {
            match self.rng.below(3) {
                0 => self.plan(Event::Exited { worker, exit: Exit::Code(3) }, boot),
                1 => self.plan(Event::Misbehaved { worker, reason: "sent garbage".to_owned() }, boot),
                _ => {
                    let kind = BootFailureKind::App;
                    let summary = format!("ImportError: No module named 'x{}'", self.rng.below(2));
                    let failure = BootFailure::new(kind, summary);
                    self.plan(Event::BootFailed { worker, failure }, boot);
                    if !self.rng.percent(self.faults.rude) {
                        let exit = boot + Duration::from_millis(20);
                        self.plan(Event::Exited { worker, exit: Exit::Code(1) }, exit);
                    }
                }
            }
        } else if code.policy.boot.is_none() || !self.goes_wrong(self.faults.boot_hangs) {
            self.plan(Event::Ready { worker }, boot);
            // The kernel may take anybody, those who stand by as well.
            if self.goes_wrong(self.faults.crashes / 4) {
                let wait = boot + self.rng.up_to(Duration::from_secs(20));
                let exit = Exit::Signal { signal: 9, core_dumped: false };
                self.plan(Event::Exited { worker, exit }, wait);
            }
        }
    }

    /// What becomes of a worker that serves.
    fn serve(&mut self, worker: WorkerId) {
        let longest = if self.rng.percent(50) { Duration::from_secs(5) } else { Duration::from_secs(50) };
        if self.goes_wrong(self.faults.crashes) {
            let wait = self.rng.up_to(longest);
            self.plan(Event::Exited { worker, exit: Exit::Signal { signal: 11, core_dumped: true } }, wait);
        }
        if self.goes_wrong(self.faults.gets_stuck) {
            // Several of its threads may be.
            for _ in 0..=self.rng.below(3) {
                let wait = self.rng.up_to(longest);
                self.plan(Event::DeadlineExceeded { worker }, wait);
            }
        }
        if self.goes_wrong(self.faults.misbehaves) {
            let wait = self.rng.up_to(longest);
            self.plan(Event::Misbehaved { worker, reason: "sent garbage".to_owned() }, wait);
        }
        if self.goes_wrong(self.faults.wears_out) {
            let preloads = self.codes[&self.live].policy.preload;
            let reason = match self.rng.below(if preloads { 12 } else { 3 }) {
                0 => RecycleReason::Requests { served: 1000 },
                1 => RecycleReason::Memory { bytes: 2, limit: 1 },
                _ => RecycleReason::Refork,
            };
            let wait = self.rng.up_to(longest);
            self.plan(Event::RecycleDue { worker, reason }, wait);
            if self.rng.percent(20) {
                let wait = self.rng.up_to(longest);
                self.plan(Event::StopRequested { worker, signal: 15 }, wait);
            }
        }
    }
}
