//! [`Sleepers`]: the threads of a WSGI worker on the submission ring.

use loom::sync::{Arc, Mutex};
use loom::thread;

use super::{ModelFutex, check};
use crate::sync::{AtomicU32, Ordering};
use crate::wake::Sleepers;

/// A worker's submission ring and its threads.
struct RingModel {
    head: AtomicU32,
    /// The receiving end, behind the worker's mutex.
    tail: Mutex<u32>,
    stop: AtomicU32,
    asleep: AtomicU32,
    tokens: AtomicU32,
    futex: ModelFutex,
}

impl RingModel {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            head: AtomicU32::new(0),
            tail: Mutex::new(0),
            stop: AtomicU32::new(0),
            asleep: AtomicU32::new(0),
            tokens: AtomicU32::new(0),
            futex: ModelFutex::new(),
        })
    }

    fn sleepers(&self) -> Sleepers<'_> {
        Sleepers { asleep: &self.asleep, tokens: &self.tokens }
    }

    fn publish(&self, head: u32) {
        self.head.store(head, Ordering::Release);
    }

    fn take(&self) -> bool {
        let mut tail = self.tail.lock().unwrap();
        let has_item = self.head.load(Ordering::Acquire) != *tail;
        *tail += u32::from(has_item);
        has_item
    }

    fn is_empty(&self) -> bool {
        let tail = self.tail.lock().unwrap();
        self.head.load(Ordering::Acquire) == *tail
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire) == 1
    }

    /// Runs a worker thread: takes items until it has taken `max` or is stopped. Returns the number
    /// of taken items.
    fn work(&self, max: u32) -> u32 {
        let mut taken = 0;
        while taken < max {
            if self.take() {
                taken += 1;
                continue;
            }
            if self.is_stopped() {
                break;
            }
            self.sleepers().announce_sleep();
            if !self.is_empty() || self.is_stopped() {
                self.sleepers().cancel_sleep(&self.futex);
            } else {
                self.sleepers().sleep(&self.futex, || {});
            }
        }
        taken
    }

    /// Asserts that both words are 0, as they must be when no thread sleeps.
    fn assert_balanced(&self) {
        assert_eq!(self.asleep.load(Ordering::Acquire), 0, "asleep");
        assert_eq!(self.tokens.load(Ordering::Acquire), 0, "tokens");
    }
}

#[test]
fn one_sleeper_takes_every_item_for_any_order_of_wakes() {
    check(Some(4), || {
        let ring = RingModel::new();
        let worker = thread::spawn({
            let ring = ring.clone();
            move || ring.work(2)
        });
        for item in 1..=2 {
            ring.publish(item);
            ring.sleepers().wake(&ring.futex, 1);
        }
        assert_eq!(worker.join().unwrap(), 2);
        ring.assert_balanced();
    });
}

#[test]
fn one_sleeper_takes_items_published_before_a_single_wake() {
    check(None, || {
        let ring = RingModel::new();
        let worker = thread::spawn({
            let ring = ring.clone();
            move || ring.work(2)
        });
        ring.publish(1);
        ring.publish(2);
        if ring.sleepers().any_asleep() {
            ring.sleepers().wake(&ring.futex, 2);
        }
        assert_eq!(worker.join().unwrap(), 2);
        ring.assert_balanced();
    });
}

/// Each thread takes one item only: both must be woken.
#[test]
fn two_sleepers_take_one_item_each() {
    check(Some(2), || {
        let ring = RingModel::new();
        let workers = [(); 2].map(|()| {
            let ring = ring.clone();
            thread::spawn(move || ring.work(1))
        });
        for item in 1..=2 {
            ring.publish(item);
            ring.sleepers().wake(&ring.futex, 1);
        }
        for worker in workers {
            assert_eq!(worker.join().unwrap(), 1);
        }
        ring.assert_balanced();
    });
}

#[test]
fn two_sleepers_are_woken_by_one_call_for_two_items() {
    check(Some(2), || {
        let ring = RingModel::new();
        let workers = [(); 2].map(|()| {
            let ring = ring.clone();
            thread::spawn(move || ring.work(1))
        });
        ring.publish(1);
        ring.publish(2);
        ring.sleepers().wake(&ring.futex, 2);
        for worker in workers {
            assert_eq!(worker.join().unwrap(), 1);
        }
        ring.assert_balanced();
    });
}

/// The stop comes from a third thread, the worker's control thread, and races with the daemon's
/// wake.
#[test]
fn a_stop_wakes_every_sleeper_and_leaves_no_token_behind() {
    check(Some(2), || {
        let ring = RingModel::new();
        let workers = [(); 2].map(|()| {
            let ring = ring.clone();
            thread::spawn(move || ring.work(u32::MAX))
        });
        let stopper = thread::spawn({
            let ring = ring.clone();
            move || {
                ring.stop.store(1, Ordering::Release);
                ring.sleepers().wake(&ring.futex, u32::MAX);
            }
        });
        ring.publish(1);
        ring.sleepers().wake(&ring.futex, 1);
        let taken: u32 = workers.into_iter().map(|worker| worker.join().unwrap()).sum();
        stopper.join().unwrap();
        let left = ring.head.load(Ordering::Acquire) - *ring.tail.lock().unwrap();
        assert_eq!(taken + left, 1);
        ring.assert_balanced();
    });
}
