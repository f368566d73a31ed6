//! Interprets the commands of a shell as far as they concern the server: variables, the directory,
//! virtual environments, and the commands that start a server. No program is started.
//!
//! Conditions are not evaluated. A variable that is set in a condition has no known value.

use std::collections::BTreeSet;

use super::command;
use super::flags;
use super::plan::{DropIn, EnvPlace, Plan};
use super::tokens::{self, SimpleCommand, Syntax};
use super::words::{self, Known, Scope, Word};
use crate::config::{Value, name};

/// Commands that neither prepare the application nor change what the server sees.
const HARMLESS: &[&str] = &[
    "echo", "printf", "trap", "wait", "sleep", "true", "false", "test", "[", "[[", "exit", "return", "shift",
    "unset", "type", "command", "hash", "date", "ls", "cat", "whoami", "id", "pwd", "exec", "shopt", "which",
    ")",
];

/// The state of a shell.
#[derive(Debug)]
pub(super) struct ShellState {
    scope: Scope,
    /// The variables that commands get.
    exported: BTreeSet<String>,
    /// Whether `set -a` exports every variable.
    exports_all: bool,
    /// The number of open conditions, loops and functions.
    depth: usize,
    /// One plan for each command that starts a server.
    pub(super) servers: Vec<Plan>,
}

/// Adds the settings of a line, if the line starts a server. Returns whether the line does. Of
/// several servers, only the first is added. `scope` has variables that do not belong to the
/// service.
pub(super) fn migrate_line(line: &str, syntax: Syntax, scope: &Scope, origin: &str, plan: &mut Plan) -> bool {
    let Some(commands) = tokens::split(line, syntax) else {
        plan.left_out(origin, "the command has an open quotation");
        return false;
    };
    migrate_commands(commands, scope, origin, plan)
}

/// As [`migrate_line`], for words that are already separated, such as those of a JSON list.
pub(super) fn migrate_words(words: Vec<Word>, scope: &Scope, origin: &str, plan: &mut Plan) -> bool {
    migrate_commands(vec![SimpleCommand { words, redirections: Vec::new() }], scope, origin, plan)
}

fn migrate_commands(commands: Vec<SimpleCommand>, scope: &Scope, origin: &str, plan: &mut Plan) -> bool {
    let mut shell = ShellState::new(plan, scope);
    let before = plan.clone();
    for command in commands {
        shell.run(command, origin, plan);
    }
    let mut servers = shell.servers.into_iter();
    let Some(first) = servers.next() else {
        // A command of uWSGI that names a configuration file starts no server here.
        if plan.configurations.len() == before.configurations.len() {
            *plan = before;
        }
        return false;
    };
    let left_out = std::mem::take(&mut plan.left_out);
    *plan = first;
    plan.left_out.extend(left_out);
    for _ in servers {
        plan.left_out(origin, "the other server on this line: migrate it by itself");
    }
    plan.deduplicate();
    true
}

impl ShellState {
    /// Returns the shell in which the service's command runs. `others` are further variables.
    pub(super) fn new(plan: &Plan, others: &Scope) -> Self {
        let mut scope = plan.scope();
        scope.extend(others);
        let exported = plan.environment.iter().map(|variable| variable.name.clone()).collect();
        Self { scope, exported, exports_all: false, depth: 0, servers: Vec::new() }
    }

