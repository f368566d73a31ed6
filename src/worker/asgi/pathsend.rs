//! Sends files: the extension "Path Send" of the ASGI HTTP specification. Called by
//! [`super::send`].
//!
//! The daemon gets the descriptor on the worker socket and sends the file itself.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use rgun_channel::control::{Report, send};
use rgun_channel::frame::{Body, UNTIL_EOF};

use super::response::{body_too_long, body_too_short};
use super::state::{ExchangeState, PayloadKind, Stage};
use crate::fault::Fault;
use crate::file_length::{has_bytes, trusted_length};

impl ExchangeState {
    /// Processes `http.response.pathsend`: sends the descriptor, then the frame that refers to it.
    pub(super) fn send_file(&mut self, py: Python<'_>, path: &Path) -> Result<(), Fault> {
        let file = open_regular_file(py, path)?;
        let len = self.file_length(py, &file)?;
        self.response.body_bytes = if len == UNTIL_EOF { 0 } else { len };
        let end = !self.response.has_trailers;
        let kind = PayloadKind::Body { end };
        if self.is_bodyless() || len == 0 {
            self.send_or_queue(py, None, 0, kind)?;
        } else {
            self.send_descriptor(py, file.as_fd(), (0, len), kind)?;
        }
        self.stage = if end { Stage::Ended } else { Stage::Trailing };
        Ok(())
    }

    /// Sends a descriptor, then the frame that refers to it. The range is the first byte and the
    /// number of bytes.
    pub(super) fn send_descriptor(
        &mut self,
        py: Python<'_>,
        file: BorrowedFd<'_>,
        (offset, len): (u64, u64),
        kind: PayloadKind,
    ) -> Result<(), Fault> {
        let message = Report::File(self.id).encode();
        let worker = self.application.worker;
        py.detach(|| send(worker.control, &message, &[file])).map_err(PyErr::from)?;
        Ok(self.send_payload(py, &Body::File { offset, len }, kind, true)?)
    }

    /// Returns the number of bytes of a file to send: the length in the head, even if the file has
    /// grown. If the head has no length, returns the file's length and adds it to the head, or
    /// returns [`UNTIL_EOF`] if it is unknown.
    fn file_length(&mut self, py: Python<'_>, file: &File) -> Result<u64, Fault> {
        let fd = file.as_fd();
        match self.response.head.length {
            Some(_) if self.is_bodyless() => Ok(0),
            // The application took the length from `stat`, which reports 0 for a file of procfs.
            Some(0) if has_unreported_content(py, file)? => Err(body_too_long().into()),
            Some(length) => {
                let has_enough =
                    has_bytes(py, fd, length).map_err(|errno| PyErr::from(io::Error::from(errno)))?;
                if has_enough { Ok(length) } else { Err(body_too_short().into()) }
            }
            None => match trusted_length(py, fd, 0) {
                Some(len) => {
                    self.announce_length(len)?;
                    Ok(len)
                }
                None if has_unreported_content(py, file)?
                    || file.metadata().map_err(PyErr::from)?.len() > 0 =>
                {
                    Ok(UNTIL_EOF)
                }
                None => {
                    self.announce_length(0)?;
                    Ok(0)
                }
            },
        }
    }

    /// Adds a Content-Length to the head, unless the head is sent or trailers follow.
    pub(super) fn announce_length(&mut self, len: u64) -> PyResult<()> {
        if self.response.has_trailers || self.response.is_head_sent {
            return Ok(());
        }
        self.response.head.add_content_length(len, &mut self.response.encoded_fields)
    }
}

/// Opens a regular file. Other kinds of files are refused without blocking: opening a FIFO would
/// wait for its writer.
fn open_regular_file(py: Python<'_>, path: &Path) -> PyResult<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|error| os_error(py, error, path))?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(PyValueError::new_err(format!("http.response.pathsend: {} is not a regular file", path.display())))
}

/// Returns the exception that Python's `open()` raises for this error: with `errno`, `strerror` and
/// `filename`.
fn os_error(py: Python<'_>, error: io::Error, path: &Path) -> PyErr {
    let Some(errno) = error.raw_os_error() else { return error.into() };
    let text = py.import(intern!(py, "os")).and_then(|os| os.call_method1(intern!(py, "strerror"), (errno,)));
    text.map_or_else(
        |error| error,
        |text| PyOSError::new_err((errno, text.unbind(), path.as_os_str().to_owned())),
    )
}

/// Returns whether the file has content although `stat` reports 0 bytes, as for files of procfs.
fn has_unreported_content(py: Python<'_>, file: &File) -> PyResult<bool> {
    if file.metadata()?.len() > 0 {
        return Ok(false);
    }
    let has_content = has_bytes(py, file.as_fd(), 1).map_err(io::Error::from)?;
    // Checked again: the first bytes may have been written in between.
    Ok(has_content && file.metadata()?.len() == 0)
}
