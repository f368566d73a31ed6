//! The failures for errors of the configuration, and for a missing application.

use std::path::Path;

use super::error::Failure;
use super::flags::APP;
use crate::config::{ConfigError, ConfigErrors};
use crate::exit_status::{EX_CONFIG, EX_USAGE};

/// Returns the failure for these errors. The exit status is [`EX_USAGE`] if all are on the command
/// line, else [`EX_CONFIG`].
pub(super) fn failure_of(errors: Vec<ConfigError>) -> Failure {
    let status = if errors.iter().all(is_on_command_line) { EX_USAGE } else { EX_CONFIG };
    let errors = ConfigErrors(errors);
    let summary = format!("{}; see the log", errors.summary());
    Failure { text: format!("{errors}\n"), status, stdout: false, summary, is_start: false }
}

/// Returns whether the error is in an argument, not in a file or a variable.
fn is_on_command_line(error: &ConfigError) -> bool {
    error.origin.starts_with('-') || error.origin == APP
}

/// Returns the failure of a start without an application.
pub(super) fn no_application(default_file: &Path) -> Failure {
    let file = default_file.display();
    let text = format!(
        "error: no application given, and there is no {file}

Name one, as for gunicorn or uvicorn:
    rgun mysite.wsgi --chdir /srv/mysite

or write {file}:
    [app]
    target = \"mysite.wsgi\"
    directory = \"/srv/mysite\"

For more information, try '--help'.
"
    );
    let summary = format!("no application given, and there is no {file}");
    Failure { summary, ..Failure::usage(text) }
}
