//! Checks a `Sec-WebSocket-Key` and derives its answer, which proves to the client that the server
//! speaks WebSocket (RFC 6455 §4.2). The key is not a secret.

pub use tungstenite::handshake::derive_accept_key as accept;

/// True if `key` is the base64 of 16 bytes (RFC 6455 §4.1). Unused bits before the padding may be
/// set, as other servers allow.
pub fn is_key(key: &[u8]) -> bool {
    let Some(digits) = key.strip_suffix(b"==") else { return false };
    // RFC 4648 §4.
    let is_digit = |digit: &u8| digit.is_ascii_alphanumeric() || matches!(digit, b'+' | b'/');
    digits.len() == 22 && digits.iter().all(is_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_example_key_has_the_answer_of_the_rfc() {
        // RFC 6455 §1.3.
        assert!(is_key(b"dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn key_must_be_sixteen_bytes_in_base64() {
        for key in [
            &b""[..],
            b"==",
            b"dGhlIHNhbXBsZSBub25jZQ",
            b"dGhlIHNhbXBsZSBub25jZQ=",
            b"dGhlIHNhbXBsZSBub25jZWE=",
            b"dGhlIHNhbXBsZSBub25jZQQ==",
            b"dGhlIHNhbXBsZSBub25j!Q==",
        ] {
            assert!(!is_key(key), "{}", String::from_utf8_lossy(key));
        }
    }
}
