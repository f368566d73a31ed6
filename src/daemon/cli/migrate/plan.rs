//! The result of a migration: settings of `rgun.toml`, lines of drop-ins, and notes for the
//! operator.

use std::collections::BTreeSet;

use super::server::ReplacedServer;
pub(super) use crate::cli::compat::peers::DropIn;
use crate::config::{Layer, Setting, Value, name};

/// The result of migrating some files.
#[derive(Debug, Default)]
pub(in crate::cli) struct Plan {
    /// The keys of `rgun.toml`.
    pub(in crate::cli) settings: Layer,
    /// Directives in the order of the input: drop-in, name, value.
    pub(in crate::cli) directives: Vec<(DropIn, String, String)>,
    /// Elements of `[[static]]`: URL prefix and directory.
    pub(super) mounts: Vec<(String, String)>,
    /// The servers that the migrated commands start.
    pub(super) servers: Vec<ReplacedServer>,
    /// Configuration files that commands name, each with the command's place.
    pub(super) configurations: Vec<(String, String)>,
    /// Notes about a changed meaning, each with its place.
    pub(in crate::cli) changed: Vec<String>,
    /// Notes about omissions, each with its place and the reason.
    pub(in crate::cli) left_out: Vec<String>,
}

impl Plan {
    /// Sets a key. `origin` is where the value was written.
    pub(in crate::cli) fn set(&mut self, key: &'static str, value: Value, origin: &str) {
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
    pub(in crate::cli) fn directive(&mut self, part: DropIn, name: &str, value: &str) {
        let line = (part, name.to_owned(), value.to_owned());
        if !self.directives.contains(&line) {
            self.directives.push(line);
        }
    }

    /// Adds an address to listen on, in the spelling of `--bind`. Relative paths are below
    /// `directory`.
    pub(in crate::cli) fn listen(&mut self, address: &str, directory: Option<&str>, origin: &str) {
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

    /// Keeps the mode that the unix sockets had, in place of `SocketMode=0660` of `rgun.socket`:
    /// systemd, gunicorn and uvicorn let every user connect, unless a umask forbids that.
    pub(super) fn set_socket_mode(&mut self) {
        let find = |plan: &Self, part: DropIn, name: &str| {
            let directive = plan.directives.iter().find(|(of, key, _)| *of == part && key == name);
            directive.map(|(_, _, value)| value.clone())
        };
        let is_unix = |(part, name, value): &(DropIn, String, String)| {
            *part == DropIn::Socket && name == "ListenStream" && value.starts_with('/')
        };
        if !self.directives.iter().any(is_unix) || find(self, DropIn::Socket, "SocketMode").is_some() {
            return;
        }
        let umask = find(self, DropIn::Service, "UMask");
        let umask = umask.and_then(|umask| u32::from_str_radix(&umask, 8).ok()).unwrap_or_default();
        let mode = 0o666 & !umask;
        self.directive(DropIn::Socket, "SocketMode", &format!("{mode:04o}"));
        if mode & 0o006 == 0 {
            // By default, systemd makes root the owner of the sockets.
            for (socket, service) in [("SocketUser", "User"), ("SocketGroup", "SupplementaryGroups")] {
                let owner = find(self, DropIn::Service, service);
                if let Some(owner) = owner.filter(|_| find(self, DropIn::Socket, socket).is_none()) {
                    self.directive(DropIn::Socket, socket, &owner);
                }
            }
        }
    }

    /// Keeps the service's runtime directory when the service stops, if a socket of `rgun.socket`
    /// is in it: systemd would remove the directory with the socket, and no client could connect
    /// after a restart.
    pub(super) fn preserve_runtime_directory(&mut self) {
        let values = |part: DropIn, key: &'static str| {
            let wanted = self.directives.iter().filter(move |(of, name, _)| *of == part && name == key);
            wanted.flat_map(|(.., value)| value.split_whitespace())
        };
        let is_inside = |directory: &str| {
            let prefix = format!("/run/{directory}/");
            values(DropIn::Socket, "ListenStream").any(|path| path.starts_with(&prefix))
        };
        if values(DropIn::Service, "RuntimeDirectory").any(is_inside) {
            self.directive(DropIn::Service, "RuntimeDirectoryPreserve", "yes");
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

    /// Returns the application's directory, if it is set.
    pub(in crate::cli) fn directory(&self) -> Option<String> {
        match &self.settings.get(name::DIRECTORY)?.value {
            Value::Text(text) => Some(text.trim_end_matches('/').to_owned()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The directives of `rgun.socket` for a unix socket and these directives of the service.
    fn socket_directives(service: &[(&str, &str)], socket: &[(&str, &str)]) -> Vec<String> {
        let mut plan = Plan::default();
        for (part, directives) in [(DropIn::Service, service), (DropIn::Socket, socket)] {
            for (name, value) in directives {
                plan.directive(part, name, value);
            }
        }
        plan.set_socket_mode();
        let of_socket = plan.directives.iter().filter(|(part, ..)| *part == DropIn::Socket);
        of_socket.map(|(_, name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn runtime_directory_with_a_socket_is_preserved() {
        for (path, is_preserved) in [("/run/shop/a.sock", true), ("/run/shop.sock", false)] {
            let mut plan = Plan::default();
            plan.directive(DropIn::Service, "RuntimeDirectory", "other shop");
            plan.directive(DropIn::Socket, "ListenStream", path);
            plan.preserve_runtime_directory();
            let has_line = plan.directives.iter().any(|(_, name, _)| name == "RuntimeDirectoryPreserve");
            assert_eq!(has_line, is_preserved, "{path}");
        }
    }

    #[test]
    fn unix_sockets_keep_the_mode_of_the_old_server() {
        let listen = ("ListenStream", "/run/a.sock");
        let owner = [("User", "ada"), ("SupplementaryGroups", "www-data"), ("UMask", "0007")];
        let line = "ListenStream=/run/a.sock";
        assert_eq!(socket_directives(&owner[..2], &[listen]), [line, "SocketMode=0666"]);
        let restricted = [line, "SocketMode=0660", "SocketUser=ada", "SocketGroup=www-data"];
        assert_eq!(socket_directives(&owner, &[listen]), restricted);
        assert_eq!(socket_directives(&owner, &[listen, ("SocketMode", "0600")]), [line, "SocketMode=0600"]);
        assert_eq!(
            socket_directives(&owner, &[("ListenStream", "127.0.0.1:80")]),
            ["ListenStream=127.0.0.1:80"]
        );
    }
}
