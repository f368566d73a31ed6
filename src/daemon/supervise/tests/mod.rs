//! Each test sends events with an invented clock and compares the actions. Random orders of events
//! are covered by the simulation.

mod preload;
mod recycle;
mod reload;
mod resize;
mod secrets;
mod shutdown;
mod watch;
mod worker_events;

use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use crate::id::{Generation, Incarnation, WorkerId, WorkerNr};

use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A supervisor with an invented clock; its actions are returned to the test and not performed.
struct Harness {
    supervisor: Supervisor,
    start: Instant,
    now: Instant,
    pid: u32,
}

impl Harness {
    fn new(count: u16) -> Self {
        Self::with(policy(count))
    }

    fn with(policy: SupervisorPolicy) -> Self {
        let now = Instant::now();
        Harness { supervisor: Supervisor::new(policy), start: now, now, pid: 100 }
    }

    /// Starts `count` workers, all ready: incarnations 1 to `count` in seats 0 to `count - 1`.
    fn ready(count: u16) -> Self {
        let mut harness = Harness::new(count);
        harness.send(Event::Started);
        for number in 0..count {
            harness.boot(worker(number, u64::from(number) + 1));
        }
        assert_eq!(harness.supervisor.snapshot().ready, usize::from(count));
        harness
    }

    fn send(&mut self, event: Event) -> Vec<Action> {
        let actions = self.supervisor.handle(event, self.now);
        if let Err(broken) = self.supervisor.check_invariants() {
            panic!("{broken}");
        }
        actions
    }

    fn advance(&mut self, wait: Duration) -> &mut Self {
        self.now += wait;
        self
    }

    fn tick(&mut self) -> Vec<Action> {
        self.send(Event::Tick)
    }

    fn spawned(&mut self, worker: WorkerId) -> Vec<Action> {
        self.pid += 1;
        let pid = self.pid;
        self.send(Event::Spawned { worker, pid })
    }

    fn boot(&mut self, worker: WorkerId) -> Vec<Action> {
        self.spawned(worker);
        self.send(Event::Ready { worker })
    }

    fn fail_boot(&mut self, worker: WorkerId) -> Vec<Action> {
        self.spawned(worker);
        self.send(Event::BootFailed { worker, failure: import_error() })
    }

    fn exit(&mut self, worker: WorkerId) -> Vec<Action> {
        self.send(Event::Exited { worker, exit: Exit::Code(1) })
    }

    /// Reports the worker as drained, expects it to be terminated, and reports its exit.
    fn drain_and_exit(&mut self, worker: WorkerId) {
        let drained = self.send(Event::Drained { worker });
        assert!(drained.contains(&Action::Terminate { worker }), "{drained:?}");
        self.send(Event::Exited { worker, exit: Exit::Code(0) });
    }

    fn status(&self) -> String {
        self.supervisor.snapshot().status
    }

    fn wakeup(&self) -> Option<Duration> {
        self.supervisor.next_wakeup().map(|at| at.duration_since(self.now))
    }
}

fn policy(count: u16) -> SupervisorPolicy {
    let count = NonZeroU16::new(count).expect("at least one worker");
    SupervisorPolicy::new("mysite.wsgi".to_owned(), count, Some(60 * SECOND), 30 * SECOND)
}

fn worker(number: u16, incarnation: u64) -> WorkerId {
    WorkerId { number: WorkerNr(number), incarnation: Incarnation(incarnation) }
}

fn spawn(number: u16, incarnation: u64) -> Action {
    Action::Spawn {
        worker: worker(number, incarnation),
        generation: Generation(1),
        method: SpawnMethod::Exec,
    }
}

fn import_error() -> BootFailure {
    BootFailure {
        kind: BootFailureKind::App,
        summary: "ImportError: No module named 'x'".to_owned(),
        headline: "ImportError (x.py, line 1)".to_owned(),
        traceback: Some("Traceback (most recent call last):\n…".to_owned()),
    }
}

fn spawns(actions: &[Action]) -> Vec<WorkerId> {
    let spawns = actions.iter().filter_map(|action| match action {
        Action::Spawn { worker, .. } => Some(*worker),
        _ => None,
    });
    spawns.collect()
}

fn status(actions: &[Action]) -> Option<&str> {
    actions.iter().find_map(|action| match action {
        Action::Status(line) => Some(line.as_str()),
        _ => None,
    })
}

/// The kill of a worker without requests, or of one that is itself the cause.
fn kill(worker: WorkerId) -> Action {
    Action::Kill { worker, abort: None }
}

/// The kill of a worker whose requests are aborted.
fn abort(worker: WorkerId, why: AbortReason) -> Action {
    Action::Kill { worker, abort: Some(why) }
}

fn spawn_of(generation: u64, number: u16, incarnation: u64) -> Action {
    let generation = Generation(generation);
    Action::Spawn { worker: worker(number, incarnation), generation, method: SpawnMethod::Exec }
}

fn admits(actions: &[Action]) -> Vec<WorkerId> {
    let admits = actions.iter().filter_map(|action| match action {
        Action::Admit { worker } => Some(*worker),
        _ => None,
    });
    admits.collect()
}

fn retires(actions: &[Action]) -> Vec<WorkerId> {
    let retires = actions.iter().filter_map(|action| match action {
        Action::Retire { worker } => Some(*worker),
        _ => None,
    });
    retires.collect()
}

fn kills(actions: &[Action]) -> Vec<WorkerId> {
    let kills = actions.iter().filter_map(|action| match action {
        Action::Kill { worker, .. } => Some(*worker),
        _ => None,
    });
    kills.collect()
}

/// The workers that are asked to exit.
fn terminations(actions: &[Action]) -> Vec<WorkerId> {
    let terminations = actions.iter().filter_map(|action| match action {
        Action::Terminate { worker } => Some(*worker),
        _ => None,
    });
    terminations.collect()
}

/// The outcomes of the reloads that ended: the generation and the kind of its failure.
fn reload_outcomes(actions: &[Action]) -> Vec<(u64, Option<BootFailureKind>)> {
    let reload_outcomes = actions.iter().filter_map(|action| match action {
        Action::AnswerReload { generation, outcome } => {
            Some((generation.0, outcome.as_ref().err().map(|failure| failure.kind)))
        }
        _ => None,
    });
    reload_outcomes.collect()
}
