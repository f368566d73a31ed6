//! Flags of gunicorn and uvicorn, parsed as those of `rgun`.

use std::collections::BTreeSet;
use std::ffi::OsString;

use super::plan::{DropIn, PRIMARY_GROUP, Plan};
use crate::cli::compat;
use crate::cli::flags::ParsedFlags;
use crate::cli::foreign::FlagSource;
use crate::cli::matches::{from_clap_error, parse_matches};
use crate::cli::peer_variables;
use crate::config::{Value, name};

/// Flags whose place is a unit, not `rgun.toml`.
const UNIT_FLAGS: [&str; 6] = ["user", "group", "umask", "backlog", "daemon", "env-file"];

/// The keys that flags have set, and the flags for units that were present.
pub(super) type FlagSet = BTreeSet<&'static str>;

/// Adds the flags of gunicorn or uvicorn, parsed as those of `rgun`. Returns what they set.
pub(super) fn add(args: &[String], origin: &str, plan: &mut Plan) -> FlagSet {
    let args: Vec<OsString> =
        std::iter::once("rgun").chain(args.iter().map(String::as_str)).map(Into::into).collect();
    add_arguments(&args, FlagSource::Place(origin), origin, &FlagSet::new(), plan)
}

/// Returns the key that a flag with a value sets.
pub(super) fn key_of(flag: &str) -> Option<&'static str> {
    let args = ["rgun", flag, "1"].map(OsString::from);
    let (cli, _) = parse_matches(&args).ok()?;
    let ParsedFlags { layer, .. } = cli.flags.parse(&mut Vec::new(), &mut Vec::new());
    layer.into_keys().next()
}

/// Adds flags that are weaker than `stronger`; `args` begins with the program's name. Returns what
/// they set.
pub(super) fn add_arguments(
    args: &[OsString],
    source: FlagSource<'_>,
    origin: &str,
    stronger: &FlagSet,
    plan: &mut Plan,
) -> FlagSet {
    let (mut cli, matches) = match parse_matches(args) {
        Ok(parsed) => parsed,
        Err(error) => {
            let text = from_clap_error(&error, args).text;
            let reason = text.lines().next().unwrap_or_default().trim_start_matches("error: ");
            plan.left_out(origin, &format!("the whole command: {reason}"));
            return FlagSet::new();
        }
    };
    let environment = plan.process_environment();
    cli.flags.complete_address(|option| peer_variables::address_part(&environment, option));
    let (mut warnings, mut errors) = (Vec::new(), Vec::new());
    compat::evaluate(&matches, &UNIT_FLAGS, &mut warnings, &mut errors);
    let ParsedFlags { layer, config, .. } = cli.flags.parse(&mut warnings, &mut errors);
    if let Some(file) = config {
        let file = file.display().to_string();
        plan.configurations.push((file.trim_start_matches("file:").to_owned(), origin.to_owned()));
    }
    let mut set = FlagSet::new();
    for (key, setting) in layer.into_iter().filter(|(key, _)| !stronger.contains(key) && !is_of_unit(key)) {
        set.insert(key);
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
    for flag in UNIT_FLAGS.into_iter().filter(|flag| *flag != "daemon" && !stronger.contains(flag)) {
        if let Some(value) = matches.get_many::<String>(flag).and_then(Iterator::last) {
            set.insert(flag);
            add_unit_flag(flag, value, origin, plan);
        }
    }
    set
}

/// Returns whether a line of the unit replaces the key: with `User=`, the daemon does not need the
/// rights of root that `workers.user` needs.
fn is_of_unit(key: &str) -> bool {
    matches!(key, name::WORKER_USER | name::WORKER_GROUP)
}

fn add_unit_flag(flag: &str, value: &str, origin: &str, plan: &mut Plan) {
    match flag {
        "user" => plan.directive(DropIn::Service, "User", value),
        "backlog" => plan.directive(DropIn::Socket, "Backlog", value),
        "umask" => match compat::gunicorn::parse_umask(value) {
            Some(mask) => {
                // Gunicorn applies it to its sockets only, not to the files of the application.
                plan.socket_umask = Some(mask);
            }
            None => {
                plan.left_out(
                    origin,
                    &format!("umask {value}: is not a number; write SocketMode= in the socket unit"),
                );
            }
        },
        "env-file" => add_env_file(value, origin, plan),
        _ => {
            plan.directive(DropIn::Service, "SupplementaryGroups", value);
            plan.changed
                .push(format!("{origin}: group {value} became a supplementary group; {PRIMARY_GROUP}"));
        }
    }
}

/// Adds a file with variables, whose path is relative to the working directory.
pub(super) fn add_env_file(path: &str, origin: &str, plan: &mut Plan) {
    let (dash, plain) = path.strip_prefix('-').map_or(("", path), |plain| ("-", plain));
    match plan.directory() {
        _ if plain.starts_with('/') => plan.add_env_file(path, origin),
        Some(directory) => {
            plan.add_env_file(&format!("{dash}{directory}/{}", plain.trim_start_matches("./")), origin);
        }
        None => plan.left_out(
            origin,
            &format!("variables of {plain}: the directory is not known here; write EnvironmentFile= with the full path in the drop-in"),
        ),
    }
}

/// Makes relative paths absolute, as `rgun.toml` needs them. An access log to stdout goes to the
/// journal.
pub(super) fn absolute(key: &'static str, value: Value, directory: Option<&str>) -> Value {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flag_of_an_unknown_value_names_its_key() {
        for (flag, key) in [
            ("-w", Some(name::COUNT)),
            ("--bind", Some(name::BIND)),
            ("--port", Some(name::BIND)),
            ("-t", Some(name::REQUEST)),
            ("--no-such-flag", None),
        ] {
            assert_eq!(key_of(flag), key, "{flag}");
        }
    }
}
