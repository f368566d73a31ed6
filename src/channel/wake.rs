//! Sleeping and waking without lost wake-ups, and without a system call while both sides are busy.
//!
//! All protocols have the same shape. The sleeper *announces* its sleep, fences, checks once
//! more for work, and only then sleeps; the waker *publishes* work, fences, and only then checks
//! for an announcement. Both sides store, `fence(SeqCst)`, then load (Dekker), so at least one of
//! them sees the other: the sleeper finds the work, or the waker finds the sleeper.
//!
//! - [`Sleepers`]: worker threads asleep on the submission ring; the daemon wakes one for each
//!   record.
//! - [`Epoch`]: the daemon asleep in `epoll_wait(2)`; workers write to its eventfd, each at most
//!   once per sleep.
//! - [`BacklogWait`]: the daemon asleep until a worker has no backlog any more; that worker wakes the
//!   daemon.
//! - [`WaitFlag`]: worker threads that wait for space or credit; the daemon wakes all of them.
//!
//! An event loop (an ASGI worker) is one sleeper that sleeps in `epoll_wait(2)` instead of on a
//! futex. It announces ([`Sleepers::announce_loop_sleep`], [`WaitFlag::announce_wait`]), checks
//! once more and returns to its loop; the daemon writes to the worker's eventfd
//! ([`Waker::EventFd`]) where it would wake a futex. Once woken, the loop checks everything it
//! waits for. It uses no tokens.
//!
//! The protocols take borrowed atomics and a [`Futex`], so that loom checks the same code
//! (`models/`, `RUSTFLAGS="--cfg loom" cargo test -p rgun-channel --lib --release models`).

#[cfg(not(loom))]
use std::os::fd::BorrowedFd;

use crate::sync::{AtomicU32, Ordering, fence};

/// `futex(2)` on a word that may be shared between processes (never `FUTEX_PRIVATE_FLAG`).
pub trait Futex {
    /// Sleeps while `word` holds `expected`; returns at once if it holds another value. May return
    /// spuriously. Returns whether a signal interrupted the sleep.
    fn wait(&self, word: &AtomicU32, expected: u32) -> bool;
    /// Wakes up to `count` sleepers of `word`.
    fn wake(&self, word: &AtomicU32, count: u32);
}

/// The kernel's futex.
#[cfg(not(loom))]
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemFutex;

#[cfg(not(loom))]
impl Futex for SystemFutex {
    fn wait(&self, word: &AtomicU32, expected: u32) -> bool {
        matches!(
            rustix::thread::futex::wait(word, rustix::thread::futex::Flags::empty(), expected, None),
            Err(rustix::io::Errno::INTR)
        )
    }

    fn wake(&self, word: &AtomicU32, count: u32) {
        // The only errors are about a wrong address, which a reference cannot have.
        let woken = rustix::thread::futex::wake(word, rustix::thread::futex::Flags::empty(), count);
        debug_assert!(woken.is_ok());
    }
}

/// The way to wake the sleepers of one worker.
#[cfg(not(loom))]
#[derive(Debug, Clone, Copy)]
pub enum Waker<'a> {
    /// Threads, by `futex(2)`.
    Futex,
    /// An event loop, by its non-blocking eventfd.
    EventFd(BorrowedFd<'a>),
}

#[cfg(not(loom))]
impl Futex for Waker<'_> {
    /// Returns at once for an eventfd: an event loop polls it.
    fn wait(&self, word: &AtomicU32, expected: u32) -> bool {
        match self {
            Self::Futex => SystemFutex.wait(word, expected),
            Self::EventFd(_) => false,
        }
    }

    fn wake(&self, word: &AtomicU32, count: u32) {
        match self {
            Self::Futex => SystemFutex.wake(word, count),
            Self::EventFd(eventfd) => {
                // EAGAIN: the counter is at its maximum (eventfd(2)), so the eventfd is readable
                // already.
                let written = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
                debug_assert!(matches!(written, Ok(8) | Err(rustix::io::Errno::AGAIN)));
            }
        }
    }
}

