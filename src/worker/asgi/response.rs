//! One response: from the application's messages to the frames that carry it.
//!
//! What finds no credit (the client is slow) or no chunk (the slab is lent out) stays in [`State::pending`] and goes
//! when the daemon rings; until then the application's next `send()` waits.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rgun_channel::ProtocolError;
use rgun_channel::control::{Report, send};
use rgun_channel::frame::{Body, Completion, CompletionKind, MAX_FIELDS, MESSAGE_COST, UNTIL_EOF};
use rgun_channel::layout::{CHUNK_BYTES, MAX_INLINE_BODY, RESPONSE_WINDOW};
use rgun_channel::ring::Position;

use super::state::{Carried, Exchange, Functions, Pending, Stage, State};
use crate::fault::Fault;
use crate::head::{HEAD_OVERHEAD_BYTES, ResponseHead};
use crate::python::FormattedError;
use crate::wait::monotonic_ns;
use crate::wsgi::file_wrapper::{has_bytes, trusted_length};

/// From this many bytes on, copying into the slab is done without the GIL.
const COPY_DETACHED: usize = 4 * CHUNK_BYTES;

/// A frame's, if it has none.
pub(super) const NO_FIELDS: (u16, &[u8]) = (0, &[]);

impl State {
    /// `http.response.start`: kept for the first part of the body, if that comes at once.
    pub(super) fn prepare(
        &mut self,
        py: Python<'_>,
        (head, fields): (ResponseHead, Vec<u8>),
        trailers: bool,
    ) -> PyResult<()> {
        self.set_head(head, fields)?;
        self.has_trailers = trailers;
        self.stage = Stage::Prepared;
        self.served.exchanges(py).heads.push(self.id);
        Ok(())
    }

    /// Keeps a head if its fields fit into a frame.
    pub(super) fn set_head(&mut self, head: ResponseHead, fields: Vec<u8>) -> PyResult<()> {
        let most = self.served.worker.start.geometry.max_completion_frame();
        if fields.len() + HEAD_OVERHEAD_BYTES > most {
            return Err(PyValueError::new_err(format!(
                "the response's headers have {} bytes, more than the {} that fit",
                fields.len(),
                most - HEAD_OVERHEAD_BYTES
            )));
        }
        (self.head, self.fields) = (head, fields);
        Ok(())
    }

    /// Sends the head alone.
    pub(super) fn send_head(&mut self, py: Python<'_>) -> Result<(), ProtocolError> {
        if self.stage != Stage::Prepared || self.is_head_sent || self.is_disconnected {
            return Ok(());
        }
        let has_all = matches!(self.head.status, 204 | 304) || self.head.length == Some(0);
        // The client of a HEAD has all of it, too. But what its application would send may have no end, so the daemon is
        // left to tell it that nobody listens.
        self.is_head_all = has_all && !self.is_head && !self.has_trailers;
        self.send_inline(py, &[], Carried::Body { end: self.is_head_all })
    }

    /// `http.response.body`.
    pub(super) fn body(
        &mut self,
        py: Python<'_>,
        bytes: Option<&Bound<'_, PyBytes>>,
        more: bool,
    ) -> Result<(), Fault> {
        let len = bytes.map_or(0, |bytes| bytes.as_bytes().len());
        let mut until = len;
        if self.has_no_body() {
            until = 0;
            if self.is_head && !self.is_head_sent && !more && self.head.length.is_none() && len > 0 {
                // What the answer to GET would say.
                self.head.add_content_length(len as u64, &mut self.fields)?;
            }
        } else if let Some(length) = self.head.length {
            if len as u64 > length - self.given {
                return Err(longer().into());
            }
            if !more && self.given + (len as u64) < length {
                // What has come is not sent either: it would only be reset.
                return Err(shorter().into());
            }
        } else if !self.is_head_sent && !more && len > MAX_INLINE_BODY && !self.has_trailers {
            self.head.add_content_length(len as u64, &mut self.fields)?;
        }
        self.given += until as u64;
        let end = !more && !self.has_trailers;
        self.pass_on(py, bytes, until, Carried::Body { end })?;
        self.stage = match more {
            true => Stage::Streaming,
            false if self.has_trailers => Stage::Trailing,
            false => Stage::Ended,
        };
        Ok(())
    }

