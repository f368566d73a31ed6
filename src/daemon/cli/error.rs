//! The errors of the command line: the error of one flag, and the text that the program prints
//! before it exits.

use std::error::Error;
use std::fmt;

use crate::config::ConfigError;
use crate::exit_status::{EX_CONFIG, EX_USAGE};

/// A text to print before exiting: help, version or errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The text; ends with a newline.
    pub text: String,
    /// The exit status: [`EX_USAGE`], [`EX_CONFIG`], or 0 for `--help` and `--version`.
    pub status: u8,
    /// Whether the text goes to stdout (help, version) or to stderr (errors).
    pub stdout: bool,
    /// The error in one line, for `STATUS=`. Without values, which may be secrets, because every user
    /// may read `STATUS=`.
    pub summary: String,
    /// Whether the command would have served an application.
    pub is_start: bool,
}

impl Failure {
    /// Returns the failure of a wrong command line.
    pub(super) fn usage(text: String) -> Self {
        let summary = "the command line is wrong; see the log".to_owned();
        Self { text, status: EX_USAGE, stdout: false, summary, is_start: false }
    }

    /// Returns the output of `--help` or `--version`, whose exit status is 0.
    pub(super) fn requested(text: String) -> Self {
        Self { status: 0, stdout: true, ..Self::usage(text) }
    }

    /// Returns the failure of a start in a current directory that is missing.
    pub(super) fn missing_directory(text: String) -> Self {
        let summary = "the current directory is missing; see the log".to_owned();
        Self { text, status: EX_CONFIG, stdout: false, summary, is_start: false }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.text.trim_end())
    }
}

impl Error for Failure {}

/// The error for `flag`, as typed.
pub(super) fn flag_error(flag: &str, reason: &str, hint: &str) -> ConfigError {
    ConfigError {
        origin: flag.to_owned(),
        key: String::new(),
        value: None,
        reason: reason.to_owned(),
        hint: Some(hint.to_owned()),
    }
}
