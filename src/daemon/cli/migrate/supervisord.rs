//! `supervisord.conf`: the programs that start a server.

use super::command;
use super::plan::{DropIn, Plan};
use super::server::ReplacedServer;
use crate::config::{Value, name};

/// One `[program:NAME]`.
#[derive(Default)]
struct Program {
    name: String,
    /// Name, value, line.
    settings: Vec<(String, String, usize)>,
}

/// Adds the programs that start a server. Other programs are left out with a note.
pub(super) fn migrate(text: &str, label: &str, plan: &mut Plan) {
    for program in parse(text) {
        let find = |name: &str| program.settings.iter().find(|(its, ..)| its == name);
        let Some((_, line, number)) = find("command") else { continue };
        let origin = format!("{label}:{number}");
        let variables = find("environment").map(|(_, text, _)| assignments(text)).unwrap_or_default();
        let is_server = line.split_whitespace().any(|word| ReplacedServer::of(word).is_some());
        if let Some((_, directory, number)) = find("directory").filter(|_| is_server) {
            plan.set(name::DIRECTORY, Value::text(directory), &format!("{label}:{number}"));
        }
        if !command::migrate_line(line, &variables, &origin, plan) {
            let text = "is not a server that rgun replaces; leave it to supervisord, or write a systemd unit";
            plan.left_out(&origin, &format!("program {}: {text}", program.name));
            continue;
        }
        for (variable, value) in &variables {
            plan.directive(DropIn::Service, "Environment", &format!("\"{variable}={value}\""));
        }
        for (setting, value, number) in &program.settings {
            let origin = format!("{label}:{number}");
            match setting.as_str() {
                "user" => plan.directive(DropIn::Service, "User", value),
                "umask" => plan.directive(DropIn::Service, "UMask", value),
                "command" | "directory" | "environment" | "autostart" | "autorestart" | "startsecs"
                | "startretries" | "stopsignal" | "stopasgroup" | "killasgroup" | "redirect_stderr"
                | "process_name" | "priority" => {}
                other => plan.left_out(&origin, &format!("{other}={value}: rgun.service decides this")),
            }
        }
    }
}

/// Parses the sections of programs. A line that begins with a space continues the value of the line
/// before.
fn parse(text: &str) -> Vec<Program> {
    let mut programs: Vec<Program> = Vec::new();
    let mut is_program = false;
    for (idx, line) in text.lines().enumerate() {
        let line = line.split(" ;").next().unwrap_or(line);
        let content = line.trim();
        if content.is_empty() || content.starts_with([';', '#']) {
            continue;
        }
        if let Some(section) = content.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            is_program = section.starts_with("program:");
            if let Some(name) = section.strip_prefix("program:") {
                programs.push(Program { name: name.to_owned(), ..Program::default() });
            }
            continue;
        }
        let Some(program) = programs.last_mut().filter(|_| is_program) else { continue };
        let continued = program.settings.last_mut().filter(|_| line.starts_with([' ', '\t']));
        match (continued, content.split_once('=')) {
            (Some((_, value, _)), _) => {
                value.push(' ');
                value.push_str(content.trim_end_matches('\\').trim_end());
            }
            (None, Some((name, value))) => {
                let value = value.trim().trim_end_matches('\\').trim_end().to_owned();
                program.settings.push((name.trim().to_owned(), value, idx + 1));
            }
            (None, None) => {}
        }
    }
    programs
}

/// Returns the variables of `environment=A="1",B="2"`.
fn assignments(text: &str) -> Vec<(String, String)> {
    let words = shlex::split(&text.replace(',', " ")).unwrap_or_default();
    words
        .iter()
        .filter_map(|word| word.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}
