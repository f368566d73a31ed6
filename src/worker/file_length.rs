//! The length of a file whose descriptor goes to the daemon: `wsgi.file_wrapper` and ASGI's path
//! send need it, and `stat` may be wrong.

use std::io::IoSliceMut;
use std::os::fd::BorrowedFd;

use pyo3::prelude::*;
use rustix::fs::{FileType, fstat};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2, retry_on_intr};

/// Returns the number of bytes from `offset` to the end of a regular file, or `None` if `stat`
/// reports a wrong length. `stat` does so for files of procfs (0 bytes), sysfs (a page) and other
/// file systems that generate files when they are read: the last byte is missing there, or more
/// bytes follow.
pub(crate) fn trusted_length(py: Python<'_>, file: BorrowedFd<'_>, offset: u64) -> Option<u64> {
    let size = size_of(file).filter(|size| *size > 0)?;
    // The disk may be slow.
    let n_read = py.detach(|| probe_bytes(file, size - 1)).ok()?;
    // A growing file has more bytes, but then its size is larger now, too.
    let is_right = n_read == 1 || n_read == 2 && size_of(file).is_some_and(|later| later > size);
    is_right.then(|| size.saturating_sub(offset))
}

/// Returns the size of a regular file according to `stat`.
fn size_of(file: BorrowedFd<'_>) -> Option<u64> {
    let stat =
        fstat(file).ok().filter(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)?;
    u64::try_from(stat.st_size).ok()
}

/// Returns whether a file has at least `len` bytes. Reads the file, because `stat` may be wrong.
pub(crate) fn has_bytes(py: Python<'_>, file: BorrowedFd<'_>, len: u64) -> rustix::io::Result<bool> {
    py.detach(|| len.checked_sub(1).map_or(Ok(true), |last| Ok(probe_bytes(file, last)? > 0)))
}

/// Reads two bytes at `at`. Returns how many of them the file has.
fn probe_bytes(file: BorrowedFd<'_>, at: u64) -> rustix::io::Result<usize> {
    let mut bytes = [0; 2];
    // Bytes that are not in memory come from a disk. Of a file on a disk, `stat` reports the true
    // length.
    match preadv2(file, &mut [IoSliceMut::new(&mut bytes)], at, ReadWriteFlags::NOWAIT) {
        Err(Errno::AGAIN) => Ok(1),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => retry_on_intr(|| pread(file, &mut bytes, at)),
        read => read,
    }
}
