//! `rgun init [NAME]`: looks at a project, and writes the configuration, the user and the drop-ins
//! of its service.
//!
//! `project` and `interpreter` find what the project consists of, without running its code;
//! `proposal` turns this, and the settings of a unit that serves the project today (`migrate`),
//! into files; `edit` keeps the rest of an existing `rgun.toml`. This module shows the difference,
//! asks, writes, and runs `rgun check` as the service's user.

mod database;
mod edit;
mod interpreter;
mod project;
mod proposal;
mod request;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::unistd::{Gid, User, chown, geteuid};
use similar::TextDiff;

use crate::config::Environment;
use proposal::{NewFile, Proposal, below, propose};
pub use request::InitRequest;

/// Shows what would be written, asks, writes, and checks the result. Returns the exit status: 64 if
/// there is no such directory, 78 if the project cannot be served, 1 if nothing is written, or that
/// of `rgun check`.
pub fn run(request: &InitRequest, environment: &Environment, cwd: &Path) -> ExitCode {
    let root = request.root.as_ref().map_or_else(|| PathBuf::from("/"), |root| cwd.join(root));
    let proposal = match propose(request, environment, cwd, &root) {
        Ok(proposal) => proposal,
        Err((reason, status)) => return fail(&reason, status),
    };
    let printed = io::stdout().write_all(describe(&proposal).as_bytes());
    if printed.is_err() {
        return ExitCode::FAILURE;
    }
    if !proposal.files.is_empty() {
        if request.root.is_none() && !geteuid().is_root() {
            return fail("nothing is written: only root can write to /etc; run the command with sudo", 1);
        }
        if !request.yes && !confirm() {
            return fail("nothing is written: confirm on a terminal, or pass --yes", 1);
        }
        if let Err(reason) = write(&proposal, &root, request.root.is_none()) {
            return fail(&reason, 1);
        }
    }
    if request.root.is_some() {
        return ExitCode::SUCCESS;
    }
    finish(request, &proposal)
}

fn fail(text: &str, status: u8) -> ExitCode {
    // Fails only if stderr is closed.
    let _ = writeln!(io::stderr(), "error: {text}");
    ExitCode::from(status)
}

/// Returns the differences and the notes, as a text to print.
fn describe(proposal: &Proposal) -> String {
    let mut text = String::new();
    for NewFile { path, content, old, .. } in &proposal.files {
        let path = path.display().to_string();
        let from = if old.is_some() { path.as_str() } else { "/dev/null" };
        let difference = TextDiff::from_lines(old.as_deref().unwrap_or_default(), content);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", difference.unified_diff().header(from, &path));
    }
    if proposal.files.is_empty() {
        text.push_str("All files are as they should be.\n");
    }
    for note in &proposal.notes {
        let _ = writeln!(text, "note: {note}");
    }
    text
}

/// Asks on a terminal. Returns false without a terminal.
fn confirm() -> bool {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return false;
    }
    let mut answer = String::new();
    let is_asked = write!(io::stdout(), "Write these files? [y/N] ")
        .and_then(|()| io::stdout().flush())
        .and_then(|()| io::stdin().lock().read_line(&mut answer));
    is_asked.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// Writes the files. On this machine, also creates the user and makes systemd read the drop-ins.
///
/// # Errors
/// The reason.
fn write(proposal: &Proposal, root: &Path, is_this_machine: bool) -> Result<(), String> {
    let (first, others): (Vec<_>, Vec<_>) =
        proposal.files.iter().partition(|file| Some(&file.path) == proposal.sysusers.as_ref());
    for file in first {
        write_file(file, root, None)?;
        if is_this_machine {
            run_tool("systemd-sysusers", &[file.path.as_os_str().to_owned()])?;
        }
    }
    let user = User::from_name(&proposal.user).ok().flatten();
    if is_this_machine && user.is_none() {
        return Err(format!("there is no user {}: create it, and run the command again", proposal.user));
    }
    let group = user.filter(|_| is_this_machine).map(|user| user.gid);
    for file in others {
        write_file(file, root, group)?;
    }
    // Without a running systemd there is nothing to reload, and the next start reads the files.
    if is_this_machine && Path::new("/run/systemd/system").exists() {
        run_tool("systemctl", &["daemon-reload".into()])?;
    }
    Ok(())
}

