//! Parses arguments with clap, and rewords its errors.

use std::ffi::OsString;
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use super::compat;
use super::error::{Failure, flag_error};
use super::flags::{APP, Cli};
use crate::config::{self, ConfigError, Layer};

/// Parses arguments, of which the first is the program's name.
pub(super) fn parse_matches(args: &[OsString]) -> Result<(Cli, ArgMatches), clap::Error> {
    let matches = compat::add_flags(Cli::command()).try_get_matches_from(args)?;
    Ok((Cli::from_arg_matches(&matches)?, matches))
}

/// Converts clap's error, whose exit status for a usage error would be 2.
pub(super) fn from_clap_error(error: &clap::Error, args: &[OsString]) -> Failure {
    let is_requested = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if error.kind() == ErrorKind::InvalidUtf8
        && let Some(argument) = find_invalid_utf8(args)
    {
        let text = format!(
            "error: argument \"{}\" is not UTF-8\n\nFor more information, try '--help'.\n",
            argument.as_encoded_bytes().escape_ascii()
        );
        return Failure::usage(text);
    }
    if !is_requested && let Some((typed, meant)) = find_misspelled_flag(args) {
        let text = format!(
            "error: '{typed}' is not a flag: did you mean {meant}?\n\nFor more information, try '--help'.\n"
        );
        return Failure::usage(text);
    }
    if let Some(text) = second_application(error, args) {
        return Failure::usage(text);
    }
    let text = error.render().to_string();
    if is_requested { Failure::requested(text) } else { Failure::usage(text) }
}

/// Explains a second application on the command line. Clap takes the word for an unknown subcommand
/// of rgun.
fn second_application(error: &clap::Error, args: &[OsString]) -> Option<String> {
    if error.kind() != ErrorKind::ArgumentConflict {
        return None;
    }
    let ContextValue::String(word) = error.get(ContextKind::InvalidSubcommand)? else { return None };
    let first = first_application(args, word).unwrap_or_default();
    let command = compat::add_flags(Cli::command());
    let hint = if let Some(flag) = [word, &first].into_iter().find(|word| is_flag(&command, word)) {
        format!("did you mean --{flag}?")
    } else if is_foreign_command(&first) {
        format!("rgun serves without a command: write rgun {word}")
    } else if let Some(meant) = nearest_command(&first) {
        format!("did you mean {meant}?")
    } else {
        "remove one of them".to_owned()
    };
    Some(format!(
        "error: one application is expected, but '{word}' follows '{first}'; {hint}\n\nFor more information, try \
         '--help'.\n"
    ))
}

/// Returns the application that comes before the argument `second`.
fn first_application(args: &[OsString], second: &str) -> Option<String> {
    let is_second = |idx: &usize| args.get(*idx).is_some_and(|arg| arg == second);
    // A value of a flag may be the same word.
    (2..args.len()).filter(is_second).find_map(|idx| {
        let (cli, _) = parse_matches(args.get(..idx)?).ok()?;
        cli.flags.app().map(str::to_owned)
    })
}

/// Returns whether the word is a command by which another program serves an application.
fn is_foreign_command(word: &str) -> bool {
    matches!(
        word,
        "run"
            | "serve"
            | "start"
            | "dev"
            | "runserver"
            | "gunicorn"
            | "uvicorn"
            | "hypercorn"
            | "granian"
            | "daphne"
    )
}

/// The commands of rgun that a misspelled word may mean.
const COMMANDS: [&str; 12] = [
    "rgun check",
    "rgun reload",
    "rgun status",
    "rgun workers",
    "rgun requests",
    "rgun top",
    "rgun stacks",
    "rgun scale",
    "rgun drain",
    "rgun doctor",
    "rgun init",
    "rgun migrate",
];

/// Returns the command of rgun that differs from the word by one letter, or by the order of two.
fn nearest_command(word: &str) -> Option<&'static str> {
    COMMANDS.into_iter().find(|command| {
        let name = command.trim_start_matches("rgun ");
        strsim::damerau_levenshtein(word, name) == 1
    })
}

/// Returns the command of rgun that a word most likely means; `None` if none is similar. For a word that
/// is no application.
pub(super) fn similar_command(word: &str) -> Option<&'static str> {
    let distance = |command: &str| strsim::damerau_levenshtein(word, command.trim_start_matches("rgun "));
    let (distance, nearest) = COMMANDS.into_iter().map(|command| (distance(command), command)).min()?;
    (distance <= 2 && distance < word.chars().count().saturating_sub(1)).then_some(nearest)
}

/// Finds the argument that clap refuses because it is not UTF-8; clap's error does not name the
/// argument. The values of some flags need not be UTF-8, so each candidate is parsed with all other
/// arguments converted to valid UTF-8.
fn find_invalid_utf8(args: &[OsString]) -> Option<&OsString> {
    args.iter().enumerate().filter(|(_, arg)| arg.to_str().is_none()).find_map(|(idx, arg)| {
        let mut others: Vec<OsString> =
            args.iter().map(|arg| arg.to_string_lossy().into_owned().into()).collect();
        others[idx].clone_from(arg);
        let error = parse_matches(&others).err()?;
        (error.kind() == ErrorKind::InvalidUtf8).then_some(arg)
    })
}

/// Returns whether `--word` is a flag of `command`.
fn is_flag(command: &clap::Command, word: &str) -> bool {
    command.get_arguments().any(|arg| arg.get_long() == Some(word))
}

/// Finds a flag with a space after its hyphens (`-- bind 0:8000`), which gunicorn ignores, or with
/// one hyphen (`-bind`). Returns the flag as typed, and in the correct spelling.
fn find_misspelled_flag(args: &[OsString]) -> Option<(String, String)> {
    let command = compat::add_flags(Cli::command());
    let is_flag = |word: &str| is_flag(&command, word);
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

/// Returns the error for an APP that is not a module but a configuration file or a command of
/// another program. A module of this name in the current directory is an application.
pub(super) fn explain_target(target: &str, layer: &Layer, cwd: &Path) -> Option<ConfigError> {
    let is_toml = Path::new(target).extension().is_some_and(|extension| extension == "toml");
    if is_toml {
        return Some(flag_error(
            APP,
            &format!("{target} is a configuration file"),
            &format!("write --config {target}"),
        ));
    }
    let remedy = match target {
        "help" => "rgun --help",
        "version" => "rgun --version",
        "start" => "systemctl start rgun",
        "stop" => "systemctl stop rgun",
        "restart" => "systemctl restart rgun",
        word if is_foreign_command(word) => "rgun APP, e.g. rgun mysite.wsgi",
        word => nearest_command(word)?,
    };
    let is_elsewhere =
        [config::name::DIRECTORY, config::name::PYTHONPATH].iter().any(|key| layer.contains_key(key));
    let is_module = cwd.join(target).is_dir() || cwd.join(format!("{target}.py")).is_file();
    (!is_elsewhere && !is_module).then(|| {
        flag_error(APP, &format!("\"{target}\" is not a command of rgun"), &format!("write {remedy}"))
    })
}
