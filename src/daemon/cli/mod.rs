//! The command line: `rgun [APP] [flags]`, `rgun check [APP] [flags]`, the commands for a running
//! daemon (`rgun reload`, `rgun status`, …), `rgun init [NAME]`, `rgun doctor [NAME]`,
//! `rgun migrate FILE…`.
//!
//! [`parse`] turns arguments, variables and the current directory into a [`Command`] or a
//! [`Failure`]; `main` calls it once, prints and exits. Parsing prints nothing. The only state of
//! the process that it reads is its user. An [`Invocation`] keeps its sources, so that a reload can
//! read the configuration again ([`Invocation::reread`]).
//!
//! `flags` has the flags that rgun supports, in gunicorn's spelling. `compat` has uvicorn's
//! spelling of some of them, and tables of the other flags of gunicorn and uvicorn, each with its
//! handling. No flag of either server is silently dropped. `gunicorn_conf` runs gunicorn's
//! configuration file; `foreign` parses the file's settings and `GUNICORN_CMD_ARGS` as flags.

mod bare_word;
mod compat;
pub mod control;
pub mod doctor;
mod error;
mod failures;
mod flags;
mod foreign;
mod gunicorn_conf;
pub mod init;
mod matches;
pub mod migrate;
mod peer_variables;
mod service;
mod unit_state;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::CommandFactory;

use nix::unistd::geteuid;

use crate::config::{self, Config, ConfigErrors, DEFAULT_FILE, Environment, FileSource, Layer, Loaded};
use compat::translate::{Translation, translate};
use control::ControlRequest;
use doctor::DoctorRequest;
pub use error::Failure;
use failures::{failure_of, no_application};
use flags::control::ControlCommand;
use flags::{CONTROL_COMMANDS, Cli, Flags, ParsedFlags, Subcommand};
use foreign::ForeignFlags;
use gunicorn_conf::{ConfLocation, ConfSettings};
pub use gunicorn_conf::{DaemonHooks, HookProcess, ServerFacts};
use init::InitRequest;
use matches::{explain_target, from_clap_error, parse_matches};
use migrate::MigrateRequest;
use service::Service;
pub use service::own_directory;

/// The command to carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Serve the application until a signal stops it.
    Serve(Box<Invocation>),
    /// Check the configuration and the application.
    Check(Box<Invocation>, CheckIdentity),
    /// Check a configuration in Python, started by root. The file is executed as the user whose
    /// rights are checked, never as root.
    CheckPython(Box<UnreadInvocation>, CheckIdentity),
    /// Ask a running daemon to do something, or for its state. For a reload, the daemon reads the
    /// configuration; this process may lack the permission.
    Control(ControlRequest),
    /// Say what is wrong with a service.
    Doctor(DoctorRequest),
    /// Write the files of a service for a project.
    Init(InitRequest),
    /// Print the files that replace a deployment of another server.
    Migrate(MigrateRequest),
}

/// The identity to check as. If there are no flags, the unit's identity is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckIdentity {
    /// `--user`.
    pub user: Option<String>,
    /// `--unit`.
    pub unit: Option<String>,
}

/// The configuration of a start or a check, and its sources.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// The checked configuration.
    pub config: Config,
    /// Warnings for the log, one sentence each: ignored flags and variables, and their
    /// replacements.
    pub warnings: Vec<String>,
    /// The hooks of gunicorn's arbiter, if `gunicorn.conf.py` has some.
    pub daemon_hooks: Option<DaemonHooks>,
    /// The sources, for reading the configuration again.
    sources: Sources,
}

/// The sources of the configuration, with the current directory and the environment of the start.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sources {
    /// The settings of the command line, over those of `GUNICORN_CMD_ARGS`.
    flags: Layer,
    environment: Environment,
    file: Option<ConfigFile>,
    /// Whether `file` is gunicorn's default file, which nothing names.
    is_default_conf: bool,
    cwd: PathBuf,
    program: Option<PathBuf>,
}

