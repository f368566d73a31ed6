//! The head of a response as both interfaces have it: what sending depends on, and what its fields may contain.
//!
//! How an application gives it, and which exception it gets for a wrong one, is [`crate::wsgi`]'s and [`crate::asgi`]'s.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rgun_channel::frame::encode_known_field;
use rgun_channel::header::index_of;

/// What the head says that sending depends on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ResponseHead {
    pub(crate) status: u16,
    /// Bytes of the reason phrase at the beginning of the encoded fields: 0 for the canonical one.
    pub(crate) reason_len: u16,
    pub(crate) n_fields: u16,
    /// Content-Length, if the application gave one.
    pub(crate) length: Option<u64>,
}

/// Room in a frame beside the application's fields: for its fixed part, slab chunks or a file, and the Content-Length
/// that may be added.
pub(crate) const HEAD_OVERHEAD_BYTES: usize = 32 + 16 * 8 + (3 + 20);

impl ResponseHead {
    /// Adds a Content-Length that the application could have given itself to the head's encoded `fields`.
    pub(crate) fn add_content_length(&mut self, length: u64, fields: &mut Vec<u8>) -> PyResult<()> {
        // RFC 9110 §8.6: none in a 204; of a 304 it would say what is not known here.
        if matches!(self.status, 204 | 304) {
            return Ok(());
        }
        let name = index_of(b"content-length").expect("in the table");
        encode_known_field(name, length.to_string().as_bytes(), fields)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
        self.n_fields += 1;
        self.length = Some(length);
        Ok(())
    }
}

/// The value of a Content-Length (RFC 9110 §8.6): digits, and nothing else; a ValueError otherwise.
pub(crate) fn parse_content_length(value: &[u8]) -> PyResult<u64> {
    str::from_utf8(value)
        .ok()
        .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| {
            PyValueError::new_err(format!(
                "Content-Length is no number: {}",
                String::from_utf8_lossy(value).escape_debug()
            ))
        })
}

/// RFC 9110 §5.6.2.
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

/// RFC 9110 §5.5: what no field value may contain. (HTAB may be there.)
pub(crate) const fn is_control(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7f
}
