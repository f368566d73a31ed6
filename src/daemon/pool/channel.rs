//! The daemon's half of what it shares with one worker: made before the process, which inherits the other half.

use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rgun_channel::control;
use rgun_channel::layout::Geometry;
use rgun_channel::map::Map;
use rustix::event::{EventfdFlags, eventfd};

use crate::dispatch::{Link, Slots};
use crate::id::{Generation, WorkerId};

use super::error::SpawnError;
use super::stacks_file::StacksFile;

/// The daemon's ends of what it shares with a worker.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) map: Arc<Map>,
    pub(super) geometry: Geometry,
    pub(super) control: Arc<OwnedFd>,
    /// Rung for an ASGI worker's event loop.
    pub(super) wake: Arc<OwnedFd>,
    pub(super) stacks: StacksFile,
}

impl Channel {
    /// A new one, and what the worker is to be given of it: the map and its end of the control socket.
    pub(super) fn new(geometry: Geometry) -> Result<(Self, OwnedFd, OwnedFd), SpawnError> {
        let system = |what| move |source| SpawnError::System { resource: what, source };
        let (map, map_fd) =
            Map::create("rgun-channel", geometry.total_bytes()).map_err(system("the shared memory"))?;
        let stacks = StacksFile::new().map_err(system("the file for stacks"))?;
        let (ours, theirs) = control::pair().map_err(system("the control socket"))?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| SpawnError::System { resource: "the eventfd", source: errno.into() })?;
        let channel =
            Self { map: Arc::new(map), geometry, control: Arc::new(ours), wake: Arc::new(wake), stacks };
        Ok((channel, map_fd, theirs))
    }

    pub(super) fn link(
        &self,
        worker: WorkerId,
        generation: Generation,
        slots: Slots,
        max_requests: Option<NonZeroU64>,
    ) -> Link {
        Link {
            worker,
            generation,
            map: Arc::clone(&self.map),
            geometry: self.geometry,
            control: Arc::clone(&self.control),
            wake: Arc::clone(&self.wake),
            slots,
            max_requests,
        }
    }
}
