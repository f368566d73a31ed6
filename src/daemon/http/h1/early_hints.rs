//! Encodes a 103 (RFC 8297), which hyper does not write.

use http::HeaderMap;

/// Returns the bytes of a 103 with these fields.
pub(in crate::http) fn encode(fields: &HeaderMap) -> Vec<u8> {
    let mut bytes = b"HTTP/1.1 103 Early Hints\r\n".to_vec();
    for (name, value) in fields {
        bytes.extend_from_slice(name.as_str().as_bytes());
        bytes.extend_from_slice(b": ");
        bytes.extend_from_slice(value.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}