    /// Interprets a command. Its settings go to `plan`. If the command starts a server, they go to
    /// a copy of `plan` in `servers`.
    pub(super) fn run(&mut self, mut command: SimpleCommand, origin: &str, plan: &mut Plan) {
        if !self.enter(&mut command.words) {
            return;
        }
        let words: Vec<String> = command.words.iter().map(Word::unquoted).collect();
        let Some(first) = words.first() else { return };
        if command.words.iter().all(|word| word.assignment().is_some()) {
            let is_exported = |shell: &Self, name: &str| shell.exports_all || shell.exported.contains(name);
            for (name, value) in command.words.iter().filter_map(Word::assignment) {
                let is_exported = is_exported(self, &name);
                self.assign(&name, &value, is_exported, origin, plan);
            }
            return;
        }
        match first.as_str() {
            "export" | "declare" | "typeset" | "readonly" | "local" => {
                let is_exported = first == "export"
                    || words.get(1).is_some_and(|flag| flag.starts_with('-') && flag.contains('x'));
                self.declare(&command.words[1..], is_exported, origin, plan);
            }
            "cd" | "pushd" => self.change_directory(command.words.get(1), origin, plan),
            "source" | "." => self.source(command.words.get(1), origin, plan),
            "set" => {
                let flag = words.get(1).map(String::as_str);
                let is_allexport = words.get(2).is_some_and(|option| option == "allexport");
                match flag {
                    Some("-o") if is_allexport => self.exports_all = true,
                    Some("+o") if is_allexport => self.exports_all = false,
                    Some(flag) if flag.starts_with('-') && flag.contains('a') => self.exports_all = true,
                    Some(flag) if flag.starts_with('+') && flag.contains('a') => self.exports_all = false,
                    _ => {}
                }
            }
            ":" => self.define_defaults(&command.words[1..], origin, plan),
            "umask" => match words.get(1).filter(|mask| u32::from_str_radix(mask, 8).is_ok()) {
                Some(mask) => plan.directive(DropIn::Service, "UMask", mask),
                None => plan.left_out(origin, &format!("{}: write UMask= in the unit", words.join(" "))),
            },
            _ => self.run_program(&command, &words, origin, plan),
        }
    }

    /// Interprets a command that is neither a keyword nor a builtin with an effect.
    fn run_program(&mut self, command: &SimpleCommand, words: &[String], origin: &str, plan: &mut Plan) {
        if let Some(line) = command::inner_line(command) {
            return match tokens::split(&line, Syntax::Shell) {
                Some(commands) => {
                    for command in commands {
                        self.run(command, origin, plan);
                    }
                }
                None => plan.left_out(origin, &format!("{line}: has an open quotation")),
            };
        }
        if command::starts_server(command, &self.scope) {
            let mut service = plan.clone();
            command::migrate(command, &self.scope, origin, &mut service);
            if service.is_server {
                self.servers.push(service);
            } else {
                *plan = service;
            }
            return;
        }
        let first = words[0].as_str();
        if first == "exec" && words.get(1).is_some_and(|word| word.starts_with('$')) {
            let text = format!(
                "{}: runs the command that the script gets; pass the file with that command too",
                words.join(" ")
            );
            return plan.left_out(origin, &text);
        }
        if HARMLESS.contains(&first) && !(first == "exec" && words.len() > 1) {
            return;
        }
        let line: Vec<&str> = command.words.iter().map(|word| word.source.as_str()).collect();
        plan.left_out(
            origin,
            &format!("{}: ExecStartPre= in the unit runs a command before rgun", line.join(" ")),
        );
    }

    /// Removes the keywords before a command. Returns false for a command that is only a condition.
    fn enter(&mut self, words: &mut Vec<Word>) -> bool {
        while let Some(first) = words.first().map(|word| word.source.clone()) {
            match first.as_str() {
                "if" | "while" | "until" | "for" | "case" | "select" => {
                    self.depth += 1;
                    return false;
                }
                "elif" => return false,
                "fi" | "done" | "esac" | "}" => {
                    self.depth = self.depth.saturating_sub(1);
                    return false;
                }
                "then" | "else" | "do" | "!" | "(" | "time" => {}
                "{" => self.depth += 1,
                "function" => {
                    words.truncate(3);
                    words.retain(|word| word.source == "{");
                    continue;
                }
                // A function, or a pattern of `case`.
                name if name.ends_with("()")
                    || name.ends_with(')') && !name.contains('(') && self.depth > 0 => {}
                _ => return true,
            }
            words.remove(0);
        }
        true
    }