/// Worker threads asleep on the submission ring.
///
/// `asleep` counts the threads that announced sleep and have no token; `tokens` counts the wake
/// tokens granted and not taken. Their sum (with a grant in transit) is the number of threads
/// between [`Sleepers::announce_sleep`] and the return of [`Sleepers::cancel_sleep`] or
/// [`Sleepers::sleep`].
#[derive(Debug, Clone, Copy)]
pub struct Sleepers<'a> {
    /// Threads that announced sleep and have no token.
    pub asleep: &'a AtomicU32,
    /// Tokens granted and not taken; the futex word.
    pub tokens: &'a AtomicU32,
}

impl Sleepers<'_> {
    /// After publishing work, wakes at most `max` threads. Returns the number of threads woken.
    pub fn wake(&self, futex: &impl Futex, max: u32) -> u32 {
        fence(Ordering::SeqCst);
        let mut asleep = self.asleep.load(Ordering::Relaxed);
        loop {
            let count = asleep.min(max);
            if count == 0 {
                return 0;
            }
            match self.asleep.compare_exchange_weak(
                asleep,
                asleep - count,
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    self.tokens.fetch_add(count, Ordering::Release);
                    futex.wake(self.tokens, count);
                    return count;
                }
                Err(now) => asleep = now,
            }
        }
    }

    /// Waker: returns whether a thread is asleep. A hint, to be followed by [`Sleepers::wake`].
    pub fn any_asleep(&self) -> bool {
        fence(Ordering::SeqCst);
        self.asleep.load(Ordering::Relaxed) != 0
    }

    /// Event loop, step 1: announces sleep. The caller checks for work once more, then either calls
    /// [`Sleepers::announce_loop_awake`] (there is work) or returns to its loop, which polls the
    /// eventfd.
    pub fn announce_loop_sleep(&self) {
        self.asleep.store(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Event loop, step 2: announces that it is awake and needs no wake-up. Called before the loop
    /// checks for work.
    pub fn announce_loop_awake(&self) {
        // If the daemon sees this late, the loop is woken once too often.
        self.asleep.store(0, Ordering::Release);
    }

    /// Sleeper, step 1: announces sleep. The caller checks for work once more, then calls either
    /// [`Sleepers::cancel_sleep`] (there is work) or [`Sleepers::sleep`].
    pub fn announce_sleep(&self) {
        self.asleep.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Sleeper, step 2a: withdraws the announcement, or takes the token if the waker was first.
    pub fn cancel_sleep(&self, futex: &impl Futex) {
        let mut asleep = self.asleep.load(Ordering::Relaxed);
        while asleep != 0 {
            match self.asleep.compare_exchange_weak(asleep, asleep - 1, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => asleep = now,
            }
        }
        // The waker was first: it has granted a token for this thread, or is about to. The token is
        // taken here. Left behind, it would wake another thread for nothing, and the sum of the
        // two words would drift.
        while !self.take_token() {
            futex.wait(self.tokens, 0);
        }
    }

    /// Sleeper, step 2b: sleeps until a token is granted. Calls `interrupted` when a signal ends
    /// the sleep early (Python signal handlers run there), then sleeps again.
    pub fn sleep(&self, futex: &impl Futex, mut interrupted: impl FnMut()) {
        while !self.take_token() {
            if futex.wait(self.tokens, 0) {
                interrupted();
            }
        }
    }

    fn take_token(&self) -> bool {
        let mut tokens = self.tokens.load(Ordering::Acquire);
        while tokens != 0 {
            match self.tokens.compare_exchange_weak(tokens, tokens - 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => tokens = now,
            }
        }
        false
    }
}

/// The sleep state of the daemon's reactor: even = awake, odd = asleep in `epoll_wait(2)`.
///
/// The daemon alone writes it; workers map it read-only, so none of them can keep the daemon asleep
/// for the others. A worker remembers the epoch in which it woke the daemon, so that it calls
/// `write(2)` once per sleep.
#[derive(Debug, Clone, Copy)]
pub struct Epoch<'a>(
    /// The word, in the reactor's page.
    pub &'a AtomicU32,
);

impl Epoch<'_> {
    /// Daemon: announces sleep. The caller checks every completion ring once more before it sleeps.
    pub fn announce_sleep(&self) {
        let epoch = self.0.load(Ordering::Relaxed);
        self.0.store(epoch | 1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Daemon: announces that it is awake. Called before the completion rings are read.
    pub fn announce_awake(&self) {
        let epoch = self.0.load(Ordering::Relaxed);
        if epoch & 1 == 1 {
            self.0.store(epoch.wrapping_add(1), Ordering::SeqCst);
            fence(Ordering::SeqCst);
        }
    }

    /// Worker, after publishing a completion: returns whether to write to the daemon's eventfd.
    /// `woken_epoch` is the last epoch for which this worker got true; the call updates it. Its
    /// initial value is 0, which is even and so matches no sleep.
    pub fn must_wake(&self, woken_epoch: &mut u32) -> bool {
        fence(Ordering::SeqCst);
        let epoch = self.0.load(Ordering::Relaxed);
        if epoch & 1 == 1 && epoch != *woken_epoch {
            *woken_epoch = epoch;
            return true;
        }
        false
    }
}

/// Whether the daemon's reactor waits for workers only: 1 while it waits for them, else 0.
///
/// While every worker has a backlog, a new request could not start, so the daemon does not poll its
/// sockets, for a few milliseconds at most. The daemon announces this wait before its sleep
/// ([`Epoch::announce_sleep`]), and then checks once more that every worker has a backlog. An event
/// loop whose backlog has ended checks for the announcement before its own sleep.
///
/// An event loop with a backlog need not wake a daemon that waits: the daemon checks the completion
/// rings after the wait, before it announces the next sleep.
#[derive(Debug, Clone, Copy)]
pub struct BacklogWait<'a>(
    /// The word, in the reactor's page.
    pub &'a AtomicU32,
);

impl BacklogWait<'_> {
    /// Daemon: announces the wait. Called before [`Epoch::announce_sleep`], whose fence orders both.
    pub fn announce(&self) {
        self.0.store(1, Ordering::SeqCst);
    }

    /// Daemon: ends the wait. Called before the completion rings are read.
    pub fn end(&self) {
        self.0.store(0, Ordering::SeqCst);
    }

    /// Worker, after it has published a completion or consumed its last record: returns whether the
    /// daemon waits.
    pub fn is_announced(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Relaxed) != 0
    }
}

