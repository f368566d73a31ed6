//! Byte classes of heads and chunks.

use wide::u8x16;

/// True for a character of a token (RFC 9110 §5.6.2): a method, or the name of a field or a chunk
/// extension.
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

/// Returns the position of the first control byte (RFC 9110 §5.5: CTL), or the length if there is
/// none. Checks 16 bytes at a time: most of a head gets no other check.
#[inline]
pub(super) fn find_control(bytes: &[u8]) -> usize {
    let (chunks, rest) = bytes.as_chunks::<16>();
    for (index, chunk) in chunks.iter().enumerate() {
        let chunk = u8x16::new(*chunk);
        let is_above_controls = chunk.max(u8x16::splat(b' ')).simd_eq(chunk);
        let is_delete = chunk.simd_eq(u8x16::splat(0x7f));
        let found = (!is_above_controls | is_delete).to_bitmask();
        if found != 0 {
            return index * 16 + found.trailing_zeros() as usize;
        }
    }
    let tail = rest.iter().position(u8::is_ascii_control).unwrap_or(rest.len());
    chunks.len() * 16 + tail
}

/// Returns the length of the token at the beginning of `bytes`. Checks up to 16 letters and hyphens
/// at once, enough for most field names.
#[inline]
pub(super) fn token_len(bytes: &[u8]) -> usize {
    let mut len = 0;
    if let Some(chunk) = bytes.first_chunk::<16>() {
        let chunk = u8x16::new(*chunk);
        let lower = chunk | u8x16::splat(0x20);
        let is_letter = lower.max(u8x16::splat(b'a')).min(u8x16::splat(b'z')).simd_eq(lower);
        let is_hyphen = chunk.simd_eq(u8x16::splat(b'-'));
        len = (!(is_letter | is_hyphen)).to_bitmask().trailing_zeros().min(16) as usize;
    }
    let rest = bytes.get(len..).unwrap_or_default();
    len + rest.iter().position(|byte| !is_token(*byte)).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every byte value, at every position of a vector and of the tail.
    #[test]
    fn vector_scans_agree_with_the_definitions_of_each_byte() {
        for byte in 0..=u8::MAX {
            for len in [1, 15, 16, 17, 33, 40] {
                for pos in 0..len {
                    let mut bytes = vec![b'a'; len];
                    bytes[pos] = byte;
                    let control = if byte.is_ascii_control() { pos } else { len };
                    let token = if is_token(byte) { len } else { pos };
                    assert_eq!(
                        (find_control(&bytes), token_len(&bytes)),
                        (control, token),
                        "{byte} at {pos}"
                    );
                }
            }
        }
    }
}
