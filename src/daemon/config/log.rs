//! The checked `[log]` section.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::access_format::AccessFormat;

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The least severe level that is written.
    pub level: Level,
    /// Whether each request is logged, and where.
    pub access: AccessLog,
    /// The line of a request in the access log. `None` is rgun's own.
    pub access_format: Option<Arc<AccessFormat>>,
    /// Whether the query of a request is logged.
    pub query: bool,
    /// Time after which a running request is logged once, with the stack of its thread. `None` is
    /// `"off"`.
    pub slow: Option<Duration>,
    /// Whether records of Python's logging become entries with fields, and printed lines name their
    /// requests.
    pub records: bool,
    /// The form of entries.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: Level::default(),
            access: AccessLog::Off,
            access_format: None,
            query: true,
            slow: None,
            records: true,
            format: LogFormat::default(),
        }
    }
}

/// `log.access`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessLog {
    /// Only failed requests are logged.
    #[default]
    Off,
    /// Each request is logged where the rest of the log goes.
    Log,
    /// Each request is logged on stdout, unless the log goes to journald.
    Stdout,
}

impl AccessLog {
    /// True if each request is logged.
    pub fn is_on(self) -> bool {
        self != Self::Off
    }
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