    /// Sends, or begins to: small bodies straight from where they lie.
    pub(super) fn pass_on(
        &mut self,
        py: Python<'_>,
        bytes: Option<&Bound<'_, PyBytes>>,
        until: usize,
        carried: Carried,
    ) -> Result<(), ProtocolError> {
        let says_nothing = until == 0 && carried == (Carried::Body { end: false }) && self.is_head_sent;
        if says_nothing || self.is_head_all {
            return Ok(());
        }
        // An empty part sends the head, as with uvicorn.
        match bytes {
            Some(bytes) if until > 0 => {
                if self.fits_inline(until) && self.can_send() {
                    return self.send_inline(py, &bytes.as_bytes()[..until], carried);
                }
                self.pending = Some(Pending { bytes: bytes.clone().unbind(), at: 0, until, carried });
                self.pump(py)
            }
            _ => self.send_inline(py, &[], carried),
        }
    }

    /// Sends what waits, as far as there is credit and room.
    pub(super) fn pump(&mut self, py: Python<'_>) -> Result<(), ProtocolError> {
        let worker = self.served.worker;
        while let Some(Pending { bytes, at, until, carried }) = self.pending.take() {
            if self.is_disconnected {
                break;
            }
            // (The pending is taken out here.)
            if !self.can_send() {
                self.pending = Some(Pending { bytes, at, until, carried });
                break;
            }
            let rest = &bytes.bind(py).as_bytes()[at..until];
            if self.fits_inline(rest.len()) {
                self.send_inline(py, rest, carried)?;
                continue;
            }
            let mut chunks = Vec::new();
            let mut taken = if rest.len() >= COPY_DETACHED {
                py.detach(|| worker.output.try_fill_chunks(rest, &mut chunks))?
            } else {
                worker.output.try_fill_chunks(rest, &mut chunks)?
            };
            if taken == 0 {
                worker.output.space_flag().announce_wait();
                taken = worker.output.try_fill_chunks(rest, &mut chunks)?;
            }
            if taken == 0 {
                self.pending = Some(Pending { bytes, at, until, carried });
                break;
            }
            let is_last = at + taken == until;
            worker.count_sent(self.slot, taken as u64);
            self.send_part(py, &Body::Chunks(&chunks), carried, is_last)?;
            if !is_last {
                self.pending = Some(Pending { bytes, at: at + taken, until, carried });
            }
        }
        if self.stage == Stage::Ended && self.has_trailers && self.pending.is_none() && !self.is_disconnected
        {
            self.has_trailers = false;
            let fields = std::mem::take(&mut self.trailers);
            let body = Body::Inline(&[]);
            self.frame(py, CompletionKind::Trailers, (self.n_trailers, &fields), &body, true, false)?;
        }
        Ok(())
    }

    /// `http.response.pathsend`: the descriptor goes first, the frame that needs it after.
    pub(super) fn file(&mut self, py: Python<'_>, path: &Path) -> Result<(), Fault> {
        let file = open(path)?;
        let len = self.announce(py, &file)?;
        self.given = if len == UNTIL_EOF { 0 } else { len };
        let end = !self.has_trailers;
        let carried = Carried::Body { end };
        if self.has_no_body() || len == 0 {
            self.pass_on(py, None, 0, carried)?;
        } else {
            let message = Report::File(self.id).encode();
            let worker = self.served.worker;
            py.detach(|| send(worker.control, &message, &[file.as_fd()])).map_err(PyErr::from)?;
            self.send_part(py, &Body::File { offset: 0, len }, carried, true)?;
        }
        self.stage = if end { Stage::Ended } else { Stage::Trailing };
        Ok(())
    }

    /// How many bytes of a file are sent: what the head announces, even if the file has grown meanwhile; else all that
    /// there are, and the head announces that, if it can be known before.
    fn announce(&mut self, py: Python<'_>, file: &File) -> Result<u64, Fault> {
        let fd = file.as_fd();
        match self.head.length {
            Some(_) if self.has_no_body() => Ok(0),
            // A length that was taken from what `stat` says of a file that is made up as it is read.
            Some(0) if is_made_up(py, file)? => Err(longer().into()),
            Some(length) => {
                let has_all =
                    has_bytes(py, fd, length).map_err(|errno| PyErr::from(io::Error::from(errno)))?;
                if has_all { Ok(length) } else { Err(shorter().into()) }
            }
            None => match trusted_length(py, fd, 0) {
                Some(len) => {
                    if !self.has_trailers && !self.is_head_sent {
                        self.head.add_content_length(len, &mut self.fields)?;
                    }
                    Ok(len)
                }
                None if is_made_up(py, file)? || file.metadata().map_err(PyErr::from)?.len() > 0 => {
                    Ok(UNTIL_EOF)
                }
                None => {
                    if !self.has_trailers && !self.is_head_sent {
                        self.head.add_content_length(0, &mut self.fields)?;
                    }
                    Ok(0)
                }
            },
        }
    }

