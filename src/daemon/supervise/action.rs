//! The supervisor's decisions. `run` performs them in order, and reports a failure with an event.

use std::time::{Duration, Instant};

use crate::id::{Generation, WorkerId};

use super::{BootFailure, Exit, Presence, RecycleReason, SpawnMethod, WorkerState};

/// One step for `run` to perform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Create this worker's process. Answered by `Spawned` or `SpawnFailed`.
    Spawn {
        /// The worker to create. An earlier process of the same seat may still exist.
        worker: WorkerId,
        /// The code and configuration it loads.
        generation: Generation,
        /// The way to create the process.
        method: SpawnMethod,
    },
    /// Send the `reload.probe` request to this worker, although it is not admitted. Answered by
    /// `Probed`.
    Probe {
        /// The canary of a pending reload.
        worker: WorkerId,
    },
    /// Dump this worker's Python stacks. Answered by `StacksDumped`, without stacks if they do not
    /// arrive in a second.
    DumpStacks {
        /// A worker whose boot exceeded `timeouts.boot`.
        worker: WorkerId,
    },
    /// Ask this worker to become the zygote of its generation. Answered by `Ready` when it is the
    /// zygote.
    Promote {
        /// A drained worker.
        worker: WorkerId,
    },
    /// Apply this generation's configuration (limits, deadlines, logging) to requests from now on.
    /// `Admit` follows for its workers, then `Retire` for the others.
    GoLive {
        /// A new generation, or after a rollback the previous one.
        generation: Generation,
    },
    /// Drop this generation's configuration: no more of its workers will be spawned.
    ForgetGeneration {
        /// A generation that is not live.
        generation: Generation,
    },
    /// Report the outcome of the reload that created this generation. Exactly one for each
    /// `Event::Reload`.
    AnswerReload {
        /// The generation that the reload created.
        generation: Generation,
        /// `Ok` once the generation serves; otherwise the failure, for the client that requested
        /// the reload and for STATUS=.
        outcome: Result<(), BootFailure>,
    },
    /// Send `RELOADING=1` with MONOTONIC_USEC=. `NotifyReady` follows when the reload ends,
    /// whatever its outcome.
    NotifyReloading,
    /// Let this worker receive requests.
    Admit {
        /// A booted worker of the live generation.
        worker: WorkerId,
    },
    /// Give this worker no new request, and move the requests that it has not claimed to other
    /// workers. Answered by `Drained` once no client waits for a request of this worker.
    Retire {
        /// A worker that was admitted.
        worker: WorkerId,
    },
    /// Fail the requests of this worker and cancel their tasks, if it is an ASGI worker. `Terminate`
    /// follows.
    CancelRequests {
        /// A retiring worker whose time to finish its requests is up.
        worker: WorkerId,
    },
    /// Ask this worker over the worker socket to run its lifespan shutdown and atexit handlers and
    /// exit.
    Terminate {
        /// A worker or zygote that runs no requests, or whose requests are abandoned.
        worker: WorkerId,
    },
    /// Send SIGKILL to all processes in this worker's cgroup.
    Kill {
        /// A worker that is stuck, violated the contract, exceeded a deadline, or is not needed
        /// while it boots.
        worker: WorkerId,
        /// The reason for aborting its requests, which `dispatch` then answers as aborted by the
        /// daemon. `None` if the worker has no requests or is itself the cause.
        abort: Option<AbortReason>,
    },
    /// Send `READY=1`: the first worker is ready, or a reload has ended. Never after
    /// `NotifyStopping`.
    NotifyReady,
    /// Send `STOPPING=1`. Once.
    NotifyStopping,
    /// Send this `STATUS=` line, because it changed.
    Status(String),
    /// Send `EXTEND_TIMEOUT_USEC=` with this duration: a start, reload or stop is still in
    /// progress.
    ExtendTimeout(Duration),
    /// Stop accepting connections and answer the queued and running requests. Answered by
    /// `EdgeDrained`. A repetition replaces the deadline.
    DrainEdge {
        /// When the remaining connections are closed.
        deadline: Instant,
    },
    /// Answer requests 503 with this short reason instead of queueing them, because no worker is
    /// expected to be ready soon. `None` queues them again.
    Unavailable(Option<String>),
    /// Report this presence in the answers to health checks, because it has changed.
    Presence(Presence),
    /// Log this for the operator.
    Report(Report),
    /// Exit. The last action.
    Exit {
        /// 0; 78 (EX_CONFIG of sysexits.h) if the application never booted; 79 after
        /// `daemon.idle_exit`. systemd does not restart on 78 and 79.
        status: u8,
        /// The reason for status 78; else `None`.
        reason: Option<String>,
    },
}

/// The reason for aborting a worker's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortReason {
    /// A stuck request of the retiring worker did not end within `timeouts.drain`.
    DrainTimeout,
    /// The retiring worker had to make room for a replacement under the process limit.
    ProcessLimit,
    /// The daemon stops.
    Shutdown,
}

