//! `wsgi.file_wrapper`: files that are passed to the daemon as a descriptor.
//!
//! PEP 3333, "Optional Platform-Specific File Handling". If the application returns a wrapper over
//! a regular file, the worker sends the file's descriptor and offset, provided that the client then
//! gets the bytes of `iter(lambda: x.read(blksize), b"")`. Any other wrapper reads blocks, and so
//! does a wrapper that middleware iterates.

use std::os::fd::BorrowedFd;

use pyo3::exceptions::PyStopIteration;
use pyo3::intern;
use pyo3::prelude::*;

use crate::file_length::trusted_length;
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
        // A non-blocking file returns None if it has no data yet. None does not end the iteration:
        // the worker refuses it, since it is not bytes.
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
    /// Valid while the wrapper is open.
    pub(crate) descriptor: BorrowedFd<'a>,
    /// Offset of the first byte to send.
    pub(crate) offset: u64,
    /// Bytes from `offset` to the end of the file.
    pub(crate) len: u64,
}

/// Returns the file behind a wrapper; `None` if its bytes differ from the bytes of `read()`, or its
/// size is unknown.
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
    // SAFETY: not -1; the wrapper holds the file object, which is closed only after the descriptor
    // is sent. (If a thread of the application closes it meanwhile, fstat or sendmsg fail, or the
    // file that reused its number is sent.)
    let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
    Ok(trusted_length(py, descriptor, offset).map(|len| FileBody { descriptor, offset, len }))
}
