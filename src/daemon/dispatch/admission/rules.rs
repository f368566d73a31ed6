//! The rules of `[[timeouts.path]]`: deadlines and concurrency limits of paths.
//!
//! A request of a rule with `concurrency` needs a *permit* before it may queue for a worker, and
//! keeps it until the worker is done with it. Without a permit it is *held* in the rule's own list,
//! where it delays no request of another path. Held requests count towards `limits.queue`, and
//! their wait towards `timeouts.queue`.
//!
//! The dispatcher calls [`Rules::is_empty`] first, so that requests cost nothing without rules.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use rgun_channel::frame::ExchangeId;

/// One table `[[timeouts.path]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Pattern of the path as it is in requests: percent-encoded, without the query. `*` matches
    /// any bytes, `/` too.
    pub pattern: String,
    /// Overrides `timeouts.request`. The outer None: not set; the inner None: no timeout.
    pub request: Option<Option<Duration>>,
    /// Requests that may run at a time in all workers. None: any number.
    pub concurrency: Option<NonZeroU32>,
}

/// Index of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RuleId(u16);

/// All rules, in the order in which they are tried.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    rules: Vec<CompiledRule>,
    /// Number of held requests of all rules.
    n_held: usize,
}

#[derive(Debug)]
struct CompiledRule {
    pattern: Pattern,
    timeout: RuleTimeout,
    concurrency: Option<u32>,
    /// Permits in use. May exceed `concurrency` after a reload has lowered it.
    permits: u32,
    /// Held requests, oldest first.
    held: VecDeque<ExchangeId>,
}

/// The request timeout of a rule.
#[derive(Debug, Clone, Copy)]
enum RuleTimeout {
    /// `timeouts.request` applies.
    Inherited,
    /// The rule sets its own timeout; None: no timeout.
    Own(Option<Duration>),
}

/// A pattern, split at its stars.
#[derive(Debug)]
struct Pattern {
    prefix: Box<[u8]>,
    /// Texts between two stars; none is empty.
    middle: Vec<Box<[u8]>>,
    /// Text after the last star; None if there is no star.
    suffix: Option<Box<[u8]>>,
}

impl Pattern {
    fn new(text: &str) -> Self {
        let mut parts = text.as_bytes().split(|byte| *byte == b'*').map(Box::<[u8]>::from);
        let prefix = parts.next().unwrap_or_default();
        let mut middle: Vec<_> = parts.collect();
        let suffix = middle.pop();
        middle.retain(|part| !part.is_empty());
        Self { prefix, middle, suffix }
    }

    /// Returns whether the whole path matches. Takes the leftmost match of each middle part, which
    /// leaves the most text for the parts after it, so no backtracking is needed.
    fn matches(&self, path: &[u8]) -> bool {
        let Some(suffix) = &self.suffix else { return *path == *self.prefix };
        let rest = path.strip_prefix(&*self.prefix).and_then(|rest| rest.strip_suffix(&**suffix));
        let Some(mut rest) = rest else { return false };
        for part in &self.middle {
            let Some(at) = rest.windows(part.len()).position(|window| window == &**part) else {
                return false;
            };
            rest = rest.get(at + part.len()..).unwrap_or_default();
        }
        true
    }
}

