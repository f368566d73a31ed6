//! Sleeping and waking without lost wake-ups, and without a system call while both sides are busy.
//!
//! Three protocols, all of the same shape: the sleeper *announces* that it will sleep, fences, looks
//! once more for work, and only then sleeps; the waker *publishes* work, fences, and only then looks
//! whether somebody announced. Of the two looks at least one sees the other side (Dekker's argument:
//! both sides store, then `fence(SeqCst)`, then load), so either the sleeper finds the work or the
//! waker finds the sleeper.
//!
//! - [`Sleepers`]: worker threads asleep on the submission ring; the daemon wakes as many as it has work for.
//! - [`Epoch`]: the daemon asleep in `epoll_wait(2)`; any worker rings its eventfd, at most once per sleep.
//! - [`WaitFlag`]: a worker thread waits for room or credit; the daemon wakes all who do.
//!
//! An event loop (an ASGI worker) is one sleeper that sleeps in `epoll_wait(2)`, not on a futex: it announces as threads
//! do ([`Sleepers::announce_loop_sleep`], [`WaitFlag::announce_wait`]), looks once more, and goes back to its loop. The daemon's look is the
//! same, and where it would wake a futex it rings the worker's eventfd ([`Waker::EventFd`]). Rung, the loop looks at
//! everything it waits for. Tokens mean nothing to it.
//!
//! The protocols work on borrowed atomics and a [`Futex`], so that the very same code is checked by
//! loom (`models.rs`, `RUSTFLAGS="--cfg loom" cargo test -p rgun-channel --lib --release models`).

#[cfg(not(loom))]
use std::os::fd::BorrowedFd;

use crate::sync::{AtomicU32, Ordering, fence};

/// `futex(2)` on a word that may be shared between processes (never `FUTEX_PRIVATE_FLAG`).
pub trait Futex {
    /// Sleeps while `word` holds `expected`; returns at once if it does not. Spurious returns are
    /// allowed; true means that a signal interrupted the sleep.
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
        // The only errors are those of a wrong address, which a reference cannot have.
        let woken = rustix::thread::futex::wake(word, rustix::thread::futex::Flags::empty(), count);
        debug_assert!(woken.is_ok());
    }
}

/// How those who wait in one worker are woken.
#[cfg(not(loom))]
#[derive(Debug, Clone, Copy)]
pub enum Waker<'a> {
    /// Threads, by `futex(2)`.
    Futex,
    /// An event loop, by its eventfd (which does not block).
    EventFd(BorrowedFd<'a>),
}

#[cfg(not(loom))]
impl Futex for Waker<'_> {
    /// Only threads wait; a bell is waited for by whoever watches it.
    fn wait(&self, word: &AtomicU32, expected: u32) -> bool {
        match self {
            Self::Futex => SystemFutex.wait(word, expected),
            Self::EventFd(_) => false,
        }
    }

    fn wake(&self, word: &AtomicU32, count: u32) {
        match self {
            Self::Futex => SystemFutex.wake(word, count),
            Self::EventFd(bell) => {
                // EAGAIN: its counter is full (eventfd(2)), so that it is rung already.
                let rung = rustix::io::write(bell, &1_u64.to_ne_bytes());
                debug_assert!(matches!(rung, Ok(8) | Err(rustix::io::Errno::AGAIN)));
            }
        }
    }
}

/// Worker threads asleep on the submission ring.
///
/// `asleep` counts the threads that announced and hold no token; `tokens` the wake tokens granted and
/// not yet taken. Their sum (with a grant in transit) is the number of threads between
/// [`Sleepers::announce_sleep`] and the return of [`Sleepers::cancel_sleep`] or [`Sleepers::sleep`].
#[derive(Debug, Clone, Copy)]
pub struct Sleepers<'a> {
    /// Threads announced and without a token.
    pub asleep: &'a AtomicU32,
    /// Tokens granted and not taken; the futex.
    pub tokens: &'a AtomicU32,
}

