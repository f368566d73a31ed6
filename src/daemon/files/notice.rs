//! Notices for the operator about the directories of static files. `http` logs them.

use std::fmt;
use std::path::Path;

use rustix::io::Errno;

/// A change that is reported once, not for each request.
#[derive(Debug)]
pub enum FileNotice<'a> {
    /// A directory cannot be opened.
    DirectoryLost(&'a Path, Errno),
    /// The directory can be opened again.
    DirectoryBack(&'a Path),
    /// The file of a `fallback` is missing.
    FallbackMissing {
        /// `url` of the `[[static]]` table.
        url: &'a str,
        /// `fallback`.
        page: &'a str,
        /// `directory`.
        directory: &'a Path,
    },
}

/// Receives notices, on any thread.
pub type FileNoticeSink = fn(&FileNotice<'_>);

impl fmt::Display for FileNotice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DirectoryLost(path, error) => write!(
                f,
                "cannot open the directory {} ({error}): requests for its files fail until it is back",
                path.display()
            ),
            Self::DirectoryBack(path) => write!(f, "the directory {} is back", path.display()),
            Self::FallbackMissing { url, page, directory } => write!(
                f,
                "[[static]] url = \"{url}\": fallback = \"{page}\" is not a file in {}: paths without a file are answered \
                 404 (logged once)",
                directory.display()
            ),
        }
    }
}
