//! Procfiles, and shell scripts with a line that starts a server.

use super::command;
use super::plan::Plan;
use crate::config::{Value, name};

/// Adds the processes of a Procfile that start a server. Other processes are left out with a note.
pub(super) fn migrate_procfile(text: &str, label: &str, plan: &mut Plan) {
    for (idx, line) in text.lines().enumerate() {
        let Some((name, command)) = line.split_once(':').filter(|_| !line.trim_start().starts_with('#'))
        else {
            continue;
        };
        let origin = format!("{label}:{}", idx + 1);
        let name = name.trim();
        if !command::migrate_line(command.trim(), &[], &origin, plan) {
            plan.left_out(
                &origin,
                &format!("{name}: is not a server that rgun replaces; run it in a systemd unit of its own"),
            );
        }
    }
}

/// Adds the commands of a script that start a server.
pub(super) fn migrate_script(text: &str, label: &str, plan: &mut Plan) {
    let (mut variables, mut found) = (Vec::new(), false);
    let (mut joined, mut start) = (String::new(), 0);
    for (idx, line) in text.lines().enumerate() {
        let line = line.trim();
        if joined.is_empty() {
            start = idx + 1;
        }
        if let Some(content) = line.strip_suffix('\\') {
            joined.push_str(content);
            joined.push(' ');
            continue;
        }
        joined.push_str(line);
        let command = std::mem::take(&mut joined);
        if command.starts_with('#') || command.is_empty() {
            continue;
        }
        let origin = format!("{label}:{start}");
        let words = shlex::split(&command).unwrap_or_default();
        if let [cd, directory] = words.as_slice()
            && cd == "cd"
            && let Ok((directory, _)) = command::expand(directory, &variables)
            && directory.starts_with('/')
        {
            plan.set(name::DIRECTORY, Value::text(directory), &origin);
        } else if let Some(assignment) = assignment(&command) {
            variables.push(assignment);
        } else if command::migrate_line(&command, &variables, &origin, plan) {
            found = true;
        } else if prepares(&words) {
            plan.left_out(
                &origin,
                &format!("{command}: ExecStartPre= in the unit runs a command before rgun"),
            );
        }
    }
    if !found {
        plan.left_out(label, "has no command that starts gunicorn, uvicorn, granian, hypercorn or daphne");
    }
}

/// Returns whether a command prepares the application, such as `python manage.py migrate`.
fn prepares(words: &[String]) -> bool {
    words.first().is_some_and(|word| {
        let program = word.rsplit('/').next().unwrap_or(word);
        program.starts_with("python") || matches!(program, "manage.py" | "flask" | "alembic")
    })
}

/// Returns the variable that a line sets, with its value; `None` if the value contains variables.
fn assignment(line: &str) -> Option<(String, String)> {
    let words = shlex::split(line.strip_prefix("export ").unwrap_or(line))?;
    let [word] = words.as_slice() else { return None };
    let (name, value) = word.split_once('=')?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    (is_name && !value.contains(['$', '`'])).then(|| (name.to_owned(), value.to_owned()))
}
