//! Is text that comes in pieces UTF-8 as a whole (RFC 6455 §8.1)? Told as early as a byte makes it impossible.

/// What it ends with so far.
#[derive(Debug, Default)]
pub(super) struct Utf8Validator {
    /// The beginning of a character of which the rest is to come.
    partial: [u8; 4],
    len: usize,
}

/// It is not, whatever follows.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InvalidUtf8;

impl Utf8Validator {
    /// The next piece.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), InvalidUtf8> {
        while self.len > 0 {
            let Some((first, rest)) = bytes.split_first() else { return Ok(()) };
            bytes = rest;
            // Four bytes are a character or none.
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
                let begun = bytes.get(error.valid_up_to()..).unwrap_or_default();
                self.partial.get_mut(..begun.len()).ok_or(InvalidUtf8)?.copy_from_slice(begun);
                self.len = begun.len();
                Ok(())
            }
            Err(_) => Err(InvalidUtf8),
        }
    }

    /// Nothing follows.
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
    fn text_may_be_cut_anywhere() {
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
    fn what_is_not_utf_8_is_found_wherever_it_is_cut() {
        // Autobahn 6.4: an impossible continuation, a surrogate, an overlong form, beyond U+10FFFF, a stray byte, and
        // a character that does not end.
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
    fn it_is_told_as_soon_as_no_byte_can_help() {
        let mut utf8 = Utf8Validator::default();
        assert_eq!(utf8.push(b"abc\xf4"), Ok(()));
        assert_eq!(utf8.push(b"\x90"), Err(InvalidUtf8));
    }
}
