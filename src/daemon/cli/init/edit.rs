//! Sets keys in the text of an existing `rgun.toml`, and keeps everything else: comments, order and
//! other keys.

use std::fmt::Write as _;

/// One key to set: section, word, and the value as TOML.
pub(super) type Entry = (String, String, String);

/// Returns the text with these keys set.
///
/// # Errors
/// The reason, if the text is not TOML, or cannot be edited line by line, as with a value over
/// several lines.
pub(super) fn set_keys(text: &str, entries: &[Entry]) -> Result<String, String> {
    let before: toml::Table =
        text.parse().map_err(|error: toml::de::Error| format!("is not TOML: {}", error.message()))?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for entry in entries {
        set_key(&mut lines, entry);
    }
    let mut edited = lines.join("\n");
    edited.push('\n');
    // Compared as values: a key must have its new value, and all others their old ones.
    let mut wanted = before;
    for (section, word, value) in entries {
        let value: toml::Table =
            format!("value = {value}").parse().map_err(|error: toml::de::Error| error.to_string())?;
        let table = wanted.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
        if let (Some(table), Some(value)) = (table.as_table_mut(), value.get("value")) {
            table.insert(word.clone(), value.clone());
        }
    }
    match edited.parse::<toml::Table>() {
        Ok(result) if result == wanted => Ok(edited),
        _ => Err("cannot be edited line by line; move it away, and run the command again".to_owned()),
    }
}

/// Replaces the line of the key, or of its commented default; else adds a line to the section.
fn set_key(lines: &mut Vec<String>, (section, word, value): &Entry) {
    let line = format!("{word} = {value}");
    let header = format!("[{section}]");
    let Some(start) = lines.iter().position(|line| line.trim() == header) else {
        if lines.last().is_some_and(|last| !last.is_empty()) {
            lines.push(String::new());
        }
        lines.extend([header, line]);
        return;
    };
    let length = lines[start + 1..].iter().position(|line| line.trim_start().starts_with('['));
    let end = length.map_or(lines.len(), |length| start + 1 + length);
    let is_key =
        |line: &str| line.strip_prefix(word.as_str()).is_some_and(|rest| rest.trim_start().starts_with('='));
    let find = |is_match: &dyn Fn(&str) -> bool| (start + 1..end).find(|idx| is_match(&lines[*idx]));
    let commented = |line: &str| line.strip_prefix('#').is_some_and(is_key);
    match find(&|line| is_key(line.trim_start())).or_else(|| find(&commented)) {
        Some(idx) => lines[idx] = line,
        None => lines.insert(start + 1, line),
    }
}

/// Returns a new file with these keys; entries of a section are adjacent.
pub(super) fn new_file(entries: &[Entry], comment: &str) -> String {
    let mut text = format!("# {comment}\n");
    let mut last = "";
    for (section, word, value) in entries {
        // Writing to a String cannot fail.
        if section != last {
            let _ = write!(text, "\n[{section}]\n");
            last = section;
        }
        let _ = writeln!(text, "{word} = {value}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(section: &str, word: &str, value: &str) -> Entry {
        (section.to_owned(), word.to_owned(), value.to_owned())
    }

    #[test]
    fn key_replaces_its_line_or_its_commented_default() {
        let text = "# The app.\n[app]\ntarget = \"a\"  # old\n# Threads.\n[workers]\n#count = \"auto\"\n";
        let edited =
            set_keys(text, &[entry("app", "target", "\"b\""), entry("workers", "count", "2")]).unwrap();
        assert_eq!(edited, "# The app.\n[app]\ntarget = \"b\"\n# Threads.\n[workers]\ncount = 2\n");
    }

    #[test]
    fn missing_key_and_missing_section_are_added() {
        let edited =
            set_keys("[app]\n", &[entry("app", "target", "\"b\""), entry("log", "access", "true")]).unwrap();
        assert_eq!(edited, "[app]\ntarget = \"b\"\n\n[log]\naccess = true\n");
    }

    #[test]
    fn key_of_another_section_is_kept() {
        let text = "[log]\nlevel = \"info\"\n[compression]\n#level = 4\n";
        let edited = set_keys(text, &[entry("compression", "level", "5")]).unwrap();
        assert_eq!(edited, "[log]\nlevel = \"info\"\n[compression]\nlevel = 5\n");
    }

    #[test]
    fn value_over_several_lines_is_not_edited() {
        let reason =
            set_keys("[app]\npythonpath = [\n\"a\",\n]\n", &[entry("app", "pythonpath", "[]")]).unwrap_err();
        assert!(reason.contains("cannot be edited"), "{reason}");
        assert!(set_keys("[app", &[]).unwrap_err().contains("is not TOML"));
    }

    #[test]
    fn shipped_configuration_keeps_its_comments() {
        let shipped = include_str!("../../../../packaging/etc/rgun.toml");
        let edited =
            set_keys(shipped, &[entry("app", "target", "\"shop.wsgi\""), entry("workers", "count", "3")])
                .unwrap();
        assert_eq!(edited.lines().count(), shipped.lines().count());
        assert_eq!(edited.lines().filter(|line| !shipped.lines().any(|old| old == *line)).count(), 2);
    }

    #[test]
    fn new_file_has_each_section_once() {
        let entries = [
            entry("app", "target", "\"a\""),
            entry("app", "python", "\"b\""),
            entry("log", "access", "true"),
        ];
        assert_eq!(
            new_file(&entries, "C."),
            "# C.\n\n[app]\ntarget = \"a\"\npython = \"b\"\n\n[log]\naccess = true\n"
        );
    }
}
