//! The parts of a printed line: text with its request, and records ([`rgun_channel::log_record`]).

use rgun_channel::log_record::{MARKER_BYTES, MAX_RECORD_BYTES, SEPARATOR, TAG};
use serde_json::{Map, Value};

use super::output_entry::{MAX_ID_BYTES, is_request_id, message_of};

/// Maximum number of bytes of a tag.
pub(super) const MAX_TAG_BYTES: usize = MARKER_BYTES + MAX_ID_BYTES + 2;

/// A part of a line.
#[derive(Debug)]
pub(super) enum LinePart<'a> {
    /// Text, and the id of its request.
    Text(&'a [u8], Option<&'a str>),
    /// A record of `logging`.
    Record(Map<String, Value>),
}

/// Returns where a record or tag begins that may continue after the end of `line`; `None` if there is none.
pub(super) fn unfinished(line: &[u8], marker: &[u8]) -> Option<usize> {
    let mut rest_at = 0;
    if let Some(at) = line.windows(marker.len()).rposition(|bytes| bytes == marker) {
        let after = line.get(at + marker.len()..).unwrap_or_default();
        rest_at = match after.first() {
            None => return Some(at),
            Some(b'{') if after.len() <= MAX_RECORD_BYTES => return Some(at),
            Some(&TAG) => match after.iter().take(MAX_TAG_BYTES).position(|byte| *byte == SEPARATOR) {
                Some(end) => at + marker.len() + end + 1,
                None if after.len() < MAX_TAG_BYTES => return Some(at),
                None => at + marker.len(),
            },
            Some(_) => at + marker.len(),
        };
    }
    let rest = line.get(rest_at..).unwrap_or_default();
    let at = rest.iter().rposition(|byte| *byte == SEPARATOR)?;
    rest.get(at..).is_some_and(|end| marker.starts_with(end)).then_some(rest_at + at)
}

/// Splits a line at its tags and records, which begin with `marker`. `request` is that of the text before
/// the first tag.
pub(super) fn parts<'a>(
    line: &'a [u8],
    mut request: Option<&'a str>,
    marker: Option<&[u8]>,
) -> Vec<LinePart<'a>> {
    let Some(marker) = marker else { return vec![LinePart::Text(line, request)] };
    let (mut parts, mut text) = (Vec::new(), line);
    while let Some(at) = find(text, marker) {
        let before = text.get(..at).unwrap_or_default();
        let after = text.get(at + marker.len()..).unwrap_or_default();
        if !before.is_empty() {
            parts.push(LinePart::Text(before, request));
        }
        if let Some((id, rest)) = tag(after) {
            (request, text) = (id, rest);
        } else if let Some(record) = record(after) {
            parts.push(LinePart::Record(record));
            return parts;
        } else {
            // Torn: a text without the token.
            text = after;
        }
    }
    if !text.is_empty() || parts.is_empty() {
        parts.push(LinePart::Text(text, request));
    }
    parts
}

/// Returns where a marker begins.
fn find(text: &[u8], marker: &[u8]) -> Option<usize> {
    let mut searched = 0;
    loop {
        let rest = text.get(searched..)?;
        let at = searched + rest.iter().position(|byte| *byte == SEPARATOR)?;
        if text.get(at..)?.starts_with(marker) {
            return Some(at);
        }
        searched = at + 1;
    }
}

/// Splits off the tag that follows a marker: the id in it, and the rest of the line.
fn tag(bytes: &[u8]) -> Option<(Option<&str>, &[u8])> {
    let bytes = bytes.strip_prefix(&[TAG])?;
    let end = bytes.iter().take(MAX_TAG_BYTES).position(|byte| *byte == SEPARATOR)?;
    let id = str::from_utf8(bytes.get(..end)?).ok()?;
    let rest = bytes.get(end + 1..)?;
    if id.is_empty() { Some((None, rest)) } else { is_request_id(id).then_some((Some(id), rest)) }
}

/// Returns the record that follows a marker.
fn record(bytes: &[u8]) -> Option<Map<String, Value>> {
    if !bytes.starts_with(b"{") {
        return None;
    }
    let object: Map<String, Value> = serde_json::from_slice(bytes).ok()?;
    message_of(&object).is_some().then_some(object)
}

#[cfg(test)]
pub(super) mod test_lines {
    //! Lines with records and tags.

    use rgun_channel::log_record::LogToken;

    pub(in super::super) const RECORD: &[u8] = b"{\"rgun\":\"record\",\"priority\":4,\"message\":\"m\"}";

    pub(in super::super) fn token() -> LogToken {
        LogToken::from_random([7; 8])
    }

