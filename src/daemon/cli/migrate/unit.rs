//! A systemd unit whose `ExecStart=` is a server of Python applications.

use super::plan::{DropIn, EnvPlace, PRIMARY_GROUP, Plan};
use super::shell;
use super::tokens::Syntax;
use super::words::Scope;
use crate::config::{Value, name};

/// Directives of `[Service]` that keep their meaning in a drop-in of `rgun.service`.
const KEPT: &[&str] = &[
    "User",
    "SupplementaryGroups",
    "UMask",
    "PassEnvironment",
    "UnsetEnvironment",
    "RuntimeDirectory",
    "RuntimeDirectoryMode",
    "StateDirectory",
    "StateDirectoryMode",
    "CacheDirectory",
    "CacheDirectoryMode",
    "LogsDirectory",
    "LogsDirectoryMode",
    "ReadWritePaths",
    "ReadOnlyPaths",
    "InaccessiblePaths",
    "BindPaths",
    "BindReadOnlyPaths",
    "LoadCredential",
    "LoadCredentialEncrypted",
    "SetCredential",
    "ExecStartPre",
    "ExecStartPost",
    "ExecStopPost",
    "Slice",
    "Nice",
    "CPUQuota",
    "CPUWeight",
    "CPUAffinity",
    "MemoryMax",
    "MemoryHigh",
    "TasksMax",
    "IOWeight",
    "OOMScoreAdjust",
];

/// Directives of `[Unit]` that keep their meaning.
const KEPT_UNIT: &[&str] = &[
    "After",
    "Before",
    "Wants",
    "Requires",
    "BindsTo",
    "PartOf",
    "RequiresMountsFor",
    "ConditionPathExists",
];

/// Directives dropped without a note: they are added elsewhere, `rgun.service` or `rgun.socket` sets
/// them, or rgun needs no setting for them.
const OWN: &[&str] = &[
    "ExecStart",
    "WorkingDirectory",
    "Environment",
    "EnvironmentFile",
    "Description",
    "Documentation",
    "Type",
    "NotifyAccess",
    "Restart",
    "RestartSec",
    "KillMode",
    "KillSignal",
    "PIDFile",
    "PrivateTmp",
    "ExecReload",
    "ExecStop",
    "TimeoutStartSec",
    "TimeoutSec",
    "StartLimitInterval",
    "StartLimitIntervalSec",
    "StartLimitBurst",
    "WantedBy",
    "Alias",
    "Also",
];

/// One directive: section, name, value, line.
struct UnitLine {
    section: String,
    name: String,
    value: String,
    line: usize,
}

/// Adds the settings of a unit file. `label` is the file's name in notes.
pub(super) fn migrate(text: &str, label: &str, plan: &mut Plan) {
    let directives: Vec<UnitLine> = parse(text)
        .into_iter()
        .map(|directive| UnitLine { value: resolve_specifiers(&directive.value, label), ..directive })
        .collect();
    // Added before the command, which depends on the directory and on the variables.
    for directive in directives.iter().filter(|directive| directive.section == "Service") {
        add_context(directive, label, plan);
    }
    for directive in &directives {
        add(directive, label, plan);
    }
    keep_working_directory(&directives, plan);
    // An empty ExecStart= removes those above it.
    let commands: Vec<_> = directives.iter().filter(|directive| directive.name == "ExecStart").collect();
    let first = commands.iter().rposition(|directive| directive.value.is_empty()).map_or(0, |at| at + 1);
    for directive in &commands[first..] {
        add_command(directive, label, plan);
    }
}

/// Keeps the working directory for the unit's other commands: `rgun.service` has none, because
/// `app.directory` is that of the workers.
fn keep_working_directory(directives: &[UnitLine], plan: &mut Plan) {
    let others = ["ExecStartPre", "ExecStartPost", "ExecStopPost"];
    let find = |keys: &[&str]| directives.iter().rfind(|each| keys.contains(&each.name.as_str()));
    if let (Some(_), Some(directory)) = (find(&others), find(&["WorkingDirectory"])) {
        plan.directive(DropIn::Service, "WorkingDirectory", &directory.value);
    }
}

/// Adds a directive that the command depends on.
fn add_context(UnitLine { name: key, value, line, .. }: &UnitLine, label: &str, plan: &mut Plan) {
    let origin = format!("{label}:{line}");
    match key.as_str() {
        "WorkingDirectory" => {
            let path = value.trim_start_matches('-');
            if path.starts_with('/') {
                plan.set(name::DIRECTORY, Value::text(path), &origin);
            } else {
                plan.left_out(
                    &origin,
                    &format!("WorkingDirectory={path}: write the full path as app.directory"),
                );
            }
        }
        "Environment" if value.is_empty() => plan.environment.retain(|each| each.place == EnvPlace::File),
        "Environment" => {
            for (name, value) in assignments(value) {
                let plain = value.replace("%%", "%");
                let has_specifier = has_specifier(&value);
                let (text, place) =
                    if has_specifier { (&value, EnvPlace::Specifiers) } else { (&plain, EnvPlace::DropIn) };
                plan.export(&name, text, &origin, place);
            }
        }
        "EnvironmentFile" if !value.is_empty() => plan.add_env_file(value, &origin),
        _ => {}
    }
}

