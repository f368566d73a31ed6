//! A directory below which files are opened. Only symlinks under [`Links::Followed`] lead out of
//! it.
//!
//! The kernel resolves every path with `openat2(2)`, so under the other [`Links`] neither `..` nor
//! a symlink leaves the directory, even while someone renames directories. On the reactor a path is
//! resolved only from the kernel's cache (`RESOLVE_CACHED`); if that is not enough, the caller
//! repeats the lookup on a blocking thread. Where `openat2(2)` is refused, [`walk`] replaces it, and
//! every lookup runs on a blocking thread.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2};
use rustix::io::Errno;

use super::encoding::Encoding;
use super::known::{KnownFile, KnownFiles};
use super::links::Links;
use super::notice::{FileNotice, FileNoticeSink};
use super::state::FileState;
use super::walk;

/// Time after which the directory itself is opened again, because a deployment may have replaced
/// it.
const REOPEN_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum number of attempts to resolve a path that is renamed meanwhile.
const MAX_ATTEMPTS: u32 = 4;

/// Whether a lookup may wait for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupMode {
    /// The lookup must not wait: it fails with [`LookupError::NeedsDisk`].
    Cached,
    /// The lookup may wait: it runs on a blocking thread.
    Blocking,
}

/// The reason why a path was not opened.
#[derive(Debug)]
pub enum LookupError {
    /// The lookup must be repeated with [`LookupMode::Blocking`].
    NeedsDisk,
    /// No regular file or directory is there, or the path leaves the directory.
    NotFound,
    /// The daemon's user may not read the file.
    Denied,
    /// The system lacks descriptors or memory.
    Exhausted(io::Error),
    /// The disk failed.
    Failed(io::Error),
}

impl From<Errno> for LookupError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::NOENT
            | Errno::NOTDIR
            | Errno::LOOP
            | Errno::XDEV
            | Errno::NAMETOOLONG
            | Errno::NXIO
            | Errno::NODEV => Self::NotFound,
            Errno::ACCESS | Errno::PERM => Self::Denied,
            Errno::MFILE | Errno::NFILE | Errno::NOMEM => Self::Exhausted(errno.into()),
            other => Self::Failed(other.into()),
        }
    }
}

/// Flags for reading. They avoid the side effects of opening a FIFO or a terminal.
const READ: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// The entry at a path.
#[derive(Debug)]
pub(super) enum FoundEntry {
    File(OpenFile),
    Directory,
}

/// A regular file that was opened.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) fd: OwnedFd,
    /// The file as it was when it was opened.
    pub(super) known: Arc<KnownFile>,
}

/// A directory below which files are opened.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    links: Links,
    opened: Mutex<Option<OpenDirectory>>,
    notify: FileNoticeSink,
    /// [`FileNotice::DirectoryLost`] was the last notice.
    is_lost: AtomicBool,
    files: KnownFiles,
}

#[derive(Debug)]
struct OpenDirectory {
    fd: Arc<OwnedFd>,
    checked_at: Instant,
}

