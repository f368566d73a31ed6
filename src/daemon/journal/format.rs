//! Formats an event of `tracing` as one entry: a line for a terminal, a line of text or JSON, or
//! journald's native protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>). Message and fields
//! are escaped ([`crate::escape`]). Fields of bytes ([`Visit::record_bytes`]) are unescaped in
//! journald's binary form, and omitted from text.
//!
//! Field names are written `rgun.worker` in the code; journald gets `RGUN_WORKER`.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};

use crate::escape::{LineFeeds, escape};

use super::markers::{MESSAGE_ID, WHOLE_LINE};
use super::{json, terminal};

/// `SYSLOG_IDENTIFIER=` of everything that rgun logs.
const IDENTIFIER: &str = "rgun";

/// The field with the ids of further requests that an entry counts, separated by spaces.
const REQUEST_IDS: &str = "rgun.request_ids";

/// The format of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Lines for a person, with or without ANSI colours.
    Terminal { colours: bool },
    /// Lines of text with all fields.
    Text,
    /// Lines of JSON.
    Json,
    /// A datagram of journald's native protocol.
    Native,
}

impl Format {
    pub(super) fn entry(self, event: &Event<'_>) -> Vec<u8> {
        match self {
            Self::Terminal { colours } => terminal::line(event, colours).into_bytes(),
            Self::Text => text(event).into_bytes(),
            Self::Json => json::line(event, utc_time()).into_bytes(),
            Self::Native => native(event),
        }
    }
}

/// `2026-08-01T10:00:00.000000Z  INFO worker 0 is ready rgun.worker=0`.
fn text(event: &Event<'_>) -> String {
    let mut visitor = TextVisitor::default();
    event.record(&mut visitor);
    let TextVisitor { message, fields, is_whole_line } = visitor;
    if is_whole_line {
        return format!("{message}\n");
    }
    format!("{} {:>5} {message}{fields}\n", utc_time(), event.metadata().level())
}

/// `2026-08-01T10:00:00.000000Z`.
pub(super) fn utc_time() -> String {
    let mut time = String::new();
    if SystemTime.format_time(&mut Writer::new(&mut time)).is_err() {
        time.push_str("<no time>");
    }
    time
}

#[derive(Default)]
struct TextVisitor {
    message: String,
    fields: String,
    is_whole_line: bool,
}

impl TextVisitor {
    fn push(&mut self, field: &Field, value: &str, quote: &str) {
        if field.name() == "message" {
            // Continuation lines are indented, so that no text can look like a new entry.
            self.message.push_str(&escape(value, LineFeeds::Keep).replace('\n', "\n    "));
            return;
        }
        if field.name() == WHOLE_LINE {
            self.is_whole_line = true;
            return;
        }
        if field.name() == MESSAGE_ID {
            return;
        }
        let (name, value) = (field.name(), escape(value, LineFeeds::Escape));
        // Writing to a String cannot fail.
        let _ = write!(self.fields, " {name}={quote}{value}{quote}");
    }
}

impl Visit for TextVisitor {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, &format!("{value:?}"), "");
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, value, "\"");
    }

    fn record_bytes(&mut self, _: &Field, _: &[u8]) {}
}

/// Returns the priority of a level, as in syslog(3).
pub(super) fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

fn native(event: &Event<'_>) -> Vec<u8> {
    let metadata = event.metadata();
    let mut entry = NativeEntry::new(priority(*metadata.level()));
    entry.field("TARGET", metadata.target().as_bytes());
    if let Some(file) = metadata.file() {
        entry.field("CODE_FILE", file.as_bytes());
    }
    if let Some(line) = metadata.line() {
        entry.field("CODE_LINE", line.to_string().as_bytes());
    }
    event.record(&mut entry);
    entry.bytes
}

/// A datagram for journald.
#[derive(Debug)]
pub(super) struct NativeEntry {
    bytes: Vec<u8>,
}

impl NativeEntry {
    /// Starts an entry with the fields that all entries have. `priority` is a level of syslog(3).
    pub(super) fn new(priority: u8) -> Self {
        let mut entry = Self { bytes: Vec::with_capacity(512) };
        entry.field("PRIORITY", priority.to_string().as_bytes());
        entry.field("SYSLOG_IDENTIFIER", IDENTIFIER.as_bytes());
        entry
    }

