//! Reacts to memory pressure on the service: idle workers above the minimum of `workers.count`
//! exit, the others return unused memory, and no requests are prefetched.

use std::io;
use std::time::{Duration, Instant};

use super::pressure_watch::PressureWatch;
use super::{Daemon, MemoryWatch, readable};
use crate::journal::catalog::OperatorEvent;
use crate::supervise::Event;

/// Time without a notification after which the pressure counts as over.
const PRESSURE_END: Duration = Duration::from_secs(10);

/// A change that [`MemoryWatch`] has noticed.
#[derive(Debug)]
pub(super) enum MemoryChange {
    /// A worker's `memory.events` changed, or waiting for a change failed.
    Workers(io::Result<()>),
    /// The pressure file reports memory pressure, or has failed.
    Pressure(io::Result<()>),
}

impl MemoryWatch {
    /// Waits for the next change.
    pub(super) async fn changed(&self) -> MemoryChange {
        tokio::select! {
            waited = readable(self.events.as_ref()) => MemoryChange::Workers(waited),
            waited = pressed(self.pressure.as_ref()) => MemoryChange::Pressure(waited),
        }
    }
}

/// Resolves when the file reports memory pressure, or has failed; never if there is no file.
async fn pressed(watch: Option<&PressureWatch>) -> io::Result<()> {
    match watch {
        Some(watch) => watch.pressed().await,
        None => std::future::pending().await,
    }
}

impl Daemon {
    /// Handles a change of the workers' or the service's memory.
    pub(super) fn on_memory_change(&mut self, change: MemoryChange) -> Vec<Event> {
        match change {
            MemoryChange::Workers(waited) => self.on_memory_readable(waited),
            MemoryChange::Pressure(Ok(())) => self.on_memory_pressure(),
            MemoryChange::Pressure(Err(error)) => {
                tracing::debug!(%error, "memory pressure is no longer watched");
                self.memory.pressure = None;
                Vec::new()
            }
        }
    }

    fn on_memory_pressure(&mut self) -> Vec<Event> {
        if self.timers.pressure_end.is_none() {
            tracing::warn!(
                message_id = OperatorEvent::MemoryPressure.id(),
                "memory is short: idle workers above the minimum of workers.count exit, the others return unused memory, \
                 and no request is prefetched"
            );
            self.dispatcher.trim_memory();
        }
        self.timers.pressure_end = Some(Instant::now() + PRESSURE_END);
        self.dispatcher.set_prefetching(false);
        let load = self.dispatcher.load();
        vec![Event::MemoryPressure { n_requests: load.assigned + load.queued }]
    }

    /// Ends the measures against memory pressure.
    pub(super) fn end_memory_pressure(&mut self) {
        self.timers.pressure_end = None;
        self.dispatcher.set_prefetching(true);
        tracing::info!(
            message_id = OperatorEvent::MemoryPressureEnded.id(),
            "memory has not been short for {PRESSURE_END:?}: requests are prefetched again"
        );
    }
}