/// The file with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ConfigFile {
    /// A TOML file.
    Toml(PathBuf),
    /// `gunicorn.conf.py`.
    Python(ConfLocation),
}

impl ConfigFile {
    /// Returns the file that `--config` or `RGUN_CONFIG` names.
    fn named(value: &OsStr, cwd: &Path) -> Self {
        ConfLocation::from_flag(value, cwd).map_or_else(|| Self::Toml(cwd.join(value)), Self::Python)
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Self::Toml(path) => Some(path),
            Self::Python(location) => location.path(),
        }
    }
}

/// A check's configuration that has not been read, because root must not run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadInvocation {
    warnings: Vec<String>,
    sources: Sources,
}

impl UnreadInvocation {
    /// Returns the file; `None` for a module.
    pub fn file(&self) -> Option<&Path> {
        self.sources.file.as_ref().and_then(ConfigFile::path)
    }

    /// Returns the same as [`Invocation::notice`].
    pub fn notice(&self) -> Option<String> {
        self.sources.notice()
    }

    /// Reads the configuration. `adjust` changes the user of the process that runs a
    /// `gunicorn.conf.py`. `place` has the variables and the current directory for that process;
    /// `None`: those with which rgun was started.
    ///
    /// # Errors
    /// All errors at once.
    pub fn read(
        &self,
        place: Option<(Environment, PathBuf)>,
        adjust: &dyn Fn(&mut std::process::Command),
    ) -> Result<Invocation, ConfigErrors> {
        let mut sources = self.sources.clone();
        if let Some((environment, cwd)) = place {
            sources = Sources { environment, cwd, ..sources };
        }
        let mut invocation = sources.read(adjust)?;
        invocation.warnings.splice(0..0, self.warnings.iter().cloned());
        Ok(invocation)
    }
}

impl Invocation {
    /// Reads the configuration again: the flags and variables of the start, and the current content
    /// of the file.
    ///
    /// # Errors
    /// All errors at once.
    pub fn reread(&self) -> Result<Self, ConfigErrors> {
        self.sources.read(&|_| {})
    }

    /// Returns a sentence for the operator, not a warning, that names gunicorn's default file.
    /// `None` if that file was not read.
    pub fn notice(&self) -> Option<String> {
        self.sources.notice()
    }

    /// Returns the file that was read; `None` if there was none.
    pub fn file(&self) -> Option<&Path> {
        self.sources.file.as_ref().and_then(ConfigFile::path)
    }

    /// Returns whether reading the configuration runs Python, which may take seconds.
    pub fn runs_python(&self) -> bool {
        matches!(self.sources.file, Some(ConfigFile::Python(_)))
    }

    /// Reads the same file and flags as a process with other variables and another current
    /// directory would.
    ///
    /// # Errors
    /// All errors at once.
    pub fn reread_with(&self, environment: Environment, cwd: PathBuf) -> Result<Self, ConfigErrors> {
        Sources { environment, cwd, ..self.sources.clone() }.read(&|_| {})
    }
}

impl Sources {
    fn notice(&self) -> Option<String> {
        let Some(ConfigFile::Python(location)) = self.file.as_ref().filter(|_| self.is_default_conf) else {
            return None;
        };
        Some(format!("reading {location}, as gunicorn does; --config names another file"))
    }

