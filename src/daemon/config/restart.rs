//! The keys that the daemon reads only at its start, because the sockets and the streams of the log
//! exist from then on. A reload accepts a change of such a key, and warns that only a restart applies
//! the change.

use super::keys::name;
use super::{AccessLog, Bind, Config, LogFormat};

/// The values of a key, as an operator writes them. [`name::LISTENERS`] has one for each table, with
/// the table's name; every other key has one without a table.
type Values<'a> = Vec<(Option<&'a str>, String)>;

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
            one(list(addresses.filter(|(table, _)| table.is_none()).map(|(_, bind)| bind)))
        },
    },
    RestartKey {
        key: name::LISTENERS,
        values: |config| {
            let tables = config.listen.named.iter();
            tables.map(|table| (Some(table.name.as_str()), list(&table.bind))).collect()
        },
    },
    RestartKey { key: name::METRICS_BIND, values: |config| one(list(&config.listen.metrics)) },
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
    pub old: String,
    /// The value that a restart would apply.
    pub new: String,
}

impl PendingChange {
    /// Returns whether a reload applies the change: that of `log.access` between true and false.
    fn is_applied(&self) -> bool {
        self.key == name::ACCESS && self.old != STDOUT && self.new != STDOUT
    }

    /// Returns whether the key is an address in `[listen]` or `[listen.NAME]`, which has no effect if
    /// systemd passes the sockets.
    pub fn is_address(&self) -> bool {
        self.key.starts_with("listen.")
    }
}

/// Returns the settings of `now` that differ from those of `start`, and that only a restart applies.
pub fn pending_changes(start: &Config, now: &Config) -> Vec<PendingChange> {
    let none = || "none".to_owned();
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
                let new = at.map_or_else(none, |at| new.remove(at).1);
                changes.push(PendingChange { key: key(table), old, new });
            }
            let added = new.into_iter();
            changes.extend(added.map(|(table, new)| PendingChange { key: key(table), old: none(), new }));
            changes
        })
        .filter(|change| change.old != change.new && !change.is_applied())
        .collect()
}

fn one(value: String) -> Values<'static> {
    vec![(None, value)]
}

/// Formats addresses as an operator writes them.
fn list<'a>(addresses: impl IntoIterator<Item = &'a Bind>) -> String {
    let addresses: Vec<_> = addresses.into_iter().map(|bind| format!("\"{bind}\"")).collect();
    match addresses.as_slice() {
        [] => "none".to_owned(),
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}
