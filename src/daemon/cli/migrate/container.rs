//! Descriptions of containers: Containerfiles, `command:` in Compose files, quadlet's `.container`
//! units.
//!
//! A container needs no units: rgun runs in one with the flags of the old command. The result has
//! the command's settings for a systemd service. Instructions about the image itself (FROM, COPY,
//! volumes) do not concern rgun and are not listed.

use super::command;
use super::plan::{DropIn, Plan};
use crate::config::{Value, name};

/// Adds the command of the last `CMD` or `ENTRYPOINT` that starts a server.
pub(super) fn migrate_containerfile(text: &str, label: &str, plan: &mut Plan) {
    let (mut variables, mut found) = (Vec::new(), false);
    for (line, number) in joined_lines(text) {
        let Some((instruction, rest)) = line.split_once(char::is_whitespace) else { continue };
        let (origin, rest) = (format!("{label}:{number}"), rest.trim());
        match instruction.to_ascii_uppercase().as_str() {
            "ENV" => {
                let words = shlex::split(rest).unwrap_or_default();
                let pairs = words.iter().filter_map(|word| word.split_once('='));
                for (name, value) in pairs {
                    variables.push((name.to_owned(), value.to_owned()));
                    plan.directive(DropIn::Service, "Environment", &format!("\"{name}={value}\""));
                }
            }
            "WORKDIR" if rest.starts_with('/') => plan.set(name::DIRECTORY, Value::text(rest), &origin),
            "USER" => {
                plan.left_out(&origin, &format!("USER {rest}: write User= in a drop-in of rgun.service"));
            }
            "CMD" | "ENTRYPOINT" => {
                found |= command::migrate_line(&command_of(rest), &variables, &origin, plan);
            }
            _ => {}
        }
    }
    note_missing(found, label, plan);
}

/// Adds the commands of a Compose file. A command on several lines, or of another program, is left
/// out with a note.
pub(super) fn migrate_compose(text: &str, label: &str, plan: &mut Plan) {
    let mut found = false;
    for (idx, line) in text.lines().enumerate() {
        let content = line.trim();
        let Some(rest) = ["command:", "entrypoint:"].iter().find_map(|key| content.strip_prefix(key)) else {
            if let Some(directory) = content.strip_prefix("working_dir:") {
                let directory = directory.trim().trim_matches(['"', '\'']);
                plan.set(name::DIRECTORY, Value::text(directory), &format!("{label}:{}", idx + 1));
            }
            continue;
        };
        let (origin, rest) = (format!("{label}:{}", idx + 1), rest.trim());
        if rest.is_empty() || rest.starts_with(['>', '|']) {
            plan.left_out(
                &origin,
                "the command on the following lines: write it on one line, and migrate again",
            );
            continue;
        }
        // In a Compose file, "$$" is a dollar sign for the container's shell.
        let line = command_of(rest.trim_matches(['"', '\''])).replace("$$", "$");
        if command::migrate_line(&line, &[], &origin, plan) {
            found = true;
        } else {
            plan.left_out(&origin, &format!("{content}: is not a server that rgun replaces"));
        }
    }
    note_missing(found, label, plan);
}

/// Adds the command of a quadlet unit.
pub(super) fn migrate_quadlet(text: &str, label: &str, plan: &mut Plan) {
    let mut found = false;
    for (line, number) in joined_lines(text) {
        let Some((key, value)) = line.split_once('=') else { continue };
        let (origin, value) = (format!("{label}:{number}"), value.trim());
        match key.trim() {
            "WorkingDir" => plan.set(name::DIRECTORY, Value::text(value), &origin),
            "Environment" | "EnvironmentFile" => plan.directive(DropIn::Service, key.trim(), value),
            "Exec" => found |= command::migrate_line(value, &[], &origin, plan),
            _ => {}
        }
    }
    note_missing(found, label, plan);
}

fn note_missing(found: bool, label: &str, plan: &mut Plan) {
    let text = if found {
        "the container: in a container, run rgun APP with the flags of the command; these files are for a service \
         of systemd"
    } else {
        "has no command that starts a server; the image may have one"
    };
    plan.left_out(label, text);
}

/// Returns the words of a command in JSON as a command line; the text itself if it is not JSON.
fn command_of(text: &str) -> String {
    let words: Option<Vec<String>> = serde_json::from_str(text).ok();
    words
        .and_then(|words| shlex::try_join(words.iter().map(String::as_str)).ok())
        .unwrap_or_else(|| text.to_owned())
}

/// Returns the lines without comments, each with its number. A line that ends with a backslash is
/// joined with the next line.
fn joined_lines(text: &str) -> Vec<(String, usize)> {
    let mut lines: Vec<(String, usize)> = Vec::new();
    let mut is_continued = false;
    for (idx, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (content, continues) =
            line.strip_suffix('\\').map_or((line, false), |content| (content.trim_end(), true));
        match lines.last_mut().filter(|_| is_continued) {
            Some((last, _)) => {
                last.push(' ');
                last.push_str(content);
            }
            None => lines.push((content.to_owned(), idx + 1)),
        }
        is_continued = continues;
    }
    lines
}
