//! A command line of gunicorn, uvicorn, granian or hypercorn, as a unit, a Procfile or a script has it.

use super::flags;
use super::options;
use super::plan::{DropIn, Plan};
use super::server::ReplacedServer;
use crate::cli::compat::peers;
use crate::config::{Value, name};

/// Adds the settings of a command line to the plan, if the command starts a server. Returns whether it does. `variables`
/// are the values of `$NAME` and `${NAME}`.
pub(super) fn migrate_line(
    line: &str,
    variables: &[(String, String)],
    origin: &str,
    plan: &mut Plan,
) -> bool {
    let Some(words) = shlex::split(line) else {
        plan.left_out(origin, "the command has an open quotation");
        return false;
    };
    // `sh -c "gunicorn …"`
    if let [shell, flag, command, ..] = words.as_slice()
        && matches!(shell.rsplit('/').next(), Some("sh" | "bash" | "dash"))
        && flag.starts_with('-')
        && flag.ends_with('c')
    {
        return migrate_line(command, variables, origin, plan);
    }
    let Some((server, first, python)) = find_server(&words) else {
        return false;
    };
    let mut local = variables.to_vec();
    for word in &words[..first] {
        add_prefix(word, server, &mut local, origin, plan);
    }
    if let Some(python) = python.filter(|python| python.starts_with('/')) {
        plan.set(name::PYTHON, Value::text(python), origin);
    } else {
        plan.left_out(
            origin,
            "the interpreter: the command does not name it; write app.python if it is not in .venv or venv of the directory",
        );
    }
    let args = expand_all(words.iter().skip(first + 1), &local, origin, plan);
    match server {
        ReplacedServer::Gunicorn | ReplacedServer::Uvicorn => flags::add(&args, origin, plan),
        ReplacedServer::Granian => options::add(peers::GRANIAN, &args, origin, plan),
        ReplacedServer::Hypercorn => options::add(peers::HYPERCORN, &args, origin, plan),
        ReplacedServer::Daphne => options::add(peers::DAPHNE, &args, origin, plan),
    }
    plan.servers.push(server);
    true
}

/// Replaces the variables in the arguments up to the end of the command. An argument with an unknown variable is left out.
fn expand_all<'a>(
    words: impl Iterator<Item = &'a String>,
    variables: &[(String, String)],
    origin: &str,
    plan: &mut Plan,
) -> Vec<String> {
    let mut args = Vec::new();
    for word in words.take_while(|word| !matches!(word.as_str(), "&" | "&&" | "||" | "|" | ";")) {
        match expand(word, variables) {
            Ok((word, defaults)) => {
                plan.changed.extend(defaults.into_iter().map(|text| format!("{origin}: {text}")));
                args.push(word);
            }
            Err(variable) => {
                plan.left_out(origin, &explain_variable(word, &variable));
                // Otherwise the flag before this word would take the next word as its value.
                if args.last().is_some_and(|last: &String| last.starts_with('-') && !last.contains('=')) {
                    args.pop();
                }
            }
        }
    }
    args
}

/// Says why an argument with this variable is left out.
fn explain_variable(word: &str, variable: &str) -> String {
    match variable {
        "$PORT" => {
            format!("{word}: without rgun.socket, rgun listens on 0.0.0.0:$PORT if the variable is set")
        }
        _ => format!("{word}: the value of {variable} is not known here; write the setting"),
    }
}

/// Finds the server's name. Returns the server, the index of its last word, and the interpreter.
fn find_server(words: &[String]) -> Option<(ReplacedServer, usize, Option<String>)> {
    for (idx, word) in words.iter().enumerate() {
        if let Some(server) = ReplacedServer::of(word) {
            if words.get(idx.wrapping_sub(1)).is_some_and(|before| before == "-m") {
                return Some((server, idx, idx.checked_sub(2).and_then(|at| words.get(at)).cloned()));
            }
            let python = word.rsplit_once('/').map(|(directory, _)| format!("{directory}/python"));
            return Some((server, idx, python));
        }
    }
    None
}

