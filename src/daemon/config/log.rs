//! The checked `[log]` section.

use std::fmt;
use std::time::Duration;

/// `[log]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Log {
    /// The least severe level that is written.
    pub level: Level,
    /// Whether each request is logged.
    pub access: bool,
    /// Time after which a running request is logged once, with the stack of its thread. `None` is `"off"`.
    pub slow: Option<Duration>,
    /// The form of entries.
    pub format: LogFormat,
}

/// The form of log entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Fields for journald, lines for a person on a terminal, else [`LogFormat::Text`].
    #[default]
    Auto,
    /// Lines with time, level, message and fields, on stderr.
    Text,
    /// Lines of JSON, on stderr.
    Json,
}

/// Severity, most severe first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// The operator should act.
    Error,
    /// Degraded, but running.
    Warn,
    /// Lifecycle: start, ready, reload, drain, stop.
    #[default]
    Info,
    /// Details of single workers and requests.
    Debug,
    /// Details of single frames.
    Trace,
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        })
    }
}
