//! Checks the status and headers that the application sends, and encodes them for a frame.
//!
//! ASGI HTTP specification, "Response Start": headers are an iterable of pairs of byte strings.
//! Error texts are uvicorn's. Connection-specific headers are dropped silently: many frameworks
//! send `connection` and `transfer-encoding`.

use std::sync::atomic::AtomicBool;

use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyList, PyMemoryView, PyString, PyTuple};
use rgun_channel::frame::{MAX_FIELDS, encode_field, encode_known_field};
use rgun_channel::header::{NAMES, index_of};

use super::last_head::LastHead;
use crate::gil_cell::GilCell;
use crate::head::{ResponseHead, is_control, is_token, parse_content_length};
use crate::python::{type_name, warn_once};

/// Returns the status code of a message after checking it.
pub(super) fn status_code(status: &Bound<'_, PyAny>, message: &str) -> PyResult<u16> {
    match status.extract::<i64>() {
        Ok(code @ 200..=999) => Ok(u16::try_from(code).expect("three digits")),
        Ok(code) => Err(PyRuntimeError::new_err(format!(
            "{message}: status {code} is not allowed for a response (200 to 999)"
        ))),
        Err(_) => Err(PyTypeError::new_err(format!("{message}: status is {}, not int", type_name(status)))),
    }
}

/// Checks headers and encodes them into `fields`, which is empty. Repeats the encoding of the last
/// head if it is the same. Runs code of the application, so no exchange may be borrowed.
pub(super) fn encode_head(
    last: &GilCell<LastHead>,
    status: u16,
    headers: Option<&Bound<'_, PyAny>>,
    mut fields: Vec<u8>,
) -> PyResult<(ResponseHead, Vec<u8>)> {
    let list = headers.and_then(|headers| headers.cast_exact::<PyList>().ok());
    if let Some(list) = list
        && let Some(head) = last.borrow(list.py()).repeat(status, list, &mut fields)
    {
        return Ok((head, fields));
    }
    let mut head = ResponseHead { status, ..ResponseHead::default() };
    let are_immutable = append_headers(&mut head, headers, &mut fields)?;
    if are_immutable && let Some(list) = list {
        last.borrow_mut(list.py()).store(head, list, &fields);
    }
    Ok((head, fields))
}

/// Checks the trailers of a response and encodes them. Returns their number and their encoding.
/// Runs code of the application, so no exchange may be borrowed.
pub(super) fn encode_trailers(status: u16, headers: Option<&Bound<'_, PyAny>>) -> PyResult<(u16, Vec<u8>)> {
    let (mut head, mut fields) = (ResponseHead { status, ..ResponseHead::default() }, Vec::new());
    append_headers(&mut head, headers, &mut fields)?;
    Ok((head.n_fields, fields))
}

/// Encoded length that is enough for the headers of most responses.
const TYPICAL_FIELD_BYTES: usize = 256;

/// Checks headers and appends them to a head's `fields`. Returns whether each header is a tuple of
/// `bytes`, which cannot change.
fn append_headers(
    head: &mut ResponseHead,
    headers: Option<&Bound<'_, PyAny>>,
    fields: &mut Vec<u8>,
) -> PyResult<bool> {
    let Some(headers) = headers else { return Ok(true) };
    fields.reserve(TYPICAL_FIELD_BYTES);
    let mut are_immutable = true;
    let mut add = |pair: &Bound<'_, PyAny>| {
        if let Ok(pair) = pair.cast_exact::<PyTuple>()
            && pair.len() == 2
        {
            let (name, value) = (pair.get_borrowed_item(0)?, pair.get_borrowed_item(1)?);
            if let (Ok(name), Ok(value)) = (name.cast_exact(), value.cast_exact()) {
                return append_header(&name, &value, head, fields);
            }
        }
        are_immutable = false;
        let (name, value) = header_pair(pair)?;
        append_header(&name, &value, head, fields)
    };
    if let Ok(list) = headers.cast_exact::<PyList>() {
        for pair in list.iter() {
            add(&pair)?;
        }
    } else {
        for pair in headers.try_iter()? {
            add(&pair?)?;
        }
    }
    Ok(are_immutable)
}

