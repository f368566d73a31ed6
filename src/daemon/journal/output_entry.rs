//! The entries of what a process has printed: lines, tracebacks, and records of Python's `logging`.
//!
//! The worker chooses everything in such an entry but the fields of [`OutputSource`] and the identifier:
//! a field that `extra` adds cannot have a name that rgun or journald uses ([`is_extra_name`]).

use std::borrow::Cow;
use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::escape::{LineFeeds, escape};

use super::format::{NativeEntry, utc_time};

/// Priority of a line without a prefix such as `<3>` (sd-daemon(3)): informational.
const DEFAULT_PRIORITY: u8 = 6;

/// Priority of a printed traceback without a prefix: error.
const TRACEBACK_PRIORITY: u8 = 3;

/// The fields of a record besides its message: name in the journal, key in the record
/// ([`rgun_channel::log_record`]). Lines of text and JSON have the name in lower case. The names are those of
/// python-systemd's `JournalHandler`.
const RECORD_FIELDS: [(&str, &str); 6] = [
    ("LOGGER", "logger"),
    ("CODE_FILE", "file"),
    ("CODE_LINE", "line"),
    ("CODE_FUNC", "function"),
    ("THREAD_NAME", "thread"),
    ("PROCESS_NAME", "process"),
];

/// Names that [`is_extra_name`] rejects: those of rgun's entries, and those that journald or
/// journalctl interprets.
const RESERVED_NAMES: [&str; 9] = [
    "MESSAGE",
    "MESSAGE_ID",
    "PRIORITY",
    "TARGET",
    "UNIT",
    "USER_UNIT",
    "INVOCATION_ID",
    "USER_INVOCATION_ID",
    "DOCUMENTATION",
];
const RESERVED_PREFIXES: [&str; 4] = ["RGUN_", "SYSLOG_", "OBJECT_", "COREDUMP_"];

/// Maximum length of a field's name, as in journald.
const MAX_NAME_BYTES: usize = 64;

/// The stream and the process that an entry comes from.
#[derive(Debug)]
pub(super) struct OutputSource {
    pub(super) name: StreamName,
    /// The worker's seat. `None` for a zygote, and for the process of the arbiter's hooks.
    pub(super) worker: Option<u16>,
    /// `None` for the process of the arbiter's hooks.
    pub(super) generation: Option<u64>,
    pub(super) pid: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamName {
    Stdout,
    Stderr,
}

impl StreamName {
    fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// A line, a printed traceback, or a record of `logging`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OutputEntry<'a> {
    pub(super) text: &'a [u8],
    /// `None`: the text's prefix, or the default.
    priority: Option<u8>,
    pub(super) request_id: Option<&'a str>,
    /// Further fields: name in the journal, and value.
    fields: Vec<(&'a str, Cow<'a, str>)>,
}

impl<'a> OutputEntry<'a> {
    /// Creates the entry of a line.
    pub(super) fn line(text: &'a [u8], request_id: Option<&'a str>) -> Self {
        Self { text, priority: None, request_id, fields: Vec::new() }
    }

    /// Creates the entry of a printed traceback.
    pub(super) fn traceback(text: &'a [u8], request_id: Option<&'a str>) -> Self {
        Self { text, priority: Some(TRACEBACK_PRIORITY), request_id, fields: Vec::new() }
    }

    /// Creates the entry of a record. `None` if the object is something else.
    pub(super) fn record(record: &'a Map<String, Value>) -> Option<Self> {
        let (text, priority) = message_of(record)?;
        let mut fields: Vec<_> = RECORD_FIELDS
            .into_iter()
            .filter_map(|(name, key)| Some((name, text_of(record.get(key)?)?)))
            .collect();
        let extra = record.get("extra").and_then(Value::as_object);
        fields.extend(
            extra
                .into_iter()
                .flatten()
                .filter(|(name, _)| is_extra_name(name))
                .filter_map(|(name, value)| Some((name.as_str(), text_of(value)?))),
        );
        Some(Self { text: text.as_bytes(), priority: Some(priority), request_id: request_of(record), fields })
    }

    /// Returns true for a line without a request.
    pub(super) fn is_plain(&self) -> bool {
        self.priority.is_none() && self.request_id.is_none()
    }

    /// Returns true for a record and for a traceback: their text has no prefix for each of its lines.
    pub(super) fn has_own_priority(&self) -> bool {
        self.priority.is_some()
    }

    /// Returns true for a record of the logger of `server.log`.
    pub(super) fn is_of_hooks(&self) -> bool {
        self.fields.first().is_some_and(|(name, value)| *name == "LOGGER" && value == "rgun")
    }

    /// Returns the priority, and the text without the prefix `<3>` that chooses the priority.
    pub(super) fn priority_and_text(&self, is_continued: bool) -> (u8, &'a [u8]) {
        let default = self.priority.unwrap_or(DEFAULT_PRIORITY);
        match self.text {
            [b'<', digit @ b'0'..=b'7', b'>', rest @ ..] if !is_continued => (digit - b'0', rest),
            text => (default, text),
        }
    }

