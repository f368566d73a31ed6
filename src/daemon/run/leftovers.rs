//! Processes that workers left behind when they exited by themselves. They are killed and logged
//! after `workers.children_timeout`. At shutdown the daemon waits for them until the drain's
//! deadline.

use std::time::{Duration, Instant};

use super::Daemon;
use super::timers::CGROUP_INTERVAL;
use crate::id::WorkerNr;
use crate::pool::KilledLeftovers;
use crate::supervise::Event;
use crate::systemd::notify;

/// Time requested from systemd in addition to the wait for leftovers (`EXTEND_TIMEOUT_USEC=`).
const STOP_MARGIN: Duration = Duration::from_secs(15);

impl Daemon {
    /// Kills and logs the leftovers whose timeout has passed.
    pub(super) fn kill_leftovers(&mut self) {
        for KilledLeftovers { worker, pid, waited, commands: named, n_processes: count } in
            self.pool.kill_leftovers()
        {
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

    /// Ends all leftovers before the daemon exits with `status`: SIGTERM first, as systemd does for
    /// the processes of a unit, then SIGKILL at the drain's deadline. After a failure there is no
    /// wait.
    pub(super) fn end_leftovers(&mut self, status: u8) {
        let now = Instant::now();
        let deadline = self.timers.stop_by.filter(|_| status == 0).unwrap_or(now);
        let count = self.pool.terminate_leftovers(deadline);
        let wait = deadline.saturating_duration_since(now);
        if count > 0 && !wait.is_zero() {
            tracing::info!(
                "waiting for processes that workers left behind ({count}), for {wait:.1?} at most; \
                 another SIGTERM kills them"
            );
            notify::status("stopping: waiting for processes that workers left behind");
            notify::extend_timeout(wait + STOP_MARGIN);
        }
        self.check_leftovers(&[]);
    }

    /// Kills the leftovers that are due. Called after each wakeup while the daemon waits for
    /// leftovers before its exit.
    pub(super) fn check_leftovers(&mut self, events: &[Event]) {
        if events.contains(&Event::StopNow) {
            self.pool.terminate_leftovers(Instant::now());
        }
        self.kill_leftovers();
        // A cgroup may outlive its last process for a moment.
        self.timers.cgroups = self.pool.has_leftovers().then(|| Instant::now() + CGROUP_INTERVAL);
    }
}
