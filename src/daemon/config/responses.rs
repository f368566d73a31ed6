//! The checked `[health]`, `[control]`, `[errors]` and `[compression]` sections: the daemon's own
//! responses, access to the control socket, and compressed responses.

use std::fmt;
use std::path::PathBuf;

/// `[health]`. `None` is `"off"`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// The path at which the daemon answers 200 while a worker can serve, else 503.
    /// Percent-encoded, without a query.
    pub path: Option<String>,
    /// The path at which the daemon answers 200 while it runs; differs from `path`.
    pub live_path: Option<String>,
}

/// `[control]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Control {
    /// The group whose members may read from the control socket; `None`: only root and the daemon's
    /// user. Read at the start only, because the socket exists from then on.
    pub group: Option<String>,
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

/// The status, or the class of statuses, that a page is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorStatus {
    /// One status code.
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

/// `[compression]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compression {
    /// In the order of preference, without duplicates. Empty is `"off"`.
    pub algorithms: Vec<Algorithm>,
    /// Media types in lower case, each with at most one `*` for any text.
    pub types: Vec<String>,
    /// Bytes of the smallest body that is compressed.
    pub min_size: u64,
    /// From 1 (fastest) to 9 (smallest output).
    pub level: u8,
}

/// A content coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// `zstd`.
    Zstd,
    /// `br`.
    Brotli,
    /// `gzip`.
    Gzip,
}

impl Default for Compression {
    fn default() -> Self {
        let types = [
            "text/*",
            "application/json",
            "application/*+json",
            "application/javascript",
            "application/xml",
            "application/*+xml",
            "application/wasm",
            "image/svg+xml",
        ];
        Self { algorithms: Vec::new(), types: types.map(str::to_owned).to_vec(), min_size: 1 << 10, level: 4 }
    }
}
