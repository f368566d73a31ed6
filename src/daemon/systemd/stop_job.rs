//! Whether the service manager starts the service again after the stop that is under way.
//!
//! The manager sends the same signal for `systemctl stop` and `systemctl restart`. Only its list of
//! jobs tells them apart, and a later job may replace an earlier one.

use std::io::{self, Read as _};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::cgroup;

/// Interval at which the manager is asked again.
const ASK_INTERVAL: Duration = Duration::from_millis(500);

/// Asks the manager repeatedly, on threads of their own.
#[derive(Debug, Default)]
pub struct StopJobWatch {
    /// The last answer of [`is_followed_by_start`].
    has_start: Arc<AtomicBool>,
    asked_at: Mutex<Option<Instant>>,
}

impl StopJobWatch {
    /// Returns the manager's last answer; false before the first. Asks again if that answer is old, and
    /// does not wait.
    pub fn is_followed_by_start(&self) -> bool {
        let mut asked_at = self.asked_at.lock().unwrap_or_else(PoisonError::into_inner);
        if asked_at.is_none_or(|at| at.elapsed() >= ASK_INTERVAL) {
            *asked_at = Some(Instant::now());
            let has_start = Arc::clone(&self.has_start);
            spawn(move || has_start.store(is_followed_by_start(), Ordering::Relaxed));
        }
        self.has_start.load(Ordering::Relaxed)
    }
}

/// Returns whether the service manager starts the service again. False if the manager does not answer
/// within this time.
pub fn is_followed_by_start_within(timeout: Duration) -> bool {
    let (answer, answers) = mpsc::channel();
    spawn(move || {
        // Fails only after the timeout.
        let _ = answer.send(is_followed_by_start());
    });
    answers.recv_timeout(timeout).unwrap_or(false)
}

fn spawn(ask: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().name("stop-job".to_owned()).spawn(ask) {
        tracing::warn!(%error, "cannot ask whether the service is started again");
    }
}

/// Returns whether the service manager starts the service again: it runs no job that stops the
/// service for good, and with `Restart=` it also restarts a daemon that was stopped otherwise. False
/// if the manager does not answer. Blocks until `systemctl` has answered.
fn is_followed_by_start() -> bool {
    match list_jobs() {
        Ok(jobs) if jobs.is_empty() => {
            tracing::info!(
                "systemctl list-jobs does not say whether the service is started again; requests that wait are \
                 answered 503 as at a stop"
            );
            false
        }
        Ok(jobs) => !has_stop(&jobs),
        Err(error) => {
            tracing::info!(
                %error,
                "cannot run systemctl list-jobs; requests that wait are answered 503 as at a stop"
            );
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
