//! Migrates a command that starts a server: finds the server's name and the interpreter, and adds
//! the options.

use super::fastapi;
use super::flags;
use super::interpreter;
use super::options;
use super::plan::{DropIn, EnvPlace, Plan};
use super::server::ReplacedServer;
use super::tokens::SimpleCommand;
use super::uwsgi;
use super::variables;
use super::words::{self, Known, Scope, UnknownValue, Word};
use crate::cli::compat::peers;
use crate::config::{Value, name};

/// Programs that take a server's name as an argument, but do not start the server.
const OTHER_PROGRAMS: &[&str] = &[
    "pip",
    "pip3",
    "apk",
    "apt",
    "apt-get",
    "echo",
    "printf",
    "which",
    "command",
    "type",
    "hash",
    "pkill",
    "pgrep",
    "killall",
    "kill",
    "systemctl",
    "service",
    "supervisorctl",
    "chown",
    "chmod",
    "mkdir",
    "rm",
    "cp",
    "mv",
    "ln",
    "ls",
    "cat",
    "grep",
    "sed",
    "test",
    "[",
    "[[",
    "trap",
    "alias",
    "cd",
    "source",
    ".",
    "for",
    "case",
];

/// Programs that run another program as a user, each with the option that names the user; an empty
/// option stands for the next word.
const USER_SWITCHES: [(&str, &str); 6] =
    [("gosu", ""), ("su-exec", ""), ("setuidgid", ""), ("chpst", "-u"), ("sudo", "-u"), ("runuser", "-u")];

/// The note about a command without the path of an interpreter.
pub(in crate::cli) const UNKNOWN_INTERPRETER: &str = "the interpreter: the command does not name it; write app.python if it is not in .venv or venv of the directory";

/// An argument of the command.
struct Argument {
    /// The word as written, with its quotes.
    source: String,
    value: Result<String, UnknownValue>,
}

/// The server in a command.
struct ServerWord {
    server: ReplacedServer,
    /// The server's name, as expanded.
    program: String,
    /// The interpreter before `-m`.
    python: Option<String>,
    /// The index of the server's name.
    at: usize,
}

/// Returns whether a command starts a server.
pub(super) fn starts_server(command: &SimpleCommand, scope: &Scope) -> bool {
    find_server(&expand_all(&command.words, scope)).is_some()
}

/// Returns the line of `sh -c "…"`.
pub(super) fn inner_line(command: &SimpleCommand) -> Option<String> {
    let words: Vec<String> = command.words.iter().map(Word::unquoted).collect();
    let is_shell = |word: &String| matches!(file_name(word), "sh" | "bash" | "dash" | "ash" | "zsh");
    let at = words.iter().position(is_shell)?;
    let is_line = |flag: &&String| flag.starts_with('-') && flag.ends_with('c');
    words.get(at + 1).filter(is_line)?;
    words.get(at + 2).cloned()
}

/// Adds the settings of a command that starts a server. Adds nothing for another command.
pub(super) fn migrate(command: &SimpleCommand, scope: &Scope, origin: &str, plan: &mut Plan) {
    let mut arguments = expand_all(&command.words, scope);
    let Some(ServerWord { server, program, python, at }) = find_server(&arguments) else { return };
    plan.is_server = true;
    // `2>&1` names no file.
    for redirection in command.redirections.iter().filter(|redirection| !redirection.contains(">&")) {
        plan.left_out(origin, &format!("{redirection}: the log is in the journal, journalctl -u rgun"));
    }
    for expanded in command.words.iter().filter_map(|word| word.expand(scope).ok()) {
        plan.changed.extend(expanded.notes.into_iter().map(|text| format!("{origin}: {text}")));
    }
    let options = arguments.split_off(at + 1);
    arguments.truncate(at);
    let mut scope = scope.clone();
    add_prefix(&arguments, server, &mut scope, origin, plan);
    add_interpreter(python.or_else(|| interpreter::of_script(&program)), &scope, origin, plan);
    let args = known_arguments(options, origin, plan);
    let set = match server {
        ReplacedServer::Gunicorn | ReplacedServer::Uvicorn => flags::add(&args, origin, plan),
        ReplacedServer::FastApi => fastapi::add(&args, origin, plan),
        ReplacedServer::Granian => options::add(peers::GRANIAN, &args, origin, plan),
        ReplacedServer::Hypercorn => options::add(peers::HYPERCORN, &args, origin, plan),
        ReplacedServer::Daphne => {
            let has_log = args.iter().any(|arg| arg.starts_with("--access-log"));
            if is_silent_daphne(&args) && !has_log {
                plan.set(name::ACCESS, Value::Boolean(false), origin);
            }
            let (args, paths) = split_unix_sockets(args);
            let set = options::add(peers::DAPHNE, &args, origin, plan);
            plan.add_addresses(&paths);
            set
        }
        ReplacedServer::Uwsgi => uwsgi::add_command(&args, origin, plan),
    };
    variables::apply(server, &set, plan);
    plan.servers.push(server);
    if plan.is_server && !plan.settings.contains_key(name::PYTHON) {
        plan.left_out(origin, UNKNOWN_INTERPRETER);
    }
}

