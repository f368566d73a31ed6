//! What the supervisor wants done. `run` performs these in order; it may fail to, and then says so by an event.

use std::time::{Duration, Instant};

use super::{BootFailure, Exit, Generation, LifeState, WorkerId};

/// One thing to do, in the imperative.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make this worker's process; answer with `Spawned` or `SpawnFailed`.
    Spawn {
        /// The life to begin. An earlier life of the same seat may still be alive.
        worker: WorkerId,
        /// The code and configuration it is to load.
        generation: Generation,
    },
    /// It may be given exchanges.
    Admit {
        /// Who.
        worker: WorkerId,
    },
    /// Give it no new exchange and revoke the unclaimed ones; answer with `Drained` when nobody waits for it.
    Retire {
        /// Who.
        worker: WorkerId,
    },
    /// Ask it over the control socket to shut down (lifespan shutdown, atexit handlers) and exit.
    Terminate {
        /// Who.
        worker: WorkerId,
    },
    /// SIGKILL, to everything in its cgroup. What it still had in flight is answered 502 by the pool.
    Kill {
        /// Who.
        worker: WorkerId,
    },
    /// `READY=1`: one worker can serve. Once, and never after `NotifyStopping`.
    NotifyReady,
    /// `STOPPING=1`. Once.
    NotifyStopping,
    /// `STATUS=`, one line; only when it has changed.
    Status(String),
    /// `EXTEND_TIMEOUT_USEC=`: starting or stopping takes this much longer from now, on purpose.
    ExtendTimeout(Duration),
    /// Stop accepting, answer what is queued and in flight, say `EdgeDrained`. Told again, only the deadline changes.
    DrainEdge {
        /// After this the connections that are left are cut.
        deadline: Instant,
    },
    /// Answer 503 with this short reason instead of queueing: nobody can serve, and nobody is expected to soon.
    /// `None` takes it back.
    Unavailable(Option<String>),
    /// Tell the operator.
    Report(Report),
    /// Leave, with this status. The last action there is.
    Exit {
        /// 0, or 78 (EX_CONFIG of sysexits.h) when the application never booted; systemd does not restart on 78.
        status: u8,
        /// What to say, when it is not 0.
        reason: Option<String>,
    },
}

/// What an operator may want to know. `run` chooses level, wording and MESSAGE_ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// It was admitted.
    WorkerReady {
        /// Who.
        worker: WorkerId,
        /// From `Spawn` to `Ready`.
        took: Duration,
    },
    /// It did not come up.
    WorkerBootFailed {
        /// Who.
        worker: WorkerId,
        /// Why, with the traceback.
        failure: BootFailure,
        /// When the seat is tried again; `None` when the daemon gives up and exits.
        retry_in: Option<Duration>,
        /// The very same failure was reported before and nobody has become ready since: leave the traceback out.
        told_before: bool,
    },
    /// Its process is gone. Expected unless the state is `Ready` (it crashed) or `Retiring` (it crashed before it
    /// was drained); a death while booting is a `WorkerBootFailed`.
    WorkerExited {
        /// Who.
        worker: WorkerId,
        /// How.
        how: Exit,
        /// The state it was in.
        state: LifeState,
        /// When its seat is filled again, zero for at once; `None` when that does not depend on this exit.
        retry_in: Option<Duration>,
    },
    /// It broke the channel's contract while serving, and was killed.
    WorkerMisbehaved {
        /// Who.
        worker: WorkerId,
        /// What it did.
        why: String,
        /// When its seat is filled again, zero for at once; `None` when somebody else has the seat already.
        retry_in: Option<Duration>,
    },
    /// A request of it is stuck: it gets no more, and another life takes its seat.
    Replacing {
        /// The old life.
        worker: WorkerId,
    },
    /// The seat of a stuck worker is served again.
    Replaced {
        /// The old life, which may still be draining.
        worker: WorkerId,
        /// The new one.
        by: WorkerId,
    },
    /// It was given time and did not use it: a retiring worker was not drained by `timeouts.drain`, a terminating or
    /// failed one did not exit (all three are killed), a killed one was not reaped (an uninterruptible sleep).
    Overdue {
        /// Who.
        worker: WorkerId,
        /// What it was to finish.
        state: LifeState,
        /// How long it had.
        waited: Duration,
    },
    /// A retiring worker was killed before it was drained, because its seat's replacements are stuck as well and
    /// there is no room for one more process.
    RetirementCut {
        /// Who.
        worker: WorkerId,
    },
    /// Not everybody was answered within `timeouts.drain` of the order to stop.
    DrainRanOut {
        /// The time there was.
        waited: Duration,
    },
}
