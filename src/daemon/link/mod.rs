//! Values that `pool` makes and `dispatch` takes over: a worker's channel, and the reactor's
//! doorbell, which all workers ring.

use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rgun_channel::layout::Geometry;
use rgun_channel::map::Map;

use crate::id::{Generation, WorkerId};

mod reactor;

pub use self::reactor::Reactor;

/// Maximum numbers of exchanges that a worker has at a time, for each interface. The worker's Ready
/// report names its interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots {
    /// Threads of a WSGI worker.
    pub threads: u32,
    /// Requests of an ASGI worker.
    pub concurrency: u32,
    /// Accepted WebSockets of an ASGI worker, in addition to its requests.
    pub websockets: u32,
}

impl Slots {
    /// Returns the number of slots that the shared map needs.
    pub fn max(self) -> u32 {
        self.threads.max(self.concurrency.saturating_add(self.websockets))
    }
}

/// The daemon's end of a worker's channel.
#[derive(Debug)]
pub struct Link {
    /// The worker's id.
    pub worker: WorkerId,
    /// The generation of the worker's code and configuration.
    pub generation: Generation,
    /// The shared map.
    pub map: Arc<Map>,
    /// The sizes of the map's parts.
    pub geometry: Geometry,
    /// The daemon's end of the worker socket, non-blocking.
    pub control: Arc<OwnedFd>,
    /// The eventfd that an ASGI worker's event loop watches, non-blocking.
    pub wake: Arc<OwnedFd>,
    /// The maximum numbers of exchanges.
    pub slots: Slots,
    /// Number of requests after which the worker is to be replaced: `workers.max_requests` with its
    /// jitter. `None`: it is never replaced for this reason.
    pub max_requests: Option<NonZeroU64>,
}
