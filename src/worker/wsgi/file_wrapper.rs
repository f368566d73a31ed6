//! `wsgi.file_wrapper`: files that go to the daemon as a descriptor.
//!
//! PEP 3333, "Optional Platform-Specific File Handling". Returned as the application's result, a wrapper
//! over a regular file is sent by descriptor and offset; over anything else, or when middleware iterates
//! it, it reads blocks.

use std::os::fd::{AsFd, BorrowedFd};

use pyo3::exceptions::PyStopIteration;
use pyo3::intern;
use pyo3::prelude::*;
use rustix::fs::{FileType, fstat};

use crate::python::support;

/// Iterates over a file-like object in blocks.
#[pyclass(frozen, module = "rgun")]
#[derive(Debug)]
pub(crate) struct FileWrapper {
    /// What was wrapped.
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
        if block.bind(py).is_truthy()? { Ok(block) } else { Err(PyStopIteration::new_err(())) }
    }

    /// Closes what was wrapped, if it can be closed.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(close) = self.filelike.bind(py).getattr_opt(intern!(py, "close"))? {
            close.call0()?;
        }
        Ok(())
    }
}

/// A part of a regular file.
#[derive(Debug)]
pub(crate) struct File<'a> {
    /// Open while the wrapper is.
    pub(crate) descriptor: BorrowedFd<'a>,
    /// First byte.
    pub(crate) offset: u64,
    /// Bytes from there to the end of the file.
    pub(crate) len: u64,
}

/// The file behind a wrapper, if it is one whose bytes are what `read()` would give.
pub(crate) fn file_of<'a>(py: Python<'_>, wrapper: &'a Bound<'_, FileWrapper>) -> PyResult<Option<File<'a>>> {
    let found = support(py)?.call_method1(intern!(py, "regular_file"), (&wrapper.get().filelike,))?;
    let Some((descriptor, offset)) = found.extract::<Option<(i32, u64)>>()? else { return Ok(None) };
    if descriptor < 0 {
        return Ok(None);
    }
    #[expect(unsafe_code, reason = "the descriptor belongs to a Python object")]
    // SAFETY: not -1; the wrapper holds the file object, which nobody closes before close() is called on
    // it, after the descriptor has been sent. (A thread of the application that closes it meanwhile makes
    // fstat or sendmsg fail, or sends another of its files: the application's own doing, as with any fd.)
    let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
    let Ok(stat) = fstat(descriptor.as_fd()) else { return Ok(None) };
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    Ok(Some(File { descriptor, offset, len: size.saturating_sub(offset) }))
}
