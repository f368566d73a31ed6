//! Loom models of sleep, wake, claim and revoke: every interleaving, and every value that the memory
//! model lets a load return, of the very code that runs (`wake.rs`, `state.rs`).
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p rgun-channel --lib --release models`
//!
//! A lost wake-up shows as loom's `deadlock` panic: a thread sleeps and nobody is left to wake it.
//!
//! What stands for the kernel: [`ModelFutex`] and [`EventFd`], a mutex and a condition variable each.
//! `futex(2)` promises that comparing the word and going to sleep are one step as seen by a waker; the
//! mutex is that promise, and the word is read relaxed under it so that no more is promised. Sleeps are
//! never interrupted here: a spurious return only adds one more turn of the same loop.
//!
//! What stands for a ring: a head that is stored (Release) by its producer and loaded (Acquire) by its
//! consumers. Loom's `SeqCst` loads and stores are no stronger than AcqRel; the protocols rest on
//! `fence(SeqCst)`, which loom does model, and on nothing else.
//!
//! The larger models run under a preemption bound (loom's remedy for the explosion; most bugs need two
//! or fewer); the small ones are explored in full.

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use crate::state::{self, Claim};
use crate::sync::{AtomicU32, Ordering};
use crate::wake::{Epoch, Futex, Sleepers, WaitFlag};

/// The sleepers of one word.
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
        // No model has more than two sleepers, so "more than one" is all of them.
        if count == 1 { self.woken.notify_one() } else { self.woken.notify_all() }
    }
}

/// `eventfd(2)`: rings add up until they are read; reading sleeps while there are none.
struct EventFd {
    rung: Mutex<bool>,
    readable: Condvar,
}

impl EventFd {
    fn new() -> Self {
        Self { rung: Mutex::new(false), readable: Condvar::new() }
    }

    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.readable.notify_one();
    }

    fn read(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.readable.wait(rung).unwrap();
        }
        *rung = false;
    }
}

fn check(preemption_bound: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemption_bound;
    builder.check(model);
}

/// A worker's submission ring and its threads.
struct Submission {
    head: AtomicU32,
    /// The receiving end, behind the mutex that a worker with several threads puts around it.
    tail: Mutex<u32>,
    stop: AtomicU32,
    asleep: AtomicU32,
    tokens: AtomicU32,
    futex: ModelFutex,
}

impl Submission {
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
        let some = self.head.load(Ordering::Acquire) != *tail;
        *tail += u32::from(some);
        some
    }

    fn is_empty(&self) -> bool {
        let tail = self.tail.lock().unwrap();
        self.head.load(Ordering::Acquire) == *tail
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire) == 1
    }

    /// A worker thread: takes until it has `most` items or is stopped; returns how many it took.
    fn work(&self, most: u32) -> u32 {
        let mut taken = 0;
        while taken < most {
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

    /// Nobody is between announcing and waking: both words must have come back to nothing.
    fn assert_balanced(&self) {
        assert_eq!(self.asleep.load(Ordering::Acquire), 0, "asleep");
        assert_eq!(self.tokens.load(Ordering::Acquire), 0, "tokens");
    }
}

#[test]
fn one_sleeper_takes_every_item_however_the_wakes_fall() {
    check(Some(4), || {
        let ring = Submission::new();
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
        let ring = Submission::new();
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

/// Each thread is busy for ever with the first item it takes: no item may need the thread that is.
#[test]
fn two_sleepers_share_two_items_even_if_each_is_busy_after_one() {
    check(Some(2), || {
        let ring = Submission::new();
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
        let ring = Submission::new();
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

/// The stop comes from a third thread (the worker's control thread) and races with the daemon's wake.
#[test]
fn a_stop_wakes_every_sleeper_and_leaves_no_token_behind() {
    check(Some(2), || {
        let ring = Submission::new();
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

    fn drain(&self, tails: &mut [u32; 2]) -> bool {
        let mut some = false;
        for (head, tail) in self.heads.iter().zip(tails) {
            let head = head.load(Ordering::Acquire);
            some |= head != *tail;
            *tail = head;
        }
        some
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

    /// A worker that completes `count` exchanges.
    fn complete(&self, worker: usize, count: u32) {
        let mut rung = 0;
        for head in 1..=count {
            self.heads[worker].store(head, Ordering::Release);
            if Epoch(&self.epoch).must_wake(&mut rung) {
                self.eventfd.ring();
            }
        }
    }
}

#[test]
fn every_completion_of_one_worker_is_drained_though_it_rings_once_per_sleep() {
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
fn a_third_completion_rings_again_when_the_daemon_slept_again() {
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

/// What a worker's threads can want: room in the ring, a free chunk.
struct Room {
    word: AtomicU32,
    gifts: [AtomicU32; 2],
    futex: ModelFutex,
}

impl Room {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            word: AtomicU32::new(0),
            gifts: [AtomicU32::new(0), AtomicU32::new(0)],
            futex: ModelFutex::new(),
        })
    }

    fn give(&self, gift: usize, amount: u32) {
        self.gifts[gift].store(amount, Ordering::Release);
        WaitFlag(&self.word).notify(&self.futex);
    }

    fn wait_for(&self, gift: usize, amount: u32) {
        WaitFlag(&self.word).wait_until(&self.futex, || self.gifts[gift].load(Ordering::Acquire) >= amount);
    }
}

#[test]
fn a_waiter_gets_what_is_given_once() {
    check(None, || {
        let room = Room::new();
        let waiter = thread::spawn({
            let room = room.clone();
            move || room.wait_for(0, 1)
        });
        room.give(0, 1);
        waiter.join().unwrap();
    });
}

#[test]
fn a_waiter_gets_what_is_given_in_two_parts() {
    check(None, || {
        let room = Room::new();
        let waiter = thread::spawn({
            let room = room.clone();
            move || room.wait_for(0, 2)
        });
        room.give(0, 1);
        room.give(0, 2);
        waiter.join().unwrap();
    });
}

/// Chunks are returned by whichever thread of the daemon drops them.
#[test]
fn a_waiter_for_two_things_gets_both_from_two_givers() {
    check(Some(3), || {
        let room = Room::new();
        let waiter = thread::spawn({
            let room = room.clone();
            move || {
                WaitFlag(&room.word).wait_until(&room.futex, || {
                    room.gifts.iter().all(|gift| gift.load(Ordering::Acquire) == 1)
                });
            }
        });
        let giver = thread::spawn({
            let room = room.clone();
            move || room.give(1, 1)
        });
        room.give(0, 1);
        giver.join().unwrap();
        waiter.join().unwrap();
    });
}

#[test]
fn two_waiters_for_the_same_thing_both_get_it() {
    check(Some(3), || {
        let room = Room::new();
        let waiters = [1, 2].map(|amount| {
            let room = room.clone();
            thread::spawn(move || room.wait_for(0, amount))
        });
        room.give(0, 1);
        room.give(0, 2);
        for waiter in waiters {
            waiter.join().unwrap();
        }
    });
}

/// One thread wants ring room, another a chunk that a slow client holds: the first must not have to
/// wait until that client has read. A word that only says "somebody waits" fails here.
#[test]
fn a_waiter_is_not_held_up_by_another_that_waits_for_something_else() {
    check(Some(3), || {
        let room = Room::new();
        let [first, second] = [0, 1].map(|gift| {
            let room = room.clone();
            thread::spawn(move || room.wait_for(gift, 1))
        });
        room.give(0, 1);
        first.join().unwrap();
        room.give(1, 1);
        second.join().unwrap();
    });
}

/// How an eventfd is rung, as [`Futex`] has it.
impl Futex for EventFd {
    fn wait(&self, _word: &AtomicU32, _expected: u32) -> bool {
        unreachable!("a bell is watched by an event loop, and not waited for")
    }

    fn wake(&self, _word: &AtomicU32, _count: u32) {
        self.ring();
    }
}

/// An ASGI worker: one event loop that claims records and waits for credit, and sleeps on its eventfd.
struct Loop {
    head: AtomicU32,
    credit: AtomicU32,
    asleep: AtomicU32,
    tokens: AtomicU32,
    word: AtomicU32,
    bell: EventFd,
}

impl Loop {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            head: AtomicU32::new(0),
            credit: AtomicU32::new(0),
            asleep: AtomicU32::new(0),
            tokens: AtomicU32::new(0),
            word: AtomicU32::new(0),
            bell: EventFd::new(),
        })
    }

    fn sleepers(&self) -> Sleepers<'_> {
        Sleepers { asleep: &self.asleep, tokens: &self.tokens }
    }

    /// Runs until it has claimed as many records and had as much credit.
    fn run(&self, records: u32, credit: u32) {
        loop {
            let tail = self.head.load(Ordering::Acquire);
            let has_credit = || self.credit.load(Ordering::Acquire) >= credit;
            let waits = !has_credit() && {
                WaitFlag(&self.word).announce_wait();
                !has_credit()
            };
            if tail >= records && !waits {
                return;
            }
            self.sleepers().announce_loop_sleep();
            if self.head.load(Ordering::Acquire) == tail {
                self.bell.read();
            }
            self.sleepers().announce_loop_awake();
        }
    }

    fn publish(&self, head: u32) {
        self.head.store(head, Ordering::Release);
        self.sleepers().wake(&self.bell, 1);
    }

    fn give(&self, credit: u32) {
        self.credit.store(credit, Ordering::Release);
        WaitFlag(&self.word).notify(&self.bell);
    }
}

#[test]
fn an_event_loop_gets_every_record() {
    check(None, || {
        let worker = Loop::new();
        let runs = thread::spawn({
            let worker = worker.clone();
            move || worker.run(2, 0)
        });
        worker.publish(1);
        worker.publish(2);
        runs.join().unwrap();
    });
}

/// Chunks are returned, and credit given, by another thread of the daemon than the one that publishes.
#[test]
fn an_event_loop_gets_records_and_credit_by_one_bell() {
    check(Some(3), || {
        let worker = Loop::new();
        let runs = thread::spawn({
            let worker = worker.clone();
            move || worker.run(1, 1)
        });
        let giver = thread::spawn({
            let worker = worker.clone();
            move || worker.give(1)
        });
        worker.publish(1);
        giver.join().unwrap();
        runs.join().unwrap();
    });
}

#[test]
fn an_event_loop_gets_credit_in_two_parts() {
    check(None, || {
        let worker = Loop::new();
        let runs = thread::spawn({
            let worker = worker.clone();
            move || worker.run(0, 2)
        });
        worker.give(1);
        worker.give(2);
        runs.join().unwrap();
    });
}

#[test]
fn exactly_one_of_claim_and_revoke_wins_and_the_winner_sees_the_frame() {
    check(None, || {
        let record = Arc::new((AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0)));
        let worker = thread::spawn({
            let record = record.clone();
            move || {
                let (frame, state, head) = &*record;
                if head.load(Ordering::Acquire) == 0 {
                    return None;
                }
                let claim = state::claim(state).unwrap();
                (claim == Claim::Claimed).then(|| frame.load(Ordering::Relaxed))
            }
        });
        let (frame, state, head) = &*record;
        frame.store(7, Ordering::Relaxed);
        state.store(state::READY, Ordering::Relaxed);
        head.store(1, Ordering::Release);
        let revoked = state::revoke(state);
        let claimed = worker.join().unwrap();
        assert!(claimed.is_none_or(|frame| frame == 7));
        assert!(!(revoked && claimed.is_some()), "both took it");
        assert!(revoked || claimed.is_some(), "nobody took it");
        assert!(!state::revoke(state), "taken twice");
    });
}

#[test]
fn a_completion_is_done_for_both_sides_or_for_neither() {
    check(None, || {
        let record = Arc::new((AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0)));
        let daemon = thread::spawn({
            let record = record.clone();
            move || {
                let (frame, state, head) = &*record;
                (head.load(Ordering::Acquire) != 0)
                    .then(|| (state::take(state), frame.load(Ordering::Relaxed)))
            }
        });
        let (frame, state, head) = &*record;
        frame.store(7, Ordering::Relaxed);
        state.store(state::READY, Ordering::Relaxed);
        head.store(1, Ordering::Release);
        let amended = state::mark_done(state);
        match daemon.join().unwrap() {
            Some((taken, frame)) => assert_eq!((taken == state::DONE, frame), (amended, 7)),
            None => assert!(amended),
        }
    });
}

/// Two threads of a worker never look at one record at a time (their mutex), but a claim must also
/// hold against a second one, and a revoked record must stay revoked.
#[test]
fn a_record_is_claimed_at_most_once() {
    check(None, || {
        let state = Arc::new(AtomicU32::new(state::READY));
        let claimants = [(); 2].map(|()| {
            let state = state.clone();
            thread::spawn(move || state::claim(&state) == Ok(Claim::Claimed))
        });
        let revoked = state::revoke(&state);
        let claims = claimants.into_iter().map(|claimant| claimant.join().unwrap());
        assert_eq!(claims.map(u32::from).sum::<u32>() + u32::from(revoked), 1);
    });
}
