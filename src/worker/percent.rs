//! Percent-decoding of paths (RFC 3986 §2.1), and `app.root_path` in them, for both interfaces.

/// Decodes a path (RFC 3986 §2.1). A `%` without two hexadecimal digits is kept.
pub(crate) fn percent_decode(path: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, after @ ..] = rest {
        if let (b'%', [high, low, after @ ..]) = (first, after)
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            decoded.push(high << 4 | low);
            rest = after;
        } else {
            decoded.push(*first);
            rest = after;
        }
    }
    decoded
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// Strips the root path if the path begins with it, up to the end of a segment: `/app` is not a
/// prefix of `/apple`.
pub(crate) fn strip_root<'p>(path: &'p [u8], root: &[u8]) -> Option<&'p [u8]> {
    path.strip_prefix(root).filter(|rest| rest.first().is_none_or(|byte| *byte == b'/'))
}