    /// Assigns a value to a variable.
    fn assign(&mut self, name: &str, value: &Word, is_exported: bool, origin: &str, plan: &mut Plan) {
        let known = match value.expand(&self.scope) {
            _ if self.depth > 0 => Known::Not(format!("{origin} sets {name} under a condition")),
            Ok(expanded) => {
                plan.changed.extend(expanded.notes.iter().map(|note| format!("{origin}: {note}")));
                Known::Value(expanded.text)
            }
            Err(unknown) if name == "PATH" && unknown.is_variable("PATH") => {
                let path = value.unquoted().replace("${PATH}", "/usr/bin").replace("$PATH", "/usr/bin");
                plan.search_path = Some(path.clone());
                self.scope.define(name, Known::Value(path));
                return plan.left_out(origin, &format!("PATH={}: write Environment=PATH=… in a drop-in of rgun.service if the application starts programs by their names", value.source));
            }
            Err(unknown) if unknown.reason.is_empty() => {
                Known::Not(format!("{origin}: {name}={}", value.source))
            }
            Err(unknown) => Known::Not(unknown.reason),
        };
        self.define(name, known, is_exported, origin, plan);
    }

    fn define(&mut self, name: &str, known: Known, is_exported: bool, origin: &str, plan: &mut Plan) {
        if is_exported {
            self.exported.insert(name.to_owned());
            match &known {
                Known::Value(value) => plan.export(name, value, origin, EnvPlace::DropIn),
                Known::Not(reason) => plan.left_out(
                    origin,
                    &format!("export {name}: the value is not known here ({reason}); write Environment={name}=… in a drop-in of rgun.service"),
                ),
            }
        }
        self.scope.define(name, known);
    }

    /// Interprets `export`, `declare` and similar builtins.
    fn declare(&mut self, words: &[Word], is_exported: bool, origin: &str, plan: &mut Plan) {
        for word in words {
            let text = word.unquoted();
            if let Some((name, value)) = word.assignment() {
                self.assign(&name, &value, is_exported, origin, plan);
            } else if let Some(file) = exported_file(&text) {
                self.add_env_file(&file, origin, plan);
            } else if words::is_name(&text) && is_exported {
                match self.scope.get(&text).cloned() {
                    Some(known) => self.define(&text, known, true, origin, plan),
                    None => drop(self.exported.insert(text)),
                }
            } else if !text.starts_with('-') {
                plan.left_out(origin, &format!("export {text}: the variables are not known here; write Environment= in a drop-in of rgun.service"));
            }
        }
    }

    /// Assigns the defaults of `: "${NAME:=default}"`.
    fn define_defaults(&mut self, words: &[Word], origin: &str, plan: &mut Plan) {
        for (name, source, default) in words.iter().flat_map(Word::defaults) {
            if self.scope.get(&name).is_none() {
                let is_exported = self.exported.contains(&name);
                self.assign(&name, &default, is_exported, origin, plan);
                plan.changed.push(format!(
                    "{origin}: {source} became {}, its default, whatever {name} is",
                    default.unquoted()
                ));
            }
        }
    }

    fn change_directory(&mut self, word: Option<&Word>, origin: &str, plan: &mut Plan) {
        let Some(word) = word else { return };
        let expanded = word.expand(&self.scope);
        if let Ok(expanded) = &expanded {
            plan.changed.extend(expanded.notes.iter().map(|note| format!("{origin}: {note}")));
        }
        let directory = expanded.map(|expanded| expanded.text);
        let full = match (&directory, plan.directory()) {
            (Ok(directory), _) if directory.starts_with('/') => Some(directory.clone()),
            (Ok(directory), Some(base)) if !directory.starts_with('-') && !directory.contains("..") => {
                Some(format!("{base}/{}", directory.trim_start_matches("./")))
            }
            _ => None,
        };
        match full {
            Some(full) if self.depth == 0 => {
                plan.set(name::DIRECTORY, Value::text(full.trim_end_matches("/.")), origin);
            }
            _ => plan.left_out(
                origin,
                &format!("cd {}: the directory is not known here; write app.directory", word.source),
            ),
        }
    }

