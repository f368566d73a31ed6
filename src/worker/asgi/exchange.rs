//! The events of a running exchange: body parts, disconnects, the deadline, the end of the
//! application, space to send. Called by [`super::tick`] and by `asgi.py`. WebSocket messages are
//! in [`super::websocket`].

use pyo3::exceptions::PyBaseException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rgun_channel::{ProtocolError, cancel_report};

use super::awaitable;
use super::state::{Application, Exchange, ExchangeState, Stage};
use crate::python::{FormattedError, exit_if_forked_child, type_name};

impl Exchange {
    /// Handles a part of the request body.
    pub(super) fn on_body_part(slf: &Bound<'_, Self>, bytes: &[u8], end: bool) {
        let py = slf.py();
        let part = (!bytes.is_empty()).then(|| PyBytes::new(py, bytes).unbind());
        let worker = slf.get().borrow(py).application.worker;
        let receivers = {
            let mut exchange = slf.get().borrow_mut(py);
            exchange.body.parts.extend(part);
            exchange.body.is_complete |= end;
            std::mem::take(&mut exchange.receivers)
        };
        awaitable::wake_futures(py, worker, receivers);
    }

    /// Handles a disconnect by the client: `receive()` returns the disconnect; `send()` has no
    /// further effect, or raises if the exchange is a WebSocket. The pending payload is discarded.
    pub(super) fn on_disconnect(slf: &Bound<'_, Self>) {
        let py = slf.py();
        let worker = slf.get().borrow(py).application.worker;
        let (receivers, senders, pending) = {
            let exchange = &mut *slf.get().borrow_mut(py);
            exchange.is_disconnected = true;
            (
                std::mem::take(&mut exchange.receivers),
                std::mem::take(&mut exchange.senders),
                exchange.response.pending.take(),
            )
        };
        drop(pending);
        awaitable::wake_futures(py, worker, receivers);
        awaitable::wake_futures(py, worker, senders);
    }

    /// Handles a half-close by the client: `receive()` returns a disconnect after the body;
    /// `send()` still works.
    pub(super) fn on_half_close(slf: &Bound<'_, Self>) {
        let py = slf.py();
        let (worker, receivers) = {
            let exchange = &mut *slf.get().borrow_mut(py);
            exchange.is_half_closed = true;
            (exchange.application.worker, std::mem::take(&mut exchange.receivers))
        };
        awaitable::wake_futures(py, worker, receivers);
    }

    /// Cancels the task. Returns a report of its stack; `None` if the exchange has ended.
    pub(super) fn cancel_task(slf: &Bound<'_, Self>) -> PyResult<Option<String>> {
        let py = slf.py();
        let (application, id) = {
            let exchange = slf.get().borrow(py);
            (exchange.application, exchange.id)
        };
        let stack = application.stack_of(py, id);
        let task = {
            let mut exchange = slf.get().borrow_mut(py);
            exchange.is_disconnected = true;
            exchange.task.as_ref().map(|task| task.clone_ref(py))
        };
        if let Some(task) = task {
            task.call_method0(py, intern!(py, "cancel"))?;
        }
        Ok(stack?.map(|stack| cancel_report::encode(id, &stack)))
    }

    /// Ends the exchange with an exception.
    pub(super) fn fail(slf: &Bound<'_, Self>, error: &PyErr) -> Result<(), ProtocolError> {
        let py = slf.py();
        let error = error.clone_ref(py).into_value(py);
        Self::complete(slf, py.None().bind(py), Some(error.bind(py)))
    }

