//! `workers.max_memory`: reports workers over their limit to the supervisor, and logs the requests
//! they were running.

use std::io;

use super::Daemon;
use crate::dispatch;
use crate::id::WorkerId;
use crate::supervise::{Event, RecycleReason, WorkerSnapshot, WorkerState};

impl Daemon {
    /// Compares the memory of every serving worker with its limit. Called periodically; with
    /// cgroups, [`Daemon::poll_memory_events`] notices a worker sooner.
    pub(super) fn check_memory_limits(&mut self) -> Vec<Event> {
        // Without an inotify instance, only this call reads the events.
        let mut events = self.poll_memory_events();
        let snapshot = self.supervisor.snapshot();
        let serves = |worker: &&WorkerSnapshot| {
            worker.state == WorkerState::Ready && !self.operator_log.is_zygote(worker.worker)
        };
        for worker in snapshot.workers.iter().filter(serves).copied().collect::<Vec<_>>() {
            let limit = self.generations.get(worker.generation).and_then(|config| config.workers.max_memory);
            let (Some(limit), Some(bytes)) = (limit, self.pool.memory_usage(worker.worker)) else { continue };
            if bytes >= limit {
                events.extend(self.report_over_limit(worker.worker, bytes, limit));
            }
        }
        events
    }

    /// Returns `workers.max_memory` of a worker; `None` if the worker is not serving or has no
    /// limit.
    fn memory_limit(&self, worker: WorkerId) -> Option<u64> {
        let serves = |entry: &WorkerSnapshot| entry.worker == worker && entry.state == WorkerState::Ready;
        let entry = self.supervisor.snapshot().workers.into_iter().find(serves)?;
        self.generations.get(entry.generation)?.workers.max_memory
    }

    /// Reads the memory events after a wait for them. If the wait failed, only the periodic
    /// [`Daemon::check_memory_limits`] reads them from then on.
    pub(super) fn on_memory_readable(&mut self, waited: io::Result<()>) -> Vec<Event> {
        if let Err(error) = waited {
            tracing::warn!(%error, "cannot wait for memory events; reading them periodically instead");
            self.memory.events = None;
        }
        self.poll_memory_events()
    }

    /// Reads the memory events of the workers' cgroups.
    pub(super) fn poll_memory_events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for worker in self.pool.take_workers_over_limit() {
            // A booting worker is checked once it serves.
            let Some(limit) = self.memory_limit(worker) else { continue };
            let bytes = self.pool.memory_usage(worker).unwrap_or(limit);
            events.extend(self.report_over_limit(worker, bytes, limit));
        }
        events
    }

    /// Reports a worker once, and logs each request it is running: one of them may have caused the
    /// growth.
    fn report_over_limit(&mut self, worker: WorkerId, bytes: u64, limit: u64) -> Option<Event> {
        if !self.memory.reported.insert(worker) {
            return None;
        }
        for request in self.dispatcher.running_requests(worker) {
            let dispatch::RequestInfo { request_id, method, path, elapsed, .. } = request;
            tracing::warn!(
                rgun.request_id = %request_id,
                rgun.method = %method,
                rgun.path = %path,
                rgun.worker = worker.number.0,
                "worker {} reached workers.max_memory while {method} {path} ran (for {elapsed:.1?})",
                worker.number.0
            );
        }
        Some(Event::RecycleDue { worker, reason: RecycleReason::Memory { bytes, limit } })
    }
}
