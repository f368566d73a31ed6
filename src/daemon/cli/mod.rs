//! The command line: `rgun [APP] [flags]`, `rgun check [APP] [flags]`, `rgun reload`.
//!
//! [`parse`] turns arguments, variables and the current directory into a [`Command`] or a [`Failure`]; `main` calls it
//! once, prints and exits. Parsing prints nothing and reads no process state. An [`Invocation`] keeps its sources, so
//! that a reload can read the configuration again ([`Invocation::reread`]).
//!
//! `flags` has the flags that rgun supports, in gunicorn's spelling. `compat` has uvicorn's spelling of some of them,
//! and tables of the other flags of gunicorn and uvicorn, each with its handling. No flag of either is silently
//! dropped.

mod compat;
mod error;
mod flags;
pub mod reload;

use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use crate::config::{self, Config, ConfigError, ConfigErrors, DEFAULT_FILE, Environment, Layer, Loaded};
use flags::{Cli, ParsedFlags, Subcommand};

/// The command to carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Serve the application until a signal stops it.
    Serve(Box<Invocation>),
    /// Check the configuration and the application.
    Check(Box<Invocation>, CheckIdentity),
    /// Ask a running daemon to reload. The daemon reads the configuration; this process may lack the permission.
    Reload {
        /// The daemon's control socket, absolute; `None` for the one of the packaged unit.
        socket: Option<PathBuf>,
    },
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
    /// Warnings for the log, one sentence each: ignored flags and variables, and their replacements.
    pub warnings: Vec<String>,
    /// The sources, for reading the configuration again.
    sources: Sources,
}

/// The sources of the configuration. The current directory and the environment are those at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sources {
    flags: Layer,
    environment: Environment,
    file: Option<PathBuf>,
    cwd: PathBuf,
    program: Option<PathBuf>,
}

impl Invocation {
    /// Reads the configuration again: the flags and variables of the start, and the current content of the file.
    ///
    /// # Errors
    /// All errors at once.
    pub fn reread(&self) -> Result<Self, ConfigErrors> {
        let mut again = self.sources.read()?;
        if again.config.listen.addresses() != self.config.listen.addresses() {
            again.warnings.push(format!(
                "{} has changed, which needs a restart: a reload keeps the sockets",
                config::name::BIND
            ));
        }
        Ok(again)
    }

    /// The file that was read; `None` if there was none.
    pub fn file(&self) -> Option<&Path> {
        self.sources.file.as_deref()
    }

    /// Reads the same file and flags as a process with other variables and another current directory would.
    ///
    /// # Errors
    /// All errors at once.
    pub fn reread_with(&self, environment: Environment, cwd: PathBuf) -> Result<Self, ConfigErrors> {
        Sources { environment, cwd, ..self.sources.clone() }.read()
    }
}

impl Sources {
    fn read(&self) -> Result<Invocation, ConfigErrors> {
        let Self { flags, environment, file, cwd, program } = self;
        let Loaded { config, warnings } =
            config::load(flags.clone(), environment, file.as_deref(), cwd, program.as_deref())?;
        Ok(Invocation { config, warnings, sources: self.clone() })
    }
}

/// A text to print before exiting: help, version or errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The text; ends with a newline.
    pub text: String,
    /// The exit status: [`EX_USAGE`], [`EX_CONFIG`], or 0 for `--help` and `--version`.
    pub status: u8,
    /// Whether the text goes to stdout (help, version) or to stderr (errors).
    pub stdout: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.text.trim_end())
    }
}

impl Error for Failure {}

/// EX_USAGE of sysexits(3head): the command line is wrong. The unit does not restart on it.
pub const EX_USAGE: u8 = 64;

/// EX_CONFIG of sysexits(3head): the configuration is wrong. The unit does not restart on it.
pub const EX_CONFIG: u8 = 78;

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
    let (cli, matches) = parse_matches(&args).map_err(|error| from_clap_error(&error, &args))?;
    let (check_as, flags, matches) = match (&cli.command, matches.subcommand()) {
        (Some(Subcommand::Reload { socket }), _) => {
            return Ok(Command::Reload { socket: socket.as_ref().map(|path| cwd.join(path)) });
        }
        (Some(Subcommand::Check(check)), Some((_, matches))) => {
            let identity = CheckIdentity { user: check.user.clone(), unit: check.unit.clone() };
            (Some(identity), &check.flags, matches)
        }
        _ => (None, &cli.flags, &matches),
    };
    let mut warnings = Vec::new();
    let mut errors = Vec::new();
    let supported: &[&str] = if check_as.is_some() { &["user"] } else { &[] };
    compat::evaluate(matches, supported, &mut warnings, &mut errors);
    if environment.value("GUNICORN_CMD_ARGS").is_some() {
        warnings
            .push("GUNICORN_CMD_ARGS: ignored; use flags on the command line, or keys in the file".into());
    }
    compat::uvicorn::warn_about_variables(environment, &mut warnings);
    warnings.extend(config::unread_variables(environment).into_iter().map(unread_variable_warning));
    let ParsedFlags { layer, config, check } = flags.parse(&mut warnings, &mut errors);
    if !errors.is_empty() {
        return Err(failure(&ConfigErrors(errors), EX_USAGE));
    }
    let file = match config.or_else(|| environment.value(config::CONFIG_VARIABLE).map(PathBuf::from)) {
        Some(path) => Some(cwd.join(path)),
        None if layer.contains_key(config::name::TARGET) => None,
        // `config::load` reports errors other than a missing file.
        None if default_file.try_exists().unwrap_or(true) => Some(default_file.to_owned()),
        None if environment.value("RGUN_APP_TARGET").is_some() => None,
        None => return Err(no_application(default_file)),
    };
    let program = args.first().and_then(|name| config::find_program(name, environment, cwd));
    let sources =
        Sources { flags: layer, environment: environment.clone(), file, cwd: cwd.to_owned(), program };
    let mut invocation = Box::new(sources.read().map_err(|errors| {
        let status = if errors.0.iter().all(is_on_command_line) { EX_USAGE } else { EX_CONFIG };
        failure(&errors, status)
    })?);
    warnings.append(&mut invocation.warnings);
    invocation.warnings = warnings;
    Ok(match check_as {
        Some(identity) => Command::Check(invocation, identity),
        None if check => Command::Check(invocation, CheckIdentity::default()),
        None => Command::Serve(invocation),
    })
}

