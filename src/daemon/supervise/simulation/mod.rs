//! Thousands of invented histories: a world in which spawns fail, imports hang, workers crash, get stuck, reason out,
//! lie and ignore being asked to leave, zygotes die, and the clock jumps; and an operator who reloads good and broken
//! code, changes the number of workers, and stops the daemon at any moment.
//!
//! The world performs the actions as `run` would and holds the supervisor to its promises: no order that makes no
//! sense, never too many processes, nobody less serving for the sake of a reload, one verdict for each, invariants
//! after each step; and in the end, that everything heals once faults stop, and that a stop leaves nobody behind and
//! exits exactly once. A failure names its seed: `RGUN_SIMULATION_SEED=… cargo test -p rgun supervise::simulation`
//! plays that history alone.

mod actions;
mod world;

use std::collections::BTreeMap;

use self::world::World;
use crate::id::WorkerNr;

use super::*;

#[test]
fn every_history_keeps_the_promises_and_ends_well() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match number("RGUN_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("RGUN_SIMULATION_HISTORIES").unwrap_or(MIN_RESPONSES),
    };
    let mut seen = Seen::default();
    for seed in seeds.clone() {
        let mut world = World::new(seed);
        if let Err(why) = world.live() {
            let tail = world.log.len().saturating_sub(80);
            let log = world.log[tail..].join("\n");
            panic!("RGUN_SIMULATION_SEED={seed}: {why}\n{log}");
        }
        seen.note(&world);
    }
    if seeds.end - seeds.start >= MIN_RESPONSES {
        seen.is_enough();
    }
}

/// Histories that together contain everything.
const MIN_RESPONSES: u64 = 5000;

/// A simulation in which nothing happens keeps every promise: what the histories have to contain together.
#[derive(Debug, Default)]
struct Seen {
    histories: u64,
    steps: u64,
    failed_starts: u64,
    healed: u64,
    facts: BTreeMap<&'static str, u64>,
}

impl Seen {
    fn note(&mut self, world: &World) {
        self.histories += 1;
        self.steps += u64::from(world.n_steps);
        self.failed_starts += u64::from(world.exit == Some(78));
        self.healed += u64::from(world.healed);
        for (name, n) in &world.facts {
            *self.facts.entry(name).or_default() += n;
        }
    }

    fn is_enough(&self) {
        println!("{self:#?}");
        assert!(self.failed_starts > self.histories / 100, "{self:#?}");
        assert!(self.healed > self.histories / 3, "{self:#?}");
        for name in ALL_FACTS {
            assert!(self.facts.get(name).is_some_and(|n| *n >= 20), "too few {name}: {self:#?}");
        }
    }
}

/// What a report is counted as.
fn fact(report: &Report) -> &'static str {
    match report {
        Report::WorkerReady { .. } => "ready",
        Report::ZygoteReady { worker, .. } if worker.number == WorkerNr::ZYGOTE => "zygote ready",
        Report::ZygoteReady { .. } => "zygote promoted",
        Report::WorkerBootFailed { .. } => "boot failed",
        Report::WorkerExited { state: WorkerState::Ready, .. } => "crashed",
        Report::WorkerExited { state: WorkerState::Standby, .. } => "crashed while standing by",
        Report::WorkerExited { .. } => "exited",
        Report::WorkerMisbehaved { .. } => "misbehaved",
        Report::Replacing { .. } => "replacing",
        Report::Replaced { .. } => "replaced",
        Report::Recycling { reason: RecycleReason::Lifetime, .. } => "aged",
        Report::Recycling { reason: RecycleReason::Signal { .. }, .. } => "asked to leave",
        Report::Recycling { reason: RecycleReason::Refork, .. } => "to be a zygote",
        Report::Recycling { .. } => "worn out",
        Report::ReloadStarted { .. } => "reload began",
        Report::ReloadCompleted { .. } => "reload done",
        Report::ReloadFailed { failure, .. } => match failure.kind {
            BootFailureKind::Superseded => "reload superseded",
            BootFailureKind::Stopped => "reload stopped",
            BootFailureKind::Probe => "probe failed",
            _ => "reload failed",
        },
        Report::RolledBack { .. } => "went back",
        Report::Resized { reason: ResizeReason::Operator, .. } => "number asked for",
        Report::Resized { reason: ResizeReason::QueueWait(_), .. } => "grown",
        Report::Resized { reason: ResizeReason::LowLoad, .. } => "shrunk",
        Report::Resized { reason: ResizeReason::IdleExit, .. } => "fallen asleep",
        Report::Resized { reason: ResizeReason::Request, .. } => "woken",
        Report::Overdue { state, .. } => state.as_str(),
        Report::RetirementAborted { .. } => "retirement cut",
        Report::DrainTimedOut { .. } => "drain ran out",
    }
}

const ALL_FACTS: [&str; 38] = [
    "ready",
    "zygote ready",
    "zygote promoted",
    "boot failed",
    "crashed",
    "crashed while standing by",
    "exited",
    "misbehaved",
    "replacing",
    "replaced",
    "aged",
    "asked to leave",
    "to be a zygote",
    "worn out",
    "reload began",
    "reload done",
    "reload superseded",
    "reload stopped",
    "probe failed",
    "reload failed",
    "went back",
    "number asked for",
    "grown",
    "shrunk",
    "fallen asleep",
    "woken",
    "retiring",
    "promoting",
    "terminating",
    "failed",
    "retirement cut",
    "drain ran out",
    // What is not a report.
    "reload before anybody was ready",
    "reload in peace",
    "stacks taken",
    "fork lost with its zygote",
    "admitted again",
    "finished after the drain limit",
];
