//! The error of a failed start.

use crate::cli;
use crate::error_chain::Chain;

/// EX_OSERR of sysexits(3head): the system refused a resource; a retry may help.
pub(super) const OS_ERROR: u8 = 71;

/// A failed start: exit status and reason.
#[derive(Debug)]
pub(crate) struct StartupError {
    pub(crate) status: u8,
    pub(crate) reason: String,
}

impl StartupError {
    /// Returns the error of a wrong configuration.
    pub(super) fn config(error: &(dyn std::error::Error + 'static)) -> Self {
        Self { status: cli::EX_CONFIG, reason: Chain(error).to_string() }
    }

    /// Returns a function that converts the error of a system call into `cannot {what}: …`.
    pub(crate) fn system(what: &str) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self { status: OS_ERROR, reason: format!("cannot {what}: {error}") }
    }
}
