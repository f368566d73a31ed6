//! What `rgun doctor` reads from systemd, the journal, the kernel and the control socket.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::unistd::geteuid;
use serde_json::Map;

use crate::cli::control::SOCKET;
use crate::cli::service::Service;
use crate::cli::unit_state::{UnitState, show};
use crate::control::{CallError, ControlClient, StatusReply};

/// The outcome of `rgun check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CheckOutcome {
    /// The configuration and the application are sound; the text of the warnings.
    Sound(String),
    /// The text of the errors.
    Wrong(String),
    /// Not run, because only root can check as the service's user.
    NotRoot,
}

/// The control socket of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ControlState {
    /// There is no socket.
    Absent,
    /// A daemon listens, and has replied to Status.
    Answers(Box<StatusReply>),
    /// This user may not use the socket, or the daemon is another version.
    Denies,
    /// A daemon listens, but has not replied within [`REPLY_TIMEOUT`].
    Silent,
    /// The file exists, but no process listens.
    Refuses,
}

/// Maximum wait for the reply of the daemon.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// OOM kills in the service's cgroup since it was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct OomKills {
    /// Number of processes that the kernel killed.
    pub(super) killed: u64,
    /// Whether all processes together have reached the limit of the unit.
    pub(super) reached_unit_limit: bool,
    /// Whether workers have a limit of their own (`workers.max_memory`).
    pub(super) has_worker_limit: bool,
}

/// All facts about a service.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) service: UnitState,
    pub(super) socket: UnitState,
    /// The socket unit for metrics, which is optional.
    pub(super) metrics: UnitState,
    pub(super) check: CheckOutcome,
    pub(super) control: ControlState,
    pub(super) control_path: PathBuf,
    /// The last message of priority err or worse that the service has logged since its last start.
    pub(super) last_error: Option<String>,
    /// The last messages about the socket unit.
    pub(super) socket_log: String,
    /// Whether the kernel reports memory pressure on the service (PSI).
    pub(super) has_pressure: bool,
    pub(super) oom: OomKills,
    /// Lines of the operator's unit files that systemd ignores, `PATH:LINE: REASON` each.
    pub(super) ignored_lines: Vec<String>,
}

impl Facts {
    /// Reads the facts.
    ///
    /// # Errors
    /// When `systemctl` cannot be run or no systemd runs: the reason.
    pub(super) fn read(names: &Service) -> Result<Self, String> {
        let (service_unit, socket_unit) = (names.service_unit(), names.socket_unit());
        let service = show(&service_unit)?;
        let socket = show(&socket_unit)?;
        let metrics = show(&names.metrics_unit())?;
        let control_path = names.runtime_directory().join(SOCKET);
        let check = check(names);
        sync_journal();
        Ok(Self {
            check,
            control: control_state(&control_path),
            control_path,
            last_error: last_error(&service_unit),
            socket_log: socket_log(&socket_unit),
            has_pressure: has_pressure(service.get("ControlGroup")),
            oom: oom_kills(service.get("ControlGroup")),
            ignored_lines: ignored_lines([(&service_unit, &service), (&socket_unit, &socket)]),
            service,
            socket,
            metrics,
        })
    }
}

/// Runs `rgun check` as the service's user.
fn check(names: &Service) -> CheckOutcome {
    if !geteuid().is_root() {
        return CheckOutcome::NotRoot;
    }
    let own = std::env::current_exe().unwrap_or_else(|_| "rgun".into());
    let configuration = names.configuration();
    let output = Command::new(own)
        .args(["check", "--config"])
        .arg(configuration)
        .args(["--unit", &names.service_unit()])
        .current_dir("/")
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            CheckOutcome::Sound(warnings_of(&text))
        }
        Ok(output) => CheckOutcome::Wrong(errors_of(&String::from_utf8_lossy(&output.stderr)).to_owned()),
        Err(error) => CheckOutcome::Wrong(format!("cannot run rgun check: {error}")),
    }
}

/// Returns the warnings in the output of a successful check: all but the verdict, its last line.
fn warnings_of(text: &str) -> String {
    let lines: Vec<&str> =
        text.trim_end().lines().map(|line| line.strip_prefix("warning: ").unwrap_or(line)).collect();
    lines.split_last().map(|(_, warnings)| warnings.join("\n")).unwrap_or_default()
}

