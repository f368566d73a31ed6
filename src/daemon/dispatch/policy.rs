//! What the dispatcher goes by, and how that changes while requests wait and run.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::budget::Budget;

use super::data::Buffers;
use super::exchange::Place;
use super::rules::{Rule, RuleNr, Rules};
use super::{Dispatcher, State};

/// What the dispatcher must know of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// `limits.queue`: requests that may wait, however fast they are served.
    pub queue: usize,
    /// `timeouts.queue`: how long one may wait; `None` is for ever.
    pub queue_timeout: Option<Duration>,
    /// `timeouts.request`: how long one may run; `None` is for ever.
    pub request_timeout: Option<Duration>,
    /// `log.slow`: after how long [`Notice::Slow`](super::Notice::Slow) is told of one that runs.
    pub slow: Option<Duration>,
    /// `timeouts.stall`: after how long [`Notice::Stalled`](super::Notice::Stalled) is told of an event loop that does not turn.
    pub stall: Option<Duration>,
    /// `websocket.close_window`: over how long the WebSockets of a worker that goes are closed.
    pub close_window: Duration,
    /// `timeouts.path`: the first that matches counts.
    pub rules: Vec<Rule>,
    /// `workers.retry = "idempotent"`: what had started in a worker that died is given to another, once, if its
    /// method is idempotent and its client has nothing of an answer yet.
    pub retry_idempotent: bool,
    /// `limits.response_memory`: bytes of answers that wait in memory for their clients, all together.
    pub response_memory: u64,
    /// `limits.response_disk`: the same in files.
    pub response_disk: u64,
    /// The directory of those files.
    pub spool: PathBuf,
}

impl Dispatcher {
    /// What answers hold of `limits.response_memory`.
    pub fn response_memory(&self) -> &'static Budget {
        &self.buffers.memory
    }

    /// From now on requests go by this policy. Those that run keep the deadline under which they started.
    pub fn set_policy(&self, policy: Policy) {
        let mut state = self.lock();
        let now = Instant::now();
        self.buffers.set_limits(&policy);
        state.set_policy(policy, now);
        self.refill_all(&mut state, now);
        state.ring_doorbells();
    }
}

impl Buffers {
    pub(super) fn set_limits(&self, policy: &Policy) {
        self.memory.set_limit(policy.response_memory);
        self.disk.set_limit(policy.response_disk);
    }
}

impl State {
    /// How long a request may run, and the rule that bounds how many.
    pub(super) fn classify(&self, path: &[u8]) -> (Option<Duration>, Option<RuleNr>) {
        if self.rules.is_empty() {
            return (self.policy.request_timeout, None);
        }
        self.rules.classify(path, self.policy.request_timeout)
    }

    /// Who had a permit of this rule is through with it: the next one may queue.
    pub(super) fn free_permit(&mut self, rule: RuleNr, now: Instant) {
        let Some(id) = self.rules.free_permit(rule) else { return };
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.place = Place::Queued;
        exchange.permit = Some(rule);
        exchange.ready = now;
        self.queue.insert(id, now);
    }

    fn set_policy(&mut self, policy: Policy, now: Instant) {
        self.queue.set_timeout(policy.queue_timeout);
        self.rules = Rules::new(&policy.rules);
        self.policy = policy;
        // Whoever may queue or runs has its permit, even if there are then more than the new rule allows. (The worker
        // has noted how long those may run that it was given.)
        let mut waiting = Vec::new();
        for exchange in self.exchanges.iter_mut() {
            exchange.permit = None;
            if exchange.pinned || exchange.place == Place::Over {
                continue;
            }
            let path = exchange.request().map(|request| request.path).unwrap_or_default();
            let (limit, rule) = self.rules.classify(path, self.policy.request_timeout);
            exchange.limit = limit;
            if let Place::Waiting(_) = exchange.place {
                waiting.push((exchange.id, rule));
            } else if let Some(rule) = rule {
                exchange.permit = Some(rule);
                self.rules.take_permit(rule);
            }
        }
        waiting.sort_unstable_by_key(|(id, _)| *id);
        for (id, rule) in waiting {
            let Some(exchange) = self.exchanges.get_mut(id) else { continue };
            if let Some(rule) = rule
                && self.rules.is_full(rule)
            {
                exchange.place = Place::Waiting(rule);
                self.rules.wait(rule, id);
                continue;
            }
            exchange.place = Place::Queued;
            exchange.permit = rule;
            exchange.ready = now;
            if let Some(rule) = rule {
                self.rules.take_permit(rule);
            }
            self.queue.insert(id, now);
        }
    }
}
