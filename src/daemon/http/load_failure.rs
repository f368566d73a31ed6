//! The failure of changed code to load, which a developer's browser shows.

/// The failure that a page shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadFailure {
    /// One sentence with the exception.
    pub summary: String,
    /// The traceback; empty if there is none.
    pub traceback: String,
    /// Whether older code serves.
    pub old_code_serves: bool,
}
