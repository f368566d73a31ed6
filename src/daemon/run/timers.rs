//! Periodic work of the main loop, and systemd's watchdog.

use std::time::{Duration, Instant};

use super::Daemon;
use crate::journal::catalog::OperatorEvent;
use crate::supervise::Event;
use crate::systemd::notify;

/// Interval of load measurements for the supervisor, while it scales workers or watches a reload.
const LOAD_INTERVAL: Duration = Duration::from_secs(1);

/// Interval of reading the workers' memory, if it is limited.
const MEMORY_INTERVAL: Duration = Duration::from_secs(5);

/// Time after READY=1 until the start counts as a success, so that the next restart is not delayed
/// by the failures before it.
pub(super) const RESTART_RESET_DELAY: Duration = Duration::from_mins(1);

/// Interval of attempts to remove a cgroup whose processes are exiting.
pub(super) const CGROUP_INTERVAL: Duration = Duration::from_millis(100);

impl Daemon {
    /// Returns when [`Daemon::run_timers`] must be called next.
    pub(super) fn next_wakeup(&self) -> Option<Instant> {
        let exit_deadlines = self.awaiting_exit.iter().map(|(_, deadline)| *deadline);
        [
            self.supervisor.next_wakeup(),
            self.stack_dumps.next_wakeup(),
            self.status.due(),
            self.timers.load,
            self.timers.unused,
            self.timers.restart_reset,
            self.timers.memory,
            self.timers.pressure_end,
            self.timers.cgroups,
            self.pool.next_fork_deadline(),
            self.pool.next_leftover_kill(),
            notify::retry_at(),
        ]
        .into_iter()
        .flatten()
        .chain(exit_deadlines)
        .chain(self.timers.kills.iter().map(|(_, due)| *due))
        .min()
    }

    /// Performs the periodic work that is due. Returns the events for the supervisor.
    pub(super) fn run_timers(&mut self) -> Vec<Event> {
        let now = Instant::now();
        let is_due = |due: Option<Instant>| due.is_some_and(|due| due <= now);
        let mut events = self.expire_exit_waits();
        notify::retry();
        for result in self.stack_dumps.on_timeout(&mut self.pool, now) {
            events.extend(self.log_stacks(result));
        }
        for (worker, _) in self.timers.kills.extract_if(.., |(_, due)| *due <= now) {
            self.pool.kill(worker);
        }
        if is_due(self.status.due()) {
            self.send_status();
        }
        if is_due(self.timers.load) {
            self.timers.load = Some(now + LOAD_INTERVAL);
            events.push(Event::Load(self.dispatcher.measure()));
        }
        if is_due(self.timers.unused) {
            events.extend(self.check_use(now));
        }
        if is_due(self.timers.restart_reset) {
            self.timers.restart_reset = None;
            notify::reset_restart_delay();
        }
        if is_due(self.timers.memory) {
            self.timers.memory = Some(now + MEMORY_INTERVAL);
            events.extend(self.check_memory_limits());
        }
        if is_due(self.timers.pressure_end) {
            self.end_memory_pressure();
        }
        if is_due(self.timers.cgroups) {
            self.remove_cgroups();
        }
        if is_due(self.pool.next_leftover_kill()) {
            self.kill_leftovers();
        }
        if is_due(self.pool.next_fork_deadline()) {
            events.extend(self.collect_lost_forks());
        }
        events.push(Event::Tick);
        events
    }

    /// Starts or stops the timers that depend on the configurations of all generations.
    pub(super) fn set_timers(&mut self) {
        let now = Instant::now();
        let is_watching = self.supervisor.snapshot().rollback.is_some();
        let needs_load = is_watching
            || self.generations.any(|config| {
                let (min, max) = config.workers.count.bounds(self.host.cores);
                min != max || config.workers.idle_exit.is_some()
            });
        self.timers.load = needs_load.then(|| self.timers.load.unwrap_or(now + LOAD_INTERVAL));
        let needs_memory = self.generations.any(|config| config.workers.max_memory.is_some());
        self.timers.memory = needs_memory.then(|| self.timers.memory.unwrap_or(now + MEMORY_INTERVAL));
    }

    /// Removes the cgroups of exited workers, and schedules another attempt for those that still
    /// have processes.
    pub(super) fn remove_cgroups(&mut self) {
        let n_left = self.pool.remove_stale_cgroups();
        self.timers.cgroups = (n_left > 0).then(|| Instant::now() + CGROUP_INTERVAL);
    }

    /// Sends the `STATUS=` line with the current load, if it has changed.
    pub(super) fn send_status(&mut self) {
        let generation = self.supervisor.live_generation();
        self.status.send(self.dispatcher, generation, Instant::now());
    }

    /// Sends `WATCHDOG=1` if the edge thread answers within the interval, else `WATCHDOG=trigger`,
    /// upon which systemd aborts the daemon.
    pub(super) async fn ping_watchdog(&mut self, interval: Option<Duration>) {
        self.send_status();
        let timeout = interval.unwrap_or_default();
        if let Ok(Ok(())) = tokio::time::timeout(timeout, self.edge.ping()).await {
            notify::watchdog();
        } else {
            tracing::error!(
                message_id = OperatorEvent::EdgeHung.id(),
                "the edge thread has not answered for {timeout:.0?}, which is a bug in rgun; systemd aborts the daemon \
                 and restarts it (WATCHDOG=trigger)"
            );
            notify::trigger_watchdog();
        }
    }
}
