//! Which rule a request needs a permit of, who gets one, and what a new policy changes for requests that wait or run.

use std::time::{Duration, Instant};

use crate::budget::Budget;

use super::admission::rules::{RuleId, Rules};
use super::exchange::ExchangeState;
use super::policy::Policy;
use super::{Dispatcher, State};

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

impl State {
    /// How long a request may run, and the rule that bounds how many.
    pub(super) fn classify(&self, path: &[u8]) -> (Option<Duration>, Option<RuleId>) {
        if self.rules.is_empty() {
            return (self.policy.request_timeout, None);
        }
        self.rules.classify(path, self.policy.request_timeout)
    }

    /// Returns a permit of this rule: the next request of the rule may queue.
    pub(super) fn free_permit(&mut self, rule: RuleId, now: Instant) {
        let Some(id) = self.rules.free_permit(rule) else { return };
        let Some(exchange) = self.exchanges.get_mut(id) else { return };
        exchange.state = ExchangeState::Queued;
        exchange.permit = Some(rule);
        exchange.ready_at = now;
        self.queue.insert(id, now);
    }

    fn set_policy(&mut self, policy: Policy, now: Instant) {
        self.queue.set_timeout(policy.queue_timeout);
        self.rules = Rules::new(&policy.rules);
        self.policy = policy;
        // Each request that is queued or runs has its permit, even if there are then more than the new rule allows. (The worker
        // has noted how long those may run that it was given.)
        let mut waiting = Vec::new();
        for exchange in self.exchanges.iter_mut() {
            exchange.permit = None;
            if exchange.pinned || exchange.state == ExchangeState::Finished {
                continue;
            }
            let path = exchange.request().map(|request| request.path).unwrap_or_default();
            let (limit, rule) = self.rules.classify(path, self.policy.request_timeout);
            exchange.timeout = limit;
            if let ExchangeState::Held(_) = exchange.state {
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
                exchange.state = ExchangeState::Held(rule);
                self.rules.hold(rule, id);
                continue;
            }
            exchange.state = ExchangeState::Queued;
            exchange.permit = rule;
            exchange.ready_at = now;
            if let Some(rule) = rule {
                self.rules.take_permit(rule);
            }
            self.queue.insert(id, now);
        }
    }
}
