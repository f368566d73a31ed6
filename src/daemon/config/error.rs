//! Configuration errors, worded for the operator.
//!
//! A message has the origin of the value, the key, the value, the reason and, if there is one, a
//! hint. [`ConfigErrors`] has all errors of one start.

use std::error::Error;
use std::fmt;

/// One invalid setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// File and line, flag, or variable: `/etc/rgun/rgun.toml:12`, `--timeout`,
    /// `RGUN_TIMEOUTS_REQUEST`.
    pub origin: String,
    /// The full key, such as `timeouts.request`; empty for an error of the file as a whole, or of a
    /// flag without a key.
    pub key: String,
    /// The value as written, in quotes if it is text. `None` if it is missing or may be a secret.
    pub value: Option<String>,
    /// Completes a sentence about the value: "is not a number".
    pub reason: String,
    /// The remedy: a full sentence without a period.
    pub hint: Option<String>,
}

impl ConfigError {
    /// The origin and the key, without the value.
    pub fn place(&self) -> String {
        if self.key.is_empty() { self.origin.clone() } else { format!("{}: {}", self.origin, self.key) }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            formatter.write_str(&self.key)?;
            if let Some(value) = &self.value {
                write!(formatter, " = {value}")?;
            }
            formatter.write_str(": ")?;
        }
        formatter.write_str(&self.reason)?;
        match &self.hint {
            Some(hint) => write!(formatter, "\n    hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl Error for ConfigError {}

/// All errors of one start; displayed one block each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl ConfigErrors {
    /// Returns the place of the first error and the number of further ones, without values, which
    /// may be secrets.
    pub fn summary(&self) -> String {
        let place = self.0.first().map(ConfigError::place).unwrap_or_default();
        match self.0.len().saturating_sub(1) {
            0 => format!("{place} is wrong"),
            1 => format!("{place} is wrong, and there is one more error"),
            more => format!("{place} is wrong, and there are {more} more errors"),
        }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (idx, error) in self.0.iter().enumerate() {
            if idx > 0 {
                formatter.write_str("\n")?;
            }
            error.fmt(formatter)?;
        }
        Ok(())
    }
}

impl Error for ConfigErrors {}

/// An error of one value. `check` adds origin and key, which makes it a [`ConfigError`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueError {
    /// See [`ConfigError::reason`].
    pub reason: String,
    /// See [`ConfigError::hint`].
    pub hint: Option<String>,
}

impl ValueError {
    /// An error without a hint.
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: None }
    }

    /// Adds a hint.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.reason)?;
        match &self.hint {
            Some(hint) => write!(formatter, " (hint: {hint})"),
            None => Ok(()),
        }
    }
}

impl Error for ValueError {}
