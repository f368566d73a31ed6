//! Parses the TOML file into a [`Layer`].
//!
//! The file has sections with keys. The value of `[[timeouts.path]]` contains the line of each of
//! its keys. The file is read through the parser's document type and not through serde's derive,
//! because derive stops at the first error, and an operator wants all errors, with their lines.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::keys::{self, Lookup, name};
use super::value::{HUGE_NUMBER, Setting, Source, TableEntry};
use super::{ConfigError, Layer, Value, foreign_file};

/// Reads the file at `path`; `None` if it cannot be read, is not TOML, or is the file of another
/// program. Errors go to `errors`.
pub(crate) fn read(path: &Path, errors: &mut Vec<ConfigError>) -> Option<Layer> {
    match std::fs::read(path) {
        Ok(bytes) => {
            let Ok(text) = String::from_utf8(bytes) else {
                errors.push(broken(path.display().to_string(), "is not UTF-8", None));
                return None;
            };
            parse(path, &text, errors)
        }
        Err(error) => {
            use std::io::ErrorKind as Kind;
            #[allow(
                clippy::wildcard_enum_match_arm,
                reason = "io::ErrorKind is non-exhaustive; the others have no hint"
            )]
            let hint = match error.kind() {
                Kind::NotFound => Some("name an existing file with --config (RGUN_CONFIG)"),
                Kind::PermissionDenied => Some("the user rgun runs as must be able to read it"),
                _ => None,
            };
            errors.push(broken(path.display().to_string(), &format!("cannot be read: {error}"), hint));
            None
        }
    }
}

/// The parser's message about a key or a table that the file has twice.
const DUPLICATE_KEY: &str = "duplicate key";
const DUPLICATE_HINT: &str = "the file has it above already: keep one of them, with the settings of both";

/// Parses `text`, the content of `path`; `None` if it is not TOML, or the file of another program.
pub(crate) fn parse(path: &Path, text: &str, errors: &mut Vec<ConfigError>) -> Option<Layer> {
    let (document, mut faults) = DeTable::parse_recoverable(text);
    if !faults.is_empty() {
        faults.sort_by_key(|fault| fault.span().map_or(0, |span| span.start));
        let line = |fault: &toml::de::Error| line_of(text, fault.span().map_or(0, |span| span.start));
        // The parser goes on in the same line, and reports the rest of a wrong value, too.
        faults.dedup_by_key(|fault| line(fault));
        errors.extend(faults.iter().map(|fault| {
            let line = line(fault);
            let message = fault.message();
            let (key, hint) = match fault.span().and_then(|span| text.get(span)) {
                Some(key) if message == DUPLICATE_KEY => (format!(" {key}"), Some(DUPLICATE_HINT)),
                _ => (String::new(), quoting_hint(text, line)),
            };
            broken(format!("{}:{line}", path.display()), &format!("is not TOML: {message}{key}"), hint)
        }));
        return None;
    }
    if let Some(error) = foreign_file::explain(path, document.get_ref()) {
        errors.push(error);
        return None;
    }
    let mut reader = TomlReader { path, text, layer: Layer::new(), errors: Vec::new() };
    for (section, content) in document.get_ref() {
        reader.section(section, content);
    }
    reader.errors.sort_by_key(|(offset, _)| *offset);
    errors.extend(reader.errors.into_iter().map(|(_, error)| error));
    Some(reader.layer)
}

struct TomlReader<'a> {
    path: &'a Path,
    text: &'a str,
    layer: Layer,
    /// Each error with its byte offset in the file, by which the errors are sorted.
    errors: Vec<(usize, ConfigError)>,
}

