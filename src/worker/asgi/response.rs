//! Encodes responses and WebSocket messages as frames.
//!
//! A payload without credit (the client is slow) or chunks (the slab is full) stays in
//! [`ResponseState::pending`](super::state::ResponseState::pending) and is sent when the daemon
//! wakes the loop; until then the next `send()` of the application waits.

use std::collections::VecDeque;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rgun_channel::ProtocolError;
use rgun_channel::frame::{Body, Completion, CompletionKind, MAX_FIELDS, MESSAGE_COST};
use rgun_channel::layout::{MAX_INLINE_BODY, RESPONSE_WINDOW};
use rgun_channel::ring::Position;

use super::state::{Exchange, ExchangeState, Functions, PayloadKind, Pending, ResponseState, Stage};
use crate::fault::Fault;
use crate::head::{HEAD_OVERHEAD_BYTES, ResponseHead};
use crate::output::{DETACHED_COPY_BYTES, MIN_CHUNK_PAYLOAD};
use crate::python::FormattedError;
use crate::wait::monotonic_ns;

/// Number and encoding of the fields of a frame without fields.
pub(super) const NO_FIELDS: (u16, &[u8]) = (0, &[]);

impl ExchangeState {
    /// Processes `http.response.start`: keeps the head for the first part of the body.
    pub(super) fn prepare(
        &mut self,
        py: Python<'_>,
        (head, fields): (ResponseHead, Vec<u8>),
        trailers: bool,
    ) -> PyResult<()> {
        self.set_head(head, fields)?;
        self.response.has_trailers = trailers;
        self.stage = Stage::Prepared;
        self.application.exchanges(py).heads.push(self.id);
        Ok(())
    }

    /// Stores a head if its fields fit into a frame.
    pub(super) fn set_head(&mut self, head: ResponseHead, fields: Vec<u8>) -> PyResult<()> {
        let max_frame = self.application.worker.start.geometry.max_completion_frame();
        if fields.len() + HEAD_OVERHEAD_BYTES > max_frame {
            return Err(PyValueError::new_err(format!(
                "the response's headers have {} bytes, more than the {} that fit",
                fields.len(),
                max_frame - HEAD_OVERHEAD_BYTES
            )));
        }
        (self.response.head, self.response.encoded_fields) = (head, fields);
        Ok(())
    }

    /// Sends the head without body, unless it is sent or the client has disconnected.
    pub(super) fn send_head(&mut self, py: Python<'_>) -> Result<(), ProtocolError> {
        if self.stage != Stage::Prepared || self.response.is_head_sent || self.is_disconnected {
            return Ok(());
        }
        let is_complete =
            matches!(self.response.head.status, 204 | 304) || self.response.head.length == Some(0);
        // Not for HEAD: the application may send an endless body, and only the daemon's disconnect
        // ends it.
        self.response.ends_with_head =
            is_complete && !self.response.is_for_head && !self.response.has_trailers;
        self.send_inline(py, &[], PayloadKind::Body { end: self.response.ends_with_head })
    }

    /// Processes `http.response.body`.
    pub(super) fn send_body(
        &mut self,
        py: Python<'_>,
        bytes: Option<&Bound<'_, PyBytes>>,
        more: bool,
    ) -> Result<(), Fault> {
        let len = bytes.map_or(0, |bytes| bytes.as_bytes().len());
        let mut end = len;
        if self.is_bodyless() {
            end = 0;
            if self.response.is_for_head
                && !self.response.is_head_sent
                && !more
                && self.response.head.length.is_none()
                && len > 0
            {
                // The length of the response to GET (RFC 9110 §9.3.2).
                self.response.head.add_content_length(len as u64, &mut self.response.encoded_fields)?;
            }
        } else if let Some(length) = self.response.head.length {
            if len as u64 > length - self.response.body_bytes {
                return Err(body_too_long().into());
            }
            if !more && self.response.body_bytes + (len as u64) < length && !self.announce_file(len)? {
                // The part is not sent, because the response is reset anyway.
                return Err(body_too_short().into());
            }
        } else if !self.response.is_head_sent && !more && len > MAX_INLINE_BODY && !self.response.has_trailers
        {
            self.response.head.add_content_length(len as u64, &mut self.response.encoded_fields)?;
        }
        self.response.body_bytes += end as u64;
        let kind = PayloadKind::Body { end: !more && !self.response.has_trailers };
        self.send_or_queue(py, bytes, end, kind)?;
        self.stage = match more {
            true => Stage::Streaming,
            false if self.response.has_trailers => Stage::Trailing,
            false => Stage::Ended,
        };
        Ok(())
    }

