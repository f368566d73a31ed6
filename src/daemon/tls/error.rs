//! Errors in the files of `[tls]`, as errors of the keys that name them.

use std::path::Path;

use crate::config::ConfigError;

/// Key names, for messages.
pub(super) const CERT: &str = "tls.cert";
pub(super) const KEY: &str = "tls.key";
pub(super) const CLIENT_CA: &str = "tls.client_ca";

/// A file, and the setting that names it.
#[derive(Debug, Clone, Copy)]
pub(super) struct NamedFile<'a> {
    /// The key, such as `tls.cert`.
    pub(super) key: &'static str,
    /// File and line, flag or variable.
    pub(super) origin: &'a str,
    pub(super) path: &'a Path,
}

impl NamedFile<'_> {
    /// Returns an error about the file. `reason` completes a sentence about it ("is empty"); `hint`
    /// is the remedy.
    pub(super) fn error(&self, reason: impl Into<String>, hint: impl Into<String>) -> ConfigError {
        ConfigError {
            origin: self.origin.to_owned(),
            key: self.key.to_owned(),
            value: Some(format!("\"{}\"", self.path.display())),
            reason: reason.into(),
            hint: Some(hint.into()),
        }
    }

    /// Returns a warning about the file. `text` completes a sentence about it.
    pub(super) fn warning(&self, text: &str) -> String {
        format!("{}: {} = \"{}\": {text}", self.origin, self.key, self.path.display())
    }
}
