//! Python objects shared by all WebSockets of an application: event templates and message types.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::CLOSE_ABNORMAL;

/// The objects shared by all WebSockets.
#[derive(Debug)]
pub(in crate::asgi) struct WebSocketConstants {
    pub(super) events: WebSocketEventTemplates,
    pub(super) message_types: WebSocketMessageTypes,
}

impl WebSocketConstants {
    pub(in crate::asgi) fn new(py: Python<'_>) -> PyResult<Self> {
        Ok(Self { events: WebSocketEventTemplates::new(py)?, message_types: WebSocketMessageTypes::new(py) })
    }
}

/// Events to copy, and keys to set in the copies.
#[derive(Debug)]
pub(super) struct WebSocketEventTemplates {
    pub(super) connect: Py<PyDict>,
    pub(super) receive: Py<PyDict>,
    pub(super) disconnect: Py<PyDict>,
    pub(super) text: Py<PyString>,
    pub(super) bytes: Py<PyString>,
    pub(super) code: Py<PyString>,
    pub(super) reason: Py<PyString>,
}

impl WebSocketEventTemplates {
    pub(super) fn new(py: Python<'_>) -> PyResult<Self> {
        let string = |text: &str| PyString::intern(py, text).unbind();
        let event = |kind: &str| -> PyResult<Bound<'_, PyDict>> {
            let event = PyDict::new(py);
            event.set_item(string("type"), string(kind))?;
            Ok(event)
        };
        let disconnect = event("websocket.disconnect")?;
        disconnect.set_item(string("code"), CLOSE_ABNORMAL)?;
        disconnect.set_item(string("reason"), string(""))?;
        Ok(Self {
            connect: event("websocket.connect")?.unbind(),
            receive: event("websocket.receive")?.unbind(),
            disconnect: disconnect.unbind(),
            text: string("text"),
            bytes: string("bytes"),
            code: string("code"),
            reason: string("reason"),
        })
    }
}

/// WebSocket message types.
#[derive(Debug)]
pub(super) struct WebSocketMessageTypes {
    pub(super) accept: Py<PyString>,
    pub(super) send: Py<PyString>,
    pub(super) close: Py<PyString>,
    pub(super) start: Py<PyString>,
    pub(super) body: Py<PyString>,
}

impl WebSocketMessageTypes {
    pub(super) fn new(py: Python<'_>) -> Self {
        let string = |text: &str| PyString::intern(py, text).unbind();
        Self {
            accept: string("websocket.accept"),
            send: string("websocket.send"),
            close: string("websocket.close"),
            start: string("websocket.http.response.start"),
            body: string("websocket.http.response.body"),
        }
    }
}
