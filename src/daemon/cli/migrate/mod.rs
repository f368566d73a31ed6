//! `rgun migrate FILE…`: prints the files that replace a deployment of another server, and notes
//! about the differences.
//!
//! A file's kind is recognized by its name and content. A `gunicorn.conf.py` is run here; each
//! other kind has a module that adds to a [`Plan`]: `unit`, `shell` (Procfiles too), `supervisord`,
//! `container`, `hypercorn`, `uwsgi`, `nginx_unit`. Commands of gunicorn and uvicorn are parsed as
//! those of `rgun` (`command`), options of granian, hypercorn, daphne and uWSGI by a table
//! (`options`). `render` writes the result.
//!
//! An option without a counterpart is listed with the reason, unless rgun needs no setting for the
//! option.

mod command;
mod container;
mod flags;
mod hypercorn;
mod nginx_unit;
mod options;
mod plan;
pub(super) mod render;
mod server;
mod shell;
#[cfg(test)]
mod snapshots;
mod supervisord;
mod unit;
mod uwsgi;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::unistd::geteuid;

use super::error::{EX_CONFIG, EX_USAGE};
use super::foreign::FlagSource;
use super::gunicorn_conf::{self, ConfLocation, HookFunction};
use crate::config::{self, Environment, Layer, Setting, Value, name};
pub(super) use plan::Plan;
use server::ReplacedServer;

/// The arguments of `rgun migrate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrateRequest {
    /// The files of the deployment.
    pub(super) files: Vec<PathBuf>,
    /// The directory to write the result to; `None` prints it only.
    pub(super) write: Option<PathBuf>,
    /// Whether to write without asking on a terminal.
    pub(super) yes: bool,
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
    Supervisord,
    Containerfile,
    Compose,
    Quadlet,
    Hypercorn,
    Script,
}

/// The result of a migration: the text that `rgun migrate` prints, and the files that it writes.
struct Migration {
    text: String,
    outputs: Vec<render::Output>,
}

/// Prints the result. If a directory is named, also writes the files there; on a terminal, asks
/// first. Returns the exit status: 64 for a file of an unknown kind, 78 for a file that cannot be
/// read, 1 if the result is not written.
pub fn run(request: &MigrateRequest, environment: &Environment, cwd: &Path) -> ExitCode {
    let fail = |text: &str, status: u8| {
        // Fails only if stderr is closed.
        let _ = writeln!(io::stderr(), "error: {text}");
        ExitCode::from(status)
    };
    let Migration { text, outputs } = match migrate(request, environment, cwd) {
        Ok(migration) => migration,
        Err((reason, status)) => return fail(&reason, status),
    };
    if io::stdout().write_all(text.as_bytes()).is_err() {
        return ExitCode::FAILURE;
    }
    let Some(directory) = &request.write else { return ExitCode::SUCCESS };
    if !request.yes && !confirm(directory) {
        return fail("nothing is written", 1);
    }
    match write(&cwd.join(directory), &outputs) {
        Ok(written) => match io::stdout().write_all(written.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(reason) => fail(&reason, 1),
    }
}

/// Returns the text to print, and the files.
///
/// # Errors
/// The reason, and the exit status.
fn migrate(
    request: &MigrateRequest,
    environment: &Environment,
    cwd: &Path,
) -> Result<Migration, (String, u8)> {
    let mut plan = plan_of(request, environment, cwd)?;
    complete(request, cwd, &mut plan);
    note_missing_keys(&mut plan);
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
    Ok(Migration { text, outputs })
}

/// Returns what the files of the request say.
///
/// # Errors
/// The reason, and the exit status.
pub(super) fn plan_of(
    request: &MigrateRequest,
    environment: &Environment,
    cwd: &Path,
) -> Result<Plan, (String, u8)> {
    let mut inputs = Vec::new();
    for path in &request.files {
        let bytes = std::fs::read(cwd.join(path))
            .map_err(|error| (format!("{}: {error}", path.display()), EX_CONFIG))?;
        let text =
            String::from_utf8(bytes).map_err(|_| (format!("{}: is not UTF-8", path.display()), EX_CONFIG))?;
        let kind = kind(path, &text).ok_or_else(|| {
            let known = "gunicorn.conf.py, a unit, a Procfile, a script, uwsgi.ini, NGINX Unit's JSON, \
                         hypercorn.toml, supervisord.conf, a Containerfile or a Compose file";
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
            Kind::Supervisord => supervisord::migrate(text, &label, &mut plan),
            Kind::Containerfile => container::migrate_containerfile(text, &label, &mut plan),
            Kind::Compose => container::migrate_compose(text, &label, &mut plan),
            Kind::Quadlet => container::migrate_quadlet(text, &label, &mut plan),
            Kind::Hypercorn => hypercorn::migrate(text, &label, &mut plan)
                .map_err(|reason| (format!("{}: {reason}", path.display()), EX_CONFIG))?,
            Kind::Script => shell::migrate_script(text, &label, &mut plan),
        }
    }
    Ok(plan)
}

/// Asks on a terminal. Returns true without a terminal.
fn confirm(directory: &Path) -> bool {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return true;
    }
    let mut answer = String::new();
    let is_asked = write!(io::stdout(), "Write these files below {}? [y/N] ", directory.display())
        .and_then(|()| io::stdout().flush())
        .and_then(|()| io::stdin().lock().read_line(&mut answer));
    is_asked.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}

/// Recognizes the kind of a file.
fn kind(path: &Path, text: &str) -> Option<Kind> {
    let file = path.file_name()?.to_str()?;
    let is = |suffix: &str| file.ends_with(suffix);
    let has = |section: &str| text.lines().any(|line| line.trim() == section);
    if is(".py") {
        Some(Kind::Configuration)
    } else if has("[Container]") {
        Some(Kind::Quadlet)
    } else if text.lines().any(|line| line.starts_with("[program:")) {
        Some(Kind::Supervisord)
    } else if ["Containerfile", "Dockerfile"].iter().any(|name| file.starts_with(name) || is(name)) {
        Some(Kind::Containerfile)
    } else if is(".yaml") || is(".yml") {
        Some(Kind::Compose)
    } else if is(".toml") {
        hypercorn::is_hypercorn(text).then_some(Kind::Hypercorn)
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

/// Adds the defaults of the servers, moves addresses to the socket unit, and notes missing files.
pub(super) fn complete(request: &MigrateRequest, cwd: &Path, plan: &mut Plan) {
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
    plan.set_socket_mode();
    plan.preserve_runtime_directory();
    let directory = plan.directory().map_or_else(|| cwd.to_owned(), PathBuf::from);
    for (file, origin) in std::mem::take(&mut plan.configurations) {
        let path = match file.strip_prefix("python:") {
            Some(module) => directory.join(module.replace('.', "/")).with_extension("py"),
            None => directory.join(&file),
        };
        if !request.files.iter().any(|given| given.file_name() == path.file_name()) {
            plan.left_out(
                &origin,
                &format!("the settings of {file}: pass this file too: rgun migrate … {}", path.display()),
            );
        }
    }
    plan.deduplicate();
}

/// Notes that the application or its directory is unknown.
fn note_missing_keys(plan: &mut Plan) {
    for (key, example) in [(name::TARGET, "mysite.wsgi"), (name::DIRECTORY, "/srv/mysite")] {
        if !plan.settings.contains_key(key) {
            plan.left_out(
                "rgun.toml",
                &format!("{key}: none of the files sets this key; write for example \"{example}\""),
            );
        }
    }
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