/// An occurrence for the operator's log. `run` chooses level and wording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// A worker is booted. It is admitted at once if its generation is live.
    WorkerReady {
        /// The booted worker.
        worker: WorkerId,
        /// From `Spawn` to `Ready`.
        took: Duration,
    },
    /// A zygote is ready, so workers can be forked from it.
    ZygoteReady {
        /// The zygote; after a promotion, the former worker.
        worker: WorkerId,
        /// From `Spawn` or `Promote` to `Ready`.
        took: Duration,
    },
    /// A worker or zygote did not boot.
    WorkerBootFailed {
        /// The worker, whose process has ended or is about to end.
        worker: WorkerId,
        /// The reason, with the traceback if there is one.
        failure: BootFailure,
        /// The time until the seat's next attempt; `None` if there is none, because the daemon
        /// exits, the reload has failed, or the previous generation takes over again.
        retry_in: Option<Duration>,
        /// The same failure was reported before and no worker has been ready since, so the
        /// traceback can be omitted.
        already_reported: bool,
    },
    /// A booted worker's process has exited. Unexpected in the states `Ready`, `Standby` and
    /// `Retiring`. (An exit while booting is a `WorkerBootFailed`.)
    WorkerExited {
        /// The worker that exited.
        worker: WorkerId,
        /// The end of its process.
        exit: Exit,
        /// The worker's state before the exit.
        state: WorkerState,
        /// The time until the worker's seat is filled again, zero for at once; `None` if this exit
        /// leaves no seat to fill.
        retry_in: Option<Duration>,
    },
    /// A booted worker violated the channel's contract and was killed.
    WorkerMisbehaved {
        /// The killed worker.
        worker: WorkerId,
        /// The violation, one line.
        reason: String,
        /// The time until the worker's seat is filled again, zero for at once; `None` if it held no
        /// seat.
        retry_in: Option<Duration>,
    },
    /// A worker has a stuck request. It receives no new requests, and its seat gets another
    /// process.
    Replacing {
        /// The stuck worker.
        worker: WorkerId,
    },
    /// A worker will be replaced and serves until its successor is ready; a zygote exits at once.
    Recycling {
        /// The worker to be replaced.
        worker: WorkerId,
        /// The limit it reached, or the signal it received.
        reason: RecycleReason,
    },
    /// A worker has reached a limit, and serves until a reload succeeds: the last one failed or was rolled
    /// back, and a successor would import the rejected code.
    RecyclingPostponed {
        /// The worker that stays.
        worker: WorkerId,
        /// The limit it reached.
        reason: RecycleReason,
    },
    /// A worker that serves has imported the files as they are now, although the last reload of them
    /// failed or was rolled back.
    RejectedCode {
        /// The worker.
        worker: WorkerId,
    },
    /// A reload has started: a new generation boots alongside the live one.
    ReloadStarted {
        /// The new generation.
        generation: Generation,
        /// Whether the workers of the live generation serve meanwhile.
        old_ready: bool,
    },
    /// A reload has succeeded: its generation is live.
    ReloadCompleted {
        /// The new generation.
        generation: Generation,
        /// The time since the reload was requested.
        took: Duration,
    },
    /// A reload has failed; the live generation stays. If a boot failed, its `WorkerBootFailed` had the
    /// traceback.
    ReloadFailed {
        /// The generation that does not go live.
        generation: Generation,
        /// Whether the workers of the live generation serve.
        old_ready: bool,
        /// The failure that stops the reload.
        failure: BootFailure,
    },
    /// The live generation failed more requests than the previous one, or has no ready worker. The
    /// previous generation is live again.
    RolledBack {
        /// The generation that failed.
        from: Generation,
        /// The previous generation, which serves again.
        to: Generation,
        /// The failure rates, or the boot failure, one line.
        reason: String,
    },
    /// The desired number of workers has changed.
    Resized {
        /// The number before.
        from: u16,
        /// The number now; 0 while no worker is desired (`workers.idle_exit`).
        to: u16,
        /// The event that changed the number.
        reason: ResizeReason,
    },
    /// Another process serves the seat of a stuck or recycled worker.
    Replaced {
        /// The former process, which may still be draining.
        worker: WorkerId,
        /// The new process.
        by: WorkerId,
    },
    /// A worker exceeded the deadline of its state. A retiring worker that did not drain is asked to
    /// exit, or killed if it is stuck. A promoting one that did not become the zygote, and a terminating
    /// or failed one that did not exit, are killed. A killed worker that was not reaped is in an uninterruptible sleep.
    Overdue {
        /// The worker that is late.
        worker: WorkerId,
        /// The state whose deadline passed.
        state: WorkerState,
        /// The time it spent in that state.
        waited: Duration,
    },
    /// A retiring worker was killed before it was drained, because the process limit left no room
    /// for a replacement. Either the killed worker was stuck, or no worker was ready.
    RetirementAborted {
        /// The killed worker.
        worker: WorkerId,
    },
    /// The daemon stops, because it has not been used for `daemon.idle_exit`.
    Unused {
        /// The time since the last use.
        idle_for: Duration,
    },
    /// `timeouts.drain_delay` has passed since the stop request: the drain begins.
    DepartureEnded,
    /// Requests were still running when `timeouts.drain` had passed since the drain began.
    DrainTimedOut {
        /// The time since the drain began.
        waited: Duration,
    },
}

/// The cause of a change of the number of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeReason {
    /// SIGTTIN or SIGTTOU.
    Operator,
    /// A request waited for a worker. The value is the longest wait.
    QueueWait(Duration),
    /// Fewer workers were enough for a while.
    LowLoad,
    /// Memory is short, and the load needs fewer workers.
    MemoryPressure,
    /// There was no request for `workers.idle_exit`.
    IdleExit,
    /// A request arrived while no worker was desired.
    Request,
}
