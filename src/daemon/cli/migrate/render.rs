//! Renders a plan as files, as differences from the installed files, and as notes.

use std::fmt::Write as _;
use std::path::Path;

use similar::TextDiff;

use super::plan::{DropIn, Plan};
use crate::config::{Value, key_position, name};

/// A file of the result: its path below the directory of `--write`, and its content.
pub(super) struct Output {
    pub(super) path: String,
    /// The path of the file after its installation.
    pub(super) installed: String,
    pub(super) content: String,
}

/// Returns the files of the plan; those without content are omitted. `instance` is the name of the
/// instance of `rgun@.service`, if there is more than one service.
pub(super) fn files(plan: &Plan, instance: Option<&str>) -> Vec<Output> {
    let service =
        format!("{}{}", section(plan, DropIn::Unit, "Unit"), section(plan, DropIn::Service, "Service"));
    let file = instance.map_or_else(|| "rgun.toml".to_owned(), |name| format!("{name}.toml"));
    let unit = instance.map_or_else(|| "rgun".to_owned(), |name| format!("rgun@{name}"));
    let drop_in = |kind: &str, content: String| {
        let path = format!("{unit}.{kind}.d/migrated.conf");
        Output { installed: format!("/etc/systemd/system/{path}"), path, content }
    };
    let outputs = [
        Output { installed: format!("/etc/rgun/{file}"), path: file, content: toml(plan) },
        drop_in("service", service),
        drop_in("socket", section(plan, DropIn::Socket, "Socket")),
    ];
    outputs.into_iter().filter(|output| !output.content.is_empty()).collect()
}

/// Returns the differences from the installed files, in unified form, each followed by a blank
/// line.
pub(super) fn differences(outputs: &[Output]) -> String {
    let mut text = String::new();
    for output in outputs {
        let old = read_existing(Path::new(&output.installed));
        let from = if old.is_some() { &output.installed } else { "/dev/null" };
        let difference = TextDiff::from_lines(old.as_deref().unwrap_or_default(), &output.content);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", difference.unified_diff().header(from, &output.path));
    }
    text
}

/// Returns the last lines of the output. `instances` has the names of several services.
pub(super) fn next_steps(instances: &[&str]) -> String {
    if instances.is_empty() {
        return "\
Then: put rgun.toml into /etc/rgun and the drop-ins into /etc/systemd/system; run
systemctl daemon-reload, rgun check; disable the old unit; enable rgun.socket and rgun.service.
"
        .to_owned();
    }
    let units: Vec<String> =
        instances.iter().map(|name| format!("rgun@{name}.socket rgun@{name}.service")).collect();
    let checks: Vec<String> =
        instances.iter().map(|name| format!("rgun check -c /etc/rgun/{name}.toml")).collect();
    format!(
        "\
Then: put the .toml files into /etc/rgun and the drop-ins into /etc/systemd/system; run
systemctl daemon-reload, {}; disable the old units; run
systemctl enable --now {}.
",
        checks.join(", "),
        units.join(" ")
    )
}

/// Returns what changed and what was left out, as lists. With `instance`, the notes name the units and
/// files of that instance of `rgun@.service`.
pub(super) fn notes(plan: &Plan, instance: Option<&str>) -> String {
    let mut text = String::new();
    for (heading, notes) in
        [("Behaves differently from before:", &plan.changed), ("Left out, and what to do:", &plan.left_out)]
    {
        if !notes.is_empty() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{heading}");
            for note in notes {
                let note = instance.map_or_else(|| note.clone(), |name| name_instance(note, name));
                let _ = writeln!(text, "  - {note}");
            }
        }
    }
    text
}

/// Replaces the names of the single service's units, files and directories by those of an instance.
fn name_instance(note: &str, instance: &str) -> String {
    note.replace("rgun.service", &format!("rgun@{instance}.service"))
        .replace("rgun.socket", &format!("rgun@{instance}.socket"))
        .replace("rgun.toml", &format!("{instance}.toml"))
        .replace("/var/lib/rgun ", &format!("/var/lib/rgun-{instance} "))
        .replace("/var/cache/rgun ", &format!("/var/cache/rgun-{instance} "))
        .replace("example /run/rgun;", &format!("example /run/rgun-{instance};"))
}

