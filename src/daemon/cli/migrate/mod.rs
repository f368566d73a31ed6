//! `rgun migrate FILE…`: prints the files that replace a deployment of another server, and notes
//! about the differences.
//!
//! `inputs` reads the files and recognizes their kinds by name and content. A `gunicorn.conf.py` is
//! run here; each other kind has a module that adds to a [`Plan`] or returns a plan for each server
//! in the file: `unit`, `script` (Procfiles too), `supervisord`, `container`, `compose`,
//! `kubernetes`, `hypercorn`, `uwsgi`, `nginx_unit`. `shell` interprets the commands in these files
//! as far as they concern the server, and `command` migrates the command that starts the server:
//! flags of gunicorn and uvicorn are parsed as those of `rgun` (`flags`), options of granian,
//! hypercorn, daphne and uWSGI by a table (`options`). `variables` applies `GUNICORN_CMD_ARGS` and
//! its like. `render` writes the result.
//!
//! Several servers become several instances (`rgun@NAME.service`). An option without a counterpart
//! is listed with the reason, unless rgun needs no setting for the option.

mod command;
mod compose;
mod container;
mod defaults;
mod directories;
mod env_file;
mod fastapi;
mod finish;
mod flags;
mod hypercorn;
mod inputs;
mod interpreter;
mod kubernetes;
mod nginx_unit;
mod options;
mod placeholders;
mod plan;
pub(super) mod render;
mod script;
mod server;
mod shell;
#[cfg(test)]
mod snapshots;
mod supervisord;
mod tokens;
mod unit;
mod uwsgi;
mod variables;
mod words;
mod yaml;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::unistd::geteuid;

use super::foreign::FlagSource;
use super::gunicorn_conf::{self, ConfLocation, HookFunction};
use crate::config::{self, Environment, Layer, Setting, Value, name};
use crate::exit_status::{EX_CONFIG, EX_USAGE};
pub(super) use command::UNKNOWN_INTERPRETER;
use inputs::{InputFile, Kind};
use plan::DropIn;
pub(super) use plan::{PRIMARY_GROUP, Plan};
use server::ReplacedServer;

/// The arguments of `rgun migrate`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrateRequest {
    /// The files of the deployment; `-` is stdin.
    pub(super) files: Vec<PathBuf>,
    /// The directory to write the result to; `None` prints it only.
    pub(super) write: Option<PathBuf>,
    /// Whether to write without asking on a terminal.
    pub(super) yes: bool,
    /// The interpreter for a `gunicorn.conf.py`.
    pub(super) python: Option<OsString>,
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
    let Services { inputs, base, plans: mut services } = services_of(request, None, environment, cwd)?;
    if services.is_empty() {
        if base.settings.is_empty() && base.directives.is_empty() && !base.left_out.is_empty() {
            return Err((base.left_out.join("\nerror: "), EX_CONFIG));
        }
        services.push(base.clone());
    }
    name_services(&mut services);
    for service in &mut services {
        finish::add_defaults(&inputs, cwd, service);
        finish::note_missing_keys(service);
    }
    Ok(render_all(&base, &mut services))
}

/// Returns the plan for the files of the request, with the defaults of the old server. Of several
/// servers, chooses the one with the earliest of the `wanted` names, or else the first server; a
/// note lists the others.
///
/// # Errors
/// The reason, and the exit status.
pub(super) fn plan_of(
    request: &MigrateRequest,
    wanted: &[&str],
    environment: &Environment,
    cwd: &Path,
) -> Result<Plan, (String, u8)> {
    let Services { inputs, base, plans: services } = services_of(request, Some(cwd), environment, cwd)?;
    let of_name = |name: &&str| services.iter().position(|service| service.name == **name);
    let chosen = wanted.iter().find_map(of_name).unwrap_or(0);
    let mut plan = services.get(chosen).unwrap_or(&base).clone();
    let others = services.iter().enumerate().filter(|(idx, _)| *idx != chosen);
    let others: Vec<_> = others.map(|(_, service)| service.describe()).collect();
    if !others.is_empty() {
        let text = format!(
            "it has the settings of {}; the files also start {}: rgun migrate prints an instance for each",
            plan.describe(),
            others.join(", ")
        );
        plan.left_out("rgun.toml", &text);
    }
    plan.changed.extend(base.changed);
    plan.left_out.extend(base.left_out);
    finish::add_defaults(&inputs, cwd, &mut plan);
    Ok(plan)
}

