//! The keys that the daemon reads only at its start, because the sockets and the streams of the log
//! exist from then on. A reload accepts a change of such a key, and warns that only a restart applies
//! the change.

use std::fmt;

use super::keys::name;
use super::{AccessLog, Bind, Config, LogFormat};

/// The values of a key. [`name::LISTENERS`] has one for each table with addresses, with the table's
/// name; every other key has at most one, without a table.
type Values<'a> = Vec<(Option<&'a str>, SettingText)>;

/// The value of a key that only a restart applies, as an operator writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingText {
    /// The value of a key that is set, or whose default is a plain value.
    Set(String),
    /// An address that rgun uses although the key is not set.
    Default(String),
    /// The key is not set, and nothing replaces it.
    Unset,
}

impl SettingText {
    /// Returns whether both mean the same for the daemon.
    fn is_equivalent(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unset, Self::Unset) => true,
            (Self::Set(own) | Self::Default(own), Self::Set(other) | Self::Default(other)) => own == other,
            _ => false,
        }
    }
}

/// A key that only a restart applies.
struct RestartKey {
    /// The name in [`KEYS`](super::keys::KEYS).
    key: &'static str,
    /// Returns the values in a configuration.
    values: fn(&Config) -> Values<'_>,
}

/// All keys that only a restart applies. A test compares them with the manual.
const RESTART_KEYS: &[RestartKey] = &[
    RestartKey {
        key: name::BIND,
        values: |config| {
            let addresses = config.listen.addresses().into_iter();
            let text = list(addresses.filter(|(table, _)| table.is_none()).map(|(_, bind)| bind));
            let value =
                text.map(if config.listen.explicit { SettingText::Set } else { SettingText::Default });
            value.into_iter().map(|value| (None, value)).collect()
        },
    },
    RestartKey {
        key: name::LISTENERS,
        values: |config| {
            let tables = config.listen.named.iter();
            let values = tables.filter_map(|table| Some((table.name.as_str(), list(&table.bind)?)));
            values.map(|(table, text)| (Some(table), SettingText::Set(text))).collect()
        },
    },
    RestartKey {
        key: name::METRICS_BIND,
        values: |config| one(list(&config.listen.metrics).unwrap_or_else(|| "\"off\"".to_owned())),
    },
    RestartKey {
        key: name::CONTROL_GROUP,
        values: |config| {
            let group = config.control.group.as_deref().unwrap_or("off");
            one(format!("{group:?}"))
        },
    },
    RestartKey {
        key: name::LOG_FORMAT,
        values: |config| {
            let format = match config.log.format {
                LogFormat::Auto => "auto",
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            };
            one(format!("{format:?}"))
        },
    },
    RestartKey {
        key: name::ACCESS,
        values: |config| {
            let access = match config.log.access {
                AccessLog::Off => "false",
                AccessLog::Log => "true",
                AccessLog::Stdout => STDOUT,
            };
            one(access.to_owned())
        },
    },
];

/// `log.access = "stdout"`.
const STDOUT: &str = "\"stdout\"";

/// Returns the names of the keys that only a restart applies.
#[cfg(test)]
pub(super) fn restart_keys() -> impl Iterator<Item = &'static str> {
    RESTART_KEYS.iter().map(|row| row.key)
}

/// A setting that differs from its value at the start, and that only a restart applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingChange {
    /// The key; for a table of `[listen.NAME]`, with the table's name.
    pub key: String,
    /// The value that the daemon was started with.
    pub old: SettingText,
    /// The value that a restart would apply.
    pub new: SettingText,
}

impl PendingChange {
    /// Returns whether a reload applies the change: that of `log.access` between true and false.
    fn is_applied(&self) -> bool {
        let is_stdout = |value: &SettingText| *value == SettingText::Set(STDOUT.to_owned());
        self.key == name::ACCESS && !is_stdout(&self.old) && !is_stdout(&self.new)
    }

    /// Returns whether the key is `metrics.bind`, which has no effect if systemd passes the sockets.
    pub fn is_metrics_address(&self) -> bool {
        self.key == name::METRICS_BIND
    }

    /// Returns whether the key is an address in `[listen]` or `[listen.NAME]`, which has no effect if
    /// systemd passes the sockets.
    pub fn is_address(&self) -> bool {
        self.key.starts_with("listen.")
    }
}

impl fmt::Display for PendingChange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, old, new } = self;
        match new {
            SettingText::Set(new) => write!(formatter, "{key} = {new}")?,
            SettingText::Default(new) => write!(formatter, "{new}, the default of {key}")?,
            SettingText::Unset => match old {
                SettingText::Default(old) => return write!(formatter, "the removal of the default {old}"),
                _ => write!(formatter, "the removal of {key}")?,
            },
        }
        match old {
            SettingText::Set(old) => write!(formatter, " (in use: {old})"),
            SettingText::Default(old) => write!(formatter, " (in use: the default, {old})"),
            SettingText::Unset => Ok(()),
        }
    }
}

/// Returns the settings of `now` that differ from those of `start`, and that only a restart applies.
pub fn pending_changes(start: &Config, now: &Config) -> Vec<PendingChange> {
    RESTART_KEYS
        .iter()
        .flat_map(|row| {
            let (old, mut new) = ((row.values)(start), (row.values)(now));
            let mut changes = Vec::new();
            let key = |table: Option<&str>| {
                table.map_or_else(|| row.key.to_owned(), |table| format!("listen.{table}.bind"))
            };
            for (table, old) in old {
                let at = new.iter().position(|(other, _)| *other == table);
                let new = at.map_or(SettingText::Unset, |at| new.remove(at).1);
                changes.push(PendingChange { key: key(table), old, new });
            }
            let added = new.into_iter();
            changes.extend(added.map(|(table, new)| {
                let old = SettingText::Unset;
                PendingChange { key: key(table), old, new }
            }));
            changes
        })
        .filter(|change| !change.old.is_equivalent(&change.new) && !change.is_applied())
        .collect()
}

fn one(value: String) -> Values<'static> {
    vec![(None, SettingText::Set(value))]
}

/// Formats addresses as an operator writes them. `None` if there are none.
fn list<'a>(addresses: impl IntoIterator<Item = &'a Bind>) -> Option<String> {
    let addresses: Vec<_> = addresses.into_iter().map(|bind| format!("\"{bind}\"")).collect();
    match addresses.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        several => Some(format!("[{}]", several.join(", "))),
    }
}
