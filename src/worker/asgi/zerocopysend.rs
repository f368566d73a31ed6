//! Sends parts of open files: the extension "Zero Copy Send" of the ASGI HTTP specification. Called
//! by [`super::send`].
//!
//! A part that is the whole body is passed to the daemon as a descriptor ([`super::pathsend`]), and
//! the daemon sends it with `sendfile`. A part of a longer body is read here in blocks, because a
//! response on the channel consists either of one file or of bytes. The application may close its
//! file as soon as its `send()` has returned.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt};

use super::message::{borrow_unchanged, finish_message, flag, item, required};
use super::response::{body_too_long, body_too_short};
use super::state::{Exchange, ExchangeState, PayloadKind, Stage};
use crate::fault::Fault;
use crate::file_length::trusted_length;

/// Bytes read at a time from a file that is a part of a body.
const BLOCK_BYTES: usize = 128 * 1024;

/// The rest of the file range that a message names; shrinks as blocks are sent.
#[derive(Debug)]
pub(super) struct FileRange {
    /// A duplicate of the application's descriptor.
    file: File,
    /// The next byte.
    offset: u64,
    /// Number of bytes to send; `None` to send up to the end of the file.
    count: Option<u64>,
    /// The message had no offset: sending moves the position of the application's file, as
    /// `os.sendfile()` does.
    moves_position: bool,
    /// Another part of the body follows.
    more: bool,
}

impl FileRange {
    /// Creates the range that a message names.
    fn from_message(message: &Bound<'_, PyAny>) -> PyResult<Self> {
        let py = message.py();
        let mut file = duplicate(&required(message, intern!(py, "file"))?)?;
        let offset = bytes_of(message, "offset")?;
        let count = bytes_of(message, "count")?;
        let more = flag(message, intern!(py, "more_body"))?;
        if !file.metadata()?.is_file() {
            return Err(PyValueError::new_err("http.response.zerocopysend: the file is not a regular file"));
        }
        let moves_position = offset.is_none();
        let offset = offset.map_or_else(|| file.stream_position(), Ok)?;
        Ok(Self { file, offset, count, moves_position, more })
    }

    /// Shrinks the range after bytes were sent or read.
    fn advance(&mut self, bytes: u64) -> io::Result<()> {
        self.offset += bytes;
        self.count = self.count.map(|count| count - bytes);
        if self.moves_position {
            self.file.seek(SeekFrom::Start(self.offset))?;
        }
        Ok(())
    }

    /// Reads the next block; it is empty at the end of the range or of the file.
    fn read_block<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let max = self.count.and_then(|count| usize::try_from(count).ok()).unwrap_or(BLOCK_BYTES);
        let mut block = vec![0; max.min(BLOCK_BYTES)];
        let (file, offset) = (&self.file, self.offset);
        // The disk may be slow.
        let len = py.detach(|| read_at(file, &mut block, offset))?;
        self.advance(len as u64)?;
        Ok(PyBytes::new(py, &block[..len]))
    }
}

/// Processes `http.response.zerocopysend`. Returns the range if it must be sent in blocks
/// ([`send_block`]).
pub(super) fn process(
    slf: &Bound<'_, Exchange>,
    message: &Bound<'_, PyAny>,
    stage: Stage,
) -> PyResult<Option<Box<FileRange>>> {
    let py = slf.py();
    let mut range = FileRange::from_message(message)?;
    let sent = borrow_unchanged(slf, stage)?.send_whole_file(py, &mut range);
    match sent {
        Ok(false) => Ok(Some(Box::new(range))),
        Ok(true) => finish_message(slf, Ok(())).map(|()| None),
        Err(fault) => finish_message(slf, Err(fault)).map(|()| None),
    }
}

/// Sends the next block of a range. Returns whether it was the last one.
pub(super) fn send_block(slf: &Bound<'_, Exchange>, range: &mut FileRange) -> PyResult<bool> {
    let py = slf.py();
    let block = range.read_block(py)?;
    // In a range without a count, only an empty block marks the end.
    let is_end = block.as_bytes().is_empty() || range.count == Some(0);
    let sent = slf.get().try_borrow_mut(py)?.send_body(py, Some(&block), range.more || !is_end);
    finish_message(slf, sent)?;
    Ok(is_end)
}

impl ExchangeState {
    /// Sends the range at once if it is the whole body or if the response has no body. Returns
    /// false if the range must be sent in blocks.
    fn send_whole_file(&mut self, py: Python<'_>, range: &mut FileRange) -> Result<bool, Fault> {
        let rest = trusted_length(py, range.file.as_fd(), range.offset);
        if let (Some(rest), None) = (rest, range.count) {
            // The file may have grown since the application computed the length.
            let left = self.response.head.length.map_or(rest, |length| length - self.response.body_bytes);
            range.count = Some(if self.is_bodyless() { rest } else { rest.min(left) });
        }
        // As with `os.sendfile()`, the end of the file ends the range.
        let len = rest.map(|rest| range.count.map_or(rest, |count| count.min(rest)));
        let is_first = self.stage == Stage::Prepared;
        if let (Some(len), true, false) = (len, is_first, range.more)
            && self.response.head.length.is_none()
        {
            self.announce_length(len).map_err(Fault::from)?;
        }
        if self.is_bodyless() {
            range.advance(len.unwrap_or(0)).map_err(PyErr::from)?;
            self.send_body(py, None, range.more)?;
            return Ok(true);
        }
        let Some(len) = len.filter(|len| *len > 0 && is_first && !range.more) else { return Ok(false) };
        match self.response.head.length {
            Some(length) if len > length => return Err(body_too_long().into()),
            Some(length) if len < length => return Err(body_too_short().into()),
            Some(_) | None => {}
        }
        self.response.body_bytes = len;
        let end = !self.response.has_trailers;
        self.send_descriptor(py, range.file.as_fd(), (range.offset, len), PayloadKind::Body { end })?;
        self.stage = if end { Stage::Ended } else { Stage::Trailing };
        range.count = Some(len);
        range.advance(len).map_err(PyErr::from)?;
        Ok(true)
    }
}

/// Duplicates the descriptor of a message: an `int`, or an object with `fileno()`.
fn duplicate(file: &Bound<'_, PyAny>) -> PyResult<File> {
    let py = file.py();
    let descriptor: i32 = if file.is_instance_of::<PyInt>() {
        file.extract()?
    } else {
        file.call_method0(intern!(py, "fileno"))?.extract()?
    };
    if descriptor < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF).into());
    }
    #[expect(unsafe_code, reason = "the descriptor belongs to a Python object")]
    // SAFETY: not -1; used for one system call, which fails if the application has closed it.
    let descriptor = unsafe { BorrowedFd::borrow_raw(descriptor) };
    Ok(descriptor.try_clone_to_owned()?.into())
}

/// Returns the number of bytes at a key; `None` if the key is missing or its value is None.
fn bytes_of(message: &Bound<'_, PyAny>, key: &str) -> PyResult<Option<u64>> {
    let name = pyo3::types::PyString::intern(message.py(), key);
    let Some(value) = item(message, &name)?.filter(|value| !value.is_none()) else { return Ok(None) };
    // No file has a larger offset (`off_t`).
    match value.extract::<i64>().map(u64::try_from) {
        Ok(Ok(bytes)) => Ok(Some(bytes)),
        Ok(Err(_)) => {
            Err(PyValueError::new_err(format!("http.response.zerocopysend: {key} is negative: {value}")))
        }
        Err(error) => Err(error),
    }
}

/// Reads at an offset. Returns the number of bytes; 0 at the end of the file.
fn read_at(file: &File, block: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(block, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}
