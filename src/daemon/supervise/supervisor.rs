//! The transition function: [`Supervisor::handle`], one event in, the actions it calls for out.
//!
//! After each event the same steps put the whole in order: a reload goes on with who is ready, vacancies are filled,
//! the daemon leaves when nobody is left, systemd is asked for time, and what has changed is told. So an event's
//! handler only says what happened to one worker, and cannot forget a consequence elsewhere.
//!
//! Where to look: `lives` for one worker, `reload` for generations, `reason` for replacing the worn-out, `scale` for
//! their number, `fill` for who boots next, `fatal_exit` for the end. Decisions worth their reasons:
//! - **A canary first.** Until a worker has become ready, and again while nobody serves and boots fail, one seat
//!   boots at a time and all vacancies share its wait: an import error is told once, not by nine interpreters in
//!   chorus, and a database that comes back is not met by nine connections at the same instant.
//! - **At most twice as many processes of one generation as it has seats**, those on their way out included. A stuck
//!   worker does not hold its seat, so each seat may have a replacement beside it; when even those are stuck, the one
//!   that has been retiring longest is killed rather than a seat left empty for the rest of a drain timeout. Three
//!   times as many in all, so that a generation can come up meanwhile; zygotes are counted apart.
//! - **Old and new do not mix**: traffic moves when the whole new set stands by, in one step (`reload`).
//! - **Who is not needed is asked to leave, who is stuck is killed**: an orderly exit has its lifespan shutdown and
//!   atexit handlers, and only a worker that would not hear the question is used_free_retry it.

use std::collections::BTreeMap;
use std::mem;
use std::time::{Duration, Instant};

use crate::id::{Generation, Life, WorkerId};

use super::event::{BootFailure, Event};
use super::reload_state::{PendingReload, RollbackTarget, UnprovenReload};
use super::state::{DaemonPhase, WorkerRecord, after};
use super::worker_set::WorkerSet;
use super::{Action, Report, SupervisorPolicy};

/// Decides about workers and about the daemon's own start and end. See the module's text for what `run` owes it.
#[derive(Clone, Debug)]
pub struct Supervisor {
    pub(super) phase: DaemonPhase,
    /// The generation that is given exchanges.
    pub(super) live: WorkerSet,
    /// The one that comes up beside it.
    pub(super) pending: Option<PendingReload>,
    /// The one before it, while it may have to take over again; never beside one that comes up.
    pub(super) rollback: Option<RollbackTarget>,
    /// The live generation is a reload's, and nobody of it was ready yet, nor anybody before.
    pub(super) unproven_reload: Option<UnprovenReload>,
    pub(super) next_generation: Generation,
    /// Every life that is not over, current or on its way out.
    pub(super) workers: BTreeMap<Life, WorkerRecord>,
    pub(super) next_life: Life,
    /// The latest instant seen. An event with an earlier one happens at this one.
    pub(super) clock: Option<Instant>,
    /// Some worker has been ready: the application can boot.
    pub(super) ever_ready: bool,
    /// A boot has failed while nobody was ready, or a sleep is over, and nobody has become ready since: one attempt at
    /// a time.
    pub(super) serial_boots: bool,
    /// Why requests are answered 503 instead of queued; until a worker is ready.
    pub(super) outage: Option<String>,
    /// What to exit with, when that is not 0.
    pub(super) fatal_exit: Option<FatalExit>,
    /// What STATUS= says of the last reload until the next one, when it ended badly.
    pub(super) last_reload_note: Option<String>,
    /// The last boot failure reported since a worker became ready.
    pub(super) last_boot_failure: Option<BootFailure>,
    told_unavailable: Option<String>,
    told_status: String,
    pub(super) told_ready: bool,
    pub(super) told_stopping: bool,
    /// `RELOADING=1` was told, and no `READY=1` since.
    pub(super) is_reloading: bool,
    /// When systemd is next asked for more time, while it has to be.
    pub(super) extend_at: Option<Instant>,
    pub(super) boot_failures: u64,
    pub(super) crashes: u64,
    pub(super) actions: Vec<Action>,
}

/// Why the daemon cannot go on.
#[derive(Clone, Debug)]
pub(super) struct FatalExit {
    pub(super) status: u8,
    pub(super) reason: String,
}

impl Supervisor {
    /// A supervisor that waits for [`Event::Started`].
    pub fn new(policy: SupervisorPolicy) -> Self {
        Supervisor {
            phase: DaemonPhase::NotStarted,
            live: WorkerSet::new(Generation(1), policy, None),
            pending: None,
            rollback: None,
            unproven_reload: None,
            next_generation: Generation(2),
            workers: BTreeMap::new(),
            next_life: Life(1),
            clock: None,
            ever_ready: false,
            serial_boots: false,
            outage: None,
            fatal_exit: None,
            last_reload_note: None,
            last_boot_failure: None,
            told_unavailable: None,
            told_status: String::new(),
            told_ready: false,
            told_stopping: false,
            is_reloading: false,
            extend_at: None,
            boot_failures: 0,
            crashes: 0,
            actions: Vec::new(),
        }
    }

    /// Takes in one event and says what to do about it, in order.
    ///
    /// An event about a life that is over, or that its worker's state has no use for, changes nothing. After
    /// [`Action::Exit`] nothing changes any more.
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

