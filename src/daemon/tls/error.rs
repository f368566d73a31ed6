//! An error in the files of `[tls]`, worded for the operator.

use std::fmt;
use std::path::{Path, PathBuf};

/// An unusable file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsError {
    /// The key that names the file, as `tls.cert`.
    pub key: &'static str,
    /// The file that is at fault.
    pub path: PathBuf,
    /// The defect, worded to follow the file's name: "cannot be read".
    pub reason: String,
    /// The remedy: a full sentence without a period.
    pub hint: Option<String>,
}

impl TlsError {
    /// An error without a hint.
    pub(super) fn new(key: &'static str, path: &Path, reason: impl Into<String>) -> Self {
        Self { key, path: path.to_owned(), reason: reason.into(), hint: None }
    }

    /// Adds a hint.
    pub(super) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} = \"{}\": {}", self.key, self.path.display(), self.reason)?;
        match &self.hint {
            Some(hint) => write!(formatter, "\n    hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for TlsError {}