    /// Ends the exchange: the application has returned or raised.
    fn complete(
        slf: &Bound<'_, Self>,
        result: &Bound<'_, PyAny>,
        error: Option<&Bound<'_, PyBaseException>>,
    ) -> Result<(), ProtocolError> {
        let py = slf.py();
        let error = error.map(|error| PyErr::from_value(error.clone().into_any()));
        exit_if_forked_child(py, error.as_ref());
        let fault = match error {
            Some(error) => Self::exception_fault(slf, &error),
            None => Self::return_fault(slf, result),
        };
        let worker = slf.get().borrow(py).application.worker;
        let (receivers, senders, drops) = {
            let exchange = &mut *slf.get().borrow_mut(py);
            let drops = exchange.finish(py, fault.as_ref())?;
            (std::mem::take(&mut exchange.receivers), std::mem::take(&mut exchange.senders), drops)
        };
        if drops.is_none() {
            // The end is deferred until the pending payload is sent.
            Application::mark_blocked(slf);
        }
        drop(drops);
        awaitable::wake_futures(py, worker, receivers);
        awaitable::wake_futures(py, worker, senders);
        Ok(())
    }

    /// Returns the fault to report for an exception of the application, if any.
    fn exception_fault(slf: &Bound<'_, Self>, error: &PyErr) -> Option<FormattedError> {
        let py = slf.py();
        let (is_closed_by_client, half_close_fault) = {
            let exchange = slf.get().borrow(py);
            (exchange.is_disconnected || exchange.is_half_closed, exchange.half_close_fault())
        };
        // A cancellation at the deadline, after which the client gets a 504; or the exception with
        // which a framework reports that the client has disconnected (Starlette's
        // ClientDisconnect).
        if is_closed_by_client && is_client_disconnect(error.value(py).as_any(), MAX_GROUP_DEPTH) {
            return half_close_fault;
        }
        Some(FormattedError::from_exception(py, error))
    }

    /// Returns the fault to report when the application has returned, if any.
    fn return_fault(slf: &Bound<'_, Self>, result: &Bound<'_, PyAny>) -> Option<FormattedError> {
        let (missing_response, is_websocket) = {
            let exchange = slf.get().borrow(slf.py());
            (exchange.missing_response(), exchange.websocket.is_some())
        };
        // uvicorn checks in this order.
        if is_websocket {
            missing_response.or_else(|| unexpected_result(result))
        } else {
            unexpected_result(result).or(missing_response)
        }
    }

    /// Ends the exchange if its task has ended without completing it.
    pub(super) fn reap_if_done(slf: &Bound<'_, Self>) -> Result<(), ProtocolError> {
        let py = slf.py();
        let task = {
            let exchange = slf.get().borrow(py);
            exchange
                .task
                .as_ref()
                .filter(|_| !exchange.response.finish_deferred)
                .map(|task| task.clone_ref(py))
        };
        let Some(task) = task else { return Ok(()) };
        match task.call_method0(py, intern!(py, "done")).and_then(|done| done.is_truthy(py)) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => {
                slf.get().borrow(py).application.worker.on_signal_exception(py, error);
                return Ok(());
            }
        }
        match task.call_method0(py, intern!(py, "exception")) {
            Ok(error) => Self::complete(slf, py.None().bind(py), error.bind(py).cast().ok()),
            // The task was cancelled.
            Err(error) => Self::fail(slf, &error),
        }
    }

    /// Sends the pending payload and wakes waiting `send()` calls. Returns whether the exchange is
    /// not blocked any more.
    pub(super) fn resume(slf: &Bound<'_, Self>) -> Result<bool, ProtocolError> {
        let py = slf.py();
        let worker = slf.get().borrow(py).application.worker;
        let (receivers, senders, drops, is_unblocked) = {
            let exchange = &mut *slf.get().borrow_mut(py);
            exchange.flush_pending(py)?;
            let drops = if exchange.response.finish_deferred && exchange.response.pending.is_none() {
                exchange.finish(py, None)?
            } else {
                None
            };
            let is_unblocked = exchange.can_send();
            let has_ended = exchange.stage >= Stage::Ended;
            (
                if has_ended { std::mem::take(&mut exchange.receivers) } else { Vec::new() },
                if is_unblocked { std::mem::take(&mut exchange.senders) } else { Vec::new() },
                drops,
                is_unblocked,
            )
        };
        drop(drops);
        awaitable::wake_futures(py, worker, receivers);
        awaitable::wake_futures(py, worker, senders);
        Ok(is_unblocked)
    }
}

