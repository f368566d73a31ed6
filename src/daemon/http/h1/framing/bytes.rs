//! Byte classes of heads and chunks.

/// True for a character of a token (RFC 9110 §5.6.2): a method, or the name of a field or a chunk extension.
#[inline]
pub(super) fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

static TOKEN: [bool; 256] = table(b"!#$%&'*+-.^_`|~");

/// Returns a table that is true for ASCII letters, digits, and `others`.
pub(super) const fn table(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        #[expect(clippy::cast_possible_truncation, reason = "it is below 128")]
        let letter = (byte as u8).is_ascii_alphanumeric();
        table[byte] = letter;
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
}

/// Returns the position of the first control byte (RFC 9110 §5.5: CTL), or the length. Checks eight bytes at a time: most
/// of a head gets no other check.
#[inline]
pub(super) fn find_control(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    let (words, rest) = bytes.as_chunks::<8>();
    for (nr, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let delete = word ^ (ONES * 0x7f);
        // The high bit of each byte below 0x20 or equal to 0x7f. A borrow can set a wrong bit only above a right one, and
        // only the lowest is used.
        let found =
            (word.wrapping_sub(ONES * 0x20) & !word | delete.wrapping_sub(ONES) & !delete) & (ONES * 0x80);
        if found != 0 {
            return nr * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let tail = rest.iter().position(u8::is_ascii_control).unwrap_or(rest.len());
    words.len() * 8 + tail
}