/// Checks and encodes the head that accepts a WebSocket, with the selected subprotocol.
pub(super) fn encode_accept(
    subprotocol: Option<&Bound<'_, PyAny>>,
    headers: Option<&Bound<'_, PyAny>>,
) -> PyResult<(ResponseHead, Vec<u8>)> {
    let (mut head, mut fields) = (ResponseHead { status: 101, ..ResponseHead::default() }, Vec::new());
    if let Some(subprotocol) = subprotocol {
        let text = subprotocol.cast::<PyString>().map_err(|_| {
            PyTypeError::new_err(format!(
                "websocket.accept: subprotocol is {}, not str",
                type_name(subprotocol)
            ))
        })?;
        let text = text.encode_utf8()?;
        let bytes = text.as_bytes();
        // RFC 6455 §4.1. An empty subprotocol means none, as in uvicorn.
        if !bytes.iter().all(|byte| is_token(*byte)) {
            return Err(PyRuntimeError::new_err(format!(
                "websocket.accept: subprotocol {} is not a token (RFC 6455 §4.1)",
                subprotocol.repr()?
            )));
        }
        if !bytes.is_empty() {
            append_header(&PyBytes::new(subprotocol.py(), SUBPROTOCOL_FIELD), &text, &mut head, &mut fields)?;
        }
    }
    append_headers(&mut head, headers, &mut fields)?;
    Ok((head, fields))
}

/// Name of the field with the selected subprotocol.
const SUBPROTOCOL_FIELD: &[u8] = b"sec-websocket-protocol";

/// Returns whether a field must not be in the head that accepts a WebSocket: the daemon's part of
/// the handshake (RFC 6455 §4.2.2), a second subprotocol, or a Content-Length (RFC 9110 §8.6).
fn is_reserved_in_accept(name: &[u8], head: &ResponseHead, fields: &[u8]) -> bool {
    match name {
        b"sec-websocket-accept" | b"sec-websocket-extensions" | b"content-length" => true,
        SUBPROTOCOL_FIELD => rgun_channel::frame::fields(fields, head.n_fields)
            .any(|(name, _)| name.as_bytes() == SUBPROTOCOL_FIELD),
        _ => false,
    }
}

/// The treatment of a header of the application.
#[derive(Clone, Copy)]
enum FieldRole {
    /// Sent as it is.
    EndToEnd,
    /// Compared with the body.
    ContentLength,
    /// Dropped (RFC 9110 §7.6.1); the ASGI specification demands that Transfer-Encoding be ignored.
    ConnectionSpecific,
}

impl FieldRole {
    /// Returns the role of a lower-case name.
    const fn of(name: &[u8]) -> Self {
        match name {
            b"content-length" => Self::ContentLength,
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
                Self::ConnectionSpecific
            }
            _ => Self::EndToEnd,
        }
    }
}

/// By index of [`NAMES`], so that the frequent names are not compared again.
static KNOWN_ROLES: [FieldRole; NAMES.len()] = {
    let mut roles = [FieldRole::EndToEnd; NAMES.len()];
    let mut index = 0;
    while index < NAMES.len() {
        roles[index] = FieldRole::of(NAMES[index].as_bytes());
        index += 1;
    }
    roles
};

fn warn_close(py: Python<'_>) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    let text = "the application sent Connection: close, which is dropped: the daemon decides when a client's \
                connection ends (logged once)";
    warn_once(py, &WARNED, text);
}