/// Returns a section of a drop-in, with its heading; empty without directives.
pub(in crate::cli) fn section(plan: &Plan, part: DropIn, heading: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for (_, name, value) in plan.directives.iter().filter(|(its, ..)| *its == part) {
        // An empty ListenStream= removes the address of the packaged socket unit.
        if name == "ListenStream" && !lines.iter().any(|line| line.starts_with("ListenStream=")) {
            lines.push("ListenStream=".to_owned());
        }
        lines.push(format!("{name}={value}"));
    }
    if lines.is_empty() { String::new() } else { format!("[{heading}]\n{}\n", lines.join("\n")) }
}

/// Returns the keys of `rgun.toml` in their order: section, word, and the value as TOML.
pub(in crate::cli) fn entries(plan: &Plan) -> Vec<(String, String, String)> {
    let mut settings: Vec<_> = plan.settings.iter().collect();
    settings.sort_by_key(|(key, _)| key_position(key));
    let entries = settings.into_iter().filter_map(|(key, setting)| {
        let (section, word) = key.split_once('.')?;
        Some((section.to_owned(), word.to_owned(), value(key, &setting.value)))
    });
    entries.collect()
}

/// Returns the tables `[[static]]`; empty without any.
pub(in crate::cli) fn static_mounts(plan: &Plan) -> String {
    let mounts = plan.mounts.iter().map(|(url, directory)| {
        format!("[[static]]\nurl = {}\ndirectory = {}\n", quoted(url), quoted(directory))
    });
    mounts.collect::<Vec<_>>().join("\n")
}

/// Returns the text of `rgun.toml`.
fn toml(plan: &Plan) -> String {
    let mut sections: Vec<(String, String)> = Vec::new();
    for (section, word, value) in entries(plan) {
        if sections.last().is_none_or(|(last, _)| *last != section) {
            sections.push((section, String::new()));
        }
        if let Some((_, text)) = sections.last_mut() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{word} = {value}");
        }
    }
    let sections = sections.into_iter().map(|(section, text)| format!("[{section}]\n{text}"));
    let mounts = Some(static_mounts(plan)).filter(|mounts| !mounts.is_empty());
    sections.chain(mounts).collect::<Vec<_>>().join("\n")
}

/// Formats a flag's value for `rgun.toml`: numbers and booleans without quotes, lists, tables.
fn value(key: &str, value: &Value) -> String {
    match value {
        Value::Text(text) if key == name::PYTHONPATH => list(text.split(',').map(str::trim)),
        Value::Text(text) if key == name::COUNT && text.contains('-') => {
            let (min, max) = text.split_once('-').unwrap_or_default();
            format!("{{ min = {min}, max = {max} }}")
        }
        Value::Text(text)
            if !text.is_empty() && text.len() < 19 && text.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            let digits = text.trim_start_matches('0');
            if digits.is_empty() { "0".to_owned() } else { digits.to_owned() }
        }
        Value::Text(text) if text == "true" || text == "false" => text.clone(),
        Value::Text(text) => quoted(text),
        Value::Bytes(bytes) => quoted(&bytes.to_string_lossy()),
        Value::List(items) if key == name::ENV => {
            let entries = items.iter().filter_map(|item| match item {
                Value::Text(text) => text.split_once('='),
                _ => None,
            });
            let entries: Vec<_> =
                entries.map(|(name, value)| format!("{} = {}", quoted(name), quoted(value))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        Value::List(items) => list(items.iter().filter_map(|item| match item {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })),
        other => other.to_string(),
    }
}

fn list<'a>(items: impl Iterator<Item = &'a str>) -> String {
    format!("[{}]", items.map(quoted).collect::<Vec<_>>().join(", "))
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Returns the content of a file, if there is one.
pub(in crate::cli) fn read_existing(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok()
}
