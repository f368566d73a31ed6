//! Recognises names that contain a hash of the file's content: such a file never changes.

/// Minimum number of hexadecimal digits of a hash: webpack's and Parcel's have 8, Django's 12.
const MIN_HEX_DIGITS: usize = 8;
/// The hexadecimal digits in the groups of a UUID (RFC 9562 §4), and its length.
const UUID_GROUPS: [usize; 5] = [8, 4, 4, 4, 12];
const UUID_LEN: usize = 36;
/// Length of a hash of Vite and Rollup.
const BASE64_LEN: usize = 8;

/// Returns true if a part of the name between `.` or `-` is a hash, as in `base.55e7cbb9ba48.css`
/// (Django's `ManifestStaticFilesStorage`), `main.8e0d62a1.js` (webpack) and `index-BfQ3xZ1a.js`
/// (Vite).
///
/// A false positive keeps an old file in browsers for a year, a false negative only costs a
/// request. So words, dates and UUIDs do not count as hashes, and about a third of Vite's names are not
/// recognised (`immutable = true` is for these).
pub(super) fn is_hashed(name: &[u8]) -> bool {
    let Ok(name) = str::from_utf8(name) else { return false };
    let mut parts = name.split('.');
    // In the part before the first dot, a hash follows a `-`. A later part may be a hash alone.
    let stem = parts.next().unwrap_or_default();
    // The last part is the extension, unless it is itself a hash (Django, for a name without an
    // extension).
    parts.any(is_hex_hash) || has_hashed_suffix(stem) && name.contains('.')
}

fn has_hashed_suffix(stem: &str) -> bool {
    if ends_with_uuid(stem) {
        return false;
    }
    let is_base64_hash = |stem: &str| {
        let start = stem.len().checked_sub(BASE64_LEN + 1)?;
        let (rest, hash) = (stem.get(..start)?, stem.get(start..)?.strip_prefix('-')?);
        Some(!rest.is_empty() && is_base64_hash(hash))
    };
    let hex = stem.rsplit_once('-').is_some_and(|(rest, hash)| !rest.is_empty() && is_hex_hash(hash));
    hex || is_base64_hash(stem).unwrap_or(false)
}

/// True for a name of an upload: its content may be replaced. The last group of a UUID looks like a
/// hash.
fn ends_with_uuid(stem: &str) -> bool {
    let Some(uuid) = stem.len().checked_sub(UUID_LEN).and_then(|start| stem.get(start..)) else {
        return false;
    };
    let is_group = |(group, len): (&str, &usize)| {
        group.len() == *len && group.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    uuid.split('-').count() == UUID_GROUPS.len() && uuid.split('-').zip(&UUID_GROUPS).all(is_group)
}

/// True for a hash in hexadecimal. It has digits and letters: digits alone are a date or a version,
/// letters alone may be a word.
fn is_hex_hash(part: &str) -> bool {
    part.len() >= MIN_HEX_DIGITS
        && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        && part.bytes().any(|byte| byte.is_ascii_digit())
        && part.bytes().any(|byte| byte.is_ascii_lowercase())
}

/// True for a hash in base64url. It has letters of both cases and a digit before a letter, unlike
/// `document`, `MyWidget` and `iPhone15`.
fn is_base64_hash(hash: &str) -> bool {
    let bytes = hash.as_bytes();
    let digit = bytes.iter().position(u8::is_ascii_digit);
    bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
        && bytes.iter().any(u8::is_ascii_uppercase)
        && bytes.iter().any(u8::is_ascii_lowercase)
        && digit.is_some_and(|digit| bytes.iter().skip(digit).any(u8::is_ascii_alphabetic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_a_content_hash_are_recognised() {
        for name in [
            "base.55e7cbb9ba48.css",
            "jquery.min.3f2a1b4c5d6e.js",
            "LICENSE.2c9b4a7d8e1f",
            "main.8e0d62a1.js",
            "main.8e0d62a1.chunk.js",
            "app-3fa1b2c8.css",
            "a-f47ac10b-58cc-4372-a56-0e02b2c3d479.css",
            "f47ac10b-58cc-4372-a567-0e02b2c3d479.55e7cbb9ba48.pdf",
            "index-BfQ3xZ1a.js",
            "index-BfQ3xZ1a.js.map",
            "vendor-react-D4x_k-Qp.js",
            "inter-Bd2-9aXQ.woff2",
        ] {
            assert!(is_hashed(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn names_of_words_versions_and_dates_are_not_hashed() {
        for name in [
            "index.html",
            "my-document.css",
            "report-20241231.pdf",
            "report.20241231.pdf",
            "lib-MyWidget.js",
            "photo-iPhone15.jpg",
            "jquery-3.7.1.min.js",
            "bootstrap.bundle.min.js",
            "deadbeef.txt",
            "app-deadbeef.js",
            "-BfQ3xZ1a.js",
            "55e7cbb9ba48.css",
            "backup.202412312359.sql",
            // 3.5 in 1,000 hashes of Django have digits only, as timestamps do.
            "icon-no.030751157345.svg",
            "f47ac10b-58cc-4372-a567-0e02b2c3d479.pdf",
            "F47AC10B-58CC-4372-A567-0E02B2C3D479.pdf",
            "upload-f47ac10b-58cc-4372-a567-0e02b2c3d479.tar.gz",
            "index-BfQ3xZ1a",
            "a.b",
            "",
            ".",
            "-",
            "--------.js",
        ] {
            assert!(!is_hashed(name.as_bytes()), "{name}");
        }
        assert!(!is_hashed(b"\xff.55e7cbb9ba48.css"));
    }
}
