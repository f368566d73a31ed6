//! The state of a file's inode.

use rustix::fs::Stat;

/// The state of a file's inode when the file was opened. Equal states mean the same file with the
/// same content, as far as the kernel's clock can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileState {
    /// Number of the file system.
    pub(super) device: u64,
    /// Number of the inode in the file system.
    pub(super) inode: u64,
    /// Length in bytes.
    pub(super) len: u64,
    pub(super) modified: FileTime,
    /// The time of the last change of the inode.
    pub(super) changed: FileTime,
}

/// Seconds since 1970 and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileTime {
    pub(super) seconds: i64,
    pub(super) nanoseconds: u32,
}

impl From<&Stat> for FileState {
    fn from(stat: &Stat) -> Self {
        Self {
            device: stat.st_dev,
            inode: stat.st_ino,
            len: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: FileTime {
                seconds: stat.st_mtime,
                nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
            },
            changed: FileTime {
                seconds: stat.st_ctime,
                nanoseconds: u32::try_from(stat.st_ctime_nsec).unwrap_or_default(),
            },
        }
    }
}
