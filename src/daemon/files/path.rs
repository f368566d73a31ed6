//! Decodes the path of a URL into a path below a directory.

/// The only name with a leading dot that is served (RFC 8615).
const WELL_KNOWN: &[u8] = b".well-known";

/// Whether names with a leading dot are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dotfiles {
    /// Only `.well-known`.
    Hidden,
    /// All of them.
    Served,
}

/// A path below a directory. No segment is empty, `.` or `..`; no byte is NUL or a backslash.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RelativePath {
    /// Segments with one `/` between them; empty for the directory itself.
    bytes: Vec<u8>,
    /// The path in the URL ends with `/`, or is empty.
    pub(super) names_directory: bool,
}

impl RelativePath {
    /// Decodes the part of a URL's path after a mount's prefix. Returns `None` if it cannot name a
    /// file that is served.
    ///
    /// A percent-encoded slash is refused, because proxies and servers disagree about its meaning.
    /// A backslash is refused, because some clients turn it into a slash.
    pub(super) fn decode(encoded: &[u8], dotfiles: Dotfiles) -> Option<Self> {
        let names_directory = encoded.is_empty() || encoded.ends_with(b"/");
        let trimmed = encoded.strip_suffix(b"/").unwrap_or(encoded);
        let mut bytes = Vec::with_capacity(trimmed.len());
        if trimmed.is_empty() {
            // "//" after the prefix is an empty segment.
            return (encoded.is_empty()).then_some(Self { bytes, names_directory });
        }
        for segment in trimmed.split(|byte| *byte == b'/') {
            if !bytes.is_empty() {
                bytes.push(b'/');
            }
            let start = bytes.len();
            decode_segment(segment, &mut bytes)?;
            let name = bytes.get(start..)?;
            let is_hidden = name.starts_with(b".") && dotfiles == Dotfiles::Hidden && name != WELL_KNOWN;
            if name.is_empty() || name == b"." || name == b".." || is_hidden {
                return None;
            }
        }
        Some(Self { bytes, names_directory })
    }

    /// Returns the path of the directory itself, as a URL without a final slash names it.
    pub(super) fn root_without_slash() -> Self {
        Self { bytes: Vec::new(), names_directory: false }
    }

    /// Returns the path for `openat2(2)`: `.` for the directory itself.
    pub(super) fn as_bytes(&self) -> &[u8] {
        if self.bytes.is_empty() { b"." } else { &self.bytes }
    }

    /// Returns the path of a file in the directory that this path names.
    pub(super) fn join(&self, name: &str) -> Vec<u8> {
        if self.bytes.is_empty() {
            return name.as_bytes().to_vec();
        }
        [&self.bytes, name.as_bytes()].join(&b'/')
    }
}

/// Returns the last segment of a path.
pub(super) fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// Appends a decoded segment; `None` if it has an invalid escape or a byte that is refused.
fn decode_segment(segment: &[u8], decoded: &mut Vec<u8>) -> Option<()> {
    let mut rest = segment.iter();
    while let Some(byte) = rest.next() {
        let byte = if *byte == b'%' { hex(*rest.next()?)? << 4 | hex(*rest.next()?)? } else { *byte };
        if matches!(byte, 0 | b'/' | b'\\') {
            return None;
        }
        decoded.push(byte);
    }
    Some(())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(path: &str) -> Option<String> {
        RelativePath::decode(path.as_bytes(), Dotfiles::Hidden)
            .map(|path| String::from_utf8_lossy(path.as_bytes()).into_owned())
    }

    #[test]
    fn paths_are_decoded_segment_by_segment() {
        for (path, expected) in [
            ("", "."),
            ("a.css", "a.css"),
            ("css/a%20b.css", "css/a b.css"),
            ("css/", "css"),
            ("%61%2e%63", "a.c"),
            ("a..b/c...", "a..b/c..."),
            (".well-known/acme-challenge/x", ".well-known/acme-challenge/x"),
            ("a%25b", "a%b"),
            ("%C3%BC", "ü"),
        ] {
            assert_eq!(decoded(path).as_deref(), Some(expected), "{path}");
        }
    }

    #[test]
    fn paths_that_could_escape_or_mislead_are_refused() {
        for path in [
            "..",
            "../a",
            "a/../b",
            "a/..",
            "%2e%2e/a",
            ".%2e/a",
            "a/%2E%2E/b",
            ".",
            "./a",
            "a/./b",
            "%2e",
            "//",
            "/a",
            "a//b",
            "a//",
            "a%2fb",
            "a%2Fb",
            "..%2fa",
            "%2f",
            "a%00",
            "%00",
            "a\\b",
            "..\\a",
            "a%5cb",
            "%5C..",
            "a%",
            "a%2",
            "a%zz",
            "%+1",
            ".env",
            ".git/config",
            "a/.hidden",
            "%2egit/config",
            ".well-known2",
            "a/.htpasswd",
        ] {
            assert_eq!(decoded(path), None, "{path}");
        }
        let served = RelativePath::decode(b".thumbs/a.png", Dotfiles::Served);
        assert_eq!(served.unwrap().as_bytes(), b".thumbs/a.png");
        assert_eq!(RelativePath::decode(b"a/../b", Dotfiles::Served), None);
    }
}