impl TomlReader<'_> {
    fn section(&mut self, section: &Spanned<std::borrow::Cow<'_, str>>, content: &Spanned<DeValue<'_>>) {
        let at = section.span().start;
        let name: &str = section.get_ref().as_ref();
        let shown = format!("[{name}]");
        if name == name::STATIC {
            let value = match content.get_ref() {
                DeValue::Array(items) => self.tables(items),
                content => value(content),
            };
            let setting = self.setting(at, value);
            self.layer.insert(name::STATIC, setting);
            return;
        }
        let DeValue::Table(table) = content.get_ref() else {
            let value = Some(value(content.get_ref()).to_string());
            let hint = keys::stray_key_hint(name).unwrap_or_else(|| keys::section_hint(name));
            return self.error(at, name.to_owned(), value, "is outside of any section", Some(hint));
        };
        if keys::PLANNED_SECTIONS.contains(&name) {
            return self.planned(at, shown);
        }
        if !keys::SECTIONS.contains(&name) {
            return self.error(at, shown, None, "is not a section", Some(keys::section_hint(name)));
        }
        if name == keys::ERRORS_SECTION {
            return self.error_pages(at, table);
        }
        for (key, content) in table {
            self.key(name, key, content);
        }
    }

    fn key(
        &mut self,
        section: &str,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        content: &Spanned<DeValue<'_>>,
    ) {
        let at = key.span().start;
        let full = format!("{section}.{}", key.get_ref());
        if let DeValue::Table(table) = content.get_ref()
            && keys::is_table_name(&full)
        {
            return self.named_table(at, key.get_ref(), table);
        }
        match keys::lookup(section, key.get_ref()) {
            Lookup::Known(known) => {
                let value = match content.get_ref() {
                    DeValue::Array(items) if known == name::PATH_RULES => self.tables(items),
                    content => value(content),
                };
                let setting = self.setting(at, value);
                self.layer.insert(known, setting);
            }
            Lookup::Unknown(hint) => {
                // A table may be a misspelled `env` that contains passwords.
                let value = (!content.get_ref().is_table()).then(|| value(content.get_ref()).to_string());
                self.error(at, full, value, "is not a key", hint);
            }
        }
    }

    /// Reads `[errors]`, whose keys are statuses, as one value that contains the line number of
    /// each key.
    fn error_pages(&mut self, at: usize, table: &DeTable<'_>) {
        let keys = table.iter().map(|(key, content)| {
            let setting = self.setting(key.span().start, value(content.get_ref()));
            (key.get_ref().to_string(), setting)
        });
        let entry = TableEntry { origin: self.origin(at), keys: keys.collect() };
        let setting = self.setting(at, Value::Tables(vec![entry]));
        self.layer.insert(name::ERROR_PAGES, setting);
    }

    /// Converts an array of tables, keeping the line of each key; any other array becomes a plain
    /// list.
    fn tables(&self, items: &DeArray<'_>) -> Value {
        let entries: Option<Vec<TableEntry>> = items
            .iter()
            .map(|item| {
                let DeValue::Table(table) = item.get_ref() else { return None };
                Some(self.entry(item.span().start, table))
            })
            .collect();
        match entries {
            Some(entries) if !entries.is_empty() => Value::Tables(entries),
            _ => Value::List(items.iter().map(|item| value(item.get_ref())).collect()),
        }
    }

    /// Adds a table `[listen.NAME]`.
    fn named_table(&mut self, at: usize, name: &str, table: &DeTable<'_>) {
        let entry = self.entry(at, table);
        let setting = self.setting(at, Value::Named(Vec::new()));
        let setting = self.layer.entry(name::LISTENERS).or_insert(setting);
        if let Value::Named(entries) = &mut setting.value {
            entries.push((name.to_owned(), entry));
        }
    }

    /// Converts a table, keeping the line of each key.
    fn entry(&self, at: usize, table: &DeTable<'_>) -> TableEntry {
        let keys = table.iter().map(|(key, content)| {
            let setting = self.setting(key.span().start, value(content.get_ref()));
            (key.get_ref().to_string(), setting)
        });
        TableEntry { origin: self.origin(at), keys: keys.collect() }
    }

    fn setting(&self, at: usize, value: Value) -> Setting {
        Setting { value, origin: self.origin(at), source: Source::File }
    }

    fn planned(&mut self, at: usize, key: String) {
        let hint = Some("remove it: it would have no effect".to_owned());
        self.error(at, key, None, "is not in this version of rgun yet", hint);
    }

    fn error(&mut self, at: usize, key: String, value: Option<String>, reason: &str, hint: Option<String>) {
        let error = ConfigError { origin: self.origin(at), key, value, reason: reason.to_owned(), hint };
        self.errors.push((at, error));
    }

    fn origin(&self, at: usize) -> String {
        format!("{}:{}", self.path.display(), line_of(self.text, at))
    }
}

