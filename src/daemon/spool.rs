//! Unnamed files for large request bodies and for responses to slow clients.
//!
//! `http` and `dispatch` use them on blocking threads. The kernel frees a file with its last
//! descriptor, even if the daemon is killed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::OFlag;
use rustix::io::Errno;

/// Makes an unnamed file (open(2), `O_TMPFILE`). On a file system without `O_TMPFILE`, makes a file
/// with a name and removes the name at once.
///
/// # Errors
/// The directory is missing or not writable, or the file system is full.
pub fn unnamed_file(directory: &Path) -> io::Result<File> {
    match options().custom_flags(OFlag::O_TMPFILE.bits()).open(directory) {
        Err(error) if is_tmpfile_unsupported(&error) => unlinked_file(directory),
        made => made,
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

/// Returns whether the error means that `O_TMPFILE` is not supported (open(2)). File systems return
/// EOPNOTSUPP. Kernels, FUSE servers and gVisor that do not know the flag see an attempt to open a
/// directory for writing, and return EISDIR, ENOENT, EINVAL or ENOSYS.
fn is_tmpfile_unsupported(error: &io::Error) -> bool {
    let errors = [Errno::OPNOTSUPP, Errno::ISDIR, Errno::NOENT, Errno::INVAL, Errno::NOSYS];
    errors.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn unlinked_file(directory: &Path) -> io::Result<File> {
    loop {
        let path = directory.join(unique_name());
        // `create_new` never opens an existing file or follows a symbolic link.
        match options().create_new(true).open(&path) {
            Ok(file) => {
                std::fs::remove_file(&path)?;
                return Ok(file);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns a name that this process has not used. If a process with the same id in another
/// namespace has used it, the caller tries the next one.
fn unique_name() -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    PathBuf::from(format!(".rgun-spool-{}-{count}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};

    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("rgun-spool-test-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn assert_usable_and_unnamed(directory: &Path, mut file: File) {
        assert_eq!(std::fs::read_dir(directory).unwrap().count(), 0, "it has a name");
        file.write_all(b"some bytes").unwrap();
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "some bytes");
        std::fs::remove_dir(directory).unwrap();
    }

    #[test]
    fn unnamed_file_has_no_name() {
        let directory = directory("unnamed");
        let file = unnamed_file(&directory).unwrap();
        assert_usable_and_unnamed(&directory, file);
    }

    #[test]
    fn file_is_unnamed_without_support_for_tmpfile() {
        let directory = directory("unlinked");
        let file = unlinked_file(&directory).unwrap();
        assert_usable_and_unnamed(&directory, file);
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let missing = std::env::temp_dir().join("rgun-spool-test-missing");
        assert_eq!(unnamed_file(&missing).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn only_missing_tmpfile_support_falls_back_to_a_name() {
        assert!(
            is_tmpfile_unsupported(&Errno::OPNOTSUPP.into()) && is_tmpfile_unsupported(&Errno::ISDIR.into())
        );
        for other in [Errno::NOSPC, Errno::ACCESS, Errno::ROFS, Errno::MFILE] {
            assert!(!is_tmpfile_unsupported(&other.into()));
        }
    }
}
