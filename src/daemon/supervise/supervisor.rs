//! The transition function, [`Supervisor::handle`]: one event in, the resulting actions out.
//!
//! The handler of an event records what happened to one worker. The same steps follow every event:
//! advance the pending reload, fill vacancies, exit if the daemon stops and no process is left,
//! extend systemd's timeout, publish changes. So a handler need not know the consequences
//! elsewhere.
//!
//! One worker is handled in `worker_events`, `transitions` and `promotion`; a generation in
//! `reload`; replacements of healthy workers in `recycle`; the number of workers in `resize`; the
//! choice of the next boot in `spawning`; the end in `shutdown`. The rules they share:
//! - **Canary first.** Until a worker is ready, and while boots fail and none is ready, one seat
//!   boots at a time and all vacancies share its backoff: an import error is reported once instead
//!   of once per seat, and a recovering database sees one connection instead of one per seat.
//! - **Process limits.** A generation has at most two workers per seat, counting those that are
//!   about to exit: a stuck worker gives up its seat to a replacement. If the replacement is stuck
//!   too, the worker that has been retiring longest is killed, so that no seat stays empty until
//!   the drain timeout. All generations together have at most three workers per seat, so that a
//!   reload can boot meanwhile. Zygotes are counted separately.
//! - **Atomic switch.** Traffic moves to a new generation in one step, when all of its workers are
//!   ready (`reload`).
//! - **Terminate healthy workers, kill stuck ones.** A surplus worker is asked to exit, so that its
//!   lifespan shutdown and atexit handlers run; a stuck worker would not read the request.

use std::collections::BTreeMap;
use std::mem;
use std::time::Instant;

use crate::id::{Generation, Incarnation, WorkerId};

use super::event::{BootFailure, Event};
use super::reload_state::{PendingReload, RollbackTarget, UnprovenReload};
use super::state::{DaemonPhase, FatalExit, NotifyState, WorkerRecord};
use super::worker_set::WorkerSet;
use super::{Action, Report, SupervisorPolicy};

/// Decides about workers and about the daemon's start and end. The [module's documentation](super)
/// lists what `run` guarantees.
#[derive(Clone, Debug)]
pub struct Supervisor {
    pub(super) phase: DaemonPhase,
    /// The generation that receives requests.
    pub(super) live: WorkerSet,
    /// The generation that boots alongside the live one; `None` while no reload is in progress.
    pub(super) pending: Option<PendingReload>,
    /// The previous generation while `reload.watch` lasts; never set together with `pending`.
    pub(super) rollback: Option<RollbackTarget>,
    /// Set when a reload is requested before any worker was ready; cleared when the first boot of
    /// its generation has succeeded or failed.
    pub(super) unproven_reload: Option<UnprovenReload>,
    pub(super) next_generation: Generation,
    /// Every worker whose process exists or is being created, by incarnation.
    pub(super) workers: BTreeMap<Incarnation, WorkerRecord>,
    pub(super) next_incarnation: Incarnation,
    /// The latest instant of any event; `None` before the first event. An event with an earlier
    /// instant is handled as if it happened at `clock`.
    pub(super) clock: Option<Instant>,
    /// A worker was ready at least once, so the application can boot.
    pub(super) ever_ready: bool,
    /// Seats boot one at a time. Set when a boot fails while no worker is ready and when the daemon
    /// wakes from `workers.idle_exit`; cleared when a worker is ready.
    pub(super) serial_boots: bool,
    /// The reason that requests are answered 503 instead of queued; `None` once a worker is ready.
    pub(super) outage: Option<String>,
    /// The exit status and reason of a failed start; `None` if the daemon exits with 0.
    pub(super) fatal_exit: Option<FatalExit>,
    /// The daemon stops because of `daemon.idle_exit`.
    pub(super) is_unused: bool,
    /// The STATUS= note about a reload that failed or was rolled back; `None` after the next reload
    /// begins.
    pub(super) last_reload_note: Option<String>,
    /// The last boot failure that was reported; `None` after a worker became ready.
    pub(super) last_boot_failure: Option<BootFailure>,
    pub(super) notify: NotifyState,
    /// Boots that failed since the daemon started.
    pub(super) boot_failures: u64,
    /// Workers that exited while they served, counted since the daemon started.
    pub(super) crashes: u64,
    /// The actions of the event being handled.
    pub(super) actions: Vec<Action>,
}

