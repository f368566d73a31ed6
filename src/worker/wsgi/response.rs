//! One response: from the head the application gave to the frames that carry it.
//!
//! ```text
//!   Unstarted ──start_response──▶ Prepared ──first bytes──▶ Streaming ──▶ Ended ──▶ Done
//!                                     └───────── all at once ─────────────▶┘
//!   Abandoned: the client has gone; nothing more is sent but DONE
//! ```
//! The head goes out with the first body bytes (PEP 3333 "Handling the Content-Length Header" and "The
//! start_response() Callable"), so that an error before them still becomes a 500. *Ended*: the client has
//! all of it, the application may still be at work. *Done*: the slot is free.

use std::os::fd::AsFd;
use std::sync::atomic::AtomicBool;

use pyo3::exceptions::{PyAssertionError, PyBrokenPipeError, PyRuntimeError};
use pyo3::prelude::*;
use pyo3::types::PyString;
use rgun_channel::ProtocolError;
use rgun_channel::control::{Report, send};
use rgun_channel::frame::{Body, Completion, CompletionKind, ExchangeId, Request};
use rgun_channel::layout::{MAX_INLINE_BODY, RESPONSE_WINDOW};

use super::application::Application;
use super::file_wrapper::File;
use crate::fault::Fault;
use crate::head::{HEAD_ROOM, Head};
use crate::python::{Described, is_forked_child, leave_forked_child, warn_once};
use crate::wait::{InterruptibleFutex, now};
use crate::worker::Worker;

/// How far a response is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// `start_response` has not been called.
    Unstarted,
    /// It has; nothing is sent.
    Prepared,
    /// The head is sent, the body is not complete.
    Streaming,
    /// All is sent.
    Ended,
    /// The client has gone.
    Abandoned,
    /// The slot is given back.
    Done,
}

/// What the loop learns about an exchange that is over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Finished {
    /// When (`CLOCK_MONOTONIC`, nanoseconds).
    pub(crate) at: u64,
    /// How long the slot was taken, nanoseconds.
    pub(crate) service: u64,
}

/// The response of one exchange. Reused by the slot's next exchange ([`Response::open`]).
#[derive(Debug)]
pub(crate) struct Response {
    served: &'static Application,
    slot: u32,
    exchange: ExchangeId,
    started: u64,
    finished: u64,
    is_head: bool,
    stage: Stage,
    head: Head,
    /// The reason phrase, if it is to be sent, and the encoded fields.
    fields: Vec<u8>,
    /// Body bytes taken from the application.
    given: u64,
    /// Scratch: the frame that is being made.
    frame: Vec<u8>,
    /// Scratch: its chunks.
    chunks: Vec<(u32, u32)>,
}

impl Response {
    /// For a slot; [`Response::open`] begins an exchange.
    pub(crate) fn new(served: &'static Application, slot: u32) -> Self {
        Self {
            served,
            slot,
            exchange: ExchangeId(0),
            started: 0,
            finished: 0,
            is_head: false,
            stage: Stage::Done,
            head: Head::default(),
            fields: Vec::new(),
            given: 0,
            frame: Vec::new(),
            chunks: Vec::new(),
        }
    }

    /// Begins an exchange.
    pub(crate) fn open(&mut self, request: &Request<'_>, started: u64) {
        self.exchange = request.exchange;
        self.started = started;
        self.finished = started;
        self.is_head = request.method == b"HEAD";
        self.stage = Stage::Unstarted;
        self.head = Head::default();
        self.given = 0;
    }

