//! Flags of gunicorn and uvicorn, parsed as those of `rgun`.

use std::ffi::OsString;

use super::plan::{DropIn, Plan};
use crate::cli::compat;
use crate::cli::flags::ParsedFlags;
use crate::cli::foreign::FlagSource;
use crate::cli::matches::{from_clap_error, parse_matches};
use crate::config::{Value, name};

/// Flags whose place is a unit, not `rgun.toml`.
const UNIT_FLAGS: [&str; 5] = ["user", "group", "umask", "backlog", "daemon"];

/// Adds the flags of gunicorn or uvicorn, parsed as those of `rgun`.
pub(super) fn add(args: &[String], origin: &str, plan: &mut Plan) {
    let args: Vec<OsString> =
        std::iter::once("rgun").chain(args.iter().map(String::as_str)).map(Into::into).collect();
    add_arguments(&args, FlagSource::Place(origin), origin, plan);
}

/// Adds flags; `args` begins with the program's name.
pub(super) fn add_arguments(args: &[OsString], source: FlagSource<'_>, origin: &str, plan: &mut Plan) {
    let (cli, matches) = match parse_matches(args) {
        Ok(parsed) => parsed,
        Err(error) => {
            let text = from_clap_error(&error, args).text;
            let reason = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            return plan.left_out(origin, &format!("the whole command: {reason}"));
        }
    };
    let (mut warnings, mut errors) = (Vec::new(), Vec::new());
    compat::evaluate(&matches, &UNIT_FLAGS, &mut warnings, &mut errors);
    let ParsedFlags { layer, config, .. } = cli.flags.parse(&mut warnings, &mut errors);
    if let Some(file) = config {
        let file = file.display().to_string();
        plan.configurations.push((file.trim_start_matches("file:").to_owned(), origin.to_owned()));
    }
    for (key, setting) in layer {
        if key == name::INTERFACE && setting.value == Value::text("rsgi") {
            plan.left_out(
                origin,
                "interface rsgi: rgun speaks ASGI and WSGI; name an application of one of them",
            );
            continue;
        }
        let directory = plan.directory();
        if let (None, Some(path)) = (&directory, relative_path(key, &setting.value)) {
            plan.left_out(
                origin,
                &format!(
                    "{key} = {path}: is relative to a directory that is not known here; write the full path"
                ),
            );
            continue;
        }
        plan.set(key, absolute(key, setting.value, directory.as_deref()), &source.rename(&setting.origin));
    }
    plan.left_out.extend(warnings.iter().map(|warning| source.rename(warning)));
    for error in errors {
        let hint = error.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        plan.left_out.push(format!("{}: {}{hint}", source.rename(&error.origin), error.reason));
    }
    for flag in UNIT_FLAGS.into_iter().filter(|flag| *flag != "daemon") {
        if let Some(value) = matches.get_many::<String>(flag).and_then(Iterator::last) {
            add_unit_flag(flag, value, origin, plan);
        }
    }
}

fn add_unit_flag(flag: &str, value: &str, origin: &str, plan: &mut Plan) {
    match flag {
        "user" => plan.directive(DropIn::Service, "User", value),
        "backlog" => plan.directive(DropIn::Socket, "Backlog", value),
        "umask" => match parse_umask(value) {
            Some(mask) => plan.directive(DropIn::Service, "UMask", &format!("{mask:04o}")),
            None => {
                plan.left_out(origin, &format!("umask {value}: is not a number; write UMask= in the unit"));
            }
        },
        _ => {
            plan.directive(DropIn::Service, "SupplementaryGroups", value);
            plan.changed.push(format!(
                "{origin}: group {value} became a supplementary group; the primary group stays rgun, which may read /etc/rgun/rgun.toml"
            ));
        }
    }
}

/// Parses a decimal number, or an octal one with Python's prefix `0o`.
fn parse_umask(text: &str) -> Option<u32> {
    match text.strip_prefix("0o") {
        Some(octal) => u32::from_str_radix(octal, 8).ok(),
        None => text.parse().ok(),
    }
}

/// Makes relative paths absolute, as `rgun.toml` needs them. An access log to stdout goes to the
/// journal.
fn absolute(key: &'static str, value: Value, directory: Option<&str>) -> Value {
    if key == name::ACCESS && value == Value::text("stdout") {
        return Value::Boolean(true);
    }
    let (Some(directory), Value::Text(path)) = (directory, &value) else { return value };
    if key == name::PYTHONPATH {
        let full = |path: &str| match path.trim() {
            path if path.starts_with('/') => path.to_owned(),
            path => format!("{directory}/{}", path.trim_start_matches("./")),
        };
        return Value::list(path.split(',').map(full));
    }
    match relative_path(key, &value) {
        Some(path) => Value::text(
            format!("{directory}/{}", path.trim_start_matches("./")).trim_end_matches("/.").to_owned(),
        ),
        None => value,
    }
}

/// Returns the value of a key for one path, if the path is relative.
fn relative_path<'a>(key: &str, value: &'a Value) -> Option<&'a str> {
    let is_path = [name::DIRECTORY, name::CERT, name::KEY, name::CLIENT_CA, name::LOG_CONFIG].contains(&key);
    match value {
        Value::Text(path) if is_path && !path.starts_with('/') => Some(path),
        _ => None,
    }
}