    /// Replaces the announced length with 0 if the body is empty because the head names a file.
    /// `len` is the length of the body. Returns whether the length was replaced.
    fn announce_file(&mut self, len: usize) -> PyResult<bool> {
        let ResponseState { head, encoded_fields, is_head_sent, .. } = &mut self.response;
        Ok(len == 0 && !*is_head_sent && head.announce_named_file(encoded_fields)?)
    }

    /// Sends `bytes[..end]`, or as much of it as there is credit and space for; the rest becomes
    /// pending. Sends small payloads without storing them.
    pub(super) fn send_or_queue(
        &mut self,
        py: Python<'_>,
        bytes: Option<&Bound<'_, PyBytes>>,
        end: usize,
        kind: PayloadKind,
    ) -> Result<(), ProtocolError> {
        let is_noop = end == 0 && kind == (PayloadKind::Body { end: false }) && self.response.is_head_sent;
        if is_noop || self.response.ends_with_head {
            return Ok(());
        }
        // An empty part sends the head, as in uvicorn.
        match bytes {
            Some(bytes) if end > 0 => {
                if end < MIN_CHUNK_PAYLOAD && self.fits_inline(end) && self.can_send() {
                    return self.send_inline(py, &bytes.as_bytes()[..end], kind);
                }
                self.response.pending = Some(Pending { bytes: bytes.clone().unbind(), start: 0, end, kind });
                self.flush_pending(py)
            }
            _ => self.send_inline(py, &[], kind),
        }
    }

    /// Sends the pending payload while there is credit and space, then the trailers once the body
    /// is complete.
    pub(super) fn flush_pending(&mut self, py: Python<'_>) -> Result<(), ProtocolError> {
        let worker = self.application.worker;
        while let Some(Pending { bytes, start, end, kind }) = self.response.pending.take() {
            if self.is_disconnected {
                break;
            }
            // `pending` is empty here, so only credit and ring space decide.
            if !self.can_send() {
                self.response.pending = Some(Pending { bytes, start, end, kind });
                break;
            }
            let rest = &bytes.bind(py).as_bytes()[start..end];
            let (fits, mut chunks) = (self.fits_inline(rest.len()), Vec::new());
            let mut taken = if fits {
                worker.output.try_fill_chunk(rest, &mut chunks)?
            } else if rest.len() >= DETACHED_COPY_BYTES {
                py.detach(|| worker.output.try_fill_chunks(rest, &mut chunks))?
            } else {
                worker.output.try_fill_chunks(rest, &mut chunks)?
            };
            if fits && taken == 0 {
                self.send_inline(py, rest, kind)?;
                continue;
            }
            if taken == 0 {
                worker.output.space_flag().announce_wait();
                taken = worker.output.try_fill_chunks(rest, &mut chunks)?;
            }
            if taken == 0 {
                self.response.pending = Some(Pending { bytes, start, end, kind });
                break;
            }
            let is_last = start + taken == end;
            worker.count_sent(self.slot, taken as u64);
            self.send_payload(py, &Body::Chunks(&chunks), kind, is_last)?;
            if !is_last {
                self.response.pending = Some(Pending { bytes, start: start + taken, end, kind });
            }
        }
        if self.stage == Stage::Ended
            && self.response.has_trailers
            && self.response.pending.is_none()
            && !self.is_disconnected
        {
            self.send_trailers(py)?;
        }
        Ok(())
    }

    fn send_trailers(&mut self, py: Python<'_>) -> Result<(), ProtocolError> {
        self.response.has_trailers = false;
        let encoded = std::mem::take(&mut self.response.encoded_trailers);
        let fields = (self.response.n_trailers, &*encoded);
        self.push_frame(py, CompletionKind::Trailers, fields, &Body::Inline(&[]), true, false)
    }

    /// Processes `http.response.early_hint`.
    pub(super) fn send_early_hints(
        &mut self,
        py: Python<'_>,
        n_fields: u16,
        fields: &[u8],
    ) -> Result<(), Fault> {
        if fields.len() + HEAD_OVERHEAD_BYTES > self.application.worker.start.geometry.max_completion_frame()
        {
            return Err(PyValueError::new_err("http.response.early_hint: the links are too long").into());
        }
        Ok(self.push_frame(
            py,
            CompletionKind::EarlyHints,
            (n_fields, fields),
            &Body::Inline(&[]),
            false,
            false,
        )?)
    }