/// Returns whether daphne's verbosity is 0, which turns its access log off.
fn is_silent_daphne(args: &[String]) -> bool {
    let is_zero = |pair: &[String]| matches!(pair[0].as_str(), "-v" | "--verbosity") && pair[1] == "0";
    args.windows(2).any(is_zero) || args.iter().any(|arg| matches!(arg.as_str(), "-v0" | "--verbosity=0"))
}

/// Separates daphne's unix sockets from the other arguments if these name a host or a port, because
/// daphne then listens on both. Returns the other arguments, and the sockets as addresses.
fn split_unix_sockets(args: Vec<String>) -> (Vec<String>, Vec<Value>) {
    let is_option = |arg: &String, letter: &str, long: &str| {
        let is_long = arg.strip_prefix(long).is_some_and(|rest| rest.is_empty() || rest.starts_with('='));
        is_long || arg.starts_with(letter) && !arg.starts_with("--")
    };
    let has_address = args.iter().any(|arg| is_option(arg, "-p", "--port") || is_option(arg, "-b", "--bind"));
    if !has_address {
        return (args, Vec::new());
    }
    let (mut others, mut addresses, mut rest) = (Vec::new(), Vec::new(), args.into_iter());
    while let Some(arg) = rest.next() {
        if !is_option(&arg, "-u", "--unix-socket") {
            others.push(arg);
            continue;
        }
        let inline = arg.strip_prefix("--unix-socket=").or_else(|| arg.strip_prefix("-u"));
        let path = inline.filter(|path| !path.is_empty()).map(str::to_owned).or_else(|| rest.next());
        addresses.extend(path.map(|path| Value::text(format!("unix:{path}"))));
    }
    (others, addresses)
}

/// Replaces the variables in the words. An unquoted variable may become several arguments.
fn expand_all(words: &[Word], scope: &Scope) -> Vec<Argument> {
    let mut arguments = Vec::new();
    for word in words {
        let source = &word.source;
        match word.expand(scope) {
            Ok(expanded) => arguments.extend(
                expanded
                    .into_words()
                    .into_iter()
                    .map(|text| Argument { source: source.clone(), value: Ok(text) }),
            ),
            Err(unknown) => arguments.push(Argument { source: source.clone(), value: Err(unknown) }),
        }
    }
    arguments
}

/// Finds the argument that names the server.
fn find_server(arguments: &[Argument]) -> Option<ServerWord> {
    let texts: Vec<&str> =
        arguments.iter().map(|argument| argument.value.as_deref().unwrap_or(&argument.source)).collect();
    let program = texts.iter().find(|text| !is_transparent(text)).map(|text| file_name(text))?;
    if OTHER_PROGRAMS.contains(&program) {
        return None;
    }
    texts.iter().enumerate().find_map(|(at, text)| {
        let server = ReplacedServer::of(text)?;
        let next = texts[at + 1..].iter().find(|text| !text.starts_with('-'));
        let is_command =
            server != ReplacedServer::FastApi || next.is_some_and(|next| matches!(*next, "run" | "dev"));
        // `uv pip install gunicorn`, `poetry add gunicorn`
        let is_installed = texts[..at].iter().any(|text| matches!(*text, "install" | "add" | "pip"));
        let python = (at >= 2 && texts[at - 1] == "-m").then(|| texts[at - 2].to_owned());
        let found = ServerWord { server, program: (*text).to_owned(), python, at };
        (is_command && !is_installed).then_some(found)
    })
}

