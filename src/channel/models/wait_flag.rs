//! [`WaitFlag`]: threads that wait for space or credit.

use loom::sync::Arc;
use loom::thread;

use super::{ModelFutex, check};
use crate::sync::{AtomicU32, Ordering};
use crate::wake::WaitFlag;

/// Two resources that share one flag: ring space and slab chunks.
struct Space {
    word: AtomicU32,
    available: [AtomicU32; 2],
    futex: ModelFutex,
}

impl Space {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            word: AtomicU32::new(0),
            available: [AtomicU32::new(0), AtomicU32::new(0)],
            futex: ModelFutex::new(),
        })
    }

    fn provide(&self, resource: usize, amount: u32) {
        self.available[resource].store(amount, Ordering::Release);
        WaitFlag(&self.word).notify(&self.futex);
    }

    fn wait_for(&self, resource: usize, amount: u32) {
        WaitFlag(&self.word)
            .wait_until(&self.futex, || self.available[resource].load(Ordering::Acquire) >= amount);
    }
}

#[test]
fn waiter_sees_a_single_notification() {
    check(None, || {
        let space = Space::new();
        let waiter = thread::spawn({
            let space = space.clone();
            move || space.wait_for(0, 1)
        });
        space.provide(0, 1);
        waiter.join().unwrap();
    });
}

#[test]
fn waiter_sees_an_amount_provided_in_two_steps() {
    check(None, || {
        let space = Space::new();
        let waiter = thread::spawn({
            let space = space.clone();
            move || space.wait_for(0, 2)
        });
        space.provide(0, 1);
        space.provide(0, 2);
        waiter.join().unwrap();
    });
}

/// Any thread of the daemon may return chunks.
#[test]
fn waiter_for_two_resources_sees_both_providers() {
    check(Some(3), || {
        let space = Space::new();
        let waiter = thread::spawn({
            let space = space.clone();
            move || {
                WaitFlag(&space.word).wait_until(&space.futex, || {
                    space.available.iter().all(|amount| amount.load(Ordering::Acquire) == 1)
                });
            }
        });
        let provider = thread::spawn({
            let space = space.clone();
            move || space.provide(1, 1)
        });
        space.provide(0, 1);
        provider.join().unwrap();
        waiter.join().unwrap();
    });
}

#[test]
fn two_waiters_for_one_resource_are_both_woken() {
    check(Some(3), || {
        let space = Space::new();
        let waiters = [1, 2].map(|amount| {
            let space = space.clone();
            thread::spawn(move || space.wait_for(0, amount))
        });
        space.provide(0, 1);
        space.provide(0, 2);
        for waiter in waiters {
            waiter.join().unwrap();
        }
    });
}

/// One thread waits for ring space, another for a chunk that a slow client holds: the first must
/// not wait for that client. A plain flag instead of a counter fails here.
#[test]
fn waiter_is_not_blocked_by_one_for_another_resource() {
    check(Some(3), || {
        let space = Space::new();
        let [first, second] = [0, 1].map(|resource| {
            let space = space.clone();
            thread::spawn(move || space.wait_for(resource, 1))
        });
        space.provide(0, 1);
        first.join().unwrap();
        space.provide(1, 1);
        second.join().unwrap();
    });
}