/// Returns the socket units whose sockets the service gets: those of `Sockets=`, and the one of the
/// service's name if the service needs it.
pub(super) fn sockets_of(text: &str, label: &str) -> Vec<String> {
    let own = label.strip_suffix(".service").map(|stem| format!("{stem}.socket"));
    let mut sockets: Vec<String> = Vec::new();
    for UnitLine { section, name, value, .. } in parse(text) {
        let is_of_service = |unit: &String| match (section.as_str(), name.as_str()) {
            ("Service", "Sockets") => unit.ends_with(".socket") && !unit.contains('/'),
            ("Unit", "Requires" | "Wants" | "BindsTo") => Some(unit) == own.as_ref(),
            _ => false,
        };
        let units = value.split_whitespace().map(|unit| resolve_specifiers(unit, label));
        sockets.extend(units.filter(is_of_service));
    }
    sockets
}

/// Adds the settings of the command.
fn add_command(UnitLine { value, line, .. }: &UnitLine, label: &str, plan: &mut Plan) {
    let origin = format!("{label}:{line}");
    let command = value.trim_start_matches(['@', '-', ':', '+', '!', '|']);
    if shell::migrate_line(command, Syntax::Unit, &Scope::default(), &origin, plan) {
        plan.set_umask();
    } else if plan.configurations.iter().all(|(_, of)| *of != origin) {
        plan.programs.push((command.to_owned(), origin));
    }
}