/// Handles a word before the server: a variable, or a wrapper.
fn add_prefix(
    word: &str,
    server: ReplacedServer,
    variables: &mut Vec<(String, String)>,
    origin: &str,
    plan: &mut Plan,
) {
    let is_python = word.rsplit('/').next().is_some_and(|name| name.starts_with("python"));
    if let Some((name, value)) = word.split_once('=').filter(|(name, _)| is_variable(name)) {
        variables.push((name.to_owned(), value.to_owned()));
        plan.directive(DropIn::Service, "Environment", &quote(&format!("{name}={value}")));
    } else if !is_python && !matches!(word, "exec" | "env" | "/usr/bin/env" | "-m" | "run" | "--") {
        let text = match word {
            "uv" | "poetry" | "pipenv" | "pdm" | "hatch" | "rye" => {
                format!("{word} run: set app.python to the path that '{word} run which python' prints")
            }
            _ => format!("{word} before {}: rgun starts the interpreter itself", server.name()),
        };
        plan.left_out(origin, &text);
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// Quotes a value of `Environment=` (systemd.syntax(7)).
fn quote(assignment: &str) -> String {
    if assignment.contains([' ', '"', '\\']) {
        format!("\"{}\"", assignment.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        assignment.to_owned()
    }
}

/// Replaces the variables in a word. Returns the result, and a note about each default used.
///
/// # Errors
/// The name of an unknown variable.
fn expand(word: &str, variables: &[(String, String)]) -> Result<(String, Vec<String>), String> {
    // A specifier of systemd.unit(5).
    if word.as_bytes().windows(2).any(|pair| pair[0] == b'%' && pair[1].is_ascii_alphabetic()) {
        return Err("the specifier".to_owned());
    }
    let (mut expanded, mut defaults, mut rest) = (String::new(), Vec::new(), word);
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let braced = after.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let (inner, next) = braced.unwrap_or_else(|| {
            let is_end = |letter: char| !letter.is_ascii_alphanumeric() && letter != '_';
            after.split_at(after.find(is_end).unwrap_or(after.len()))
        });
        let (variable, default) = match inner.split_once('-') {
            Some((variable, default)) => (variable.trim_end_matches(':'), Some(default)),
            None => (inner, None),
        };
        if !is_variable(variable) {
            return Err(format!("${inner}"));
        }
        match (variables.iter().rev().find(|(name, _)| name == variable), default) {
            (Some((_, value)), _) => expanded.push_str(value),
            (None, Some(default)) => {
                defaults.push(match variable {
                    "WEB_CONCURRENCY" => {
                        format!("${{{inner}}} became {default}; the variable overrides the file")
                    }
                    _ => format!("${{{inner}}} became {default}, its default, whatever {variable} is"),
                });
                expanded.push_str(default);
            }
            (None, None) => return Err(format!("${variable}")),
        }
        rest = next;
    }
    expanded.push_str(rest);
    Ok((expanded, defaults))
}

/// Writes the server's own defaults where rgun's differ. Called after all files were read.
pub(super) fn add_defaults(server: ReplacedServer, plan: &mut Plan) {
    if server == ReplacedServer::Uvicorn {
        let reason = "uvicorn logs each request; without this key, rgun logs only those that fail";
        plan.set_default(name::ACCESS, Value::Boolean(true), reason);
    }
    plan.set_default(
        name::COUNT,
        Value::Integer(1),
        &format!("{}'s default, which an application that keeps state in memory needs; without this key, rgun.service uses \"auto\"", server.name()),
    );
    if server != ReplacedServer::Gunicorn {
        plan.set_default(
            name::REQUEST,
            Value::text("off"),
            &format!("{} has no deadline; a value such as \"60s\" ends requests that hang", server.name()),
        );
    } else if plan.settings.contains_key(name::REQUEST) {
        let origin =
            plan.settings.get(name::REQUEST).map(|setting| setting.origin.clone()).unwrap_or_default();
        plan.changed.push(format!(
            "{origin}: gunicorn limits the time in which a worker is silent, rgun (timeouts.request) the time of each request"
        ));
    }
}
