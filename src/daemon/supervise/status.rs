//! The STATUS= line for `systemctl status`, and a snapshot of the supervisor's state for `run`.

use std::time::{Duration, Instant};

use crate::id::{Generation, WorkerId, WorkerNr};

use super::state::{DaemonPhase, Seat, WorkerRecord};
use super::worker_set::WorkerSet;
use super::{Supervisor, WorkerState};

/// The supervisor's state at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The STATUS= line.
    pub status: String,
    /// The live generation.
    pub generation: Generation,
    /// The generation of the pending reload; `None` if there is none.
    pub pending: Option<Generation>,
    /// The previous generation while it is kept for a rollback; `None` if it is not.
    pub rollback: Option<Generation>,
    /// The desired number of workers; 0 while the daemon is asleep (`workers.idle_exit`).
    pub desired: usize,
    /// The number of ready workers.
    pub ready: usize,
    /// The reason that requests are answered 503; `None` while they are queued.
    pub unavailable: Option<String>,
    /// Every worker whose process exists or is being created, oldest first.
    pub workers: Vec<WorkerSnapshot>,
    /// Every open seat of the live generation, by number.
    pub seats: Vec<SeatSnapshot>,
    /// Workers spawned since the daemon started.
    pub spawned: u64,
    /// Boots that failed since the daemon started.
    pub boot_failures: u64,
    /// Workers that exited while they served, counted since the daemon started.
    pub crashes: u64,
}

/// The state of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerSnapshot {
    /// The worker that this describes.
    pub worker: WorkerId,
    /// The code and configuration it has loaded.
    pub generation: Generation,
    /// The worker's process id; `None` until the process exists.
    pub pid: Option<u32>,
    /// The worker's state.
    pub state: WorkerState,
    /// When the worker entered that state.
    pub since: Instant,
}

/// The state of one seat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeatSnapshot {
    /// The seat's number.
    pub number: WorkerNr,
    /// The worker that boots or serves there; `None` if the seat is vacant.
    pub worker: Option<WorkerId>,
    /// The end of a vacant seat's backoff; `None` if there is none.
    pub retry_at: Option<Instant>,
    /// The reason that the last process there ended early; `None` once a process is ready.
    pub failure: Option<String>,
}

impl Supervisor {
    /// Returns the live generation.
    pub fn live_generation(&self) -> Generation {
        self.live.generation
    }

    /// Returns whether the operator has made load balancers remove the daemon.
    pub fn is_draining(&self) -> bool {
        self.notify.draining
    }

    /// Returns whether the daemon is stopping.
    pub fn is_stopping(&self) -> bool {
        self.notify.stopping_sent
    }

    /// Returns the current state, for `run` and status output.
    pub fn snapshot(&self) -> Snapshot {
        let workers = self.workers.values().map(|worker| WorkerSnapshot {
            worker: worker.id,
            generation: worker.generation,
            pid: worker.pid,
            state: worker.public_state(),
            since: worker.since,
        });
        let seats = self.live.desired_seats().map(|(number, seat)| {
            let number = WorkerNr(number);
            SeatSnapshot {
                number,
                worker: seat.current.map(|incarnation| WorkerId { number, incarnation }),
                retry_at: seat.retry_at.filter(|_| seat.current.is_none()),
                failure: seat.failure.clone(),
            }
        });
        Snapshot {
            status: self.status_line(),
            generation: self.live.generation,
            pending: self.pending.as_ref().map(|pending| pending.set.generation),
            rollback: self.rollback.as_ref().map(|rollback| rollback.set.generation),
            desired: self.live.desired_count(),
            ready: self.count(WorkerRecord::is_ready),
            unavailable: self.outage.clone(),
            workers: workers.collect(),
            seats: seats.collect(),
            spawned: self.next_incarnation.0 - 1,
            boot_failures: self.boot_failures,
            crashes: self.crashes,
        }
    }

    /// Returns the STATUS= line. Every user of the machine may read it, so it quotes only the
    /// headline of a failure. A headline names files and types of the application; its control
    /// characters are replaced, because a newline would start another assignment in the
    /// notification (sd_notify(3)).
    pub(super) fn status_line(&self) -> String {
        let line = match self.phase {
            DaemonPhase::NotStarted => "starting".to_owned(),
            DaemonPhase::Running => self.serving_line(),
            DaemonPhase::Departing { .. } => {
                format!("stopping: serving until load balancers have left; {}", self.workers_line())
            }
            DaemonPhase::Draining { .. } | DaemonPhase::Stopping | DaemonPhase::Exited => {
                self.stopping_line()
            }
        };
        let printable = line.chars().map(|c| if c.is_control() { ' ' } else { c });
        printable.take(MAX_STATUS_CHARS).collect()
    }

