//! How much of an answer's body its worker has delivered, against what the answer's head announces.
//!
//! `exchange` counts every part here before it keeps it. What does not add up is a breach of the contract: the client
//! goes by the announced length to find the next answer on its connection (RFC 9112 §6.3).

use http::StatusCode;

use crate::dispatch::exchange::response_parts::{ContentLength, Payload, ResponseHead};

/// The parts of one body, counted.
#[derive(Debug)]
pub(crate) struct LengthCheck {
    /// What the head announces; nothing before it, and of a 304.
    expected: ContentLength,
    /// Its status has no body.
    forbids_body: bool,
    /// Bytes so far; `None` with a file of which as many are sent as there are.
    received: Option<u64>,
    /// A file has come: nothing may follow it.
    has_file: bool,
}

impl LengthCheck {
    pub(crate) const fn new() -> Self {
        Self { expected: ContentLength::Absent, forbids_body: false, received: Some(0), has_file: false }
    }

    /// Takes note of a head.
    pub(crate) fn expect(&mut self, head: &ResponseHead) {
        self.forbids_body = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        // RFC 9110 §15.4.5: a 304 announces what a 200 would bring.
        if head.status != StatusCode::NOT_MODIFIED {
            self.expected = head.length;
        }
    }

    /// Counts a part. `is_complete`: nothing follows it, and nothing was left out because nobody waits for it. `is_head`
    /// says whether the request's method is HEAD, whose answer announces what GET would bring.
    ///
    /// # Errors
    /// When it is not what was announced.
    pub(crate) fn count(
        &mut self,
        part: &Payload,
        is_complete: bool,
        is_head: impl FnOnce() -> bool,
    ) -> Result<(), String> {
        let len = part.len();
        let is_file = matches!(part, Payload::File(_));
        if self.forbids_body && len != Some(0) {
            return Err("body with a status that has none".to_owned());
        }
        if self.has_file && len != Some(0) || is_file && self.received != Some(0) {
            return Err("body beside a file".to_owned());
        }
        self.has_file |= is_file;
        self.received = match (self.received, len) {
            (Some(sum), Some(len)) => {
                Some(sum.checked_add(len).ok_or_else(|| "more body than can be counted".to_owned())?)
            }
            _ => None,
        };
        let fits = self.received.is_none_or(|sum| self.expected.allows(sum));
        if fits && (!is_complete || self.expected.matches(self.received)) {
            return Ok(());
        }
        if self.received == Some(0) && is_head() {
            self.expected = ContentLength::Absent;
            return Ok(());
        }
        Err(format!("body of {:?} bytes and announced {:?}", self.received, self.expected))
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
        Payload::File(FilePart::new(File::open("/dev/null").unwrap().into(), 0, len).unwrap())
    }

    fn announced(status: StatusCode, length: ContentLength) -> LengthCheck {
        let mut delivery = LengthCheck::new();
        delivery.expect(&ResponseHead { status, reason: None, fields: HeaderMap::new(), length });
        delivery
    }

    /// Counts parts, the last of which is complete.
    fn all(mut delivery: LengthCheck, parts: &[Payload], is_head: bool) -> bool {
        let last = parts.len() - 1;
        parts.iter().enumerate().all(|(at, part)| delivery.count(part, at == last, || is_head).is_ok())
    }

    #[test]
    fn a_body_has_the_announced_length() {
        let five = || announced(StatusCode::OK, ContentLength::Bytes(5));
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
    fn a_body_without_an_announced_length_has_any() {
        let any = || announced(StatusCode::OK, ContentLength::Absent);
        assert!(all(any(), &[bytes(2), bytes(3)], false) && all(any(), &[file(UNTIL_EOF)], false));
        assert!(all(announced(StatusCode::NOT_MODIFIED, ContentLength::Bytes(5)), &[bytes(0)], false));
    }

    #[test]
    fn a_status_without_a_body_has_none() {
        for status in [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED] {
            for part in [bytes(1), file(1), file(UNTIL_EOF)] {
                assert!(!all(announced(status, ContentLength::Absent), &[part], false), "{status}");
            }
        }
    }

    #[test]
    fn a_file_is_all_of_a_body() {
        let any = || announced(StatusCode::OK, ContentLength::Absent);
        assert!(all(any(), &[bytes(0), file(1), bytes(0)], false));
        let most = i64::MAX as u64;
        for beside in
            [[bytes(1), file(1)], [file(1), bytes(1)], [file(UNTIL_EOF), bytes(1)], [file(most), file(most)]]
        {
            assert!(!all(any(), &beside, false), "{beside:?}");
        }
    }
}