    /// Returns the entry for journald. `None` for a blank text, which journald would discard.
    /// `is_continued`: the text continues a line that was split.
    pub(super) fn native(&self, source: &OutputSource, is_continued: bool) -> Option<Vec<u8>> {
        let (priority, text) = self.priority_and_text(is_continued);
        let text = text.trim_ascii_end();
        if text.is_empty() {
            return None;
        }
        let mut entry = NativeEntry::new(priority);
        if let Some(worker) = source.worker {
            entry.field("RGUN_WORKER", worker.to_string().as_bytes());
        }
        if let Some(generation) = source.generation {
            entry.field("RGUN_GENERATION", generation.to_string().as_bytes());
        }
        entry.field("RGUN_PID", source.pid.to_string().as_bytes());
        entry.field("RGUN_STREAM", source.name.as_str().as_bytes());
        if let Some(id) = self.request_id {
            entry.field("RGUN_REQUEST_ID", id.as_bytes());
        }
        for (name, value) in &self.fields {
            entry.field(name, value.as_bytes());
        }
        entry.field("MESSAGE", text);
        Some(entry.into_bytes())
    }

    /// Returns the entry as a line of JSON. `None` if the text is blank or an object itself.
    pub(super) fn json(&self, source: &OutputSource) -> Option<String> {
        if self.text.trim_ascii().is_empty() || is_object(self.text) {
            return None;
        }
        let (priority, text) = self.priority_and_text(false);
        let level = match priority {
            0..=3 => "error",
            4 => "warn",
            5 | 6 => "info",
            _ => "debug",
        };
        let mut entry = Map::new();
        entry.insert("time".to_owned(), utc_time().into());
        entry.insert("level".to_owned(), level.into());
        entry.insert("message".to_owned(), String::from_utf8_lossy(text).into());
        if let Some(worker) = source.worker {
            entry.insert("rgun.worker".to_owned(), worker.into());
        }
        if let Some(generation) = source.generation {
            entry.insert("rgun.generation".to_owned(), generation.into());
        }
        entry.insert("rgun.pid".to_owned(), source.pid.into());
        entry.insert("rgun.stream".to_owned(), source.name.as_str().into());
        if let Some(id) = self.request_id {
            entry.insert("rgun.request_id".to_owned(), id.into());
        }
        for (name, value) in &self.fields {
            let number = if *name == "CODE_LINE" { value.parse::<u64>().ok() } else { None };
            entry.insert(line_name(name), number.map_or_else(|| value.as_ref().into(), Value::from));
        }
        Some(format!("{}\n", Value::Object(entry)))
    }

    /// Returns the fields that follow the text of a line; none after a JSON object.
    pub(super) fn text_fields(&self, source: &OutputSource) -> String {
        let mut text = String::new();
        if is_object(self.text) {
            return text;
        }
        let mut push = |name: &str, value: &str| {
            // Writing to a String cannot fail.
            let _ = write!(text, " {name}={}", escape(value, LineFeeds::Escape));
        };
        if let Some(worker) = source.worker {
            push("rgun.worker", &worker.to_string());
        }
        if let Some(id) = self.request_id {
            push("rgun.request_id", id);
        }
        for (name, value) in &self.fields {
            push(&line_name(name), value);
        }
        text
    }
}

/// Returns message and priority of a record. `None` if the object is something else.
pub(super) fn message_of(record: &Map<String, Value>) -> Option<(&str, u8)> {
    if record.get("rgun")? != "record" {
        return None;
    }
    let priority = record.get("priority")?.as_u64()?;
    Some((record.get("message")?.as_str()?, u8::try_from(priority.min(7)).ok()?))
}

/// Returns the request of a record.
pub(super) fn request_of(record: &Map<String, Value>) -> Option<&str> {
    record.get("request_id").and_then(Value::as_str).filter(|id| is_request_id(id))
}

/// Returns whether an id can be that of a request: as `is_acceptable` of http/request_id.rs.
pub(super) fn is_request_id(id: &str) -> bool {
    (1..=MAX_ID_BYTES).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte))
}

/// Longest id of a request, in bytes.
pub(super) const MAX_ID_BYTES: usize = 128;

/// Returns whether a field of this name may be added to a record: valid for journald, and of no
/// meaning to rgun or journald.
fn is_extra_name(name: &str) -> bool {
    let is_valid = name.starts_with(|first: char| first.is_ascii_uppercase())
        && name.len() <= MAX_NAME_BYTES
        && name.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'_'));
    is_valid
        && !RESERVED_NAMES.contains(&name)
        && !RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        && !RECORD_FIELDS.iter().any(|(known, _)| *known == name)
}

