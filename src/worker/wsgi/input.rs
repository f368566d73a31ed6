//! `wsgi.input`: the request body, in memory or in a file spooled by the daemon.
//!
//! PEP 3333, "Input and Error Streams". The end of the body is the end of the stream
//! (`wsgi.input_terminated`). Files are read with `pread(2)`, without the GIL, so processes which
//! share the descriptor do not share a position.

use std::os::fd::OwnedFd;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

/// Bytes read ahead by `readline`.
const READ_AHEAD_BYTES: usize = 64 * 1024;

/// The body of one request.
#[pyclass(module = "rgun")]
#[derive(Debug)]
pub(crate) struct Input {
    source: Source,
    /// Bytes that the application has read.
    position: u64,
    /// Bytes of the body.
    len: u64,
}

#[derive(Debug)]
enum Source {
    /// An inline body, or an empty one.
    Memory(Py<PyBytes>),
    /// A spooled body, and the bytes read ahead: `ahead[read..]` begins at `position`.
    File { file: OwnedFd, ahead: Vec<u8>, read: usize },
}

impl Input {
    /// Creates the input over a copy of a body.
    pub(crate) fn copy(py: Python<'_>, body: &[u8]) -> Self {
        Self::memory(py, PyBytes::new(py, body).unbind())
    }

    /// Creates the input over a body in memory.
    pub(crate) fn memory(py: Python<'_>, body: Py<PyBytes>) -> Self {
        Self { len: body.as_bytes(py).len() as u64, source: Source::Memory(body), position: 0 }
    }

    /// Creates the input over a spooled body.
    pub(crate) fn file(file: OwnedFd, len: u64) -> Self {
        Self { source: Source::File { file, ahead: Vec::new(), read: 0 }, position: 0, len }
    }

    fn remaining(&self) -> usize {
        usize::try_from(self.len - self.position).unwrap_or(usize::MAX)
    }

    /// Reads up to `size` bytes, or the rest; fewer only at the end.
    fn read_bytes<'py>(&mut self, py: Python<'py>, size: Option<usize>) -> PyResult<Bound<'py, PyBytes>> {
        let size = size.map_or(self.remaining(), |size| size.min(self.remaining()));
        if size == 0 {
            return Ok(PyBytes::new(py, b""));
        }
        let bytes = match &mut self.source {
            Source::Memory(body) => {
                let body = body.bind(py);
                if size as u64 == self.len {
                    body.clone()
                } else {
                    PyBytes::new(py, slice_at(body.as_bytes(), self.position, size))
                }
            }
            Source::File { file, ahead, read } => {
                let position = self.position;
                PyBytes::new_with(py, size, |out| {
                    let buffered = (ahead.len() - *read).min(size);
                    out[..buffered].copy_from_slice(&ahead[*read..*read + buffered]);
                    *read += buffered;
                    let file = &*file;
                    py.detach(|| read_exactly(file, &mut out[buffered..], position + buffered as u64))
                })?
            }
        };
        self.position += size as u64;
        Ok(bytes)
    }

    /// Reads a line with its line end, at most `size` bytes.
    fn read_one_line<'py>(&mut self, py: Python<'py>, size: Option<usize>) -> PyResult<Bound<'py, PyBytes>> {
        let max = size.map_or(self.remaining(), |size| size.min(self.remaining()));
        match &mut self.source {
            Source::Memory(body) => {
                let body = body.bind(py);
                let rest = slice_at(body.as_bytes(), self.position, max);
                let line = &rest[..line_end(rest).unwrap_or(rest.len())];
                self.position += line.len() as u64;
                Ok(PyBytes::new(py, line))
            }
            Source::File { file, ahead, read } => {
                let mut line = Vec::new();
                while line.len() < max {
                    if *read == ahead.len() {
                        let at = self.position + line.len() as u64;
                        let size = usize::try_from(self.len - at).unwrap_or(usize::MAX).min(READ_AHEAD_BYTES);
                        ahead.clear();
                        *read = 0;
                        ahead.resize(size, 0);
                        let file = &*file;
                        let result = py.detach(|| read_exactly(file, ahead, at));
                        if result.is_err() {
                            ahead.clear();
                        }
                        result?;
                    }
                    let rest = &ahead[*read..];
                    let rest = &rest[..rest.len().min(max - line.len())];
                    let end = line_end(rest);
                    let taken = end.unwrap_or(rest.len());
                    line.extend_from_slice(&rest[..taken]);
                    *read += taken;
                    if end.is_some() {
                        break;
                    }
                }
                self.position += line.len() as u64;
                Ok(PyBytes::new(py, &line))
            }
        }
    }
}

#[pymethods]
impl Input {
    /// Reads up to `size` bytes, or the rest if `size` is missing, None or negative.
    #[pyo3(signature = (size=None))]
    fn read<'py>(&mut self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        self.read_bytes(py, size_limit(size))
    }

    /// Reads one line, of at most `size` bytes.
    #[pyo3(signature = (size=None))]
    fn readline<'py>(&mut self, py: Python<'py>, size: Option<isize>) -> PyResult<Bound<'py, PyBytes>> {
        self.read_one_line(py, size_limit(size))
    }

    /// Reads the remaining lines; with a hint, stops once they have that many bytes.
    #[pyo3(signature = (hint=None))]
    fn readlines<'py>(&mut self, py: Python<'py>, hint: Option<isize>) -> PyResult<Bound<'py, PyList>> {
        let hint = size_limit(hint).filter(|hint| *hint > 0);
        let lines = PyList::empty(py);
        let mut total = 0;
        loop {
            let line = self.read_one_line(py, None)?;
            let len = line.as_bytes().len();
            if len == 0 {
                return Ok(lines);
            }
            lines.append(line)?;
            total += len;
            if hint.is_some_and(|hint| total >= hint) {
                return Ok(lines);
            }
        }
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&mut self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let line = self.read_one_line(py, None)?;
        Ok(if line.as_bytes().is_empty() { None } else { Some(line) })
    }
}

/// Converts the size argument of a Python call. Returns `None` if there is no limit: the argument
/// is missing, None or negative.
fn size_limit(size: Option<isize>) -> Option<usize> {
    size.and_then(|size| usize::try_from(size).ok())
}

/// Returns the bytes from `position`, at most `size`.
fn slice_at(body: &[u8], position: u64, size: usize) -> &[u8] {
    let start = usize::try_from(position).unwrap_or(usize::MAX).min(body.len());
    &body[start..body.len().min(start + size)]
}

/// Returns the length of the first line with its line end; `None` if the line has no end.
fn line_end(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1)
}

/// Fills `out` with the bytes of the file from `offset`.
fn read_exactly(file: &OwnedFd, mut out: &mut [u8], mut offset: u64) -> PyResult<()> {
    while !out.is_empty() {
        match rustix::io::pread(file, &mut *out, offset) {
            Ok(0) => return Err(PyOSError::new_err("the spooled request body ends early")),
            Ok(read) => {
                out = &mut out[read..];
                offset += read as u64;
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(std::io::Error::from(error).into()),
        }
    }
    Ok(())
}