    /// Processes `http.response.trailers`: keeps them until the last message.
    pub(super) fn add_trailers(
        &mut self,
        py: Python<'_>,
        n_fields: u16,
        fields: &[u8],
        more: bool,
    ) -> Result<(), Fault> {
        let max_frame = self.application.worker.start.geometry.max_completion_frame();
        let n_trailers = self.response.n_trailers + n_fields;
        if self.response.encoded_trailers.len() + fields.len() + HEAD_OVERHEAD_BYTES > max_frame
            || n_trailers > MAX_FIELDS
        {
            return Err(PyValueError::new_err("http.response.trailers: the trailers are too long").into());
        }
        self.response.encoded_trailers.extend_from_slice(fields);
        self.response.n_trailers = n_trailers;
        if !more {
            self.stage = Stage::Ended;
            self.flush_pending(py)?;
        }
        Ok(())
    }

    /// Ends the exchange: the application has returned or failed. Returns the objects that the
    /// caller must drop, or `None` if the end is deferred because a payload is pending.
    pub(super) fn finish(
        &mut self,
        py: Python<'_>,
        fault: Option<&FormattedError>,
    ) -> Result<Option<DeferredDrops>, ProtocolError> {
        if self.stage == Stage::Done {
            return Ok(Some(DeferredDrops::default()));
        }
        let pending = if let Some(fault) = fault {
            let pending = self.response.pending.take();
            self.application.worker.mark_idle(self.slot);
            let mut scratch = self.application.completion_buffer.take(py);
            self.completion(CompletionKind::AppRaised, true, true).encode(
                0,
                &Body::Inline(&[]),
                &mut scratch,
            );
            fault.as_app_error().encode(&mut scratch);
            let pushed = self.application.outbox.push(&self.application.worker.output, &scratch);
            self.application.completion_buffer.put(py, scratch);
            pushed?;
            pending
        } else {
            self.flush_pending(py)?;
            if self.response.pending.is_some() {
                self.response.finish_deferred = true;
                return Ok(None);
            }
            self.application.worker.mark_idle(self.slot);
            if self
                .response
                .end_position
                .take()
                .is_some_and(|position| self.application.worker.output.mark_done(position))
            {
                self.stage = Stage::Done;
                return Ok(Some(self.release(py, None)));
            }
            // A WebSocket that the application has not closed is closed normally.
            let (kind, status) = match self.stage {
                Stage::Open if !self.is_disconnected => (CompletionKind::Close, 1000),
                _ => (CompletionKind::Body, 0),
            };
            let last = Completion { status, ..self.completion(kind, true, true) };
            self.push_completion(py, &last, NO_FIELDS, &Body::Inline(&[]))?;
            None
        };
        self.stage = Stage::Done;
        Ok(Some(self.release(py, pending)))
    }

    /// Releases the slot and takes all objects out of the exchange.
    fn release(&mut self, py: Python<'_>, pending: Option<Pending>) -> DeferredDrops {
        // A pooled exchange would keep the unreceived body.
        let parts = std::mem::take(&mut self.body.parts);
        let (exchange, functions) =
            self.application.release_exchange(py, (self.id, self.slot), self.functions.take());
        DeferredDrops { task: self.task.take(), pending, parts, exchange, functions }
    }

    /// Returns whether the response has no body: a response to HEAD (RFC 9110 §9.3.2), or one whose
    /// status allows none.
    pub(super) fn is_bodyless(&self) -> bool {
        self.response.is_for_head || self.response.head.has_no_content()
    }

    /// Returns whether the client has read enough for more to be sent. Otherwise announces to the
    /// daemon that the worker waits for credit.
    fn has_credit(&self) -> bool {
        let (worker, slot) = (self.application.worker, self.slot);
        if worker.unacked(slot) <= RESPONSE_WINDOW {
            return true;
        }
        worker.credit_flag(slot).announce_wait();
        worker.unacked(slot) <= RESPONSE_WINDOW
    }

    /// Returns whether a `send()` can be processed now.
    pub(super) fn can_send(&self) -> bool {
        self.response.pending.is_none() && !self.application.outbox.is_backed_up() && self.has_credit()
    }

    /// Returns whether a payload fits into a completion frame.
    fn fits_inline(&self, len: usize) -> bool {
        len <= MAX_INLINE_BODY
            && HEAD_OVERHEAD_BYTES + self.response.encoded_fields.len() + len
                <= self.application.worker.start.geometry.max_completion_frame()
    }

