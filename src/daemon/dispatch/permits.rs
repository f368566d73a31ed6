//! Applies path rules: finds the rule of a request, releases permits, and applies a new policy to
//! open requests.

use std::time::{Duration, Instant};

use crate::budget::Budget;

use super::admission::rules::{RuleId, Rules};
use super::exchange::ExchangeState;
use super::policy::Policy;
use super::{Dispatcher, State};

impl Dispatcher {
    /// Returns the memory budget of responses, `limits.response_memory`.
    pub fn response_memory(&self) -> &'static Budget {
        &self.buffers.memory
    }

    /// Applies a policy to new and waiting requests. Running requests keep the deadline that they
    /// started with; their limit for client waits changes at once.
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
    /// Returns how long a request to `path` may run, and the rule that limits its concurrency, if
    /// any.
    pub(super) fn classify(&self, path: &[u8]) -> (Option<Duration>, Option<RuleId>) {
        if self.rules.is_empty() {
            return (self.policy.request_timeout, None);
        }
        self.rules.classify(path, self.policy.request_timeout)
    }

    /// Releases a permit of `rule`, and queues the oldest request that the rule holds.
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
        if policy.queue_per_client.is_none() {
            self.client_queue.clear();
        }
        self.policy = policy;
        // Queued and running requests get a permit, even if the new rule allows fewer. Running
        // requests keep their deadlines, which are in the `Worker`: `timeout` then limits client waits
        // only.
        let mut held = Vec::new();
        for exchange in self.exchanges.iter_mut() {
            exchange.permit = None;
            if exchange.is_pinned || exchange.state == ExchangeState::Finished {
                continue;
            }
            let path = exchange.request().map(|request| request.path).unwrap_or_default();
            let (timeout, rule) = self.rules.classify(path, self.policy.request_timeout);
            exchange.timeout = timeout;
            if let ExchangeState::Held(_) = exchange.state {
                held.push((exchange.id, rule));
            } else if let Some(rule) = rule {
                exchange.permit = Some(rule);
                self.rules.take_permit(rule);
            }
        }
        held.sort_unstable_by_key(|(id, _)| *id);
        for (id, rule) in held {
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