    /// Interprets `source FILE`: the script of a virtual environment, or a file with variables.
    fn source(&mut self, word: Option<&Word>, origin: &str, plan: &mut Plan) {
        let Some(word) = word else { return };
        let path = word.expand(&self.scope).map_or_else(|_| word.unquoted(), |expanded| expanded.text);
        if let Some(prefix) = path.strip_suffix("/bin/activate") {
            let full = super::interpreter::below(plan.directory(), format!("{prefix}/bin"));
            match full.strip_suffix("/bin").filter(|full| full.starts_with('/')) {
                Some(prefix) => self.scope.define("VIRTUAL_ENV", Known::Value(prefix.to_owned())),
                None => plan
                    .left_out(origin, &format!("{path}: its directory is not known here; write app.python")),
            }
        } else if is_env_path(&path) || self.exports_all {
            self.add_env_file(&path, origin, plan);
        } else {
            plan.left_out(origin, &format!("source {path}: the variables in it are not known here; write Environment= or EnvironmentFile= in a drop-in of rgun.service"));
        }
    }

    fn add_env_file(&mut self, path: &str, origin: &str, plan: &mut Plan) {
        let count = plan.environment.len();
        flags::add_env_file(path, origin, plan);
        for variable in &plan.environment[count.min(plan.environment.len())..] {
            self.scope.define(&variable.name, Known::Value(variable.value.clone()));
        }
    }
}

/// Returns whether a path is that of a file with variables: `.env`, `prod.env`, `.env.local`.
fn is_env_path(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.split('.').skip(1).any(|part| part == "env"))
}