    /// Appends a field. `name`: capitals, digits and underscores.
    pub(super) fn field(&mut self, name: &str, value: &[u8]) {
        self.bytes.extend_from_slice(name.as_bytes());
        // Values with line feeds need the binary form: length and bytes.
        if value.contains(&b'\n') {
            self.bytes.push(b'\n');
            self.bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            self.bytes.push(b'=');
        }
        self.bytes.extend_from_slice(value);
        self.bytes.push(b'\n');
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn record(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.field("MESSAGE", escape(value, LineFeeds::Keep).as_bytes());
        } else if field.name() == REQUEST_IDS {
            // One field per id, so that a search for any of them finds the entry.
            value
                .split(' ')
                .for_each(|id| self.field("RGUN_REQUEST_ID", escape(id, LineFeeds::Escape).as_bytes()));
        } else if field.name() != WHOLE_LINE {
            self.field(&native_name(field.name()), escape(value, LineFeeds::Escape).as_bytes());
        }
    }
}

/// Converts `rgun.worker` to `RGUN_WORKER`.
fn native_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

impl Visit for NativeEntry {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, value);
    }

    fn record_bytes(&mut self, field: &Field, value: &[u8]) {
        self.field(&native_name(field.name()), value);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    use super::*;

    /// Collects the entries.
    struct Keep(Format, Arc<Mutex<Vec<Vec<u8>>>>);

    impl<S: tracing::Subscriber> Layer<S> for Keep {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.1.lock().unwrap().push(self.0.entry(event));
        }
    }

    fn entry(format: Format, log: impl FnOnce()) -> Vec<u8> {
        let kept = Arc::default();
        let subscriber = tracing_subscriber::registry().with(Keep(format, Arc::clone(&kept)));
        tracing::subscriber::with_default(subscriber, log);
        let mut entries = kept.lock().unwrap();
        assert_eq!(entries.len(), 1);
        entries.remove(0)
    }

    #[test]
    fn text_line_has_escaped_message_and_fields() {
        let raw: Option<&[u8]> = Some(b"/\x9b");
        let line = entry(Format::Text, || {
            tracing::warn!(
                message_id = "0a", rgun.path = %"/\u{202e}\n", rgun.worker = Some(3), rgun.pid = None::<u32>, rgun.name = "a\u{9b}b",
                rgun.path_raw = raw, "two\nlines \x1b[31m"
            );
        });
        let line = String::from_utf8(line).unwrap();
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.ends_with('Z') && time.contains('T'), "{line}");
        assert_eq!(
            rest,
            " WARN two\n    lines \\x1b[31m rgun.path=/\\u{202e}\\x0a rgun.worker=3 rgun.name=\"a\\u{9b}b\"\n"
        );
    }

    #[test]
    fn json_line_has_typed_fields() {
        let line = entry(Format::Json, || {
            tracing::warn!(rgun.path = %"/\u{202e}", rgun.worker = Some(3), rgun.pid = None::<u32>, "two\n\"lines\"");
        });
        let mut value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(line.iter().position(|byte| *byte == b'\n'), Some(line.len() - 1));
        let time = value["time"].take();
        assert!(time.as_str().is_some_and(|time| time.ends_with('Z')), "{time}");
        let expected = serde_json::json!({
            "time": null, "level": "warn", "message": "two\n\"lines\"", "rgun.path": "/\\u{202e}", "rgun.worker": 3,
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn native_entry_has_byte_fields_in_binary_form() {
        let raw: Option<&[u8]> = Some(b"/\x9b");
        let bytes = entry(Format::Native, || {
            tracing::error!(
                message_id = "0a", rgun.path = %"/\u{9b}", rgun.worker = 3, rgun.request_ids = %"id1 id2", rgun.path_raw = raw, rgun.bytes_raw = &b"a\nb"[..],
                "two\nlines"
            );
        });
        let has = |what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
        for what in [
            &b"PRIORITY=3\n"[..],
            b"SYSLOG_IDENTIFIER=rgun\n",
            b"RGUN_PATH=/\\u{9b}\n",
            b"RGUN_WORKER=3\n",
            b"MESSAGE_ID=0a\n",
            b"RGUN_REQUEST_ID=id1\nRGUN_REQUEST_ID=id2\n",
            b"RGUN_PATH_RAW=/\x9b\n",
            b"RGUN_BYTES_RAW\n\x03\0\0\0\0\0\0\0a\nb\n",
            b"MESSAGE\n\x09\0\0\0\0\0\0\0two\nlines\n",
        ] {
            assert!(has(what), "{:?} is not in {:?}", what.escape_ascii(), bytes.escape_ascii());
        }
    }
}
