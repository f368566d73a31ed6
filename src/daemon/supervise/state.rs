//! The supervisor's data: worker records, seats, the daemon's phase. The transitions are in
//! `worker_events` and `transitions`.

use std::time::{Duration, Instant};

use crate::id::{Generation, Incarnation, WorkerId};

use super::RecycleReason;
use super::backoff::Backoff;

/// The state of a worker, as reported to operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkerState {
    /// The process is being created. Ends when `run` reports success or failure.
    Spawning,
    /// The process imports the application. Ends with readiness, a boot failure, its exit, or
    /// `timeouts.boot`.
    Booting,
    /// The worker receives requests. Ends with its exit, a stuck request, a contract violation, a
    /// ready successor, or the daemon's shutdown.
    Ready,
    /// The worker is booted and receives no requests: its generation is not live yet, or is kept
    /// for rollback, or it is a zygote. Ends when its generation goes live or is retired, or with
    /// its exit.
    Standby,
    /// The worker finishes its requests and receives no new ones. Ends when it is drained, or with
    /// SIGKILL at its deadline.
    Retiring,
    /// The worker is drained and was asked to become the zygote. Ends when it is the zygote, or
    /// with SIGKILL.
    Promoting,
    /// The worker reported a boot failure and is about to exit. Killed if it does not.
    Failed,
    /// The worker was asked to exit. Killed if it does not.
    Terminating,
    /// SIGKILL was sent. Ends when the process is reaped.
    Killed,
}

impl WorkerState {
    /// All states, in the order of a worker's life.
    pub const ALL_STATES: [Self; 9] = [
        Self::Spawning,
        Self::Booting,
        Self::Standby,
        Self::Ready,
        Self::Retiring,
        Self::Promoting,
        Self::Failed,
        Self::Terminating,
        Self::Killed,
    ];

    /// Returns the name of the state in logs, in status output, and in the type WorkerState of
    /// `io.rgun.Server`.
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
        /// `None` if `timeouts.boot` is off.
        deadline: Option<Instant>,
    },
    Booting {
        /// `None` if `timeouts.boot` is off.
        deadline: Option<Instant>,
    },
    /// `timeouts.boot` has passed and the worker's stacks are being dumped; reported as booting.
    BootTimedOut {
        kill_at: Instant,
    },
    Ready,
    Standby,
    Retiring {
        /// `None` for a recycled or surplus worker: only the timeouts of its requests bound the
        /// retirement.
        deadline: Option<Instant>,
        /// A thread or task of the worker exceeded its deadline, so the worker is killed instead of
        /// asked to exit.
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
    Killed {
        /// When the process counts as abandoned. `None` while `Spawn` is unanswered: the process is
        /// killed once it exists, and its time to be reaped starts then.
        abandon_at: Option<Instant>,
        /// The process was not reaped in time. The daemon's shutdown does not wait for it.
        abandoned: bool,
    },
}

/// The way to create a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpawnMethod {
    /// Execute the interpreter, which imports the application and serves.
    Exec,
    /// Execute the interpreter, which imports the application and becomes a zygote.
    ExecZygote,
    /// Fork from this zygote, which is ready.
    Fork(WorkerId),
}

/// The purpose of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProcessRole {
    /// Serves requests.
    Worker,
    /// Never serves; workers are forked from it.
    Zygote,
}

/// The supervisor's record of one process, from the decision to spawn it until it is reaped.
#[derive(Clone, Debug)]
pub(super) struct WorkerRecord {
    pub(super) id: WorkerId,
    pub(super) generation: Generation,
    pub(super) role: ProcessRole,
    pub(super) method: SpawnMethod,
    /// The number of seats of its generation when it was spawned.
    pub(super) set_size: usize,
    /// `None` before `Spawned`.
    pub(super) pid: Option<u32>,
    /// When `Spawn` was sent.
    pub(super) requested_at: Instant,
    /// When `state` was entered.
    pub(super) since: Instant,
    pub(super) state: TimedState,
    /// The worker runs no requests: it was never admitted, or has been drained since it was
    /// retired.
    pub(super) drained: bool,
    /// When and why the worker's replacement was decided; `None` if it is not to be replaced. The
    /// worker serves until its successor is ready.
    pub(super) recycle: Option<(Instant, RecycleReason)>,
    /// When the worker reaches `workers.max_lifetime`; `None` without a limit, or before the worker
    /// is admitted.
    pub(super) expires_at: Option<Instant>,
}

impl WorkerRecord {
    /// Enters a state at `now`.
    pub(super) fn enter(&mut self, state: TimedState, now: Instant) {
        self.state = state;
        self.since = now;
    }

    /// Returns the state without its deadline, as operators see it.
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

    /// Returns the instant at which a tick ends the worker's state; `None` if only an event ends
    /// it.
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

    /// Returns when the worker reaches `workers.max_lifetime`; `None` if it has no limit, does not
    /// serve, or is being replaced already.
    pub(super) fn expiry(&self) -> Option<Instant> {
        self.expires_at.filter(|_| self.is_ready() && self.recycle.is_none())
    }

    pub(super) fn is_zygote(&self) -> bool {
        self.role == ProcessRole::Zygote
    }

    /// Returns true while the worker receives requests.
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

    /// Returns true if the worker retires without a deadline.
    pub(super) fn is_retiring_unbounded(&self) -> bool {
        matches!(self.state, TimedState::Retiring { deadline: None, .. })
    }

    /// Returns true while the worker may hold a seat: it boots, stands by or serves.
    pub(super) fn is_current(&self) -> bool {
        self.is_ready() || self.is_standby() || self.is_booting()
    }