/// Returns the name of a field in lines of text and JSON.
fn line_name(name: &str) -> String {
    let is_of_record = RECORD_FIELDS.iter().any(|(known, _)| *known == name);
    if is_of_record { name.to_ascii_lowercase() } else { name.to_owned() }
}

/// Returns a string, a number or a boolean as text.
fn text_of(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(text.into()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string().into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Returns whether a text is one line with a JSON object.
fn is_object(text: &[u8]) -> bool {
    text.trim_ascii_start().starts_with(b"{")
        && !text.trim_ascii_end().contains(&b'\n')
        && serde_json::from_slice::<Map<String, Value>>(text).is_ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const SOURCE: OutputSource =
        OutputSource { name: StreamName::Stderr, worker: Some(2), generation: Some(5), pid: 4711 };

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(object) => object,
            other => panic!("{other} is not an object"),
        }
    }

    fn record() -> Map<String, Value> {
        object(json!({
            "rgun": "record", "priority": 3, "message": "it failed\nTraceback", "logger": "shop.cart",
            "file": "/srv/cart.py", "line": 7, "function": "pay", "thread": "rgun-1", "process": null,
            "request_id": "32a6-1", "extra": {
                "ORDER": "4711", "MESSAGE_ID": "8881b97fd3cb4771b222a7d98772a5a3", "RGUN_WORKER": "0",
                "OBJECT_PID": "1", "_PID": "1", "LOGGER": "other", "lower": "x",
            },
        }))
    }

    #[test]
    fn record_is_a_native_entry_with_its_fields() {
        let record = record();
        let entry = OutputEntry::record(&record).unwrap().native(&SOURCE, false).unwrap();
        let text = String::from_utf8(entry).unwrap();
        let (head, message) = text.split_once("MESSAGE\n").unwrap();
        assert_eq!(
            head,
            "PRIORITY=3\nSYSLOG_IDENTIFIER=rgun\nRGUN_WORKER=2\nRGUN_GENERATION=5\nRGUN_PID=4711\nRGUN_STREAM=stderr\n\
             RGUN_REQUEST_ID=32a6-1\nLOGGER=shop.cart\nCODE_FILE=/srv/cart.py\nCODE_LINE=7\nCODE_FUNC=pay\n\
             THREAD_NAME=rgun-1\nORDER=4711\n"
        );
        assert!(message.ends_with("it failed\nTraceback\n"), "{message}");
    }

    #[test]
    fn record_is_a_line_of_json_with_its_fields() {
        let record = record();
        let line = OutputEntry::record(&record).unwrap().json(&SOURCE).unwrap();
        let mut value: Value = serde_json::from_str(&line).unwrap();
        value["time"].take();
        let expected = json!({
            "time": null, "level": "error", "message": "it failed\nTraceback", "rgun.worker": 2, "rgun.generation": 5,
            "rgun.pid": 4711, "rgun.stream": "stderr", "rgun.request_id": "32a6-1", "logger": "shop.cart",
            "code_file": "/srv/cart.py", "code_line": 7, "code_func": "pay", "thread_name": "rgun-1", "ORDER": "4711",
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn prefix_of_a_record_overrides_its_level() {
        let object = object(json!({"rgun": "record", "priority": 6, "message": "<2>disk full"}));
        let entry = OutputEntry::record(&object).unwrap().native(&SOURCE, false).unwrap();
        let text = String::from_utf8(entry).unwrap();
        assert!(text.starts_with("PRIORITY=2\n") && text.ends_with("MESSAGE=disk full\n"), "{text}");
    }

    #[test]
    fn other_objects_are_not_records() {
        for value in [
            json!({}),
            json!({"rgun": "record"}),
            json!({"rgun": "record", "priority": 3}),
            json!({"rgun": "record", "priority": "3", "message": "x"}),
            json!({"priority": 3, "message": "x"}),
            json!({"rgun": "record", "priority": 3, "message": ["x"]}),
        ] {
            let object = object(value);
            assert_eq!(OutputEntry::record(&object), None, "{object:?}");
        }
    }

    #[test]
    fn id_of_another_form_is_no_request() {
        for id in ["", "a b", "a\nRGUN_WORKER=1", "ä", &"x".repeat(MAX_ID_BYTES + 1)] {
            let object = object(json!({"rgun": "record", "priority": 3, "message": "x", "request_id": id}));
            assert_eq!(OutputEntry::record(&object).unwrap().request_id, None, "{id}");
        }
    }

    #[test]
    fn text_has_fields_unless_it_is_an_object() {
        let record = record();
        let mut entry = OutputEntry::record(&record).unwrap();
        assert_eq!(
            entry.text_fields(&SOURCE),
            " rgun.worker=2 rgun.request_id=32a6-1 logger=shop.cart code_file=/srv/cart.py code_line=7 code_func=pay \
             thread_name=rgun-1 ORDER=4711"
        );
        entry.text = b"{\"message\": \"x\"}";
        assert_eq!(entry.text_fields(&SOURCE), "");
    }
}
