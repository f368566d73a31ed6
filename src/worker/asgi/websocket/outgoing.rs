//! What the application says: `websocket.accept`, `websocket.send`, `websocket.close`, and the response that denies.
//!
//! What is refused is refused with the words of uvicorn's own WebSockets (`--ws auto`).

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use rgun_channel::ProtocolError;
use rgun_channel::frame::{Body, Completion, CompletionKind};

use super::{CLOSE_ABNORMAL, ClientDisconnected};
use crate::asgi::head::{self, to_bytes, type_name};
use crate::asgi::message::{
    borrow_unchanged, complete_send, flag, item, required, start_response, type_text,
};
use crate::asgi::response::NO_FIELDS;
use crate::asgi::state::{Exchange, ExchangeState, PayloadKind, Stage};
use crate::fault::Fault;
use crate::head::ResponseHead;

/// Does what a message says.
pub(in crate::asgi) fn process(slf: &Bound<'_, Exchange>, message: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = slf.py();
    let (application, stage, is_disconnected) = {
        let exchange = slf.get().try_borrow(py)?;
        (exchange.application, exchange.stage, exchange.is_disconnected)
    };
    let names = &application.websocket_constants.message_types;
    let kind = required(message, intern!(py, "type"))?;
    let is = |name: &Py<PyString>| Ok::<_, PyErr>(kind.is(name) || kind.eq(name)?);
    if is_disconnected {
        return if stage == Stage::Open && is(&names.close)? { Ok(()) } else { Err(client_disconnected()) };
    }
    let outcome = match stage {
        Stage::Unstarted if is(&names.accept)? => {
            let subprotocol = item(message, intern!(py, "subprotocol"))?.filter(|given| !given.is_none());
            let headers = item(message, intern!(py, "headers"))?;
            let (head, fields) = head::encode_accept(subprotocol.as_ref(), headers.as_ref())?;
            borrow_unchanged(slf, stage)?.accept(py, head, fields)
        }
        Stage::Unstarted if is(&names.close)? => borrow_unchanged(slf, stage)?.reject_handshake(py),
        Stage::Unstarted if is(&names.start)? => {
            let status = required(message, intern!(py, "status"))?;
            let headers = item(message, intern!(py, "headers"))?;
            return start_response(slf, &status, headers.as_ref(), false);
        }
        Stage::Unstarted => {
            return Err(unexpected_message(
                "'websocket.accept', 'websocket.close' or 'websocket.http.response.start'",
                &kind,
            ));
        }
        Stage::Open if is(&names.send)? => {
            let Some((content, text)) = message_content(message)? else { return Ok(()) };
            let len = content.as_bytes().len();
            let kind = PayloadKind::Message { text };
            borrow_unchanged(slf, stage)?.send_or_queue(py, Some(&content), len, kind).map_err(Fault::from)
        }
        Stage::Open if is(&names.close)? => {
            let (code, reason) = close_arguments(message)?;
            borrow_unchanged(slf, stage)?.send_close(py, code, &reason).map_err(Fault::from)
        }
        Stage::Open => return Err(unexpected_message("'websocket.send' or 'websocket.close',", &kind)),
        Stage::Prepared | Stage::Streaming | Stage::Trailing if is(&names.body)? => {
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
    complete_send(slf, outcome)
}

/// A `send()` that has waited until the client was gone; without a message, for all of it to be sent.
pub(in crate::asgi) fn process_after_disconnect(
    slf: &Bound<'_, Exchange>,
    message: Option<Py<PyAny>>,
) -> PyResult<()> {
    match message {
        Some(message) => process(slf, message.bind(slf.py())),
        None => Err(client_disconnected()),
    }
}

fn client_disconnected() -> PyErr {
    ClientDisconnected::new_err("the client has gone")
}

fn unexpected_message(expected: &str, kind: &Bound<'_, PyAny>) -> PyErr {
    PyRuntimeError::new_err(format!("Expected ASGI message {expected} but got '{}'.", type_text(kind)))
}

/// What is to be sent, and whether it is text. Bytes go first; without either, nothing is.
fn message_content<'py>(message: &Bound<'py, PyAny>) -> PyResult<Option<(Bound<'py, PyBytes>, bool)>> {
    let py = message.py();
    let given = |key| item(message, key).map(|value| value.filter(|value| !value.is_none()));
    if let Some(value) = given(intern!(py, "bytes"))? {
        return Ok(Some((to_bytes(value, "the bytes of websocket.send")?, false)));
    }
    let Some(value) = given(intern!(py, "text"))? else { return Ok(None) };
    let text = value.cast::<PyString>().map_err(|_| {
        PyTypeError::new_err(format!("the text of websocket.send is {}, not str", type_name(&value)))
    })?;
    Ok(Some((text.encode_utf8()?, true)))
}

/// Code and reason of a `websocket.close`.
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
                    "websocket.close: code {code} is none that may be sent (1000 to 1003, 1007 to 1014, \
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

/// A close frame has 125 bytes, two of them for the code.
const MAX_REASON_BYTES: usize = 123;

/// The code of a close for which there is no reason.
const CLOSE_NORMAL: u16 = 1000;

/// RFC 6455 §7.4, and what IANA has registered since. Not those which say that there was no close frame.
const fn is_sendable_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

impl ExchangeState {
    /// `websocket.accept`; from now on messages are welcome.
    fn accept(&mut self, py: Python<'_>, head: ResponseHead, fields: Vec<u8>) -> Result<(), Fault> {
        self.set_head(head, fields)?;
        self.stage = Stage::Open;
        self.send_inline(py, &[], PayloadKind::Body { end: false })?;
        match self.websocket.as_deref_mut().and_then(super::WebSocket::advance_window) {
            Some(taken) => Ok(self.send_window_update(py, taken)?),
            None => Ok(()),
        }
    }

    /// `websocket.close` before it is accepted.
    fn reject_handshake(&mut self, py: Python<'_>) -> Result<(), Fault> {
        self.response.head = ResponseHead { status: 403, ..ResponseHead::default() };
        self.response.encoded_fields.clear();
        self.stage = Stage::Ended;
        if let Some(websocket) = self.websocket.as_deref_mut() {
            websocket.record_close(CLOSE_ABNORMAL, "");
        }
        Ok(self.send_inline(py, &[], PayloadKind::Body { end: true })?)
    }

    /// `websocket.close`.
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
