//! Processes the messages of `send()`: `websocket.accept`, `websocket.send`, `websocket.close`, and
//! the messages of the response that denies a handshake.
//!
//! Error texts are uvicorn's (`--ws auto`).

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use rgun_channel::ProtocolError;
use rgun_channel::frame::{Body, Completion, CompletionKind};

use super::constants::WebSocketMessageTypes;
use super::{CLOSE_ABNORMAL, ClientDisconnected};
use crate::asgi::head::{self, to_bytes};
use crate::asgi::message::{
    borrow_unchanged, finish_message, flag, is_type, item, required, start_response, type_text,
};
use crate::asgi::response::NO_FIELDS;
use crate::asgi::state::{Exchange, ExchangeState, PayloadKind, Stage};
use crate::fault::Fault;
use crate::head::ResponseHead;
use crate::python::type_name;

/// Processes a message.
pub(in crate::asgi) fn process(slf: &Bound<'_, Exchange>, message: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = slf.py();
    let (application, stage, is_disconnected) = {
        let exchange = slf.get().try_borrow(py)?;
        (exchange.application, exchange.stage, exchange.is_disconnected)
    };
    let types = &application.websocket_constants.message_types;
    let kind = required(message, intern!(py, "type"))?;
    let has_type = |expected: &Py<PyString>| is_type(&kind, expected);
    if is_disconnected {
        return if stage == Stage::Open && has_type(&types.close)? {
            Ok(())
        } else {
            Err(client_disconnected())
        };
    }
    let outcome = match stage {
        Stage::Unstarted => return answer_handshake(slf, types, &kind, message),
        Stage::Open if has_type(&types.send)? => {
            let Some((content, text)) = message_content(message)? else { return Ok(()) };
            let len = content.as_bytes().len();
            let payload = PayloadKind::Message { text };
            borrow_unchanged(slf, stage)?.send_or_queue(py, Some(&content), len, payload).map_err(Fault::from)
        }
        Stage::Open if has_type(&types.close)? => {
            let (code, reason) = close_arguments(message)?;
            borrow_unchanged(slf, stage)?.send_close(py, code, &reason).map_err(Fault::from)
        }
        Stage::Open => return Err(unexpected_message("'websocket.send' or 'websocket.close',", &kind)),
        Stage::Prepared | Stage::Streaming | Stage::Trailing if has_type(&types.body)? => {
            let part = item(message, intern!(py, "body"))?
                .map(|part| to_bytes(part, "the body of websocket.http.response.body"))
                .transpose()?;
            let more = flag(message, intern!(py, "more_body"))?;
            borrow_unchanged(slf, stage)?.send_body(py, part.as_ref(), more)
        }
        Stage::Prepared | Stage::Streaming | Stage::Trailing => {
            return Err(unexpected_message("'websocket.http.response.body'", &kind));
        }
        Stage::Ended | Stage::Done => {
            return Err(PyRuntimeError::new_err(format!(
                "Unexpected ASGI message '{}', after sending 'websocket.close' or response already completed.",
                type_text(&kind)
            )));
        }
    };
    finish_message(slf, outcome)
}

/// Processes the first message: it accepts the handshake, rejects it, or starts the response that
/// denies it.
fn answer_handshake(
    slf: &Bound<'_, Exchange>,
    types: &WebSocketMessageTypes,
    kind: &Bound<'_, PyAny>,
    message: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let py = slf.py();
    let stage = Stage::Unstarted;
    let outcome = if is_type(kind, &types.accept)? {
        let subprotocol = item(message, intern!(py, "subprotocol"))?.filter(|value| !value.is_none());
        let headers = item(message, intern!(py, "headers"))?;
        let (head, fields) = head::encode_accept(subprotocol.as_ref(), headers.as_ref())?;
        borrow_unchanged(slf, stage)?.accept(py, head, fields)
    } else if is_type(kind, &types.close)? {
        borrow_unchanged(slf, stage)?.reject_handshake(py)
    } else if is_type(kind, &types.start)? {
        let status = required(message, intern!(py, "status"))?;
        let headers = item(message, intern!(py, "headers"))?;
        return start_response(slf, &status, headers.as_ref(), false);
    } else {
        return Err(unexpected_message(
            "'websocket.accept', 'websocket.close' or 'websocket.http.response.start'",
            kind,
        ));
    };
    finish_message(slf, outcome)
}

/// Completes a `send()` that waited while the client disconnected. `message` is `None` if it was
/// processed before.
pub(in crate::asgi) fn process_after_disconnect(
    slf: &Bound<'_, Exchange>,
    message: Option<Py<PyAny>>,
) -> PyResult<()> {
    match message {
        Some(message) => process(slf, message.bind(slf.py())),
        None => Err(client_disconnected()),
    }
}

/// The exception of a `send()` after a disconnect.
fn client_disconnected() -> PyErr {
    ClientDisconnected::new_err("the client has disconnected")
}

