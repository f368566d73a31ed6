//! Reads the variables of uvicorn (`UVICORN_PORT`) and granian (`GRANIAN_PORT`). Both servers use
//! the library click, which reads each option from a variable too.
//!
//! The variables count only with APP on the command line, which is how these servers are started: a
//! stray variable must not change a service that is configured by a file. The command line and
//! `GUNICORN_CMD_ARGS` override them, and they override a file.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::{ArgAction, CommandFactory};

use super::compat;
use super::compat::peers::GRANIAN;
use super::compat::translate::Translation;
use super::compat::uvicorn::OPTIONS;
use super::flags::Cli;
use super::foreign::{self, FlagSource, ForeignFlags};
use crate::config::{Environment, overlay};

/// Parses the variables of both servers. Those of uvicorn override those of granian.
pub(super) fn read(environment: &Environment) -> ForeignFlags {
    let mut flags = read_granian(environment);
    let uvicorn = read_uvicorn(environment);
    overlay(&mut flags.layer, uvicorn.layer);
    flags.warnings.extend(uvicorn.warnings);
    flags.errors.extend(uvicorn.errors);
    flags.has_uvicorn_flags = uvicorn.has_uvicorn_flags || is_true(environment, &uvicorn_variable(FACTORY));
    flags
}

/// Returns warnings about the variables that do not count because there is no APP on the command
/// line.
pub(super) fn warn_without_app(environment: &Environment) -> Vec<String> {
    let uvicorn = OPTIONS.iter().map(|option| uvicorn_variable(option));
    let granian = GRANIAN.iter().flat_map(|row| row.names).map(|option| granian_variable(option));
    let mut set: Vec<String> =
        uvicorn.chain(granian).filter(|variable| value(environment, variable).is_some()).collect();
    set.sort_unstable();
    set.dedup();
    set.into_iter()
        .map(|variable| {
            format!(
                "{variable}: ignored without APP on the command line; use rgun's own variable \
                 RGUN_<SECTION>_<KEY>, or the file"
            )
        })
        .collect()
}

/// Returns the value of a variable for `option` (`host` or `port`), for a command line that has
/// only the other of the two.
pub(super) fn address_part(environment: &Environment, option: &str) -> Option<String> {
    let variable = value(environment, &uvicorn_variable(option))
        .or_else(|| value(environment, &granian_variable(option)))?;
    variable.to_str().map(str::to_owned)
}

/// The option that changes the application on the command line, and no other setting.
const FACTORY: &str = "factory";

/// Returns whether a variable makes the application on the command line a factory.
pub(super) fn names_factory(environment: &Environment) -> bool {
    is_true(environment, &uvicorn_variable(FACTORY)) || is_true(environment, &granian_variable(FACTORY))
}

fn is_true(environment: &Environment, variable: &str) -> bool {
    value(environment, variable).and_then(boolean) == Some(true)
}

/// Returns whether the variable is that of [`FACTORY`] with a valid value, which the command line's
/// flags have taken over.
fn is_taken(option: &str, value: &OsStr) -> bool {
    option == FACTORY && boolean(value).is_some()
}

/// Returns the value of a variable, unless it is a URL: Kubernetes sets `UVICORN_PORT` to one for a
/// Service that is called uvicorn.
fn value<'a>(environment: &'a Environment, variable: &str) -> Option<&'a OsStr> {
    environment.value(variable).filter(|value| !value.as_bytes().windows(3).any(|bytes| bytes == b"://"))
}

/// Returns the variable of an option of uvicorn. Options that may be repeated have a variable in
/// the plural.
fn uvicorn_variable(option: &str) -> String {
    let parameter = match option {
        "header" => "headers",
        "reload-dir" => "reload_dirs",
        "reload-include" => "reload_includes",
        "reload-exclude" => "reload_excludes",
        other => other,
    };
    format!("UVICORN_{}", parameter.replace('-', "_").to_uppercase())
}

/// Returns the variable of an option of granian.
fn granian_variable(option: &str) -> String {
    let parameter = match option {
        "ws" => "websockets",
        "log" => "log_enabled",
        "access-log" => "log_access_enabled",
        "access-log-fmt" => "log_access_fmt",
        "metrics" => "metrics_enabled",
        other => other,
    };
    format!("GRANIAN_{}", parameter.replace('-', "_").to_uppercase())
}

/// Parses the variables of uvicorn as flags.
pub(super) fn read_uvicorn(environment: &Environment) -> ForeignFlags {
    let command = compat::add_flags(Cli::command());
    let find = |long: &str| command.get_arguments().find(|arg| arg.get_long() == Some(long));
    let (mut args, mut names, mut warnings) = (Vec::new(), Vec::new(), Vec::new());
    // The application is on the command line.
    for option in OPTIONS.iter().filter(|option| **option != "app") {
        let variable = uvicorn_variable(option);
        let Some(value) = value(environment, &variable).filter(|value| !is_taken(option, value)) else {
            continue;
        };
        let is_switch = find(option).is_some_and(|arg| matches!(arg.get_action(), ArgAction::SetTrue));
        let (long, value) = match (is_switch, boolean(value)) {
            (false, _) => ((*option).to_owned(), Some(value)),
            (true, Some(true)) => ((*option).to_owned(), None),
            (true, Some(false)) => (format!("no-{option}"), None),
            (true, None) => {
                warnings.push(not_boolean(&variable, value));
                continue;
            }
        };
        // A flag without an opposite is false by default.
        if find(&long).is_none() {
            continue;
        }
        let mut flag = OsString::from(format!("--{long}"));
        if let Some(value) = value {
            flag.push("=");
            flag.push(value);
        }
        args.push(flag);
        names.push((long, variable));
    }
    let mut parsed = foreign::parse(&args, FlagSource::Variables(&names));
    parsed.warnings.extend(warnings);
    parsed
}

/// Parses the variables of granian as flags and keys.
pub(super) fn read_granian(environment: &Environment) -> ForeignFlags {
    let mut translation = Translation::default();
    let options = GRANIAN.iter().flat_map(|row| row.names.iter().map(move |option| (row, option)));
    for (row, option) in options {
        let variable = granian_variable(option);
        let Some(value) = value(environment, &variable).filter(|value| !is_taken(option, value)) else {
            continue;
        };
        let row = match (row.has_value, boolean(value)) {
            (true, _) | (false, Some(true)) => row,
            (false, Some(false)) => {
                let negated = format!("no-{option}");
                match GRANIAN.iter().find(|row| row.names.contains(&negated.as_str())) {
                    Some(negated) => negated,
                    None => continue,
                }
            }
            (false, None) => {
                translation.warnings.push(not_boolean(&variable, value));
                continue;
            }
        };
        translation.add_variable(row, &variable, &value.to_string_lossy());
    }
    let mut parsed = foreign::parse(&translation.args, FlagSource::Variables(&translation.names));
    parsed.layer.extend(translation.layer);
    parsed.warnings.extend(translation.warnings);
    parsed
}

/// Reads a boolean as click does; `None` for another word.
fn boolean(value: &OsStr) -> Option<bool> {
    match value.to_str()?.trim().to_ascii_lowercase().as_str() {
        "1" | "true" | "t" | "yes" | "y" | "on" => Some(true),
        "0" | "false" | "f" | "no" | "n" | "off" => Some(false),
        _ => None,
    }
}

fn not_boolean(variable: &str, value: &OsStr) -> String {
    format!("{variable}={}: ignored; write true or false", value.display())
}
