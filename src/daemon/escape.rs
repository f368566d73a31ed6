//! Escapes text of clients and applications for the log: an unprintable character becomes `\xNN`
//! (ASCII, or a byte that is not UTF-8) or `\u{NNNN}`.
//!
//! Clients choose paths, and exceptions contain input of clients. Unescaped, such text could
//! control the reader's terminal (control characters, C1 included), reorder the line (U+202E), or
//! be invisible (zero width, tags); and journalctl(1) shows `[blob data]` for a message with
//! control characters. The backslash is not escaped: tracebacks are full of it.
//! [`RequestPath::raw`] returns the original bytes.

use std::borrow::Cow;
use std::fmt::{self, Display, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The treatment of line feeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineFeeds {
    /// Line feeds stay, as in a traceback.
    Keep,
    /// Line feeds are escaped: the text stays one line.
    Escape,
}

/// Escapes a path of the file system, which need not be UTF-8.
pub fn escape_path(path: &Path) -> Cow<'_, str> {
    escape_bytes(path.as_os_str().as_bytes(), LineFeeds::Escape)
}

/// Escapes unprintable characters. Tabs stay.
pub fn escape(text: &str, lines: LineFeeds) -> Cow<'_, str> {
    escape_bytes(text.as_bytes(), lines)
}

/// Escapes bytes that may not be UTF-8, as [`escape`] does.
pub fn escape_bytes(bytes: &[u8], lines: LineFeeds) -> Cow<'_, str> {
    let is_plain =
        |byte: &u8| matches!(byte, b' '..=b'~' | b'\t') || (lines == LineFeeds::Keep && *byte == b'\n');
    if bytes.iter().all(is_plain)
        && let Ok(text) = str::from_utf8(bytes)
    {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(bytes.len() + 16);
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            push(&mut shown, character, lines);
        }
        for byte in chunk.invalid() {
            push_byte(&mut shown, *byte);
        }
    }
    Cow::Owned(shown)
}

fn push(shown: &mut String, character: char, lines: LineFeeds) {
    match character {
        '\n' if lines == LineFeeds::Keep => shown.push(character),
        '\t' | ' '..='~' => shown.push(character),
        '\0'..='\x7f' => push_byte(shown, character as u8),
        _ if is_printable(character) => shown.push(character),
        _ => {
            // Writing to a String cannot fail.
            let _ = write!(shown, "\\u{{{:x}}}", u32::from(character));
        }
    }
}

fn push_byte(shown: &mut String, byte: u8) {
    // Writing to a String cannot fail.
    let _ = write!(shown, "\\x{byte:02x}");
}

/// Returns whether a character beyond ASCII is visible. The standard library's Unicode tables are
/// only accessible through `escape_debug`. It escapes a combining mark that follows no letter, so
/// the character is tested after a letter.
fn is_printable(character: char) -> bool {
    let is_line_end = matches!(character, '\u{2028}' | '\u{2029}');
    if character.is_whitespace() {
        return !character.is_control() && !is_line_end;
    }
    let mut pair = [b'a', 0, 0, 0, 0];
    let len = 1 + character.encode_utf8(&mut pair[1..]).len();
    let pair = str::from_utf8(&pair[..len]).unwrap_or_default();
    !is_invisible(character) && pair.escape_debug().eq(pair.chars())
}

/// Returns whether a character is invisible although the standard library takes it for printable.
/// Two paths that differ only in such characters would look alike. They are Unicode's
/// Default_Ignorable_Code_Point (with the emoji selector U+FE0F) and the blank Braille pattern.
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{34f}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{2800}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{ffa0}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// The path of a request as sent, without the query, which may hold secrets. A client may send any
/// bytes above 0x7f. [`Display`] escapes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestPath(Box<[u8]>);

impl RequestPath {
    /// Takes the bytes as sent.
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    /// Returns the bytes as sent. `None` if escaping changes nothing.
    pub fn raw(&self) -> Option<&[u8]> {
        matches!(escape_bytes(&self.0, LineFeeds::Escape), Cow::Owned(shown) if shown.as_bytes() != &*self.0)
            .then_some(&*self.0)
    }
}

impl Display for RequestPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape_bytes(&self.0, LineFeeds::Escape))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_text_is_unchanged() {
        for text in [
            "",
            "GET /hello?",
            "/a\tb",
            "C:\\temp \"quoted\" 'it'",
            "/straße/日本語/путь/नमस्ते/مرحبا",
            "cafe\u{301}",
            "a\u{a0}b\u{3000}c",
            "❤ 👍",
        ] {
            assert_eq!(escape(text, LineFeeds::Escape), text);
            assert_eq!(RequestPath::new(text.as_bytes()).raw(), None, "{text}");
        }
    }

    #[test]
    fn unprintable_text_is_escaped() {
        for (bytes, shown) in [
            (&b"\0\x1b[31m\x7f\r"[..], r"\x00\x1b[31m\x7f\x0d"),
            ("\u{80}\u{9b}2J\u{9f}".as_bytes(), r"\u{80}\u{9b}2J\u{9f}"),
            (b"/\x9b\xff\xc2", r"/\x9b\xff\xc2"),
            ("\u{202a}\u{202e}\u{2066}\u{2069}".as_bytes(), r"\u{202a}\u{202e}\u{2066}\u{2069}"),
            ("\u{200b}\u{200d}\u{200f}\u{feff}\u{ad}".as_bytes(), r"\u{200b}\u{200d}\u{200f}\u{feff}\u{ad}"),
            ("\u{2028}\u{2029}\u{85}".as_bytes(), r"\u{2028}\u{2029}\u{85}"),
            (
                "\u{3164}\u{115f}\u{2800}\u{fe0f}\u{ffa0}".as_bytes(),
                r"\u{3164}\u{115f}\u{2800}\u{fe0f}\u{ffa0}",
            ),
            ("\u{e0001}\u{e0041}\u{e007f}\u{e0100}".as_bytes(), r"\u{e0001}\u{e0041}\u{e007f}\u{e0100}"),
            ("\u{e000}\u{ffff}\u{378}\u{10ffff}".as_bytes(), r"\u{e000}\u{ffff}\u{378}\u{10ffff}"),
        ] {
            assert_eq!(escape_bytes(bytes, LineFeeds::Keep), shown);
            let path = RequestPath::new(bytes);
            assert_eq!(path.to_string(), shown);
            assert_eq!(path.raw(), Some(bytes), "{shown}");
        }
    }

    #[test]
    fn line_feeds_stay_only_in_multi_line_text() {
        assert_eq!(escape("a\nb", LineFeeds::Keep), "a\nb");
        assert_eq!(escape("a\nb", LineFeeds::Escape), r"a\x0ab");
        assert_eq!(escape("a\n\u{9b}", LineFeeds::Keep), "a\n\\u{9b}");
    }
}
