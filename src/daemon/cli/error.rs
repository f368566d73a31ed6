//! The errors of the command line: the error of one flag, and the text that the program prints
//! before it exits.

use std::error::Error;
use std::fmt;

use crate::config::ConfigError;

/// A text to print before exiting: help, version or errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The text; ends with a newline.
    pub text: String,
    /// The exit status: [`EX_USAGE`], [`EX_CONFIG`], or 0 for `--help` and `--version`.
    pub status: u8,
    /// Whether the text goes to stdout (help, version) or to stderr (errors).
    pub stdout: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.text.trim_end())
    }
}

impl Error for Failure {}

/// EX_USAGE of sysexits(3head): the command line is wrong. The unit does not restart on it.
pub const EX_USAGE: u8 = 64;

/// EX_CONFIG of sysexits(3head): the configuration is wrong. The unit does not restart on it.
pub const EX_CONFIG: u8 = 78;

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