/// Returns the errors in the output of a failed check, which follow its warnings.
fn errors_of(text: &str) -> &str {
    let begin = if text.starts_with("error: ") { None } else { text.find("\nerror: ") };
    text.get(begin.map_or(0, |line_end| line_end + 1)..).unwrap_or(text).trim_end()
}

/// Asks the daemon for its state.
fn control_state(path: &Path) -> ControlState {
    let mut client = match ControlClient::connect(path) {
        Ok(client) => client,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return ControlState::Refuses,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return ControlState::Denies,
        Err(_) => return ControlState::Absent,
    };
    let reply = client
        .set_timeout(REPLY_TIMEOUT)
        .map_err(CallError::from)
        .and_then(|()| client.call("io.rgun.Server.Status", Map::new(), None));
    match reply {
        Ok(reply) => serde_json::from_value(reply)
            .map_or(ControlState::Denies, |status| ControlState::Answers(Box::new(status))),
        Err(CallError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => ControlState::Silent,
        Err(_) => ControlState::Denies,
    }
}

/// Returns the last error that the service has logged since its last start.
fn last_error(unit: &str) -> Option<String> {
    let invocation = Command::new("systemctl")
        .args(["show", "--property", "InvocationID", "--value", unit])
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let invocation = String::from_utf8_lossy(&invocation.stdout).trim().to_owned();
    if invocation.is_empty() {
        return None;
    }
    let field = format!("_SYSTEMD_INVOCATION_ID={invocation}");
    let text = journal(&[&field, "--priority", "err", "--lines", "1"]);
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Returns the last messages about a socket unit.
fn socket_log(unit: &str) -> String {
    // systemd 260 logs six lines about one failure.
    let by_manager = journal(&["--unit", unit, "--lines", "8"]);
    // systemd binds some sockets in a process of its own, whose unit journald may not learn before
    // that process has ended; `--unit` then finds only "Input/output error".
    let by_helper = journal(&["_UID=0", &format!("UNIT={unit}"), "--lines", "8"]);
    by_manager + &by_helper
}

/// Waits until journald has written the messages that it has received. Only root may ask for it;
/// for others, and without `journalctl`, the newest messages may be missing.
fn sync_journal() {
    let sync = Command::new("journalctl").arg("--sync").stdin(Stdio::null()).output();
    drop(sync);
}

/// Returns messages of the journal; empty if this user may not read them.
fn journal(arguments: &[&str]) -> String {
    let output = Command::new("journalctl")
        .args(arguments)
        .args(["--quiet", "--no-pager", "--output", "cat"])
        .stdin(Stdio::null())
        .output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// Returns the lines of these units that systemd ignores: unknown settings, and values that it cannot
/// parse. Only the operator's files are looked at: the package's may have settings that this systemd is
/// too old for. Empty without `systemd-analyze`.
fn ignored_lines(units: [(&str, &UnitState); 2]) -> Vec<String> {
    let files: Vec<&str> = units.iter().flat_map(|(_, state)| operator_files(state)).collect();
    if files.is_empty() {
        return Vec::new();
    }
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .args(units.map(|(unit, _)| unit))
        .stdin(Stdio::null())
        .output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).unwrap_or_default();
    ignored_lines_of(&text, &files)
}

/// Returns the files of a unit that are not in the directories of packages.
fn operator_files(unit: &UnitState) -> impl Iterator<Item = &str> {
    let files = unit.get("DropInPaths").split(' ').chain([unit.get("FragmentPath")]);
    files.filter(|file| ["/etc/", "/run/"].iter().any(|root| file.starts_with(root)))
}

/// Returns what `systemd-analyze verify` has printed about lines of these files that are ignored. It may
/// print a line again for each unit, and complains about the units' dependencies, too.
fn ignored_lines_of(text: &str, files: &[&str]) -> Vec<String> {
    let is_about = |line: &&str| line.split_once(':').is_some_and(|(path, _)| files.contains(&path));
    let mut found: Vec<String> = Vec::new();
    for line in text.lines().filter(is_about).filter(|line| line.contains("ignoring")) {
        if !found.iter().any(|other| other == line) {
            found.push(line.to_owned());
        }
    }
    found
}

/// Returns whether the kernel reports memory pressure, and on this cgroup if it exists.
fn has_pressure(cgroup: &str) -> bool {
    let directory = Path::new("/sys/fs/cgroup").join(cgroup.trim_start_matches('/'));
    let is_cgroup = !cgroup.is_empty() && directory.join("cgroup.procs").exists();
    Path::new("/proc/pressure/memory").exists() && (!is_cgroup || directory.join("memory.pressure").exists())
}

/// Returns the OOM kills in a service's cgroup and its descendants.
fn oom_kills(cgroup: &str) -> OomKills {
    if cgroup.is_empty() {
        return OomKills::default();
    }
    oom_kills_in(&Path::new("/sys/fs/cgroup").join(cgroup.trim_start_matches('/')))
}

fn oom_kills_in(cgroup: &Path) -> OomKills {
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    let workers = fs::read_dir(cgroup.join("workers")).into_iter().flatten().flatten();
    let mut limits = workers.map(|worker| read(worker.path().join("memory.max")));
    OomKills {
        killed: count(&read(cgroup.join("memory.events")), "oom_kill"),
        reached_unit_limit: count(&read(cgroup.join("memory.events.local")), "oom") > 0,
        has_worker_limit: limits.any(|limit| limit.trim().parse::<u64>().is_ok()),
    }
}

/// Returns a counter of `memory.events`.
fn count(events: &str, name: &str) -> u64 {
    let mut counters = events.lines().filter_map(|line| line.split_once(' '));
    let count = counters.find_map(|(counter, count)| (counter == name).then_some(count));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdict_of_a_check_is_not_a_warning() {
        assert_eq!(warnings_of("warning: a\nb is ready to serve\n"), "a");
        assert_eq!(warnings_of("b is ready to serve\n"), "");
    }

    #[test]
    fn errors_of_a_check_follow_its_warnings() {
        let errors = "error: b\nerror: c";
        assert_eq!(errors_of("warning: a\n  more\nerror: b\nerror: c\n"), errors);
        assert_eq!(errors_of("error: b\nerror: c\n"), errors);
        assert_eq!(errors_of("killed\n"), "killed");
    }

    #[test]
    fn ignored_lines_of_the_operator_are_found_once() {
        let unit = UnitState::parse(
            "FragmentPath=/usr/lib/systemd/system/rgun.service\n\
             DropInPaths=/usr/lib/systemd/system/service.d/10.conf /etc/systemd/system/rgun.service.d/a.conf\n",
        );
        let files: Vec<&str> = operator_files(&unit).collect();
        assert_eq!(files, ["/etc/systemd/system/rgun.service.d/a.conf"]);
        let ignored = "/etc/systemd/system/rgun.service.d/a.conf:2: Unknown key name 'Users' in section 'Service', ignoring.";
        let text = format!(
            "{ignored}\n/usr/lib/systemd/system/rgun.service:9: Unknown key name 'New' in section 'Service', ignoring.\n\
             rgun.service: Command /usr/bin/rgun is not executable\n{ignored}\n"
        );
        assert_eq!(ignored_lines_of(&text, &files), [ignored]);
    }

    #[test]
    fn oom_kills_are_read_with_the_limits() {
        let directory = crate::config::testing::TestDir::new();
        let cgroup = directory.path();
        assert_eq!(oom_kills_in(cgroup), OomKills::default());
        let events = "max 3\noom 2\noom_kill 2\noom_group_kill 1\n";
        fs::write(cgroup.join("memory.events"), events).unwrap();
        let worker = cgroup.join("workers/g1-w0-1");
        fs::create_dir_all(&worker).unwrap();
        fs::write(worker.join("memory.max"), "max\n").unwrap();
        assert_eq!(oom_kills_in(cgroup), OomKills { killed: 2, ..OomKills::default() });
        fs::write(cgroup.join("memory.events.local"), "max 3\noom 1\noom_kill 0\n").unwrap();
        fs::write(worker.join("memory.max"), "1000\n").unwrap();
        let all = OomKills { killed: 2, reached_unit_limit: true, has_worker_limit: true };
        assert_eq!(oom_kills_in(cgroup), all);
    }
}
