//! Settings before they are checked: a value, and where it stood.
//!
//! File, environment and command line are all reduced to a [`Layer`], so that `check` has one way to read and
//! one way to complain.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;

/// The settings of one source, by full key name (`timeouts.request`).
pub(crate) type Layer = BTreeMap<&'static str, Setting>;

/// A value and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// As written.
    pub(crate) value: Value,
    /// For messages: file and line, flag, or variable.
    pub(crate) origin: String,
    /// Which kind of source; relative paths mean something on the command line only.
    pub(crate) source: Source,
}

/// The kinds of source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The TOML file.
    File,
    /// A variable.
    Environment,
    /// A flag.
    CommandLine,
}

impl Setting {
    /// A flag's value.
    pub(crate) fn flag(origin: &str, value: Value) -> Self {
        Self { value, origin: origin.to_owned(), source: Source::CommandLine }
    }

    /// A variable's value.
    pub(crate) fn variable(origin: &str, value: String) -> Self {
        Self { value: Value::Text(value), origin: origin.to_owned(), source: Source::Environment }
    }
}

/// TOML's types, as far as a key may have them; the environment and the command line only have text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// A string.
    Text(String),
    /// A string of the command line or of a variable that is not UTF-8, which a path may be.
    Bytes(OsString),
    /// A whole number.
    Integer(i128),
    /// `true` or `false`.
    Boolean(bool),
    /// An array.
    List(Vec<Value>),
    /// A table, in order of name.
    Table(Vec<(String, Value)>),
    /// An array of tables, as `[[timeouts.path]]` writes one: whose keys have a place each.
    Tables(Vec<TableEntry>),
    /// Something no key takes: a float, a date, a number beyond reason.
    Other {
        /// Its type's name.
        kind: &'static str,
        /// As written.
        text: String,
    },
}

/// One table of an array of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableEntry {
    /// Where it begins.
    pub(crate) origin: String,
    /// Its keys, in order of name.
    pub(crate) keys: Vec<(String, Setting)>,
}

impl Value {
    /// Text, from the command line.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// Text, or what the system has in its place.
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
