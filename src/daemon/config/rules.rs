//! `[[timeouts.path]]`: converts tables to [`PathRule`]s.
//!
//! `check` calls [`read()`] and adds the section to the keys. Like a section, an entry keeps the lines of its keys and
//! refuses unknown ones, and an error in one entry does not hide errors in the next. `dispatch` matches requests;
//! this module refuses rules that can never match.

use std::num::NonZeroU32;

use super::keys::nearest;
use super::value::{Setting, TableEntry};
use super::{PathRule, Value, ValueError, read};

const MATCH: &str = "match";
const REQUEST: &str = "request";
const CONCURRENCY: &str = "concurrency";
pub(super) const KEYS: [&str; 3] = [MATCH, REQUEST, CONCURRENCY];

/// An error in an entry.
pub(super) struct RuleError<'a> {
    /// The index of the entry, from 0.
    pub(super) idx: usize,
    /// The key within the entry; empty for an error of the entry as a whole.
    pub(super) key: &'a str,
    /// File and line.
    pub(super) origin: &'a str,
    /// The invalid value; `None` if the key is missing.
    pub(super) value: Option<&'a Value>,
    /// The reason and the hint.
    pub(super) error: ValueError,
}

/// Returns the rules in the order of the file. Errors in entries go to `errors`.
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
                ValueError::new("is a duplicate; the first matching rule applies")
                    .with_hint("merge both entries into one")
            } else {
                ValueError::new(format!(
                    "never applies: the earlier \"{}\" matches all of its paths",
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
            let hint = "name the paths: match = \"/admin/*\"";
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
        return Err(ValueError::new("has a query; rules match the path without it")
            .with_hint(format!("write \"{path}\"")));
    }
    if text.contains("://") {
        return Err(ValueError::new("is a URL; a path is expected").with_hint("write e.g. \"/admin/*\""));
    }
    if !text.starts_with(['/', '*']) {
        return Err(ValueError::new("matches no path: paths begin with \"/\"")
            .with_hint(format!("write \"/{text}\", or \"*/{text}\" to match it at any depth")));
    }
    match text.chars().find(|c| !c.is_ascii_graphic() || *c == '#') {
        Some(c) => {
            Err(ValueError::new(format!("contains {c:?}, which is not valid in a path")).with_hint(match c {
                '#' => "remove the fragment: browsers do not send it".to_owned(),
                c => {
                    let encoded =
                        c.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat();
                    format!("write it percent-encoded: {encoded}")
                }
            }))
        }
        None => Ok(text.to_owned()),
    }
}

/// Whether `wide` matches every path that `narrow` matches. A star in `narrow` can be any text, so only a star in `wide`
/// covers it.
fn covers(wide: &str, narrow: &str) -> bool {
    let (wide, narrow) = (wide.as_bytes(), narrow.as_bytes());
    let (mut w, mut n) = (0, 0);
    // Where to resume, in both patterns, after the last star of `wide` when the rest did not match.
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
