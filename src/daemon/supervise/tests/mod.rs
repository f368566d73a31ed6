//! One promise a test: events with an invented clock in, actions compared. What no table thinks of is the
//! simulation's.

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

use crate::id::{Generation, Life, WorkerId, WorkerNr};

use super::*;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A supervisor at an invented time, whose actions are looked at and not performed.
struct Table {
    supervisor: Supervisor,
    begin: Instant,
    now: Instant,
    pid: u32,
}

impl Table {
    fn new(count: u16) -> Self {
        Self::with(policy(count))
    }

    fn with(policy: SupervisorPolicy) -> Self {
        let now = Instant::now();
        Table { supervisor: Supervisor::new(policy), begin: now, now, pid: 100 }
    }

    /// `count` workers, all ready, lives 1 to count in seats 0 to count - 1.
    fn ready(count: u16) -> Self {
        let mut table = Table::new(count);
        table.tell(Event::Started);
        for number in 0..count {
            table.boots(worker(number, u64::from(number) + 1));
        }
        assert_eq!(table.supervisor.snapshot().ready, usize::from(count));
        table
    }

    fn tell(&mut self, event: Event) -> Vec<Action> {
        let actions = self.supervisor.handle(event, self.now);
        if let Err(broken) = self.supervisor.check_invariants() {
            panic!("{broken}");
        }
        actions
    }

    fn after(&mut self, wait: Duration) -> &mut Self {
        self.now += wait;
        self
    }

    fn tick(&mut self) -> Vec<Action> {
        self.tell(Event::Tick)
    }

    fn spawned(&mut self, worker: WorkerId) -> Vec<Action> {
        self.pid += 1;
        let pid = self.pid;
        self.tell(Event::Spawned { worker, pid })
    }

    fn boots(&mut self, worker: WorkerId) -> Vec<Action> {
        self.spawned(worker);
        self.tell(Event::Ready { worker })
    }

    fn fails(&mut self, worker: WorkerId) -> Vec<Action> {
        self.spawned(worker);
        self.tell(Event::BootFailed { worker, failure: import_error() })
    }

    fn exits(&mut self, worker: WorkerId) -> Vec<Action> {
        self.tell(Event::Exited { worker, exit: Exit::Code(1) })
    }

    /// The worker says that it is drained, is asked to leave, and goes.
    fn leaves(&mut self, worker: WorkerId) {
        let drained = self.tell(Event::Drained { worker });
        assert!(drained.contains(&Action::Terminate { worker }), "{drained:?}");
        self.tell(Event::Exited { worker, exit: Exit::Code(0) });
    }

    fn status(&self) -> String {
        self.supervisor.snapshot().status
    }

    fn wakeup(&self) -> Option<Duration> {
        self.supervisor.next_wakeup().map(|at| at.duration_since(self.now))
    }
}

fn policy(count: u16) -> SupervisorPolicy {
    let count = NonZeroU16::new(count).expect("tests have workers");
    SupervisorPolicy::new("mysite.wsgi".to_owned(), count, Some(60 * SECOND), 30 * SECOND)
}

fn worker(number: u16, life: u64) -> WorkerId {
    WorkerId { number: WorkerNr(number), life: Life(life) }
}

fn spawn(number: u16, life: u64) -> Action {
    Action::Spawn { worker: worker(number, life), generation: Generation(1), method: SpawnMethod::Exec }
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

/// Of one that nobody waits for, or that is to blame itself.
fn kill(worker: WorkerId) -> Action {
    Action::Kill { worker, abort: None }
}

/// Of one that had something to finish.
fn cut(worker: WorkerId, why: AbortReason) -> Action {
    Action::Kill { worker, abort: Some(why) }
}

fn spawn_of(generation: u64, number: u16, life: u64) -> Action {
    let generation = Generation(generation);
    Action::Spawn { worker: worker(number, life), generation, method: SpawnMethod::Exec }
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

/// Those asked to leave.
fn terminations(actions: &[Action]) -> Vec<WorkerId> {
    let terminations = actions.iter().filter_map(|action| match action {
        Action::Terminate { worker } => Some(*worker),
        _ => None,
    });
    terminations.collect()
}

/// What became of the reloads that ended: the generation and the kind of its failure.
fn verdicts(actions: &[Action]) -> Vec<(u64, Option<BootFailureKind>)> {
    let verdicts = actions.iter().filter_map(|action| match action {
        Action::AnswerReload { generation, outcome } => {
            Some((generation.0, outcome.as_ref().err().map(|failure| failure.kind)))
        }
        _ => None,
    });
    verdicts.collect()
}
