//! The dispatcher's answer to health checks.

use std::sync::atomic::Ordering;

use crate::supervise::Presence;

use super::Dispatcher;
use super::state::UNKNOWN;

/// The readiness of the daemon to serve requests, as its answers to health checks report it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// A worker is open, although it may be busy.
    Ready,
    /// No worker runs; the next request starts one (`workers.idle_exit`).
    Asleep,
    /// The operator wants load balancers to send no requests (`rgun drain`).
    Draining,
    /// The daemon is stopping.
    Leaving,
    /// A worker is booting, and none has been ready since the daemon's start.
    FirstBoot,
    /// The workers fail to boot.
    BootFailed,
    /// No worker is open, but one will be soon.
    NoWorker,
}

impl Dispatcher {
    /// Sets the presence that [`Dispatcher::readiness`] reports.
    pub fn set_presence(&self, presence: Presence) {
        self.lock().presence = presence;
    }

    /// Returns whether requests are served now. A full queue counts as serving: if a load balancer
    /// removed a busy server, the other servers would get its load as well.
    pub fn readiness(&self) -> Readiness {
        let state = self.lock();
        match state.presence {
            Presence::Draining => Readiness::Draining,
            Presence::Leaving => Readiness::Leaving,
            _ if state.has_open_worker() => Readiness::Ready,
            Presence::Asleep => Readiness::Asleep,
            Presence::Present if state.unavailable.is_some() => Readiness::BootFailed,
            Presence::Present if self.awaits_first_worker() => Readiness::FirstBoot,
            Presence::Present => Readiness::NoWorker,
        }
    }

    /// Returns whether no worker has been admitted since the daemon's start.
    pub fn awaits_first_worker(&self) -> bool {
        self.interface.load(Ordering::Relaxed) == UNKNOWN
    }
}