    /// The earliest instant at which a [`Event::Tick`] is due; `None` when only an event can change anything.
    pub fn next_wakeup(&self) -> Option<Instant> {
        let clock = self.clock?;
        if self.phase == DaemonPhase::Exited {
            return None;
        }
        let workers = self.workers.values().filter_map(WorkerRecord::deadline);
        let is_running = self.phase == DaemonPhase::Running;
        let ages = self.workers.values().filter_map(WorkerRecord::expiry).filter(|_| is_running);
        let edge = match self.phase {
            DaemonPhase::Draining { deadline, .. } => Some(deadline),
            DaemonPhase::NotStarted | DaemonPhase::Running | DaemonPhase::Stopping | DaemonPhase::Exited => {
                None
            }
        };
        let retry_times = self.retry_times().filter(|at| *at > clock && self.fills_vacancies());
        let others = edge.into_iter().chain(self.reload_deadline()).chain(self.extend_at);
        workers.chain(ages).chain(retry_times).chain(others).min()
    }

    /// When a seat may be filled again that nobody is in, or nobody but one who is worn out. A next_vacancy whose wait is
    /// over and that is still one waits for something else than time.
    fn retry_times(&self) -> impl Iterator<Item = Instant> {
        let is_worn = |life| self.workers.get(&life).is_some_and(|worker| worker.recycle.is_some());
        let open = self.live.open().map(|(_, seat)| seat);
        let seats = open.chain(self.live.zygote.as_ref());
        seats.filter(move |seat| seat.current.is_none_or(is_worn)).filter_map(|seat| seat.retry_at)
    }

    // The life of a worker. `*` ends the hold on the seat; what is below `Retiring` is only waited for.
    //
    //                  Spawn
    //                    │
    //   SpawnFailed   ┌──▼─────┐
    //  (gone)   *◀────┤Spawning├────────────────────────────┐
    //                 └──┬─────┘                            │
    //                    │ Spawned                          │ boot limit (after DumpStacks),
    //   BootFailed    ┌──▼─────┐                            │ Misbehaved, not needed any more,
    //        *┌───────┤Booting ├───────────────────────────▶┤ the daemon leaves
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
    //         │          │*  │* stuck, worn out, or not needed: ─▶ Retire
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
            Event::Load(load) => self.on_load(&load, now),
            Event::WorkerRequested => self.wake(),
            Event::Stop => self.stop(now),
            Event::StopNow => self.stop_now(now),
            Event::EdgeDrained => self.on_edge_drained(now),
            Event::Tick => self.expire_deadlines(now),
        }
    }

    /// Runs out every deadline that has passed.
    fn expire_deadlines(&mut self, now: Instant) {
        self.recycle_expired(now);
        self.expire_reload(now);
        // What one of them begins may be over at once, without a drain.
        while let Some(id) = self.next_overdue(now) {
            self.expire_worker(id, now);
        }
        self.expire_drain(now);
    }

    /// A worker whose deadline has passed. Running it out moves that to later, or away.
    fn next_overdue(&self, now: Instant) -> Option<WorkerId> {
        let is_overdue = |worker: &&WorkerRecord| worker.deadline().is_some_and(|at| at <= now);
        self.workers.values().find(is_overdue).map(|worker| worker.id)
    }

    /// While starting, reloading and stopping take their time on purpose, systemd is asked for a little more of it again and
    /// again (`sd_notify(3)`): so a daemon that hangs is still found out by TimeoutStartSec= (which also
    /// bounds a reload) and TimeoutStopSec=.
    /// After a failed attempt to boot it is not asked: whether a start that retry_times is one is the unit's decision.
    fn extend_timeout(&mut self, now: Instant) {
        let needs_time = match self.phase {
            DaemonPhase::Running => self.is_reloading || (!self.ever_ready && self.boot_failures == 0),
            DaemonPhase::Draining { .. } | DaemonPhase::Stopping => true,
            DaemonPhase::NotStarted | DaemonPhase::Exited => false,
        };
        if !needs_time {
            self.extend_at = None;
        } else if self.extend_at.is_none_or(|at| at <= now) {
            self.actions.push(Action::ExtendTimeout(EXTEND_INTERVAL * 2));
            self.extend_at = Some(after(now, EXTEND_INTERVAL));
        }
    }

    fn publish(&mut self) {
        if self.phase == DaemonPhase::Exited {
            return;
        }
        self.publish_unavailable();
        let status = self.status_line();
        if self.told_status != status {
            self.told_status.clone_from(&status);
            self.actions.push(Action::Status(status));
        }
    }

    pub(super) fn publish_unavailable(&mut self) {
        if self.told_unavailable != self.outage {
            self.told_unavailable.clone_from(&self.outage);
            self.actions.push(Action::Unavailable(self.outage.clone()));
        }
    }

    // === small ones ===

    pub(super) fn worker(&self, id: WorkerId) -> Option<&WorkerRecord> {
        self.workers.get(&id.life).filter(|worker| worker.id == id)
    }

    pub(super) fn worker_mut(&mut self, id: WorkerId) -> Option<&mut WorkerRecord> {
        self.workers.get_mut(&id.life).filter(|worker| worker.id == id)
    }

    /// A copy, since what is done to one may change the map.
    pub(super) fn ids(&self) -> Vec<WorkerId> {
        self.workers.values().map(|worker| worker.id).collect()
    }

    pub(super) fn any_ready(&self) -> bool {
        self.workers.values().any(WorkerRecord::is_ready)
    }

    pub(super) fn report(&mut self, report: Report) {
        self.actions.push(Action::Report(report));
    }
}

/// How often systemd is asked for more time; each time for twice as much.
const EXTEND_INTERVAL: Duration = Duration::from_secs(15);
