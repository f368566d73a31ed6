//! Migrates a command line of gunicorn, uvicorn, granian, hypercorn or daphne from a unit, a
//! Procfile, a script or a container's description.

use super::flags;
use super::options;
use super::plan::{DropIn, Plan};
use super::server::ReplacedServer;
use crate::cli::compat::peers;
use crate::config::{Value, name};

/// Adds the settings of a command line to the plan, if the command starts a server. Returns whether
/// the command starts one. `variables` has the values of `$NAME` and `${NAME}`.
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
    let mut commands = split_commands(words);
    let Some(at) = commands.iter().position(|words| find_server(words, variables).is_some()) else {
        return false;
    };
    let mut local = variables.to_vec();
    for command in &commands[..at] {
        add_earlier(command, &mut local, origin, plan);
    }
    let words = commands.swap_remove(at);
    let Some((server, first, python)) = find_server(&words, &local) else {
        return false;
    };
    let python = python.map(|python| below(plan.directory(), python));
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

/// Splits a line at `;`, `&&`, `||`, `|` and `&`.
fn split_commands(words: Vec<String>) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    for word in words {
        let is_separator = matches!(word.as_str(), "&" | "&&" | "||" | "|" | ";");
        let (content, ends) = match word.strip_suffix(';') {
            Some(content) => (content.to_owned(), true),
            None if is_separator => (String::new(), true),
            None => (word, false),
        };
        if let Some(last) = commands.last_mut().filter(|_| !content.is_empty()) {
            last.push(content);
        }
        if ends {
            commands.push(Vec::new());
        }
    }
    commands.retain(|command| !command.is_empty());
    commands
}

/// Adds a command that runs before the server. `cd` and `export` have their effect; other commands
/// are left out with a note.
fn add_earlier(words: &[String], variables: &mut Vec<(String, String)>, origin: &str, plan: &mut Plan) {
    match words {
        [cd, directory] if cd == "cd" && directory.starts_with('/') => {
            plan.set(name::DIRECTORY, Value::text(directory.as_str()), origin);
        }
        [set, ..] if set == "set" => {}
        [export, assignment] if export == "export" => {
            if let Some((name, value)) = assignment.split_once('=') {
                variables.push((name.to_owned(), value.to_owned()));
            }
        }
        words => {
            plan.left_out(
                origin,
                &format!("{}: ExecStartPre= in the unit runs a command before rgun", words.join(" ")),
            );
        }
    }
}

/// Replaces the variables in the arguments of a command. An argument with an unknown variable is
/// left out.
fn expand_all<'a>(
    words: impl Iterator<Item = &'a String>,
    variables: &[(String, String)],
    origin: &str,
    plan: &mut Plan,
) -> Vec<String> {
    let mut args = Vec::new();
    for word in words {
        match expand(word, variables) {
            Ok((word, defaults)) => {
                plan.changed.extend(defaults.into_iter().map(|text| format!("{origin}: {text}")));
                args.push(word);
            }
            Err(variable) => {
                plan.left_out(origin, &explain_variable(word, &variable));
                // Otherwise the flag before this word would take the next word as its value.
                let is_flag = |last: &String| last.len() > 1 && last.starts_with('-') && !last.contains('=');
                if args.last().is_some_and(is_flag) {
                    args.pop();
                }
            }
        }
    }
    args
}

/// Returns the reason why an argument with this variable is left out.
fn explain_variable(word: &str, variable: &str) -> String {
    match variable {
        "$PORT" => {
            format!("{word}: without rgun.socket, rgun listens on 0.0.0.0:$PORT if the variable is set")
        }
        _ => format!("{word}: the value of {variable} is not known here; write the setting"),
    }
}

/// Finds the word that names the server. Returns the server, the index of the word, and the
/// interpreter.
fn find_server(
    words: &[String],
    variables: &[(String, String)],
) -> Option<(ReplacedServer, usize, Option<String>)> {
    for (idx, word) in words.iter().enumerate() {
        let word = expand(word, variables).map_or_else(|_| word.clone(), |(word, _)| word);
        if let Some(server) = ReplacedServer::of(&word) {
            if words.get(idx.wrapping_sub(1)).is_some_and(|before| before == "-m") {
                return Some((server, idx, idx.checked_sub(2).and_then(|at| words.get(at)).cloned()));
            }
            return Some((server, idx, interpreter_of(&word)));
        }
    }
    None
}

/// Returns the interpreter of a server's script; `None` for a script without a directory. If this
/// machine has the script, its first line names the interpreter; otherwise the interpreter has the
/// usual name in the same directory.
fn interpreter_of(script: &str) -> Option<String> {
    let (directory, _) = script.rsplit_once('/')?;
    let named = std::fs::read_to_string(script).ok().and_then(|text| {
        let interpreter = text.lines().next()?.strip_prefix("#!/")?.trim();
        let (_, name) = interpreter.rsplit_once('/')?;
        (name.starts_with("python") && !name.contains(' ')).then(|| format!("/{interpreter}"))
    });
    Some(named.unwrap_or_else(|| match directory {
        // Debian has no `python` there, and `pip install --user` installs no interpreter.
        "/usr/bin" | "/bin" => "/usr/bin/python3".to_owned(),
        user if user.ends_with("/.local/bin") => "/usr/bin/python3".to_owned(),
        _ => format!("{directory}/python"),
    }))
}

