//! The supervisor: decides which workers exist, when they are replaced, when the daemon is ready and when it exits.
//!
//! The supervisor is a pure state machine. `run` owns one [`Supervisor`], passes every [`Event`] to it with the instant
//! it happened, and performs the returned [`Action`]s in order. There is no IO, clock, randomness, logging or process
//! in this module, so the simulation plays thousands of histories in a few seconds. Requests (queue, deadlines, 502,
//! 504) are decided by `dispatch`; processes are created, killed and reaped by `pool`.
//!
//! `run` guarantees:
//! - Each [`Action::Spawn`] is answered by [`Event::Spawned`] or [`Event::SpawnFailed`] before any other event about
//!   that worker.
//! - Each process ends with exactly one [`Event::Exited`], sent when it is reaped. Messages that are still in its
//!   control socket are not delivered after that; a fork that a zygote had not reported when it was reaped has failed.
//! - [`Action::Probe`], [`Action::DumpStacks`] and [`Action::Promote`] are answered. A missing answer costs a timeout;
//!   the probe has one only with `timeouts.boot`.
//! - [`Action::DrainEdge`] is answered by [`Event::EdgeDrained`], at once if the edge is idle.
//! - [`Event::Tick`] comes at or after [`Supervisor::next_wakeup`]. Deadlines expire on a tick, not on other events,
//!   and `run` delivers the events that it has received first: a daemon that was frozen for a minute does not punish
//!   its workers.
//!
//! A worker is identified by its seat (`number`, stable, shown to operators) and its incarnation (the number of the
//! process, never reused while the daemon runs). Events about a process that has ended are ignored, so nothing needs to
//! be cancelled.

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
