//! The daemon's side of waking: the page that says whether the reactor sleeps, and its doorbell.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use rgun_channel::layout::{REACTOR_EPOCH, REACTOR_PAGE_BYTES};
use rgun_channel::map::Map;
use rgun_channel::wake::Epoch;
use rustix::event::{Timespec, epoll};

/// One page, mapped read-only by every worker, and one eventfd in the reactor's epoll.
///
/// The eventfd is never read: it is registered edge-triggered, and every write to an eventfd is a new
/// edge (eventfd(2), epoll(7)); its counter would overflow after 2⁶⁴ writes.
#[derive(Debug)]
pub struct Reactor {
    page: Map,
    page_fd: OwnedFd,
    doorbell: EventFd,
    /// An epoll of the doorbell alone: for waiting without looking at the sockets.
    alone: OwnedFd,
}

impl Reactor {
    /// Makes page and doorbell.
    ///
    /// # Errors
    /// What `memfd_create(2)` or `eventfd(2)` say.
    pub fn new() -> io::Result<Self> {
        let (page, page_fd) = Map::create_for_readers("rgun-reactor", REACTOR_PAGE_BYTES)?;
        let doorbell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let alone = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&alone, &doorbell, epoll::EventData::new_u64(0), flags)?;
        Ok(Self { page, page_fd, doorbell, alone })
    }

    /// Blocks until the doorbell rings, but not for longer than `most` (less than a second). On kernels without
    /// `epoll_pwait2(2)` (before 5.11) that is rounded up to a millisecond.
    pub fn wait_for_doorbell(&self, most: Duration) {
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(most.subsec_nanos()) };
        let mut event = Vec::with_capacity(1);
        // Interrupted or refused: the caller goes on to the real epoll, which waits properly.
        if let Err(error) =
            epoll::wait(&self.alone, rustix::buffer::spare_capacity(&mut event), Some(&timeout))
        {
            tracing::trace!(%error, "waiting for the doorbell ended early, ignoring");
        }
    }

    /// Rings the doorbell from this side: the next look at the epoll finds something.
    pub(super) fn ring(&self) {
        if let Err(error) = self.doorbell.write(1) {
            // EAGAIN: the counter is full, which is as good as a ring.
            tracing::trace!(%error, "cannot ring the doorbell, ignoring");
        }
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
