//! Rewrites options of granian, hypercorn and daphne on the command line as flags of rgun.
//!
//! A flag that rgun has keeps its meaning; only other options are looked up in the tables of
//! `peers`. Where a short option of daphne means something else in gunicorn, the value decides: `-p
//! 8001` names a port, `-p /run/a.pid` gunicorn's file for the process id.

use std::ffi::OsString;

use super::peers::Becomes::{Changed, Directive, Fixed, Flag, Ignored, Key, Nothing, Refused, SocketMask};
use super::peers::{DAPHNE, DropIn, ENDPOINT, ForeignOption, GRANIAN, HYPERCORN, socket_mode};
use crate::cli::error::flag_error;
use crate::config::{ConfigError, Layer, Setting, Value};

/// A command line in rgun's flags.
#[derive(Debug, Default)]
pub(in crate::cli) struct Translation {
    /// The flags and the application.
    pub(in crate::cli) args: Vec<OsString>,
    /// The names of flags that come from another server's options, each with that option.
    pub(in crate::cli) names: Vec<(String, String)>,
    /// Settings for which rgun has no flag.
    pub(in crate::cli) layer: Layer,
    pub(in crate::cli) warnings: Vec<String>,
    pub(in crate::cli) errors: Vec<ConfigError>,
    /// Whether an option shows that the line is for granian or hypercorn, which, unlike uvicorn and
    /// daphne, do not log requests by default.
    pub(in crate::cli) is_silent: bool,
}

/// Rewrites arguments, of which the first is the program's name. `is_own` tells whether rgun has a
/// long flag.
pub(in crate::cli) fn translate(args: &[OsString], is_own: &dyn Fn(&str) -> bool) -> Translation {
    let mut translation = Translation::default();
    let has_daphne_port = has_daphne_port(args);
    let mut rest = args.iter().peekable();
    while let Some(arg) = rest.next() {
        let word = arg.to_str().unwrap_or_default();
        let next = rest.peek().and_then(|next| next.to_str());
        if word == "--" {
            translation.args.push(arg.clone());
            break;
        } else if has_daphne_port && matches!(word, "-b" | "--bind") {
            translation.args.push("--host".into());
        } else if let Some(meaning) = reread(word, next) {
            if translation.add_reread(meaning, word, next.unwrap_or_default()) {
                rest.next();
            }
        } else if let Some((row, inline)) = option(word, is_own) {
            let value = match inline {
                Some(value) => Some(value.to_owned()),
                None if row.has_value => rest.next().map(|value| value.to_string_lossy().into_owned()),
                None => None,
            };
            let is_daphnes =
                DAPHNE.iter().any(|theirs| theirs.names.iter().any(|name| row.names.contains(name)));
            translation.is_silent |= !is_daphnes;
            translation.add(row, word.split('=').next().unwrap_or(word), value.as_deref());
        } else {
            translation.args.push(arg.clone());
        }
    }
    translation.args.extend(rest.cloned());
    translation
}