    fn read(&self, adjust: gunicorn_conf::Adjust<'_>) -> Result<Invocation, ConfigErrors> {
        let Self { flags, environment, file, cwd, program, .. } = self;
        let location = match file {
            Some(ConfigFile::Python(location)) => location,
            Some(ConfigFile::Toml(path)) => return self.load(FileSource::Toml(path)),
            None => return self.load(FileSource::None),
        };
        let directory = location.path().and_then(Path::parent);
        let python = config::find_interpreter(flags, environment, cwd, program.as_deref(), directory)?;
        let ConfSettings { layer, mut warnings, daemon_hooks } =
            gunicorn_conf::read(location, &python, cwd, adjust).map_err(ConfigErrors)?;
        let mut invocation = self.load(FileSource::Gunicorn { path: location.path(), layer })?;
        let its = &invocation.config.app.python;
        if its.path != python {
            warnings.push(format!(
                "{location} was run by {}, but the workers run {} ({}); --python names one interpreter for both",
                python.display(),
                its.path.display(),
                its.source
            ));
        }
        invocation.warnings.splice(0..0, warnings);
        invocation.daemon_hooks = daemon_hooks;
        Ok(invocation)
    }

    fn load(&self, file: FileSource<'_>) -> Result<Invocation, ConfigErrors> {
        let Self { flags, environment, cwd, program, .. } = self;
        let Loaded { config, warnings } =
            config::load(flags.clone(), environment, file, cwd, program.as_deref())?;
        Ok(Invocation { config, warnings, daemon_hooks: None, sources: self.clone() })
    }
}

/// Reads the command line; `args` begins with the program's name, `cwd` is absolute.
///
/// # Errors
/// A text to print: help, version, or all errors of the command line and the configuration.
pub fn parse<A>(
    args: impl IntoIterator<Item = A>,
    environment: &Environment,
    cwd: &Path,
) -> Result<Command, Failure>
where
    A: Into<OsString>,
{
    parse_with(args, environment, cwd, Path::new(DEFAULT_FILE))
}

fn parse_with<A>(
    args: impl IntoIterator<Item = A>,
    environment: &Environment,
    cwd: &Path,
    default_file: &Path,
) -> Result<Command, Failure>
where
    A: Into<OsString>,
{
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    let is_start = serves(&args);
    read_line(args, environment, cwd, default_file)
        .map_err(|failure| Failure { is_start: is_start && !failure.stdout, ..failure })
}

/// Returns the failure of a command line in a current directory that does not exist.
pub fn missing_directory(text: String, args: impl IntoIterator<Item = OsString>) -> Failure {
    let args: Vec<OsString> = args.into_iter().collect();
    Failure { is_start: serves(&args), ..Failure::missing_directory(text) }
}

/// Returns whether a command line, which may be invalid, would serve an application.
fn serves(args: &[OsString]) -> bool {
    let names_command = args.get(1).is_some_and(|word| {
        word == "check" || OTHER_COMMANDS.iter().chain(&CONTROL_COMMANDS).any(|command| word == command)
    });
    !names_command && !args.iter().any(|arg| arg == "--check-config")
}