/// The servers in the files of a request.
struct Services {
    inputs: Vec<InputFile>,
    /// The settings of all servers.
    base: Plan,
    /// A plan for each server.
    plans: Vec<Plan>,
}

/// Reads the files of a request. The commands of a Procfile start in `home`, if it is known.
///
/// # Errors
/// The reason, and the exit status.
fn services_of(
    request: &MigrateRequest,
    home: Option<&Path>,
    environment: &Environment,
    cwd: &Path,
) -> Result<Services, (String, u8)> {
    let inputs = inputs::read(&request.files, cwd)?;
    let mut base = Plan { env_files: inputs::env_files(&inputs), ..Plan::default() };
    for path in inputs::own_env_files(&inputs) {
        base.add_env_file(&path, &path);
    }
    let is_configuration = |input: &&InputFile| input.kind == Kind::Configuration;
    if inputs.iter().any(|input| is_configuration(&input)) {
        // The other files may name the interpreter that the configuration needs.
        let mut draft = base.clone();
        let services = collect(&inputs, home, &mut draft)?;
        let python = services.iter().chain([&draft]).find_map(Plan::python);
        let service = services.first().unwrap_or(&draft);
        for input in inputs.iter().filter(is_configuration) {
            let python = configuration_python(request, input, python.as_deref(), (environment, cwd))?;
            add_configuration(input, &python, service, cwd, &mut base)?;
        }
    }
    let plans = collect(&inputs, home, &mut base)?;
    Ok(Services { inputs, base, plans })
}

/// Adds the files other than configurations. Returns a plan for each server; what belongs to all of
/// them goes to `base`.
fn collect(inputs: &[InputFile], home: Option<&Path>, base: &mut Plan) -> Result<Vec<Plan>, (String, u8)> {
    let mut services = Vec::new();
    let image = inputs
        .iter()
        .find(|input| {
            let uses_image = |other: &InputFile| matches!(other.kind, Kind::Compose | Kind::Kubernetes);
            input.kind == Kind::Containerfile && inputs.iter().any(uses_image)
        })
        .map(|input| container::read_image(&input.text, &input.label, base));
    for input in inputs {
        let InputFile { label, path, text, kind } = input;
        let invalid = |reason: String| (format!("{}: {reason}", path.display()), EX_CONFIG);
        let full = path.display().to_string();
        let found = match kind {
            Kind::Configuration | Kind::EnvFile => Vec::new(),
            Kind::Unit => one(base, label, |plan| add_unit(input, inputs, plan)),
            Kind::Uwsgi => one(base, label, |plan| uwsgi::migrate(text, label, &full, plan)),
            Kind::Hypercorn => {
                hypercorn::migrate(text, label, base).map_err(invalid)?;
                // Usually a command names the application.
                if base.is_server { one(base, label, |_| {}) } else { Vec::new() }
            }
            Kind::Procfile => script::migrate_procfile(text, label, home, base),
            Kind::Script => script::migrate_script(text, label, &full, base),
            Kind::Supervisord => supervisord::migrate(text, label, &full, base),
            Kind::NginxUnit => nginx_unit::migrate(text, label, base).map_err(invalid)?,
            Kind::Containerfile if image.is_some() => Vec::new(),
            Kind::Containerfile => container::migrate_containerfile(text, label, base),
            Kind::Compose => {
                let directory = path.parent().unwrap_or(path).display().to_string();
                compose::migrate(text, label, &directory, image.as_ref(), base).map_err(invalid)?
            }
            Kind::Kubernetes => kubernetes::migrate(text, label, image.as_ref(), base).map_err(invalid)?,
            Kind::Quadlet => container::migrate_quadlet(text, label, base),
        };
        services.extend(found.into_iter().map(|mut service| {
            if service.name.is_empty() {
                label.split('.').find(|part| !part.is_empty()).unwrap_or(label).clone_into(&mut service.name);
            }
            service
        }));
    }
    Ok(services)
}

