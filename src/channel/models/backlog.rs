//! [`BacklogWait`]: the daemon's reactor, and an event loop that ends its backlog.

use loom::sync::Arc;
use loom::thread;

use super::{EventFd, check};
use crate::sync::{AtomicU32, Ordering};
use crate::wake::{BacklogWait, Epoch};

/// The daemon's edge thread and a worker that has claimed none of its records yet.
struct WaitingReactor {
    epoch: AtomicU32,
    wait: AtomicU32,
    /// Records that the worker has consumed.
    consumed: AtomicU32,
    /// Completions that the worker has published.
    published: AtomicU32,
    eventfd: EventFd,
}

impl WaitingReactor {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            epoch: AtomicU32::new(0),
            wait: AtomicU32::new(0),
            consumed: AtomicU32::new(0),
            published: AtomicU32::new(0),
            eventfd: EventFd::new(),
        })
    }

    /// Runs until `completions` completions have been seen and `records` records are consumed. The
    /// waits have no time limit, so a lost wake-up is a deadlock.
    fn run(&self, records: u32, completions: u32) {
        let has_backlog = || self.consumed.load(Ordering::Acquire) < records;
        let mut seen = 0;
        loop {
            seen = self.published.load(Ordering::Acquire).max(seen);
            let waits = has_backlog();
            if seen == completions && !waits {
                return;
            }
            if waits {
                BacklogWait(&self.wait).announce();
            }
            Epoch(&self.epoch).announce_sleep();
            if self.published.load(Ordering::Acquire) == seen && (!waits || has_backlog()) {
                self.eventfd.read();
            }
            BacklogWait(&self.wait).end();
            Epoch(&self.epoch).announce_awake();
        }
    }

    fn wake(&self, woken_epoch: &mut u32) {
        if Epoch(&self.epoch).must_wake(woken_epoch) {
            self.eventfd.write();
        }
    }

    /// Consumes `records` records, and publishes a completion for each of the first `completions` of
    /// them; then the event loop sleeps.
    fn consume(&self, records: u32, completions: u32) {
        let mut woken_epoch = 0;
        for number in 1..=records {
            self.consumed.store(number, Ordering::Release);
            if number <= completions {
                self.published.store(number, Ordering::Release);
                // The completion is overdue.
                if !BacklogWait(&self.wait).is_announced() {
                    self.wake(&mut woken_epoch);
                }
            }
        }
        if completions > 0 {
            self.wake(&mut woken_epoch);
        }
        if BacklogWait(&self.wait).is_announced() {
            self.wake(&mut woken_epoch);
        }
    }
}

fn check_consumption(preemption_bound: Option<usize>, records: u32, completions: u32) {
    check(preemption_bound, move || {
        let reactor = WaitingReactor::new();
        let worker = thread::spawn({
            let reactor = reactor.clone();
            move || reactor.consume(records, completions)
        });
        reactor.run(records, completions);
        worker.join().unwrap();
    });
}

#[test]
fn end_of_a_backlog_without_completions_ends_the_wait() {
    check_consumption(None, 1, 0);
    check_consumption(Some(3), 2, 0);
}

#[test]
fn completions_of_a_backlog_are_drained() {
    check_consumption(None, 1, 1);
    check_consumption(Some(3), 2, 1);
    check_consumption(Some(3), 2, 2);
}
