//! What happens around the daemon: the operator's orders, the load, and the machine's memory.

use std::time::Duration;

use crate::id::Generation;

use super::super::*;
use super::world::{World, sometimes};

impl World {
    /// Plans the operator's orders, the load samples and the memory pressure.
    pub(super) fn plan_environment(&mut self) {
        let whole = Duration::from_secs(290);
        // In some histories the daemon is stopped before it has recovered.
        if self.rng.percent(40) {
            let stops = [Event::Stop, Event::Stop, Event::StopNow, Event::Unused { idle_for: whole }];
            let stop = stops[self.rng.index(stops.len())].clone();
            let wait = self.rng.up_to(whole);
            self.plan(stop, wait);
        }
        for _ in 0..sometimes(&mut self.rng, 70, 5) {
            // The real policy is chosen when the event is due.
            let policy = self.codes[&Generation(1)].policy.clone();
            let mut wait = self.rng.up_to(whole);
            for _ in 0..=sometimes(&mut self.rng, 30, 2) {
                self.plan(Event::Reload { policy: policy.clone() }, wait);
                wait += self.rng.up_to(Duration::from_secs(20));
            }
        }
        for _ in 0..sometimes(&mut self.rng, 30, 5) {
            let by = if self.rng.percent(50) { 1 } else { -1 };
            let wait = self.rng.up_to(whole);
            self.plan(Event::Adjust { by }, wait);
        }
        for _ in 0..sometimes(&mut self.rng, 20, 3) {
            let to = u16::try_from(1 + self.rng.below(5)).expect("at most 5");
            let wait = self.rng.up_to(whole);
            self.plan(Event::SetCount { to }, wait);
        }
        for _ in 0..sometimes(&mut self.rng, 20, 3) {
            let enable = self.rng.percent(50);
            let wait = self.rng.up_to(whole);
            self.plan(Event::SetDraining { enable }, wait);
        }
        if self.rng.percent(60) {
            let mut wait = Duration::ZERO;
            while wait < whole {
                self.plan(Event::Load(LoadSample::default()), wait);
                wait += Duration::from_secs(1) + self.rng.up_to(Duration::from_secs(12));
            }
            for _ in 0..self.rng.below(6) {
                let wait = self.rng.up_to(whole);
                self.plan(Event::WorkerRequested, wait);
            }
            for _ in 0..self.rng.below(4) {
                let (n_requests, wait) = (self.rng.index(4), self.rng.up_to(whole));
                self.plan(Event::MemoryPressure { n_requests }, wait);
            }
        }
    }

    /// Returns a random load sample.
    pub(super) fn measure(&mut self) -> LoadSample {
        let mut load = LoadSample::default();
        match self.rng.below(4) {
            0 => {
                load.longest_wait = Duration::from_millis(50 + self.rng.below(5000));
                (load.queued, load.running, load.max_running) = (3, 4, 4);
            }
            1 => load.idle_for = self.rng.up_to(Duration::from_secs(100)),
            _ => load.max_running = usize::from(self.rng.percent(10)),
        }
        for (generation, code) in &self.codes {
            let answered = self.rng.below(400);
            load.responses.push((
                *generation,
                ResponseStats { answered, failed: answered * code.response_failures / 100 },
            ));
        }
        load
    }
}
