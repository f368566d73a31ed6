//! Performs the supervisor's actions as `run` would, checks that each fits the state of its
//! process, and plans the events that follow.

use std::time::Duration;

use crate::id::{Generation, WorkerId, WorkerNr};

use super::super::*;
use super::fact;
use super::world::{Check, Process, World, ensure};

impl World {
    pub(super) fn perform(&mut self, action: &Action, event: &Event) -> Check {
        ensure(self.exit.is_none(), "an action after Exit")?;
        match action {
            Action::Spawn { worker, generation, method } => self.spawn(*worker, *generation, *method)?,
            Action::Admit { worker } => self.admit(*worker)?,
            Action::Retire { worker } => {
                let (live, now) = (self.live, self.now);
                let process = self.process(*worker, "Retire")?;
                ensure(process.serves(), "Retire of a worker that does not serve")?;
                process.admitted = false;
                // A recycled or surplus worker: neither stuck nor replaced by a reload.
                let is_unbounded = process.generation == live && !process.stuck;
                process.unbounded_since = is_unbounded.then_some(now);
                let is_slow = self.fails(self.faults.unresponsive);
                let long = self.rng.up_to(Duration::from_mins(5));
                if !is_slow {
                    let wait = self.rng.up_to(Duration::from_secs(20));
                    self.plan(Event::Drained { worker: *worker }, wait);
                } else if is_unbounded && self.rng.percent(50) {
                    // A long request within its timeout.
                    self.plan(Event::Drained { worker: *worker }, long);
                } else if is_unbounded {
                    // A request that exceeds its timeout.
                    self.plan(Event::DeadlineExceeded { worker: *worker }, long);
                }
            }
            Action::CancelRequests { worker } => {
                let process = self.process(*worker, "CancelRequests")?;
                ensure(!process.terminated && !process.killed, "CancelRequests of a worker that is exiting")?;
            }
            Action::Terminate { worker } => {
                let process = self.process(*worker, "Terminate")?;
                ensure(process.exists, "Terminate before Spawned")?;
                ensure(!process.terminated && !process.killed, "Terminate of a worker that is exiting")?;
                process.terminated = true;
                if !self.rng.percent(self.faults.unresponsive) {
                    let wait = self.rng.up_to(Duration::from_secs(8));
                    self.plan(Event::Exited { worker: *worker, exit: Exit::Code(0) }, wait);
                }
            }
            Action::Kill { worker, abort } => self.kill(*worker, *abort, event)?,
            Action::Probe { worker } => {
                let process = self.process(*worker, "Probe")?;
                ensure(
                    process.reported_ready && !process.admitted,
                    "Probe of a worker that is admitted or not ready",
                )?;
                let generation = process.generation;
                let limit = self.codes[&generation].policy.boot;
                let may_be_silent = limit.is_some();
                let wait = self.rng.up_to(limit.unwrap_or(Duration::from_secs(6)) / 2);
                if !self.fails(self.faults.probe_fails) {
                    self.plan(Event::Probed { worker: *worker, outcome: Ok(()) }, wait);
                } else if !may_be_silent || self.rng.percent(70) {
                    let outcome = Err("the probe was answered with status 500".to_owned());
                    self.plan(Event::Probed { worker: *worker, outcome }, wait);
                }
            }
            Action::DumpStacks { worker } => {
                ensure(self.process(*worker, "DumpStacks")?.exists, "DumpStacks before Spawned")?;
                self.count("stacks dumped");
                if self.rng.percent(70) {
                    let wait = self.rng.up_to(Duration::from_secs(1));
                    let stacks = self.rng.percent(50).then(|| "Thread 1".to_owned());
                    self.plan(Event::StacksDumped { worker: *worker, stacks }, wait);
                }
            }
            Action::Promote { worker } => self.promote(*worker)?,
            Action::GoLive { generation } => {
                let code = self.codes.get(generation).ok_or("an unknown generation")?;
                ensure(!code.forgotten, "a forgotten generation goes live")?;
                ensure(*generation != self.live, "the live generation goes live again")?;
                self.live = *generation;
                self.bound_retirements(|process| process.generation != *generation);
            }
            Action::ForgetGeneration { generation } => {
                ensure(*generation != self.live, "the live generation is forgotten")?;
                let code = self.codes.get_mut(generation).ok_or("an unknown generation")?;
                ensure(!code.forgotten, "forgotten twice")?;
                code.forgotten = true;
            }
            Action::AnswerReload { generation, outcome } => self.check_reload_answer(*generation, outcome)?,
            Action::NotifyReloading => {
                ensure(self.ready_sent && self.n_stopping_sent == 0, "RELOADING=1 at the wrong time")?;
                self.is_reloading = true;
            }
            Action::NotifyReady => {
                ensure(self.n_stopping_sent == 0, "READY=1 after STOPPING=1")?;
                ensure(!self.ready_sent || self.is_reloading, "a second READY=1 without RELOADING=1")?;
                let is_first = !self.ready_sent;
                ensure(!is_first || self.n_serving() > 0, "READY=1 while no worker is ready")?;
                (self.ready_sent, self.is_reloading) = (true, false);
            }
            Action::NotifyStopping => self.n_stopping_sent += 1,
            Action::DrainEdge { deadline } => {
                ensure(self.n_stopping_sent == 1, "DrainEdge without STOPPING=1")?;
                ensure(*deadline >= self.now, "a deadline in the past")?;
                if !self.rng.percent(self.faults.unresponsive / 2) {
                    let wait = self.rng.up_to(Duration::from_secs(40));
                    let wait = if self.rng.percent(50) { Duration::ZERO } else { wait };
                    self.plan(Event::EdgeDrained, wait);
                }
            }
            Action::Unavailable(reason) => {
                ensure(self.unavailable || reason.is_some(), "the end of an outage that did not begin")?;
                self.unavailable = reason.is_some();
            }
            Action::Presence(presence) => {
                ensure(*presence != self.presence, "the same presence again")?;
                let is_back = self.presence == Presence::Leaving;
                ensure(!is_back, "a daemon that was about to leave comes back")?;
                let is_leaving = *presence == Presence::Leaving;
                ensure(
                    is_leaving == (self.n_stopping_sent == 1),
                    "the presence is Leaving without STOPPING=1, or the reverse",
                )?;
                self.presence = *presence;
            }
            Action::Exit { status, reason } => {
                ensure(
                    matches!(status, 0 | 79) == reason.is_none(),
                    "a reason without a failure, or a failure without a reason",
                )?;
                self.exit = Some(*status);
            }
            Action::Status(line) => ensure(!line.contains('\n'), "a status of two lines")?,
            Action::ExtendTimeout(wait) => ensure(!wait.is_zero(), "an extension of no length")?,
            Action::Report(report) => {
                self.count(fact(report));
                if let Report::ZygoteReady { worker, .. } = report
                    && self.fails(self.faults.crashes / 2)
                {
                    let wait = self.rng.up_to(Duration::from_secs(50));
                    let exit = Exit::Signal { signal: 9, core_dumped: false };
                    self.plan(Event::Exited { worker: *worker, exit }, wait);
                }
            }
        }
        Ok(())
    }

