//! The result of a migration: settings of `rgun.toml`, lines of drop-ins, and notes for the operator.

use std::collections::BTreeSet;

use super::ReplacedServer;
pub(super) use crate::cli::compat::peers::DropIn;
use crate::config::{Layer, Setting, Value, name};

/// The result of migrating some files.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// The keys of `rgun.toml`.
    pub(super) settings: Layer,
    /// Directives in the order of the input: drop-in, name, value.
    pub(super) directives: Vec<(DropIn, String, String)>,
    /// Elements of `[[static]]`: URL prefix and directory.
    pub(super) mounts: Vec<(String, String)>,
    /// The servers that the migrated commands start.
    pub(super) servers: Vec<ReplacedServer>,
    /// Configuration files that commands name, each with the command's place.
    pub(super) configurations: Vec<(String, String)>,
    /// Notes about a changed meaning, each with its place.
    pub(super) changed: Vec<String>,
    /// Notes about omissions, each with its place and the reason.
    pub(super) left_out: Vec<String>,
}

impl Plan {
    /// Sets a key. `origin` is where the value was written.
    pub(super) fn set(&mut self, key: &'static str, value: Value, origin: &str) {
        let new = Setting::flag(origin, value);
        if let Some(old) = self.settings.get(key).filter(|old| old.value != new.value) {
            self.changed
                .push(format!("{origin}: {key} = {} replaces {} of {}", new.value, old.value, old.origin));
        }
        self.settings.insert(key, new);
    }

    /// Sets a key, unless it is set.
    pub(super) fn set_default(&mut self, key: &'static str, value: Value, reason: &str) {
        if !self.settings.contains_key(key) {
            self.changed.push(format!("{key} = {value}: {reason}"));
            self.settings.insert(key, Setting::flag("", value));
        }
    }

    /// Adds a line to a drop-in, once.
    pub(super) fn directive(&mut self, part: DropIn, name: &str, value: &str) {
        let line = (part, name.to_owned(), value.to_owned());
        if !self.directives.contains(&line) {
            self.directives.push(line);
        }
    }

    /// Adds an address to listen on, in the spelling of `--bind`. Relative paths are below `directory`.
    pub(super) fn listen(&mut self, address: &str, directory: Option<&str>, origin: &str) {
        if let Some(path) =
            address.strip_prefix("unix:").or_else(|| address.starts_with('/').then_some(address))
        {
            let is_full = path.starts_with('/');
            let path = path.trim_start_matches('/');
            return match (is_full, directory) {
                (true, _) => self.directive(DropIn::Socket, "ListenStream", &format!("/{path}")),
                (false, Some(directory)) => {
                    self.directive(DropIn::Socket, "ListenStream", &format!("{directory}/{path}"));
                }
                (false, None) => {
                    self.left_out(origin, &format!("listen at {address}: a socket unit needs a full path; write ListenStream=/full/path"));
                }
            };
        }
        if address.starts_with("fd://") {
            return self.left_out(
                origin,
                &format!("listen at {address}: rgun.socket opens the socket; write its ListenStream="),
            );
        }
        let (host, port) = match address.rsplit_once(':') {
            Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
                (host, port)
            }
            _ => (address, "8000"),
        };
        let host = match host {
            "" | "*" | "0" => "0.0.0.0",
            "localhost" => "127.0.0.1",
            host => host,
        };
        if host.parse::<std::net::Ipv4Addr>().is_ok() || host.starts_with('[') && host.ends_with(']') {
            self.directive(DropIn::Socket, "ListenStream", &format!("{host}:{port}"));
        } else {
            self.left_out(
                origin,
                &format!(
                    "listen at {address}: a socket unit needs an address, not a name; write ListenStream="
                ),
            );
        }
    }

    /// Adds a note about something that is not in the result, with the reason.
    pub(super) fn left_out(&mut self, origin: &str, text: &str) {
        self.left_out.push(format!("{origin}: {text}"));
    }

    /// Removes duplicate notes.
    pub(super) fn deduplicate(&mut self) {
        for notes in [&mut self.changed, &mut self.left_out] {
            let mut seen = BTreeSet::new();
            notes.retain(|note| seen.insert(note.clone()));
        }
    }

    /// The application's directory.
    pub(super) fn directory(&self) -> Option<String> {
        match &self.settings.get(name::DIRECTORY)?.value {
            Value::Text(text) => Some(text.trim_end_matches('/').to_owned()),
            _ => None,
        }
    }
}
