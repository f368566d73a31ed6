//! Checks the status and headers of an application, and encodes them for the frame.
//!
//! PEP 3333 "The start_response() Callable": native strings of ISO-8859-1 characters, no control
//! characters, no hop-by-hop headers. Checked in the worker, because an exception here can name the
//! header to the application.

use std::sync::atomic::AtomicBool;

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};
use rgun_channel::frame::{MAX_FIELDS, encode_field, encode_known_field};
use rgun_channel::header::index_of;
use rgun_channel::status::{canonical_reason, is_reason};

use crate::gil_cell::GilCell;
use crate::head::{ResponseHead, is_control, is_token, parse_content_length};
use crate::python::{append_latin1, latin1, type_name, warn_once};

/// A checked header name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum HeaderName {
    /// Index in the frame's table.
    Known(u8),
    /// Any other name, in lower case.
    Other(Box<[u8]>),
    /// Content-Length, with its index: parsed, and sent.
    ContentLength(u8),
    /// A hop-by-hop header: dropped, since the daemon owns the connection (RFC 9110 §7.6.1).
    HopByHop,
}

/// Encodes heads. Caches checked header names by the identity of the `str` object, because
/// applications and frameworks use the same literals for every response. The reference held by the
/// cache keeps the address from being reused.
#[derive(Debug, Default)]
pub(crate) struct HeadEncoder {
    names: GilCell<Vec<Option<CachedName>>>,
}

type CachedName = (Py<PyString>, HeaderName);

/// Number of entries of the cache; a power of two.
const CACHE_ENTRIES: usize = 128;

impl HeadEncoder {
    /// Checks a name, or finds it in the cache, and calls `with` with the result.
    fn name<R>(&self, name: &Bound<'_, PyString>, with: impl FnOnce(&HeaderName) -> R) -> PyResult<R> {
        let address = name.as_ptr().addr();
        let at = (address >> 4 ^ address >> 11) & (CACHE_ENTRIES - 1);
        if let Some(Some((cached, known))) = self.names.borrow(name.py()).get(at)
            && cached.as_ptr() == name.as_ptr()
        {
            return Ok(with(known));
        }
        // Not borrowed here: creating and dropping Python objects can run a finalizer, which may
        // call this method.
        let known = check_name(name)?;
        let result = with(&known);
        let new = Some((name.clone().unbind(), known));
        let old = {
            let mut names = self.names.borrow_mut(name.py());
            if names.is_empty() {
                names.resize_with(CACHE_ENTRIES, || None);
            }
            std::mem::replace(&mut names[at], new)
        };
        drop(old);
        Ok(result)
    }

    /// Checks status and headers, and encodes reason phrase and fields into `fields` (cleared
    /// first). `scratch` is overwritten.
    pub(crate) fn encode(
        &self,
        py: Python<'_>,
        status: &Bound<'_, PyString>,
        headers: &Bound<'_, PyAny>,
        fields: &mut Vec<u8>,
        scratch: &mut Vec<u8>,
    ) -> PyResult<ResponseHead> {
        fields.clear();
        let headers = headers.cast::<PyList>().map_err(|_| {
            PyTypeError::new_err(format!(
                "headers are {}, not a list of (name, value) tuples (PEP 3333)",
                type_name(headers)
            ))
        })?;
        // Leaves room for a Content-Length, which the worker may add.
        let max = usize::from(MAX_FIELDS) - 1;
        if headers.len() > max {
            return Err(PyValueError::new_err(format!(
                "the response has {} headers, more than the maximum of {max}",
                headers.len()
            )));
        }
        scratch.clear();
        let (code, reason) = status_line(status, scratch)?;
        let mut head = ResponseHead { status: code, ..ResponseHead::default() };
        if reason != canonical_reason(code).as_bytes() {
            head.reason_len = u16::try_from(reason.len()).map_err(|_| {
                PyValueError::new_err(format!(
                    "the reason phrase of status {code} has {} bytes, more than the maximum of {}",
                    reason.len(),
                    u16::MAX
                ))
            })?;
            fields.extend_from_slice(reason);
        }
        for pair in headers.iter() {
            let pair = pair.cast::<PyTuple>().ok().filter(|pair| pair.len() == 2).ok_or_else(|| {
                PyTypeError::new_err("headers contain something that is not a (name, value) tuple (PEP 3333)")
            })?;
            let (name, text) = (pair.get_borrowed_item(0)?, pair.get_borrowed_item(1)?);
            let name = name.cast::<PyString>().map_err(|_| {
                PyTypeError::new_err(format!("a header's name is {}, not str (PEP 3333)", type_name(&name)))
            })?;
            read_value(&name, &text, scratch)?;
            self.encode_header(py, &name, scratch.trim_ascii(), &mut head, fields)?;
        }
        Ok(head)
    }

    /// Checks the fields of early hints, (name, value) pairs of `str` or `bytes`, and encodes them
    /// into `fields`. Returns their number.
    pub(crate) fn encode_hints(
        &self,
        py: Python<'_>,
        headers: &Bound<'_, PyAny>,
        fields: &mut Vec<u8>,
    ) -> PyResult<u16> {
        let (mut head, mut value) = (ResponseHead::default(), Vec::new());
        for pair in headers.try_iter()? {
            let (name, text): (Bound<'_, PyAny>, Bound<'_, PyAny>) = pair?.extract()?;
            let (name, text) = (native_string(py, name)?, native_string(py, text)?);
            let name = name.cast::<PyString>().map_err(|_| {
                PyTypeError::new_err(format!("a header's name is {}, not str", type_name(&name)))
            })?;
            read_value(name, &text, &mut value)?;
            self.encode_header(py, name, value.trim_ascii(), &mut head, fields)?;
            if head.length.is_some() || head.n_fields >= MAX_FIELDS {
                return Err(PyValueError::new_err(format!(
                    "early hints must not have a Content-Length or more than {} fields",
                    MAX_FIELDS - 1
                )));
            }
        }
        Ok(head.n_fields)
    }

