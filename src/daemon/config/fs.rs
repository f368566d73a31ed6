//! Makes paths absolute and checks access to files.

use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};

/// Joins `path` to `base` and removes `.` components; keeps `..` and symlinks.
pub(crate) fn absolute(base: &Path, path: &Path) -> PathBuf {
    base.join(path).components().collect()
}

/// Checks that this process's effective user has `what` access to `path`, following symlinks.
pub(crate) fn check_access(path: &Path, what: AccessFlags) -> nix::Result<()> {
    faccessat(AT_FDCWD, path, what, AtFlags::AT_EACCESS)
}
