//! Validates the UTF-8 of a text message that arrives in pieces (RFC 6455 §8.1), and fails at the
//! first invalid byte.

/// The state between two pieces.
#[derive(Debug, Default)]
pub(super) struct Utf8Validator {
    /// The first bytes of a character whose last bytes have not arrived.
    partial: [u8; 4],
    /// Bytes in `partial`.
    len: usize,
}

/// The error for text that is not UTF-8, whatever bytes follow.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InvalidUtf8;

impl Utf8Validator {
    /// Validates the next piece.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), InvalidUtf8> {
        while self.len > 0 {
            let Some((first, rest)) = bytes.split_first() else { return Ok(()) };
            bytes = rest;
            // No character has more than four bytes.
            *self.partial.get_mut(self.len).ok_or(InvalidUtf8)? = *first;
            self.len += 1;
            match std::str::from_utf8(self.partial.get(..self.len).unwrap_or_default()) {
                Ok(_) => self.len = 0,
                Err(error) if error.error_len().is_none() => {}
                Err(_) => return Err(InvalidUtf8),
            }
        }
        match std::str::from_utf8(bytes) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_none() => {
                let partial = bytes.get(error.valid_up_to()..).unwrap_or_default();
                self.partial.get_mut(..partial.len()).ok_or(InvalidUtf8)?.copy_from_slice(partial);
                self.len = partial.len();
                Ok(())
            }
            Err(_) => Err(InvalidUtf8),
        }
    }

    /// Checks at the end of the text that the last character is complete.
    pub(super) fn finish(&self) -> Result<(), InvalidUtf8> {
        if self.len == 0 { Ok(()) } else { Err(InvalidUtf8) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pieces: &[&[u8]]) -> Result<(), InvalidUtf8> {
        let mut utf8 = Utf8Validator::default();
        for piece in pieces {
            utf8.push(piece)?;
        }
        utf8.finish()
    }

    #[test]
    fn valid_text_is_accepted_for_all_splits() {
        let text = "Hello-µ@ßöäüàá-UTF-8!! κόσμε 𐍈 \u{10ffff}\u{0}".as_bytes();
        for one in 0..text.len() {
            for other in one..text.len() {
                assert_eq!(
                    check(&[&text[..one], &text[one..other], &text[other..]]),
                    Ok(()),
                    "{one} {other}"
                );
            }
        }
        let bytes: Vec<_> = text.chunks(1).collect();
        assert_eq!(check(&bytes), Ok(()));
    }

    #[test]
    fn invalid_text_is_rejected_for_all_splits() {
        // Autobahn 6.4: an impossible continuation, a surrogate, an overlong form, beyond U+10FFFF,
        // a stray byte, and an incomplete character.
        for bad in [
            &b"\xce\xba\xe1\xbd\xb9\xf4\x90\x80\x80ed"[..],
            b"\xed\xa0\x80",
            b"\xc0\xaf",
            b"\xf8\x88\x80\x80\x80",
            b"\x80",
            b"abc\xe4\xb8",
        ] {
            for cut in 0..=bad.len() {
                assert_eq!(check(&[&bad[..cut], &bad[cut..]]), Err(InvalidUtf8), "{bad:x?} cut at {cut}");
            }
            let bytes: Vec<_> = bad.chunks(1).collect();
            assert_eq!(check(&bytes), Err(InvalidUtf8), "{bad:x?}");
        }
    }

    #[test]
    fn error_is_reported_at_the_first_invalid_byte() {
        let mut utf8 = Utf8Validator::default();
        assert_eq!(utf8.push(b"abc\xf4"), Ok(()));
        assert_eq!(utf8.push(b"\x90"), Err(InvalidUtf8));
    }
}