/// Returns the command of a command line.
fn read_line(
    args: Vec<OsString>,
    environment: &Environment,
    cwd: &Path,
    default_file: &Path,
) -> Result<Command, Failure> {
    let Translation { args, layer: foreign, mut warnings, mut errors, is_silent, .. } = translate_line(args);
    let (cli, matches) = parse_matches(&args).map_err(|error| from_clap_error(&error, &args))?;
    let (check_as, mut flags, matches) = match (cli.command, matches.subcommand()) {
        (Some(Subcommand::Control(command)), _) => return control_command(command, cwd),
        (Some(Subcommand::Doctor { instance, json }), _) => return doctor_command(instance, json),
        (Some(Subcommand::Init(init)), _) => return init_command(init),
        (Some(Subcommand::Migrate { files, write, yes, python }), _) => {
            return Ok(Command::Migrate(MigrateRequest { files, write, yes, python }));
        }
        (Some(Subcommand::Check(check)), Some((_, matches))) => {
            let mut flags = check.flags;
            (Some(CheckIdentity { user: flags.take_user(), unit: check.unit }), flags, matches)
        }
        _ => (None, cli.flags, &matches),
    };
    compat::evaluate(matches, &[], &mut warnings, &mut errors);
    warnings.extend(config::unread_variables(environment).into_iter().map(unread_variable_warning));
    let has_app = flags.app().is_some();
    if has_app {
        complete_flags(&mut flags, environment);
    } else {
        warnings.extend(peer_variables::warn_without_app(environment));
    }
    let ParsedFlags { layer: mut typed, config: named, check } = flags.parse(&mut warnings, &mut errors);
    typed.extend(foreign);
    errors.extend(flags.app().and_then(|target| explain_target(target, &typed, cwd)));
    let mut variables = if has_app { peer_variables::read(environment) } else { ForeignFlags::default() };
    let gunicorn = foreign::read_variable(environment);
    config::overlay(&mut variables.layer, gunicorn.layer);
    for foreign in [(variables.warnings, variables.errors), (gunicorn.warnings, gunicorn.errors)] {
        warnings.extend(foreign.0);
        errors.extend(foreign.1);
    }
    if !errors.is_empty() {
        return Err(failure_of(errors));
    }
    let mut flags = variables.layer;
    config::overlay(&mut flags, typed);
    let named =
        named.or(gunicorn.config).or_else(|| environment.value(config::CONFIG_VARIABLE).map(OsString::from));
    let is_file_named = named.is_some();
    let file = choose_file(named, &flags, environment, cwd, default_file)?;
    let is_default_conf = !is_file_named && matches!(file, Some(ConfigFile::Python(_)));
    let program = args.first().and_then(|name| config::find_program(name, environment, cwd));
    let check_as = check_as.or_else(|| check.then(CheckIdentity::default));
    let is_uvicorn = variables.has_uvicorn_flags || is_for_uvicorn(matches, is_silent);
    let environment = adjusted_environment(environment, is_uvicorn, check_as.is_some());
    let sources = Sources { flags, environment, file, is_default_conf, cwd: cwd.to_owned(), program };
    command_of(sources, warnings, check_as)
}

/// Returns the command for a running daemon.
fn control_command(command: ControlCommand, cwd: &Path) -> Result<Command, Failure> {
    Ok(Command::Control(ControlRequest::new(command, cwd)?))
}

/// Returns the command `rgun doctor`.
fn doctor_command(instance: Option<String>, json: bool) -> Result<Command, Failure> {
    Ok(Command::Doctor(DoctorRequest { service: Service::new(instance)?, json }))
}

/// Returns the command `rgun init`.
fn init_command(arguments: flags::Init) -> Result<Command, Failure> {
    let flags::Init { instance, directory, user, bind, python, root, yes } = arguments;
    let service = Service::new(instance)?;
    Ok(Command::Init(InitRequest { service, directory, user, bind, python, root, yes }))
}

/// Commands that neither serve nor check an application, without those for a running daemon.
const OTHER_COMMANDS: [&str; 3] = ["doctor", "init", "migrate"];

/// Completes flags by variables of uvicorn and granian that are only part of a setting.
fn complete_flags(flags: &mut Flags, environment: &Environment) {
    flags.complete_address(|option| peer_variables::address_part(environment, option));
    if peer_variables::names_factory(environment) {
        flags.call_app();
    }
}

/// Rewrites the options of other servers on a command line that serves or checks an application.
fn translate_line(args: Vec<OsString>) -> Translation {
    let mut others = OTHER_COMMANDS.iter().chain(&CONTROL_COMMANDS);
    if args.get(1).is_some_and(|command| others.any(|other| command == other)) {
        return Translation { args, ..Translation::default() };
    }
    let command = compat::add_flags(Cli::command());
    translate(&args, &|name| {
        command.get_arguments().any(|arg| {
            arg.get_long() == Some(name) || arg.get_all_aliases().is_some_and(|names| names.contains(&name))
        })
    })
}

