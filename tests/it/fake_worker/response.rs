//! Encodes and publishes the frames of a response.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

use rgun_channel::control::Report;
use rgun_channel::frame::{AppError, Body, Completion, CompletionKind, encode_field};
use rgun_channel::layout::{CHUNK_BYTES, Geometry, RESPONSE_WINDOW, SLOT_ACKED, SLOT_CREDIT_WAIT};
use rgun_channel::wake::WaitFlag;

use crate::Outcome;
use crate::requests::Exchange;
use crate::worker::Slot;

impl Exchange<'_, '_> {
    pub(crate) fn text(&mut self, status: u16, text: &str) -> Outcome {
        self.respond(status, Some(text.len() as u64), Body::Inline(text.as_bytes()), true, true)
    }

    pub(crate) fn reason(&mut self, reason: &[u8]) -> Outcome {
        let mut frame = std::mem::take(&mut self.slot.frame);
        let body = Body::Inline(b"odd");
        let head = self.completion(CompletionKind::Respond, 299, true, true)?;
        head.encode_with_reason(u16::try_from(reason.len())?, 0, &body, &mut frame);
        frame.extend_from_slice(reason);
        body.encode(&mut frame);
        self.slot.count(&body);
        self.publish(frame)
    }

    pub(crate) fn start_response(&mut self) -> Outcome {
        self.respond(200, Some(1000), Body::Inline(b"0123456789"), false, false)
    }

    pub(crate) fn raise(&mut self) -> Outcome {
        let mut error = Vec::new();
        let traceback =
            "Traceback (most recent call last):\n  File \"fake.py\", line 2, in app\nFake: boom\n";
        AppError { summary: "Fake: boom", traceback }.encode(&mut error);
        self.part(CompletionKind::AppRaised, Body::Inline(&error), true, true)
    }

    pub(crate) fn send_file(&self, bytes: &[u8]) -> Outcome {
        let fd = rustix::fs::memfd_create("response", rustix::fs::MemfdFlags::CLOEXEC)?;
        let file = fs::File::from(fd);
        file.write_all_at(bytes, 0)?;
        self.slot.worker.report(&Report::File(self.id), &[file.as_fd()])?;
        Ok(())
    }

    pub(crate) fn respond_file(&mut self, len: u64) -> Outcome {
        self.respond(200, Some(len), Body::File { offset: 0, len }, true, true)
    }

    /// Sends body bytes within the window, small ones inline, large ones in chunks.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Outcome {
        for block in bytes.chunks(CHUNK_BYTES) {
            if block.len() <= CHUNK_BYTES / 4 {
                self.send_inline(block)?;
            } else {
                self.wait_for_credit();
                let chunk = (self.slot.worker.fill_chunk(block)?, u32::try_from(block.len())?);
                self.part(CompletionKind::Body, Body::Chunks(&[chunk]), false, false)?;
            }
        }
        Ok(())
    }

    pub(crate) fn send_inline(&mut self, bytes: &[u8]) -> Outcome {
        self.wait_for_credit();
        self.part(CompletionKind::Body, Body::Inline(bytes), false, false)
    }

    pub(crate) fn wait_for_credit(&self) {
        let Slot { worker, number, sent, .. } = &*self.slot;
        let acked = worker.map.u64(Geometry::slot(*number, SLOT_ACKED));
        worker.wait_until(WaitFlag(worker.map.u32(Geometry::slot(*number, SLOT_CREDIT_WAIT))), || {
            sent.saturating_sub(acked.load(Ordering::Acquire)) < RESPONSE_WINDOW
        });
    }

    pub(crate) fn finish(&mut self) -> Outcome {
        self.part(CompletionKind::Body, Body::Inline(b""), true, true)
    }

    /// Sends the head with this `Content-Length`, and body bytes. `end`: the body is complete.
    /// `done`: the exchange is done, and its slot is free.
    pub(crate) fn respond(
        &mut self,
        status: u16,
        length: Option<u64>,
        body: Body<'_>,
        end: bool,
        done: bool,
    ) -> Outcome {
        let length = length.map(|length| length.to_string());
        let fields = length.as_ref().map(|length| (&b"content-length"[..], length.as_bytes()));
        self.head(status, fields.as_slice(), body, end, done)
    }

    pub(crate) fn head(
        &mut self,
        status: u16,
        fields: &[(&[u8], &[u8])],
        body: Body<'_>,
        end: bool,
        done: bool,
    ) -> Outcome {
        let mut frame = std::mem::take(&mut self.slot.frame);
        let n_fields = u16::try_from(fields.len() + 1)?;
        self.completion(CompletionKind::Respond, status, end, done)?.encode(n_fields, &body, &mut frame);
        encode_field(b"content-type", b"text/plain; charset=utf-8", &mut frame)?;
        for (name, value) in fields {
            encode_field(name, value, &mut frame)?;
        }
        body.encode(&mut frame);
        self.slot.count(&body);
        self.publish(frame)
    }

    pub(crate) fn part(&mut self, kind: CompletionKind, body: Body<'_>, end: bool, done: bool) -> Outcome {
        let mut frame = std::mem::take(&mut self.slot.frame);
        self.completion(kind, 0, end, done)?.encode(0, &body, &mut frame);
        body.encode(&mut frame);
        if kind == CompletionKind::Body {
            self.slot.count(&body);
        }
        self.publish(frame)
    }

    pub(crate) fn completion(
        &self,
        kind: CompletionKind,
        status: u16,
        end: bool,
        done: bool,
    ) -> Outcome<Completion> {
        let service = u64::try_from(self.started.elapsed().as_nanos())?;
        let slot = u16::try_from(self.slot.number)?;
        Ok(Completion {
            exchange: self.id,
            kind,
            end,
            done,
            text: false,
            more: false,
            ends_takeover: false,
            status,
            service,
            slot,
        })
    }

    pub(crate) fn publish(&mut self, frame: Vec<u8>) -> Outcome {
        self.slot.worker.publish(&frame)?;
        self.slot.frame = frame;
        Ok(())
    }
}
