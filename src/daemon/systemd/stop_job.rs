//! Whether the service manager starts the service again after the stop that is under way.
//!
//! The manager sends the same signal for `systemctl stop` and `systemctl restart`. Only its list of
//! jobs tells them apart.

use std::io::{self, Read as _};
use std::process::{Command, Stdio};

use super::cgroup;

/// Returns whether the service manager starts the service again: it runs no job that stops the
/// service for good, and with `Restart=` it also restarts a daemon that was stopped otherwise. False
/// if the manager does not answer. Blocks until `systemctl` has answered.
pub fn is_followed_by_start() -> bool {
    match list_jobs() {
        Ok(jobs) => !jobs.is_empty() && !has_stop(&jobs),
        Err(error) => {
            tracing::debug!(%error, "cannot run systemctl list-jobs");
            false
        }
    }
}

/// Returns the manager's list of jobs; empty if the manager does not answer.
fn list_jobs() -> io::Result<String> {
    let unit = cgroup::own_unit();
    let mut command = Command::new("systemctl");
    if unit.as_ref().is_some_and(|unit| unit.is_users) {
        command.arg("--user");
    }
    command.args(["list-jobs", "--plain", "--no-pager"]);
    // Without a unit of its own, the daemon takes any stop for its own.
    command.args(unit.map(|unit| unit.name));
    // Not waited for: the pool reaps all children, and a second wait could take the exit of a worker
    // that has the same pid by then.
    let child = command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let mut jobs = String::new();
    child.stdout.ok_or(io::ErrorKind::BrokenPipe)?.read_to_string(&mut jobs)?;
    Ok(jobs)
}

/// Returns whether a job of type `stop` is listed: `JOB UNIT TYPE STATE` in each line (systemctl(1)).
fn has_stop(jobs: &str) -> bool {
    jobs.lines().any(|line| line.split_ascii_whitespace().nth(2) == Some("stop"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stop_ends_the_service() {
        let header = "JOB UNIT TYPE STATE\n";
        assert!(!has_stop(&format!("{header}1234 rgun.service restart running\n\n1 jobs listed.\n")));
        assert!(!has_stop("No jobs running.\n"));
        assert!(has_stop(&format!("{header}1234 rgun.service stop running\n\n1 jobs listed.\n")));
        assert!(has_stop("7 a.socket start waiting\n1234 rgun@stop.service stop running\n"));
        assert!(!has_stop("1 stop.service start waiting\n"));
    }
}
