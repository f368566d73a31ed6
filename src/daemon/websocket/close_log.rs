//! The journal's entry about one WebSocket: counted while it is open, written when it has ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::dispatch::Fault;
use crate::id::WorkerId;
use crate::journal::requests::{FailureEntry, LoggedRequest, Traffic, WebSocketEntry};

use super::WebSocketResources;
use super::frame::close_code;

/// Writes one entry: a failure as soon as the application has failed, else the summary when it is dropped.
#[derive(Debug)]
pub(super) struct CloseLog {
    resources: Arc<WebSocketResources>,
    /// None once the entry is written.
    entry: Option<WebSocketEntry>,
    handshake_at: Instant,
}

impl CloseLog {
    /// `log_access`: connections that end without a failure have an entry, too.
    pub(super) fn new(
        resources: Arc<WebSocketResources>,
        request: LoggedRequest,
        worker: Option<WorkerId>,
        handshake_at: Instant,
        log_access: bool,
    ) -> Self {
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
            fault => (format!("{fault:?}"), String::new()),
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
