//! Procfiles, and shell scripts with commands that start a server.

use std::path::Path;

use super::plan::Plan;
use super::server::ReplacedServer;
use super::shell::{self, ShellState};
use super::tokens::{self, Syntax};
use super::words::Scope;
use crate::config::{Setting, Value, name};

/// Returns a plan for each process of a Procfile that starts a server. Other processes are left out
/// with a note. The processes start in `home`, if it is known.
pub(super) fn migrate_procfile(text: &str, label: &str, home: Option<&Path>, plan: &mut Plan) -> Vec<Plan> {
    let mut servers = Vec::new();
    for (idx, line) in text.lines().enumerate() {
        let Some((process, command)) = line.split_once(':').filter(|_| !line.trim_start().starts_with('#'))
        else {
            continue;
        };
        let origin = format!("{label}:{}", idx + 1);
        let process = process.trim();
        let mut service = Plan { name: process.to_owned(), ..plan.clone() };
        if let Some(home) = home {
            service.settings.insert(name::DIRECTORY, Setting::flag(label, Value::os(home.as_os_str())));
        }
        if shell::migrate_line(command.trim(), Syntax::Shell, &Scope::default(), &origin, &mut service) {
            servers.push(service);
        } else {
            plan.left_out(
                &origin,
                &format!(
                    "{process}: is not a server that rgun replaces; run it in a systemd unit of its own"
                ),
            );
        }
    }
    if servers.is_empty() {
        plan.left_out(label, &format!("has no process that starts {}", ReplacedServer::NAMES));
    }
    servers
}

/// Returns a plan for each command of a script that starts a server. `path` is the full path of the
/// script.
pub(super) fn migrate_script(text: &str, label: &str, path: &str, plan: &mut Plan) -> Vec<Plan> {
    let mut shell = ShellState::new(plan, &[("0", path)].into_iter().collect());
    let (mut joined, mut start, mut end_of_text) = (String::new(), 1, None);
    for (idx, line) in text.lines().enumerate() {
        if let Some(end) = &end_of_text {
            if line.trim() == end {
                end_of_text = None;
            }
            continue;
        }
        if joined.is_empty() {
            start = idx + 1;
        }
        if let Some(content) = line.strip_suffix('\\') {
            joined.push_str(content);
            joined.push(' ');
            continue;
        }
        joined.push_str(line);
        // A quotation that is open ends on a later line.
        let Some(commands) = tokens::split(&joined, Syntax::Shell) else {
            joined.push('\n');
            continue;
        };
        joined.clear();
        let origin = format!("{label}:{start}");
        for command in commands {
            end_of_text =
                end_of_text.or_else(|| command.redirections.iter().find_map(|each| here_document(each)));
            shell.run(command, &origin, plan);
        }
    }
    if !joined.trim().is_empty() {
        plan.left_out(&format!("{label}:{start}"), "the command has an open quotation");
    }
    let servers = shell.servers;
    match servers.as_slice() {
        [] => plan.left_out(label, &format!("has no command that starts {}", ReplacedServer::NAMES)),
        [_] => {}
        several => {
            let text = format!(
                "has {} commands that start a server, perhaps under different conditions; each became an instance: remove those that are not needed",
                several.len()
            );
            plan.left_out(label, &text);
        }
    }
    servers
}

/// Returns the line that ends a here-document, from its redirection.
fn here_document(redirection: &str) -> Option<String> {
    let word = redirection.trim_start_matches(|letter: char| letter.is_ascii_digit()).strip_prefix("<<")?;
    let word = word.strip_prefix('-').unwrap_or(word).trim().trim_matches(['"', '\'']);
    (!word.starts_with('<')).then(|| word.to_owned())
}
