//! Files without a name, in which bytes wait that memory has no room for: bodies of requests, and answers whose clients
//! are slow.
//!
//! `http` and `dispatch` make and use them, on threads that may block. A file is gone when its last descriptor is
//! closed, whatever becomes of the daemon.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::OFlag;
use rustix::io::Errno;

/// Makes a file without a name (open(2), `O_TMPFILE`); where the file system cannot do that, one whose name is removed
/// at once.
///
/// # Errors
/// The directory is missing, may not be written, or is full.
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

/// open(2): file systems without `O_TMPFILE` say EOPNOTSUPP; kernels (and FUSE servers, and gVisor) that do not know
/// the flag see `O_DIRECTORY` opened for writing and say EISDIR, or ENOENT, or EINVAL.
fn is_tmpfile_unsupported(error: &io::Error) -> bool {
    let errors = [Errno::OPNOTSUPP, Errno::ISDIR, Errno::NOENT, Errno::INVAL, Errno::NOSYS];
    errors.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn unlinked_file(directory: &Path) -> io::Result<File> {
    loop {
        let path = directory.join(unique_name());
        // Nobody else's file is opened, nor one that a symbolic link leads to.
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

/// A name that no other file of a living daemon has.
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

    fn is_usable_and_without_a_name(directory: &Path, mut file: File) {
        assert_eq!(std::fs::read_dir(directory).unwrap().count(), 0, "it has a name");
        file.write_all(b"some bytes").unwrap();
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "some bytes");
        std::fs::remove_dir(directory).unwrap();
    }

    #[test]
    fn a_file_has_no_name() {
        let directory = directory("unnamed");
        let file = unnamed_file(&directory).unwrap();
        is_usable_and_without_a_name(&directory, file);
    }

    #[test]
    fn a_file_has_no_name_where_the_file_system_has_no_unnamed_files() {
        let directory = directory("unlinked");
        // A file left over under the next name is passed by.
        let file = unlinked_file(&directory).unwrap();
        is_usable_and_without_a_name(&directory, file);
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let missing = std::env::temp_dir().join("rgun-spool-test-missing");
        assert_eq!(unnamed_file(&missing).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn only_an_error_that_means_the_flag_leads_to_a_name() {
        assert!(
            is_tmpfile_unsupported(&Errno::OPNOTSUPP.into()) && is_tmpfile_unsupported(&Errno::ISDIR.into())
        );
        for other in [Errno::NOSPC, Errno::ACCESS, Errno::ROFS, Errno::MFILE] {
            assert!(!is_tmpfile_unsupported(&other.into()));
        }
    }
}
