//! The reasons for which a request for a file is refused.

/// The reason for which a request for a file is refused. `http` chooses the status code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileFault {
    /// No file is served at this path.
    NotFound,
    /// The method is neither GET nor HEAD.
    Method,
    /// The daemon's user may not read the file.
    Denied,
    /// A precondition of the request fails (RFC 9110 §13).
    PreconditionFailed,
    /// No range of the request begins within the file, which has this many bytes (RFC 9110 §14.4).
    Unsatisfiable(u64),
    /// The system lacks descriptors or memory; the error's text.
    Exhausted(String),
    /// The file cannot be read; the error's text.
    Failed(String),
}