    /// Encodes one header into `fields` and counts it in `head`.
    fn encode_header(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyString>,
        value: &[u8],
        head: &mut ResponseHead,
        fields: &mut Vec<u8>,
    ) -> PyResult<()> {
        let encoded = self.name(name, |known| match known {
            HeaderName::Known(index) => {
                encode_known_field(*index, value, fields).map(|()| EncodedField::Sent)
            }
            HeaderName::Other(name) => encode_field(name, value, fields).map(|()| EncodedField::Sent),
            HeaderName::ContentLength(index) => {
                if head.ignores_length() || head.length.is_some() {
                    return Ok(EncodedField::Length);
                }
                encode_known_field(*index, value, fields).map(|()| EncodedField::Length)
            }
            HeaderName::HopByHop => Ok(EncodedField::Dropped),
        })?;
        match encoded.map_err(|error| PyValueError::new_err(format!("header {name}: {error}")))? {
            EncodedField::Sent => head.n_fields += 1,
            EncodedField::Dropped => warn_hop_by_hop(py, name),
            EncodedField::Length => {
                let length = parse_content_length(value)?;
                if head.length.is_some_and(|other| other != length) {
                    return Err(PyValueError::new_err("two Content-Length headers that differ"));
                }
                if head.length.is_none() && !head.ignores_length() {
                    head.n_fields += 1;
                    head.length = Some(length);
                }
            }
        }
        Ok(())
    }
}

/// Reads the value of a header as ISO-8859-1 into `value` (cleared first) and checks it.
fn read_value(name: &Bound<'_, PyString>, text: &Bound<'_, PyAny>, value: &mut Vec<u8>) -> PyResult<()> {
    let text = text.cast::<PyString>().map_err(|_| {
        PyTypeError::new_err(format!("the value of header {name} is {}, not str (PEP 3333)", type_name(text)))
    })?;
    value.clear();
    append_latin1(text, value).map_err(|_| {
        PyValueError::new_err(format!("the value of header {name} has characters outside ISO-8859-1"))
    })?;
    if value.iter().any(|byte| is_control(*byte)) {
        return Err(PyValueError::new_err(format!(
            "the value of header {name} has control characters: {}",
            String::from_utf8_lossy(value).escape_debug()
        )));
    }
    Ok(())
}

/// Decodes `bytes` as ISO-8859-1; returns any other object as it is.
fn native_string<'py>(py: Python<'py>, text: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    match text.cast::<PyBytes>() {
        Ok(bytes) => Ok(latin1(py, bytes.as_bytes())?.into_any()),
        Err(_) => Ok(text),
    }
}

/// Result of encoding one header.
enum EncodedField {
    Sent,
    Length,
    Dropped,
}

/// Parses the status. Returns its code and its reason phrase (RFC 9112 §4), or the canonical phrase
/// if it has none. `bytes` must be empty; the returned phrase may borrow from it.
fn status_line<'b>(status: &Bound<'_, PyString>, bytes: &'b mut Vec<u8>) -> PyResult<(u16, &'b [u8])> {
    let line = append_latin1(status, bytes).ok().and_then(|()| match &**bytes {
        [a @ b'1'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..]
            if rest.first().is_none_or(|b| *b == b' ') =>
        {
            let code = [a, b, c].into_iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
            Some((code, rest))
        }
        _ => None,
    });
    match line {
        Some((code, _)) if code < 200 => Err(PyValueError::new_err(format!(
            "status {} is an interim response, which only the server may send",
            status.repr()?
        ))),
        Some((_, rest)) if !is_reason(rest) => Err(PyValueError::new_err(format!(
            "status {} has control characters in its reason phrase (PEP 3333)",
            status.repr()?
        ))),
        Some((code, rest)) => {
            let reason = rest.trim_ascii();
            Ok((code, if reason.is_empty() { canonical_reason(code).as_bytes() } else { reason }))
        }
        None => Err(PyValueError::new_err(format!(
            "status {} does not begin with three digits, as in '200 OK'",
            status.repr()?
        ))),
    }
}

fn check_name(name: &Bound<'_, PyString>) -> PyResult<HeaderName> {
    let mut bytes = Vec::with_capacity(32);
    let ok = append_latin1(name, &mut bytes).is_ok()
        && !bytes.is_empty()
        && bytes.iter().all(|byte| is_token(*byte));
    if !ok {
        return Err(PyValueError::new_err(format!(
            "header name {} is not a token (RFC 9110 section 5.1)",
            name.repr()?
        )));
    }
    bytes.make_ascii_lowercase();
    Ok(match &*bytes {
        b"connection"
        | b"keep-alive"
        | b"transfer-encoding"
        | b"upgrade"
        | b"te"
        | b"trailer"
        | b"proxy-connection"
        | b"proxy-authenticate"
        | b"proxy-authorization" => HeaderName::HopByHop,
        b"content-length" => HeaderName::ContentLength(index_of(b"content-length").expect("in the table")),
        other => index_of(other).map_or_else(|| HeaderName::Other(other.into()), HeaderName::Known),
    })
}

fn warn_hop_by_hop(py: Python<'_>, name: &Bound<'_, PyString>) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    warn_once(
        py,
        &WARNED,
        &format!(
            "the application sent the hop-by-hop header {name}; such headers are dropped (PEP 3333; logged once)"
        ),
    );
}
