//! Compares a response's body with the length that its head declares.
//!
//! A mismatch is a breach of contract: the client finds the next response on its connection by the
//! declared length (RFC 9112 §6.3).

use std::fmt;

use http::StatusCode;

use crate::dispatch::exchange::response_parts::{ContentLength, Payload, ResponseHead};

/// The declared length of a body and the length of the parts received so far.
#[derive(Debug)]
pub(crate) struct LengthCheck {
    /// The head's Content-Length; absent before the head, and for a 304.
    expected: ContentLength,
    /// The status allows no body.
    forbids_body: bool,
    /// Bytes received so far; `None` after a file of unknown length, which is sent up to its end.
    received: Option<u64>,
    /// A file was received; no other part may follow.
    has_file: bool,
}

/// A body that does not match its head. The text completes a sentence that begins with "the worker
/// sent".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LengthError {
    BodyForbidden,
    BesideFile,
    Overflow,
    Mismatch { received: Option<u64>, expected: ContentLength },
}

impl fmt::Display for LengthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BodyForbidden => f.write_str("a body with a status that forbids one"),
            Self::BesideFile => f.write_str("body bytes in addition to a file"),
            Self::Overflow => f.write_str("more body than can be counted"),
            Self::Mismatch { received, expected } => {
                match received {
                    Some(len) => write!(f, "a body of {len} bytes")?,
                    None => f.write_str("a file of unknown length")?,
                }
                match expected {
                    ContentLength::Bytes(len) => write!(f, " with Content-Length {len}"),
                    ContentLength::Absent | ContentLength::Invalid => {
                        f.write_str(" without a Content-Length")
                    }
                }
            }
        }
    }
}

impl std::error::Error for LengthError {}

impl Default for LengthCheck {
    fn default() -> Self {
        Self { expected: ContentLength::Absent, forbids_body: false, received: Some(0), has_file: false }
    }
}

impl LengthCheck {
    /// Notes the length that the head declares, and whether its status forbids a body.
    pub(crate) fn expect(&mut self, head: &ResponseHead) {
        self.forbids_body = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        // RFC 9110 §15.4.5: the Content-Length of a 304 is that of the 200.
        if head.status != StatusCode::NOT_MODIFIED {
            self.expected = head.length;
        }
    }

    /// Counts a part. `is_complete`: the body ends with this part, and no part was left out.
    /// `is_head` returns whether the request's method is HEAD, whose response declares the length
    /// for GET.
    ///
    /// # Errors
    /// The body so far does not match the head.
    pub(crate) fn count(
        &mut self,
        part: &Payload,
        is_complete: bool,
        is_head: impl FnOnce() -> bool,
    ) -> Result<(), LengthError> {
        let len = part.len();
        let is_file = matches!(part, Payload::File(_));
        if self.forbids_body && len != Some(0) {
            return Err(LengthError::BodyForbidden);
        }
        if self.has_file && len != Some(0) || is_file && self.received != Some(0) {
            return Err(LengthError::BesideFile);
        }
        self.has_file |= is_file;
        self.received = match (self.received, len) {
            (Some(received), Some(len)) => Some(received.checked_add(len).ok_or(LengthError::Overflow)?),
            _ => None,
        };
        let fits = self.received.is_none_or(|received| self.expected.allows(received));
        if fits && (!is_complete || self.expected.matches(self.received)) {
            return Ok(());
        }
        if self.received == Some(0) && is_head() {
            self.expected = ContentLength::Absent;
            return Ok(());
        }
        Err(LengthError::Mismatch { received: self.received, expected: self.expected })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use bytes::Bytes;
    use http::HeaderMap;
    use rgun_channel::frame::UNTIL_EOF;

    use super::*;
    use crate::dispatch::exchange::response_parts::FilePart;

    fn bytes(len: usize) -> Payload {
        Payload::Bytes(Bytes::from(vec![b'x'; len]))
    }

    fn file(len: u64) -> Payload {
        Payload::File(Box::new(FilePart::new(File::open("/dev/null").unwrap().into(), 0, len).unwrap()))
    }

    fn declared(status: StatusCode, length: ContentLength) -> LengthCheck {
        let mut check = LengthCheck::default();
        check.expect(&ResponseHead { status, reason: None, fields: HeaderMap::new(), length });
        check
    }

    /// Counts parts, the last of which ends the body.
    fn all(mut check: LengthCheck, parts: &[Payload], is_head: bool) -> bool {
        let last = parts.len() - 1;
        parts.iter().enumerate().all(|(at, part)| check.count(part, at == last, || is_head).is_ok())
    }

    #[test]
    fn body_must_have_the_declared_length() {
        let five = || declared(StatusCode::OK, ContentLength::Bytes(5));
        assert!(all(five(), &[bytes(2), bytes(3)], false));
        assert!(all(five(), &[file(5)], false));
        for wrong in [&[bytes(2), bytes(2)][..], &[bytes(5), bytes(1)], &[file(4)], &[file(UNTIL_EOF)]] {
            assert!(!all(five(), wrong, false), "{wrong:?}");
            assert!(!all(five(), wrong, true), "of HEAD, too: {wrong:?}");
        }
        assert!(all(five(), &[bytes(0), bytes(0)], true) && !all(five(), &[bytes(0)], false));
        assert!(five().count(&bytes(6), false, || false).is_err(), "before the end, too");
    }

    #[test]
    fn body_without_a_declared_length_may_have_any() {
        let any = || declared(StatusCode::OK, ContentLength::Absent);
        assert!(all(any(), &[bytes(2), bytes(3)], false) && all(any(), &[file(UNTIL_EOF)], false));
        assert!(all(declared(StatusCode::NOT_MODIFIED, ContentLength::Bytes(5)), &[bytes(0)], false));
    }

    #[test]
    fn status_without_a_body_rejects_body_bytes() {
        for status in [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED] {
            for part in [bytes(1), file(1), file(UNTIL_EOF)] {
                assert!(!all(declared(status, ContentLength::Absent), &[part], false), "{status}");
            }
        }
    }

    #[test]
    fn file_must_be_the_whole_body() {
        let any = || declared(StatusCode::OK, ContentLength::Absent);
        assert!(all(any(), &[bytes(0), file(1), bytes(0)], false));
        let max = i64::MAX as u64;
        for extra in
            [[bytes(1), file(1)], [file(1), bytes(1)], [file(UNTIL_EOF), bytes(1)], [file(max), file(max)]]
        {
            assert!(!all(any(), &extra, false), "{extra:?}");
        }
    }
}
