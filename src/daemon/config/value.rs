//! Settings before they are checked: a value and its origin.
//!
//! File, environment and command line each become a [`Layer`], so that `check` reads them and
//! reports their errors alike.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;

/// The settings of one source, by full key name (`timeouts.request`).
pub(crate) type Layer = BTreeMap<&'static str, Setting>;

/// A value and its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// The value, as written.
    pub(crate) value: Value,
    /// File and line, flag, or variable, for messages.
    pub(crate) origin: String,
    /// The kind of source; relative paths are allowed only on the command line.
    pub(crate) source: Source,
}

/// The kinds of source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The TOML file.
    File,
    /// An environment variable.
    Environment,
    /// A command-line flag.
    CommandLine,
    /// A default that a flag implies for another key. Any other source overrides it.
    Implied,
}

/// Adds settings that take precedence over those of `layer`. An implied default replaces no
/// setting.
pub(crate) fn overlay(layer: &mut Layer, overriding: Layer) {
    for (key, setting) in overriding {
        if setting.source != Source::Implied || !layer.contains_key(key) {
            layer.insert(key, setting);
        }
    }
}

impl Setting {
    /// True for an empty string, which means an empty list in variables and flags.
    pub(super) fn is_empty_text(&self) -> bool {
        self.value == Value::text("")
    }

    /// A setting from a flag.
    pub(crate) fn flag(origin: &str, value: Value) -> Self {
        Self { value, origin: origin.to_owned(), source: Source::CommandLine }
    }

    /// A default that a flag implies.
    pub(crate) fn implied(origin: &str, value: Value) -> Self {
        Self { source: Source::Implied, ..Self::flag(origin, value) }
    }

    /// A setting from a variable.
    pub(crate) fn variable(origin: &str, value: String) -> Self {
        Self { value: Value::Text(value), origin: origin.to_owned(), source: Source::Environment }
    }
}

/// A value of a TOML type that a key may have; the environment and the command line only have text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// A string in UTF-8.
    Text(String),
    /// A string from the command line or a variable that is not UTF-8, for paths.
    Bytes(OsString),
    /// A whole number.
    Integer(i128),
    /// `true` or `false`.
    Boolean(bool),
    /// An array.
    List(Vec<Value>),
    /// A table, sorted by name.
    Table(Vec<(String, Value)>),
    /// An array of tables (`[[timeouts.path]]`), with the origin of each key.
    Tables(Vec<TableEntry>),
    /// The tables of a section by name (`[listen.https]`), in the order of the file.
    Named(Vec<(String, TableEntry)>),
    /// A value of a type that no key accepts: a float, a date, or a number of more than 128 bits.
    Other {
        /// The type's name, with its article.
        kind: &'static str,
        /// The value, as written.
        text: String,
    },
}

/// The kind of a [`Value::Other`] that is a whole number of more than 128 bits.
pub(super) const HUGE_NUMBER: &str = "a number of more than 128 bits";

/// A table whose keys have origins: one of an array of tables, or a table with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableEntry {
    /// File and line of its start.
    pub(crate) origin: String,
    /// The table's keys, sorted by name.
    pub(crate) keys: Vec<(String, Setting)>,
}

impl Value {
    /// Makes a text value.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// Text, or bytes if `text` is not UTF-8.
    pub(crate) fn os(text: &OsStr) -> Self {
        text.to_str().map_or_else(|| Self::Bytes(text.to_owned()), Self::text)
    }

    /// A list of text.
    pub(crate) fn list<T: Into<String>>(items: impl IntoIterator<Item = T>) -> Self {
        Self::List(items.into_iter().map(Self::text).collect())
    }

    /// The type's name with its article, for "must be …, not …".
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Bytes(_) => "a string that is not UTF-8",
            Self::Integer(_) => "a number",
            Self::Boolean(_) => "a boolean",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Tables(_) => "a list of tables",
            Self::Named(_) => "tables",
            Self::Other { kind, .. } => kind,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(formatter, "{text:?}"),
            Self::Bytes(bytes) => write!(formatter, "\"{}\"", bytes.as_encoded_bytes().escape_ascii()),
            Self::Integer(n) => n.fmt(formatter),
            Self::Boolean(yes) => yes.fmt(formatter),
            Self::List(items) => {
                formatter.write_str("[")?;
                for (idx, item) in items.iter().enumerate() {
                    write!(formatter, "{}{item}", if idx > 0 { ", " } else { "" })?;
                }
                formatter.write_str("]")
            }
            Self::Table(entries) => table(formatter, entries.iter().map(|(name, value)| (name, value))),
            Self::Tables(entries) => {
                formatter.write_str("[")?;
                for (idx, entry) in entries.iter().enumerate() {
                    formatter.write_str(if idx > 0 { ", " } else { "" })?;
                    table(formatter, entry.keys.iter().map(|(name, setting)| (name, &setting.value)))?;
                }
                formatter.write_str("]")
            }
            Self::Named(entries) => {
                let names: Vec<_> = entries.iter().map(|(name, _)| format!("[{name}]")).collect();
                formatter.write_str(&names.join(" "))
            }
            Self::Other { text, .. } => formatter.write_str(text),
        }
    }
}

fn table<'a>(
    formatter: &mut fmt::Formatter<'_>,
    entries: impl Iterator<Item = (&'a String, &'a Value)>,
) -> fmt::Result {
    formatter.write_str("{")?;
    for (idx, (name, value)) in entries.enumerate() {
        write!(formatter, "{} {name} = {value}", if idx > 0 { "," } else { "" })?;
    }
    formatter.write_str(" }")
}
