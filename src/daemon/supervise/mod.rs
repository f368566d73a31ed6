//! The supervisor: decides which workers exist, when they are replaced, when the daemon is ready
//! and when it exits.
//!
//! The supervisor is a pure state machine. `run` owns one [`Supervisor`], passes every [`Event`] to
//! it with the time at which it happened, and performs the returned [`Action`]s in order. There is
//! no IO, clock, randomness, logging or process in this module, so the simulation plays thousands
//! of histories in a few seconds. `dispatch` decides about requests (queue, deadlines, 502, 504);
//! `pool` creates, kills and reaps processes.
//!
//! `run` guarantees:
//! - Each [`Action::Spawn`] is answered by [`Event::Spawned`] or [`Event::SpawnFailed`] before any
//!   other event about that worker.
//! - Each process ends with exactly one [`Event::Exited`], sent when the process is reaped. No
//!   message from its socket follows. A fork that a zygote had not reported before its exit
//!   has failed.
//! - [`Action::Probe`], [`Action::DumpStacks`] and [`Action::Promote`] are answered. A timeout ends
//!   the wait for a worker that hangs; the probe has a timeout only with `timeouts.boot`.
//! - [`Action::DrainEdge`] is answered by [`Event::EdgeDrained`], at once if the edge is idle.
//! - [`Event::Tick`] comes at or after [`Supervisor::next_wakeup`]. Deadlines expire only on a
//!   tick, and `run` delivers all received events before the tick. So a worker that answered in
//!   time is not killed because the daemon was frozen for a minute.
//!
//! # Terms
//! - A *generation* is one load of code and configuration. The *live* generation gets the requests;
//!   a reload creates the next one.
//! - A *seat* is a stable place for one worker, with a number that operators see. A worker is
//!   identified by its seat and its *incarnation*, the number of its process, which is never reused
//!   while the daemon runs. Events about a process that has ended are ignored, so `run` need not
//!   cancel any.
//! - A worker is *admitted* when it may receive requests. It *retires* while it gets no new
//!   requests and finishes its own, after which it is *drained*. In *standby*, a worker is booted
//!   but gets no requests.
//! - The *canary* is a worker that boots alone, to show whether the application boots at all.
//! - A *zygote* is a process that has imported the application and serves no requests: workers are
//!   forked from it (`workers.preload`).

mod action;
mod autoscaler;
mod backoff;
mod event;
mod invariants;
mod notify;
mod policy;
mod promotion;
mod recycle;
mod reload;
mod reload_state;
mod resize;
mod shutdown;
mod spawning;
mod state;
mod status;
mod supervisor;
mod transitions;
mod watch;
mod worker_events;
mod worker_set;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub use self::action::{AbortReason, Action, Report, ResizeReason};
pub use self::backoff::BackoffLimits;
pub use self::event::{
    BootFailure, BootFailureKind, Event, Exit, LoadSample, RecycleReason, ResponseStats, SpawnFault,
    name_of_signal,
};
pub use self::policy::SupervisorPolicy;
pub use self::state::{Presence, SpawnMethod, StopEffect, WorkerState};
pub use self::status::{SeatSnapshot, Snapshot, WorkerSnapshot};
pub use self::supervisor::Supervisor;
