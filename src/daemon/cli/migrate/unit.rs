//! A systemd unit whose `ExecStart=` is a server of Python applications.

use super::command;
use super::plan::{DropIn, Plan};
use crate::config::{Value, name};

/// Directives of `[Service]` that keep their meaning in a drop-in of `rgun.service`.
const KEPT: &[&str] = &[
    "User",
    "SupplementaryGroups",
    "UMask",
    "EnvironmentFile",
    "PassEnvironment",
    "UnsetEnvironment",
    "RuntimeDirectory",
    "RuntimeDirectoryMode",
    "StateDirectory",
    "CacheDirectory",
    "LogsDirectory",
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

/// Directives dropped without a note: `rgun.service` or `rgun.socket` sets them, or rgun needs no
/// setting for them.
const OWN: &[&str] = &[
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

/// The note about the directories that `rgun.service` makes read-only.
const WRITABLE: &str = "rgun.service has ProtectSystem=strict: the application can write below /var/lib/rgun and \
     /var/cache/rgun only; for other directories (a database, uploads), add ReadWritePaths= to its drop-in";

/// One directive: section, name, value, line.
struct UnitLine {
    section: String,
    name: String,
    value: String,
    line: usize,
}

/// Adds the settings of a unit file. `label` is the file's name in notes.
pub(super) fn migrate(text: &str, label: &str, plan: &mut Plan) {
    let directives = parse(text);
    let variables: Vec<(String, String)> = directives
        .iter()
        .filter(|directive| directive.name == "Environment")
        .flat_map(|directive| assignments(&directive.value))
        .collect();
    // Added before the command, whose relative paths depend on the working directory.
    for directive in directives.iter().filter(|directive| directive.name == "WorkingDirectory") {
        let origin = format!("{label}:{}", directive.line);
        let path = directive.value.trim_start_matches('-');
        if path.starts_with('/') {
            plan.set(name::DIRECTORY, Value::text(path), &origin);
        } else {
            plan.left_out(&origin, &format!("WorkingDirectory={path}: write the full path as app.directory"));
        }
    }
    for directive in &directives {
        add(directive, label, &variables, plan);
    }
}

fn add(directive: &UnitLine, label: &str, variables: &[(String, String)], plan: &mut Plan) {
    let UnitLine { section, name: key, value, line } = directive;
    let origin = format!("{label}:{line}");
    match (section.as_str(), key.as_str()) {
        ("Service", "ExecStart") => {
            // systemd reads %% as a percent sign, and $$ as a dollar sign.
            let command =
                value.trim_start_matches(['@', '-', ':', '+', '!']).replace("%%", "%").replace("$$", "$");
            if command::migrate_line(&command, variables, &origin, plan) {
                plan.changed.push(WRITABLE.to_owned());
            }
        }
        ("Service", "WorkingDirectory") => {}
        ("Service", "Group") => {
            plan.directive(DropIn::Service, "SupplementaryGroups", value);
            plan.changed.push(format!(
                "{origin}: Group={value} became a supplementary group; the primary group stays rgun, which may read /etc/rgun/rgun.toml and owns new files"
            ));
        }
        ("Service", "Environment") => {
            for (variable, _) in assignments(value) {
                if is_flags_of_peer(&variable) {
                    plan.left_out(&origin, &format!("{variable}: rgun reads it only with APP on the command line; write its flags into ExecStart= and migrate again"));
                }
            }
            plan.directive(DropIn::Service, "Environment", value);
        }
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
        ("Unit", kept) if KEPT_UNIT.contains(&kept) => {
            let own = label.rsplit_once('.').map_or(label, |(name, _)| name);
            let is_replaced = |unit: &str| {
                let of_own =
                    unit.strip_prefix(own).is_some_and(|rest| matches!(rest, ".socket" | ".service"));
                // rgun.service requires rgun.socket, which listens in place of the old socket unit.
                unit == "network.target" || of_own
            };
            let others: Vec<_> = value.split_whitespace().filter(|unit| !is_replaced(unit)).collect();
            if !others.is_empty() {
                plan.directive(DropIn::Unit, kept, &others.join(" "));
            }
        }
        ("Socket", "ListenStream") => plan.directive(DropIn::Socket, "ListenStream", value),
        ("Socket", "SocketUser" | "SocketGroup" | "SocketMode" | "Backlog") => {
            plan.directive(DropIn::Socket, key, value);
        }
        (_, own) if OWN.contains(&own) || section == "Install" => {}
        _ => plan
            .left_out(&origin, &format!("{key}={value}: add it with systemctl edit rgun if rgun needs it")),
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

/// Returns whether a variable has the place of another server's flags.
fn is_flags_of_peer(variable: &str) -> bool {
    variable == "GUNICORN_CMD_ARGS" || variable.starts_with("UVICORN_") || variable.starts_with("GRANIAN_")
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
