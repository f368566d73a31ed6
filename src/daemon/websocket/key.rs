//! `Sec-WebSocket-Key` (RFC 6455 §4.2): by the answer to it a server proves that it has understood the handshake. No
//! secret.

pub use tungstenite::handshake::derive_accept_key as accept;

/// Is it 16 bytes in base64 (RFC 6455 §4.1)? Bits that the padding leaves over may be anything, as elsewhere.
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
    fn a_key_is_answered_as_in_the_rfc() {
        // RFC 6455 §1.3.
        assert!(is_key(b"dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_key_is_sixteen_bytes_in_base64() {
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
