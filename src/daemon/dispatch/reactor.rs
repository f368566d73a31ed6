//! The daemon's side of waking: the page that says whether the reactor sleeps, and its doorbell.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};
use rgun_channel::layout::{REACTOR_EPOCH, REACTOR_PAGE};
use rgun_channel::map::Map;
use rgun_channel::wake::Epoch;

/// One page, mapped read-only by every worker, and one eventfd in the reactor's epoll.
///
/// The eventfd is never read: it is registered edge-triggered, and every write to an eventfd is a new
/// edge (eventfd(2), epoll(7)); its counter would overflow after 2⁶⁴ writes.
#[derive(Debug)]
pub struct Reactor {
    page: Map,
    page_fd: OwnedFd,
    doorbell: EventFd,
}

impl Reactor {
    /// Makes page and doorbell.
    ///
    /// # Errors
    /// What `memfd_create(2)` or `eventfd(2)` say.
    pub fn new() -> io::Result<Self> {
        let (page, page_fd) = Map::create_for_readers("rgun-reactor", REACTOR_PAGE)?;
        let doorbell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { page, page_fd, doorbell })
    }

    /// Whether the reactor sleeps.
    pub fn epoch(&self) -> Epoch<'_> {
        Epoch(self.page.u32(REACTOR_EPOCH))
    }

    /// The page's descriptor, for a worker.
    pub fn page_fd(&self) -> BorrowedFd<'_> {
        self.page_fd.as_fd()
    }

    /// The doorbell's descriptor, for a worker and for epoll.
    pub fn doorbell_fd(&self) -> BorrowedFd<'_> {
        self.doorbell.as_fd()
    }
}
