//! The doorbell by which workers wake the reactor, and the page that tells them whether the reactor
//! sleeps.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use rgun_channel::layout::{
    REACTOR_BACKLOG_WAIT, REACTOR_EPOCH, REACTOR_PAGE_BYTES, REACTOR_SPIN, REACTOR_WAKEUP_DELAY,
};
use rgun_channel::map::Map;
use rgun_channel::wake::{BacklogWait, Epoch};
use rustix::event::{Timespec, epoll};

/// One page, mapped read-only by every worker, and one eventfd in the reactor's epoll.
///
/// The eventfd is never read: it is registered edge-triggered, and every write to an eventfd is a
/// new edge (eventfd(2), epoll(7)); its counter would overflow after 2⁶⁴ writes.
#[derive(Debug)]
pub struct Reactor {
    page: Map,
    page_fd: OwnedFd,
    doorbell: EventFd,
    /// An epoll of the doorbell alone, to wait for completions without polling the sockets.
    doorbell_epoll: OwnedFd,
}

impl Reactor {
    /// Makes the page and the doorbell.
    ///
    /// # Errors
    /// `memfd_create(2)`, `eventfd(2)` or `epoll_create1(2)` failed.
    pub fn new() -> io::Result<Self> {
        let (page, page_fd) = Map::create_for_readers("rgun-reactor", REACTOR_PAGE_BYTES)?;
        let doorbell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let doorbell_epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&doorbell_epoll, &doorbell, epoll::EventData::new_u64(0), flags)?;
        Ok(Self { page, page_fd, doorbell, doorbell_epoll })
    }

    /// Blocks until the doorbell rings or `timeout` elapses. rustix rounds `timeout` up to a whole
    /// millisecond, because without its feature `linux_5_11` it calls `epoll_wait(2)`.
    pub fn wait_for_doorbell(&self, timeout: Duration) {
        let timeout =
            Timespec { tv_sec: timeout.as_secs().cast_signed(), tv_nsec: timeout.subsec_nanos().into() };
        let mut event = Vec::with_capacity(1);
        // After an error the caller goes on to poll the reactor's own epoll, which waits, too.
        if let Err(error) =
            epoll::wait(&self.doorbell_epoll, rustix::buffer::spare_capacity(&mut event), Some(&timeout))
        {
            tracing::trace!(%error, "the wait for the doorbell ended early, ignoring");
        }
    }

    /// Rings the doorbell, so that the reactor's next poll returns at once.
    pub(crate) fn ring(&self) {
        if let Err(error) = self.doorbell.write(1) {
            // EAGAIN: the counter is full, so the doorbell has rung already.
            tracing::trace!(%error, "cannot ring the doorbell, ignoring");
        }
    }

    /// Returns the word that tells workers whether the reactor sleeps.
    pub fn epoch(&self) -> Epoch<'_> {
        Epoch(self.page.u32(REACTOR_EPOCH))
    }

    /// Returns the word that tells workers whether the reactor waits for them only.
    pub fn backlog_wait(&self) -> BacklogWait<'_> {
        BacklogWait(self.page.u32(REACTOR_BACKLOG_WAIT))
    }

    /// Tells workers whether they may spin.
    pub(crate) fn set_spinning(&self, spins: bool) {
        let (word, value) = (self.page.u32(REACTOR_SPIN), u32::from(spins));
        // Usually unchanged: a store would take the line from the workers' caches.
        if word.load(Ordering::Relaxed) != value {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Tells workers for how long they may defer a wake-up.
    pub(crate) fn set_wakeup_delay(&self, delay: Duration) {
        let micros = u32::try_from(delay.as_micros()).unwrap_or(u32::MAX);
        self.page.u32(REACTOR_WAKEUP_DELAY).store(micros, Ordering::Relaxed);
    }

    /// Returns whether workers may spin.
    #[cfg(test)]
    pub(crate) fn is_spinning(&self) -> bool {
        self.page.u32(REACTOR_SPIN).load(Ordering::Relaxed) != 0
    }

    /// Returns for how long workers may defer a wake-up; zero before the first change.
    #[cfg(test)]
    pub(crate) fn wakeup_delay(&self) -> Duration {
        Duration::from_micros(self.page.u32(REACTOR_WAKEUP_DELAY).load(Ordering::Relaxed).into())
    }

    /// Returns the page's descriptor, for a worker.
    pub fn page_fd(&self) -> BorrowedFd<'_> {
        self.page_fd.as_fd()
    }

    /// Returns the doorbell's descriptor, for a worker and for epoll.
    pub fn doorbell_fd(&self) -> BorrowedFd<'_> {
        self.doorbell.as_fd()
    }
}
