//! Who lives, who is replaced, when the daemon is ready and when it may go: one pure state machine.
//!
//! `run` owns one [`Supervisor`], hands it every [`Event`] with the instant it happened, and performs the
//! [`Action`]s that come back, in their order. There is no IO here, no clock, no randomness, no logging and no
//! process: that is what lets the simulation live through thousands of bad days in a second. What the supervisor
//! decides is policy; what a request may do (queue, deadline, 502, 504) is `dispatch`'s, and exit a process is
//! made, killed and reaped is `pool`'s.
//!
//! What `run` owes the supervisor:
//! - each [`Action::Spawn`] is answered by [`Event::Spawned`] or [`Event::SpawnFailed`], before anything else is
//!   told of that worker;
//! - each process that was spawned ends with exactly one [`Event::Exited`], when it is reaped, and nothing that
//!   is waiting in its control socket is told after that: a fork that a zygote had not told of when it was reaped has
//!   failed;
//! - [`Action::Probe`], [`Action::DumpStacks`] and [`Action::Promote`] are answered, but nothing waits for ever if they
//!   are not;
//! - [`Action::DrainEdge`] is answered by [`Event::EdgeDrained`], at once if the edge is idle;
//! - [`Event::Tick`] comes at or after [`Supervisor::next_wakeup`]. Only a tick runs deadlines out, so `run` tells
//!   what it has already received first: a daemon that was frozen for a minute does not punish its workers.
//!
//! A worker is known by its seat (`number`, stable, what operators see) and its life (unique in this daemon). An
//! event that names a life which is over is dropped, so nothing has to be cancelled.

mod action;
mod autoscaler;
mod backoff;
mod event;
mod invariants;
mod policy;
mod recycle;
mod reload;
mod reload_state;
mod resize;
mod shutdown;
mod spawning;
mod state;
mod status;
mod supervisor;
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
pub use self::state::{SpawnMethod, WorkerState};
pub use self::status::{SeatSnapshot, Snapshot, WorkerSnapshot};
pub use self::supervisor::Supervisor;