/// Returns whether a word before a program leaves the program as it is.
fn is_transparent(word: &str) -> bool {
    let is_assignment = word.split_once('=').is_some_and(|(name, _)| words::is_name(name));
    is_assignment || matches!(file_name(word), "exec" | "env" | "nohup" | "dumb-init" | "tini" | "--")
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Adds what the words before the server set: variables and a user. Notes other programs among
/// them.
fn add_prefix(
    arguments: &[Argument],
    server: ReplacedServer,
    scope: &mut Scope,
    origin: &str,
    plan: &mut Plan,
) {
    let texts: Vec<&str> =
        arguments.iter().map(|argument| argument.value.as_deref().unwrap_or(&argument.source)).collect();
    let mut others = Vec::new();
    let mut rest = texts.as_slice();
    while let [word, after @ ..] = rest {
        rest = after;
        if let Some((name, value)) = word.split_once('=').filter(|(name, _)| words::is_name(name)) {
            scope.define(name, Known::Value(value.to_owned()));
            plan.export(name, value, origin, EnvPlace::DropIn);
        } else if let Some((_, option)) =
            USER_SWITCHES.iter().find(|(program, _)| file_name(word) == *program)
        {
            let at = if option.is_empty() {
                Some(0)
            } else {
                rest.iter().position(|word| word == option).map(|at| at + 1)
            };
            let user = at.and_then(|at| rest.get(at));
            if let Some(user) = user {
                plan.directive(DropIn::Service, "User", user.split(':').next().unwrap_or(user));
            }
            rest = &rest[at.map_or(0, |at| (at + 1).min(rest.len()))..];
        } else if !file_name(word).starts_with("python")
            && !is_transparent(word)
            && !matches!(*word, "-m" | "run")
        {
            others.push(*word);
        }
    }
    let text = match others.as_slice() {
        [] => return,
        [tool @ ("uv" | "poetry" | "pipenv" | "pdm" | "hatch" | "rye"), ..] => {
            format!("{tool} run: set app.python to the path that '{tool} run which python' prints")
        }
        others => format!(
            "{} before {}: rgun starts the interpreter itself; if this changes the application, do so in its code or in ExecStartPre=",
            others.join(" "),
            server.name()
        ),
    };
    plan.left_out(origin, &text);
}

/// Sets the interpreter: that of the command, or that of the virtual environment which the
/// command's variables name.
fn add_interpreter(python: Option<String>, scope: &Scope, origin: &str, plan: &mut Plan) {
    let python = python.map(|python| interpreter::below(plan.directory(), python));
    if let Some(python) = python.filter(|python| python.starts_with('/')) {
        plan.set(name::PYTHON, Value::text(python), origin);
    } else if let Some((python, variable)) = interpreter::of_variables(scope) {
        plan.changed.push(format!(
            "{origin}: app.python = \"{python}\": from {variable}; the command does not name it"
        ));
        plan.set(name::PYTHON, Value::text(python), origin);
    }
}

/// Returns the arguments whose value is known. The others are left out, with a note.
fn known_arguments(arguments: Vec<Argument>, origin: &str, plan: &mut Plan) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    for Argument { source, value } in arguments {
        match value {
            Ok(text) => args.push(text),
            Err(unknown) => {
                // Without its value, the flag would take the next word.
                let is_flag = |last: &String| last.len() > 1 && last.starts_with('-') && !last.contains('=');
                let flag = args.pop_if(|last| is_flag(last));
                plan.left_out(origin, &explain(&source, flag.as_deref(), &unknown));
            }
        }
    }
    args
}

/// Returns the reason why an argument is left out, with the setting to write in its place.
fn explain(source: &str, flag: Option<&str>, unknown: &UnknownValue) -> String {
    if matches!(unknown.source.as_str(), "$PORT" | "${PORT}") && unknown.reason.is_empty() {
        return format!(
            "{source}: without rgun.socket, rgun listens on 0.0.0.0:$PORT if the variable is set"
        );
    }
    let inline = source.split_once('=').map(|(flag, _)| flag).filter(|flag| flag.starts_with('-'));
    let written = flag.map_or_else(|| source.to_owned(), |flag| format!("{flag} {source}"));
    let remedy = match flag.or(inline).and_then(flags::key_of) {
        Some(name::BIND) => "write ListenStream= in a drop-in of rgun.socket".to_owned(),
        Some(name::COUNT) => "write workers.count in rgun.toml; \"auto\" is two per core plus one".to_owned(),
        Some(key) => format!("write {key} in rgun.toml"),
        None if source.starts_with('-') || unknown.source.len() <= 2 => "write the settings".to_owned(),
        None => "write the setting, or app.target if it names the application".to_owned(),
    };
    let reason = if unknown.reason.is_empty() { String::new() } else { format!(" ({})", unknown.reason) };
    format!("{written}: the value of {} is not known here{reason}; {remedy}", unknown.source)
}
