//! `[[timeouts.path]]`: from tables to [`PathRule`]s.
//!
//! `check` calls [`read()`] and adds the section to the keys. An entry is a small section of its own: its keys have
//! their lines, its unknown keys are errors, and what is wrong with one entry does not hide what is wrong with the
//! next. Matching requests is `dispatch`'s; here only a rule that could never match is found out.

use std::num::NonZeroU32;

use super::keys::nearest;
use super::value::{Setting, TableEntry};
use super::{PathRule, Value, ValueError, read};

const MATCH: &str = "match";
const REQUEST: &str = "request";
const CONCURRENCY: &str = "concurrency";
pub(super) const KEYS: [&str; 3] = [MATCH, REQUEST, CONCURRENCY];

/// Something wrong with an entry.
pub(super) struct RuleError<'a> {
    /// Which entry, from 0.
    pub(super) idx: usize,
    /// Its key; empty when it is about the entry as a whole.
    pub(super) key: &'a str,
    /// Where it stands.
    pub(super) origin: &'a str,
    /// What was written, when it is about that.
    pub(super) value: Option<&'a Value>,
    /// What is wrong.
    pub(super) error: ValueError,
}

/// The rules, in the order of the file; what is wrong goes to `errors`.
pub(super) fn read<'a>(
    setting: &'a Setting,
    errors: &mut Vec<RuleError<'a>>,
) -> Result<Vec<PathRule>, ValueError> {
    const HINT: &str = "write [[timeouts.path]], in two pairs of brackets, once for each pattern";
    let entries =
        match &setting.value {
            Value::Tables(entries) => entries,
            Value::List(items) if items.is_empty() => return Ok(Vec::new()),
            Value::List(items) => {
                let other =
                    items.iter().find(|item| !matches!(item, Value::Table(_))).map_or("a table", Value::kind);
                return Err(ValueError::new(format!("must be a list of tables, but has {other} in it"))
                    .with_hint(HINT));
            }
            other => {
                return Err(ValueError::new(format!("must be a list of tables, not {}", other.kind()))
                    .with_hint(HINT));
            }
        };
    let mut rules: Vec<PathRule> = Vec::new();
    for (idx, entry) in entries.iter().enumerate() {
        let found = errors.len();
        let rule = RuleReader { idx, entry, errors }.rule();
        if errors.len() > found {
            continue;
        }
        let Some(rule) = rule else { continue };
        if let Some(earlier) = rules.iter().find(|earlier| covers(&earlier.pattern, &rule.pattern)) {
            let error = if earlier.pattern == rule.pattern {
                ValueError::new("is there twice, and the first that matches counts")
                    .with_hint("write what applies to it into one entry")
            } else {
                ValueError::new(format!(
                    "never counts: \"{}\" above it matches all of its paths, and the first that matches counts",
                    earlier.pattern
                ))
                .with_hint("put the narrower pattern first")
            };
            let of = entry.keys.iter().find(|(key, _)| key == MATCH).map(|(_, setting)| setting);
            errors.push(RuleError {
                idx,
                key: MATCH,
                origin: of.map_or(&entry.origin, |setting| &setting.origin),
                value: of.map(|setting| &setting.value),
                error,
            });
            continue;
        }
        rules.push(rule);
    }
    Ok(rules)
}

struct RuleReader<'a, 'f> {
    idx: usize,
    entry: &'a TableEntry,
    errors: &'f mut Vec<RuleError<'a>>,
}