impl ExchangeState {
    /// Returns the fault of an incomplete response after a half-close. The fault has no text,
    /// because the application may have mistaken the half-close for a disconnect.
    fn half_close_fault(&self) -> Option<FormattedError> {
        let is_incomplete = self.is_half_closed && !self.is_disconnected && self.stage < Stage::Ended;
        is_incomplete.then(|| FormattedError::from_message(""))
    }

    /// Returns the fault of an application that returned without a complete response.
    fn missing_response(&self) -> Option<FormattedError> {
        if self.is_disconnected {
            return None;
        }
        if self.is_half_closed {
            return self.half_close_fault();
        }
        match self.stage {
            stage if self.websocket.is_some() => (stage < Stage::Open).then(|| {
                FormattedError::from_message("ASGI callable returned without completing handshake.")
            }),
            Stage::Unstarted => {
                Some(FormattedError::from_message("ASGI callable returned without starting response."))
            }
            Stage::Prepared | Stage::Streaming | Stage::Trailing => {
                Some(FormattedError::from_message("ASGI callable returned without completing response."))
            }
            Stage::Open | Stage::Ended | Stage::Done => None,
        }
    }
}

impl Application {
    /// Ends the exchanges whose tasks have ended without completing them. This happens if a signal
    /// handler raises in the coroutine of `asgi.py` before or after it calls the application.
    pub(super) fn reap_done(&self, py: Python<'_>) -> Result<(), ProtocolError> {
        let running: Vec<_> =
            self.exchanges(py).running.values().map(|exchange| exchange.clone_ref(py)).collect();
        running.iter().try_for_each(|exchange| Exchange::reap_if_done(exchange.bind(py)))
    }
}

/// Returns the fault of an application that returned a value.
fn unexpected_result(result: &Bound<'_, PyAny>) -> Option<FormattedError> {
    (!result.is_none()).then(|| {
        let text = result.str().map_or_else(|_| type_name(result), |text| text.to_string());
        FormattedError::from_message(format!("ASGI callable should return None, but returned '{text}'."))
    })
}

/// Maximum depth of nested exception groups that is examined.
const MAX_GROUP_DEPTH: u8 = 16;

/// Returns whether the exception only says that the client has disconnected. Also true for a group
/// of such exceptions (PEP 654, its backport, old versions of anyio).
fn is_client_disconnect(error: &Bound<'_, PyAny>, depth: u8) -> bool {
    let parts = error.getattr(intern!(error.py(), "exceptions")).ok().and_then(|parts| {
        parts.try_iter().ok()?.collect::<PyResult<Vec<_>>>().ok().filter(|parts| !parts.is_empty())
    });
    if let Some(parts) = parts {
        return depth > 0 && parts.iter().all(|part| is_client_disconnect(part, depth - 1));
    }
    let name = error.get_type().name().map(|name| name.to_string());
    matches!(
        name.as_deref(),
        Ok("CancelledError"
            | "ClientDisconnect"
            | "ClientDisconnected"
            | "RequestAborted"
            | "WebSocketDisconnect")
    )
}

/// Ends the exchange. Called by `asgi.py` when the application has returned (`error` is None) or
/// raised.
#[pyfunction]
#[pyo3(signature = (exchange, result, error))]
pub(super) fn complete(
    exchange: &Bound<'_, Exchange>,
    result: &Bound<'_, PyAny>,
    error: Option<&Bound<'_, PyBaseException>>,
) {
    let application = exchange.get().borrow(exchange.py()).application;
    Exchange::complete(exchange, result, error)
        .unwrap_or_else(|error| application.worker.abort_on_protocol_error(&error));
    application.schedule_flush(exchange.py());
}