/// Runs the migration of a file with at most one server. A file without one adds to `base`.
fn one(base: &mut Plan, label: &str, migrate: impl FnOnce(&mut Plan)) -> Vec<Plan> {
    let mut plan = Plan { is_server: false, name: String::new(), ..base.clone() };
    migrate(&mut plan);
    if plan.is_server {
        let stem = label.rsplit_once('.').map_or(label, |(stem, _)| stem);
        return vec![Plan { name: stem.to_owned(), ..plan }];
    }
    *base = plan;
    Vec::new()
}

/// Adds a unit. The socket units of a service that was passed too are added with the service.
fn add_unit(input: &InputFile, inputs: &[InputFile], plan: &mut Plan) {
    let units = || inputs.iter().filter(|other| other.kind == Kind::Unit);
    let gets = |service: &InputFile, socket: &InputFile| {
        service.label.strip_suffix(".service").is_some_and(|stem| {
            socket.label.strip_suffix(".socket") == Some(stem)
                || unit::sockets_of(&service.text, &service.label).contains(&socket.label)
        })
    };
    if units().any(|service| gets(service, input)) {
        return;
    }
    for socket in units().filter(|socket| gets(input, socket)) {
        unit::migrate(&socket.text, &socket.label, plan);
    }
    unit::migrate(&input.text, &input.label, plan);
}

/// Gives each service a name of its own that can be the name of an instance.
fn name_services(services: &mut [Plan]) {
    let mut names: Vec<String> = Vec::new();
    for service in services {
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_');
        let plain: String =
            service.name.chars().map(|letter| if is_plain(letter) { letter } else { '-' }).collect();
        let stem = if plain.trim_matches('-').is_empty() { "app" } else { plain.trim_matches('-') };
        let others = (2..).map(|number| format!("{stem}-{number}"));
        let name = std::iter::once(stem.to_owned()).chain(others).find(|name| !names.contains(name));
        service.name = name.unwrap_or_default();
        names.push(service.name.clone());
    }
}

/// Renders the services: one as `rgun.service`, several as instances.
fn render_all(base: &Plan, services: &mut [Plan]) -> Migration {
    if let [service] = services {
        service.changed.extend_from_slice(&base.changed);
        service.left_out.extend_from_slice(&base.left_out);
        service.deduplicate();
        let outputs = render::files(service, None);
        let text = format!(
            "{}{}{}",
            render::differences(&outputs),
            render::notes(service, None),
            render::next_steps(&[])
        );
        return Migration { text, outputs };
    }
    let (mut text, mut outputs) = (String::new(), Vec::new());
    for service in
        services.iter_mut().filter(|service| service.values(DropIn::Socket, "ListenStream").is_empty())
    {
        service.directive(DropIn::Socket, "ListenStream", "127.0.0.1:8000");
        service.changed.push(
            "ListenStream=127.0.0.1:8000: the default of the old server; rgun@.socket has another".to_owned(),
        );
    }
    note_shared_addresses(services);
    for service in services.iter_mut() {
        service.changed.retain(|note| !base.changed.contains(note));
        service.left_out.retain(|note| !base.left_out.contains(note));
        let files = render::files(service, Some(&service.name));
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "# rgun@{}.service\n\n{}{}\n",
            service.name,
            render::differences(&files),
            render::notes(service, Some(&service.name))
        );
        outputs.extend(files);
    }
    let names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
    let mut common =
        Plan { changed: base.changed.clone(), left_out: base.left_out.clone(), ..Plan::default() };
    common.deduplicate();
    text.push_str(&render::notes(&common, None));
    text.push_str(&render::next_steps(&names));
    Migration { text, outputs }
}

