//! `[[timeouts.path]]`: converts tables to [`PathRule`]s.
//!
//! `check` calls [`read()`]. `dispatch` matches requests; this module refuses rules that can never
//! match.

use std::num::NonZeroU32;

use super::entry::{self, EntryReader};
use super::keys::name;
use super::value::Setting;
use super::{ConfigError, PathRule, ValueError, read};

const MATCH: &str = "match";
const REQUEST: &str = "request";
const CONCURRENCY: &str = "concurrency";
pub(super) const KEYS: [&str; 3] = [MATCH, REQUEST, CONCURRENCY];

/// Maximum number of rules: each request is compared with the rules in their order.
const MAX_RULES: usize = 1000;

/// Returns the rules in the order of the file. Errors in entries go to `errors`.
pub(super) fn read(setting: &Setting, errors: &mut Vec<ConfigError>) -> Result<Vec<PathRule>, ValueError> {
    const HINT: &str = "write [[timeouts.path]], in two pairs of brackets, once for each pattern";
    let entries = entry::entries(setting, HINT)?;
    if entries.len() > MAX_RULES {
        let error = ValueError::new(format!("has {} tables; the maximum is {MAX_RULES}", entries.len()));
        return Err(error.with_hint("match several paths by one pattern, such as \"/admin/*\""));
    }
    let mut rules: Vec<PathRule> = Vec::new();
    for (idx, entry) in entries.iter().enumerate() {
        let found = errors.len();
        let mut reader = EntryReader { entry, label: format!("{}[{idx}]", name::PATH_RULES), errors };
        let Some(rule) = rule(&mut reader) else { continue };
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
            let setting = reader.setting(MATCH);
            reader.fault(MATCH, setting, error);
        }
        if errors.len() == found {
            rules.push(rule);
        }
    }
    Ok(rules)
}

fn rule(reader: &mut EntryReader<'_, '_>) -> Option<PathRule> {
    let found = reader.errors.len();
    reader.refuse_unknown("[[timeouts.path]]", &KEYS);
    let pattern = reader.key(MATCH, pattern);
    let request = reader.key(REQUEST, read::timeout_or_off);
    let concurrency = reader.key(CONCURRENCY, |setting| {
        read::whole(setting, 1, u32::MAX).map(|n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN))
    });
    if reader.setting(MATCH).is_none() {
        let hint = "name the paths: match = \"/admin/*\"";
        reader.fault(MATCH, None, ValueError::new("is not set").with_hint(hint));
    }
    if reader.setting(REQUEST).is_none() && reader.setting(CONCURRENCY).is_none() {
        let hint = "add request = \"600s\", concurrency = 2, or both";
        reader.fault("", None, ValueError::new("limits nothing").with_hint(hint));
    }
    (reader.errors.len() == found).then_some(PathRule { pattern: pattern?, request, concurrency })
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

/// Returns whether `wide` matches every path that `narrow` matches. A star in `narrow` can be any
/// text, so only a star in `wide` covers it.
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