/// Checks one header and appends it to the encoded `fields`.
fn append_header(
    name: &Bound<'_, PyBytes>,
    value: &Bound<'_, PyBytes>,
    head: &mut ResponseHead,
    fields: &mut Vec<u8>,
) -> PyResult<()> {
    let py = name.py();
    let (name, value) = (name.as_bytes(), value.as_bytes());
    // Most names are in the table, whose names are lower-case tokens.
    let known = index_of(name);
    if known.is_none() && (name.is_empty() || !name.iter().all(|byte| is_token(*byte))) {
        return Err(PyRuntimeError::new_err("Invalid HTTP header name."));
    }
    // Without an early exit, so that the loop is vectorized.
    if value.iter().fold(false, |found, byte| found | is_control(*byte)) {
        return Err(PyRuntimeError::new_err("Invalid HTTP header value."));
    }
    let value = value.trim_ascii();
    let lower;
    let (name, known) = if known.is_none() && name.iter().any(u8::is_ascii_uppercase) {
        lower = name.to_ascii_lowercase();
        (&*lower, index_of(&lower))
    } else {
        (name, known)
    };
    if head.status == 101 && is_reserved_in_accept(name, head, fields) {
        return Ok(());
    }
    match known.map_or_else(|| FieldRole::of(name), |index| KNOWN_ROLES[usize::from(index)]) {
        FieldRole::EndToEnd => {}
        FieldRole::ConnectionSpecific => {
            if name == b"connection" && value.eq_ignore_ascii_case(b"close") {
                warn_close(py);
            }
            return Ok(());
        }
        FieldRole::ContentLength => {
            let length = parse_content_length(value)?;
            if head.length.is_some_and(|other| other != length) {
                return Err(PyRuntimeError::new_err("two Content-Length headers that differ"));
            }
            if head.length.is_some() || head.ignores_length() {
                return Ok(());
            }
            head.length = Some(length);
        }
    }
    if head.n_fields >= MAX_APP_FIELDS {
        return Err(PyValueError::new_err(format!("more than {MAX_APP_FIELDS} headers")));
    }
    match known {
        Some(index) => encode_known_field(index, value, fields),
        None => encode_field(name, value, fields),
    }
    .map_err(|error| PyRuntimeError::new_err(format!("header {}: {error}", String::from_utf8_lossy(name))))?;
    head.n_fields += 1;
    Ok(())
}

/// Maximum number of fields from the application. The daemon treats more than [`MAX_FIELDS`] as a
/// protocol error, and the worker may add a Content-Length.
const MAX_APP_FIELDS: u16 = MAX_FIELDS - 1;

/// Encodes the Link fields of early hints. Returns their number and their encoding.
pub(super) fn encode_links(links: &Bound<'_, PyAny>) -> PyResult<(u16, Vec<u8>)> {
    let (mut head, mut fields) = (ResponseHead::default(), Vec::new());
    let name = PyBytes::new(links.py(), b"link");
    for link in links.try_iter()? {
        append_header(
            &name,
            &to_bytes(link?, "a link of http.response.early_hint")?,
            &mut head,
            &mut fields,
        )?;
    }
    Ok((head.n_fields, fields))
}

/// Returns the name and value of a header: any tuple or list of two elements.
fn header_pair<'py>(pair: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
    let (name, value) = if let Ok(pair) = pair.cast::<PyTuple>()
        && pair.len() == 2
    {
        (pair.get_item(0)?, pair.get_item(1)?)
    } else if let Ok(pair) = pair.cast::<PyList>()
        && pair.len() == 2
    {
        (pair.get_item(0)?, pair.get_item(1)?)
    } else {
        return Err(PyValueError::new_err(format!(
            "headers contain {}, which is not a pair of name and value",
            pair.repr()?
        )));
    };
    Ok((to_bytes(name, "a header's name")?, to_bytes(value, "a header's value")?))
}

/// Returns the value as `bytes`; accepts a `bytearray` or `memoryview`, too. `what` names the value
/// in the exception.
pub(super) fn to_bytes<'py>(value: Bound<'py, PyAny>, what: &str) -> PyResult<Bound<'py, PyBytes>> {
    match value.cast_into::<PyBytes>() {
        Ok(bytes) => Ok(bytes),
        Err(error) => {
            let value = error.into_inner();
            let py = value.py();
            if value.is_instance_of::<PyByteArray>() || value.is_instance_of::<PyMemoryView>() {
                let bytes = py.import(intern!(py, "builtins"))?.getattr(intern!(py, "bytes"))?;
                return Ok(bytes.call1((value,))?.cast_into()?);
            }
            Err(PyTypeError::new_err(format!("{what} is {}, not bytes", type_name(&value))))
        }
    }
}