    /// Returns true if the worker's process is expected to exit without a further action.
    pub(super) fn is_exiting(&self) -> bool {
        matches!(
            self.state,
            TimedState::Failed { .. }
                | TimedState::Terminating { .. }
                | TimedState::Killed { abandoned: false, .. }
        )
    }

    /// Returns true if the process was not reaped in time after SIGKILL.
    pub(super) fn is_abandoned(&self) -> bool {
        matches!(self.state, TimedState::Killed { abandoned: true, .. })
    }
}

/// A stable place for one worker, or for the zygote. A worker gives up its seat before it exits.
#[derive(Clone, Debug, Default)]
pub(super) struct Seat {
    /// The process that boots, stands by or serves here; `None` if the seat is vacant.
    pub(super) current: Option<Incarnation>,
    /// The process that boots to replace `current`, which serves until then; `None` if there is
    /// none.
    pub(super) successor: Option<Incarnation>,
    /// The end of the backoff: no process is spawned here earlier. `None` if one may be spawned at
    /// once.
    pub(super) retry_at: Option<Instant>,
    /// The length of the backoff that ends at `retry_at`.
    pub(super) wait: Duration,
    pub(super) backoff: Backoff,
    /// The reason that the last process here ended early; `None` once a process is ready.
    pub(super) failure: Option<String>,
    /// The stuck worker whose seat this was, until its replacement is ready.
    pub(super) replaces: Option<WorkerId>,
}

impl Seat {
    /// Returns true if the seat is vacant and its backoff has passed.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.current.is_none() && self.may_spawn(now)
    }

    /// Returns true if the backoff has passed.
    pub(super) fn may_spawn(&self, now: Instant) -> bool {
        self.retry_at.is_none_or(|at| at <= now)
    }

    /// Takes the seat from `incarnation`, and gives it to the successor, if there is one.
    pub(super) fn vacate(&mut self, incarnation: Incarnation) {
        if self.successor == Some(incarnation) {
            self.successor = None;
        }
        if self.current == Some(incarnation) {
            self.current = self.successor.take();
        }
    }

    /// Forgets the failures of earlier processes, but not the length of the next backoff.
    pub(super) fn clear(&mut self) {
        self.clear_wait();
        self.failure = None;
        self.replaces = None;
    }

    /// Ends the backoff.
    pub(super) fn clear_wait(&mut self) {
        self.retry_at = None;
        self.wait = Duration::ZERO;
    }

    /// Starts a backoff of `wait`.
    pub(super) fn set_wait(&mut self, wait: Duration, now: Instant) {
        self.retry_at = Some(after(now, wait));
        self.wait = wait;
    }
}

/// The daemon's phase. A later phase never returns to an earlier one; phases may be skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DaemonPhase {
    /// Before `Started`.
    NotStarted,
    /// The daemon serves, or tries to.
    Running,
    /// The departure: still serving for `timeouts.drain_delay`, so that load balancers stop sending
    /// requests.
    Departing {
        /// Time at which the drain begins.
        drain_at: Instant,
    },
    /// The edge accepts no connections and finishes its requests; workers still serve them.
    Draining { since: Instant, deadline: Instant },
    /// Every worker was asked to exit or killed.
    Stopping,
    /// `Exit` was returned.
    Exited,
}

impl DaemonPhase {
    /// Returns true while the edge accepts connections and the workers are maintained.
    pub(super) fn is_serving(self) -> bool {
        matches!(self, DaemonPhase::Running | DaemonPhase::Departing { .. })
    }
}

/// Whether the daemon serves. Answers to health checks depend on this and on the number of admitted
/// workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Presence {
    /// The daemon serves, or tries to.
    #[default]
    Present,
    /// No worker runs until a request arrives (`workers.idle_exit`).
    Asleep,
    /// The operator wants load balancers to send no requests (`rgun drain`).
    Draining,
    /// The daemon is stopping: load balancers should send no more requests.
    Leaving,
}

/// The effect of a stop request in the daemon's current phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopEffect {
    /// The drain begins.
    Drain,
    /// The departure begins; the drain follows after this time.
    Depart(Duration),
    /// The drain begins now; the rest of the delay is skipped.
    EndDeparture,
    /// There is no effect, because the drain has begun.
    None,
}

/// The exit of a daemon whose start failed.
#[derive(Clone, Debug)]
pub(super) struct FatalExit {
    pub(super) status: u8,
    pub(super) reason: String,
}

/// The notifications last sent to systemd and to the edge about the daemon as a whole; `notify`
/// sends the changes.
#[derive(Clone, Debug, Default)]
pub(super) struct NotifyState {
    /// The first `READY=1` was sent.
    pub(super) ready_sent: bool,
    /// `STOPPING=1` was sent.
    pub(super) stopping_sent: bool,
    /// `RELOADING=1` was sent, and no `READY=1` since.
    pub(super) is_reloading: bool,
    /// The last STATUS= line; empty before the first.
    pub(super) status: String,
    /// The reason that the edge refuses requests; `None` while it queues them.
    pub(super) unavailable: Option<String>,
    /// The presence that the edge reports to health checks.
    pub(super) presence: Presence,
    /// The operator wants load balancers to remove the daemon.
    pub(super) draining: bool,
    /// When systemd is next asked for more time; `None` while it need not be.
    pub(super) extend_at: Option<Instant>,
}

/// Returns `now + wait`, or a time about a year from now if the sum overflows.
pub(super) fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now + MAX_WAIT)
}

/// About a year; a stand-in for waits that overflow an [`Instant`].
const MAX_WAIT: Duration = Duration::from_secs(1 << 25);
