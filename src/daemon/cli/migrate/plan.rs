//! The result of a migration: settings of `rgun.toml`, lines of drop-ins, and notes for the
//! operator.

use std::collections::BTreeSet;
use std::path::Path;

use super::env_file::{self, EnvFile};
use super::server::ReplacedServer;
use super::words::{Known, Scope};
pub(super) use crate::cli::compat::peers::DropIn;
use crate::config::{Environment, Layer, Setting, Value, name};

/// The part of a note about the group of the old service that names the group of `rgun.service`.
pub(in crate::cli) const PRIMARY_GROUP: &str =
    "the primary group stays rgun, which may read /etc/rgun/rgun.toml and owns new files";

/// The result of migrating some files.
#[derive(Debug, Default, Clone)]
pub(in crate::cli) struct Plan {
    /// The name of the service: that of its file, or of its part of a file.
    pub(super) name: String,
    /// Whether one of the files starts a server.
    pub(super) is_server: bool,
    /// Whether a socket unit of the old service was passed.
    pub(super) has_socket_unit: bool,
    /// The keys of `rgun.toml`.
    pub(in crate::cli) settings: Layer,
    /// The umask that the server applies to its unix sockets, if a flag sets it.
    pub(super) socket_umask: Option<u32>,
    /// Directives in the order of the input: drop-in, name, value.
    pub(in crate::cli) directives: Vec<(DropIn, String, String)>,
    /// Ports of a container that only this machine can connect to: the container's port, and the address
    /// on the host.
    pub(super) loopback_ports: Vec<(String, String)>,
    /// Elements of `[[static]]`: URL prefix and directory.
    pub(super) mounts: Vec<(String, String)>,
    /// The variables of the service.
    pub(super) environment: Vec<EnvVariable>,
    /// `PATH`, if it only adds directories to that of the system or of the image.
    pub(super) search_path: Option<String>,
    /// The files with variables that were passed to `rgun migrate`.
    pub(super) env_files: Vec<EnvFile>,
    /// The servers that the migrated commands start.
    pub(super) servers: Vec<ReplacedServer>,
    /// Configuration files that commands name, each with the command's place.
    pub(super) configurations: Vec<(String, String)>,
    /// Commands of units that start no server, each with its place.
    pub(super) programs: Vec<(String, String)>,
    /// Notes about a changed meaning, each with its place.
    pub(in crate::cli) changed: Vec<String>,
    /// Notes about omissions, each with its place and the reason.
    pub(in crate::cli) left_out: Vec<String>,
}

/// A variable of the service.
#[derive(Debug, Clone)]
pub(super) struct EnvVariable {
    pub(super) name: String,
    pub(super) value: String,
    /// Where the variable was set.
    pub(super) origin: String,
    pub(super) place: EnvPlace,
}

