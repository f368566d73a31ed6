//! The event loop of an ASGI worker: [`Sleepers`] and [`WaitFlag`] with one eventfd.

use loom::sync::Arc;
use loom::thread;

use super::{EventFd, check};
use crate::sync::{AtomicU32, Ordering};
use crate::wake::{Sleepers, WaitFlag};

/// An ASGI worker: one event loop that claims records and waits for credit, and sleeps on its
/// eventfd.
struct LoopModel {
    head: AtomicU32,
    credit: AtomicU32,
    asleep: AtomicU32,
    tokens: AtomicU32,
    word: AtomicU32,
    eventfd: EventFd,
}

impl LoopModel {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            head: AtomicU32::new(0),
            credit: AtomicU32::new(0),
            asleep: AtomicU32::new(0),
            tokens: AtomicU32::new(0),
            word: AtomicU32::new(0),
            eventfd: EventFd::new(),
        })
    }

    fn sleepers(&self) -> Sleepers<'_> {
        Sleepers { asleep: &self.asleep, tokens: &self.tokens }
    }

    /// Runs until it has claimed this many records and has this much credit.
    fn run(&self, records: u32, credit: u32) {
        loop {
            let tail = self.head.load(Ordering::Acquire);
            let has_credit = || self.credit.load(Ordering::Acquire) >= credit;
            let is_waiting = !has_credit() && {
                WaitFlag(&self.word).announce_wait();
                !has_credit()
            };
            if tail >= records && !is_waiting {
                return;
            }
            self.sleepers().announce_loop_sleep();
            if self.head.load(Ordering::Acquire) == tail {
                self.eventfd.read();
            }
            self.sleepers().announce_loop_awake();
        }
    }

    fn publish(&self, head: u32) {
        self.head.store(head, Ordering::Release);
        self.sleepers().wake(&self.eventfd, 1);
    }

    fn grant_credit(&self, credit: u32) {
        self.credit.store(credit, Ordering::Release);
        WaitFlag(&self.word).notify(&self.eventfd);
    }
}

#[test]
fn an_event_loop_gets_every_record() {
    check(None, || {
        let worker = LoopModel::new();
        let runs = thread::spawn({
            let worker = worker.clone();
            move || worker.run(2, 0)
        });
        worker.publish(1);
        worker.publish(2);
        runs.join().unwrap();
    });
}

/// The daemon publishes records on one thread and grants credit on another.
#[test]
fn one_eventfd_reports_records_and_credit() {
    check(Some(3), || {
        let worker = LoopModel::new();
        let runs = thread::spawn({
            let worker = worker.clone();
            move || worker.run(1, 1)
        });
        let granter = thread::spawn({
            let worker = worker.clone();
            move || worker.grant_credit(1)
        });
        worker.publish(1);
        granter.join().unwrap();
        runs.join().unwrap();
    });
}

#[test]
fn an_event_loop_gets_credit_in_two_parts() {
    check(None, || {
        let worker = LoopModel::new();
        let runs = thread::spawn({
            let worker = worker.clone();
            move || worker.run(0, 2)
        });
        worker.grant_credit(1);
        worker.grant_credit(2);
        runs.join().unwrap();
    });
}