    /// `http.response.early_hint`.
    pub(super) fn hint(&mut self, py: Python<'_>, n_fields: u16, fields: &[u8]) -> Result<(), Fault> {
        if fields.len() + HEAD_OVERHEAD_BYTES > self.served.worker.start.geometry.max_completion_frame() {
            return Err(PyValueError::new_err("http.response.early_hint: the links are too long").into());
        }
        Ok(self.frame(
            py,
            CompletionKind::EarlyHints,
            (n_fields, fields),
            &Body::Inline(&[]),
            false,
            false,
        )?)
    }

    /// `http.response.trailers`: kept until the last of them.
    pub(super) fn trailers(
        &mut self,
        py: Python<'_>,
        n_fields: u16,
        fields: &[u8],
        more: bool,
    ) -> Result<(), Fault> {
        let most = self.served.worker.start.geometry.max_completion_frame();
        let n_trailers = self.n_trailers + n_fields;
        if self.trailers.len() + fields.len() + HEAD_OVERHEAD_BYTES > most || n_trailers > MAX_FIELDS {
            return Err(PyValueError::new_err("http.response.trailers: they are too long").into());
        }
        self.trailers.extend_from_slice(fields);
        self.n_trailers = n_trailers;
        if !more {
            self.stage = Stage::Ended;
            self.pump(py)?;
        }
        Ok(())
    }

    /// The application has returned, or is at fault; what is left over is for the caller to drop.
    pub(super) fn finish(
        &mut self,
        py: Python<'_>,
        fault: Option<&FormattedError>,
    ) -> Result<Option<Leftover>, ProtocolError> {
        if self.stage == Stage::Done {
            return Ok(Some(Leftover::default()));
        }
        let pending = if let Some(described) = fault {
            let pending = self.pending.take();
            self.served.worker.mark_idle(self.slot);
            let mut scratch = self.served.scratch.take(py);
            self.completion(CompletionKind::AppRaised, true, true).encode(
                0,
                &Body::Inline(&[]),
                &mut scratch,
            );
            described.as_app_error().encode(&mut scratch);
            let pushed = self.served.outbox.push(&self.served.worker.output, &scratch);
            self.served.scratch.put(py, scratch);
            pushed?;
            pending
        } else {
            self.pump(py)?;
            if self.pending.is_some() {
                self.ends_later = true;
                return Ok(None);
            }
            self.served.worker.mark_idle(self.slot);
            if self.ended_at.take().is_some_and(|at| self.served.worker.output.mark_done(at)) {
                self.stage = Stage::Done;
                return Ok(Some(self.over(py, None)));
            }
            // What the application has left open is closed normally.
            let (kind, status) = match self.stage {
                Stage::Open if !self.is_disconnected => (CompletionKind::Close, 1000),
                _ => (CompletionKind::Body, 0),
            };
            let last = Completion { status, ..self.completion(kind, true, true) };
            self.push(py, &last, NO_FIELDS, &Body::Inline(&[]))?;
            None
        };
        self.stage = Stage::Done;
        Ok(Some(self.over(py, pending)))
    }

    /// It is done, and gives up what it has.
    fn over(&mut self, py: Python<'_>, pending: Option<Pending>) -> Leftover {
        // Nobody can receive it any more; and a spare would keep it.
        let parts = std::mem::take(&mut self.body.parts);
        let (itself, functions) = self.served.remove(py, (self.id, self.slot), self.functions.take());
        Leftover { task: self.task.take(), pending, parts, itself, functions }
    }

    /// HEAD, 204 and 304 have no body (RFC 9110 §9.3.2, §15.3.5, §15.4.5).
    fn has_no_body(&self) -> bool {
        self.is_head || matches!(self.head.status, 204 | 304)
    }

    /// May more be sent, as far as the client is concerned? If not, the daemon has been told to ring.
    fn has_credit(&self) -> bool {
        let (worker, slot) = (self.served.worker, self.slot);
        if worker.unacked(slot) <= RESPONSE_WINDOW {
            return true;
        }
        worker.credit_flag(slot).announce_wait();
        worker.unacked(slot) <= RESPONSE_WINDOW
    }

    /// May a `send()` begin?
    pub(super) fn can_send(&self) -> bool {
        self.pending.is_none() && !self.served.outbox.is_backed_up() && self.has_credit()
    }