/// The place of a variable in the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EnvPlace {
    /// `Environment=` in the drop-in of the service.
    DropIn,
    /// As `DropIn`, but the value has specifiers of systemd and is written as in the old unit.
    Specifiers,
    /// The file that `EnvironmentFile=` names.
    File,
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

    /// Returns the name of the service, with its application: `web (mysite.wsgi)`.
    pub(super) fn describe(&self) -> String {
        match self.settings.get(name::TARGET) {
            Some(Setting { value: Value::Text(target), .. }) => format!("{} ({target})", self.name),
            _ => self.name.clone(),
        }
    }

    /// Adds addresses, if the command of this plan names some.
    pub(super) fn add_addresses(&mut self, others: &[Value]) {
        if let Some(Setting { value: Value::List(addresses), .. }) = self.settings.get_mut(name::BIND) {
            addresses.extend(others.iter().cloned());
        }
    }

    /// Sets a variable of the service. An earlier value is replaced.
    pub(super) fn export(&mut self, name: &str, value: &str, origin: &str, place: EnvPlace) {
        self.environment
            .retain(|old| old.name != name || (old.place == EnvPlace::File) != (place == EnvPlace::File));
        let (name, value, origin) = (name.to_owned(), value.to_owned(), origin.to_owned());
        self.environment.push(EnvVariable { name, value, origin, place });
    }

    /// Adds a file with variables. `path` is its full path, with a `-` in front if the file may be
    /// missing.
    pub(super) fn add_env_file(&mut self, path: &str, origin: &str) {
        self.directive(DropIn::Service, "EnvironmentFile", path);
        let full = path.trim_start_matches('-');
        let has_name = |file: &&EnvFile| Path::new(&file.path).file_name() == Path::new(full).file_name();
        let file = match self.env_files.iter().find(has_name) {
            Some(file) => Ok(EnvFile { path: full.to_owned(), ..file.clone() }),
            None => std::fs::read_to_string(full).map(|text| env_file::parse(full, &text)),
        };
        match file {
            Ok(file) => {
                self.left_out.extend(file.notes);
                for (name, value) in file.variables {
                    self.export(&name, &value, full, EnvPlace::File);
                }
            }
            Err(error) => {
                let reason = match error.kind() {
                    std::io::ErrorKind::NotFound => "the file is not on this machine".to_owned(),
                    _ => format!("the file cannot be read: {error}"),
                };
                self.left_out(origin, &format!("variables of {full}: {reason}; pass it too if it has flags of the server (GUNICORN_CMD_ARGS, UVICORN_…, WEB_CONCURRENCY): rgun migrate … {}", file_name(full)));
            }
        }
    }

    /// Returns the variables of the service as the environment of a process.
    pub(super) fn process_environment(&self) -> Environment {
        let is_file = |variable: &&EnvVariable| variable.place == EnvPlace::File;
        let (files, others): (Vec<_>, Vec<_>) = self.environment.iter().partition(is_file);
        let variables = others.into_iter().chain(files);
        variables.map(|variable| (variable.name.clone(), variable.value.clone())).collect()
    }

    /// Returns the variables of the service. Those of files replace others, as in systemd.
    pub(super) fn scope(&self) -> Scope {
        let mut scope = Scope::default();
        if let Some(path) = &self.search_path {
            scope.define("PATH", Known::Value(path.clone()));
        }
        for is_file in [false, true] {
            for variable in self.environment.iter().filter(|each| (each.place == EnvPlace::File) == is_file) {
                scope.define(
                    &variable.name,
                    match variable.place {
                        EnvPlace::Specifiers => {
                            Known::Not(format!("{}: {}", variable.origin, variable.value))
                        }
                        EnvPlace::DropIn | EnvPlace::File => Known::Value(variable.value.clone()),
                    },
                );
            }
        }
        scope
    }

    /// Moves the variables to the drop-in of the service. Notes those that a file will override,
    /// although they overrode the file before.
    pub(super) fn write_environment(&mut self) {
        let variables = std::mem::take(&mut self.environment);
        for (idx, variable) in variables.iter().enumerate().filter(|(_, each)| each.place != EnvPlace::File) {
            let EnvVariable { name, value, origin, place } = variable;
            let earlier =
                variables[..idx].iter().find(|each| each.place == EnvPlace::File && each.name == *name);
            if let Some(file) = earlier.filter(|file| file.value != *value) {
                self.left_out(origin, &format!("{name}: overrode the value in {0}, but systemd prefers the file: remove {name} from {0}", file.origin));
            }
            let value = if *place == EnvPlace::Specifiers { value.clone() } else { value.replace('%', "%%") };
            self.directive(DropIn::Service, "Environment", &quote(&format!("{name}={value}")));
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
        let is_wildcard = matches!(host, "0.0.0.0" | "[::]");
        let published = self.loopback_ports.iter().find(|(inner, _)| is_wildcard && inner == port);
        if let Some((_, outer)) = published {
            let outer = outer.clone();
            return self.directive(DropIn::Socket, "ListenStream", &outer);
        }
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

    /// Keeps the mode that the unix sockets had, in place of `SocketMode=0660` of `rgun.socket`.
    /// `umask` is the mask that the old server applied to them. With `None`, the old server applied
    /// the umask of the service.
    pub(super) fn set_socket_mode(&mut self, umask: Option<u32>) {
        let is_unix = |path: &String| path.starts_with('/');
        let has_mode = !self.values(DropIn::Socket, "SocketMode").is_empty();
        if has_mode || !self.values(DropIn::Socket, "ListenStream").iter().any(is_unix) {
            return;
        }
        let of_service = || u32::from_str_radix(self.values(DropIn::Service, "UMask").last()?, 8).ok();
        // systemd's and supervisord's default is 022.
        let umask = umask.or_else(of_service).unwrap_or(0o022);
        self.directive(DropIn::Socket, "SocketMode", &format!("{:04o}", 0o666 & !umask));
    }

    /// Keeps the default umask of systemd and supervisord, unless the old service sets one:
    /// `UMask=0027` of `rgun.service` would deny a web server the files that the application creates
    /// for it, such as uploads.
    pub(super) fn set_umask(&mut self) {
        if self.values(DropIn::Service, "UMask").is_empty() {
            self.directive(DropIn::Service, "UMask", "0022");
        }
    }

    /// Keeps systemd's default mode of unix sockets, unless the old socket unit sets the mode.
    pub(super) fn set_socket_mode_of_systemd(&mut self) {
        if self.values(DropIn::Socket, "SocketMode").is_empty() {
            self.directive(DropIn::Socket, "SocketMode", "0666");
        }
    }

    /// Keeps the owner that the unix sockets had (the user and the group of the service), if other
    /// users may not connect. By default, systemd makes root the owner.
    pub(super) fn set_socket_owner(&mut self) {
        let find = |plan: &Self, part: DropIn, name: &str| {
            let directive = plan.directives.iter().find(|(of, key, _)| *of == part && key == name);
            directive.map(|(_, _, value)| value.clone())
        };
        let mode =
            find(self, DropIn::Socket, "SocketMode").and_then(|mode| u32::from_str_radix(&mode, 8).ok());
        if mode.is_none_or(|mode| mode & 0o002 != 0) {
            return;
        }
        for (socket, service) in [("SocketUser", "User"), ("SocketGroup", "SupplementaryGroups")] {
            let owner = find(self, DropIn::Service, service);
            if let Some(owner) = owner.filter(|_| find(self, DropIn::Socket, socket).is_none()) {
                self.directive(DropIn::Socket, socket, &owner);
            }
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

    /// Returns the values of a directive.
    pub(super) fn values(&self, part: DropIn, key: &str) -> Vec<String> {
        let wanted = self.directives.iter().filter(|(of, name, _)| *of == part && name == key);
        wanted.map(|(.., value)| value.clone()).collect()
    }

    /// Returns the application's interpreter, if it is set and this machine has it.
    pub(super) fn python(&self) -> Option<String> {
        match &self.settings.get(name::PYTHON)?.value {
            Value::Text(path) if Path::new(path).is_file() => Some(path.clone()),
            _ => None,
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

/// Quotes a value of `Environment=` (systemd.syntax(7)).
fn quote(assignment: &str) -> String {
    if assignment.is_empty() || assignment.contains([' ', '\t', '\n', '"', '\'', '\\', ';', '#']) {
        let escaped = assignment.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        format!("\"{escaped}\"")
    } else {
        assignment.to_owned()
    }
}

/// Returns the last component of a path.
fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The directives of `rgun.socket` for a unix socket and these directives of the service.
    fn socket_directives(
        umask: Option<u32>,
        service: &[(&str, &str)],
        socket: &[(&str, &str)],
    ) -> Vec<String> {
        let mut plan = Plan::default();
        for (part, directives) in [(DropIn::Service, service), (DropIn::Socket, socket)] {
            for (name, value) in directives {
                plan.directive(part, name, value);
            }
        }
        plan.set_socket_mode(umask);
        plan.set_socket_owner();
        let of_socket = plan.directives.iter().filter(|(part, ..)| *part == DropIn::Socket);
        of_socket.map(|(_, name, value)| format!("{name}={value}")).collect()
    }

    #[test]
    fn umask_of_the_old_service_is_kept() {
        for (old, expected) in [(None, "0022"), (Some("0077"), "0077")] {
            let mut plan = Plan::default();
            if let Some(umask) = old {
                plan.directive(DropIn::Service, "UMask", umask);
            }
            plan.set_umask();
            assert_eq!(plan.values(DropIn::Service, "UMask"), [expected]);
        }
    }

    #[test]
    fn unix_sockets_keep_the_mode_of_the_old_server() {
        let listen = ("ListenStream", "/run/a.sock");
        let owner = [("User", "ada"), ("SupplementaryGroups", "www-data"), ("UMask", "0007")];
        let line = "ListenStream=/run/a.sock";
        let open = [line, "SocketMode=0666"];
        assert_eq!(
            socket_directives(Some(0), &owner, &[listen]),
            open,
            "gunicorn ignores the service's umask"
        );
        let restricted = [line, "SocketMode=0660", "SocketUser=ada", "SocketGroup=www-data"];
        assert_eq!(socket_directives(Some(7), &owner, &[listen]), restricted);
        assert_eq!(socket_directives(None, &owner, &[listen]), restricted);
        let private = [line, "SocketMode=0644", "SocketUser=ada", "SocketGroup=www-data"];
        assert_eq!(socket_directives(None, &owner[..2], &[listen]), private);
        let own = [line, "SocketMode=0600", "SocketUser=ada", "SocketGroup=www-data"];
        assert_eq!(socket_directives(Some(0), &owner, &[listen, ("SocketMode", "0600")]), own);
        assert_eq!(
            socket_directives(Some(0), &owner, &[("ListenStream", "127.0.0.1:80")]),
            ["ListenStream=127.0.0.1:80"]
        );
    }
}
