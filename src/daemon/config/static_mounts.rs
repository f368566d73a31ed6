//! The validated `[[static]]` tables and `app.sendfile_roots`: directories from which the daemon
//! sends files.

use std::path::PathBuf;
use std::time::Duration;

/// One `[[static]]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticMount {
    /// The prefix of the paths; begins and ends with `/`.
    pub url: String,
    /// The directory; absolute. Existed and was readable when checked.
    pub directory: PathBuf,
    /// Names of the files served for a request to a directory.
    pub index: Vec<String>,
    /// The response to a request for a path that has no file.
    pub fallback: StaticFallback,
    /// The symlinks that are followed.
    pub follow_links: FollowLinks,
    /// Time for which clients may use a file without asking again. `None` is `"off"`: no
    /// `Cache-Control`.
    pub max_age: Option<Duration>,
    /// The files that never change.
    pub immutable: ImmutableFiles,
    /// Whether precompressed files are used.
    pub precompressed: bool,
}

/// The response to a request for a path that has no file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StaticFallback {
    /// The request is answered 404.
    NotFound,
    /// The application answers the request.
    App,
    /// The file with this path below the directory is sent.
    File(String),
}

/// The symlinks that are followed below a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowLinks {
    /// No link is followed.
    No,
    /// Links whose target is below the directory are followed.
    Inside,
    /// All links are followed, also those that lead out of the directory.
    Yes,
}

/// The files that never change under their name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImmutableFiles {
    /// Files with a hash in their name.
    Hashed,
    /// All files.
    All,
    /// No file.
    Nothing,
}

/// One directory of `app.sendfile_roots`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendfileDirectory {
    /// The prefix of `X-Accel-Redirect`; begins and ends with `/`. `None`: for `X-Sendfile` only.
    pub url: Option<String>,
    /// The directory; absolute.
    pub directory: PathBuf,
}