/// Notes addresses that two services listen on, such as those of two containers.
fn note_shared_addresses(services: &mut [Plan]) {
    let addresses: Vec<Vec<String>> =
        services.iter().map(|service| service.values(DropIn::Socket, "ListenStream")).collect();
    for (idx, service) in services.iter_mut().enumerate() {
        for (other, theirs) in addresses.iter().enumerate().filter(|(other, _)| *other < idx) {
            for address in theirs.iter().filter(|address| addresses[idx].contains(address)) {
                service.left_out(
                    "rgun.socket",
                    &format!(
                        "ListenStream={address}: is also an address of service {}; give one of them another",
                        other + 1
                    ),
                );
            }
        }
    }
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

/// Returns the interpreter of a `gunicorn.conf.py`. `named` is the one that the other files name.
///
/// # Errors
/// There is none, or root has not allowed to run the file.
fn configuration_python(
    request: &MigrateRequest,
    input: &InputFile,
    named: Option<&str>,
    (environment, cwd): (&Environment, &Path),
) -> Result<PathBuf, (String, u8)> {
    let wrong = |errors: Vec<config::ConfigError>| (config::ConfigErrors(errors).to_string(), EX_CONFIG);
    let directory = input.path.parent().unwrap_or(cwd);
    let python = match (&request.python, named) {
        (Some(python), _) => {
            let mut flags = Layer::new();
            flags.insert(name::PYTHON, Setting::flag("--python", Value::os(python)));
            config::find_interpreter(&flags, environment, cwd, None, None)
                .map_err(|errors| wrong(errors.0))?
        }
        (None, Some(named)) => PathBuf::from(named),
        // The interpreter of the file's project, not that of the directory in which rgun runs.
        (None, None) => config::find_interpreter(&Layer::new(), environment, directory, None, None)
            .map_err(|errors| wrong(errors.0))?,
    };
    if geteuid().is_root() && request.python.is_none() {
        let prefix = python.parent().and_then(Path::parent);
        let is_environment = prefix.is_some_and(|prefix| prefix.join("pyvenv.cfg").is_file());
        let remedy = if is_environment || named.is_some() {
            format!("or pass --python {} to allow it", python.display())
        } else {
            "or allow it with --python and the application's interpreter, which is not beside the file"
                .to_owned()
        };
        let reason = "is a Python program, which rgun migrate does not execute as root; run it as the application's user";
        return Err((format!("{}: {reason}, {remedy}", input.path.display()), EX_USAGE));
    }
    Ok(python)
}

/// Runs a `gunicorn.conf.py` in the directory and with the variables of the service that the other
/// files describe, and adds its settings.
fn add_configuration(
    input: &InputFile,
    python: &Path,
    service: &Plan,
    cwd: &Path,
    plan: &mut Plan,
) -> Result<(), (String, u8)> {
    let wrong = |errors: Vec<config::ConfigError>| (config::ConfigErrors(errors).to_string(), EX_CONFIG);
    let location = ConfLocation::File(input.path.clone());
    let home = service.directory().map(PathBuf::from).filter(|directory| directory.is_dir());
    let variables = service.scope();
    let mut arguments = gunicorn_conf::run(&location, python, home.as_deref().unwrap_or(cwd), &|command| {
        command.envs(variables.values());
    })
    .map_err(wrong)?;
    let origin = location.to_string();
    if let Some(names) = arguments.take_variable_names() {
        // Not their values, which may be secrets that the file has read.
        let text = format!("sets {names}: set the same in app.env, or in a file that EnvironmentFile= names");
        plan.left_out(&format!("{origin}: os.environ"), &text);
    }
    arguments.add_process_state();
    plan.left_out.extend(arguments.warnings);
    for error in arguments.errors {
        plan.left_out(&error.origin, &format!("{}; {}", error.reason, error.hint.unwrap_or_default()));
    }
    let args: Vec<OsString> = std::iter::once("rgun".into()).chain(arguments.args).collect();
    flags::add_arguments(&args, FlagSource::File(&origin), &origin, &flags::FlagSet::new(), plan);
    for HookFunction { setting, key, target } in arguments.hooks {
        let value = target.map_or_else(|| location.function(&setting), Value::text);
        plan.set(key, value, &format!("{origin}: {setting}"));
    }
    for hook in arguments.daemon_hooks {
        let text = "rgun.toml has no such hook; ExecStartPre=, ExecStartPost= or ExecStopPost= run a command";
        plan.left_out(&format!("{origin}: {hook}"), text);
    }
    if let Some(setting) = arguments.worker_settings.first() {
        let origin = format!("{origin}: {setting}");
        gunicorn_conf::run_in_workers(&location, &origin, &mut plan.settings);
    }
    plan.changed.push(format!("{origin}: values that the file computes were computed now, on this machine"));
    plan.servers.push(ReplacedServer::Gunicorn);
    Ok(())
}

/// Writes the files below `directory`, and returns their names. Existing files stay.
fn write(directory: &Path, outputs: &[render::Output]) -> Result<String, String> {
    let mut text = "Written:\n".to_owned();
    for output in outputs {
        let path = directory.join(&output.path);
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
