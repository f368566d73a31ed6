//! `rgun migrate FILE…`: prints the files that replace a deployment of another server, and what changes with it.
//!
//! A file's kind is recognized by its name and content. A `gunicorn.conf.py` is run here; each other kind has a module
//! that adds to a [`Plan`]: `unit`, `shell` (Procfiles too), `uwsgi`, `nginx_unit`. Commands of gunicorn and uvicorn are
//! parsed as those of `rgun` (`command`), options of granian, hypercorn and uWSGI by a table (`options`). `render` writes
//! the result. An option without a counterpart is listed with the reason, unless rgun needs no setting for it.

mod command;
mod flags;
mod nginx_unit;
mod options;
mod plan;
mod render;
mod server;
mod shell;
#[cfg(test)]
mod snapshots;
mod unit;
mod uwsgi;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::unistd::geteuid;

use super::error::{EX_CONFIG, EX_USAGE};
use super::foreign::FlagSource;
use super::gunicorn_conf::{self, ConfLocation, HookFunction};
use crate::config::{self, Environment, Layer, Setting, Value, name};
use plan::Plan;
use server::ReplacedServer;

/// The arguments of `rgun migrate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrateRequest {
    /// The files of the deployment.
    pub(super) files: Vec<PathBuf>,
    /// The directory to write the result to; `None` prints it only.
    pub(super) write: Option<PathBuf>,
    /// The interpreter for a `gunicorn.conf.py`.
    pub(super) python: Option<OsString>,
}

/// The last lines of the output.
const NEXT_STEPS: &str = "\
Then: put rgun.toml into /etc/rgun and the drop-ins into /etc/systemd/system; run
systemctl daemon-reload, rgun check; disable the old unit; enable rgun.socket and rgun.service.
";

/// The kinds of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Configuration,
    Unit,
    Procfile,
    Uwsgi,
    NginxUnit,
    Script,
}

/// Prints the result, and writes it if a directory is named. Returns the exit status: 64 for a file of an unknown kind,
/// 78 for a file that cannot be read.
pub fn run(request: &MigrateRequest, environment: &Environment, cwd: &Path) -> ExitCode {
    let (text, status) = match migrate(request, environment, cwd) {
        Ok(text) => (text, 0),
        Err((text, status)) => (format!("error: {text}\n"), status),
    };
    let printed = if status == 0 {
        io::stdout().write_all(text.as_bytes())
    } else {
        io::stderr().write_all(text.as_bytes())
    };
    ExitCode::from(if printed.is_ok() { status } else { 1 })
}

/// Returns the text to print.
///
/// # Errors
/// The reason, and the exit status.
fn migrate(request: &MigrateRequest, environment: &Environment, cwd: &Path) -> Result<String, (String, u8)> {
    let mut inputs = Vec::new();
    for path in &request.files {
        let bytes = std::fs::read(cwd.join(path))
            .map_err(|error| (format!("{}: {error}", path.display()), EX_CONFIG))?;
        let text =
            String::from_utf8(bytes).map_err(|_| (format!("{}: is not UTF-8", path.display()), EX_CONFIG))?;
        let kind = kind(path, &text).ok_or_else(|| {
            let known = "gunicorn.conf.py, a unit, a Procfile, a script, uwsgi.ini or NGINX Unit's JSON";
            (format!("{}: is none of {known}", path.display()), EX_USAGE)
        })?;
        inputs.push((path, text, kind));
    }
    // First the configuration file, whose settings the flags of a command override.
    inputs.sort_by_key(|(_, _, kind)| *kind != Kind::Configuration);
    let mut plan = Plan::default();
    for (path, text, kind) in &inputs {
        let label = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        match kind {
            Kind::Configuration => add_configuration(request, path, environment, cwd, &mut plan)?,
            Kind::Unit => unit::migrate(text, &label, &mut plan),
            Kind::Procfile => shell::migrate_procfile(text, &label, &mut plan),
            Kind::Uwsgi => uwsgi::migrate(text, &label, &mut plan),
            Kind::NginxUnit => nginx_unit::migrate(text, &label, &mut plan)
                .map_err(|reason| (format!("{}: {reason}", path.display()), EX_CONFIG))?,
            Kind::Script => shell::migrate_script(text, &label, &mut plan),
        }
    }
    finish(request, cwd, &mut plan);
    let outputs = render::files(&plan);
    let mut text = String::new();
    for output in &outputs {
        text.push_str(&render::difference(
            output,
            render::read_existing(Path::new(output.installed)).as_deref(),
        ));
        text.push('\n');
    }
    text.push_str(&render::notes(&plan));
    text.push_str(NEXT_STEPS);
    if let Some(directory) = &request.write {
        text.push_str(&write(&cwd.join(directory), &outputs).map_err(|reason| (reason, 1))?);
    }
    Ok(text)
}

