//! The life of a response, from the application's `start_response` call to the last frame.
//!
//! ```text
//!   Unstarted ──start_response──▶ Prepared ──first bytes──▶ Streaming ──▶ Ended ──▶ Done
//!                                     └───────── all at once ─────────────▶┘
//!   Cancelled: the client has disconnected; only DONE is sent
//! ```
//! The head goes out with the first body bytes (PEP 3333 "Handling the Content-Length Header" and
//! "The start_response() Callable"), so an error before them still becomes a 500. *Ended*: the
//! response is complete, but the application may still be running. *Done*: the slot is free.

use std::os::fd::AsFd;

use pyo3::prelude::*;
use pyo3::types::PyString;
use rgun_channel::ProtocolError;
use rgun_channel::control::{Report, send};
use rgun_channel::frame::{Body, Completion, CompletionKind, ExchangeId, Request};
use rgun_channel::layout::{MAX_INLINE_BODY, RESPONSE_WINDOW};

use super::application::WsgiApplication;
use super::file_wrapper::FileBody;
use super::head::HeadEncoder;
use super::misuse::{
    body_too_short, called_again, client_disconnected, response_complete, start_response_missing,
    warn_body_too_long,
};
use crate::fault::Fault;
use crate::head::{HEAD_OVERHEAD_BYTES, ResponseHead};
use crate::python::{FormattedError, exit_if_forked_child};
use crate::wait::{InterruptibleFutex, monotonic_ns};
use crate::worker::Worker;

/// Progress of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ResponseStage {
    /// `start_response` has not been called.
    Unstarted,
    /// The head is known; nothing is sent.
    Prepared,
    /// The head is sent, the body is not complete.
    Streaming,
    /// The whole response is sent.
    Ended,
    /// The client has disconnected.
    Cancelled,
    /// DONE is sent: the slot is free.
    Done,
}

/// Times of a finished exchange.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExchangeTiming {
    /// End (`CLOCK_MONOTONIC`, nanoseconds).
    pub(crate) ended_at: u64,
    /// Time in which the slot was occupied, nanoseconds.
    pub(crate) service: u64,
}

/// The response of one exchange. The slot's next exchange reuses it ([`Response::begin`]).
#[derive(Debug)]
pub(crate) struct Response {
    application: &'static WsgiApplication,
    slot: u32,
    exchange: ExchangeId,
    /// Start time, `CLOCK_MONOTONIC`, nanoseconds.
    started: u64,
    /// End time, on the same clock; equal to `started` until the exchange ends.
    ended_at: u64,
    /// The request's method is HEAD.
    is_for_head: bool,
    /// The application may have taken over the connection.
    may_take_over: bool,
    /// The application has ended in a way that is allowed after a takeover.
    ends_takeover: bool,
    stage: ResponseStage,
    head: ResponseHead,
    /// The reason phrase, unless it is canonical, then the encoded fields.
    fields: Vec<u8>,
    /// Body bytes received from the application, up to Content-Length.
    body_bytes: u64,
    /// Scratch: the frame being encoded.
    frame: Vec<u8>,
    /// Scratch: the chunks of the frame.
    chunks: Vec<(u32, u32)>,
}

impl Response {
    /// Creates the response of a slot; [`Response::begin`] begins an exchange.
    pub(crate) fn new(application: &'static WsgiApplication, slot: u32) -> Self {
        Self {
            application,
            slot,
            exchange: ExchangeId(0),
            started: 0,
            ended_at: 0,
            is_for_head: false,
            may_take_over: false,
            ends_takeover: false,
            stage: ResponseStage::Done,
            head: ResponseHead::default(),
            fields: Vec::new(),
            body_bytes: 0,
            frame: Vec::new(),
            chunks: Vec::new(),
        }
    }

    /// Begins an exchange.
    pub(crate) fn begin(&mut self, request: &Request<'_>, started: u64) {
        self.exchange = request.exchange;
        self.started = started;
        self.ended_at = started;
        self.is_for_head = request.method == b"HEAD";
        self.may_take_over = request.is_takeover();
        self.ends_takeover = false;
        self.stage = ResponseStage::Unstarted;
        self.head = ResponseHead::default();
        self.body_bytes = 0;
    }

