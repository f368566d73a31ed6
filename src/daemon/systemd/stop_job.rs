//! Whether the service manager starts the service again after the stop that is under way.
//!
//! The manager sends the same signal for `systemctl stop` and `systemctl restart`. Only its list of
//! jobs tells them apart, and a later job may replace an earlier one.

use std::io::{self, Read as _};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use super::cgroup;

/// Interval at which the manager is asked again.
const ASK_INTERVAL: Duration = Duration::from_millis(500);

/// Asks the manager repeatedly.
#[derive(Debug, Default)]
pub struct StopJobWatch {
    /// The manager's last answer.
    has_start: bool,
    asked_at: Option<Instant>,
    /// The question that has no answer yet.
    pending: Option<Receiver<bool>>,
}

impl StopJobWatch {
    /// Returns the last answer: whether the manager starts the service again; false before the first. Asks
    /// again if that answer is old, and does not wait.
    pub fn poll(&mut self) -> bool {
        if let Some(answers) = &self.pending {
            match answers.try_recv() {
                Err(TryRecvError::Empty) => return self.has_start,
                answer => self.has_start = answer.unwrap_or(false),
            }
            self.pending = None;
        }
        if self.asked_at.is_none_or(|at| at.elapsed() >= ASK_INTERVAL) {
            self.asked_at = Some(Instant::now());
            self.pending = Some(ask());
        }
        self.has_start
    }
}

/// Returns whether the service manager starts the service again. False if the manager does not answer
/// within this time.
pub fn is_followed_by_start_within(timeout: Duration) -> bool {
    ask().recv_timeout(timeout).unwrap_or(false)
}

/// Asks the manager on a thread of its own.
fn ask() -> Receiver<bool> {
    let (answer, answers) = mpsc::channel();
    let asking = thread::Builder::new().name("stop-job".to_owned()).spawn(move || {
        // Fails only if the caller has stopped waiting.
        let _ = answer.send(is_followed_by_start());
    });
    if let Err(error) = asking {
        report(&error.to_string());
    }
    answers
}

/// Returns whether the service manager starts the service again: it runs no job that stops the
/// service for good, and with `Restart=` it also restarts a daemon that was stopped otherwise. False
/// if the manager does not answer. Blocks until `systemctl` has answered.
fn is_followed_by_start() -> bool {
    match list_jobs() {
        Ok(jobs) if jobs.is_empty() => {
            report("systemctl list-jobs has no answer");
            false
        }
        Ok(jobs) => !has_stop(&jobs),
        Err(error) => {
            report(&format!("cannot run systemctl list-jobs: {error}"));
            false
        }
    }
}

/// Logs once why the manager's answer is not known.
fn report(reason: &str) {
    static REPORTED: Once = Once::new();
    REPORTED.call_once(|| {
        tracing::info!(
            "{reason}; requests that cannot start in time are answered 503, as if the service was stopped for good"
        );
    });
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
