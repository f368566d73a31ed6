//! Plays thousands of random histories. Spawns fail, imports hang, workers crash, get stuck, reach
//! their limits, violate the contract and ignore Terminate, zygotes die, and the clock jumps. The
//! operator reloads good and broken code, changes the number of workers, drains the daemon, and stops
//! it at any moment; memory becomes short.
//!
//! The world performs the actions as `run` would. It checks that each action fits the process's
//! state, that the process limits hold, that no reload reduces the number of ready workers, that
//! each reload is answered once, and that the invariants hold after each event. After faults have
//! stopped, all workers must become ready; then a stop must leave no process and exit exactly once.
//! A failure prints its seed: `RGUN_SIMULATION_SEED=… cargo test -p rgun supervise::simulation`
//! plays only that history.

mod actions;
mod environment;
mod world;

use std::collections::BTreeMap;

use self::world::World;
use crate::id::WorkerNr;

use super::*;

#[test]
fn random_histories_keep_all_invariants() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("RGUN_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RGUN_SIMULATION_HISTORIES").unwrap_or(N_HISTORIES),
    };
    let mut coverage = Coverage::default();
    for seed in seeds.clone() {
        let mut world = World::new(seed);
        if let Err(violation) = world.run() {
            let tail = world.log.len().saturating_sub(80);
            let log = world.log[tail..].join("\n");
            panic!("RGUN_SIMULATION_SEED={seed}: {violation}\n{log}");
        }
        coverage.add(&world);
    }
    if seeds.end - seeds.start >= N_HISTORIES {
        coverage.check();
    }
}

/// The number of histories that covers all facts.
const N_HISTORIES: u64 = 5000;

/// The facts of all histories together. Each fact must occur, because an empty history would pass
/// each check.
#[derive(Debug, Default)]
struct Coverage {
    histories: u64,
    steps: u64,
    failed_starts: u64,
    recovered: u64,
    facts: BTreeMap<&'static str, u64>,
}

impl Coverage {
    fn add(&mut self, world: &World) {
        self.histories += 1;
        self.steps += u64::from(world.n_steps);
        self.failed_starts += u64::from(world.exit == Some(78));
        self.recovered += u64::from(world.recovered);
        for (name, n) in &world.facts {
            *self.facts.entry(name).or_default() += n;
        }
    }

    fn check(&self) {
        println!("{self:#?}");
        assert!(self.failed_starts > self.histories / 100, "{self:#?}");
        assert!(self.recovered > self.histories / 3, "{self:#?}");
        for name in ALL_FACTS {
            assert!(self.facts.get(name).is_some_and(|n| *n >= 20), "too few {name}: {self:#?}");
        }
    }
}

/// Returns the name of the fact under which a report is counted.
fn fact(report: &Report) -> &'static str {
    match report {
        Report::WorkerReady { .. } => "ready",
        Report::ZygoteReady { worker, .. } if worker.number == WorkerNr::ZYGOTE => "zygote ready",
        Report::ZygoteReady { .. } => "zygote promoted",
        Report::WorkerBootFailed { .. } => "boot failed",
        Report::WorkerExited { state: WorkerState::Ready, .. } => "crashed",
        Report::WorkerExited { state: WorkerState::Standby, .. } => "crashed in standby",
        Report::WorkerExited { .. } => "exited",
        Report::WorkerMisbehaved { .. } => "misbehaved",
        Report::Replacing { .. } => "replacing",
        Report::Replaced { .. } => "replaced",
        Report::Recycling { reason: RecycleReason::Lifetime, .. } => "lifetime reached",
        Report::Recycling { reason: RecycleReason::Signal { .. }, .. } => "signalled",
        Report::Recycling { reason: RecycleReason::Refork, .. } => "refork due",
        Report::Recycling { .. } => "limit reached",
        Report::RecyclingPostponed { .. } => "recycling postponed",
        Report::RejectedCode { .. } => "rejected code",
        Report::ReloadStarted { .. } => "reload started",
        Report::ReloadCompleted { .. } => "reload completed",
        Report::ReloadFailed { failure, .. } => match failure.kind {
            BootFailureKind::Superseded => "reload superseded",
            BootFailureKind::Stopped => "reload stopped",
            BootFailureKind::Probe => "probe failed",
            _ => "reload failed",
        },
        Report::RolledBack { .. } => "rolled back",
        Report::Resized { reason: ResizeReason::Operator, .. } => "resized by the operator",
        Report::Resized { reason: ResizeReason::QueueWait(_), .. } => "grown",
        Report::Resized { reason: ResizeReason::LowLoad, .. } => "shrunk",
        Report::Resized { reason: ResizeReason::MemoryPressure, .. } => "shed",
        Report::Resized { reason: ResizeReason::IdleExit, .. } => "fallen asleep",
        Report::Resized { reason: ResizeReason::Request, .. } => "woken",
        Report::Overdue { state, .. } => state.as_str(),
        Report::RetirementAborted { .. } => "retirement aborted",
        Report::DrainTimedOut { .. } => "drain timed out",
        Report::Unused { .. } => "unused",
        Report::DepartureEnded => "departure ended",
    }
}

const ALL_FACTS: [&str; 43] = [
    "ready",
    "zygote ready",
    "zygote promoted",
    "boot failed",
    "crashed",
    "crashed in standby",
    "exited",
    "misbehaved",
    "replacing",
    "replaced",
    "lifetime reached",
    "signalled",
    "refork due",
    "limit reached",
    "recycling postponed",
    "rejected code",
    "reload started",
    "reload completed",
    "reload superseded",
    "reload stopped",
    "probe failed",
    "reload failed",
    "rolled back",
    "resized by the operator",
    "grown",
    "shrunk",
    "shed",
    "fallen asleep",
    "woken",
    "retiring",
    "promoting",
    "terminating",
    "failed",
    "retirement aborted",
    "drain timed out",
    "unused",
    "departure ended",
    // Facts that are not reports.
    "reload before the first ready worker",
    "reload without faults",
    "stacks dumped",
    "fork lost with its zygote",
    "admitted again",
    "finished after the drain limit",
];