/// The word on which worker threads wait for a resource of the daemon: space in the completion
/// ring, a free chunk, response credit.
///
/// The word is the futex: even = no waiter, odd = perhaps a waiter. Every notification of an odd
/// word makes it the next even number. A plain flag does not suffice, because threads that wait for
/// different resources share the word. For example, a notification clears the flag before thread A
/// sleeps; thread B sets the flag again; the futex then lets A sleep, although A has missed its
/// notification.
#[derive(Debug, Clone, Copy)]
pub struct WaitFlag<'a>(
    /// The word that both sides share.
    pub &'a AtomicU32,
);

impl WaitFlag<'_> {
    /// Daemon: wakes all waiters, after it has provided the resource.
    pub fn notify(&self, futex: &impl Futex) {
        fence(Ordering::SeqCst);
        let seen = self.0.load(Ordering::Relaxed);
        // If the compare-and-swap fails, another notifier has woken the same waiters. A waiter that
        // has announced itself since then fences after our fence, so it sees the resource.
        if seen & 1 == 1
            && self
                .0
                .compare_exchange(seen, seen.wrapping_add(1), Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        {
            futex.wake(self.0, u32::MAX >> 1);
        }
    }

    /// Event loop: announces that it waits. The caller checks for the resource once more, then
    /// returns to its loop, and checks again when its eventfd is readable. The caller may stop
    /// waiting without notice; the next notification is then needless.
    pub fn announce_wait(&self) {
        self.0.fetch_or(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Worker: waits until `available` returns true. Calls `available` again after each
    /// announcement.
    pub fn wait_until(&self, futex: &impl Futex, mut available: impl FnMut() -> bool) {
        loop {
            if available() {
                return;
            }
            let announced = self.0.fetch_or(1, Ordering::SeqCst) | 1;
            fence(Ordering::SeqCst);
            if available() {
                // The word may stay odd: the daemon's next notification is then needless.
                return;
            }
            futex.wait(self.0, announced);
        }
    }
}
