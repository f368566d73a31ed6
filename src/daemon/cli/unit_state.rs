//! The state of a unit, as `systemctl show` prints it.

use std::collections::HashMap;
use std::process::{Command, Stdio};

use super::service::Service;
use crate::exit_status::EX_UNUSED;

/// The properties to read.
const PROPERTIES: &str = "LoadState,ActiveState,SubState,UnitFileState,Result,ExecMainCode,ExecMainStatus,NRestarts,\
                          ControlGroup,StatusText,NeedDaemonReload,User,Listen,FragmentPath,DropInPaths";

/// The properties of a unit, as `systemctl show` prints them.
#[derive(Debug, Default, Clone)]
pub(in crate::cli) struct UnitState(HashMap<String, String>);

impl UnitState {
    /// Parses lines `NAME=VALUE`.
    pub(in crate::cli) fn parse(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once('='));
        Self(lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// Returns a property; empty if the unit has none of this name.
    pub(in crate::cli) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(in crate::cli) fn is_loaded(&self) -> bool {
        self.get("LoadState") == "loaded"
    }

    pub(in crate::cli) fn is_active(&self) -> bool {
        matches!(self.get("ActiveState"), "active" | "reloading")
    }

    /// Returns whether the unit starts with the machine.
    pub(in crate::cli) fn is_enabled(&self) -> bool {
        matches!(self.get("UnitFileState"), "enabled" | "enabled-runtime")
    }
}

/// Reads the properties of a unit.
///
/// # Errors
/// When `systemctl` cannot be run or no systemd runs: the reason.
pub(super) fn show(unit: &str) -> Result<UnitState, String> {
    let output = Command::new("systemctl")
        .args(["show", "--property", PROPERTIES, unit])
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) if output.status.success() => {
            Ok(UnitState::parse(&String::from_utf8_lossy(&output.stdout)))
        }
        Ok(output) => {
            Err(format!("systemctl show {unit}: {}", String::from_utf8_lossy(&output.stderr).trim()))
        }
        Err(error) => Err(format!("cannot run systemctl: {error}")),
    }
}

/// Describes a stopped service that the next connection starts; `None` if the service runs, has failed,
/// or has no open socket.
pub(super) fn describe_sleep(service: &UnitState, socket: &UnitState) -> Option<&'static str> {
    if service.get("ActiveState") != "inactive" || !socket.is_active() {
        return None;
    }
    Some(if service.get("ExecMainStatus").parse() == Ok(EX_UNUSED) {
        "asleep: it has exited, because no request came for daemon.idle_exit; the next request starts it"
    } else {
        "not running; the next request starts it"
    })
}

/// Reads the state of a service from systemd and describes it as [`describe_sleep`] does; `None` also
/// without systemd.
pub(super) fn find_sleep(names: &Service) -> Option<&'static str> {
    describe_sleep(&show(&names.service_unit()).ok()?, &show(&names.socket_unit()).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_parsed_by_name() {
        let state = UnitState::parse("LoadState=loaded\nStatusText=a=b\nActiveState=reloading\n");
        assert!(state.is_loaded() && state.is_active() && !state.is_enabled());
        assert_eq!((state.get("StatusText"), state.get("Other")), ("a=b", ""));
    }

    #[test]
    fn service_that_the_next_request_starts_sleeps() {
        let text = |service: &str, socket: &str| {
            describe_sleep(&UnitState::parse(service), &UnitState::parse(socket)).unwrap_or_default()
        };
        let open = "ActiveState=active\n";
        assert!(text("ActiveState=inactive\nExecMainStatus=79\n", open).starts_with("asleep: "));
        assert_eq!(
            text("ActiveState=inactive\nExecMainStatus=0\n", open),
            "not running; the next request starts it"
        );
        for (service, socket) in [("active", "active"), ("failed", "active"), ("inactive", "inactive")] {
            let state = |state: &str| format!("ActiveState={state}\nExecMainStatus=79\n");
            assert_eq!(text(&state(service), &state(socket)), "", "{service} {socket}");
        }
    }
}