/// Returns FILE of `export $(… FILE | xargs)`, which is a file with variables.
fn exported_file(text: &str) -> Option<String> {
    let inner = text.strip_prefix("$(").filter(|inner| inner.contains("xargs") || inner.contains("cat"))?;
    let words = inner.split([' ', ')', '|', '<']).filter(|word| !word.is_empty());
    let file = words.into_iter().find(|word| is_env_path(word.trim_matches(['"', '\''])))?;
    Some(file.trim_matches(['"', '\'']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn migrate(line: &str) -> Plan {
        let mut plan = Plan::default();
        assert!(migrate_line(line, Syntax::Shell, &Scope::default(), "run:1", &mut plan), "{line}");
        plan
    }

    fn variables(plan: &Plan) -> Vec<String> {
        plan.environment.iter().map(|variable| format!("{}={}", variable.name, variable.value)).collect()
    }

    #[test]
    fn relative_server_is_below_the_working_directory() {
        let mut plan = Plan::default();
        plan.set(name::DIRECTORY, Value::text("/srv/a"), "a.service:1");
        let scope = Scope::default();
        assert!(migrate_line("./venv/bin/gunicorn a", Syntax::Unit, &scope, "a.service:2", &mut plan));
        assert_eq!(plan.settings[name::PYTHON].value, Value::text("/srv/a/venv/bin/python"));
    }

    #[test]
    fn commands_before_the_server_are_named() {
        let plan = migrate(
            "set -e; cd /srv/a && python manage.py migrate; export N=3 ; gunicorn a -w $N & tail -f log",
        );
        assert_eq!(plan.settings[name::DIRECTORY].value, Value::text("/srv/a"));
        assert_eq!(plan.settings[name::COUNT].value, Value::text("3"));
        assert_eq!(variables(&plan), ["N=3"]);
        let earlier = "run:1: python manage.py migrate: ExecStartPre= in the unit runs a command before rgun";
        assert_eq!(plan.left_out[0], earlier);
    }

    #[test]
    fn arguments_of_the_script_are_named() {
        let plan = migrate("/srv/v/bin/gunicorn a --access-logfile - $@");
        assert_eq!(plan.left_out, ["run:1: $@: the value of $@ is not known here; write the settings"]);
        assert_eq!(plan.settings[name::ACCESS].value, Value::Boolean(true));
    }

    #[test]
    fn server_may_be_the_value_of_a_variable() {
        let plan = migrate("GUNICORN='/srv/venv/bin/gunicorn -w 3'; exec $GUNICORN a");
        assert_eq!(plan.settings[name::PYTHON].value, Value::text("/srv/venv/bin/python"));
        assert_eq!(plan.settings[name::COUNT].value, Value::text("3"));
        let plan = migrate("R='python3 -m'; $R uvicorn a:b");
        assert_eq!(plan.settings[name::TARGET].value, Value::text("a:b"));
    }

    #[test]
    fn commands_about_a_server_do_not_start_it() {
        for line in [
            "pip install gunicorn",
            "uv pip install gunicorn",
            "echo Starting gunicorn a",
            "pkill -f uvicorn",
            "systemctl restart gunicorn",
            "fastapi --version",
            "cd uvicorn",
        ] {
            let mut plan = Plan::default();
            assert!(!migrate_line(line, Syntax::Shell, &Scope::default(), "run:1", &mut plan), "{line}");
        }
    }

    #[test]
    fn unknown_values_name_the_setting_to_write() {
        for (line, note) in [
            (
                "gunicorn a -w $(nproc)",
                "-w $(nproc): the value of $(nproc) is not known here; write workers.count in rgun.toml; \"auto\" is two per core plus one",
            ),
            (
                "gunicorn a --timeout=$T",
                "--timeout=$T: the value of $T is not known here; write timeouts.request in rgun.toml",
            ),
            (
                "gunicorn a -b $HOST:80",
                "-b $HOST:80: the value of $HOST is not known here; write ListenStream= in a drop-in of rgun.socket",
            ),
            (
                "N=$(nproc); gunicorn a -w $N",
                "-w $N: the value of $N is not known here (run:1: N=$(nproc)); write workers.count in rgun.toml; \"auto\" is two per core plus one",
            ),
            (
                "if [ -f x ]; then N=2; fi; gunicorn a -w $N",
                "-w $N: the value of $N is not known here (run:1 sets N under a condition); write workers.count in rgun.toml; \"auto\" is two per core plus one",
            ),
            (
                "gunicorn $APP",
                "$APP: the value of $APP is not known here; write the setting, or app.target if it names the application",
            ),
        ] {
            let plan = migrate(line);
            assert!(plan.left_out.contains(&format!("run:1: {note}")), "{line}: {:#?}", plan.left_out);
        }
    }

    #[test]
    fn virtual_environment_is_found() {
        for (line, python) in [
            (". /srv/venv/bin/activate && gunicorn a", "/srv/venv/bin/python"),
            ("cd /srv; source venv/bin/activate; gunicorn a", "/srv/venv/bin/python"),
            ("export PATH=/opt/venv/bin:/usr/bin; gunicorn a", "/opt/venv/bin/python"),
            ("VIRTUAL_ENV=/opt/v gunicorn a", "/opt/v/bin/python"),
        ] {
            assert_eq!(migrate(line).settings[name::PYTHON].value, Value::text(python), "{line}");
        }
    }

    #[test]
    fn wrappers_are_named_and_users_kept() {
        let plan = migrate("exec gosu app:app ddtrace-run gunicorn a");
        assert_eq!(plan.directives, [(DropIn::Service, "User".to_owned(), "app".to_owned())]);
        assert!(
            plan.left_out[0].starts_with("run:1: ddtrace-run before gunicorn: rgun starts"),
            "{:?}",
            plan.left_out
        );
        let plan = migrate("sudo -u www-data -E gunicorn a");
        assert_eq!(plan.directives, [(DropIn::Service, "User".to_owned(), "www-data".to_owned())]);
    }

    #[test]
    fn variables_of_every_kind_are_kept() {
        let line = "A=1; export B=$A C='x y' D; set -a; E=2; set +a; F=3; : ${G:=4}; export G; gunicorn a";
        assert_eq!(variables(&migrate(line)), ["B=1", "C=x y", "E=2", "G=4"]);
    }

    #[test]
    fn files_with_variables_are_named() {
        for line in [
            "cd /srv; export $(grep -v '^#' .env | xargs); gunicorn a",
            "cd /srv; set -a; . ./.env; set +a; gunicorn a",
            "export $(cat /srv/.env | xargs) && gunicorn a",
        ] {
            let expected = (DropIn::Service, "EnvironmentFile".to_owned(), "/srv/.env".to_owned());
            assert_eq!(migrate(line).directives, [expected], "{line}");
        }
    }
}