    fn process(&mut self, worker: WorkerId, action: &str) -> Result<&mut Process, String> {
        self.processes.get_mut(&worker).ok_or_else(|| format!("{action} for a process that does not exist"))
    }

    fn admit(&mut self, worker: WorkerId) -> Check {
        let live = self.live;
        let process = self.process(worker, "Admit")?;
        ensure(process.reported_ready && !process.admitted, "Admit before Ready, or twice")?;
        ensure(!process.killed && !process.terminated, "Admit of a worker that is exiting")?;
        ensure(process.generation == live, "Admit of a generation that is not live")?;
        ensure(!process.is_zygote(), "Admit of a zygote")?;
        process.admitted = true;
        process.drained = false;
        if std::mem::replace(&mut process.ever_admitted, true) {
            self.count("admitted again");
        }
        self.serve(worker);
        Ok(())
    }

    fn kill(&mut self, worker: WorkerId, abort: Option<AbortReason>, event: &Event) -> Check {
        let none_serving = self.n_serving() == 0;
        let process = self.process(worker, "Kill")?;
        ensure(process.exists && !process.killed, "Kill before Spawned, or twice")?;
        let is_healthy = process.ever_admitted && !process.stuck && !process.terminated;
        // A healthy worker that is no longer needed is terminated, not killed.
        let may_kill = matches!(
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
        let may_kill = may_kill || none_serving;
        ensure(!is_healthy || may_kill, "a surplus worker is killed instead of terminated")?;
        let is_at_fault = matches!(
            event,
            Event::Misbehaved { worker: bad, .. } | Event::BootFailed { worker: bad, .. } if *bad == worker
        );
        let is_unbounded = is_healthy && process.unbounded_since.is_some() && !process.promoted;
        ensure(
            !is_unbounded || is_at_fault || abort == Some(AbortReason::Shutdown),
            "a worker is killed during a retirement without a deadline",
        )?;
        ensure(
            !is_healthy || is_at_fault || process.promoted || process.drained || abort.is_some(),
            "a worker with requests is killed without an abort reason",
        )?;
        process.killed = true;
        let wait = self.rng.up_to(Duration::from_millis(300));
        let exit = Exit::Signal { signal: 9, core_dumped: false };
        self.plan(Event::Exited { worker, exit }, wait);
        Ok(())
    }

    fn promote(&mut self, worker: WorkerId) -> Check {
        let process = self.process(worker, "Promote")?;
        ensure(process.ever_admitted && !process.admitted && !process.stuck, "Promote of a busy worker")?;
        ensure(!process.killed && !process.terminated, "Promote of a worker that is exiting")?;
        process.promoted = true;
        let wait = self.rng.up_to(Duration::from_secs(2));
        let succeeds = !self.fails(self.faults.boot_fails.max(self.faults.crashes));
        match self.rng.below(3) {
            _ if succeeds => self.plan(Event::Ready { worker }, wait),
            0 => self.plan(Event::Exited { worker, exit: Exit::Code(1) }, wait),
            // The worker does not answer.
            _ => {}
        }
        Ok(())
    }

    fn check_reload_answer(&mut self, generation: Generation, outcome: &Result<(), BootFailure>) -> Check {
        let without_faults =
            self.reloads.remove(&generation).ok_or("a second answer, or one without a reload")?;
        match outcome {
            Ok(()) => {
                ensure(generation == self.live, "a successful reload that is not live")?;
                ensure(self.n_serving() > 0, "a successful reload without a ready worker")?;
                if without_faults {
                    self.count("reload without faults");
                }
                Ok(())
            }
            Err(BootFailure { kind: BootFailureKind::Superseded | BootFailureKind::Stopped, .. }) => Ok(()),
            Err(failure) => {
                ensure(!without_faults, &format!("a reload fails although faults have stopped: {failure}"))
            }
        }
    }

    fn spawn(&mut self, worker: WorkerId, generation: Generation, method: SpawnMethod) -> Check {
        let code = self.codes.get(&generation).ok_or("an unknown generation")?.clone();
        ensure(!code.forgotten, "a worker of a forgotten generation")?;
        ensure(self.n_configured() <= 3, "more than two generations alongside the live one")?;
        ensure(self.newest < worker.incarnation, "a reused incarnation")?;
        self.newest = worker.incarnation;
        let is_zygote = method == SpawnMethod::ExecZygote;
        ensure(
            is_zygote == (worker.number == WorkerNr::ZYGOTE),
            "a zygote with a worker's number, or a worker with the zygote's",
        )?;
        ensure(is_zygote || usize::from(worker.number.0) < self.max_count, "a seat that does not exist")?;
        ensure(
            (method == SpawnMethod::Exec) != code.policy.preload,
            "a spawn method that does not fit workers.preload",
        )?;
        if let SpawnMethod::Fork(zygote) = method {
            let process = self.processes.get(&zygote).ok_or("a fork of a process that does not exist")?;
            let is_ready_zygote =
                process.is_zygote() && process.reported_ready && !process.killed && !process.terminated;
            ensure(
                is_ready_zygote && process.generation == generation,
                "a fork of a process that is not a ready zygote",
            )?;
        }
        let process = Process {
            generation,
            method,
            exists: false,
            reported_ready: false,
            admitted: false,
            ever_admitted: false,
            stuck: false,
            terminated: false,
            killed: false,
            promoted: false,
            unbounded_since: None,
            drained: false,
        };
        self.processes.insert(worker, process);
        let n_zygotes = self.processes.values().filter(|process| process.is_zygote()).count();
        ensure(
            self.processes.len() - n_zygotes <= 3 * self.max_count,
            "more workers than three times the seats",
        )?;
        self.boot(worker, method, &code);
        Ok(())
    }

    /// Plans the events of a boot.
    fn boot(&mut self, worker: WorkerId, method: SpawnMethod, code: &super::world::Code) {
        // The answer usually comes at once; the supervisor must not rely on that.
        let spawn = Duration::from_millis(if self.rng.percent(80) { 0 } else { 40 });
        if self.fails(self.faults.spawn_fails) {
            let fault = if self.rng.percent(80) { SpawnFault::System } else { SpawnFault::Config };
            let reason = "fork: Resource temporarily unavailable".to_owned();
            self.plan(Event::SpawnFailed { worker, fault, reason }, spawn);
            return;
        }
        let pid = u32::try_from(worker.incarnation.0).expect("a history is short");
        self.plan(Event::Spawned { worker, pid }, spawn);

        // Imports take at most half of `timeouts.boot`, so that a late tick does not time the boot
        // out.
        let limit = code.policy.boot.unwrap_or(Duration::from_secs(20));
        let import =
            if matches!(method, SpawnMethod::Fork(_)) { Duration::from_millis(50) } else { limit / 2 };
        let boot = spawn + self.rng.up_to(import);
        if self.fails(self.faults.boot_fails.max(code.boot_failures)) {
            match self.rng.below(3) {
                0 => self.plan(Event::Exited { worker, exit: Exit::Code(3) }, boot),
                1 => self.plan(Event::Misbehaved { worker, reason: "sent garbage".to_owned() }, boot),
                _ => {
                    let kind = BootFailureKind::App;
                    let summary = format!("ImportError: No module named 'x{}'", self.rng.below(2));
                    let failure = BootFailure::new(kind, summary);
                    self.plan(Event::BootFailed { worker, failure }, boot);
                    if !self.rng.percent(self.faults.unresponsive) {
                        let exit = boot + Duration::from_millis(20);
                        self.plan(Event::Exited { worker, exit: Exit::Code(1) }, exit);
                    }
                }
            }
        } else if code.policy.boot.is_none() || !self.fails(self.faults.boot_hangs) {
            self.plan(Event::Ready { worker }, boot);
            // The OOM killer may hit any worker, also one in standby.
            if self.fails(self.faults.crashes / 4) {
                let wait = boot + self.rng.up_to(Duration::from_secs(20));
                let exit = Exit::Signal { signal: 9, core_dumped: false };
                self.plan(Event::Exited { worker, exit }, wait);
            }
        }
    }

    /// Plans the faults and limits of an admitted worker.
    fn serve(&mut self, worker: WorkerId) {
        let max_wait = if self.rng.percent(50) { Duration::from_secs(5) } else { Duration::from_secs(50) };
        if self.fails(self.faults.crashes) {
            let wait = self.rng.up_to(max_wait);
            self.plan(Event::Exited { worker, exit: Exit::Signal { signal: 11, core_dumped: true } }, wait);
        }
        if self.fails(self.faults.gets_stuck) {
            // Several of its threads may be stuck.
            for _ in 0..=self.rng.below(3) {
                let wait = self.rng.up_to(max_wait);
                self.plan(Event::DeadlineExceeded { worker }, wait);
            }
        }
        if self.fails(self.faults.misbehaves) {
            let wait = self.rng.up_to(max_wait);
            self.plan(Event::Misbehaved { worker, reason: "sent garbage".to_owned() }, wait);
        }
        if self.fails(self.faults.reaches_limit) {
            let preloads = self.codes[&self.live].policy.preload;
            let reason = match self.rng.below(if preloads { 12 } else { 3 }) {
                0 => RecycleReason::Requests { served: 1000 },
                1 => RecycleReason::Memory { bytes: 2, limit: 1 },
                _ => RecycleReason::Refork,
            };
            let wait = self.rng.up_to(max_wait);
            self.plan(Event::RecycleDue { worker, reason }, wait);
            if self.rng.percent(20) {
                let wait = self.rng.up_to(max_wait);
                self.plan(Event::StopRequested { worker, signal: 15 }, wait);
            }
        }
    }
}
