//! Request ids: one per request, in the response's `X-Request-ID`, in `HTTP_X_REQUEST_ID` and in the journal.

use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderValue;

use crate::buffer_pool;

/// Makes ids: 16 hexadecimal digits that are random for this life of the daemon, then a counter of at least
/// 6. Unique across restarts and machines for every practical purpose, and cheap: no random number per request.
#[derive(Debug)]
pub(super) struct RequestIds {
    prefix: [u8; 16],
    count: AtomicU64,
}

/// Longest id that is taken over, in bytes.
const MAX_ID_BYTES: usize = 128;

/// An id on its way through a request. It is a field value from the start: that is where it ends.
#[derive(Debug, Clone)]
pub(super) struct RequestId(HeaderValue);

impl RequestIds {
    /// Ids of a new life.
    pub(super) fn new() -> Self {
        // `RandomState` is seeded by the kernel; a clock would repeat itself, a random crate is not needed.
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
        let mut prefix = [0; 16];
        write_hex(random, &mut prefix);
        Self { prefix, count: AtomicU64::new(0) }
    }

    /// A request's id: the one that a trusted peer gives it, if [`is_safe`], so that it stays the same all the way; else
    /// a new one.
    pub(super) fn for_request(&self, given: Option<&HeaderValue>) -> RequestId {
        if let Some(given) = given {
            return RequestId(given.clone());
        }
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let mut digits = [0; 32];
        let (prefix, counter) = digits.split_at_mut(16);
        prefix.copy_from_slice(&self.prefix);
        write_hex(count, counter);
        let leading = counter.iter().take(10).take_while(|digit| **digit == b'0').count();
        digits.copy_within(16 + leading.., 16);
        let id = digits.get(..digits.len() - leading).unwrap_or_default();
        RequestId(
            HeaderValue::from_maybe_shared(buffer_pool::copy(id))
                .expect("hexadecimal digits are a field value"),
        )
    }
}

impl RequestId {
    /// The id's bytes, ASCII.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The id as text.
    pub(super) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// The id as a response's field.
    pub(super) fn into_value(self) -> HeaderValue {
        self.0
    }
}

/// Whether it can be written into a header and a log: letters, digits, `._-`, at most 128.
pub(super) fn is_acceptable(id: &HeaderValue) -> bool {
    !id.is_empty()
        && id.len() <= MAX_ID_BYTES
        && id.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
}

/// An id that is not taken over, for the log: what is not printable is escaped, and what is too long cut.
pub(super) fn escaped(id: &HeaderValue) -> String {
    let bytes = id.as_bytes();
    bytes.get(..MAX_ID_BYTES).unwrap_or(bytes).escape_ascii().to_string()
}

/// Writes a number as 16 digits.
fn write_hex(mut value: u64, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_printable() {
        let ids = RequestIds::new();
        let (first, second) = (ids.for_request(None), ids.for_request(None));
        assert_ne!(first.as_str(), second.as_str());
        assert_eq!(first.as_str().len(), 22);
        assert!(first.as_str().ends_with("000001"));
    }

    #[test]
    fn an_id_is_taken_over_if_it_is_short_and_plain() {
        let ids = RequestIds::new();
        let kept = HeaderValue::from_static("7f3-A_b.c");
        assert!(is_acceptable(&kept));
        assert_eq!(ids.for_request(Some(&kept)).as_str(), "7f3-A_b.c");
        for bad in [&b""[..], b"a b", b"a\tb", b"a\"b", b"a\xff", &[b'x'; 129]] {
            assert!(!is_acceptable(&HeaderValue::from_bytes(bad).unwrap()), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn an_id_that_is_not_taken_over_is_shown_in_printable_characters() {
        for (id, text) in [
            (&b"a b"[..], "a b".to_owned()),
            (b"a\t\xff", "a\\t\\xff".to_owned()),
            (&[b'x'; 200], "x".repeat(128)),
        ] {
            assert_eq!(escaped(&HeaderValue::from_bytes(id).unwrap()), text);
        }
    }
}
