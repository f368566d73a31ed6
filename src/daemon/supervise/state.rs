//! What the supervisor remembers: seats, the lives in and around them, and where the daemon as a whole is.
//! Only data and the questions that need nothing else; the transitions are in `supervisor`.

use std::time::{Duration, Instant};

use crate::id::{Generation, Life, WorkerId};

use super::Wear;
use super::backoff::Backoff;

/// Where a worker is in its life, as told to people and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LifeState {
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

impl LifeState {
    /// The word for it in metrics and status output.
    pub fn as_str(self) -> &'static str {
        match self {
            LifeState::Spawning => "spawning",
            LifeState::Booting => "booting",
            LifeState::Ready => "ready",
            LifeState::Standby => "standby",
            LifeState::Retiring => "retiring",
            LifeState::Promoting => "promoting",
            LifeState::Failed => "failed",
            LifeState::Terminating => "terminating",
            LifeState::Killed => "killed",
        }
    }
}

/// [`LifeState`] with the deadline that bounds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Spawning {
        deadline: Option<Instant>,
    },
    Booting {
        deadline: Option<Instant>,
    },
    /// Its boot limit is over, and its stacks are being written; told to people as booting.
    Overtime {
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
    /// After `give_up_at` the end of the daemon does not wait for it any more. `None` when the answer to `Spawn` is
    /// still owed: the process is killed as soon as it is there, and its time to be reaped begins then.
    Killed {
        give_up_at: Option<Instant>,
        given_up: bool,
    },
}

/// How a process comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The interpreter is executed, and imports the application.
    Exec,
    /// The interpreter is executed, imports the application, and never serves: others are forked from it.
    ExecZygote,
    /// Forked from this zygote, which is ready.
    Fork(WorkerId),
}

/// What a process is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// To serve.
    Worker,
    /// To be forked from.
    Zygote,
}

/// One process, or the wish for one.
#[derive(Clone, Debug)]
pub(super) struct Worker {
    pub(super) id: WorkerId,
    pub(super) generation: Generation,
    pub(super) role: Role,
    pub(super) origin: Origin,
    /// The most workers its generation had when it was asked for.
    pub(super) crew_size: usize,
    /// `None` until `Spawned`.
    pub(super) pid: Option<u32>,
    /// When `Spawn` was asked for.
    pub(super) asked_at: Instant,
    /// When `state` was entered.
    pub(super) since: Instant,
    pub(super) state: State,
    /// Nobody waits for it: it was never admitted, or has been drained since it was retired.
    pub(super) drained: bool,
    /// When and why it was found to have done its share; it serves on until its successor is ready.
    pub(super) worn: Option<(Instant, Wear)>,
    /// When it reaches `workers.max_lifetime`.
    pub(super) ages_at: Option<Instant>,
}

impl Worker {
    pub(super) fn enter(&mut self, state: State, now: Instant) {
        self.state = state;
        self.since = now;
    }

    pub(super) fn life_state(&self) -> LifeState {
        match self.state {
            State::Spawning { .. } => LifeState::Spawning,
            State::Booting { .. } | State::Overtime { .. } => LifeState::Booting,
            State::Ready => LifeState::Ready,
            State::Standby => LifeState::Standby,
            State::Retiring { .. } => LifeState::Retiring,
            State::Promoting { .. } => LifeState::Promoting,
            State::Failed { .. } => LifeState::Failed,
            State::Terminating { .. } => LifeState::Terminating,
            State::Killed { .. } => LifeState::Killed,
        }
    }

    /// The instant at which a tick moves it on by force.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Spawning { deadline: at }
            | State::Booting { deadline: at }
            | State::Retiring { deadline: at, .. }
            | State::Killed { give_up_at: at, given_up: false } => at,
            State::Overtime { kill_at: at }
            | State::Promoting { kill_at: at }
            | State::Failed { kill_at: at }
            | State::Terminating { kill_at: at } => Some(at),
            State::Ready | State::Standby | State::Killed { given_up: true, .. } => None,
        }
    }

    /// When it has to be looked at for its age.
    pub(super) fn ageing(&self) -> Option<Instant> {
        self.ages_at.filter(|_| self.is_ready() && self.worn.is_none())
    }

    pub(super) fn is_zygote(&self) -> bool {
        self.role == Role::Zygote
    }

    /// It is given exchanges.
    pub(super) fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    pub(super) fn is_standby(&self) -> bool {
        self.state == State::Standby
    }

    pub(super) fn is_booting(&self) -> bool {
        matches!(self.state, State::Spawning { .. } | State::Booting { .. } | State::Overtime { .. })
    }

    /// It finishes what it has for as long as that takes.
    pub(super) fn is_lingering(&self) -> bool {
        matches!(self.state, State::Retiring { deadline: None, .. })
    }

    /// On its way to or in service: what may hold a place.
    pub(super) fn is_current(&self) -> bool {
        self.is_ready() || self.is_standby() || self.is_booting()
    }

    /// Its process will be gone soon without anybody doing more.
    pub(super) fn is_dying(&self) -> bool {
        matches!(
            self.state,
            State::Failed { .. } | State::Terminating { .. } | State::Killed { given_up: false, .. }
        )
    }

    pub(super) fn is_given_up(&self) -> bool {
        matches!(self.state, State::Killed { given_up: true, .. })
    }
}

/// One stable place for a worker, or for a zygote. Lives that are on their way out no longer hold their seat.
#[derive(Clone, Debug, Default)]
pub(super) struct Seat {
    /// The life that boots or serves here; `None` is a vacancy.
    pub(super) current: Option<Life>,
    /// The life that boots to take over from `current`, which is worn out and serves until then.
    pub(super) successor: Option<Life>,
    /// Neither a vacancy nor the place of a successor is filled before this; `None` is at once.
    pub(super) retry_at: Option<Instant>,
    /// How long that wait was when it began, for people.
    pub(super) wait: Duration,
    pub(super) backoff: Backoff,
    /// Why the last life here was too short, until one becomes ready.
    pub(super) failure: Option<String>,
    /// The stuck life whose place the current or next one takes, until that one is ready.
    pub(super) replaces: Option<WorkerId>,
}

impl Seat {
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.current.is_none() && self.has_waited(now)
    }

    pub(super) fn has_waited(&self, now: Instant) -> bool {
        self.retry_at.is_none_or(|at| at <= now)
    }

    /// The life does not hold this place any more; whoever was to follow it does.
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
        self.wait_no_longer();
        self.failure = None;
        self.replaces = None;
    }

    /// Fill it again at once.
    pub(super) fn wait_no_longer(&mut self) {
        self.retry_at = None;
        self.wait = Duration::ZERO;
    }

    /// Leave it empty for `wait`.
    pub(super) fn wait_for(&mut self, wait: Duration, now: Instant) {
        self.retry_at = Some(after(now, wait));
        self.wait = wait;
    }
}

/// Where the daemon is: each follows from the one above, steps may be left out, none is gone back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Before `Started`.
    Idle,
    /// Serving, or trying to.
    Running,
    /// The edge answers what it has; workers go on serving it.
    Draining { since: Instant, deadline: Instant },
    /// Every worker has been told to go, one way or the other.
    Leaving,
    /// `Exit` was told; nothing happens any more.
    Over,
}

/// `now + wait`, for waits as long as configuration allows.
pub(super) fn after(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or(now + ABOUT_A_YEAR)
}

const ABOUT_A_YEAR: Duration = Duration::from_secs(1 << 25);
