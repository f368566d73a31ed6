//! Random sequences of events: each exchange is answered exactly once, and nothing is lost or
//! counted twice.

use std::num::NonZeroU32;

use super::*;
use crate::rng::Rng;

const PATHS: [&[u8]; 5] = [b"/", b"/a", b"/export/1", b"/export/2", b"/kill"];
const METHODS: [&str; 3] = ["GET", "POST", "PUT"];

struct History {
    rig: Rig,
    rng: Rng,
    now: Instant,
    tickets: Vec<Ticket>,
    /// Exchanges that are claimed and not answered, each with the index of its worker.
    running: Vec<(usize, ExchangeId)>,
    /// Indices of the workers that have not exited.
    alive: Vec<usize>,
    answered: usize,
}

impl History {
    fn policy(rng: &mut Rng) -> Policy {
        let concurrency = NonZeroU32::new(u32::try_from(1 + rng.index(3)).unwrap());
        let rule = |pattern: &str, concurrency| Rule { pattern: pattern.into(), request: None, concurrency };
        let rules = match rng.index(3) {
            0 => Vec::new(),
            1 => vec![rule("/export/*", concurrency)],
            _ => vec![rule("/a", NonZeroU32::new(1)), rule("*", concurrency)],
        };
        Policy {
            queue: 20,
            queue_timeout: Some(20 * SECOND),
            request_timeout: Some(30 * SECOND),
            slow: Some(5 * SECOND),
            rules,
            retry_idempotent: rng.index(2) == 0,
            stall: None,
            close_window: Duration::ZERO,
            ..Policy::default()
        }
    }

    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let rig = Rig::with(Self::policy(&mut rng), 2);
        let now = Instant::now();
        Self { rig, rng, now, tickets: Vec::new(), running: Vec::new(), alive: vec![0, 1], answered: 0 }
    }

    fn pick_worker(&mut self) -> Option<usize> {
        let n = self.alive.len();
        (n > 0).then(|| self.alive[self.rng.index(n)])
    }

    fn step(&mut self) {
        match self.rng.index(20) {
            0..7 => {
                let (method, path) = (METHODS[self.rng.index(3)], PATHS[self.rng.index(5)]);
                if let Ok(ticket) = self.rig.submit_at(method, path, self.now) {
                    self.tickets.push(ticket);
                }
            }
            7..10 => {
                if let Some(index) = self.pick_worker()
                    && let Some((id, _)) = self.rig.workers[index].claim()
                {
                    self.running.push((index, id));
                }
            }
            10..14 if !self.running.is_empty() => {
                let at = self.rng.index(self.running.len());
                let (index, id) = self.running.swap_remove(at);
                self.rig.workers[index].service =
                    if self.rng.index(2) == 0 { FAST_SERVICE_NANOS } else { SLOW_SERVICE_NANOS };
                let status = if self.rng.index(4) == 0 { 500 } else { 200 };
                self.rig.finish(index, id, status);
            }
            14 if !self.tickets.is_empty() => {
                let at = self.rng.index(self.tickets.len());
                drop(self.tickets.swap_remove(at));
            }
            15 => {
                if let Some(index) = self.pick_worker() {
                    self.alive.retain(|alive| *alive != index);
                    self.running.retain(|(worker, _)| *worker != index);
                    self.rig.close_control(index);
                }
            }
            16 => {
                if self.alive.len() < 4 {
                    let slots = u32::try_from(1 + self.rng.index(3)).unwrap();
                    let index = self.rig.attach(Generation(1), slots, None);
                    self.alive.push(index);
                    if self.rng.index(4) == 0 {
                        self.tickets.extend(self.rig.probe(index, b"/healthz"));
                    } else {
                        self.rig.dispatcher.admit(self.rig.workers[index].id);
                    }
                }
            }
            17 => {
                if let Some(index) = self.pick_worker() {
                    let id = self.rig.workers[index].id;
                    if self.rng.index(2) == 0 {
                        self.rig.dispatcher.retire(id);
                    } else {
                        self.rig.dispatcher.admit(id);
                    }
                }
            }
            18 => {
                self.now += Duration::from_millis(100) * u32::try_from(self.rng.index(40)).unwrap();
                self.rig.dispatcher.tick(self.now);
            }
            19 if self.rng.index(4) == 0 => {
                let policy = Self::policy(&mut self.rng);
                self.rig.dispatcher.set_policy(policy);
            }
            _ => self.rig.dispatcher.before_park(),
        }
        self.collect();
    }

    /// Drops the tickets that were answered, and counts them.
    fn collect(&mut self) {
        let before = self.tickets.len();
        self.tickets.retain_mut(|ticket| peek(ticket).is_pending());
        self.answered += before - self.tickets.len();
    }

    /// Has all workers serve the remaining requests. Returns the number of answers.
    fn finish(mut self) -> usize {
        let index = self.rig.admit_new();
        self.alive.push(index);
        for alive in self.alive.clone() {
            self.rig.dispatcher.admit(self.rig.workers[alive].id);
        }
        for _ in 0..1000 {
            for (index, id) in std::mem::take(&mut self.running) {
                self.rig.finish(index, id, 200);
            }
            for index in self.alive.clone() {
                while let Some((id, _)) = self.rig.workers[index].claim() {
                    self.running.push((index, id));
                }
            }
            self.collect();
            if self.tickets.is_empty() && self.running.is_empty() {
                break;
            }
        }
        assert_eq!(self.tickets.len(), 0, "each request is answered");
        self.rig.check();
        let state = self.rig.dispatcher.lock();
        assert!(state.exchanges.is_empty() && state.queue.is_empty());
        assert_eq!((state.rules.n_held(), state.rules.n_permits()), (0, 0));
        drop(state);
        for notice in self.rig.take_notices() {
            assert!(!matches!(notice, Notice::ContractBreached(..)), "{notice:?}");
        }
        self.answered
    }
}

#[test]
fn random_events_leave_each_exchange_answered_exactly_once() {
    let mut answered = 0;
    for seed in 1..=150 {
        // A failure must print the seed.
        let outcome = std::panic::catch_unwind(|| {
            let mut history = History::new(seed);
            for _ in 0..300 {
                history.step();
                history.rig.check();
            }
            history.finish()
        });
        answered += outcome.unwrap_or_else(|_| panic!("with seed {seed}"));
    }
    assert!(answered > 5000, "{answered}");
}