impl Rules {
    pub(crate) fn new(rules: &[Rule]) -> Self {
        let compile = |rule: &Rule| CompiledRule {
            pattern: Pattern::new(&rule.pattern),
            timeout: rule.request.map_or(RuleTimeout::Inherited, RuleTimeout::Own),
            concurrency: rule.concurrency.map(NonZeroU32::get),
            permits: 0,
            held: VecDeque::new(),
        };
        // `RuleId` has 16 bits; the configuration has at most 1000 rules.
        Self { rules: rules.iter().take(usize::from(u16::MAX)).map(compile).collect(), n_held: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Returns how long a request to `path` may run, and its rule if the rule limits the
    /// concurrency. `default` is `timeouts.request`.
    pub(crate) fn classify(
        &self,
        path: &[u8],
        default: Option<Duration>,
    ) -> (Option<Duration>, Option<RuleId>) {
        let matching = (0..).zip(&self.rules).find(|(_, rule)| rule.pattern.matches(path));
        let Some((number, rule)) = matching else { return (default, None) };
        let limit = match rule.timeout {
            RuleTimeout::Inherited => default,
            RuleTimeout::Own(limit) => limit,
        };
        (limit, rule.concurrency.map(|_| RuleId(number)))
    }

    /// Returns whether no permit is left, so that the next request must be held.
    pub(crate) fn is_full(&self, number: RuleId) -> bool {
        self.rule(number).is_some_and(|rule| rule.concurrency.is_some_and(|limit| rule.permits >= limit))
    }

    /// Takes a permit, even beyond the limit.
    pub(crate) fn take_permit(&mut self, number: RuleId) {
        if let Some(rule) = self.rule_mut(number) {
            rule.permits += 1;
        }
    }

    /// Releases a permit. If a held request gets it, removes the request from the list and returns
    /// its exchange.
    pub(crate) fn free_permit(&mut self, number: RuleId) -> Option<ExchangeId> {
        let rule = self.rule_mut(number)?;
        rule.permits = rule.permits.saturating_sub(1);
        if rule.concurrency.is_some_and(|limit| rule.permits >= limit) {
            return None;
        }
        let next = rule.held.pop_front()?;
        rule.permits += 1;
        self.n_held -= 1;
        Some(next)
    }

    /// Holds a request. The request must be newer than those that the rule holds, because they are
    /// sorted by age.
    pub(crate) fn hold(&mut self, number: RuleId, id: ExchangeId) {
        if let Some(rule) = self.rule_mut(number) {
            rule.held.push_back(id);
            self.n_held += 1;
        }
    }

    /// Removes a held request that needs no permit any more.
    pub(crate) fn remove_held(&mut self, number: RuleId, id: ExchangeId) {
        if let Some(rule) = self.rule_mut(number)
            && let Ok(at) = rule.held.binary_search(&id)
        {
            rule.held.remove(at);
            self.n_held -= 1;
        }
    }

    /// Returns the number of held requests.
    pub(crate) fn n_held(&self) -> usize {
        self.n_held
    }

    /// Returns the held requests, by rule and within a rule by age.
    pub(crate) fn held(&self) -> impl Iterator<Item = ExchangeId> {
        self.rules.iter().flat_map(|rule| rule.held.iter().copied())
    }

    /// Returns the oldest held request of each rule.
    pub(crate) fn oldest_held(&self) -> impl Iterator<Item = ExchangeId> {
        self.rules.iter().filter_map(|rule| rule.held.front().copied())
    }

    #[cfg(test)]
    pub(crate) fn n_permits(&self) -> usize {
        self.rules.iter().map(|rule| rule.permits as usize).sum()
    }

    fn rule(&self, RuleId(number): RuleId) -> Option<&CompiledRule> {
        self.rules.get(usize::from(number))
    }

    fn rule_mut(&mut self, RuleId(number): RuleId) -> Option<&mut CompiledRule> {
        self.rules.get_mut(usize::from(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn star_matches_any_bytes_and_other_characters_themselves() {
        for (pattern, path, expected) in [
            ("/admin", "/admin", true),
            ("/admin", "/admin/", false),
            ("/admin", "/a", false),
            ("", "", true),
            ("*", "", true),
            ("*", "/any/thing", true),
            ("/admin/export*", "/admin/export", true),
            ("/admin/export*", "/admin/export/all.csv", true),
            ("/admin/export*", "/admin/expor", false),
            ("*.pdf", "/a/b.pdf", true),
            ("*.pdf", "/a/b.pdf/c", false),
            ("/a*/b", "/a/b", true),
            ("/a*/b", "/a/x/y/b", true),
            // Prefix and suffix must not overlap.
            ("/ab*bc", "/abc", false),
            ("/ab*bc", "/abbc", true),
            ("/*/edit/*", "/posts/1/edit/2", true),
            ("/*/edit/*", "/posts/1/edi/2", false),
            ("a*b*b", "ab", false),
            ("a*b*b", "abb", true),
            ("*ab*ba*", "aba", false),
            ("*ab*ba*", "xabxbax", true),
            ("**", "/", true),
            ("/%C3%A9?[x]", "/%C3%A9?[x]", true),
            ("/%C3%A9?[x]", "/%C3%A9yx", false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(path.as_bytes()), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn first_matching_rule_applies() {
        let rule = |pattern: &str, seconds| Rule {
            pattern: pattern.to_owned(),
            request: Some(Some(Duration::from_secs(seconds))),
            concurrency: None,
        };
        let rules = Rules::new(&[rule("/a/b", 1), rule("/a/*", 2), rule("/b*", 3)]);
        for (path, seconds) in [("/a/b", 1), ("/a/c", 2), ("/b", 3), ("/c", 4)] {
            let (limit, concurrency_rule) = rules.classify(path.as_bytes(), Some(Duration::from_secs(4)));
            assert_eq!(limit, Some(Duration::from_secs(seconds)));
            assert_eq!(concurrency_rule, None);
        }
    }
}