    /// The worker.
    pub(crate) fn worker(&self) -> &'static Worker {
        self.served.worker
    }

    /// Has the head been sent?
    pub(crate) fn is_sent(&self) -> bool {
        self.stage > Stage::Prepared
    }

    /// A file goes by descriptor only if it is the body from its first byte on.
    pub(crate) fn can_send_file(&self) -> bool {
        self.stage == Stage::Prepared
    }

    /// When the exchange was over, and how long it took.
    pub(crate) fn finished(&self) -> Finished {
        Finished { at: self.finished, service: self.finished.saturating_sub(self.started) }
    }

    /// `start_response`: takes the head, or another one if `replace` and none has been sent.
    pub(crate) fn prepare(
        &mut self,
        py: Python<'_>,
        status: &Bound<'_, PyString>,
        headers: &Bound<'_, PyAny>,
        replace: bool,
    ) -> PyResult<()> {
        match self.stage {
            Stage::Unstarted => {}
            Stage::Prepared if replace => {}
            Stage::Prepared | Stage::Streaming => {
                return Err(PyAssertionError::new_err(
                    "start_response() was called again without exc_info (PEP 3333)",
                ));
            }
            Stage::Abandoned => return Err(gone()),
            Stage::Ended | Stage::Done => return Err(too_late()),
        }
        self.head = self.served.heads.encode(py, status, headers, &mut self.fields, &mut self.frame)?;
        let most = self.worker().start.geometry.max_completion_frame();
        if self.fields.len() + HEAD_ROOM > most {
            return Err(pyo3::exceptions::PyValueError::new_err(format!(
                "the response's headers have {} bytes, more than the {} that fit",
                self.fields.len(),
                most - HEAD_ROOM
            )));
        }
        self.stage = Stage::Prepared;
        Ok(())
    }

    /// A part of the body, sent at once with the head before it.
    pub(crate) fn chunk(&mut self, py: Python<'_>, data: &[u8]) -> Result<Stage, Fault> {
        match self.stage {
            Stage::Unstarted => return Err(never_started()),
            Stage::Done => return Err(too_late().into()),
            Stage::Prepared | Stage::Streaming | Stage::Ended | Stage::Abandoned => {}
        }
        // Not before the head: a frame without one would not be an answer.
        if self.is_sent() && self.worker().is_abandoned(self.slot, self.exchange) {
            self.stage = Stage::Abandoned;
        }
        if data.is_empty() || self.stage == Stage::Abandoned {
            return Ok(self.stage);
        }
        let data = self.take(py, data);
        if self.stage == Stage::Ended {
            return Ok(self.stage);
        }
        // All that was promised (or all that may be sent): the client need not wait for close().
        let end = self.has_no_body() || self.head.length == Some(self.given);
        if end || !data.is_empty() {
            self.send(py, data, end, false)?;
            self.ring(end);
        }
        Ok(self.stage)
    }

    /// Rings for what has been sent. The end of a response may wait for its DONE, a `close()` away, if the daemon
    /// has given work ahead of time: then it ticks, so that a long `close()` holds nothing up for more than that.
    fn ring(&self, end: bool) {
        let worker = self.worker();
        if !(end && worker.has_more()) {
            worker.output.ring();
        }
    }

    /// The end of the body that came in chunks.
    pub(crate) fn end(&mut self, py: Python<'_>, done: bool) -> Result<(), Fault> {
        match self.stage {
            Stage::Unstarted => return Err(never_started()),
            Stage::Prepared | Stage::Streaming => {
                self.check_length()?;
                self.send(py, &[], true, done)?;
                if !done {
                    self.ring(true);
                }
            }
            Stage::Ended | Stage::Abandoned if done => self.done(py)?,
            Stage::Ended | Stage::Abandoned | Stage::Done => {}
        }
        Ok(())
    }

    /// All of the body at once, from an object without `close()`: ends the exchange.
    pub(crate) fn whole(&mut self, py: Python<'_>, parts: &[&[u8]]) -> Result<(), Fault> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        if self.stage == Stage::Prepared && !self.has_no_body() && self.head.length.is_none() {
            if total > MAX_INLINE_BODY {
                self.head.add_length(total as u64, &mut self.fields)?;
            }
        } else if self.stage == Stage::Prepared && self.is_head && self.head.length.is_none() && total > 0 {
            // What the answer to GET would say.
            self.head.add_length(total as u64, &mut self.fields)?;
        }
        if self.stage != Stage::Prepared {
            // write() was used before, or start_response was not.
            for part in parts {
                self.chunk(py, part)?;
            }
            return self.end(py, true);
        }
        if let [part] = parts {
            let part = self.take(py, part);
            self.check_length()?;
            self.send(py, part, true, true)?;
        } else if total <= MAX_INLINE_BODY {
            let joined = parts.concat();
            let joined = self.take(py, &joined);
            self.check_length()?;
            self.send(py, joined, true, true)?;
        } else {
            if let Some(length) = self.head.length
                && (total as u64) < length
                && !self.has_no_body()
            {
                self.given = total as u64;
                self.check_length()?;
            }
            for part in parts {
                self.chunk(py, part)?;
            }
            self.end(py, true)?;
        }
        Ok(())
    }

    /// A file instead of a body ([`Response::can_send_file`]): its descriptor goes first, the frame that needs it after.
    pub(crate) fn file(&mut self, py: Python<'_>, file: &File<'_>) -> Result<(), Fault> {
        if self.head.length.is_none() {
            self.head.add_length(file.len, &mut self.fields)?;
        }
        // A file may have grown since its length was announced; if it has shrunk, that is said before anything is sent.
        let len = file.len.min(self.head.length.unwrap_or(file.len));
        self.given = len;
        self.check_length()?;
        if self.has_no_body() || len == 0 {
            self.send(py, &[], true, false)?;
        } else {
            in_the_worker(py);
            let message = Report::File(self.exchange).encode();
            let worker = self.worker();
            py.detach(|| send(worker.control, &message, &[file.descriptor.as_fd()])).map_err(PyErr::from)?;
            let body = Body::File { offset: file.offset, len };
            self.completion(CompletionKind::Respond, true, false).encode_with_reason(
                self.head.reason_len,
                self.head.n_fields,
                &body,
                &mut self.frame,
            );
            self.frame.extend_from_slice(&self.fields);
            body.encode(&mut self.frame);
            worker.output.push(py, worker, &self.frame)?;
            self.stage = Stage::Ended;
        }
        self.worker().output.ring();
        Ok(())
    }

    /// The slot is free.
    pub(crate) fn done(&mut self, py: Python<'_>) -> Result<(), ProtocolError> {
        if self.stage == Stage::Done {
            return Ok(());
        }
        in_the_worker(py);
        self.stage = Stage::Ended;
        self.part(py, CompletionKind::Body, 0, &Body::Inline(&[]), true, true)
    }

    /// The application failed. Whether that is a 500, a reset or a log entry is the daemon's to see.
    pub(crate) fn raise(
        &mut self,
        py: Python<'_>,
        described: &Described,
        done: bool,
    ) -> Result<(), ProtocolError> {
        if self.stage == Stage::Abandoned {
            // An application that notices that its client has gone may raise; nobody is to be told.
            return if done { self.done(py) } else { Ok(()) };
        }
        in_the_worker(py);
        if done {
            self.finish();
        }
        self.completion(CompletionKind::AppRaised, true, done).encode(0, &Body::Inline(&[]), &mut self.frame);
        described.as_error().encode(&mut self.frame);
        self.worker().output.push(py, self.worker(), &self.frame)?;
        self.worker().output.ring();
        self.stage = if done { Stage::Done } else { Stage::Ended };
        Ok(())
    }

    /// HEAD, 204 and 304 have no body (RFC 9110 §9.3.2, §15.3.5, §15.4.5).
    fn has_no_body(&self) -> bool {
        self.is_head || matches!(self.head.status, 204 | 304)
    }

    /// Counts body bytes, and cuts off what is beyond Content-Length.
    fn take<'d>(&mut self, py: Python<'_>, data: &'d [u8]) -> &'d [u8] {
        if self.has_no_body() {
            return &[];
        }
        let Some(length) = self.head.length else {
            self.given += data.len() as u64;
            return data;
        };
        let room = usize::try_from(length - self.given).unwrap_or(usize::MAX);
        let taken = &data[..data.len().min(room)];
        if taken.len() < data.len() {
            static SAID: AtomicBool = AtomicBool::new(false);
            let text = format!(
                "the application gave more body than its Content-Length of {length}; the rest is cut off, said once"
            );
            warn_once(py, &SAID, &text);
        }
        self.given += taken.len() as u64;
        taken
    }

    /// Fewer bytes than promised must not look complete.
    fn check_length(&self) -> Result<(), Fault> {
        match self.head.length {
            Some(length) if self.given < length && !self.has_no_body() => Err(Fault::App(Described::plain(
                format!("the application promised {length} bytes of body and sent {}", self.given),
            ))),
            _ => Ok(()),
        }
    }

    fn finish(&mut self) {
        self.finished = now();
        self.worker().mark_idle(self.slot);
    }

    fn completion(&self, kind: CompletionKind, end: bool, done: bool) -> Completion {
        Completion {
            exchange: self.exchange,
            kind,
            end,
            done,
            text: false,
            more: false,
            status: if kind == CompletionKind::Respond { self.head.status } else { 0 },
            service: if done { self.finished.saturating_sub(self.started) } else { 0 },
            slot: u16::try_from(self.slot).unwrap_or(u16::MAX),
        }
    }

    /// Sends body bytes in as many frames as they need, the head with the first.
    fn send(&mut self, py: Python<'_>, data: &[u8], end: bool, done: bool) -> Result<(), ProtocolError> {
        in_the_worker(py);
        let worker = self.worker();
        let most = worker.start.geometry.max_completion_frame();
        let mut rest = data;
        loop {
            let respond = self.stage == Stage::Prepared;
            let (kind, fields) = if respond {
                (CompletionKind::Respond, self.fields.len())
            } else {
                (CompletionKind::Body, 0)
            };
            self.wait_for_credit(py);
            if rest.len() <= MAX_INLINE_BODY && HEAD_ROOM + fields + rest.len() <= most {
                worker.count_sent(self.slot, rest.len() as u64);
                return self.part(py, kind, fields, &Body::Inline(rest), end, done);
            }
            let mut chunks = std::mem::take(&mut self.chunks);
            let taken = worker.output.fill(py, worker, rest, &mut chunks)?;
            rest = &rest[taken..];
            worker.count_sent(self.slot, taken as u64);
            let last = rest.is_empty();
            let sent = self.part(py, kind, fields, &Body::Chunks(&chunks), end && last, done && last);
            self.chunks = chunks;
            sent?;
            if last {
                return Ok(());
            }
            worker.output.ring();
        }
    }

    /// One frame.
    fn part(
        &mut self,
        py: Python<'_>,
        kind: CompletionKind,
        fields: usize,
        body: &Body<'_>,
        end: bool,
        done: bool,
    ) -> Result<(), ProtocolError> {
        if done {
            self.finish();
        }
        let (reason_len, n_fields) = match kind {
            CompletionKind::Respond => (self.head.reason_len, self.head.n_fields),
            _ => (0, 0),
        };
        self.completion(kind, end, done).encode_with_reason(reason_len, n_fields, body, &mut self.frame);
        self.frame.extend_from_slice(&self.fields[..fields]);
        body.encode(&mut self.frame);
        self.worker().output.push(py, self.worker(), &self.frame)?;
        self.stage = if done {
            Stage::Done
        } else if end {
            Stage::Ended
        } else {
            Stage::Streaming
        };
        Ok(())
    }

    /// Waits, without the GIL, while the client is slow.
    fn wait_for_credit(&self, py: Python<'_>) {
        let worker = self.worker();
        if worker.unacked(self.slot) <= RESPONSE_WINDOW {
            return;
        }
        let slot = self.slot;
        py.detach(|| {
            worker.output.ring();
            worker
                .wants_credit(slot)
                .wait_until(&InterruptibleFutex(worker), || worker.unacked(slot) <= RESPONSE_WINDOW);
        });
    }
}

/// The channel is the worker's own: before anything is sent, or a lock is taken that another thread may
/// have held when the application forked.
fn in_the_worker(py: Python<'_>) {
    if is_forked_child() {
        leave_forked_child(py, None);
    }
}

fn never_started() -> Fault {
    Fault::App(Described::plain("the application gave a body without calling start_response() (PEP 3333)"))
}

fn too_late() -> PyErr {
    PyRuntimeError::new_err("the response is complete; start_response() and write() belong to one request")
}

/// What `write()` raises when nobody is there to read.
pub(crate) fn gone() -> PyErr {
    PyBrokenPipeError::new_err("the client has gone")
}