/// Returns whether the line has daphne's `-b HOST -p PORT`, also in its long form.
fn has_daphne_port(args: &[OsString]) -> bool {
    let pairs = || args.iter().zip(args.iter().skip(1)).filter_map(|(a, b)| a.to_str().zip(b.to_str()));
    let is_host = |host: &str| !host.contains([':', '/', ',']);
    pairs().any(|(flag, port)| matches!(flag, "-p" | "--port") && is_number(port))
        && pairs().any(|(flag, host)| matches!(flag, "-b" | "--bind") && is_host(host))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The meaning of a flag whose value shows that the flag is another server's, not gunicorn's.
#[derive(Clone, Copy)]
enum Reread {
    /// The flag has the meaning of this flag of rgun.
    As(&'static str),
    /// The flag is refused: the reason and the remedy.
    Refused(&'static str, &'static str),
    /// The flag is daphne's verbosity, a number.
    Verbosity,
}

fn reread(word: &str, next: Option<&str>) -> Option<Reread> {
    const ENDPOINTS: [&str; 6] = ["tcp:", "tcp6:", "ssl:", "unix:", "systemd:", "fd:"];
    let next = next?;
    match word {
        "-p" if is_number(next) => Some(Reread::As("--port")),
        "-u" if next.contains('/') => Some(Reread::As("--uds")),
        "-v" if is_number(next) => Some(Reread::Verbosity),
        "-e" if ENDPOINTS.iter().any(|kind| next.starts_with(kind)) => {
            Some(Reread::Refused("is an endpoint of daphne", ENDPOINT))
        }
        // Uvicorn's flag has no value; that of hypercorn and daphne names a file.
        "--access-log" if next == "-" || next.contains('/') => Some(Reread::As("--access-logfile")),
        _ => None,
    }
}

/// Finds the row of an option that rgun does not have, and the value after "=".
fn option<'a>(
    word: &'a str,
    is_own: &dyn Fn(&str) -> bool,
) -> Option<(&'static ForeignOption, Option<&'a str>)> {
    let long = word.strip_prefix("--").filter(|long| !long.is_empty());
    let name = match long {
        Some(long) => long.split('=').next().unwrap_or(long),
        // Of daphne's short options, only `-s` does not exist in gunicorn.
        None if word == "-s" => "s",
        None => return None,
    };
    if long.is_some() && is_own(name) {
        return None;
    }
    let mut rows = GRANIAN.iter().chain(HYPERCORN).chain(DAPHNE);
    let row = rows.find(|row| row.names.contains(&name))?;
    Some((row, word.split_once('=').map(|(_, value)| value)))
}

impl Translation {
    /// Adds a flag with this meaning. Returns true if the caller must skip the value.
    fn add_reread(&mut self, meaning: Reread, word: &str, value: &str) -> bool {
        let typed = format!("{word} {value}");
        match meaning {
            Reread::As(flag) => {
                self.warnings.push(format!("{typed}: read as {flag} {value}"));
                self.args.push(flag.into());
                return false;
            }
            Reread::Refused(reason, hint) => self.errors.push(flag_error(&typed, reason, hint)),
            Reread::Verbosity => self.warnings.push(format!("{typed}: ignored; --log-level debug logs more")),
        }
        true
    }

    /// Adds an option. `origin` names it in messages; `value` is `None` for an option without a
    /// value.
    pub(in crate::cli) fn add(&mut self, row: &ForeignOption, origin: &str, value: Option<&str>) {
        let typed = value.map_or_else(|| origin.to_owned(), |value| format!("{origin} {value}"));
        let text = value.unwrap_or_default();
        match row.becomes {
            Flag(name) => self.add_flag(row, name, origin, text),
            Changed(name, how) => {
                self.add_flag(row, name, origin, text);
                self.warnings.push(format!("{typed}: read as --{name} {text}; {how}"));
            }
            Key(key, unit) => {
                self.layer.insert(key, Setting::flag(origin, Value::text(format!("{text}{unit}"))));
            }
            Fixed(key, value) => {
                self.layer.insert(key, Setting::flag(origin, Value::text(value)));
            }
            Directive(part, name) => {
                self.errors.push(flag_error(&typed, "is not a flag of rgun", &directive(part, name, text)));
            }
            SocketMask => {
                let mode = socket_mode(text).unwrap_or_else(|| "…".to_owned());
                let hint = directive(DropIn::Socket, "SocketMode", &mode);
                self.errors.push(flag_error(&typed, "is not a flag of rgun", &hint));
            }
            Nothing => {}
            Ignored(reason) => self.warnings.push(format!("{typed}: ignored; {reason}")),
            Refused(reason) => {
                let hint = format!("remove it: {reason}");
                self.errors.push(flag_error(origin, "has no counterpart in rgun", &hint));
            }
        }
    }

    /// Adds an option that a variable sets. An option that is refused on a command line causes only
    /// a warning.
    pub(in crate::cli) fn add_variable(&mut self, row: &ForeignOption, variable: &str, value: &str) {
        match row.becomes {
            Directive(part, name) => {
                self.warnings.push(format!("{variable}: ignored; {}", directive(part, name, value)));
            }
            Refused(reason) | Ignored(reason) => {
                self.warnings.push(format!("{variable}: ignored; {reason}"));
            }
            _ => self.add(row, variable, Some(value)),
        }
    }

    fn add_flag(&mut self, row: &ForeignOption, name: &str, origin: &str, value: &str) {
        self.names.push((name.to_owned(), origin.to_owned()));
        self.args.push(if row.has_value { format!("--{name}={value}") } else { format!("--{name}") }.into());
    }
}

/// Returns the remedy for an option that belongs into a unit.
fn directive(part: DropIn, name: &str, value: &str) -> String {
    let unit = match part {
        DropIn::Unit | DropIn::Service => "the service unit",
        DropIn::Socket => "the socket unit",
    };
    format!("write {name}={value} in {unit}")
}
