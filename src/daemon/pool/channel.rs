//! The daemon's end of a worker's channel. The channel is created before the process, which gets
//! the other end.

use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rgun_channel::control;
use rgun_channel::layout::Geometry;
use rgun_channel::log_record::LogToken;
use rgun_channel::map::Map;
use rustix::event::{EventfdFlags, eventfd};

use crate::id::{Generation, WorkerId};
use crate::link::{Link, Slots};

use super::error::SpawnError;
use super::stacks_file::StacksFile;

/// The daemon's end of a worker's channel.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) map: Arc<Map>,
    pub(super) geometry: Geometry,
    pub(super) control: Arc<OwnedFd>,
    /// Eventfd that wakes an ASGI worker's event loop.
    pub(super) wake: Arc<OwnedFd>,
    pub(super) stacks: StacksFile,
    /// `None` if the process sends no records of logging.
    pub(super) log_token: Option<LogToken>,
}

impl Channel {
    /// Creates a channel. Also returns the descriptors for the worker: the shared memory, and the
    /// worker's end of its socket.
    pub(super) fn new(
        geometry: Geometry,
        log_token: Option<LogToken>,
    ) -> Result<(Self, OwnedFd, OwnedFd), SpawnError> {
        let system = |resource| move |source| SpawnError::System { resource, source };
        let (map, map_fd) =
            Map::create("rgun-channel", geometry.total_bytes()).map_err(system("the shared memory"))?;
        let stacks = StacksFile::new().map_err(system("the stacks file"))?;
        let (daemon_socket, worker_socket) = control::pair().map_err(system("the worker socket"))?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| SpawnError::System { resource: "the eventfd", source: errno.into() })?;
        let channel = Self {
            map: Arc::new(map),
            geometry,
            control: Arc::new(daemon_socket),
            wake: Arc::new(wake),
            stacks,
            log_token,
        };
        Ok((channel, map_fd, worker_socket))
    }

    /// Returns the dispatcher's handle to the channel.
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