/// Recognizes a file.
fn kind(path: &Path, text: &str) -> Option<Kind> {
    let file = path.file_name()?.to_str()?;
    let is = |suffix: &str| file.ends_with(suffix);
    let has = |section: &str| text.lines().any(|line| line.trim() == section);
    if is(".py") {
        Some(Kind::Configuration)
    } else if has("[Service]") || has("[Socket]") {
        Some(Kind::Unit)
    } else if file.starts_with("Procfile") {
        Some(Kind::Procfile)
    } else if has("[uwsgi]") {
        Some(Kind::Uwsgi)
    } else if text.trim_start().starts_with('{') {
        Some(Kind::NginxUnit)
    } else if is(".sh")
        || text.starts_with("#!")
        || ["gunicorn", "uvicorn", "granian", "hypercorn", "daphne"]
            .iter()
            .any(|server| text.contains(server))
    {
        Some(Kind::Script)
    } else {
        None
    }
}

/// Runs a `gunicorn.conf.py`, and adds its settings.
fn add_configuration(
    request: &MigrateRequest,
    path: &Path,
    environment: &Environment,
    cwd: &Path,
    plan: &mut Plan,
) -> Result<(), (String, u8)> {
    if geteuid().is_root() && request.python.is_none() {
        let reason = "is a Python program, which rgun migrate does not execute as root; run it as the application's user, or pass --python to allow it";
        return Err((format!("{}: {reason}", path.display()), EX_USAGE));
    }
    let mut flags = Layer::new();
    if let Some(python) = &request.python {
        flags.insert(name::PYTHON, Setting::flag("--python", Value::os(python)));
    }
    let full = cwd.join(path);
    let wrong = |errors: Vec<config::ConfigError>| (config::ConfigErrors(errors).to_string(), EX_CONFIG);
    let python = config::find_interpreter(&flags, environment, cwd, None, full.parent())
        .map_err(|errors| wrong(errors.0))?;
    let location = ConfLocation::File(full.clone());
    let arguments = gunicorn_conf::run(&location, &python, cwd, &|_| {}).map_err(wrong)?;
    let origin = location.to_string();
    plan.left_out.extend(arguments.warnings);
    for error in arguments.errors {
        plan.left_out(&error.origin, &format!("{}; {}", error.reason, error.hint.unwrap_or_default()));
    }
    let args: Vec<OsString> = std::iter::once("rgun".into()).chain(arguments.args).collect();
    flags::add_arguments(&args, FlagSource::File(&origin), &origin, plan);
    for HookFunction { setting, key, target } in arguments.hooks {
        let value = target.map_or_else(|| location.function(&setting), Value::text);
        plan.set(key, value, &format!("{origin}: {setting}"));
    }
    for hook in arguments.daemon_hooks {
        let text = "rgun.toml has no such hook; ExecStartPre=, ExecStartPost= or ExecStopPost= run a command";
        plan.left_out(&format!("{origin}: {hook}"), text);
    }
    for setting in arguments.worker_settings {
        let text = format!("workers apply it when they run the file: write hooks.post_fork = \"{origin}:\"");
        plan.left_out(&format!("{origin}: {setting}"), &text);
    }
    plan.changed.push(format!("{origin}: values that the file computes were computed now, on this machine"));
    plan.servers.push(ReplacedServer::Gunicorn);
    Ok(())
}

/// Adds the defaults of the servers, moves addresses to the socket unit, and names what is missing.
fn finish(request: &MigrateRequest, cwd: &Path, plan: &mut Plan) {
    for server in std::mem::take(&mut plan.servers) {
        command::add_defaults(server, plan);
    }
    if let Some(Setting { value: Value::List(addresses), origin, .. }) = plan.settings.remove(name::BIND) {
        let directory = plan.directory();
        for address in addresses {
            if let Value::Text(address) = address {
                plan.listen(&address, directory.as_deref(), &origin);
            }
        }
    }
    for (file, origin) in std::mem::take(&mut plan.configurations) {
        let name = Path::new(&file).file_name();
        if !request.files.iter().any(|given| given.file_name() == name) {
            plan.left_out(
                &origin,
                &format!(
                    "the settings of {file}: pass this file too: rgun migrate … {}",
                    cwd.join(&file).display()
                ),
            );
        }
    }
    for (key, example) in [(name::TARGET, "mysite.wsgi"), (name::DIRECTORY, "/srv/mysite")] {
        if !plan.settings.contains_key(key) {
            plan.left_out(
                "rgun.toml",
                &format!("{key}: none of the files sets this key; write for example \"{example}\""),
            );
        }
    }
    plan.deduplicate();
}

/// Writes the files below `directory`, and returns their names. Existing files stay.
fn write(directory: &Path, outputs: &[render::Output]) -> Result<String, String> {
    let mut text = "Written:\n".to_owned();
    for output in outputs {
        let path = directory.join(output.path);
        let describe = |error: io::Error| format!("{}: {error}", path.display());
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(describe)?;
        }
        match std::fs::File::create_new(&path) {
            Ok(mut file) => file.write_all(output.content.as_bytes()).map_err(describe)?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(format!(
                    "{}: exists; remove it, or name another directory with --write",
                    path.display()
                ));
            }
            Err(error) => return Err(describe(error)),
        }
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {}", path.display());
    }
    Ok(text)
}
