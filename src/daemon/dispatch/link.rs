//! A worker's channel as `pool` hands it over, and how many exchanges may go through it at a time.
//!
//! Values only: [`Worker`](super::worker::Worker) takes a [`Link`] to pieces when it is attached.

use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rgun_channel::layout::Geometry;
use rgun_channel::map::Map;

use crate::id::{Generation, WorkerId};

/// How many exchanges a worker can have at a time. Which number counts its `Ready` tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slots {
    /// Of a WSGI worker.
    pub threads: u32,
    /// Of an ASGI worker.
    pub concurrency: u32,
    /// WebSockets that an ASGI worker may have accepted besides.
    pub websockets: u32,
}

impl Slots {
    /// For how many the shared map has room.
    pub fn max(self) -> u32 {
        self.threads.max(self.concurrency.saturating_add(self.websockets))
    }
}

/// A worker's channel, as `pool` made it.
#[derive(Debug)]
pub struct Link {
    /// Whose it is.
    pub worker: WorkerId,
    /// Which code and configuration it has.
    pub generation: Generation,
    /// The shared map.
    pub map: Arc<Map>,
    /// Its sizes.
    pub geometry: Geometry,
    /// The daemon's end of the control socket; does not block.
    pub control: Arc<OwnedFd>,
    /// The eventfd that an ASGI worker's event loop watches; does not block.
    pub wake: Arc<OwnedFd>,
    /// How many exchanges it can have at a time, by its interface.
    pub slots: Slots,
    /// After how many requests [`Notice::Served`](super::Notice::Served) is told: `workers.max_requests` with its jitter.
    pub max_requests: Option<NonZeroU64>,
}
