//! What happens to an exchange, a request or a WebSocket: parts of its body come, its client goes, its deadline passes,
//! its application returns. What only WebSockets have is in [`super::websocket`].

use pyo3::exceptions::PyBaseException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rgun_channel::{ProtocolError, cancel_report};

use super::awaitable;
use super::state::{Application, Exchange, ExchangeState, Stage};
use crate::python::{FormattedError, exit_forked_child, is_forked_child};

impl Exchange {
    /// A part of the request's body.
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

    /// The client has gone: `receive()` says so, `send()` does nothing.
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

    /// The client has closed its sending half: behind the body `receive()` says that it has gone. `send()` goes on.
    pub(super) fn on_half_close(slf: &Bound<'_, Self>) {
        let py = slf.py();
        let (worker, receivers) = {
            let exchange = &mut *slf.get().borrow_mut(py);
            exchange.is_half_closed = true;
            (exchange.application.worker, std::mem::take(&mut exchange.receivers))
        };
        awaitable::wake_futures(py, worker, receivers);
    }

    /// Its deadline has passed: the task is cancelled. Gives the report of where it was.
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

    /// We cannot even call the application.
    pub(super) fn fail(slf: &Bound<'_, Self>, error: &PyErr) -> Result<(), ProtocolError> {
        let py = slf.py();
        let error = error.clone_ref(py).into_value(py);
        Self::complete(slf, py.None().bind(py), Some(error.bind(py)))
    }

    /// The application has returned, or raised.
    fn complete(
        slf: &Bound<'_, Self>,
        result: &Bound<'_, PyAny>,
        error: Option<&Bound<'_, PyBaseException>>,
    ) -> Result<(), ProtocolError> {
        let py = slf.py();
        let error = error.map(|error| PyErr::from_value(error.clone().into_any()));
        exit_if_forked_child(py, error.as_ref());
        let fault = if let Some(error) = error {
            let (is_disconnected, forsaken) = {
                let exchange = slf.get().borrow(py);
                let is_told = exchange.is_disconnected || exchange.is_half_closed;
                (is_told, exchange.half_close_fault())
            };
            reportable_fault(py, is_disconnected, &error).or(forsaken)
        } else {
            let (omission, is_websocket) = {
                let exchange = slf.get().borrow(py);
                (exchange.missing_response(), exchange.websocket.is_some())
            };
            // Which comes first is uvicorn's choice.
            if is_websocket {
                omission.or_else(|| unexpected_result(result))
            } else {
                unexpected_result(result).or(omission)
            }
        };
        let worker = slf.get().borrow(py).application.worker;
        let (receivers, senders, leftover) = {
            let exchange = &mut *slf.get().borrow_mut(py);
            let leftover = exchange.finish(py, fault.as_ref())?;
            (std::mem::take(&mut exchange.receivers), std::mem::take(&mut exchange.senders), leftover)
        };
        if leftover.is_none() {
            // Not all could be sent.
            Application::mark_blocked(slf);
        }
        drop(leftover);
        awaitable::wake_futures(py, worker, receivers);
        awaitable::wake_futures(py, worker, senders);
        Ok(())
    }

    /// Ends it if its task has ended without saying so.
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
            // It was cancelled.
            Err(error) => Self::fail(slf, &error),
        }
    }

    /// The daemon has rung: sends what waited, and wakes whoever waited for that. True if nothing waits any more.
    pub(super) fn resume(slf: &Bound<'_, Self>) -> Result<bool, ProtocolError> {
        let py = slf.py();
        let worker = slf.get().borrow(py).application.worker;
        let (receivers, senders, leftover, is_free) = {
            let exchange = &mut *slf.get().borrow_mut(py);
            exchange.flush_pending(py)?;
            let leftover = if exchange.response.finish_deferred && exchange.response.pending.is_none() {
                exchange.finish(py, None)?
            } else {
                None
            };
            let is_free = exchange.can_send();
            let is_complete = exchange.stage >= Stage::Ended;
            (
                if is_complete { std::mem::take(&mut exchange.receivers) } else { Vec::new() },
                if is_free { std::mem::take(&mut exchange.senders) } else { Vec::new() },
                leftover,
                is_free,
            )
        };
        drop(leftover);
        awaitable::wake_futures(py, worker, receivers);
        awaitable::wake_futures(py, worker, senders);
        Ok(is_free)
    }
}

impl ExchangeState {
    /// What is told of an answer that is not whole because the application took its client's half close for its end.
    fn half_close_fault(&self) -> Option<FormattedError> {
        let is_forsaken = self.is_half_closed && !self.is_disconnected && self.stage < Stage::Ended;
        is_forsaken.then(|| FormattedError::from_message(""))
    }

    /// What it has not done.
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
    /// Ends the exchanges whose tasks have ended without saying so: a signal handler has raised where `asgi.py`'s
    /// coroutine had not begun to call the application, or was about to tell how that ended.
    pub(super) fn reap_done(&self, py: Python<'_>) -> Result<(), ProtocolError> {
        let running: Vec<_> =
            self.exchanges(py).running.values().map(|exchange| exchange.clone_ref(py)).collect();
        running.iter().try_for_each(|exchange| Exchange::reap_if_done(exchange.bind(py)))
    }
}

/// A value, where ASGI has none.
fn unexpected_result(result: &Bound<'_, PyAny>) -> Option<FormattedError> {
    (!result.is_none()).then(|| {
        let text = result.str().map_or_else(|_| super::head::type_name(result), |text| text.to_string());
        FormattedError::from_message(format!("ASGI callable should return None, but returned '{text}'."))
    })
}

/// What is to be told of an exception, if anything.
fn reportable_fault(py: Python<'_>, is_disconnected: bool, error: &PyErr) -> Option<FormattedError> {
    // Cancelled at its deadline, for which the client has its answer; or the framework's own way to say that the
    // client has gone (Starlette's ClientDisconnect).
    if is_disconnected && is_client_disconnect(error.value(py).as_any(), MAX_GROUP_DEPTH) {
        return None;
    }
    Some(FormattedError::from_exception(py, error))
}

/// Groups of exceptions within groups.
const MAX_GROUP_DEPTH: u8 = 16;

/// Is it one of the exceptions that end an exchange whose client has gone, or a group (PEP 654, its backport, anyio's
/// of old) of nothing else?
fn is_client_disconnect(error: &Bound<'_, PyAny>, nested: u8) -> bool {
    let parts = error.getattr(intern!(error.py(), "exceptions")).ok().and_then(|parts| {
        parts.try_iter().ok()?.collect::<PyResult<Vec<_>>>().ok().filter(|parts| !parts.is_empty())
    });
    if let Some(parts) = parts {
        return nested > 0 && parts.iter().all(|part| is_client_disconnect(part, nested - 1));
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

/// The channel is the worker's own: a process that the application forked ends here.
pub(super) fn exit_if_forked_child(py: Python<'_>, error: Option<&PyErr>) {
    if is_forked_child() {
        exit_forked_child(py, error);
    }
}

/// What `asgi.py` calls when the application has returned (`error` is None) or raised.
#[pyfunction]
#[pyo3(signature = (exchange, result, error))]
pub(super) fn complete(
    exchange: &Bound<'_, Exchange>,
    result: &Bound<'_, PyAny>,
    error: Option<&Bound<'_, PyBaseException>>,
) {
    let application = exchange.get().borrow(exchange.py()).application;
    Exchange::complete(exchange, result, error)
        .unwrap_or_else(|broken| application.worker.abort_on_protocol_error(&broken));
    application.schedule_flush(exchange.py());
}