    /// Sends a payload inside a completion frame.
    pub(super) fn send_inline(
        &mut self,
        py: Python<'_>,
        bytes: &[u8],
        kind: PayloadKind,
    ) -> Result<(), ProtocolError> {
        if !bytes.is_empty() {
            self.application.worker.count_sent(self.slot, bytes.len() as u64);
        }
        self.send_payload(py, &Body::Inline(bytes), kind, true)
    }

    /// Sends one frame of a payload. The first frame of a response also has the head.
    pub(super) fn send_payload(
        &mut self,
        py: Python<'_>,
        body: &Body<'_>,
        kind: PayloadKind,
        is_last: bool,
    ) -> Result<(), ProtocolError> {
        let end = match kind {
            PayloadKind::Body { end } => end && is_last,
            PayloadKind::Message { text } => {
                self.application.worker.count_sent(self.slot, MESSAGE_COST);
                let frame = self.completion(CompletionKind::Body, false, false);
                return self
                    .push_completion(py, &Completion { text, more: !is_last, ..frame }, NO_FIELDS, body)
                    .map(drop);
            }
        };
        let position = if self.response.is_head_sent {
            self.push_completion(py, &self.completion(CompletionKind::Body, end, false), NO_FIELDS, body)?
        } else {
            self.response.is_head_sent = true;
            self.application.exchanges(py).heads.remove(self.id);
            let mut fields = std::mem::take(&mut self.response.encoded_fields);
            let head = self.completion(CompletionKind::Respond, end, false);
            let position = self.push_completion(py, &head, (self.response.head.n_fields, &fields), body)?;
            // Kept for the next exchange (`Exchange::create`).
            fields.clear();
            self.response.encoded_fields = fields;
            position
        };
        if end {
            self.response.end_position = position;
            self.application.outbox.on_response_end(&self.application.worker.output);
        }
        Ok(())
    }

    /// Sends a frame.
    pub(super) fn push_frame(
        &self,
        py: Python<'_>,
        kind: CompletionKind,
        fields: (u16, &[u8]),
        body: &Body<'_>,
        end: bool,
        done: bool,
    ) -> Result<(), ProtocolError> {
        self.push_completion(py, &self.completion(kind, end, done), fields, body).map(drop)
    }

    /// Encodes a completion with its fields and body, and pushes it. Returns its position in
    /// the ring; `None` if it waits in the outbox.
    pub(super) fn push_completion(
        &self,
        py: Python<'_>,
        completion: &Completion,
        (n_fields, fields): (u16, &[u8]),
        body: &Body<'_>,
    ) -> Result<Option<Position>, ProtocolError> {
        let mut frame = self.application.completion_buffer.take(py);
        completion.encode(n_fields, body, &mut frame);
        frame.extend_from_slice(fields);
        body.encode(&mut frame);
        let pushed = self.application.outbox.push(&self.application.worker.output, &frame);
        self.application.completion_buffer.put(py, frame);
        pushed
    }

    /// Returns a completion of this exchange.
    pub(super) fn completion(&self, kind: CompletionKind, end: bool, done: bool) -> Completion {
        Completion {
            exchange: self.id,
            kind,
            end,
            done,
            text: false,
            more: false,
            ends_takeover: false,
            status: if kind == CompletionKind::Respond { self.response.head.status } else { 0 },
            service: if done { monotonic_ns().saturating_sub(self.started_ns) } else { 0 },
            slot: u16::try_from(self.slot).unwrap_or(u16::MAX),
        }
    }
}

/// The objects of an ended exchange. Dropped when no exchange is borrowed, because dropping them
/// may run finalizers.
#[derive(Debug, Default)]
#[expect(dead_code, reason = "the fields are only dropped")]
pub(super) struct DeferredDrops {
    task: Option<Py<PyAny>>,
    pending: Option<Pending>,
    parts: VecDeque<Py<PyBytes>>,
    exchange: Option<Py<Exchange>>,
    functions: Option<Functions>,
}

/// The exception for a body longer than its Content-Length.
pub(super) fn body_too_long() -> PyErr {
    PyRuntimeError::new_err("Response content longer than Content-Length")
}

/// The exception for a body shorter than its Content-Length.
pub(super) fn body_too_short() -> PyErr {
    PyRuntimeError::new_err("Response content shorter than Content-Length")
}