    fn fits_inline(&self, len: usize) -> bool {
        len <= MAX_INLINE_BODY
            && HEAD_OVERHEAD_BYTES + self.fields.len() + len
                <= self.served.worker.start.geometry.max_completion_frame()
    }

    pub(super) fn send_inline(
        &mut self,
        py: Python<'_>,
        bytes: &[u8],
        carried: Carried,
    ) -> Result<(), ProtocolError> {
        if !bytes.is_empty() {
            self.served.worker.count_sent(self.slot, bytes.len() as u64);
        }
        self.send_part(py, &Body::Inline(bytes), carried, true)
    }

    /// One frame of body, with the head if that has not been sent; or one of a message.
    fn send_part(
        &mut self,
        py: Python<'_>,
        body: &Body<'_>,
        carried: Carried,
        is_last: bool,
    ) -> Result<(), ProtocolError> {
        let end = match carried {
            Carried::Body { end } => end && is_last,
            Carried::Message { text } => {
                self.served.worker.count_sent(self.slot, MESSAGE_COST);
                let frame = self.completion(CompletionKind::Body, false, false);
                return self
                    .push(py, &Completion { text, more: !is_last, ..frame }, NO_FIELDS, body)
                    .map(drop);
            }
        };
        let at = if self.is_head_sent {
            self.push(py, &self.completion(CompletionKind::Body, end, false), NO_FIELDS, body)?
        } else {
            self.is_head_sent = true;
            self.served.exchanges(py).heads.remove(self.id);
            let mut fields = std::mem::take(&mut self.fields);
            let head = self.completion(CompletionKind::Respond, end, false);
            let at = self.push(py, &head, (self.head.n_fields, &fields), body)?;
            // Room for the next exchange's.
            fields.clear();
            self.fields = fields;
            at
        };
        if end {
            self.ended_at = at;
            self.served.outbox.tell(&self.served.worker.output);
        }
        Ok(())
    }

    /// One frame.
    pub(super) fn frame(
        &self,
        py: Python<'_>,
        kind: CompletionKind,
        fields: (u16, &[u8]),
        body: &Body<'_>,
        end: bool,
        done: bool,
    ) -> Result<(), ProtocolError> {
        self.push(py, &self.completion(kind, end, done), fields, body).map(drop)
    }

    pub(super) fn push(
        &self,
        py: Python<'_>,
        completion: &Completion,
        (n_fields, fields): (u16, &[u8]),
        body: &Body<'_>,
    ) -> Result<Option<Position>, ProtocolError> {
        let mut frame = self.served.scratch.take(py);
        completion.encode(n_fields, body, &mut frame);
        frame.extend_from_slice(fields);
        body.encode(&mut frame);
        let pushed = self.served.outbox.push(&self.served.worker.output, &frame);
        self.served.scratch.put(py, frame);
        pushed
    }

    pub(super) fn completion(&self, kind: CompletionKind, end: bool, done: bool) -> Completion {
        Completion {
            exchange: self.id,
            kind,
            end,
            done,
            text: false,
            more: false,
            status: if kind == CompletionKind::Respond { self.head.status } else { 0 },
            service: if done { monotonic_ns().saturating_sub(self.started) } else { 0 },
            slot: u16::try_from(self.slot).unwrap_or(u16::MAX),
        }
    }
}

/// What an exchange held when it ended; dropped when nothing of it is borrowed, since that may run code of others.
#[derive(Debug, Default)]
#[expect(dead_code, reason = "only to be dropped")]
pub(super) struct Leftover {
    task: Option<Py<PyAny>>,
    pending: Option<Pending>,
    parts: VecDeque<Py<PyBytes>>,
    itself: Option<Py<Exchange>>,
    functions: Option<Functions>,
}

/// Opens a file that is to be sent. What is none could hold up the event loop: opening a FIFO waits for its writer.
fn open(path: &Path) -> PyResult<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(PyValueError::new_err(format!("http.response.pathsend: {} is not a regular file", path.display())))
}

/// Is a file empty only if one believes `stat`, as those of procfs are?
fn is_made_up(py: Python<'_>, file: &File) -> PyResult<bool> {
    if file.metadata()?.len() > 0 {
        return Ok(false);
    }
    let has_some = has_bytes(py, file.as_fd(), 1).map_err(io::Error::from)?;
    // It may just have got its first bytes.
    Ok(has_some && file.metadata()?.len() == 0)
}

fn longer() -> PyErr {
    PyRuntimeError::new_err("Response content longer than Content-Length")
}

fn shorter() -> PyErr {
    PyRuntimeError::new_err("Response content shorter than Content-Length")
}
