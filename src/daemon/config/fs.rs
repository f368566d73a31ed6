//! Paths of the file system: made absolute, and checked for access.

use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};

/// `path` as seen from `base`, without `.`; `..` and symlinks stay.
pub(crate) fn absolute(base: &Path, path: &Path) -> PathBuf {
    base.join(path).components().collect()
}

/// Whether this process's effective user may do `what` with `path`, following symlinks.
pub(crate) fn check_access(path: &Path, what: AccessFlags) -> nix::Result<()> {
    faccessat(AT_FDCWD, path, what, AtFlags::AT_EACCESS)
}
