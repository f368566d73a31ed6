//! Loom models of `wake.rs` and `state.rs`. They run the code of daemon and worker in every
//! interleaving, and with every value that the memory model lets a load return.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p rgun-channel --lib --release models`
//!
//! A lost wake-up shows as loom's `deadlock` panic: a thread sleeps and no other thread can wake
//! it.
//!
//! [`ModelFutex`] and [`EventFd`] model the kernel, each with a mutex and a condition variable. As
//! seen by a waker, `futex(2)` compares the word and sleeps in one step; the mutex models that
//! step. The word is read with `Relaxed` under the mutex, so that the model gives no other
//! guarantee. No sleep is interrupted, since a spurious return would only repeat the loop.
//!
//! A ring is modelled by a head, stored (Release) by its producer and loaded (Acquire) by its
//! consumers. Loom's `SeqCst` loads and stores are no stronger than AcqRel; the protocols rely only
//! on `fence(SeqCst)`, which loom models.
//!
//! The small models are explored in full, the larger ones with a preemption bound (most bugs need
//! two preemptions or fewer).

mod backlog;
mod epoch;
mod event_loop;
mod record;
mod sleepers;
mod wait_flag;

use loom::sync::{Condvar, Mutex};

use crate::sync::{AtomicU32, Ordering};
use crate::wake::Futex;

/// A model of a futex: the sleepers on one word.
struct ModelFutex {
    queue: Mutex<()>,
    woken: Condvar,
}

impl ModelFutex {
    fn new() -> Self {
        Self { queue: Mutex::new(()), woken: Condvar::new() }
    }
}

impl Futex for ModelFutex {
    fn wait(&self, word: &AtomicU32, expected: u32) -> bool {
        let queue = self.queue.lock().unwrap();
        if word.load(Ordering::Relaxed) == expected {
            drop(self.woken.wait(queue).unwrap());
        }
        false
    }

    fn wake(&self, _word: &AtomicU32, count: u32) {
        let _queue = self.queue.lock().unwrap();
        // No model has more than two sleepers, so every count above one means all.
        if count == 1 { self.woken.notify_one() } else { self.woken.notify_all() }
    }
}

/// A model of `eventfd(2)`: `read` sleeps until `write` is called, then resets the eventfd.
struct EventFd {
    is_readable: Mutex<bool>,
    readable: Condvar,
}

impl EventFd {
    fn new() -> Self {
        Self { is_readable: Mutex::new(false), readable: Condvar::new() }
    }

    fn write(&self) {
        *self.is_readable.lock().unwrap() = true;
        self.readable.notify_one();
    }

    fn read(&self) {
        let mut is_readable = self.is_readable.lock().unwrap();
        while !*is_readable {
            is_readable = self.readable.wait(is_readable).unwrap();
        }
        *is_readable = false;
    }
}

/// Wakes an event loop, which polls the eventfd.
impl Futex for EventFd {
    fn wait(&self, _word: &AtomicU32, _expected: u32) -> bool {
        unreachable!("an event loop polls its eventfd")
    }

    fn wake(&self, _word: &AtomicU32, _count: u32) {
        self.write();
    }
}

/// Runs `model` in every interleaving, or in those with at most this many preemptions.
fn check(preemption_bound: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemption_bound;
    builder.check(model);
}