fn broken(origin: String, reason: &str, hint: Option<&str>) -> ConfigError {
    ConfigError {
        origin,
        key: String::new(),
        value: None,
        reason: reason.to_owned(),
        hint: hint.map(str::to_owned),
    }
}

/// The hint for the most common mistake: `request = 30s` instead of `request = "30s"`.
fn quoting_hint(text: &str, line: usize) -> Option<&'static str> {
    let value = text.lines().nth(line.checked_sub(1)?)?.split_once('=')?.1.trim();
    let plain = !value.is_empty() && !value.contains(['"', '\'', '[', '{', '#']);
    plain.then_some("put quotes around a value that is not a number, true or false")
}

/// The line, from 1, of the byte at `offset`.
fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

fn value(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::text(text.as_ref()),
        DeValue::Integer(n) => i128::from_str_radix(n.as_str(), n.radix())
            .map_or_else(|_| Value::Other { kind: HUGE_NUMBER, text: n.to_string() }, Value::Integer),
        DeValue::Boolean(yes) => Value::Boolean(*yes),
        DeValue::Float(n) => Value::Other { kind: "a fraction", text: n.to_string() },
        DeValue::Datetime(date) => Value::Other { kind: "a date or time", text: date.to_string() },
        DeValue::Array(items) => Value::List(items.iter().map(|item| self::value(item.get_ref())).collect()),
        DeValue::Table(entries) => Value::Table(
            entries
                .iter()
                .map(|(name, content)| (name.get_ref().to_string(), self::value(content.get_ref())))
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::name;

    fn parsed(text: &str) -> (Option<Layer>, String) {
        let mut errors = Vec::new();
        let layer = parse(Path::new("/etc/rgun/rgun.toml"), text, &mut errors);
        (layer, crate::config::ConfigErrors(errors).to_string())
    }

    #[test]
    fn values_keep_their_type_and_their_line() {
        let (layer, errors) = parsed(
            "# comment\n[app]\ntarget = \"a\"\nenv = { B = \"2\", A = \"1\" }\n\n[workers]\ncount = 1_000\n\
             [log]\naccess = true\n[listen]\nbind = [\n  \":80\",\n]\n",
        );
        assert_eq!(errors, "");
        let layer = layer.unwrap();
        assert_eq!(layer[name::TARGET].value, Value::text("a"));
        assert_eq!(layer[name::TARGET].origin, "/etc/rgun/rgun.toml:3");
        assert_eq!(layer[name::COUNT].value, Value::Integer(1000));
        assert_eq!(layer[name::COUNT].origin, "/etc/rgun/rgun.toml:7");
        assert_eq!(layer[name::ACCESS].value, Value::Boolean(true));
        assert_eq!(layer[name::BIND].value, Value::list([":80"]));
        assert_eq!(layer[name::ENV].value.to_string(), "{ A = \"1\", B = \"2\" }");
    }

    #[test]
    fn unknown_names_are_reported_with_line_and_hint() {
        let (_, errors) = parsed(
            "target = \"a\"\n[app]\ntagret = \"b\"\n[workers]\nthreads = 2\npreloda = true\n[worker]\ncount = 2\n[admin]\n",
        );
        assert_eq!(
            errors,
            "/etc/rgun/rgun.toml:1: target = \"a\": is outside of any section\n    hint: \"target\" is a key of [app]\n\
             /etc/rgun/rgun.toml:3: app.tagret = \"b\": is not a key\n    hint: did you mean \"target\"?\n\
             /etc/rgun/rgun.toml:6: workers.preloda = true: is not a key\n    hint: did you mean \"preload\"?\n\
             /etc/rgun/rgun.toml:7: [worker]: is not a section\n    hint: did you mean [workers]?\n\
             /etc/rgun/rgun.toml:9: [admin]: is not in this version of rgun yet\n    hint: remove it: it would have no effect"
        );
    }

    #[test]
    fn array_of_tables_keeps_the_line_of_each_key() {
        let (layer, errors) = parsed(
            "[timeouts]\nrequest = \"30s\"\n\n[[timeouts.path]]\nmatch = \"/a\"\n\nconcurrency = 2\n\n\
             [[timeouts.path]]\nmatch = \"/b\"\n[limits]\nqueue = 5\n",
        );
        assert_eq!(errors, "");
        let layer = layer.unwrap();
        assert_eq!(layer[name::QUEUE].origin, "/etc/rgun/rgun.toml:12");
        let rules = &layer[name::PATH_RULES];
        assert_eq!(rules.value.to_string(), "[{ concurrency = 2, match = \"/a\" }, { match = \"/b\" }]");
        let Value::Tables(entries) = &rules.value else { panic!("{rules:?}") };
        let lines = |entry: &TableEntry| -> Vec<String> {
            let keys = entry.keys.iter().map(|(key, setting)| format!("{key} {}", setting.origin));
            std::iter::once(entry.origin.clone()).chain(keys).collect()
        };
        assert_eq!(
            entries.iter().flat_map(lines).collect::<Vec<_>>(),
            [
                "/etc/rgun/rgun.toml:4",
                "concurrency /etc/rgun/rgun.toml:7",
                "match /etc/rgun/rgun.toml:5",
                "/etc/rgun/rgun.toml:9",
                "match /etc/rgun/rgun.toml:10",
            ]
        );
    }

    #[test]
    fn values_of_a_misspelled_env_are_not_logged() {
        let (_, errors) = parsed("[app]\nenvv = { PASSWORD = \"secret\" }\n");
        assert!(errors.contains("did you mean \"env\"?") && !errors.contains("secret"), "{errors}");
    }

    #[test]
    fn planned_sections_are_refused_as_not_in_this_version() {
        let (_, errors) = parsed("[admin]\nx = 1\n");
        assert!(errors.contains("not in this version"), "{errors}");
    }

    #[test]
    fn all_toml_syntax_errors_are_reported_with_lines() {
        let (layer, errors) = parsed("[timeouts]\nrequest = 30s\n[app\ntarget = \"x\"\n");
        assert_eq!(layer, None);
        assert!(errors.contains("/etc/rgun/rgun.toml:2: is not TOML: "), "{errors}");
        assert!(errors.contains("put quotes"), "{errors}");
        assert!(errors.contains("/etc/rgun/rgun.toml:3: is not TOML: "), "{errors}");
    }

    #[test]
    fn duplicate_key_is_an_error() {
        let (layer, errors) = parsed("[workers]\ncount = 1\ncount = 2\n");
        assert_eq!(layer, None);
        assert!(errors.contains("rgun.toml:3: is not TOML: duplicate key count"), "{errors}");
        let (_, errors) = parsed("[app]\ntarget = \"a\"\n[workers]\n[app]\ndirectory = \"/a\"\n");
        assert!(errors.contains("rgun.toml:4: is not TOML: duplicate key app\n"), "{errors}");
        assert!(errors.contains("hint: the file has it above already"), "{errors}");
    }

    #[test]
    fn truncated_file_does_not_panic() {
        let sample = include_str!("../../../packaging/etc/rgun.toml").to_owned()
            + "[[timeouts.path]]\nmatch = [{ a = 1 }]\n[timeouts.path]\n";
        for end in (0..sample.len()).filter(|end| sample.is_char_boundary(*end)) {
            parsed(&sample[..end]);
        }
        for text in [
            "\u{feff}[app]\n",
            "[app]\nx = 99999999999999999999999999999999999999999\n",
            "a.b.c = 1979-05-27\n",
        ] {
            parsed(text);
        }
    }

    #[test]
    fn unreadable_file_is_reported_with_the_reason() {
        let place = crate::config::testing::TestDir::new();
        for (path, reason) in [
            (place.join("missing.toml"), "cannot be read: No such file"),
            (place.path().to_owned(), "cannot be read: Is a directory"),
            (place.file("latin1.toml", b"# caf\xe9\n", 0o644), "is not UTF-8"),
        ] {
            let mut errors = Vec::new();
            assert_eq!(read(&path, &mut errors), None);
            let [error] = errors.as_slice() else { panic!("{errors:?}") };
            assert_eq!(error.origin, path.display().to_string());
            assert!(error.reason.contains(reason), "{error}");
        }
    }
}
