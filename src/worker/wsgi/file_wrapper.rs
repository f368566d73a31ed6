//! `wsgi.file_wrapper`: files that are passed to the daemon as a descriptor.
//!
//! PEP 3333, "Optional Platform-Specific File Handling". A wrapper over a regular file that the
//! application returns is sent as descriptor and offset, if that yields the bytes of
//! `iter(lambda: x.read(blksize), b"")`. Any other wrapper, and one that middleware iterates, reads blocks.

use std::io::IoSliceMut;
use std::os::fd::BorrowedFd;

use pyo3::exceptions::PyStopIteration;
use pyo3::intern;
use pyo3::prelude::*;
use rustix::fs::{FileType, fstat};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2, retry_on_intr};

use crate::python::load_py;

/// Iterates over a file-like object in blocks.
#[pyclass(frozen, module = "rgun")]
#[derive(Debug)]
pub(crate) struct FileWrapper {
    /// The wrapped file-like object.
    #[pyo3(get)]
    filelike: Py<PyAny>,
    /// Bytes per block.
    #[pyo3(get)]
    blksize: isize,
}

#[pymethods]
impl FileWrapper {
    #[new]
    #[pyo3(signature = (filelike, blksize=8192))]
    fn new(filelike: Py<PyAny>, blksize: isize) -> Self {
        Self { filelike, blksize }
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let block = self.filelike.call_method1(py, intern!(py, "read"), (self.blksize,))?;
        // A non-blocking file returns None if it has no data yet: not its end, and no bytes either.
        let is_end = !block.is_none(py) && !block.bind(py).is_truthy()?;
        if is_end { Err(PyStopIteration::new_err(())) } else { Ok(block) }
    }

    /// Closes the file-like object if it has close().
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(close) = self.filelike.bind(py).getattr_opt(intern!(py, "close"))? {
            close.call0()?;
        }
        Ok(())
    }
}

/// A part of a regular file.
#[derive(Debug)]
pub(crate) struct FileBody<'a> {
    /// Open as long as the wrapper is.
    pub(crate) descriptor: BorrowedFd<'a>,
    /// First byte.
    pub(crate) offset: u64,
    /// Bytes from there to the end of the file.
    pub(crate) len: u64,
}

/// Returns the file behind a wrapper; None if its bytes differ from those of `read()`, or its size is unknown.
pub(crate) fn file_body<'a>(
    py: Python<'_>,
    wrapper: &'a Bound<'_, FileWrapper>,
) -> PyResult<Option<FileBody<'a>>> {
    let found = load_py(py)?.call_method1(intern!(py, "regular_file"), (&wrapper.get().filelike,))?;
    let Some((descriptor, offset)) = found.extract::<Option<(i32, u64)>>()? else { return Ok(None) };
    if descriptor < 0 {
        return Ok(None);
    }
    #[expect(unsafe_code, reason = "the descriptor belongs to a Python object")]
    // SAFETY: not -1; the wrapper holds the file object, which is closed only after the descriptor is sent. (If a thread of
    // the application closes it meanwhile, fstat or sendmsg fail, or another of its files is sent, as with any fd.)
    let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
    Ok(trusted_length(py, descriptor, offset).map(|len| FileBody { descriptor, offset, len }))
}

/// Returns the bytes from `offset` to the end of a regular file, if the size of `stat` is right. It is wrong for files of
/// procfs (0), sysfs (a page) and other file systems that generate files when they are read: there the last byte is
/// missing, or more bytes follow.
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

/// Returns whether a file has at least `len` bytes, by reading, whatever `stat` reports.
pub(crate) fn has_bytes(py: Python<'_>, file: BorrowedFd<'_>, len: u64) -> rustix::io::Result<bool> {
    py.detach(|| len.checked_sub(1).map_or(Ok(true), |last| Ok(probe_bytes(file, last)? > 0)))
}

/// Reads two bytes at `at`; returns how many the file has.
fn probe_bytes(file: BorrowedFd<'_>, at: u64) -> rustix::io::Result<usize> {
    let mut bytes = [0; 2];
    // Bytes that are not in memory come from a disk, and the size of such a file is right.
    match preadv2(file, &mut [IoSliceMut::new(&mut bytes)], at, ReadWriteFlags::NOWAIT) {
        Err(Errno::AGAIN) => Ok(1),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => retry_on_intr(|| pread(file, &mut bytes, at)),
        read => read,
    }
}
