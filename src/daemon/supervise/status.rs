//! What the supervisor says about itself: the STATUS= line for `systemctl status`, and a snapshot for the admin
//! socket and metrics. Reads only.

use std::time::{Duration, Instant};

use crate::id::{Generation, WorkerId, WorkerNr};

use super::state::{DaemonPhase, Seat, WorkerRecord};
use super::worker_set::WorkerSet;
use super::{Supervisor, WorkerState};

/// The supervisor's view at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The STATUS= line.
    pub status: String,
    /// The generation that serves.
    pub generation: Generation,
    /// The one that comes up beside it.
    pub pending: Option<Generation>,
    /// The one before it, which may take over again.
    pub rollback: Option<Generation>,
    /// How many workers are to serve; none while the daemon sleeps.
    pub count: usize,
    /// How many do.
    pub ready: usize,
    /// The reason requests are refused with 503, if they are.
    pub unavailable: Option<String>,
    /// Every worker that is not gone, oldest first.
    pub workers: Vec<WorkerSnapshot>,
    /// Every seat of the generation that serves, by number.
    pub seats: Vec<SeatSnapshot>,
    /// Workers asked for since the daemon began.
    pub spawned: u64,
    /// Lives that ended without having been ready.
    pub boot_failures: u64,
    /// Workers that died while they served.
    pub crashes: u64,
}

/// One worker at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerSnapshot {
    /// Who.
    pub worker: WorkerId,
    /// What it has loaded.
    pub generation: Generation,
    /// Its process, once there is one.
    pub pid: Option<u32>,
    /// Where it is in its life.
    pub state: WorkerState,
    /// Since when.
    pub since: Instant,
}

/// One seat at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeatSnapshot {
    /// Which.
    pub number: WorkerNr,
    /// Who boots or serves there.
    pub worker: Option<WorkerId>,
    /// If nobody: not before this.
    pub retry_at: Option<Instant>,
    /// Why the last life there was too short, until one is ready.
    pub failure: Option<String>,
}

impl Supervisor {
    /// What there is to say at this moment.
    pub fn snapshot(&self) -> Snapshot {
        let workers = self.workers.values().map(|worker| WorkerSnapshot {
            worker: worker.id,
            generation: worker.generation,
            pid: worker.pid,
            state: worker.public_state(),
            since: worker.since,
        });
        let seats = self.live.open().map(|(number, seat)| {
            let number = WorkerNr(number);
            SeatSnapshot {
                number,
                worker: seat.current.map(|life| WorkerId { number, life }),
                retry_at: seat.retry_at.filter(|_| seat.current.is_none()),
                failure: seat.failure.clone(),
            }
        });
        Snapshot {
            status: self.status_line(),
            generation: self.live.generation,
            pending: self.pending.as_ref().map(|pending| pending.set.generation),
            rollback: self.rollback.as_ref().map(|rollback| rollback.set.generation),
            count: self.live.desired_count(),
            ready: self.count(WorkerRecord::is_ready),
            unavailable: self.outage.clone(),
            workers: workers.collect(),
            seats: seats.collect(),
            spawned: self.next_life.0 - 1,
            boot_failures: self.boot_failures,
            crashes: self.crashes,
        }
    }

    /// The STATUS= line, which everybody on the machine may read: of a failure it has the headline. That names files and
    /// types of the application: what is not printable in one line is replaced, since a newline in a notification would
    /// begin another assignment (sd_notify(3)).
    pub(super) fn status_line(&self) -> String {
        let line = match self.phase {
            DaemonPhase::NotStarted => "starting".to_owned(),
            DaemonPhase::Running => self.serving_line(),
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
            let n_ready = self.count(|worker| is_server_of(worker, set) && worker.is_standby());
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
            line =
                format!("{line}; watching generation {new} for {}, {old} is at hand", format_duration(limit));
        }
        match &self.last_reload_note {
            Some(last_reload_note) => format!("{line}; {last_reload_note}"),
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
        let n_booting = self.count(|worker| is_server_of(worker, &self.live) && worker.is_booting());
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
            Some((seat, failure)) if self.has_boot(seat) => format!("{line}: {failure}"),
            Some((seat, failure)) => format!("{line}: {failure} (retry in {})", format_duration(seat.wait)),
        }
    }

    fn stopping_line(&self) -> String {
        if let Some(fatal_exit) = &self.fatal_exit {
            return format!("failed to start: {}", fatal_exit.reason);
        }
        let (n, doing) = match self.phase {
            DaemonPhase::Draining { .. } => (self.count(WorkerRecord::is_current), "draining"),
            _ => (self.workers.len(), "exiting"),
        };
        format!("stopping: {n} {} {doing}", if n == 1 { "worker" } else { "workers" })
    }

    /// The seat that is tried next among those whose last life was too short.
    fn failing_seat(&self) -> Option<(&Seat, &str)> {
        let seats = self.live.zygote.iter().chain(self.live.open().map(|(_, seat)| seat));
        let failing = seats.filter_map(|seat| Some((seat, seat.failure.as_deref()?)));
        failing.min_by_key(|(seat, _)| seat.retry_at)
    }

    /// Whether somebody boots there.
    fn has_boot(&self, seat: &Seat) -> bool {
        let is_booting = |life| self.workers.get(&life).is_some_and(WorkerRecord::is_booting);
        seat.successor.is_some() || seat.current.is_some_and(is_booting)
    }

    fn count(&self, is: impl Fn(&WorkerRecord) -> bool) -> usize {
        self.workers.values().filter(|worker| is(worker)).count()
    }
}

fn is_server_of(worker: &WorkerRecord, set: &WorkerSet) -> bool {
    worker.generation == set.generation && !worker.is_zygote()
}

/// A duration as people write it, to a precision that does not pretend.
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

/// Characters of a STATUS= line; `systemctl status` shows one line, and a summary may be a whole page.
const MAX_STATUS_CHARS: usize = 300;