/// Replaces the specifiers whose values depend on the unit's name only, because `rgun.service` has
/// another name, and those with a fixed value for units of the system (systemd.unit(5)).
fn resolve_specifiers(text: &str, unit: &str) -> String {
    let stem = unit.rsplit_once('.').map_or(unit, |(stem, _)| stem);
    let (prefix, instance) = stem.split_once('@').map_or((stem, Some("")), |(prefix, instance)| {
        (prefix, Some(instance).filter(|instance| !instance.is_empty()))
    });
    let (mut resolved, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('%') {
        resolved.push_str(&rest[..at]);
        let letter = rest[at + 1..].chars().next();
        let value = match letter {
            Some('n') if instance.is_some() => Some(unit),
            Some('N') if instance.is_some() => Some(stem),
            Some('p' | 'P') => Some(prefix),
            Some('i' | 'I') => instance,
            Some('t') => Some("/run"),
            Some('S') => Some("/var/lib"),
            Some('C') => Some("/var/cache"),
            Some('L') => Some("/var/log"),
            Some('E') => Some("/etc"),
            _ => None,
        };
        let length = 1 + letter.map_or(0, char::len_utf8);
        resolved.push_str(value.unwrap_or(&rest[at..at + length]));
        rest = &rest[at + length..];
    }
    resolved.push_str(rest);
    resolved
}

/// Returns whether a text has a specifier; `%%` is a percent sign.
fn has_specifier(text: &str) -> bool {
    text.replace("%%", "").contains('%')
}

fn add(directive: &UnitLine, label: &str, plan: &mut Plan) {
    let UnitLine { section, name: key, value, line } = directive;
    let origin = format!("{label}:{line}");
    match (section.as_str(), key.as_str()) {
        ("Service", "Group") => {
            plan.directive(DropIn::Service, "SupplementaryGroups", value);
            plan.changed
                .push(format!("{origin}: Group={value} became a supplementary group; {PRIMARY_GROUP}"));
        }
        ("Service", "Sockets") => add_sockets(value, &origin, plan),
        ("Service", kept) if KEPT.contains(&kept) => plan.directive(DropIn::Service, kept, value),
        ("Service", limit) if limit.starts_with("Limit") => plan.directive(DropIn::Service, limit, value),
        ("Service", "StandardOutput" | "StandardError" | "SyslogIdentifier") => {
            plan.left_out(&origin, &format!("{key}={value}: the log is in the journal, journalctl -u rgun"));
        }
        ("Service", "TimeoutStopSec") => {
            let text = format!(
                "TimeoutStopSec={value}: rgun.service has 45s, which must be longer than timeouts.drain"
            );
            plan.left_out(&origin, &text);
        }
        ("Unit", kept) if KEPT_UNIT.contains(&kept) => add_relation(directive, label, plan),
        ("Socket", "ListenStream") => {
            plan.has_socket_unit = true;
            plan.directive(DropIn::Socket, "ListenStream", value);
        }
        ("Socket", "SocketUser" | "SocketGroup" | "SocketMode" | "Backlog") => {
            plan.directive(DropIn::Socket, key, value);
        }
        ("Socket", "Service" | "FileDescriptorName") => {}
        ("Socket", _) => plan.left_out(
            &origin,
            &format!("{key}={value}: add it with systemctl edit rgun.socket if the socket needs it"),
        ),
        (_, own) if OWN.contains(&own) || section == "Install" => {}
        _ => plan
            .left_out(&origin, &format!("{key}={value}: add it with systemctl edit rgun if rgun needs it")),
    }
}

/// Adds a relation to other units. Units that rgun's units replace are left out.
fn add_relation(UnitLine { name: kept, value, line, .. }: &UnitLine, label: &str, plan: &mut Plan) {
    let origin = format!("{label}:{line}");
    let own = label.rsplit_once('.').map_or(label, |(name, _)| name);
    if matches!(kept.as_str(), "Requires" | "Wants" | "BindsTo") {
        let is_own = |unit: &&str| unit.strip_suffix(".socket") == Some(own);
        let sockets: Vec<_> = value.split_whitespace().filter(is_own).collect();
        add_sockets(&sockets.join(" "), &origin, plan);
    }
    let is_replaced = |unit: &str| {
        let of_own = unit.strip_prefix(own).is_some_and(|rest| matches!(rest, ".socket" | ".service"));
        // rgun.service requires rgun.socket, which listens in place of the old socket unit.
        unit == "network.target" || of_own
    };
    let others = value.split_whitespace().filter(|unit| !is_replaced(unit));
    // A required socket unit may have the address on which rgun.socket is to listen.
    let (sockets, others): (Vec<_>, Vec<_>) = others.partition(|unit| unit.ends_with(".socket"));
    if !sockets.is_empty() && matches!(kept.as_str(), "Requires" | "Wants" | "BindsTo") {
        let text = format!(
            "{kept}={}: rgun.socket listens for rgun.service; disable a socket unit of this service, and add {kept}= for one of another service",
            sockets.join(" ")
        );
        plan.left_out(&origin, &text);
    }
    if !others.is_empty() {
        plan.directive(DropIn::Unit, kept, &others.join(" "));
    }
}

/// Parses a unit file (systemd.syntax(7)). A line that ends with a backslash is joined with the
/// next line.
fn parse(text: &str) -> Vec<UnitLine> {
    let mut directives: Vec<UnitLine> = Vec::new();
    let (mut section, mut is_continued) = (String::new(), false);
    for (idx, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        let (content, continues) = match line.strip_suffix('\\') {
            Some(content) => (content.trim_end(), true),
            None => (line, false),
        };
        if is_continued {
            if let Some(last) = directives.last_mut() {
                last.value.push(' ');
                last.value.push_str(content);
            }
        } else if let Some(name) = content.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if let Some((name, value)) = content.split_once('=') {
            let (name, value) = (name.trim().to_owned(), value.trim().to_owned());
            directives.push(UnitLine { section: section.clone(), name, value, line: idx + 1 });
        }
        is_continued = continues;
    }
    directives
}

/// Notes the socket units of the service, whose addresses `rgun.socket` listens on.
fn add_sockets(units: &str, origin: &str, plan: &mut Plan) {
    for unit in units.split_whitespace() {
        plan.changed
            .push(format!("{origin}: rgun.socket replaces {unit}: disable {unit} with the old service"));
        plan.configurations.push((unit.to_owned(), origin.to_owned()));
    }
}

/// Returns the variables of a value of `Environment=`.
fn assignments(value: &str) -> Vec<(String, String)> {
    let words = shlex::split(value).unwrap_or_default();
    words
        .iter()
        .filter_map(|word| word.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifiers_of_the_name_are_replaced() {
        for (text, unit, expected) in [
            ("/run/%n.sock %N %p", "shop.service", "/run/shop.service.sock shop shop"),
            ("/srv/%i %p", "shop@one.service", "/srv/one shop"),
            ("/srv/%i %n", "shop@.service", "/srv/%i %n"),
            ("%t/a %S %h %% %", "a.service", "/run/a /var/lib %h %% %"),
        ] {
            assert_eq!(resolve_specifiers(text, unit), expected, "{text}");
        }
    }

    #[test]
    fn sockets_of_the_service_are_found() {
        for (text, expected) in [
            ("[Unit]\nRequires=a.socket docker.socket\n", &["a.socket"][..]),
            ("[Unit]\nWants=%p.socket\n[Service]\nSockets=b.socket\n", &["a.socket", "b.socket"]),
            ("[Unit]\nAfter=a.socket\n[Service]\nSockets=../b.socket\n", &[]),
        ] {
            assert_eq!(sockets_of(text, "a.service"), expected, "{text}");
        }
    }

    #[test]
    fn later_directives_reset_earlier_ones() {
        let mut plan = Plan::default();
        let text = "[Service]\nEnvironment=A=1\nExecStart=/srv/v/bin/gunicorn a -w 1\n[Service]\nEnvironment=\nEnvironment=B=2\nExecStart=\nExecStart=/srv/v/bin/gunicorn a -w 2\n";
        migrate(text, "a.service", &mut plan);
        assert_eq!(plan.settings[name::COUNT].value, Value::text("2"));
        assert!(!plan.changed.iter().any(|note| note.contains("replaces")), "{:?}", plan.changed);
        assert_eq!(plan.environment.len(), 1);
    }
}
