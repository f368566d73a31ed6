//! `workers.max_memory`: who is weighed when, and what is said of who has grown.

use super::Daemon;
use crate::dispatch;
use crate::id::WorkerId;
use crate::pool::MemoryEvent;
use crate::supervise::{Event, RecycleReason, WorkerSnapshot, WorkerState};

impl Daemon {
    pub(super) fn check_memory_limits(&mut self) -> Vec<Event> {
        // Where changes cannot be watched for (no inotify instance left), this is when they are seen.
        let mut events = self.poll_memory_events();
        let snapshot = self.supervisor.snapshot();
        let serves = |worker: &&WorkerSnapshot| {
            worker.state == WorkerState::Ready && !self.operator_log.is_zygote(worker.worker)
        };
        for worker in snapshot.workers.iter().filter(serves).copied().collect::<Vec<_>>() {
            let limit = self.generations.get(worker.generation).and_then(|config| config.workers.max_memory);
            let (Some(limit), Some(bytes)) = (limit, self.pool.memory(worker.worker)) else { continue };
            if bytes >= limit {
                events.extend(self.report_over_limit(worker.worker, bytes, limit));
            }
        }
        events
    }

    /// `workers.max_memory` of the generation of a worker that serves.
    fn memory_limit(&self, worker: WorkerId) -> Option<u64> {
        let serves = |life: &WorkerSnapshot| life.worker == worker && life.state == WorkerState::Ready;
        let life = self.supervisor.snapshot().workers.into_iter().find(serves)?;
        self.generations.get(life.generation)?.workers.max_memory
    }

    pub(super) fn poll_memory_events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for event in self.pool.memory_events() {
            match event {
                MemoryEvent::High(worker) => {
                    // One that does not serve yet is weighed when it does.
                    let Some(limit) = self.memory_limit(worker) else { continue };
                    let bytes = self.pool.memory(worker).unwrap_or(limit);
                    events.extend(self.report_over_limit(worker, bytes, limit));
                }
                MemoryEvent::OomKill(worker) => self.operator_log.note_oom_kill(worker),
            }
        }
        events
    }

    /// The request named by growth during it is one of those that run now.
    fn report_over_limit(&mut self, worker: WorkerId, bytes: u64, limit: u64) -> Option<Event> {
        if !self.over_memory_limit.insert(worker) {
            return None;
        }
        for asked in self.dispatcher.running_requests(worker) {
            let dispatch::RequestInfo { request_id, method, path, elapsed, .. } = asked;
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