impl Root {
    /// Creates a root. The first lookup opens the directory.
    pub(super) fn new(path: PathBuf, links: Links, notify: FileNoticeSink) -> Self {
        let (opened, files) = (Mutex::new(None), KnownFiles::new());
        Self { path, links, opened, notify, is_lost: AtomicBool::new(false), files }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the open directory.
    ///
    /// # Errors
    /// In cached mode, [`LookupError::NeedsDisk`] if the directory is not open, and once in
    /// each [`REOPEN_INTERVAL`]. In blocking mode, the errors of `openat(2)`.
    pub(super) fn directory(&self, mode: LookupMode, now: Instant) -> Result<Arc<OwnedFd>, LookupError> {
        if mode == LookupMode::Cached {
            let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
            let directory = opened.as_mut().ok_or(LookupError::NeedsDisk)?;
            if now.saturating_duration_since(directory.checked_at) >= REOPEN_INTERVAL {
                // One request opens the directory again; requests that arrive meanwhile use the
                // open descriptor.
                directory.checked_at = now;
                return Err(LookupError::NeedsDisk);
            }
            return Ok(Arc::clone(&directory.fd));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(CWD, &self.path, flags, Mode::empty());
        self.notify(opened.as_ref().err().copied());
        let fd = opened.map(Arc::new);
        // A directory that was renamed or deleted is not served from its old descriptor.
        let directory = fd.as_ref().ok().map(|fd| OpenDirectory { fd: Arc::clone(fd), checked_at: now });
        *self.opened.lock().unwrap_or_else(PoisonError::into_inner) = directory;
        Ok(fd?)
    }

    /// Sends a notice if the directory can no longer be opened, or can be opened again.
    fn notify(&self, error: Option<Errno>) {
        let was_lost = self.is_lost.swap(error.is_some(), Ordering::Relaxed);
        match error {
            Some(error) if !was_lost => (self.notify)(&FileNotice::DirectoryLost(&self.path, error)),
            None if was_lost => (self.notify)(&FileNotice::DirectoryBack(&self.path)),
            Some(_) | None => {}
        }
    }

    /// Opens the regular file at `path` below `directory`. `encoding` is the file's content coding,
    /// if the file is precompressed.
    ///
    /// Other kinds of files are not opened, because opening a FIFO or a device can have an effect.
    /// So the kind of file is checked before the file is opened, unless a regular file was served
    /// from this path before.
    pub(super) fn open(
        &self,
        directory: BorrowedFd<'_>,
        path: &[u8],
        encoding: Option<Encoding>,
        mode: LookupMode,
    ) -> Result<FoundEntry, LookupError> {
        let describe = |known, fd, stat: &Stat| {
            let known = self.files.describe(known, path, FileState::from(stat), encoding);
            FoundEntry::File(OpenFile { fd, known })
        };
        if let Some(known) = self.files.get(path) {
            match self.resolve(directory, path, READ, mode) {
                Ok(fd) => {
                    let stat = fstat(&fd)?;
                    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
                        return Ok(describe(Some(known), fd, &stat));
                    }
                }
                Err(LookupError::NeedsDisk) => return Err(LookupError::NeedsDisk),
                // The loop below finds the reason. The path may name a directory, which need not be
                // readable.
                Err(_) => {}
            }
            self.files.forget(path);
        }
        for _ in 0..MAX_ATTEMPTS {
            let probe = self.resolve(directory, path, OFlags::PATH, mode)?;
            let seen = fstat(&probe)?;
            match FileType::from_raw_mode(seen.st_mode) {
                FileType::Directory => return Ok(FoundEntry::Directory),
                FileType::RegularFile => {}
                _ => return Err(LookupError::NotFound),
            }
            let fd = self.resolve(directory, path, READ, mode)?;
            let stat = fstat(&fd)?;
            if (stat.st_dev, stat.st_ino) == (seen.st_dev, seen.st_ino) {
                return Ok(describe(None, fd, &stat));
            }
            // The file was replaced between the two calls.
        }
        Err(LookupError::NotFound)
    }

    fn resolve(
        &self,
        directory: BorrowedFd<'_>,
        path: &[u8],
        flags: OFlags,
        mode: LookupMode,
    ) -> Result<OwnedFd, LookupError> {
        let walks = walk::is_needed();
        if walks && mode == LookupMode::Cached {
            return Err(LookupError::NeedsDisk);
        }
        let mut resolve = ResolveFlags::NO_MAGICLINKS;
        match self.links {
            Links::Refused => resolve |= ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
            Links::Inside => resolve |= ResolveFlags::BENEATH,
            Links::Followed => {}
        }
        if mode == LookupMode::Cached {
            resolve |= ResolveFlags::CACHED;
        }
        for _ in 0..MAX_ATTEMPTS {
            let opened = if walks {
                walk::open(directory, path, flags, self.links)
            } else {
                openat2(directory, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
            };
            match opened {
                Ok(fd) => return Ok(fd),
                // EINVAL: a kernel before 5.12 does not know RESOLVE_CACHED.
                Err(Errno::AGAIN | Errno::INVAL) if mode == LookupMode::Cached => {
                    return Err(LookupError::NeedsDisk);
                }
                // A directory on the way was renamed meanwhile.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(LookupError::NotFound)
    }
}
