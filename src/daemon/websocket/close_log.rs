//! The journal's entry about one WebSocket. It counts the messages of the connection. It is written
//! when the connection ends, or earlier if the application fails.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dispatch::Fault;
use crate::journal::requests::{FailureEntry, Traffic, WebSocketEntry};

use super::context::{AcceptedRequest, WebSocketResources};
use super::frame::close_code;

/// Writes one entry: a failure as soon as the application has failed, or else a summary when this
/// value is dropped.
#[derive(Debug)]
pub(super) struct CloseLog {
    resources: Arc<WebSocketResources>,
    /// None once the entry is written.
    entry: Option<WebSocketEntry>,
    handshake_at: Instant,
}

impl CloseLog {
    pub(super) fn new(accepted: AcceptedRequest) -> Self {
        let AcceptedRequest { resources, request, worker, handshake_at, log_access, .. } = accepted;
        let entry = WebSocketEntry {
            request,
            worker,
            code: close_code::ABNORMAL,
            duration: Duration::ZERO,
            received: Traffic::default(),
            sent: Traffic::default(),
            log_access,
        };
        Self { resources, entry: Some(entry), handshake_at }
    }

    /// Counts a part of a message from the client.
    pub(super) fn count_received(&mut self, len: usize, more: bool) {
        if let Some(entry) = &mut self.entry {
            entry.received.count(len, more);
        }
    }

    /// Counts a part of a message to the client.
    pub(super) fn count_sent(&mut self, len: usize, more: bool) {
        if let Some(entry) = &mut self.entry {
            entry.sent.count(len, more);
        }
    }

    /// Counts bytes of frames from the client, and the messages that they complete.
    pub(super) fn count_received_frames(&mut self, len: usize, messages: u64) {
        if let Some(entry) = &mut self.entry {
            entry.received.bytes += len as u64;
            entry.received.messages += messages;
        }
    }

    /// Counts bytes of frames to the client, and the messages that they complete.
    pub(super) fn count_sent_frames(&mut self, len: usize, messages: u64) {
        if let Some(entry) = &mut self.entry {
            entry.sent.bytes += len as u64;
            entry.sent.messages += messages;
        }
    }

    /// Sets the close code of the entry, unless a code is set already.
    pub(super) fn set_first_code(&mut self, code: u16) {
        if let Some(entry) = &mut self.entry
            && entry.code == close_code::ABNORMAL
        {
            entry.code = code;
        }
    }

    /// Sets the close code of the entry.
    pub(super) fn set_code(&mut self, code: u16) {
        if let Some(entry) = &mut self.entry {
            entry.code = code;
        }
    }

    /// Logs that the application ended without closing the WebSocket.
    pub(super) fn log_failure(&mut self, fault: &Fault) {
        let Some(entry) = self.entry.take() else { return };
        let (summary, traceback) = match fault {
            Fault::Raised { summary, traceback, .. } => (summary.clone(), traceback.clone()),
            Fault::WorkerDied(_) => ("the worker died".to_owned(), String::new()),
            Fault::WorkerKilled(_) => ("the worker was stopped".to_owned(), String::new()),
            Fault::ClientTooSlow => ("the client reads too slowly".to_owned(), String::new()),
            Fault::Deadline(_) => ("the application took too long".to_owned(), String::new()),
            // An accepted WebSocket has none of these.
            Fault::TooLong(_)
            | Fault::QueueFull
            | Fault::ClientQueueFull
            | Fault::QueueTooSlow(_)
            | Fault::QueueTimeout
            | Fault::Unavailable(_)
            | Fault::Quarantined(_)
            | Fault::Upload(_)
            | Fault::ClientHalfClosed => ("the exchange ended early".to_owned(), String::new()),
        };
        self.resources.journal.failure(FailureEntry {
            request: entry.request,
            status: 101,
            duration: self.handshake_at.elapsed(),
            worker: entry.worker,
            summary: format!("WebSocket aborted: {summary}"),
            traceback,
            log_access: entry.log_access,
        });
    }
}

impl Drop for CloseLog {
    fn drop(&mut self) {
        if let Some(mut entry) = self.entry.take() {
            entry.duration = self.handshake_at.elapsed();
            self.resources.journal.websocket_closed(entry);
        }
    }
}
