//! What the supervisor wants done. `run` performs these in order; it may fail to, and then says so by an event.

use std::time::{Duration, Instant};

use crate::id::{Generation, WorkerId};

use super::{BootFailure, Exit, RecycleReason, SpawnMethod, WorkerState};

/// One thing to do, in the imperative.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make this worker's process; answer with `Spawned` or `SpawnFailed`.
    Spawn {
        /// The life to begin. An earlier life of the same seat may still be alive.
        worker: WorkerId,
        /// The code and configuration it is to load.
        generation: Generation,
        /// By which way.
        method: SpawnMethod,
    },
    /// Give it this generation's `reload.probe` request, although it is not admitted; answer with `Probed`.
    Probe {
        /// Who.
        worker: WorkerId,
    },
    /// Have its Python stacks written; answer with `StacksDumped`, with nothing if they do not come in a second.
    DumpStacks {
        /// Who.
        worker: WorkerId,
    },
    /// It is drained: ask it to become the zygote of its generation; answered by `Ready` when it has.
    Promote {
        /// Who.
        worker: WorkerId,
    },
    /// From now on requests go by this generation's configuration (limits, deadlines, logging). Its workers' `Admit`s
    /// follow, and then the others' `Retire`s.
    GoLive {
        /// Which: a new one, or the one before it when a watch ends badly.
        generation: Generation,
    },
    /// Nothing of this generation will be spawned any more: its configuration can be dropped.
    ForgetGeneration {
        /// Which.
        generation: Generation,
    },
    /// What became of the reload that asked for this generation. Exactly one for each `Event::Reload`.
    AnswerReload {
        /// Which it would be, or is.
        generation: Generation,
        /// Nothing when it serves; else why it does not, for who asked and for STATUS=.
        outcome: Result<(), BootFailure>,
    },
    /// `RELOADING=1` (with MONOTONIC_USEC=); `NotifyReady` follows when it is over, whatever came of it.
    NotifyReloading,
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
    /// SIGKILL, to everything in its cgroup: a stuck worker, one that broke the contract, one that was given time.
    Kill {
        /// Who.
        worker: WorkerId,
        /// What it still has in flight, if anything, is ended by the daemon for this reason, and is to be answered so.
        /// Without one nobody waits for it, or it is to blame itself.
        abort: Option<AbortReason>,
    },
    /// `READY=1`: one worker can serve; or the last of the reloads that were told is over. Never after
    /// `NotifyStopping`.
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

/// Why requests end that their worker would have answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortReason {
    /// The worker was to finish them, and `timeouts.drain` was over.
    DrainTimeout,
    /// The worker was to finish them, and its process was in the way of one that serves.
    ProcessLimit,
    /// The daemon leaves.
    Shutdown,
}

/// What an operator may want to know. `run` chooses level, wording and MESSAGE_ID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// It can serve. It is admitted, unless its generation is not live yet.
    WorkerReady {
        /// Who.
        worker: WorkerId,
        /// From `Spawn` to `Ready`.
        took: Duration,
    },
    /// Workers can be forked from it.
    ZygoteReady {
        /// Who.
        worker: WorkerId,
        /// From `Spawn` or `Promote` to `Ready`.
        took: Duration,
    },
    /// It did not come up.
    WorkerBootFailed {
        /// Who.
        worker: WorkerId,
        /// Why, with the traceback.
        failure: BootFailure,
        /// When the seat is tried again; `None` when it is not: the daemon gives up and exits, the reload has failed,
        /// or the generation before takes over again.
        retry_in: Option<Duration>,
        /// The very same failure was reported before and nobody has become ready since: leave the traceback out.
        already_reported: bool,
    },
    /// Its process is gone. Expected unless the state is `Ready` (it crashed) or `Retiring` (it crashed before it
    /// was drained) or `Standby`; a death while booting is a `WorkerBootFailed`.
    WorkerExited {
        /// Who.
        worker: WorkerId,
        /// How.
        exit: Exit,
        /// The state it was in.
        state: WorkerState,
        /// When its seat is filled again, zero for at once; `None` when that does not depend on this exit.
        retry_in: Option<Duration>,
    },
    /// It broke the channel's contract while serving, and was killed.
    WorkerMisbehaved {
        /// Who.
        worker: WorkerId,
        /// What it did.
        reason: String,
        /// When its seat is filled again, zero for at once; `None` when somebody else has the seat already.
        retry_in: Option<Duration>,
    },
    /// A request of it is stuck: it gets no more, and another life takes its seat.
    Replacing {
        /// The old life.
        worker: WorkerId,
    },
    /// It serves on until its successor is ready.
    Recycling {
        /// The old life.
        worker: WorkerId,
        /// Why.
        reason: RecycleReason,
    },
    /// A new generation boots beside the one that serves.
    ReloadStarted {
        /// Which.
        generation: Generation,
    },
    /// It has taken over.
    ReloadCompleted {
        /// Which.
        generation: Generation,
        /// Since it was asked for.
        took: Duration,
    },
    /// It did not come up; who served goes on. The traceback was told before, by its `WorkerBootFailed`.
    ReloadFailed {
        /// Which.
        generation: Generation,
        /// Why.
        failure: BootFailure,
    },
    /// It answered clearly worse than the one before it, which has taken over again.
    RolledBack {
        /// The one that was tried.
        from: Generation,
        /// The one that serves again.
        to: Generation,
        /// The figures, for people.
        reason: String,
    },
    /// The number of workers is changed.
    Resized {
        /// From.
        from: u16,
        /// To; 0 for a sleep.
        to: u16,
        /// What for.
        reason: ResizeReason,
    },
    /// The seat of a stuck or worn-out worker is served by another life.
    Replaced {
        /// The old life, which may still be draining.
        worker: WorkerId,
        /// The new one.
        by: WorkerId,
    },
    /// It was given time and did not use it: a retiring worker that had `timeouts.drain` was not drained, a terminating
    /// or failed one did not exit (all three are killed), a killed one was not reaped (an uninterruptible sleep).
    Overdue {
        /// Who.
        worker: WorkerId,
        /// What it was to finish.
        state: WorkerState,
        /// How long it had.
        waited: Duration,
    },
    /// A retiring worker was killed before it was drained, because there is no room for one more process: it is stuck,
    /// and its seat's replacements are as well; or nobody else serves.
    RetirementAborted {
        /// Who.
        worker: WorkerId,
    },
    /// Not everybody was answered within `timeouts.drain` of the order to stop.
    DrainTimedOut {
        /// The time there was.
        waited: Duration,
    },
}

/// Why the number of workers changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeReason {
    /// SIGTTIN or SIGTTOU.
    Operator,
    /// Requests waited for so long.
    QueueWait(Duration),
    /// There was less to do.
    LowLoad,
    /// Nothing was asked for `workers.idle_exit`.
    IdleExit,
    /// A request came while nobody served.
    Request,
}
