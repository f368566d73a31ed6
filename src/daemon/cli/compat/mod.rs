//! Compatibility with gunicorn and uvicorn: one table of gunicorn's flags and settings, one of
//! uvicorn's other flags.
//!
//! A flag that is safe to ignore, because rgun or systemd replaces it, is accepted with a warning
//! that names the replacement. A flag that is unsafe to ignore (`--umask`, TLS, trust in a proxy) is
//! refused with a hint. A flag that describes what rgun does (`--http-protocols h1`,
//! `--no-server-header`) is accepted silently.
//!
//! The tables are in `gunicorn` and `uvicorn`. A flag of both servers is in one table only, because
//! it means the same in both. Abbreviated flags are refused. The table of gunicorn also has the
//! settings of `gunicorn.conf.py` (`gunicorn_conf` reads it), and a test compares the manual with
//! that table.

pub(super) mod flag;
pub(super) mod gunicorn;
pub(super) mod peers;
pub(super) mod translate;
pub(super) mod uvicorn;

use clap::{Arg, ArgAction, ArgMatches, Command};

use self::flag::ArgKind::{Function, List, NegatedSwitch, Switch, Value};
use self::flag::CompatFlag;
use self::flag::Handling::{BesideDaemon, FlagOnly, Ignored, Key, NoOp, NotYet, Refused};
use super::error::flag_error;
use crate::config::ConfigError;

/// Returns the flags of all tables that rgun does not support.
fn all_flags() -> impl Iterator<Item = &'static CompatFlag> {
    gunicorn::TABLE.iter().chain(uvicorn::FLAGS).filter(|flag| flag.is_unsupported_flag())
}

/// Adds the unsupported flags to the command and its subcommands, hidden from the help.
pub(super) fn add_flags(command: Command) -> Command {
    // `reload` and `migrate` serve nothing, so they accept none of these flags.
    let serves = |sub: &&Command| !matches!(sub.get_name(), "reload" | "migrate");
    let names: Vec<String> =
        command.get_subcommands().filter(serves).map(|sub| sub.get_name().to_owned()).collect();
    let command =
        names.into_iter().fold(command, |command, name| command.mut_subcommand(name, add_unsupported_flags));
    command.args(all_flags().flat_map(to_args))
}

/// Adds the flags that the command does not support itself.
fn add_unsupported_flags(command: Command) -> Command {
    let own: Vec<String> = command.get_arguments().map(|arg| arg.get_id().to_string()).collect();
    command.args(all_flags().filter(|flag| !own.iter().any(|own| own == flag.long)).flat_map(to_args))
}

/// Returns an argument for each long name of a flag, because messages contain the name as typed.
fn to_args(flag: &'static CompatFlag) -> impl Iterator<Item = Arg> {
    flag.long_names().map(|name| {
        let arg = Arg::new(name).long(name).hide(true);
        let arg = flag.short.filter(|_| name == flag.long).into_iter().fold(arg, Arg::short);
        match flag.arg_kind {
            Switch | NegatedSwitch | Function => arg.action(ArgAction::SetTrue),
            Value | List => arg.action(ArgAction::Append).allow_hyphen_values(flag.accepted.contains(&"-")),
        }
    })
}

/// Turns the unsupported flags in `matches` into warnings and errors. `supported` are flags that
/// this command, unlike others, supports.
pub(super) fn evaluate(
    matches: &ArgMatches,
    supported: &[&str],
    warnings: &mut Vec<String>,
    errors: &mut Vec<ConfigError>,
) {
    let known = all_flags().filter(|flag| !supported.contains(&flag.long));
    for (flag, long) in known.flat_map(|flag| flag.long_names().map(move |long| (flag, long))) {
        let value = match flag.arg_kind {
            Switch | NegatedSwitch | Function if !matches.get_flag(long) => continue,
            Switch | NegatedSwitch | Function => None,
            Value | List => {
                // The last value applies, as in gunicorn and uvicorn.
                match matches.get_many::<String>(long).and_then(Iterator::last) {
                    None => continue,
                    Some(value) if flag.accepted.contains(&value.as_str()) => continue,
                    Some(value) => Some(value.as_str()),
                }
            }
        };
        let typed = match value {
            Some(value) if !flag.is_secret => format!("--{long} {value}"),
            _ => format!("--{long}"),
        };
        // systemd reads a mask as octal, gunicorn without a leading zero as decimal.
        let octal = value.filter(|_| flag.long == "umask").and_then(gunicorn::parse_umask);
        let octal = octal.map(|mask| format!("{mask:04o}"));
        let filled = |text: &str| text.replace("{}", octal.as_deref().or(value).unwrap_or_default());
        if let Some((_, now)) = flag.ignored.filter(|(ignored, _)| Some(*ignored) == value) {
            warnings.push(format!("{typed}: ignored; {now}"));
            continue;
        }
        match flag.handling {
            NoOp | Key(_) | FlagOnly(_) | BesideDaemon => {}
            Ignored(now) => warnings.push(format!("{typed}: ignored; {now}")),
            Refused(reason, hint) => errors.push(flag_error(&typed, reason, &filled(hint))),
            NotYet(hint) => {
                errors.push(flag_error(&typed, "is not in this version of rgun yet", hint));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn umask_has_the_base_that_gunicorn_reads() {
        for (text, mask) in [
            ("0", Some(0)),
            ("007", Some(0o7)),
            ("022", Some(0o22)),
            ("0o27", Some(0o27)),
            ("0x12", Some(0o22)),
            ("18", Some(0o22)),
            ("27", Some(0o33)),
            ("089", None),
            ("u=rwx", None),
            ("", None),
        ] {
            assert_eq!(gunicorn::parse_umask(text), mask, "{text}");
        }
    }

    #[test]
    fn flags_are_unique_across_the_tables() {
        for (idx, flag) in all_flags().enumerate() {
            for other in all_flags().skip(idx + 1) {
                assert_ne!(flag.long, other.long);
                assert_ne!(Some(flag.long), other.alias);
                assert!(flag.short.is_none() || flag.short != other.short, "{}", flag.long);
            }
        }
    }
}
