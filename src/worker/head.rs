//! The response head, for both interfaces: the values that sending depends on, and the rules for
//! field values.
//!
//! [`crate::wsgi`] and [`crate::asgi`] read the head from the application and raise the exceptions.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rgun_channel::frame::{encode_field, encode_known_field, fields as decode_fields};
use rgun_channel::header::index_of;

/// The part of an encoded head that sending depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ResponseHead {
    /// Status code.
    pub(crate) status: u16,
    /// Length of the reason phrase before the encoded fields, bytes; 0 for the canonical phrase.
    pub(crate) reason_len: u16,
    /// Number of encoded fields.
    pub(crate) n_fields: u16,
    /// Content-Length, if the head has one.
    pub(crate) length: Option<u64>,
}

/// Bytes of a frame in addition to the application's fields: the fixed part, slab chunks or a file,
/// and an added Content-Length.
pub(crate) const HEAD_OVERHEAD_BYTES: usize = 32 + 16 * 8 + (3 + 20);

impl ResponseHead {
    /// Returns whether responses with this status have no content, whatever the application sends
    /// (RFC 9110 §15.3.5, §15.3.6, §15.4.5).
    pub(crate) fn has_no_content(&self) -> bool {
        matches!(self.status, 204 | 205 | 304)
    }

    /// Returns whether a Content-Length of the application is left out: a 204 has none (RFC 9110
    /// §8.6), and that of a 205 is 0.
    pub(crate) fn ignores_length(&self) -> bool {
        matches!(self.status, 204 | 205)
    }

    /// Appends a Content-Length to the encoded `fields`, unless the status does not allow one.
    pub(crate) fn add_content_length(&mut self, length: u64, fields: &mut Vec<u8>) -> PyResult<()> {
        // RFC 9110 §8.6: a 204 has no Content-Length. In a 304 it would be the length of the 200,
        // which is unknown here.
        if matches!(self.status, 204 | 304) {
            return Ok(());
        }
        let length = if self.status == 205 { 0 } else { length };
        let name = index_of(b"content-length").expect("in the table");
        encode_known_field(name, length.to_string().as_bytes(), fields)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        self.n_fields += 1;
        self.length = Some(length);
        Ok(())
    }

    /// Replaces the announced length with 0 if the head names a file in [`FILE_FIELDS`]. Returns
    /// whether the head names one. Called for a response that announces a length and has no body:
    /// Flask's `send_file` and django-sendfile2 announce the file's length. `encoded` has the
    /// reason phrase and the fields.
    pub(crate) fn announce_named_file(&mut self, encoded: &mut Vec<u8>) -> PyResult<bool> {
        let (reason, fields) = encoded.split_at(usize::from(self.reason_len));
        let fields = || decode_fields(fields, self.n_fields).map(|(name, value)| (name.as_bytes(), value));
        if !fields().any(|(name, _)| FILE_FIELDS.contains(&name)) {
            return Ok(false);
        }
        let mut rewritten = reason.to_vec();
        for (name, value) in fields() {
            let value = if name == b"content-length" { b"0" } else { value };
            encode_field(name, value, &mut rewritten)
                .map_err(|error| PyValueError::new_err(error.to_string()))?;
        }
        *encoded = rewritten;
        self.length = Some(0);
        Ok(true)
    }
}

/// The fields in which an application names the file that the daemon (`app.sendfile_roots`) or a
/// proxy sends instead of the response's own body.
const FILE_FIELDS: [&[u8]; 2] = [b"x-sendfile", b"x-accel-redirect"];

/// Parses a Content-Length (RFC 9110 §8.6): only digits.
///
/// # Errors
/// A `ValueError` for anything else.
pub(crate) fn parse_content_length(value: &[u8]) -> PyResult<u64> {
    let length = value.iter().try_fold(0_u64, |length, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        length.checked_mul(10)?.checked_add(digit.into())
    });
    length.filter(|_| !value.is_empty()).ok_or_else(|| {
        PyValueError::new_err(format!(
            "Content-Length is not a number: {}",
            String::from_utf8_lossy(value).escape_debug()
        ))
    })
}

/// Returns whether the byte may be in a token (RFC 9110 §5.6.2).
pub(crate) const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// Returns whether the byte is forbidden in a field value: a control character except HTAB (RFC
/// 9110 §5.5).
pub(crate) const fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7f
}