/// Makes a relative path with a slash absolute, if the directory is known.
fn below(directory: Option<String>, path: String) -> String {
    match directory {
        Some(directory) if path.contains('/') && !path.starts_with('/') => {
            format!("{directory}/{}", path.trim_start_matches("./"))
        }
        _ => path,
    }
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
pub(super) fn expand(word: &str, variables: &[(String, String)]) -> Result<(String, Vec<String>), String> {
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
            return Err(if inner.is_empty() { rest[at..].to_owned() } else { format!("${inner}") });
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

/// Sets the server's own defaults where rgun's differ. Called after all files were read.
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
    let timeout = plan.settings.get(name::REQUEST).map(|setting| setting.origin.clone());
    if let Some(origin) = timeout.filter(|origin| !origin.is_empty() && server == ReplacedServer::Gunicorn) {
        plan.changed.push(format!(
            "{origin}: gunicorn limits the time in which a worker is silent, rgun (timeouts.request) the time of each request"
        ));
    }
    let interface = plan.settings.get(name::INTERFACE);
    let is_asgi = interface.is_some_and(|setting| setting.value == Value::text("asgi"));
    if server != ReplacedServer::Gunicorn || is_asgi {
        let worker = if server == ReplacedServer::Gunicorn { "'s ASGI worker" } else { "" };
        let reason = "has no deadline; a value such as \"60s\" ends requests that hang";
        plan.set_default(name::REQUEST, Value::text("off"), &format!("{}{worker} {reason}", server.name()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::TestDir;

    #[test]
    fn interpreter_is_the_one_that_the_script_names() {
        let place = TestDir::new();
        let script = |first: &str| {
            place.file("bin/gunicorn", format!("{first}\nimport gunicorn\n").as_bytes(), 0o755);
            interpreter_of(&place.join("bin/gunicorn").display().to_string()).unwrap()
        };
        let beside = place.join("bin/python").display().to_string();
        assert_eq!(script("#!/srv/venv/bin/python3.13"), "/srv/venv/bin/python3.13");
        assert_eq!(script("#! /srv/venv/bin/python"), beside, "pip writes no space there");
        assert_eq!(script("#!/usr/bin/env python3"), beside);
        assert_eq!(script("#!/bin/sh"), beside);
    }

    #[test]
    fn interpreter_of_an_absent_script_is_guessed_by_directory() {
        for (script, python) in [
            ("/no/such/venv/bin/gunicorn", Some("/no/such/venv/bin/python")),
            ("/usr/bin/no-such-server", Some("/usr/bin/python3")),
            ("/home/a/.local/bin/no-such-server", Some("/usr/bin/python3")),
            ("venv/bin/no-such-server", Some("venv/bin/python")),
            ("gunicorn", None),
        ] {
            assert_eq!(interpreter_of(script).as_deref(), python, "{script}");
        }
    }

    #[test]
    fn relative_server_is_below_the_working_directory() {
        let mut plan = Plan::default();
        plan.set(name::DIRECTORY, Value::text("/srv/a"), "a.service:1");
        assert!(migrate_line("./venv/bin/gunicorn a", &[], "a.service:2", &mut plan));
        assert_eq!(plan.settings[name::PYTHON].value, Value::text("/srv/a/venv/bin/python"));
    }

    #[test]
    fn commands_before_the_server_are_named() {
        let mut plan = Plan::default();
        let line =
            "set -e; cd /srv/a && python manage.py migrate; export N=3 ; gunicorn a -w $N & tail -f log";
        assert!(migrate_line(line, &[], "Dockerfile:1", &mut plan));
        assert_eq!(plan.settings[name::DIRECTORY].value, Value::text("/srv/a"));
        assert_eq!(plan.settings[name::COUNT].value, Value::text("3"));
        let earlier =
            "Dockerfile:1: python manage.py migrate: ExecStartPre= in the unit runs a command before rgun";
        assert_eq!(plan.left_out[0], earlier);
    }

    #[test]
    fn arguments_of_the_script_are_named() {
        let mut plan = Plan::default();
        assert!(migrate_line("/srv/v/bin/gunicorn a --access-logfile - $@", &[], "run:1", &mut plan));
        assert_eq!(plan.left_out, ["run:1: $@: the value of $@ is not known here; write the setting"]);
        assert_eq!(plan.settings[name::ACCESS].value, Value::Boolean(true));
    }

    #[test]
    fn asgi_servers_get_no_request_timeout() {
        for (line, is_off) in [
            ("gunicorn a", false),
            ("gunicorn a -k uvicorn.workers.UvicornWorker", true),
            ("uvicorn a:b", true),
            ("hypercorn a:b", true),
            ("granian a:b", true),
        ] {
            let mut plan = Plan::default();
            assert!(migrate_line(line, &[], "run:1", &mut plan));
            for server in std::mem::take(&mut plan.servers) {
                add_defaults(server, &mut plan);
            }
            let timeout = plan.settings.get(name::REQUEST).map(|setting| &setting.value);
            assert_eq!(timeout == Some(&Value::text("off")), is_off, "{line}");
        }
    }

    #[test]
    fn server_may_be_the_value_of_a_variable() {
        let mut plan = Plan::default();
        let variables = [("GUNICORN".to_owned(), "/srv/venv/bin/gunicorn".to_owned())];
        assert!(migrate_line("exec $GUNICORN a", &variables, "run:3", &mut plan));
        assert_eq!(plan.settings[name::PYTHON].value, Value::text("/srv/venv/bin/python"));
    }
}
