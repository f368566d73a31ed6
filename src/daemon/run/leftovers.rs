//! What workers leave behind when they leave in good order: killed when its time is over, and named; waited for at the
//! end of the daemon, within `timeouts.drain`.

use std::time::{Duration, Instant};

use super::{CGROUP_INTERVAL, Daemon};
use crate::id::WorkerNr;
use crate::pool::KilledLeftover;
use crate::supervise::Event;
use crate::systemd::notify;

/// What systemd gives the daemon beyond the wait for leftovers.
const STOP_MARGIN: Duration = Duration::from_secs(15);

impl Daemon {
    /// Kills those whose time is over.
    pub(super) fn kill_leftovers(&mut self) {
        for KilledLeftover { worker, pid, waited, named, count } in self.pool.kill_leftovers() {
            let is_zygote = worker.number == WorkerNr::ZYGOTE;
            let name =
                if is_zygote { "the zygote".to_owned() } else { format!("worker {}", worker.number.0) };
            let listed: Vec<String> =
                named.iter().map(|(pid, command)| format!("{pid} ({command})")).collect();
            let more = count.saturating_sub(named.len());
            let more = if more == 0 { String::new() } else { format!(" and {more} more") };
            tracing::warn!(
                rgun.worker = (!is_zygote).then_some(worker.number.0),
                rgun.pid = pid,
                "{name} (pid {pid}) left processes behind, which were killed {waited:.1?} later \
                 (workers.children_timeout): {}{more}",
                listed.join(", ")
            );
        }
    }

    /// The daemon is about to exit, with this status. What is left behind is asked to end, as systemd asks the processes
    /// of a unit, and has what is left of the drain.
    pub(super) fn end_leftovers(&mut self, status: u8) {
        let now = Instant::now();
        let deadline = self.stop_by.filter(|_| status == 0).unwrap_or(now);
        let count = self.pool.end_leftovers(deadline);
        let wait = deadline.saturating_duration_since(now);
        if count > 0 && !wait.is_zero() {
            tracing::info!(
                "waiting for what workers have left behind ({count} processes), for {wait:.1?} at most; \
                 another SIGTERM kills it"
            );
            notify::status("stopping: waiting for processes that workers have left behind");
            notify::extend_timeout(wait + STOP_MARGIN);
        }
        self.wait_for_leftovers(&[]);
    }

    /// What is still to be done when the supervisor has nothing more to do.
    pub(super) fn wait_for_leftovers(&mut self, events: &[Event]) {
        if events.contains(&Event::StopNow) {
            self.pool.end_leftovers(Instant::now());
        }
        self.kill_leftovers();
        // The kernel may take a moment from the end of a process to that of its cgroup.
        self.cgroups_due = self.pool.has_leftovers().then(|| Instant::now() + CGROUP_INTERVAL);
    }
}
