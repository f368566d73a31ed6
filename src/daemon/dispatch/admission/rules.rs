//! `[[timeouts.path]]`: which requests have a deadline of their own, and how many of them may run at a time.
//!
//! A request of a rule with `concurrency` needs a *permit* before it may queue for a worker, and keeps it until the
//! worker is done with it. Whoever gets none waits in the rule's own list, where it holds up nobody else; it counts to
//! `limits.queue`, and its time there counts to `timeouts.queue`.
//!
//! Without rules none of this costs anything: the dispatcher asks [`Rules::is_empty`] first.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Duration;

use rgun_channel::frame::ExchangeId;

/// One `[[timeouts.path]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The path as requests have it, percent-encoded and without the query; `*` stands for any bytes, `/` too.
    pub pattern: String,
    /// Instead of `timeouts.request`; the inner `None` is "for ever", the outer one "not given".
    pub request: Option<Option<Duration>>,
    /// How many may run at a time in all workers together.
    pub concurrency: Option<NonZeroU32>,
}

/// Which of the rules: its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RuleId(u16);

/// All of them, in the order in which they are tried.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    rules: Vec<CompiledRule>,
    /// In all lists together.
    waiting: usize,
}

#[derive(Debug)]
struct CompiledRule {
    pattern: Pattern,
    timeout: RuleTimeout,
    concurrency: Option<u32>,
    /// Permits given; more than `most` only after a reload has lowered that.
    permits: u32,
    /// Who waits for one, oldest first.
    waiting: VecDeque<ExchangeId>,
}

/// How long a request may run.
#[derive(Debug, Clone, Copy)]
enum RuleTimeout {
    /// As long as any other.
    Inherited,
    /// So long; `None` is for ever.
    Own(Option<Duration>),
}

/// What stands between the stars of a pattern.
#[derive(Debug)]
struct Pattern {
    prefix: Box<[u8]>,
    /// Between two stars; none is empty.
    middle: Vec<Box<[u8]>>,
    /// After the last star; `None` without any star.
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

    /// The leftmost place of each part leaves the most room for those that follow, so nothing needs to be tried twice.
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
            waiting: VecDeque::new(),
        };
        // More than 65,536 cannot be told apart; nobody writes as many.
        Self { rules: rules.iter().take(usize::from(u16::MAX)).map(compile).collect(), waiting: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// How long a request with this path may run, and the rule, if that bounds how many may. `usual` is
    /// `timeouts.request`.
    pub(crate) fn classify(
        &self,
        path: &[u8],
        usual: Option<Duration>,
    ) -> (Option<Duration>, Option<RuleId>) {
        let matching = (0..).zip(&self.rules).find(|(_, rule)| rule.pattern.matches(path));
        let Some((number, rule)) = matching else { return (usual, None) };
        let limit = match rule.timeout {
            RuleTimeout::Inherited => usual,
            RuleTimeout::Own(limit) => limit,
        };
        (limit, rule.concurrency.map(|_| RuleId(number)))
    }

    /// Must one more wait? Nobody waits while a permit is left.
    pub(crate) fn is_full(&self, number: RuleId) -> bool {
        self.rule(number).is_some_and(|rule| rule.concurrency.is_some_and(|most| rule.permits >= most))
    }

    /// One more has a permit, whether or not there is one left.
    pub(crate) fn take_permit(&mut self, number: RuleId) {
        if let Some(rule) = self.rule_mut(number) {
            rule.permits += 1;
        }
    }

    /// One is through with its permit. Who has it next, if somebody waits for it.
    pub(crate) fn free_permit(&mut self, number: RuleId) -> Option<ExchangeId> {
        let rule = self.rule_mut(number)?;
        rule.permits = rule.permits.saturating_sub(1);
        if rule.concurrency.is_some_and(|most| rule.permits >= most) {
            return None;
        }
        let next = rule.waiting.pop_front()?;
        rule.permits += 1;
        self.waiting -= 1;
        Some(next)
    }

    /// The newest of all waits for a permit.
    pub(crate) fn hold(&mut self, number: RuleId, id: ExchangeId) {
        if let Some(rule) = self.rule_mut(number) {
            rule.waiting.push_back(id);
            self.waiting += 1;
        }
    }

    /// It does not wait any more.
    pub(crate) fn remove_held(&mut self, number: RuleId, id: ExchangeId) {
        if let Some(rule) = self.rule_mut(number)
            && let Ok(at) = rule.waiting.binary_search(&id)
        {
            rule.waiting.remove(at);
            self.waiting -= 1;
        }
    }

    /// How many wait.
    pub(crate) fn n_held(&self) -> usize {
        self.waiting
    }

    /// Who waits; of each rule the oldest first.
    pub(crate) fn held(&self) -> impl Iterator<Item = ExchangeId> {
        self.rules.iter().flat_map(|rule| rule.waiting.iter().copied())
    }

    /// The oldest of each rule.
    pub(crate) fn oldest_held(&self) -> impl Iterator<Item = ExchangeId> {
        self.rules.iter().filter_map(|rule| rule.waiting.front().copied())
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
    fn a_star_stands_for_any_bytes_and_nothing_else_is_special() {
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
            // The two ends must not share bytes.
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
    fn the_first_rule_that_matches_counts() {
        let rule = |pattern: &str, seconds| Rule {
            pattern: pattern.to_owned(),
            request: Some(Some(Duration::from_secs(seconds))),
            concurrency: None,
        };
        let rules = Rules::new(&[rule("/a/b", 1), rule("/a/*", 2), rule("/b*", 3)]);
        for (path, seconds) in [("/a/b", 1), ("/a/c", 2), ("/b", 3), ("/c", 4)] {
            let (limit, bounded) = rules.classify(path.as_bytes(), Some(Duration::from_secs(4)));
            assert_eq!(limit, Some(Duration::from_secs(seconds)));
            assert_eq!(bounded, None);
        }
    }
}