    fn serving_line(&self) -> String {
        let mut line = self.workers_line();
        if let Some(pending) = &self.pending {
            let set = &pending.set;
            let n_ready = self.count(|worker| is_worker_of(worker, set) && worker.is_standby());
            let doing = format!(
                "reloading: {n_ready}/{} of generation {} ready",
                set.desired_count(),
                set.generation
            );
            line = format!("{line}; {doing}");
        }
        if let Some(rollback) = &self.rollback {
            let limit = self.live.policy.watch.unwrap_or_default();
            let (new, old) = (self.live.generation, rollback.set.generation);
            line = format!(
                "{line}; watching generation {new} for {}, can roll back to {old}",
                format_duration(limit)
            );
        }
        if self.notify.draining {
            line = format!("{line}; drained by the operator");
        }
        match &self.last_reload_note {
            Some(note) => format!("{line}; {note}"),
            None => line,
        }
    }

    fn workers_line(&self) -> String {
        if self.live.asleep {
            return "asleep: the next request starts a worker".to_owned();
        }
        let failing = self.failing_seat();
        if !self.ever_ready && failing.is_none() {
            return format!("starting: booting {}", self.live.policy.app);
        }
        let n_ready = self.count(WorkerRecord::is_ready);
        let n_booting = self.count(|worker| is_worker_of(worker, &self.live) && worker.is_booting());
        let n_retiring = self.count(|worker| worker.public_state() == WorkerState::Retiring);
        let mut parts = vec![format!("{n_ready}/{} workers ready", self.live.desired_count())];
        for (n, doing) in [(n_booting, "booting"), (n_retiring, "retiring")] {
            if n > 0 {
                parts.push(format!("{n} {doing}"));
            }
        }
        if self.live.zygote.is_some() && self.live.ready_zygote(&self.workers).is_none() {
            parts.push("no zygote".to_owned());
        }
        let line = parts.join(", ");
        match failing {
            None => line,
            Some((seat, failure)) if self.is_boot_in_progress(seat) => format!("{line}: {failure}"),
            Some((seat, failure)) => format!("{line}: {failure} (retry in {})", format_duration(seat.wait)),
        }
    }

    fn stopping_line(&self) -> String {
        if let Some(fatal_exit) = &self.fatal_exit {
            return format!("failed to start: {}", fatal_exit.reason);
        }
        if self.is_unused {
            return "asleep: no request came for daemon.idle_exit; the next connection to the socket starts rgun".to_owned();
        }
        let (n, doing) = match self.phase {
            DaemonPhase::Draining { .. } => (self.count(WorkerRecord::is_current), "draining"),
            _ => (self.workers.len(), "exiting"),
        };
        format!("stopping: {n} {} {doing}", if n == 1 { "worker" } else { "workers" })
    }

    /// Returns, of the seats with a failure, the one that is retried next, and its failure.
    fn failing_seat(&self) -> Option<(&Seat, &str)> {
        let seats = self.live.zygote.iter().chain(self.live.desired_seats().map(|(_, seat)| seat));
        // No successor of a postponed worker is tried again.
        let seats = seats.filter(|seat| !self.holds_postponed(seat));
        let failing = seats.filter_map(|seat| Some((seat, seat.failure.as_deref()?)));
        failing.min_by_key(|(seat, _)| seat.retry_at)
    }

    /// Returns true if a worker boots in the seat.
    fn is_boot_in_progress(&self, seat: &Seat) -> bool {
        let is_booting = |incarnation| self.workers.get(&incarnation).is_some_and(WorkerRecord::is_booting);
        seat.successor.is_some() || seat.current.is_some_and(is_booting)
    }

    fn count(&self, predicate: impl Fn(&WorkerRecord) -> bool) -> usize {
        self.workers.values().filter(|worker| predicate(worker)).count()
    }
}

fn is_worker_of(worker: &WorkerRecord, set: &WorkerSet) -> bool {
    worker.generation == set.generation && !worker.is_zygote()
}

/// Formats a duration in milliseconds below 1 s, in tenths of a second below 10 s, else in seconds:
/// "250 ms", "1.6 s".
pub(super) fn format_duration(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        let tenths = duration.as_millis() / 100;
        if tenths.is_multiple_of(10) || tenths >= 100 {
            format!("{} s", tenths / 10)
        } else {
            format!("{}.{} s", tenths / 10, tenths % 10)
        }
    }
}

/// Maximum number of characters of a STATUS= line: `systemctl status` shows one line, and a
/// headline has no limit of its own.
const MAX_STATUS_CHARS: usize = 300;
