//! Log entries about requests that are late, slow, retried or quarantined. (The journal thread
//! writes the entries about the ends of requests: `journal::requests`.)

use std::time::Duration;

use super::operator_log::seat_field;
use crate::dispatch::{RequestInfo, ResponseProgress};
use crate::escape::RequestPath;
use crate::id::WorkerId;
use crate::journal::catalog::OperatorEvent;
use crate::journal::requests::microseconds;

/// Logs a request over its deadline, with the stacks of its worker. No other entry follows, unless
/// the response was already complete.
pub(super) fn log_deadline(worker: WorkerId, pid: Option<u32>, request: &RequestInfo, stacks: Option<&str>) {
    let RequestInfo { request_id, method, path, elapsed, response, .. } = request;
    let stacks = match stacks {
        Some(stacks) => stacks.trim_end(),
        None => "its Python stacks could not be taken",
    };
    // If the client got its whole response or left, the entry about the request's end has the
    // status.
    let (status, outcome) = match response {
        ResponseProgress::NotStarted => (Some(504), "504"),
        ResponseProgress::HeadSent(status) => (Some(*status), "aborted within the body"),
        ResponseProgress::Complete => (None, "continues although its client does not wait for it"),
    };
    tracing::error!(
        target: "rgun::request",
        {
        message_id = OperatorEvent::Deadline.id(),
        rgun.request_id = %request_id,
        rgun.method = %method,
        rgun.path = %path,
        rgun.path_raw = path.raw(),
        rgun.status = status,
        rgun.duration_us = microseconds(*elapsed),
        rgun.worker = seat_field(worker),
        rgun.pid = pid,
        },
        "{method} {path} {outcome}: the application took longer than {elapsed:.1?} in worker {}; {stacks}",
        worker.number.0
    );
}

/// Logs an event loop that has been blocked for `timeouts.stall`, with the stacks of its worker.
pub(super) fn log_stall(worker: WorkerId, pid: Option<u32>, silence: Duration, stacks: Option<&str>) {
    let stacks = match stacks {
        Some(stacks) => format!("Python stacks:\n{}", stacks.trim_end()),
        None => "its Python stacks could not be taken".to_owned(),
    };
    tracing::error!(
        message_id = OperatorEvent::Stalled.id(),
        rgun.worker = seat_field(worker),
        rgun.pid = pid,
        rgun.duration_us = microseconds(silence),
        "the event loop of worker {} has been blocked for {silence:.1?} (timeouts.stall) by a call; {stacks}",
        worker.number.0
    );
}

/// Logs a request that runs for longer than `log.slow`, with its stack.
pub(super) fn log_slow(worker: WorkerId, pid: Option<u32>, request: &RequestInfo, stack: Option<&str>) {
    let RequestInfo { request_id, method, path, elapsed, .. } = request;
    let stack = match stack {
        Some(stack) => format!("its Python stack:\n{}", stack.trim_end()),
        None => "its Python stack could not be taken in time".to_owned(),
    };
    tracing::warn!(
        target: "rgun::request",
        {
        message_id = OperatorEvent::SlowRequest.id(),
        rgun.request_id = %request_id,
        rgun.method = %method,
        rgun.path = %path,
        rgun.path_raw = path.raw(),
        rgun.duration_us = microseconds(*elapsed),
        rgun.worker = seat_field(worker),
        rgun.pid = pid,
        },
        "{method} {path} is slow: running for {elapsed:.1?} in worker {}; {stack}",
        worker.number.0
    );
}

/// Logs that requests with this method and path are refused for a while.
pub(super) fn log_quarantine(method: &str, path: &RequestPath, block_time: Duration) {
    tracing::error!(
        message_id = OperatorEvent::Quarantined.id(),
        rgun.method = %method,
        rgun.path = %path,
        rgun.path_raw = path.raw(),
        "{method} {path} has killed two workers within a minute: such requests are answered 503 for {block_time:.0?}"
    );
}

/// Logs that a request is given to another worker, because `worker` died while running it.
pub(super) fn log_retry(worker: WorkerId, request: &RequestInfo) {
    let RequestInfo { request_id, method, path, .. } = request;
    tracing::warn!(
        message_id = OperatorEvent::Retried.id(),
        rgun.request_id = %request_id,
        rgun.method = %method,
        rgun.path = %path,
        rgun.path_raw = path.raw(),
        rgun.worker = worker.number.0,
        "retrying {method} {path}: worker {} died while running it",
        worker.number.0
    );
}

/// Logs an exception raised after the response was complete (in `close()`, for example).
pub(super) fn log_late_exception(worker: WorkerId, request: &RequestInfo, summary: &str, traceback: &str) {
    let RequestInfo { request_id, method, path, .. } = request;
    tracing::error!(
        message_id = OperatorEvent::Exception.id(),
        rgun.request_id = %request_id,
        rgun.method = %method,
        rgun.path = %path,
        rgun.path_raw = path.raw(),
        rgun.worker = worker.number.0,
        "{method} {path}: the application raised after its response was complete: {summary}\n{}",
        traceback.trim_end()
    );
}