/// Returns whether the line is for uvicorn. `is_silent` means that an option of granian or
/// hypercorn was typed.
fn is_for_uvicorn(matches: &clap::ArgMatches, is_silent: bool) -> bool {
    // Uvicorn spells its interfaces asgi2 and asgi3; the other names are granian's.
    let interface = matches.get_one::<String>("interface").map(String::as_str);
    let is_granians = matches!(interface, Some("asgi" | "asginl" | "rsgi"));
    compat::uvicorn::UvicornFlags::is_used(matches) && !is_silent && !is_granians
}

/// Returns the environment with two adjustments: flags and variables of uvicorn turn the access log
/// on by default, and a check may lack the unit's credentials.
fn adjusted_environment(environment: &Environment, is_uvicorn: bool, is_check: bool) -> Environment {
    let mut environment = environment.clone();
    if is_uvicorn {
        environment = environment.logging_access();
    }
    if is_check {
        environment = environment.allowing_unknown_credentials();
    }
    environment
}

/// Reads the configuration, unless root would run Python for a check.
fn command_of(
    sources: Sources,
    mut warnings: Vec<String>,
    check_as: Option<CheckIdentity>,
) -> Result<Command, Failure> {
    let is_python = matches!(sources.file, Some(ConfigFile::Python(_)));
    if let Some(identity) = check_as.clone().filter(|_| is_python && geteuid().is_root()) {
        return Ok(Command::CheckPython(Box::new(UnreadInvocation { warnings, sources }), identity));
    }
    let mut invocation = Box::new(sources.read(&|_| {}).map_err(|errors| failure_of(errors.0))?);
    warnings.append(&mut invocation.warnings);
    invocation.warnings = warnings;
    if let Some(identity) = check_as {
        return Ok(Command::Check(invocation, identity));
    }
    let Sources { flags, environment, .. } = &invocation.sources;
    match bare_word::check(flags, environment, &invocation.config.app) {
        Some(error) => Err(failure_of(vec![error])),
        None => Ok(Command::Serve(invocation)),
    }
}

/// Returns the file to read: the named one, or a default.
fn choose_file(
    named: Option<OsString>,
    flags: &Layer,
    environment: &Environment,
    cwd: &Path,
    default_file: &Path,
) -> Result<Option<ConfigFile>, Failure> {
    if let Some(named) = named {
        return Ok(Some(ConfigFile::named(&named, cwd)));
    }
    let is_named = flags.contains_key(config::name::TARGET);
    // `config::load` reports errors other than a missing file.
    if !is_named && default_file.try_exists().unwrap_or(true) {
        return Ok(Some(ConfigFile::Toml(default_file.to_owned())));
    }
    if let Some(location) = ConfLocation::default_in(cwd) {
        return Ok(Some(ConfigFile::Python(location)));
    }
    if is_named || environment.value("RGUN_APP_TARGET").is_some() {
        return Ok(None);
    }
    Err(no_application(default_file))
}

/// Returns the warning about a variable `RGUN_…` that rgun does not read, with the variable or flag
/// to use instead.
fn unread_variable_warning(variable: &str) -> String {
    let word = variable.strip_prefix("RGUN_").unwrap_or(variable).to_lowercase();
    let long = word.replace('_', "-");
    let command = Cli::command();
    let flag = command.get_arguments().any(|arg| arg.get_long() == Some(&long)).then(|| format!("--{long}"));
    let key = config::key_of_word(&word).map(|key| match key {
        config::name::ENV | config::name::PATH_RULES => format!("{key} in the file"),
        key => config::variable_name(key),
    });
    let remedy = match (key, flag) {
        (Some(key), Some(flag)) => format!("use {key} or {flag}"),
        (Some(only), None) | (None, Some(only)) => format!("use {only}"),
        (None, None) if config::SECTIONS.contains(&word.as_str()) => {
            format!("the keys of [{word}] are set by {variable}_<KEY>")
        }
        (None, None) => "rgun reads no such variable, see ENVIRONMENT in rgun(1)".to_owned(),
    };
    format!("{variable}: ignored; {remedy}")
}

#[cfg(test)]
mod tests;
