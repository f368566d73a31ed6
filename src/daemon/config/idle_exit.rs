//! `daemon.idle_exit`: its values.

use std::time::Duration;

use super::checker::Checker;
use super::keys::name;
use super::read::timeout_or_off;
use super::value::Setting;
use super::{DaemonSettings, ValueError, units};

/// Minimum of `daemon.idle_exit`. A daemon that a client has started thus runs for at least this
/// time, so that the socket unit never reaches its limit of ten starts in a minute
/// (`TriggerLimitBurst=`).
const MIN_IDLE_EXIT: Duration = Duration::from_secs(10);

/// Reads the section.
pub(super) fn read(checker: &mut Checker<'_>) -> DaemonSettings {
    DaemonSettings { idle_exit: checker.read(name::DAEMON_IDLE_EXIT, None, idle_exit) }
}

fn idle_exit(setting: &Setting) -> Result<Option<Duration>, ValueError> {
    let time = timeout_or_off(setting)?;
    if time.is_some_and(|time| time < MIN_IDLE_EXIT) {
        let min = units::format_duration(MIN_IDLE_EXIT);
        return Err(ValueError::new(format!(
            "is less than {min}: systemd would give up a socket that starts the service more than ten times in a minute"
        ))
        .with_hint("write e.g. \"10m\""));
    }
    Ok(time)
}