impl Supervisor {
    /// Creates a supervisor that waits for [`Event::Started`].
    pub fn new(policy: SupervisorPolicy) -> Self {
        Supervisor {
            phase: DaemonPhase::NotStarted,
            live: WorkerSet::new(Generation(1), policy, None),
            pending: None,
            rollback: None,
            unproven_reload: None,
            next_generation: Generation(2),
            workers: BTreeMap::new(),
            next_incarnation: Incarnation(1),
            clock: None,
            ever_ready: false,
            serial_boots: false,
            outage: None,
            fatal_exit: None,
            is_unused: false,
            last_reload_note: None,
            last_boot_failure: None,
            notify: NotifyState::default(),
            boot_failures: 0,
            crashes: 0,
            actions: Vec::new(),
        }
    }

    /// Handles one event and returns the actions to perform, in order.
    ///
    /// An event is ignored if its worker's process has ended or the worker's state does not expect
    /// it. After [`Action::Exit`] all events are ignored.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        if self.phase == DaemonPhase::Exited {
            return Vec::new();
        }
        let now = self.clock.map_or(now, |clock| clock.max(now));
        self.clock = Some(now);
        self.apply(event, now);
        self.advance_reload(now);
        self.spawn_missing(now);
        self.exit_when_done();
        self.extend_timeout(now);
        self.publish();
        mem::take(&mut self.actions)
    }

    /// Returns the earliest instant at which an [`Event::Tick`] is due; `None` if no deadline is
    /// set.
    pub fn next_wakeup(&self) -> Option<Instant> {
        let clock = self.clock?;
        if self.phase == DaemonPhase::Exited {
            return None;
        }
        let workers = self.workers.values().filter_map(WorkerRecord::deadline);
        let is_running = self.phase.is_serving();
        let expiries = self.workers.values().filter_map(WorkerRecord::expiry).filter(|_| is_running);
        let drain = match self.phase {
            DaemonPhase::Draining { deadline: at, .. } | DaemonPhase::Departing { drain_at: at } => Some(at),
            DaemonPhase::NotStarted | DaemonPhase::Running | DaemonPhase::Stopping | DaemonPhase::Exited => {
                None
            }
        };
        let retries = self.retry_times().filter(|at| *at > clock && self.fills_vacancies());
        let others = drain.into_iter().chain(self.reload_deadline()).chain(self.notify.extend_at);
        workers.chain(expiries).chain(retries).chain(others).min()
    }

    /// Returns the end of the backoff of each seat that is vacant or needs a successor. A seat that
    /// is still vacant after its backoff waits for an event, not for time.
    fn retry_times(&self) -> impl Iterator<Item = Instant> {
        let needs_successor =
            |incarnation| self.workers.get(&incarnation).is_some_and(|worker| worker.recycle.is_some());
        let open = self.live.desired_seats().map(|(_, seat)| seat);
        let seats = open.chain(self.live.zygote.as_ref());
        seats.filter(move |seat| seat.current.is_none_or(needs_successor)).filter_map(|seat| seat.retry_at)
    }

    // The states of a worker. `*`: the worker gives up its seat. States below `Retiring` only wait
    // for the exit.
    //
    //                  Spawn
    //                    │
    //   SpawnFailed   ┌──▼─────┐
    //  (gone)   *◀────┤Spawning├────────────────────────────┐
    //                 └──┬─────┘                            │
    //                    │ Spawned                          │ boot limit (after DumpStacks),
    //   BootFailed    ┌──▼─────┐                            │ Misbehaved, not needed,
    //        *┌───────┤Booting ├───────────────────────────▶┤ the daemon stops
    //         │       └──┬───┬─┘                            │*
    //         │          │   │ Ready: a zygote, or          │
    //         │          │   │ another generation is live   │
    //         │          │   │  ┌───────┐ not needed        │
    //         │          │   └─▶│Standby├────────────┐*     │
    //         │  Ready ─▶│      └─┬──▲──┘ ─▶ Terminate│      │
    //         │  Admit   │ GoLive │  │ GoLive of      │      │
    //         │       ┌──▼─────┐◀─┘  │ another, watch │      │
    //         │       │ Ready  ├─────┘                │      │
    //         │       └──┬───┬─┘                      │      │
    //         │          │*  │* stuck, recycled, or not needed: ─▶ Retire
    //         │ Misbe-   │   ▼                        │      │
    //         │ haved    │ ┌────────┐ Drained         │      │
    //         │          │ │Retiring├────────────────▶┤      │
    //         │          │ └┬──┬────┘ ─▶ Terminate    │      │
    //         │          │  │  │ Drained, to be the    │      │
    //         │          │  │  │ zygote ─▶ Promote     │      │
    //   ┌─────▼──┐       │  │ ┌▼────────┐       ┌──────▼────┐ │
    //   │ Failed │       │  │ │Promoting│       │Terminating│ │
    //   └─────┬──┘       │  │ └┬─┬──────┘       └──────┬────┘ │
    //         │ grace    │  │  │ └▶ Standby          │ grace│
    //         │          │  │ stuck and Drained,     │      │
    //         │          │  │ drain limit            │      │
    //         └──────────┴──┴──┴──┬─────────────────┘      │
    //                          ┌──▼─────┐                  │
    //                          │ Killed │◀─────────────────┘ ─▶ Kill
    //                          └──┬─────┘
    //                             │ Exited, from any state: gone
    fn apply(&mut self, event: Event, now: Instant) {
        match event {
            Event::Started => {
                if self.phase == DaemonPhase::NotStarted {
                    self.phase = DaemonPhase::Running;
                }
            }
            Event::Spawned { worker, pid } => self.on_spawned(worker, pid, now),
            Event::SpawnFailed { worker, fault, reason } => self.on_spawn_failed(worker, fault, reason, now),
            Event::Ready { worker } => self.on_ready(worker, now),
            Event::BootFailed { worker, failure } => self.on_boot_failed(worker, failure, now),
            Event::Exited { worker, exit } => self.on_exited(worker, exit, now),
            Event::DeadlineExceeded { worker } => self.on_deadline_exceeded(worker, now),
            Event::Misbehaved { worker, reason } => self.on_misbehaved(worker, reason, now),
            Event::Drained { worker } => self.on_drained(worker, now),
            Event::StacksDumped { worker, stacks } => self.on_stacks_dumped(worker, stacks, now),
            Event::RecycleDue { worker, reason } => self.on_recycle_due(worker, reason, now),
            Event::StopRequested { worker, signal } => self.on_stop_requested(worker, signal, now),
            Event::Probed { worker, outcome } => self.on_probed(worker, outcome, now),
            Event::Reload { policy } => self.start_reload(policy, now),
            Event::Adjust { by } => self.adjust_count(by, now),
            Event::SetCount { to } => self.set_count(to, now),
            Event::SetDraining { enable } => self.notify.draining = enable,
            Event::Load(load) => self.on_load(&load, now),
            Event::MemoryPressure { n_requests } => self.shed_idle_workers(n_requests, now),
            Event::WorkerRequested => self.wake(),
            Event::Unused { idle_for } => self.stop_unused(idle_for, now),
            Event::Stop => self.stop(now),
            Event::StopNow => self.stop_now(now),
            Event::EdgeDrained => self.on_edge_drained(now),
            Event::Tick => self.expire_deadlines(now),
        }
    }

    /// Expires every deadline that has passed.
    fn expire_deadlines(&mut self, now: Instant) {
        self.recycle_expired(now);
        self.expire_reload(now);
        // A loop, because expiring one deadline may set another that has passed already (a drain
        // timeout of 0).
        while let Some(id) = self.next_overdue(now) {
            self.expire_worker(id, now);
        }
        self.expire_departure(now);
        self.expire_drain(now);
    }

    /// Returns a worker whose deadline has passed. `expire_worker` moves or clears that deadline.
    fn next_overdue(&self, now: Instant) -> Option<WorkerId> {
        let is_overdue = |worker: &&WorkerRecord| worker.deadline().is_some_and(|at| at <= now);
        self.workers.values().find(is_overdue).map(|worker| worker.id)
    }

    /// Returns the record of a worker; `None` if its process has ended.
    pub(super) fn worker(&self, id: WorkerId) -> Option<&WorkerRecord> {
        self.workers.get(&id.incarnation).filter(|worker| worker.id == id)
    }

    pub(super) fn worker_mut(&mut self, id: WorkerId) -> Option<&mut WorkerRecord> {
        self.workers.get_mut(&id.incarnation).filter(|worker| worker.id == id)
    }

    /// Returns the ids of all workers, as a copy: the caller may change the map.
    pub(super) fn ids(&self) -> Vec<WorkerId> {
        self.workers.values().map(|worker| worker.id).collect()
    }

    /// Returns whether any worker is ready.
    pub fn any_ready(&self) -> bool {
        self.workers.values().any(WorkerRecord::is_ready)
    }

    pub(super) fn report(&mut self, report: Report) {
        self.actions.push(Action::Report(report));
    }
}
