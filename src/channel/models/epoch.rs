//! [`Epoch`]: the daemon's reactor and the workers that wake it.

use loom::sync::Arc;
use loom::thread;

use super::{EventFd, check};
use crate::sync::{AtomicU32, Ordering};
use crate::wake::Epoch;

/// The daemon's edge thread and the completion rings of its workers.
struct Reactor {
    epoch: AtomicU32,
    heads: [AtomicU32; 2],
    eventfd: EventFd,
}

impl Reactor {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            epoch: AtomicU32::new(0),
            heads: [AtomicU32::new(0), AtomicU32::new(0)],
            eventfd: EventFd::new(),
        })
    }

    /// Reads all heads. Returns whether one of them has moved.
    fn drain(&self, tails: &mut [u32; 2]) -> bool {
        let mut has_new = false;
        for (head, tail) in self.heads.iter().zip(tails) {
            let head = head.load(Ordering::Acquire);
            has_new |= head != *tail;
            *tail = head;
        }
        has_new
    }

    /// Drains until `expected` completions have been seen.
    fn run(&self, expected: u32) {
        let mut tails = [0; 2];
        loop {
            self.drain(&mut tails);
            if tails.iter().sum::<u32>() == expected {
                return;
            }
            Epoch(&self.epoch).announce_sleep();
            if !self.drain(&mut tails) {
                self.eventfd.read();
            }
            Epoch(&self.epoch).announce_awake();
        }
    }

    /// Runs a worker that completes `count` exchanges.
    fn complete(&self, worker: usize, count: u32) {
        let mut woken_epoch = 0;
        for head in 1..=count {
            self.heads[worker].store(head, Ordering::Release);
            if Epoch(&self.epoch).must_wake(&mut woken_epoch) {
                self.eventfd.write();
            }
        }
    }
}

#[test]
fn one_wakeup_per_sleep_drains_every_completion() {
    check(None, || {
        let reactor = Reactor::new();
        let worker = thread::spawn({
            let reactor = reactor.clone();
            move || reactor.complete(0, 2)
        });
        reactor.run(2);
        worker.join().unwrap();
    });
}

#[test]
fn completion_after_a_second_sleep_wakes_again() {
    check(Some(3), || {
        let reactor = Reactor::new();
        let worker = thread::spawn({
            let reactor = reactor.clone();
            move || reactor.complete(0, 3)
        });
        reactor.run(3);
        worker.join().unwrap();
    });
}

#[test]
fn completions_of_two_workers_are_drained() {
    check(Some(3), || {
        let reactor = Reactor::new();
        let workers = [0, 1].map(|worker| {
            let reactor = reactor.clone();
            thread::spawn(move || reactor.complete(worker, 1))
        });
        reactor.run(2);
        for worker in workers {
            worker.join().unwrap();
        }
    });
}
