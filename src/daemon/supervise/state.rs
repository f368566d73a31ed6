//! What the supervisor remembers: seats, the lives in and around them, and where the daemon as a whole is.
//! Only data and the questions that need nothing else; the transitions are in `supervisor`.

use std::time::{Duration, Instant};

use crate::id::{Generation, Life, WorkerId};

use super::RecycleReason;
use super::backoff::Backoff;

/// Where a worker is in its life, as told to people and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkerState {
    /// Asked for; left when `run` says whether there is a process.
    Spawning,
    /// There is a process, importing; left by ready, failure, exit or `timeouts.boot`.
    Booting,
    /// It is given exchanges; left by exit, a stuck request, a breach of contract, its successor, or the end of the
    /// daemon.
    Ready,
    /// It could serve and does not: a generation that is not live yet, the one before it while that is watched, or a
    /// zygote; left when its generation goes live or is dismissed, or by exit.
    Standby,
    /// It finishes what it has; left when drained, or by SIGKILL at `timeouts.drain`, if that is its limit.
    Retiring,
    /// It is drained and was asked to become the zygote; left when it has, or by SIGKILL.
    Promoting,
    /// It said that it cannot boot and is about to exit; killed when it does not.
    Failed,
    /// It was asked to leave; killed when it does not.
    Terminating,
    /// SIGKILL was sent; left when it is reaped.
    Killed,
}

impl WorkerState {
    /// The word for it in metrics and status output.
    pub fn as_str(self) -> &'static str {
        match self {
            WorkerState::Spawning => "spawning",
            WorkerState::Booting => "booting",
            WorkerState::Ready => "ready",
            WorkerState::Standby => "standby",
            WorkerState::Retiring => "retiring",
            WorkerState::Promoting => "promoting",
            WorkerState::Failed => "failed",
            WorkerState::Terminating => "terminating",
            WorkerState::Killed => "killed",
        }
    }
}

/// [`WorkerState`] with the deadline that bounds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimedState {
    Spawning {
        deadline: Option<Instant>,
    },
    Booting {
        deadline: Option<Instant>,
    },
    /// Its boot limit is over, and its stacks are being written; told to people as booting.
    BootTimedOut {
        kill_at: Instant,
    },
    Ready,
    Standby,
    /// `stuck` when a thread of it does not end: it cannot be asked to leave. Without a deadline its requests' own
    /// limits bound it: who is only worn out, or one too many, does not cost a client its answer.
    Retiring {
        deadline: Option<Instant>,
        stuck: bool,
    },
    Promoting {
        kill_at: Instant,
    },
    Failed {
        kill_at: Instant,
    },
    Terminating {
        kill_at: Instant,
    },
    /// After `abandon_at` the end of the daemon does not wait for it any more. `None` when the answer to `Spawn` is
    /// still owed: the process is killed as soon as it is there, and its time to be reaped begins then.
    Killed {
        abandon_at: Option<Instant>,
        abandoned: bool,
    },
}

/// How a process comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpawnMethod {
    /// The interpreter is executed, and imports the application.
    Exec,
    /// The interpreter is executed, imports the application, and never serves: others are forked from it.
    ExecZygote,
    /// Forked from this zygote, which is ready.
    Fork(WorkerId),
}

/// What a process is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProcessRole {
    /// To serve.
    Worker,
    /// To be forked from.
    Zygote,
}

/// One process, or the wish for one.
#[derive(Clone, Debug)]
pub(super) struct WorkerRecord {
    pub(super) id: WorkerId,
    pub(super) generation: Generation,
    pub(super) role: ProcessRole,
    pub(super) method: SpawnMethod,
    /// The most workers its generation had when it was asked for.
    pub(super) set_size: usize,
    /// `None` until `Spawned`.
    pub(super) pid: Option<u32>,
    /// When `Spawn` was asked for.
    pub(super) requested_at: Instant,
    /// When `state` was entered.
    pub(super) since: Instant,
    pub(super) state: TimedState,
    /// Nobody waits for it: it was never admitted, or has been drained since it was retired.
    pub(super) drained: bool,
    /// When and why it was found to have done its share; it serves on until its successor is ready.
    pub(super) recycle: Option<(Instant, RecycleReason)>,
    /// When it reaches `workers.max_lifetime`.
    pub(super) expires_at: Option<Instant>,
}

impl WorkerRecord {
    pub(super) fn enter(&mut self, state: TimedState, now: Instant) {
        self.state = state;
        self.since = now;
    }

    pub(super) fn public_state(&self) -> WorkerState {
        match self.state {
            TimedState::Spawning { .. } => WorkerState::Spawning,
            TimedState::Booting { .. } | TimedState::BootTimedOut { .. } => WorkerState::Booting,
            TimedState::Ready => WorkerState::Ready,
            TimedState::Standby => WorkerState::Standby,
            TimedState::Retiring { .. } => WorkerState::Retiring,
            TimedState::Promoting { .. } => WorkerState::Promoting,
            TimedState::Failed { .. } => WorkerState::Failed,
            TimedState::Terminating { .. } => WorkerState::Terminating,
            TimedState::Killed { .. } => WorkerState::Killed,
        }
    }

