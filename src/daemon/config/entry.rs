//! Reads the keys of one table: an element of `[[timeouts.path]]` or `[[static]]`, or
//! `[listen.NAME]`.
//!
//! As in a section, each key has its line, unknown keys are refused, and an error in one table does
//! not hide errors in the next.

use super::keys::nearest;
use super::value::{Setting, TableEntry};
use super::{ConfigError, Value, ValueError};

/// A table that is being read.
pub(super) struct EntryReader<'a, 'f> {
    /// The table whose keys are read.
    pub(super) entry: &'a TableEntry,
    /// The table's name in messages: `timeouts.path[0]`.
    pub(super) label: String,
    /// Receives the errors.
    pub(super) errors: &'f mut Vec<ConfigError>,
}

/// Returns the entries of an array of tables.
pub(super) fn entries<'a>(setting: &'a Setting, hint: &str) -> Result<&'a [TableEntry], ValueError> {
    match &setting.value {
        Value::Tables(entries) => Ok(entries),
        Value::List(items) if items.is_empty() => Ok(&[]),
        Value::List(items) => {
            let other =
                items.iter().find(|item| !matches!(item, Value::Table(_))).map_or("a table", Value::kind);
            Err(ValueError::new(format!("must be a list of tables, but has {other} in it")).with_hint(hint))
        }
        other => {
            Err(ValueError::new(format!("must be a list of tables, not {}", other.kind())).with_hint(hint))
        }
    }
}

impl<'a> EntryReader<'a, '_> {
    /// Reports every key that is not in `keys`. `syntax` is the table's header in the file:
    /// `[[timeouts.path]]`.
    pub(super) fn refuse_unknown(&mut self, syntax: &str, keys: &[&str]) {
        let entry = self.entry;
        for (key, setting) in entry.keys.iter().filter(|(key, _)| !keys.contains(&key.as_str())) {
            let hint = match nearest(key, keys.iter().copied()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("the keys of {syntax} are {}", keys.join(", ")),
            };
            self.fault(key, Some(setting), ValueError::new("is not a key").with_hint(hint));
        }
    }

    /// Returns a key's setting.
    pub(super) fn setting(&self, key: &str) -> Option<&'a Setting> {
        self.entry.keys.iter().find(|(name, _)| name == key).map(|(_, setting)| setting)
    }

    /// Reads a key; `None` if it is not set or has an error, which is reported.
    pub(super) fn key<T>(
        &mut self,
        key: &str,
        reader: impl FnOnce(&Setting) -> Result<T, ValueError>,
    ) -> Option<T> {
        let setting = self.setting(key)?;
        match reader(setting) {
            Ok(value) => Some(value),
            Err(error) => {
                self.fault(key, Some(setting), error);
                None
            }
        }
    }

    /// Reports an error of a key; of the table as a whole if `key` is empty. `setting` is `None` if
    /// the key is not set.
    pub(super) fn fault(&mut self, key: &str, setting: Option<&Setting>, error: ValueError) {
        let dot = if key.is_empty() { "" } else { "." };
        self.errors.push(ConfigError {
            origin: setting.map_or(&self.entry.origin, |setting| &setting.origin).clone(),
            key: format!("{}{dot}{key}", self.label),
            value: setting.map(|setting| setting.value.to_string()),
            reason: error.reason,
            hint: error.hint,
        });
    }
}