impl<'a> RuleReader<'a, '_> {
    fn rule(mut self) -> Option<PathRule> {
        let entry = self.entry;
        for (key, setting) in entry.keys.iter().filter(|(key, _)| !KEYS.contains(&key.as_str())) {
            let hint = match nearest(key, KEYS) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("the keys of [[timeouts.path]] are {}", KEYS.join(", ")),
            };
            self.fault(key, Some(setting), ValueError::new("is not a key").with_hint(hint));
        }
        let pattern = self.key(MATCH, pattern);
        let request = self.key(REQUEST, read::timeout_or_off);
        let concurrency = self.key(CONCURRENCY, |setting| {
            read::whole(setting, 1, u32::MAX).map(|n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN))
        });
        if !self.is_set(MATCH) {
            let hint = "say which paths it is for: match = \"/admin/*\"";
            self.fault(MATCH, None, ValueError::new("is not set").with_hint(hint));
        }
        if !self.is_set(REQUEST) && !self.is_set(CONCURRENCY) {
            let hint = "add request = \"600s\", concurrency = 2, or both";
            self.fault("", None, ValueError::new("limits nothing").with_hint(hint));
        }
        Some(PathRule { pattern: pattern?, request, concurrency })
    }

    fn is_set(&self, key: &str) -> bool {
        self.entry.keys.iter().any(|(name, _)| name == key)
    }

    fn key<T>(
        &mut self,
        key: &'static str,
        reader: impl FnOnce(&Setting) -> Result<T, ValueError>,
    ) -> Option<T> {
        let (_, setting) = self.entry.keys.iter().find(|(name, _)| name == key)?;
        match reader(setting) {
            Ok(value) => Some(value),
            Err(error) => {
                self.fault(key, Some(setting), error);
                None
            }
        }
    }

    fn fault(&mut self, key: &'a str, setting: Option<&'a Setting>, error: ValueError) {
        self.errors.push(RuleError {
            idx: self.idx,
            key,
            origin: setting.map_or(&self.entry.origin, |setting| &setting.origin),
            value: setting.map(|setting| &setting.value),
            error,
        });
    }
}

fn pattern(setting: &Setting) -> Result<String, ValueError> {
    let text = read::text(setting)?;
    if text.is_empty() {
        return Err(
            ValueError::new("is empty").with_hint("write e.g. \"/admin/*\"; \"*\" alone matches every path")
        );
    }
    if let Some((path, _)) = text.split_once('?') {
        return Err(ValueError::new("has a query; paths are matched without theirs")
            .with_hint(format!("write \"{path}\"")));
    }
    if text.contains("://") {
        return Err(ValueError::new("is a URL; a path is expected").with_hint("write e.g. \"/admin/*\""));
    }
    if !text.starts_with(['/', '*']) {
        return Err(ValueError::new("matches no path: they all begin with \"/\"")
            .with_hint(format!("write \"/{text}\", or \"*/{text}\" for wherever that is")));
    }
    match text.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
        Some(c) => Err(ValueError::new(format!("has {c:?} in it, which no request has in its path"))
            .with_hint(match c {
                '#' => "leave out what follows it: browsers keep that to themselves".to_owned(),
                c => {
                    let encoded =
                        c.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat();
                    format!("write it percent-encoded, as requests have it: {encoded}")
                }
            })),
        None => Ok(text.to_owned()),
    }
}

/// Whether `wide` matches every path that `narrow` matches. A star of `narrow` stands for anything, so only a star of
/// `wide` can take it.
fn covers(wide: &str, narrow: &str) -> bool {
    let (wide, narrow) = (wide.as_bytes(), narrow.as_bytes());
    let (mut w, mut n) = (0, 0);
    // After the last star of `wide`: where to go on when what follows it did not fit.
    let mut retry: Option<(usize, usize)> = None;
    while n < narrow.len() {
        match wide.get(w) {
            Some(b'*') => {
                retry = Some((w + 1, n));
                w += 1;
            }
            Some(byte) if *byte == narrow[n] => {
                w += 1;
                n += 1;
            }
            _ => {
                let Some((after, taken)) = retry else { return false };
                retry = Some((after, taken + 1));
                (w, n) = (after, taken + 1);
            }
        }
    }
    wide[w..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_covers_every_narrower_pattern() {
        for (wide, narrow, covered) in [
            ("/a", "/a", true),
            ("/a", "/b", false),
            ("/a", "/ab", false),
            ("*", "/anything/*", true),
            ("/*", "/a/*/b", true),
            ("/a/*", "/a/b/*", true),
            ("/a/b/*", "/a/*", false),
            ("/a*", "/a*", true),
            ("/a*b", "/ab*", false),
            ("/a*b", "/a*cb", true),
            ("/a*b*", "/axxbyybzz", true),
            ("/a*b", "/axbyb", true),
            ("/a*b", "/axby", false),
            ("/a**", "/a", true),
            ("/a", "*", false),
            ("*.css", "/static/*.css", true),
            ("/static/*.css", "*.css", false),
        ] {
            assert_eq!(covers(wide, narrow), covered, "{wide} {narrow}");
        }
    }
}