/// Writes one file, atomically. `group` may read a secret file.
fn write_file(file: &NewFile, root: &Path, group: Option<Gid>) -> Result<(), String> {
    let path = below(root, &file.path);
    let describe = |error: io::Error| format!("cannot write {}: {error}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(describe)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    fs::write(&new, "").map_err(describe)?;
    // Set before the file has content.
    let mode = if file.is_secret { 0o640 } else { 0o644 };
    fs::set_permissions(&new, Permissions::from_mode(mode)).map_err(describe)?;
    if let Some(group) = group.filter(|_| file.is_secret) {
        chown(&new, None, Some(group)).map_err(|errno| describe(errno.into()))?;
    }
    fs::write(&new, &file.content).and_then(|()| fs::rename(&new, &path)).map_err(describe)
}

/// Runs a program of systemd.
fn run_tool(program: &str, arguments: &[OsString]) -> Result<(), String> {
    let status = Command::new(program).args(arguments).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{program} failed ({status}); its message is above")),
        Err(error) => Err(format!("cannot run {program}: {error}")),
    }
}

/// Runs `rgun check` and names the next command.
fn finish(request: &InitRequest, proposal: &Proposal) -> ExitCode {
    let path = request.service.configuration();
    let own = std::env::current_exe().unwrap_or_else(|_| "rgun".into());
    let unit = request.service.service_unit();
    let mut check = Command::new(own);
    // Root's environment is not that of the service.
    check.args(["check", "--config"]).arg(&path).args(["--unit", &unit]).current_dir("/");
    let status = match check.status() {
        Ok(status) => status,
        Err(error) => return fail(&format!("cannot run rgun check: {error}"), 1),
    };
    if !status.success() {
        let again = format!("sudo rgun check --config {}", path.display());
        let status = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
        return fail(&format!("the files are written; repair the error above, then run: {again}"), status);
    }
    let stem = request.service.unit_stem();
    let is_active = Command::new("systemctl").args(["--quiet", "is-active", &unit]).status();
    let next = match is_active {
        // New drop-ins have an effect at a restart only.
        Ok(status) if status.success() => format!("sudo systemctl restart {stem}"),
        _ => format!("sudo systemctl enable --now {stem}"),
    };
    let text = format!("\nNext:\n    {next}\n    {}\n", curl(&proposal.address));
    let printed = io::stdout().write_all(text.as_bytes());
    if printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Returns a command that sends a request to this address: `ListenStream=` of a socket unit.
fn curl(address: &str) -> String {
    if address.starts_with('/') {
        return format!("sudo curl --unix-socket {address} http://localhost/");
    }
    let address = address.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]");
    let address = if address.contains(':') { address } else { format!("127.0.0.1:{address}") };
    format!("curl http://{address}/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::service::Service;
    use crate::config::testing::TestDir;

    /// A directory with an image's root and a Django project.
    fn place() -> TestDir {
        let place = TestDir::new();
        let manage = "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'mysite.settings')\n";
        for (name, text) in [
            ("p/manage.py", manage),
            ("p/mysite/wsgi.py", "application = get_wsgi_application()\n"),
            ("p/db.sqlite3", ""),
            ("p/.env", "A=1\n"),
            ("p/requirements.txt", "django\npsycopg[binary]\n"),
            ("root/usr/lib/systemd/system/postgresql.service", ""),
        ] {
            fs::create_dir_all(place.join(name).parent().unwrap()).unwrap();
            fs::write(place.join(name), text).unwrap();
        }
        place
    }

    fn request(place: &TestDir, instance: Option<&str>) -> InitRequest {
        InitRequest {
            service: Service::new(instance.map(str::to_owned)).unwrap(),
            directory: place.join("p"),
            user: None,
            bind: None,
            python: Some("/usr/bin/python3".into()),
            root: Some(place.join("root")),
            yes: true,
        }
    }

    fn proposed(request: &InitRequest) -> Proposal {
        propose(request, &Environment::default(), Path::new("/"), request.root.as_ref().unwrap()).unwrap()
    }

    fn content<'a>(proposal: &'a Proposal, path: &str) -> &'a str {
        let file = proposal.files.iter().find(|file| file.path == Path::new(path));
        &file.unwrap_or_else(|| panic!("no {path} in {:?}", proposal.files)).content
    }

    #[test]
    fn django_project_becomes_an_instance() {
        let place = place();
        let proposal = proposed(&request(&place, Some("shop")));
        let project = fs::canonicalize(place.join("p")).unwrap();
        let shown = project.display();
        let comment = format!("# Written by `rgun init` for {shown}.");
        assert_eq!(
            content(&proposal, "/etc/rgun/shop.toml"),
            format!(
                "{comment}\n\n[app]\ntarget = \"mysite.wsgi\"\ndirectory = \"{shown}\"\npython = \"/usr/bin/python3\"\n"
            )
        );
        assert_eq!(
            content(&proposal, "/etc/systemd/system/rgun@shop.service.d/10-init.conf"),
            format!(
                "{comment}\n[Unit]\nAfter=postgresql.service\n[Service]\nReadWritePaths={shown}\nEnvironmentFile=-{shown}/.env\n"
            )
        );
        let user = content(&proposal, "/etc/sysusers.d/rgun-shop.conf");
        assert!(user.contains("\nu rgun-shop - \"rgun instance shop\" /var/lib/rgun-shop\n"), "{user}");
        assert_eq!(proposal.address, "/run/rgun-shop.sock");
    }

    #[test]
    fn second_run_proposes_nothing() {
        let place = place();
        let request = request(&place, Some("shop"));
        let first = proposed(&request);
        write(&first, &place.join("root"), false).unwrap();
        assert_eq!(proposed(&request).files, []);
        let mode = fs::metadata(place.join("root/etc/rgun/shop.toml")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }

    #[test]
    fn existing_configuration_keeps_its_other_lines() {
        let place = place();
        fs::create_dir_all(place.join("root/etc/rgun")).unwrap();
        let shipped = include_str!("../../../../packaging/etc/rgun.toml");
        fs::write(place.join("root/etc/rgun/rgun.toml"), shipped).unwrap();
        let proposal = proposed(&request(&place, None));
        let new = content(&proposal, "/etc/rgun/rgun.toml");
        assert_eq!(new.lines().count(), shipped.lines().count());
        assert!(new.contains("\ntarget = \"mysite.wsgi\"\n"), "{new}");
        assert!(proposal.sysusers.is_none(), "{proposal:?}");
    }

    #[test]
    fn flags_choose_user_and_address() {
        let place = place();
        let request = InitRequest {
            user: Some("daemon".into()),
            bind: Some("127.0.0.1:8001".into()),
            ..request(&place, Some("shop"))
        };
        let proposal = proposed(&request);
        let service = content(&proposal, "/etc/systemd/system/rgun@shop.service.d/10-init.conf");
        assert!(service.contains("\nUser=daemon\nGroup=daemon\n"), "{service}");
        let socket = content(&proposal, "/etc/systemd/system/rgun@shop.socket.d/10-init.conf");
        assert!(socket.ends_with("[Socket]\nListenStream=\nListenStream=127.0.0.1:8001\n"), "{socket}");
        assert_eq!(curl(&proposal.address), "curl http://127.0.0.1:8001/");
        assert!(proposal.sysusers.is_none(), "{proposal:?}");
    }

    #[test]
    fn settings_of_the_old_unit_are_taken_over() {
        let place = place();
        let project = fs::canonicalize(place.join("p")).unwrap();
        let units = place.join("root/etc/systemd/system");
        fs::create_dir_all(&units).unwrap();
        let unit = |directory: &str, more: &str| {
            format!(
                "[Service]\nUser=deploy\nWorkingDirectory={directory}\nExecStart=/usr/bin/gunicorn mysite.wsgi {more}\n"
            )
        };
        fs::write(units.join("shop.service"), unit(project.to_str().unwrap(), "--workers 7 -b :8100"))
            .unwrap();
        fs::write(units.join("other.service"), unit(&format!("{}2", project.display()), "--workers 9"))
            .unwrap();
        let proposal = proposed(&request(&place, Some("shop")));
        let toml = content(&proposal, "/etc/rgun/shop.toml");
        assert!(toml.contains("[workers]\ncount = 7\n"), "{toml}");
        assert_eq!(proposal.user, "deploy");
        assert_eq!(proposal.address, "0.0.0.0:8100");
        let note = "shop.service are taken over; disable this unit before you start the new one";
        assert!(proposal.notes.iter().any(|found| found.contains(note)), "{:?}", proposal.notes);
    }

    #[test]
    fn socket_unit_of_the_old_service_is_taken_over() {
        let place = place();
        let project = fs::canonicalize(place.join("p")).unwrap();
        let units = place.join("root/etc/systemd/system");
        fs::create_dir_all(&units).unwrap();
        let service = format!(
            "[Unit]\nRequires=gunicorn.socket\n[Service]\nUser=nobody-here\nGroup=www-data\nWorkingDirectory={}\nExecStart=/usr/bin/gunicorn mysite.wsgi\n",
            project.display()
        );
        fs::write(units.join("gunicorn.service"), service).unwrap();
        fs::write(units.join("gunicorn.socket"), "[Socket]\nListenStream=/run/gunicorn.sock\n").unwrap();
        let proposal = proposed(&request(&place, Some("shop")));
        assert_eq!(proposal.address, "/run/gunicorn.sock");
        let notes = proposal.notes.join("\n");
        assert!(!notes.contains("pass this file too"), "{notes}");
        assert!(notes.contains("disable gunicorn.socket with the old service"), "{notes}");
        assert!(
            notes.contains("the primary group is nobody-here, which may read /etc/rgun/shop.toml"),
            "{notes}"
        );
    }

    #[test]
    fn procfile_names_application_and_settings() {
        let place = place();
        let lines = "api: uvicorn api.main:app --workers 2\nweb: gunicorn mysite.asgi -k uvicorn.workers.UvicornWorker -w 3 -b 0.0.0.0:$PORT\nworker: celery -A mysite worker\n";
        fs::write(place.join("p/Procfile"), lines).unwrap();
        for (instance, target, count) in [(Some("api"), "api.main:app", 2), (None, "mysite.asgi", 3)] {
            let request = request(&place, instance);
            let proposal = proposed(&request);
            let path = request.service.configuration();
            let toml = content(&proposal, path.to_str().unwrap());
            assert!(toml.contains(&format!("target = \"{target}\"\n")), "{toml}");
            assert!(toml.contains(&format!("count = {count}\n")), "{toml}");
            let other = if instance.is_some() { "web (mysite.asgi)" } else { "api (api.main:app)" };
            assert!(toml.contains(&format!("directory = \"{}\"\n", place.join("p").display())), "{toml}");
            let has = |text: &str| proposal.notes.iter().any(|note| note.contains(text));
            assert!(has(&format!("the files also start {other}")), "{:?}", proposal.notes);
        }
    }

    #[test]
    fn directory_of_a_procfile_is_below_the_project() {
        let place = place();
        fs::write(place.join("p/Procfile"), "web: gunicorn --chdir src shop:app\n").unwrap();
        let request = request(&place, None);
        let toml_of = |proposal: &Proposal| content(proposal, "/etc/rgun/rgun.toml").to_owned();
        let toml = toml_of(&proposed(&request));
        assert!(toml.contains(&format!("directory = \"{}\"\n", place.join("p/src").display())), "{toml}");
        fs::write(place.join("p/Procfile"), "web: npm start\n").unwrap();
        let proposal = proposed(&request);
        assert!(toml_of(&proposal).contains("target = \"mysite.wsgi\"\n"), "{proposal:?}");
        assert!(!proposal.notes.iter().any(|note| note.contains("taken over")), "{proposal:?}");
    }

    #[test]
    fn directory_without_an_application_is_an_error() {
        let place = place();
        let empty = InitRequest { directory: place.join("root"), ..request(&place, None) };
        let root = place.join("root");
        let (reason, status) = propose(&empty, &Environment::default(), Path::new("/"), &root).unwrap_err();
        assert_eq!(status, 78, "{reason}");
        assert!(reason.contains("no application found"), "{reason}");
        let missing = InitRequest { directory: "/nonexistent".into(), ..empty };
        let (_, status) = propose(&missing, &Environment::default(), Path::new("/"), &root).unwrap_err();
        assert_eq!(status, 64);
    }

    #[test]
    fn request_goes_to_the_address_of_the_socket() {
        assert_eq!(curl("/run/a.sock"), "sudo curl --unix-socket /run/a.sock http://localhost/");
        assert_eq!(curl("8001"), "curl http://127.0.0.1:8001/");
        assert_eq!(curl("0.0.0.0:80"), "curl http://127.0.0.1:80/");
    }
}
