//! The checked `[health]` and `[errors]` sections: what the daemon answers itself.

use std::fmt;
use std::path::PathBuf;

/// `[health]`. `None` is `"off"`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// The path answered 200 while a worker can serve, else 503; percent-encoded, without a query.
    pub path: Option<String>,
    /// The path answered 200 while the daemon runs; differs from `path`.
    pub live_path: Option<String>,
}

/// A page of `[errors]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorPage {
    /// The responses that have the page as their body.
    pub status: ErrorStatus,
    /// The file of the page.
    pub path: PathBuf,
    /// The file's content.
    pub html: String,
}

/// The status or class of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorStatus {
    /// One status.
    Status(u16),
    /// `4xx`.
    ClientErrors,
    /// `5xx`.
    ServerErrors,
}

impl fmt::Display for ErrorStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => status.fmt(formatter),
            Self::ClientErrors => formatter.write_str("4xx"),
            Self::ServerErrors => formatter.write_str("5xx"),
        }
    }
}
