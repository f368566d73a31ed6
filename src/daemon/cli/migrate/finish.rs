//! Completes a plan after all files were read.

use std::path::{Path, PathBuf};

use super::defaults;
use super::directories;
use super::inputs::InputFile;
use super::plan::{DropIn, Plan};
use super::server::ReplacedServer;
use crate::config::{Setting, Value, name};

/// The note about the directories that `rgun.service` makes read-only.
const WRITABLE: &str = "rgun.service has ProtectSystem=strict: the application can write below /var/lib/rgun and \
     /var/cache/rgun only; for other directories (a database, uploads), add ReadWritePaths= to its drop-in";

/// The note about the umask of `rgun.service`.
const UMASK: &str = "rgun.service has UMask=0027: other users cannot read the files that the application creates; \
     if a web server serves some of them (uploads), write UMask=0022 into its drop-in";

/// Adds the defaults of the servers, moves addresses to the socket unit, and notes missing files.
pub(super) fn add_defaults(inputs: &[InputFile], cwd: &Path, plan: &mut Plan) {
    let mut servers = std::mem::take(&mut plan.servers);
    servers.dedup();
    for server in &servers {
        defaults::add(*server, plan);
    }
    if let Some(Setting { value: Value::List(addresses), origin, .. }) = plan.settings.remove(name::BIND) {
        listen(&addresses, &origin, servers.last().copied(), plan);
    }
    plan.write_environment();
    if plan.has_socket_unit {
        // The old socket unit sets the owner, and the mode unless that is systemd's default.
        plan.set_socket_mode_of_systemd();
        directories::move_socket_directories(plan);
    } else {
        let umask = servers.last().map_or(Some(0), |server| server.socket_umask());
        plan.set_socket_mode(plan.socket_umask.or(umask));
        directories::move_socket_directories(plan);
        plan.set_socket_owner();
    }
    directories::keep_modes_and_variables(plan);
    if plan.is_server || !servers.is_empty() {
        note_restrictions(plan);
    }
    note_missing_files(inputs, cwd, plan);
    plan.deduplicate();
}

/// Notes what `rgun.service` denies the application, unlike most services.
fn note_restrictions(plan: &mut Plan) {
    plan.changed.push(WRITABLE.to_owned());
    if plan.values(DropIn::Service, "UMask").is_empty() {
        plan.changed.push(UMASK.to_owned());
    }
}

/// Notes that the application or its directory is unknown.
pub(super) fn note_missing_keys(plan: &mut Plan) {
    for (key, example) in [(name::TARGET, "mysite.wsgi"), (name::DIRECTORY, "/srv/mysite")] {
        if !plan.settings.contains_key(key) {
            plan.left_out(
                "rgun.toml",
                &format!("{key}: none of the files sets this key; write for example \"{example}\""),
            );
        }
    }
}

/// Adds the addresses of a command. Gunicorn does not listen on them if it gets sockets from systemd.
fn listen(addresses: &[Value], origin: &str, server: Option<ReplacedServer>, plan: &mut Plan) {
    let directory = plan.directory();
    let texts = addresses.iter().filter_map(|address| match address {
        Value::Text(address) => Some(address),
        _ => None,
    });
    for address in texts {
        if plan.has_socket_unit && server == Some(ReplacedServer::Gunicorn) {
            // An address that the socket unit has adds neither a directive nor a note.
            let mut other = plan.clone();
            other.listen(address, directory.as_deref(), origin);
            if other.directives == plan.directives && other.left_out == plan.left_out {
                continue;
            }
            plan.left_out(
                origin,
                &format!("listen at {address}: gunicorn listens only on the sockets of the socket unit"),
            );
        } else {
            plan.listen(address, directory.as_deref(), origin);
        }
    }
}

/// Notes the files that commands name but that were not passed.
fn note_missing_files(inputs: &[InputFile], cwd: &Path, plan: &mut Plan) {
    let directory = plan.directory().map_or_else(|| cwd.to_owned(), PathBuf::from);
    let is_passed = |path: &Path| inputs.iter().any(|input| input.path.file_name() == path.file_name());
    for (file, origin) in std::mem::take(&mut plan.configurations) {
        let path = match file.strip_prefix("python:") {
            Some(module) => directory.join(module.replace('.', "/")).with_extension("py"),
            // systemd finds the unit by its name.
            None if file.ends_with(".socket") => PathBuf::from(&file),
            None => directory.join(&file),
        };
        if !is_passed(&path) {
            plan.left_out(
                &origin,
                &format!("the settings of {file}: pass this file too: rgun migrate … {}", path.display()),
            );
        }
    }
    for (command, origin) in std::mem::take(&mut plan.programs) {
        let program = command.split_whitespace().next().unwrap_or_default();
        let is_python = program.rsplit('/').next().is_some_and(|name| name.starts_with("python"));
        if is_python {
            plan.left_out(&origin, &format!("{command}: starts no server that rgun knows; if the program starts one itself, as with uvicorn.run(), write app.target"));
        } else if !is_passed(Path::new(program)) {
            plan.left_out(&origin, &format!("{program}: is no server that rgun replaces; if it is a script that starts one, pass it too: rgun migrate … {program}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_of_the_socket_unit_needs_no_note() {
        for (address, is_noted) in
            [("unix:/run/a.sock", false), ("/run/a.sock", false), ("unix:a.sock", true), (":8000", true)]
        {
            let mut plan = Plan { has_socket_unit: true, ..Plan::default() };
            plan.directive(DropIn::Socket, "ListenStream", "/run/a.sock");
            listen(&[Value::text(address)], "a.service:2", Some(ReplacedServer::Gunicorn), &mut plan);
            assert_eq!(!plan.left_out.is_empty(), is_noted, "{address}");
            assert_eq!(plan.values(DropIn::Socket, "ListenStream"), ["/run/a.sock"]);
        }
    }
}