/// The exception for a message that is not allowed now.
fn unexpected_message(expected: &str, kind: &Bound<'_, PyAny>) -> PyErr {
    PyRuntimeError::new_err(format!("Expected ASGI message {expected} but got '{}'.", type_text(kind)))
}

/// Returns the payload of a `websocket.send` and whether it is text; `None` if the message has no
/// payload. `bytes` takes precedence over `text`.
fn message_content<'py>(message: &Bound<'py, PyAny>) -> PyResult<Option<(Bound<'py, PyBytes>, bool)>> {
    let py = message.py();
    let non_none = |key| item(message, key).map(|value| value.filter(|value| !value.is_none()));
    if let Some(value) = non_none(intern!(py, "bytes"))? {
        return Ok(Some((to_bytes(value, "the bytes of websocket.send")?, false)));
    }
    let Some(value) = non_none(intern!(py, "text"))? else { return Ok(None) };
    let text = value.cast::<PyString>().map_err(|_| {
        PyTypeError::new_err(format!("the text of websocket.send is {}, not str", type_name(&value)))
    })?;
    Ok(Some((text.encode_utf8()?, true)))
}

/// Returns code and reason of a `websocket.close`.
fn close_arguments(message: &Bound<'_, PyAny>) -> PyResult<(u16, String)> {
    let py = message.py();
    let code = match item(message, intern!(py, "code"))?.filter(|code| !code.is_none()) {
        None => CLOSE_NORMAL,
        Some(code) => {
            let code = code.extract::<i64>().map_err(|_| {
                PyTypeError::new_err(format!("websocket.close: code is {}, not int", type_name(&code)))
            })?;
            u16::try_from(code).ok().filter(|code| is_sendable_code(*code)).ok_or_else(|| {
                PyRuntimeError::new_err(format!(
                    "websocket.close: code {code} must not be sent (1000 to 1003, 1007 to 1014, \
                     3000 to 4999; RFC 6455 §7.4)"
                ))
            })?
        }
    };
    let Some(reason) = item(message, intern!(py, "reason"))?.filter(|reason| !reason.is_none()) else {
        return Ok((code, String::new()));
    };
    let text = reason.cast::<PyString>().map_err(|_| {
        PyTypeError::new_err(format!("websocket.close: reason is {}, not str", type_name(&reason)))
    })?;
    let text = text.to_cow()?.into_owned();
    if text.len() > MAX_REASON_BYTES {
        return Err(PyRuntimeError::new_err(format!(
            "websocket.close: the reason has {} bytes, more than the {MAX_REASON_BYTES} that fit into a close frame \
             (RFC 6455 §5.5)",
            text.len()
        )));
    }
    Ok((code, text))
}

/// Maximum length of a close reason: the payload of a control frame has at most 125 bytes, two of
/// them the code.
const MAX_REASON_BYTES: usize = 123;

/// Close code for a normal closure; the default.
const CLOSE_NORMAL: u16 = 1000;

/// Returns whether the code may be in a close frame: RFC 6455 §7.4 and IANA registrations, without
/// the codes that stand for a missing close frame.
const fn is_sendable_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

impl ExchangeState {
    /// Processes `websocket.accept`: sends the head and opens the window.
    fn accept(&mut self, py: Python<'_>, head: ResponseHead, fields: Vec<u8>) -> Result<(), Fault> {
        self.set_head(head, fields)?;
        self.stage = Stage::Open;
        self.send_inline(py, &[], PayloadKind::Body { end: false })?;
        match self.websocket.as_deref_mut().and_then(super::WebSocket::advance_window) {
            Some(window_end) => Ok(self.send_window_update(py, window_end)?),
            None => Ok(()),
        }
    }

    /// Processes `websocket.close` before the handshake is accepted: answers 403.
    fn reject_handshake(&mut self, py: Python<'_>) -> Result<(), Fault> {
        self.response.head = ResponseHead { status: 403, ..ResponseHead::default() };
        self.response.encoded_fields.clear();
        self.stage = Stage::Ended;
        if let Some(websocket) = self.websocket.as_deref_mut() {
            websocket.record_close(CLOSE_ABNORMAL, "");
        }
        Ok(self.send_inline(py, &[], PayloadKind::Body { end: true })?)
    }

    /// Processes `websocket.close` of an open WebSocket.
    fn send_close(&mut self, py: Python<'_>, code: u16, reason: &str) -> Result<(), ProtocolError> {
        self.stage = Stage::Ended;
        if let Some(websocket) = self.websocket.as_deref_mut() {
            websocket.record_close(code, reason);
            websocket.partial = Vec::new();
        }
        let frame = Completion { status: code, ..self.completion(CompletionKind::Close, true, false) };
        self.response.end_position =
            self.push_completion(py, &frame, NO_FIELDS, &Body::Inline(reason.as_bytes()))?;
        Ok(())
    }
}