    /// Returns the worker that serves the response.
    pub(crate) fn worker(&self) -> &'static Worker {
        self.application.worker
    }

    /// Returns whether the head has been sent.
    pub(crate) fn is_sent(&self) -> bool {
        self.stage > ResponseStage::Prepared
    }

    /// Returns whether a file may be sent as a descriptor: only if it is the whole body.
    pub(crate) fn can_send_file(&self) -> bool {
        self.stage == ResponseStage::Prepared
    }

    /// Returns end and duration of the exchange.
    pub(crate) fn timing(&self) -> ExchangeTiming {
        ExchangeTiming { ended_at: self.ended_at, service: self.ended_at.saturating_sub(self.started) }
    }

    /// Takes the head from `start_response`. With `replace`, an unsent head may be replaced.
    pub(crate) fn prepare(
        &mut self,
        py: Python<'_>,
        status: &Bound<'_, PyString>,
        headers: &Bound<'_, PyAny>,
        replace: bool,
    ) -> PyResult<()> {
        match self.stage {
            ResponseStage::Unstarted => {}
            ResponseStage::Prepared if replace => {}
            ResponseStage::Prepared | ResponseStage::Streaming => return Err(called_again()),
            ResponseStage::Cancelled => return Err(client_disconnected()),
            ResponseStage::Ended | ResponseStage::Done => return Err(response_complete()),
        }
        self.head =
            self.application.head_encoder.encode(py, status, headers, &mut self.fields, &mut self.frame)?;
        let max_frame = self.worker().start.geometry.max_completion_frame();
        if self.fields.len() + HEAD_OVERHEAD_BYTES > max_frame {
            return Err(pyo3::exceptions::PyValueError::new_err(format!(
                "the response's headers have {} bytes, more than the {} that fit",
                self.fields.len(),
                max_frame - HEAD_OVERHEAD_BYTES
            )));
        }
        self.stage = ResponseStage::Prepared;
        Ok(())
    }

    /// Sends a part of the body at once, the head before it.
    pub(crate) fn send_chunk(&mut self, py: Python<'_>, data: &[u8]) -> Result<ResponseStage, Fault> {
        match self.stage {
            ResponseStage::Unstarted => return Err(self.missing_head()),
            ResponseStage::Done => return Err(response_complete().into()),
            ResponseStage::Prepared
            | ResponseStage::Streaming
            | ResponseStage::Ended
            | ResponseStage::Cancelled => {}
        }
        // A disconnect before the head is sent is ignored: the daemon expects a head.
        if self.is_sent() && self.worker().is_cancelled(self.slot, self.exchange) {
            self.stage = ResponseStage::Cancelled;
        }
        if data.is_empty() || self.stage == ResponseStage::Cancelled {
            return Ok(self.stage);
        }
        let data = self.clip_to_length(py, data);
        if self.stage == ResponseStage::Ended {
            return Ok(self.stage);
        }
        // Ends the response as early as possible: the client need not wait for close().
        let end = self.is_bodyless() || self.head.length == Some(self.body_bytes);
        if end || !data.is_empty() {
            self.send_body(py, data, end, false)?;
            self.wake_daemon(end);
        }
        Ok(self.stage)
    }

    /// Wakes the daemon after a frame. The end of a response may wait for the daemon's next poll,
    /// which takes place every millisecond while the submission ring has records.
    fn wake_daemon(&self, end: bool) {
        let worker = self.worker();
        if !(end && worker.has_more()) {
            worker.output.wake_daemon();
        }
    }

    /// Ends a body that was sent in chunks. With `done`, ends the exchange.
    pub(crate) fn send_end(&mut self, py: Python<'_>, done: bool) -> Result<(), Fault> {
        match self.stage {
            ResponseStage::Unstarted => return Err(self.missing_head()),
            ResponseStage::Prepared | ResponseStage::Streaming => {
                self.check_length()?;
                self.send_body(py, &[], true, done)?;
                if !done {
                    self.wake_daemon(true);
                }
            }
            ResponseStage::Ended | ResponseStage::Cancelled if done => self.send_done(py)?,
            ResponseStage::Ended | ResponseStage::Cancelled | ResponseStage::Done => {}
        }
        Ok(())
    }

    /// Sends the whole body of an object without `close()`, and ends the exchange.
    pub(crate) fn send_whole(&mut self, py: Python<'_>, parts: &[&[u8]]) -> Result<(), Fault> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        if self.stage == ResponseStage::Prepared && !self.is_bodyless() && self.head.length.is_none() {
            if total > MAX_INLINE_BODY {
                self.head.add_content_length(total as u64, &mut self.fields)?;
            }
        } else if self.stage == ResponseStage::Prepared
            && self.is_for_head
            && self.head.length.is_none()
            && total > 0
        {
            // The length of the response to GET (RFC 9110 §9.3.2).
            self.head.add_content_length(total as u64, &mut self.fields)?;
        }
        if self.stage != ResponseStage::Prepared {
            // write() has already sent data, or start_response was not called.
            for part in parts {
                self.send_chunk(py, part)?;
            }
            return self.send_end(py, true);
        }
        if let [part] = parts {
            let part = self.clip_to_length(py, part);
            self.check_length()?;
            self.send_body(py, part, true, true)?;
        } else if total <= MAX_INLINE_BODY {
            let joined = parts.concat();
            let joined = self.clip_to_length(py, &joined);
            self.check_length()?;
            self.send_body(py, joined, true, true)?;
        } else {
            if let Some(length) = self.head.length
                && (total as u64) < length
                && !self.is_bodyless()
            {
                self.body_bytes = total as u64;
                self.check_length()?;
            }
            for part in parts {
                self.send_chunk(py, part)?;
            }
            self.send_end(py, true)?;
        }
        Ok(())
    }

    /// Sends a file as the body: the descriptor first, then the frame that refers to it.
    pub(crate) fn send_file(&mut self, py: Python<'_>, file: &FileBody<'_>) -> Result<(), Fault> {
        if self.head.length.is_none() {
            self.head.add_content_length(file.len, &mut self.fields)?;
        }
        // The file may have grown since its length was announced. If it has shrunk, this fails.
        let len = file.len.min(self.head.length.unwrap_or(file.len));
        self.body_bytes = len;
        self.check_length()?;
        if self.is_bodyless() || len == 0 {
            self.send_body(py, &[], true, false)?;
        } else {
            exit_if_forked_child(py, None);
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
            self.stage = ResponseStage::Ended;
        }
        self.worker().output.wake_daemon();
        Ok(())
    }

    /// Sends DONE: the slot is free.
    pub(crate) fn send_done(&mut self, py: Python<'_>) -> Result<(), ProtocolError> {
        if self.stage == ResponseStage::Done {
            return Ok(());
        }
        exit_if_forked_child(py, None);
        self.stage = ResponseStage::Ended;
        self.send_frame(py, CompletionKind::Body, 0, &Body::Inline(&[]), true, true)
    }

    /// Sends an error of the application. With `done`, ends the exchange.
    pub(crate) fn send_error(
        &mut self,
        py: Python<'_>,
        error: &FormattedError,
        done: bool,
    ) -> Result<(), ProtocolError> {
        if self.stage == ResponseStage::Cancelled {
            // Not reported: the disconnect may be the reason for the exception.
            return if done { self.send_done(py) } else { Ok(()) };
        }
        exit_if_forked_child(py, None);
        if done {
            self.record_end();
        }
        self.completion(CompletionKind::AppRaised, true, done).encode(0, &Body::Inline(&[]), &mut self.frame);
        error.as_app_error().encode(&mut self.frame);
        self.worker().output.push(py, self.worker(), &self.frame)?;
        self.worker().output.wake_daemon();
        self.stage = if done { ResponseStage::Done } else { ResponseStage::Ended };
        Ok(())
    }

    /// Records that the application has ended in a way that is allowed after a takeover.
    pub(crate) fn mark_takeover_end(&mut self) {
        self.ends_takeover = self.may_take_over;
    }

    /// Returns the fault for a missing head, which is allowed after a takeover.
    fn missing_head(&mut self) -> Fault {
        self.mark_takeover_end();
        start_response_missing()
    }

    /// Returns whether the response has no body (RFC 9110 §9.3.2).
    fn is_bodyless(&self) -> bool {
        self.is_for_head || self.head.has_no_content()
    }

    /// Counts body bytes, and cuts off those beyond Content-Length.
    fn clip_to_length<'d>(&mut self, py: Python<'_>, data: &'d [u8]) -> &'d [u8] {
        if self.is_bodyless() {
            return &[];
        }
        let Some(length) = self.head.length else {
            self.body_bytes += data.len() as u64;
            return data;
        };
        let room = usize::try_from(length - self.body_bytes).unwrap_or(usize::MAX);
        let clipped = &data[..data.len().min(room)];
        if clipped.len() < data.len() {
            warn_body_too_long(py, length);
        }
        self.body_bytes += clipped.len() as u64;
        clipped
    }

    /// Fails if the body is shorter than its Content-Length, unless the head names a file.
    fn check_length(&mut self) -> Result<(), Fault> {
        match self.head.length {
            Some(length) if self.body_bytes < length && !self.is_bodyless() => {
                if self.body_bytes == 0
                    && self.stage == ResponseStage::Prepared
                    && self.head.announce_named_file(&mut self.fields)?
                {
                    return Ok(());
                }
                Err(body_too_short(length, self.body_bytes))
            }
            _ => Ok(()),
        }
    }

    fn record_end(&mut self) {
        self.ended_at = monotonic_ns();
        self.worker().mark_idle(self.slot);
    }

    /// Returns the encoder that all slots share.
    pub(super) fn head_encoder(&self) -> &'static HeadEncoder {
        &self.application.head_encoder
    }

    pub(super) fn completion(&self, kind: CompletionKind, end: bool, done: bool) -> Completion {
        Completion {
            exchange: self.exchange,
            kind,
            end,
            done,
            text: false,
            more: false,
            ends_takeover: self.ends_takeover && kind == CompletionKind::AppRaised,
            status: if kind == CompletionKind::Respond { self.head.status } else { 0 },
            service: if done { self.ended_at.saturating_sub(self.started) } else { 0 },
            slot: u16::try_from(self.slot).unwrap_or(u16::MAX),
        }
    }

    /// Sends body bytes in one or more frames, the head with the first.
    fn send_body(&mut self, py: Python<'_>, data: &[u8], end: bool, done: bool) -> Result<(), ProtocolError> {
        exit_if_forked_child(py, None);
        let worker = self.worker();
        let max = worker.start.geometry.max_completion_frame();
        let mut rest = data;
        loop {
            let respond = self.stage == ResponseStage::Prepared;
            let (kind, fields) = if respond {
                (CompletionKind::Respond, self.fields.len())
            } else {
                (CompletionKind::Body, 0)
            };
            self.wait_for_credit(py);
            let fits = rest.len() <= MAX_INLINE_BODY && HEAD_OVERHEAD_BYTES + fields + rest.len() <= max;
            let mut chunks = std::mem::take(&mut self.chunks);
            let taken = if fits {
                worker.output.try_fill_chunk(rest, &mut chunks)?
            } else {
                worker.output.fill_chunks(py, worker, rest, &mut chunks)?
            };
            if taken == 0 {
                self.chunks = chunks;
                worker.count_sent(self.slot, rest.len() as u64);
                return self.send_frame(py, kind, fields, &Body::Inline(rest), end, done);
            }
            rest = &rest[taken..];
            worker.count_sent(self.slot, taken as u64);
            let last = rest.is_empty();
            let sent = self.send_frame(py, kind, fields, &Body::Chunks(&chunks), end && last, done && last);
            self.chunks = chunks;
            sent?;
            if last {
                return Ok(());
            }
            worker.output.wake_daemon();
        }
    }

    /// Sends one frame. `fields` is the number of bytes of encoded fields to include.
    fn send_frame(
        &mut self,
        py: Python<'_>,
        kind: CompletionKind,
        fields: usize,
        body: &Body<'_>,
        end: bool,
        done: bool,
    ) -> Result<(), ProtocolError> {
        if done {
            self.record_end();
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
            ResponseStage::Done
        } else if end {
            ResponseStage::Ended
        } else {
            ResponseStage::Streaming
        };
        Ok(())
    }

    /// Waits, without the GIL, while too much of the response is buffered in the daemon.
    fn wait_for_credit(&self, py: Python<'_>) {
        let worker = self.worker();
        if worker.unacked(self.slot) <= RESPONSE_WINDOW {
            return;
        }
        let slot = self.slot;
        py.detach(|| {
            worker.output.wake_daemon();
            worker
                .credit_flag(slot)
                .wait_until(&InterruptibleFutex(worker), || worker.unacked(slot) <= RESPONSE_WINDOW);
        });
    }
}