/// The warning about a variable `RGUN_…` that rgun does not read: its name, and the variable or flag to use instead.
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
        (None, None) => "rgun reads no such variable, see ENVIRONMENT in rgun(8)".to_owned(),
    };
    format!("{variable}: ignored; {remedy}")
}

fn parse_matches(args: &[OsString]) -> Result<(Cli, ArgMatches), clap::Error> {
    let matches = compat::add_flags(Cli::command()).try_get_matches_from(args)?;
    Ok((Cli::from_arg_matches(&matches)?, matches))
}

/// Converts clap's error, whose exit status for a usage error would be 2.
fn from_clap_error(error: &clap::Error, args: &[OsString]) -> Failure {
    let is_requested = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if error.kind() == ErrorKind::InvalidUtf8
        && let Some(argument) = find_invalid_utf8(args)
    {
        let text = format!(
            "error: argument \"{}\" is not UTF-8\n\nFor more information, try '--help'.\n",
            argument.as_encoded_bytes().escape_ascii()
        );
        return Failure { text, status: EX_USAGE, stdout: false };
    }
    if !is_requested && let Some((typed, meant)) = find_misspelled_flag(args) {
        let text = format!(
            "error: '{typed}' is not a flag: did you mean {meant}?\n\nFor more information, try '--help'.\n"
        );
        return Failure { text, status: EX_USAGE, stdout: false };
    }
    Failure {
        text: error.render().to_string(),
        status: if is_requested { 0 } else { EX_USAGE },
        stdout: is_requested,
    }
}

/// Finds the argument that clap refuses because it is not UTF-8; clap's error does not name it. The values of some
/// flags need not be UTF-8, so each candidate is tried while all other arguments are valid.
fn find_invalid_utf8(args: &[OsString]) -> Option<&OsString> {
    args.iter().enumerate().filter(|(_, arg)| arg.to_str().is_none()).find_map(|(idx, arg)| {
        let mut others: Vec<OsString> =
            args.iter().map(|arg| arg.to_string_lossy().into_owned().into()).collect();
        others[idx].clone_from(arg);
        let error = parse_matches(&others).err()?;
        (error.kind() == ErrorKind::InvalidUtf8).then_some(arg)
    })
}

/// Finds a flag with a space after its hyphens (`-- bind 0:8000`), which gunicorn ignores, or with one hyphen
/// (`-bind`). Returns it as typed, and in the correct spelling.
fn find_misspelled_flag(args: &[OsString]) -> Option<(String, String)> {
    let command = compat::add_flags(Cli::command());
    let is_flag = |word: &str| command.get_arguments().any(|arg| arg.get_long() == Some(word));
    let words = || args.iter().skip(1).map_while(|arg| arg.to_str());
    let apart = words().zip(words().skip(1)).find_map(|(hyphens, word)| {
        let name = word.split('=').next().unwrap_or_default();
        (hyphens == "--" && is_flag(name)).then(|| (format!("-- {word}"), format!("--{word}")))
    });
    let one_hyphen = || {
        words().take_while(|word| *word != "--").find_map(|word| {
            let name = word.strip_prefix('-')?.split('=').next().unwrap_or_default();
            (name.len() > 1 && is_flag(name)).then(|| (word.to_owned(), format!("-{word}")))
        })
    };
    apart.or_else(one_hyphen)
}

fn failure(errors: &ConfigErrors, status: u8) -> Failure {
    Failure { text: format!("{errors}\n"), status, stdout: false }
}

/// Returns whether the error is in an argument, not in a file or a variable.
fn is_on_command_line(error: &ConfigError) -> bool {
    error.origin.starts_with("--") || error.origin == flags::APP
}

fn no_application(default_file: &Path) -> Failure {
    let file = default_file.display();
    let text = format!(
        "error: no application given, and there is no {file}

Name one, as for gunicorn or uvicorn:
    rgun mysite.wsgi --chdir /srv/mysite

or write {file}:
    [app]
    target = \"mysite.wsgi\"
    directory = \"/srv/mysite\"

For more information, try '--help'.
"
    );
    Failure { text, status: EX_USAGE, stdout: false }
}

#[cfg(test)]
mod tests;