    /// Returns bytes with the token of the process in place of each `#`.
    pub(in super::super) fn marked(bytes: &[u8]) -> Vec<u8> {
        let marker = token().marker();
        let digits = marker.trim_start_matches('\x1e');
        bytes
            .iter()
            .flat_map(|byte| if *byte == b'#' { digits.as_bytes().to_vec() } else { vec![*byte] })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use rgun_channel::log_record::LogToken;

    use super::test_lines::{RECORD, marked, token};
    use super::*;

    /// Returns the parts of a line, each as its text with its request; a record as its message.
    fn texts(line: &[u8]) -> Vec<String> {
        let shown = |part: &LinePart<'_>| match part {
            LinePart::Text(text, request) => {
                format!("{}|{}", text.escape_ascii(), request.unwrap_or("-"))
            }
            LinePart::Record(record) => format!("record {}", record["message"]),
        };
        let marker = token().marker();
        parts(&marked(line), None, Some(marker.as_bytes())).iter().map(shown).collect()
    }

    #[test]
    fn line_without_separator_is_one_text() {
        assert_eq!(texts(b"hello"), ["hello|-"]);
        assert_eq!(texts(b""), ["|-"]);
    }

    #[test]
    fn tags_name_the_requests_of_the_text_after_them() {
        assert_eq!(texts(b"\x1e#@a-1\x1ehello"), ["hello|a-1"]);
        assert_eq!(texts(b"x\x1e#@a\x1ey\x1e#@b\x1ez\x1e#@\x1eend"), ["x|-", "y|a", "z|b", "end|-"]);
        assert_eq!(texts(b"\x1e#@a\x1e"), ["|a"]);
    }

    #[test]
    fn record_ends_the_text_before_it() {
        assert_eq!(texts(&[b"\x1e#", RECORD].concat()), ["record \"m\""]);
        assert_eq!(texts(&[b"\x1e#@a\x1epartial\x1e#", RECORD].concat()), ["partial|a", "record \"m\""]);
    }

    #[test]
    fn torn_records_and_tags_are_text_without_the_token() {
        let torn = RECORD.get(..20).unwrap();
        assert_eq!(texts(&[b"\x1e#", torn].concat()), [format!("{}|-", torn.escape_ascii())]);
        assert_eq!(
            texts(&[b"a\x1e#", torn, b"\x1e#", RECORD].concat()),
            ["a|-".to_owned(), format!("{}|-", torn.escape_ascii()), "record \"m\"".to_owned()]
        );
        for (line, text) in [
            (&b"\x1e#@no space\x1ex"[..], "@no space\\x1ex|-"),
            (b"\x1e#@a", "@a|-"),
            (b"\x1e#", "|-"),
            (b"\x1e#{\"json\":\"sequence\"}", "{\\\"json\\\":\\\"sequence\\\"}|-"),
        ] {
            assert_eq!(texts(line), [text]);
        }
    }

    #[test]
    fn records_and_tags_without_the_token_are_text() {
        let other = LogToken::from_random([8; 8]).marker();
        for line in [
            &[b"\x1e", RECORD].concat()[..],
            &[other.as_bytes(), RECORD].concat(),
            b"\x1e@victim-1\x1ebought",
            &[other.as_bytes(), b"@victim-1\x1ebought"].concat(),
            b"a\x1eb",
            b"\x1e",
        ] {
            assert_eq!(texts(line), [format!("{}|-", line.escape_ascii())]);
            let marked = [&marked(b"\x1e#@a\x1e"), line].concat();
            assert_eq!(texts(&marked), [format!("{}|a", line.escape_ascii())]);
        }
    }

    #[test]
    fn stream_without_a_token_has_no_records() {
        let line = marked(&[b"\x1e#@a\x1ex\x1e#", RECORD].concat());
        let parts = parts(&line, None, None);
        assert!(matches!(parts[..], [LinePart::Text(text, None)] if text == line));
    }

    #[test]
    fn records_and_tags_that_may_continue_are_found() {
        let marker = token().marker();
        let at = |line: &[u8]| unfinished(line, marker.as_bytes());
        let torn = marker.as_bytes().get(..9).unwrap();
        assert_eq!(at(&marked(b"text\x1e#{\"rgun\"")), Some(4));
        assert_eq!(at(&marked(b"text\x1e#@ab")), Some(4));
        assert_eq!(at(&marked(b"text\x1e#")), Some(4));
        assert_eq!(at(&[b"text", torn].concat()), Some(4));
        assert_eq!(at(&[&marked(b"\x1e#@a\x1etext")[..], torn].concat()), Some(MARKER_BYTES + 7));
        assert_eq!(at(b"text\x1e"), Some(4));
        for line in [&b"text"[..], b"\x1e#@ab\x1e", b"\x1e#@ab\x1etext", b"\x1etext", b"\x1e#text"] {
            assert_eq!(at(&marked(line)), None, "{}", line.escape_ascii());
        }
        assert_eq!(at(&[marked(b"\x1e#{"), vec![b'x'; MAX_RECORD_BYTES]].concat()), None);
        assert_eq!(at(&[marked(b"\x1e#@"), vec![b'x'; MAX_TAG_BYTES]].concat()), None);
    }
}
