//! What is wrong with a configuration, in words an operator can act on.
//!
//! Every message names where the value stands, the key, the value, what is wrong with it and, where there is
//! one, the remedy. All errors of one start travel together in [`ConfigErrors`].

use std::error::Error;
use std::fmt;

/// One wrong setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Where it stands: `/etc/rgun/rgun.toml:12`, `--timeout`, `RGUN_TIMEOUTS_REQUEST`.
    pub origin: String,
    /// The key: `timeouts.request`; empty when the trouble is the file itself.
    pub key: String,
    /// The value as written, quoted if it is text. `None` when it is missing, or may be a secret.
    pub value: Option<String>,
    /// What is wrong.
    pub reason: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl ConfigError {
    /// Where it stands, without what stands there.
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

/// All that is wrong, one block each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

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

/// What is wrong with one value, before it is known where the value stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValueError {
    /// What is wrong.
    pub reason: String,
    /// What to write instead.
    pub hint: Option<String>,
}

impl ValueError {
    /// A error without a remedy.
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: None }
    }

    /// The same with a remedy.
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
