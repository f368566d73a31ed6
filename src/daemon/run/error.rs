//! The error of a failed start.

use std::io::Write as _;
use std::process::ExitCode;

use crate::cli::Failure;
use crate::config::ConfigErrors;
use crate::error_chain::Chain;
use crate::exit_status::{EX_CONFIG, EX_OSERR, EX_USAGE};
use crate::journal::catalog::OperatorEvent;
use crate::journal::daemon_log;
use crate::systemd::{listen, notify};

use super::hand_over::RequestsAtStart;

/// A failed start.
#[derive(Debug)]
pub(crate) struct StartupError {
    /// The exit status of the daemon.
    pub(crate) status: u8,
    /// The reason, for the log.
    pub(crate) reason: String,
    /// The reason for STATUS=, which every user may read; `None` if `reason` has no value of a
    /// setting.
    pub(crate) summary: Option<String>,
    /// The error of the system call that failed (errno(3)), for ERRNO=. `None` if no system call
    /// failed.
    pub(crate) errno: Option<i32>,
}

impl StartupError {
    /// Returns the error of a wrong configuration.
    pub(super) fn config(error: &(dyn std::error::Error + 'static)) -> Self {
        Self { errno: errno_of(error), ..Self::config_reason(Chain(error).to_string()) }
    }

    /// Returns the error of wrong settings.
    pub(crate) fn settings(errors: &ConfigErrors) -> Self {
        let summary = format!("{}; see the log", errors.summary());
        Self { summary: Some(summary), ..Self::config(errors) }
    }

    /// Returns the error of a wrong configuration that no system call reported.
    pub(crate) fn config_reason(reason: String) -> Self {
        Self { status: EX_CONFIG, reason, summary: None, errno: None }
    }

    /// Returns the error of a wrong command line.
    pub(crate) fn usage(reason: String) -> Self {
        Self { status: EX_USAGE, reason, summary: None, errno: None }
    }

    /// Returns a function that converts the error of a system call into `cannot {what}: …`.
    pub(crate) fn system(what: &str) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self {
            status: EX_OSERR,
            reason: format!("cannot {what}: {error}"),
            summary: None,
            errno: error.raw_os_error(),
        }
    }

    /// Logs the failure.
    pub(super) fn log(&self) {
        tracing::error!(message_id = OperatorEvent::StartFailed.id(), "{}", self.reason);
    }

    /// Sends the failure to systemd, as STATUS= and ERRNO=. Returns the exit status.
    pub(super) fn notify(&self) -> ExitCode {
        notify::failed_start(self.summary.as_deref().unwrap_or(&self.reason), self.errno);
        ExitCode::from(self.status)
    }
}

/// Reports a start that has failed without a valid configuration, and so before the log was started: in
/// the journal if systemd has connected stderr to the journal, else on stderr, and in `STATUS=`. Returns
/// the exit status.
pub fn refuse_start(failure: &Failure) -> ExitCode {
    // Before any thread starts, see `take_descriptors`.
    let requests = listen::take_descriptors().ok().map(|inherited| RequestsAtStart::of(&inherited));
    let Failure { text, status, summary, .. } = failure;
    let error = StartupError {
        status: *status,
        reason: text.trim_end().to_owned(),
        summary: Some(summary.clone()),
        errno: None,
    };
    if daemon_log::start_in_journal() {
        error.log();
    } else {
        // If stderr is closed, the exit status still reports the failure.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
    if let Some(requests) = requests {
        requests.refuse();
    }
    daemon_log::flush();
    error.notify()
}

/// Returns the errno of the failed system call that caused the error, if any.
pub(super) fn errno_of(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.filter_map(|error| error.downcast_ref::<std::io::Error>()).find_map(std::io::Error::raw_os_error)
}