    /// The instant at which a tick moves it on by force.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state {
            TimedState::Spawning { deadline: at }
            | TimedState::Booting { deadline: at }
            | TimedState::Retiring { deadline: at, .. }
            | TimedState::Killed { abandon_at: at, abandoned: false } => at,
            TimedState::BootTimedOut { kill_at: at }
            | TimedState::Promoting { kill_at: at }
            | TimedState::Failed { kill_at: at }
            | TimedState::Terminating { kill_at: at } => Some(at),
            TimedState::Ready | TimedState::Standby | TimedState::Killed { abandoned: true, .. } => None,
        }
    }

    /// When it has to be looked at for its age.
    pub(super) fn expiry(&self) -> Option<Instant> {
        self.expires_at.filter(|_| self.is_ready() && self.recycle.is_none())
    }

    pub(super) fn is_zygote(&self) -> bool {
        self.role == ProcessRole::Zygote
    }

    /// It is given exchanges.
    pub(super) fn is_ready(&self) -> bool {
        self.state == TimedState::Ready
    }

    pub(super) fn is_standby(&self) -> bool {
        self.state == TimedState::Standby
    }

    pub(super) fn is_booting(&self) -> bool {
        matches!(
            self.state,
            TimedState::Spawning { .. } | TimedState::Booting { .. } | TimedState::BootTimedOut { .. }
        )
    }

    /// It finishes what it has for as long as that takes.
    pub(super) fn is_retiring_unbounded(&self) -> bool {
        matches!(self.state, TimedState::Retiring { deadline: None, .. })
    }

    /// On its way to or in service: what may hold a seat.
    pub(super) fn is_current(&self) -> bool {
        self.is_ready() || self.is_standby() || self.is_booting()
    }

    /// Its process will be gone soon without anybody doing more.
    pub(super) fn is_exiting(&self) -> bool {
        matches!(
            self.state,
            TimedState::Failed { .. }
                | TimedState::Terminating { .. }
                | TimedState::Killed { abandoned: false, .. }
        )
    }

    pub(super) fn is_abandoned(&self) -> bool {
        matches!(self.state, TimedState::Killed { abandoned: true, .. })
    }
}

/// One stable seat for a worker, or for a zygote. Lives that are on their way out no longer hold their seat.
#[derive(Clone, Debug, Default)]
pub(super) struct Seat {
    /// The life that boots or serves here; `None` is a next_vacancy.
    pub(super) current: Option<Life>,
    /// The life that boots to take over from `current`, which is worn out and serves until then.
    pub(super) successor: Option<Life>,
    /// Neither a next_vacancy nor the seat of a successor is filled before this; `None` is at once.
    pub(super) retry_at: Option<Instant>,
    /// How long that wait was when it began, for people.
    pub(super) wait: Duration,
    pub(super) backoff: Backoff,
    /// Why the last life here was too short, until one becomes ready.
    pub(super) failure: Option<String>,
    /// The stuck life whose seat the current or next one takes, until that one is ready.
    pub(super) replaces: Option<WorkerId>,
}

impl Seat {
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.current.is_none() && self.may_spawn(now)
    }

    pub(super) fn may_spawn(&self, now: Instant) -> bool {
        self.retry_at.is_none_or(|at| at <= now)
    }

    /// The life does not hold this seat any more; whoever was to follow it does.
    pub(super) fn vacate(&mut self, life: Life) {
        if self.successor == Some(life) {
            self.successor = None;
        }
        if self.current == Some(life) {
            self.current = self.successor.take();
        }
    }

    /// What happened here is over: the next life here begins with nothing held against it.
    pub(super) fn clear(&mut self) {
        self.clear_wait();
        self.failure = None;
        self.replaces = None;
    }

    /// Fill it again at once.
    pub(super) fn clear_wait(&mut self) {
        self.retry_at = None;
        self.wait = Duration::ZERO;
    }

    /// Leave it empty for `wait`.
    pub(super) fn set_wait(&mut self, wait: Duration, now: Instant) {
        self.retry_at = Some(after(now, wait));
        self.wait = wait;
    }
}

/// Where the daemon is: each follows from the one above, steps may be left out, none is gone back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DaemonPhase {
    /// Before `Started`.
    NotStarted,
    /// Serving, or trying to.
    Running,
    /// The edge answers what it has; workers go on serving it.
    Draining { since: Instant, deadline: Instant },
    /// Every worker has been told to go, one way or the other.
    Stopping,
    /// `Exit` was told; nothing happens any more.
    Exited,
}

/// `now + wait`, for waits as long as configuration allows.
pub(super) fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now + MAX_WAIT)
}

const MAX_WAIT: Duration = Duration::from_secs(1 << 25);
