//! The syntax of values in units and environment files (systemd.syntax(7), systemd.exec(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// Returns whether a boolean setting is on (systemd.syntax(7)).
pub(super) fn is_yes(value: &str) -> bool {
    matches!(value, "yes" | "true" | "on" | "1")
}

/// Splits `NAME=VALUE`; `None` without an equals sign.
pub(super) fn split_assignment(assignment: &str) -> Option<(OsString, OsString)> {
    let (name, value) = assignment.split_once('=')?;
    Some((name.into(), value.into()))
}

/// Parses an environment file: one assignment per line, `#` and `;` start comments, values may be
/// quoted.
pub(super) fn parse_environment_file(bytes: &[u8]) -> Vec<String> {
    let text = OsString::from_vec(bytes.to_vec()).to_string_lossy().replace("\\\n", "");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';']));
    let assignment = |line: &str| {
        let (name, value) = line.split_once('=')?;
        let value = value.trim();
        let quoted = ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote));
        Some(format!("{}={}", name.trim(), quoted.unwrap_or(value)))
    };
    lines.filter_map(assignment).collect()
}

/// Replaces the specifiers `%i` and `%I` with the instance, and `%%` with a percent sign
/// (systemd.unit(5)). Other specifiers stay.
pub(super) fn expand(value: &str, instance: &str) -> String {
    let mut expanded = String::with_capacity(value.len());
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('%') {
        expanded.push_str(before);
        let (replacement, len) = match after.as_bytes().first() {
            Some(b'i' | b'I') => (instance, 1),
            Some(b'%') => ("%", 1),
            _ => ("%", 0),
        };
        expanded.push_str(replacement);
        rest = &after[len..];
    }
    expanded + rest
}

/// Splits words as in systemd.syntax(7): quotes group, a backslash escapes the next character.
pub(super) fn split_words(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut rest = text.chars();
    while let Some(char) = rest.next() {
        match (char, quote) {
            ('\\', _) => word.get_or_insert_default().extend(rest.next()),
            (char, Some(open)) if char == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(char);
                word.get_or_insert_default();
            }
            (char, None) if char.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(char),
        }
    }
    words.extend(word);
    words
}