impl Sleepers<'_> {
    /// Waker: after publishing work, wakes up to `most` threads; returns how many.
    pub fn wake(&self, futex: &impl Futex, most: u32) -> u32 {
        fence(Ordering::SeqCst);
        let mut asleep = self.asleep.load(Ordering::Relaxed);
        loop {
            let count = asleep.min(most);
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

    /// Waker: is anybody asleep? A hint, to be followed by [`Sleepers::wake`].
    pub fn any_asleep(&self) -> bool {
        fence(Ordering::SeqCst);
        self.asleep.load(Ordering::Relaxed) != 0
    }

    /// Event loop, step 1: announces that it will go back to its loop. The caller must look for work once more, then
    /// either [`Sleepers::announce_loop_awake`] (there was some) or return to its loop, where it watches its bell.
    pub fn announce_loop_sleep(&self) {
        self.asleep.store(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Event loop, step 2: it looks for work and need not be rung; to be called before it looks.
    pub fn announce_loop_awake(&self) {
        // If this is seen late, or a ring was on its way, the bell rings once too often.
        self.asleep.store(0, Ordering::Release);
    }

    /// Sleeper, step 1: announces sleep. The caller must look for work once more, then either
    /// [`Sleepers::cancel_sleep`] (there was some) or [`Sleepers::sleep`].
    pub fn announce_sleep(&self) {
        self.asleep.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Sleeper, step 2a: there is work after all.
    pub fn cancel_sleep(&self, futex: &impl Futex) {
        let mut asleep = self.asleep.load(Ordering::Relaxed);
        while asleep != 0 {
            match self.asleep.compare_exchange_weak(asleep, asleep - 1, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => asleep = now,
            }
        }
        // The waker was faster: a token is granted, or about to be, for this thread. Take it, or it
        // would wake a thread that never sleeps, and the sum of the two words would drift.
        while !self.take_token() {
            futex.wait(self.tokens, 0);
        }
    }

    /// Sleeper, step 2b: sleeps until a token is granted. `interrupted` is called when a signal ended
    /// the sleep early; the thread then goes back to sleep (a Python signal handler gets to run).
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

/// Whether the daemon's reactor sleeps: even = awake, odd = asleep in `epoll_wait(2)`.
///
/// Only the daemon writes it; workers map it read-only, so none of them can keep the daemon asleep
/// for the others. A worker remembers the epoch for which it has rung: one `write(2)` per sleep.
#[derive(Debug, Clone, Copy)]
pub struct Epoch<'a>(
    /// The word, in the reactor's page.
    pub &'a AtomicU32,
);

impl Epoch<'_> {
    /// Daemon: will sleep. It must look at every completion ring once more afterwards.
    pub fn announce_sleep(&self) {
        let epoch = self.0.load(Ordering::Relaxed);
        self.0.store(epoch | 1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Daemon: awake again; to be called before the completion rings are read.
    pub fn announce_awake(&self) {
        let epoch = self.0.load(Ordering::Relaxed);
        if epoch & 1 == 1 {
            self.0.store(epoch.wrapping_add(1), Ordering::SeqCst);
            fence(Ordering::SeqCst);
        }
    }

    /// Worker: after publishing a completion, must the eventfd be rung? `rung` is the worker's memory
    /// of the last epoch it has rung for (0 at the start: even, so never a sleep).
    pub fn must_wake(&self, rung: &mut u32) -> bool {
        fence(Ordering::SeqCst);
        let epoch = self.0.load(Ordering::Relaxed);
        if epoch & 1 == 1 && epoch != *rung {
            *rung = epoch;
            return true;
        }
        false
    }
}

/// A worker thread waits for something that only the daemon gives: room in the completion ring, a free
/// chunk, credit for its response.
///
/// The word is the futex, even = nobody waits, odd = somebody may; every gift to an odd word makes it
/// the next even number. A mere flag would not do: threads that wait for different things share the
/// word, and one that announces itself just after a gift would set the flag that another, about to
/// sleep, still expects, and hide from it that its gift has come.
#[derive(Debug, Clone, Copy)]
pub struct WaitFlag<'a>(
    /// The word.
    pub &'a AtomicU32,
);

impl WaitFlag<'_> {
    /// Daemon: something was given; wakes whoever waits for it.
    pub fn notify(&self, futex: &impl Futex) {
        fence(Ordering::SeqCst);
        let seen = self.0.load(Ordering::Relaxed);
        // When the exchange fails, another giver has woken the same waiters; one that announced itself
        // since fenced after our fence and looks at our gift.
        if seen & 1 == 1
            && self
                .0
                .compare_exchange(seen, seen.wrapping_add(1), Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        {
            futex.wake(self.0, u32::MAX >> 1);
        }
    }

    /// Event loop: announces that it waits. It must look once more for what it waits for; then it returns to its loop,
    /// and looks again when its bell rings. It may stop waiting without a word: the next gift then costs a needless
    /// ring.
    pub fn announce_wait(&self) {
        self.0.fetch_or(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Worker: waits until `available` says yes (it is asked again after every announcement).
    pub fn wait_until(&self, futex: &impl Futex, mut available: impl FnMut() -> bool) {
        loop {
            if available() {
                return;
            }
            let announced = self.0.fetch_or(1, Ordering::SeqCst) | 1;
            fence(Ordering::SeqCst);
            if available() {
                // The word may stay odd: the daemon's next gift then costs it one needless wake.
                return;
            }
            futex.wait(self.0, announced);
        }
    }
}
