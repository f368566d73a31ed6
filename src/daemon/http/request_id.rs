//! Request ids: one per request, in the response's `X-Request-ID` field, in the journal, and in the
//! request's frame.

use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderValue;

use crate::buffer_pool;

/// Generates ids: 16 hexadecimal digits that are random per process, then a counter of at least 6
/// digits. Unique across restarts and machines for every practical purpose, without a random number
/// per request.
#[derive(Debug)]
pub(super) struct RequestIds {
    prefix: [u8; PREFIX_BYTES],
    /// Number of ids generated.
    count: AtomicU64,
}

/// Length of the random part of an id.
const PREFIX_BYTES: usize = 16;

/// Minimum number of digits of the counter in an id.
const MIN_COUNTER_DIGITS: usize = 6;

/// Longest id accepted from a trusted peer, in bytes.
const MAX_ID_BYTES: usize = 128;

/// A request's id, stored as the field value that the response will carry.
#[derive(Debug, Clone)]
pub(super) struct RequestId(HeaderValue);

impl RequestIds {
    /// Creates a generator with a random prefix.
    pub(super) fn new() -> Self {
        // `RandomState` is seeded by the kernel, so no random crate is needed; a clock could
        // repeat.
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
        let mut prefix = [0; PREFIX_BYTES];
        write_hex(random, &mut prefix);
        Self { prefix, count: AtomicU64::new(0) }
    }

    /// Returns a request's id: `received`, which a trusted peer sent and [`is_acceptable`] accepts,
    /// or a new one.
    pub(super) fn for_request(&self, received: Option<&HeaderValue>) -> RequestId {
        if let Some(received) = received {
            return RequestId(received.clone());
        }
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        let n_digits = (count.ilog2() as usize / 4 + 1).max(MIN_COUNTER_DIGITS);
        let mut digits = [0; PREFIX_BYTES + 16];
        let (prefix, counter) = digits.split_at_mut(PREFIX_BYTES);
        prefix.copy_from_slice(&self.prefix);
        write_hex(count, counter.get_mut(..n_digits).unwrap_or_default());
        let id = digits.get(..PREFIX_BYTES + n_digits).unwrap_or_default();
        RequestId(
            HeaderValue::from_maybe_shared(buffer_pool::copy(id))
                .expect("hexadecimal digits are a field value"),
        )
    }
}

impl RequestId {
    /// Returns the id as ASCII bytes.
    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Returns the id as text.
    pub(super) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }

    /// Returns the id as a field value.
    pub(super) fn into_value(self) -> HeaderValue {
        self.0
    }
}

/// True if an id from a trusted peer may be used in fields and logs: it consists of letters, digits
/// and `._-@`, at most [`MAX_ID_BYTES`].
pub(super) fn is_acceptable(id: &HeaderValue) -> bool {
    !id.is_empty()
        && id.len() <= MAX_ID_BYTES
        && id.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-@".contains(byte))
}

/// Returns a rejected id for the log: escaped and cut to [`MAX_ID_BYTES`].
pub(super) fn escaped(id: &HeaderValue) -> String {
    let bytes = id.as_bytes();
    bytes.get(..MAX_ID_BYTES).unwrap_or(bytes).escape_ascii().to_string()
}

/// Writes the last digits of a hexadecimal number, with leading zeros.
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
        for (count, digits) in
            [(0xff_ffff, "ffffff"), (0x100_0000, "1000000"), (u64::MAX, "ffffffffffffffff")]
        {
            ids.count.store(count - 1, Ordering::Relaxed);
            let id = ids.for_request(None);
            assert_eq!(id.as_str().get(PREFIX_BYTES..), Some(digits));
        }
    }

    #[test]
    fn an_id_is_accepted_if_it_is_short_and_plain() {
        let ids = RequestIds::new();
        let kept = HeaderValue::from_static("7f3-A_b.c@d");
        assert!(is_acceptable(&kept));
        assert_eq!(ids.for_request(Some(&kept)).as_str(), "7f3-A_b.c@d");
        for bad in [&b""[..], b"a b", b"a\tb", b"a\"b", b"a\xff", &[b'x'; 129]] {
            assert!(!is_acceptable(&HeaderValue::from_bytes(bad).unwrap()), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn a_rejected_id_is_escaped_for_the_log() {
        for (id, text) in [
            (&b"a b"[..], "a b".to_owned()),
            (b"a\t\xff", "a\\t\\xff".to_owned()),
            (&[b'x'; 200], "x".repeat(128)),
        ] {
            assert_eq!(escaped(&HeaderValue::from_bytes(id).unwrap()), text);
        }
    }
}
