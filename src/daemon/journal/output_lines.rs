//! Splits the output of a process into lines and records ([`rgun_channel::log_record`]), and puts them
//! into the log.

use std::sync::Arc;
use std::time::Instant;

use rgun_channel::log_record::{MAX_RECORD_BYTES, SEPARATOR, TAG};
use serde_json::{Map, Value};

use super::daemon_log::{self, LineForm, OutputRoute};
use super::output_entry::{MAX_ID_BYTES, OutputEntry, OutputSource, is_request_id, message_of};
use super::queue::LogQueue;
use super::traceback::{ReleasedLines, Tracebacks};

/// Maximum number of bytes of a line in one entry; longer lines are split. The default of
/// journald's `LineMax=`.
const MAX_LINE: usize = 48 << 10;

/// Maximum number of bytes of a tag.
const MAX_TAG_BYTES: usize = MAX_ID_BYTES + 3;

/// Splits a stream into lines.
#[derive(Debug)]
pub(super) struct LineSplitter {
    route: OutputRoute,
    source: OutputSource,
    /// The start of an unfinished line.
    partial: Vec<u8>,
    /// The next bytes continue a line that was split.
    is_continued: bool,
    /// The request of a line that was split.
    split_request: Option<String>,
    tracebacks: Tracebacks,
}

/// The destination of a stream, and the entries that go there together.
#[derive(Debug)]
struct Batch {
    queue: Arc<LogQueue>,
    /// `None`: entries for journald, which `lines` does not hold.
    form: Option<LineForm>,
    lines: Vec<u8>,
}

/// A part of a line.
#[derive(Debug)]
enum LinePart<'a> {
    /// Text, and the id of its request.
    Text(&'a [u8], Option<&'a str>),
    /// A record of `logging`.
    Record(Map<String, Value>),
}

impl LineSplitter {
    pub(super) fn new(route: OutputRoute, source: OutputSource) -> Self {
        Self {
            route,
            source,
            partial: Vec::new(),
            is_continued: false,
            split_request: None,
            tracebacks: Tracebacks::default(),
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        let (whole, rest) = match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => bytes.split_at(at + 1),
            None => (&[][..], bytes),
        };
        if !whole.is_empty() {
            let whole = if self.partial.is_empty() {
                whole.to_vec()
            } else {
                let mut lines = std::mem::take(&mut self.partial);
                lines.extend_from_slice(whole);
                lines
            };
            self.log(whole);
            self.is_continued = false;
            self.split_request = None;
        }
        self.partial.extend_from_slice(rest);
        if self.partial.len() > max_partial(&self.partial) {
            let piece = std::mem::take(&mut self.partial);
            self.log(piece);
            self.is_continued = true;
        }
    }

    /// Logs the unfinished line at the end of the stream.
    pub(super) fn end(&mut self) {
        if !self.partial.is_empty() {
            let mut line = std::mem::take(&mut self.partial);
            line.push(b'\n');
            self.log(line);
        }
        self.release();
    }

    /// Returns when [`release`](Self::release) must be called; `None` if no traceback is held.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.tracebacks.deadline()
    }

    /// Logs the traceback that is held.
    pub(super) fn release(&mut self) {
        let released = self.tracebacks.release();
        if let Some(mut batch) = self.batch() {
            self.log_released(released, &mut batch);
            push_lines(&batch.queue, batch.lines);
        }
    }
}

impl LineSplitter {
    /// Logs whole lines, or a part of a line that is too long.
    fn log(&mut self, text: Vec<u8>) {
        let Some(mut batch) = self.batch() else { return };
        if batch.form == Some(LineForm::Raw) && !text.contains(&SEPARATOR) {
            return push_lines(&batch.queue, text);
        }
        let now = Instant::now();
        let mut split_request = self.split_request.take();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            let parts = parts(line.strip_suffix(b"\n").unwrap_or(line), split_request.as_deref());
            let is_whole = line.ends_with(b"\n");
            for part in &parts {
                if self.holds(part, is_whole, now, &mut batch) {
                    continue;
                }
                let entry = match part {
                    LinePart::Text(text, request) => OutputEntry::line(text, *request),
                    LinePart::Record(record) => match OutputEntry::record(record) {
                        Some(entry) => entry,
                        None => continue,
                    },
                };
                self.log_entry(entry, is_whole, &mut batch);
            }
            let last_request = match parts.last() {
                Some(LinePart::Text(_, request)) if !is_whole => request.map(str::to_owned),
                _ => None,
            };
            split_request = last_request;
            self.is_continued = false;
        }
        self.split_request = split_request;
        push_lines(&batch.queue, batch.lines);
    }

    /// Returns the destination. `None` if the stream is not read.
    fn batch(&self) -> Option<Batch> {
        let (queue, form) = match &self.route {
            OutputRoute::Inherited => return None,
            OutputRoute::Lines(queue) => (queue, Some(daemon_log::line_form())),
            OutputRoute::Entries(queue) => (queue, None),
        };
        Some(Batch { queue: Arc::clone(queue), form, lines: Vec::new() })
    }

    /// Returns whether a part of a line is held as that of a traceback. If it does not belong to the
    /// traceback that is held, this is logged.
    fn holds(&mut self, part: &LinePart<'_>, is_whole: bool, now: Instant, batch: &mut Batch) -> bool {
        let (released, is_held) = match part {
            _ if batch.form == Some(LineForm::Raw) => return false,
            LinePart::Text(text, request) if is_whole && !self.is_continued => {
                self.tracebacks.take(text, *request, now)
            }
            _ => (self.tracebacks.release(), false),
        };
        self.log_released(released, batch);
        is_held
    }

    fn log_released(&self, released: Option<ReleasedLines>, batch: &mut Batch) {
        let Some(released) = released else { return };
        let request = released.request.as_deref();
        if let Some(text) = released.traceback() {
            self.log_entry(OutputEntry::traceback(text, request), true, batch);
        }
        for line in released.lines() {
            self.log_entry(OutputEntry::line(line, request), true, batch);
        }
    }

    fn log_entry(&self, entry: OutputEntry<'_>, is_whole: bool, batch: &mut Batch) {
        match batch.form {
            Some(form) => self.push_line(&entry, form, is_whole, batch),
            None => self.push_entries(&batch.queue, entry),
        }
    }

    /// Adds entries for journald: one, or several if the text is too long.
    fn push_entries(&self, queue: &LogQueue, mut entry: OutputEntry<'_>) {
        let mut is_continued = self.is_continued;
        for piece in entry.text.chunks(MAX_LINE) {
            entry.text = piece;
            if let Some(bytes) = entry.native(&self.source, is_continued) {
                queue.push_waiting(bytes, 1);
            }
            is_continued = true;
        }
    }

    /// Appends an entry to the lines of a batch. The records of `server.log` become entries of the
    /// daemon if these are JSON.
    fn push_line(&self, entry: &OutputEntry<'_>, form: LineForm, is_whole: bool, batch: &mut Batch) {
        let is_part = self.is_continued || !is_whole;
        let mut fields = String::new();
        if form == LineForm::Json && !is_part {
            if (entry.is_plain() || entry.is_of_hooks())
                && let Some((level, message)) = hook_record(entry.text, self.source.pid)
            {
                push_lines(&batch.queue, std::mem::take(&mut batch.lines));
                return self.log_hook_record(level, message);
            }
            if let Some(object) = entry.json(&self.source) {
                let priority = entry.priority_and_text(false).0;
                return batch.lines.extend(daemon_log::prefix_lines(priority, object.into_bytes()));
            }
        } else if form == LineForm::Text && !is_part && !entry.is_plain() {
            fields = entry.text_fields(&self.source);
        }
        batch.lines.extend_from_slice(entry.text);
        batch.lines.extend_from_slice(fields.as_bytes());
        if is_whole {
            batch.lines.push(b'\n');
        }
    }

    fn log_hook_record(&self, level: &str, message: &str) {
        let (worker, pid) = (self.source.worker, self.source.pid);
        match level {
            "CRITICAL" | "ERROR" => {
                tracing::error!(rgun.worker = worker, rgun.pid = pid, "{message}");
            }
            "WARNING" => tracing::warn!(rgun.worker = worker, rgun.pid = pid, "{message}"),
            "DEBUG" => tracing::debug!(rgun.worker = worker, rgun.pid = pid, "{message}"),
            _ => tracing::info!(rgun.worker = worker, rgun.pid = pid, "{message}"),
        }
    }
}

/// Returns the maximum length of an unfinished line: more if it may be a record.
fn max_partial(partial: &[u8]) -> usize {
    let is_record = partial.windows(2).any(|pair| pair == [SEPARATOR, b'{']);
    if is_record { MAX_RECORD_BYTES } else { MAX_LINE + MAX_TAG_BYTES }
}

/// Splits a line at its tags and records. `request` is that of the text before the first tag.
fn parts<'a>(line: &'a [u8], mut request: Option<&'a str>) -> Vec<LinePart<'a>> {
    let mut parts = Vec::new();
    let (mut text, mut searched) = (line, 0);
    while let Some(at) = text.iter().skip(searched).position(|byte| *byte == SEPARATOR) {
        let at = searched + at;
        let (before, after) = (text.get(..at).unwrap_or_default(), text.get(at + 1..).unwrap_or_default());
        if let Some((id, rest)) = tag(after) {
            if !before.is_empty() {
                parts.push(LinePart::Text(before, request));
            }
            (request, text, searched) = (id, rest, 0);
        } else if let Some(record) = record(after) {
            if !before.is_empty() {
                parts.push(LinePart::Text(before, request));
            }
            parts.push(LinePart::Record(record));
            return parts;
        } else {
            searched = at + 1;
        }
    }
    if !text.is_empty() || parts.is_empty() {
        parts.push(LinePart::Text(text, request));
    }
    parts
}

/// Splits off the tag that follows a separator: the id in it, and the rest of the line.
fn tag(bytes: &[u8]) -> Option<(Option<&str>, &[u8])> {
    let bytes = bytes.strip_prefix(&[TAG])?;
    let end = bytes.iter().take(MAX_TAG_BYTES).position(|byte| *byte == SEPARATOR)?;
    let id = str::from_utf8(bytes.get(..end)?).ok()?;
    let rest = bytes.get(end + 1..)?;
    if id.is_empty() { Some((None, rest)) } else { is_request_id(id).then_some((Some(id), rest)) }
}

/// Returns the record that follows a separator.
fn record(bytes: &[u8]) -> Option<Map<String, Value>> {
    if !bytes.starts_with(b"{") {
        return None;
    }
    let object: Map<String, Value> = serde_json::from_slice(bytes).ok()?;
    message_of(&object).is_some().then_some(object)
}

/// Puts whole lines into the log.
fn push_lines(queue: &LogQueue, text: Vec<u8>) {
    let lines = text.split_inclusive(|byte| *byte == b'\n').count();
    if lines > 0 {
        queue.push_waiting(text, lines as u64);
    }
}

/// Returns level and message of a line that `server.log` has written in the process `pid`:
/// `[4711] [INFO] text` (`logger` in src/worker/hook_objects.py).
fn hook_record(line: &[u8], pid: u32) -> Option<(&str, &str)> {
    let line = std::str::from_utf8(line).ok()?.trim_end();
    let rest = line.strip_prefix('[')?.strip_prefix(&pid.to_string())?.strip_prefix("] [")?;
    let (level, message) = rest.split_once("] ")?;
    ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"].contains(&level).then_some((level, message))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::time::Duration;

    use super::super::output_entry::StreamName;
    use super::super::sink::Sink;
    use super::*;

    const RECORD: &[u8] = b"{\"rgun\":\"record\",\"priority\":4,\"message\":\"m\"}";

    /// Returns the parts of a line, each as its text with its request; a record as its message.
    fn texts(line: &[u8]) -> Vec<String> {
        let shown = |part: &LinePart<'_>| match part {
            LinePart::Text(text, request) => {
                format!("{}|{}", text.escape_ascii(), request.unwrap_or("-"))
            }
            LinePart::Record(record) => format!("record {}", record["message"]),
        };
        parts(line, None).iter().map(shown).collect()
    }

    #[test]
    fn line_without_separator_is_one_text() {
        assert_eq!(texts(b"hello"), ["hello|-"]);
        assert_eq!(texts(b""), ["|-"]);
    }

    #[test]
    fn tags_name_the_requests_of_the_text_after_them() {
        assert_eq!(texts(b"\x1e@a-1\x1ehello"), ["hello|a-1"]);
        assert_eq!(texts(b"x\x1e@a\x1ey\x1e@b\x1ez\x1e@\x1eend"), ["x|-", "y|a", "z|b", "end|-"]);
        assert_eq!(texts(b"\x1e@a\x1e"), ["|a"]);
    }

    #[test]
    fn record_ends_the_text_before_it() {
        assert_eq!(texts(&[b"\x1e", RECORD].concat()), ["record \"m\""]);
        assert_eq!(texts(&[b"\x1e@a\x1epartial\x1e", RECORD].concat()), ["partial|a", "record \"m\""]);
    }

    #[test]
    fn torn_records_and_other_separators_stay_text() {
        let torn = RECORD.get(..20).unwrap();
        for line in [
            &[b"\x1e", torn].concat()[..],
            &[b"\x1e", torn, b"other", RECORD].concat(),
            b"a\x1eb",
            b"\x1e",
            b"\x1e@",
            b"\x1e@no space\x1ex",
            b"\x1e@a",
            b"\x1e{\"json\":\"sequence\"}",
        ] {
            assert_eq!(texts(line), [format!("{}|-", line.escape_ascii())]);
        }
        assert_eq!(texts(b"a\x1eb\x1e@c\x1ed"), ["a\\x1eb|-", "d|c"]);
    }

    #[test]
    fn only_records_of_the_process_itself_are_recognized() {
        let record = |line: &str| {
            hook_record(line.as_bytes(), 4711).map(|(level, text)| (level.to_owned(), text.to_owned()))
        };
        assert_eq!(record("[4711] [INFO] ready\n"), Some(("INFO".to_owned(), "ready".to_owned())));
        assert_eq!(record("[4711] [WARNING] a [b] c"), Some(("WARNING".to_owned(), "a [b] c".to_owned())));
        for line in ["[47] [INFO] x", "[47110] [INFO] x", "[4711] [NOTE] x", "4711 INFO x", "{\"a\": 1}", ""]
        {
            assert_eq!(record(line), None, "{line}");
        }
    }

    /// Returns what goes to journald for each chunk of a stream, and at its end, without the fields of the
    /// stream.
    fn entries_of(chunks: &[&[u8]]) -> String {
        let (mut reading, writing) = std::io::pipe().unwrap();
        let queue = LogQueue::start(Sink::Descriptor(writing.into()), "log-test", |_| {}).unwrap();
        let source = OutputSource { name: StreamName::Stderr, worker: None, generation: None, pid: 1 };
        let mut lines = LineSplitter::new(OutputRoute::Entries(Arc::clone(&queue)), source);
        for chunk in chunks {
            lines.push(chunk);
        }
        lines.end();
        assert_eq!(lines.deadline(), None);
        assert!(queue.flush(Duration::from_secs(20)));
        let mut bytes = vec![0; 64 << 10];
        let len = reading.read(&mut bytes).unwrap();
        bytes.truncate(len);
        let text = bytes.escape_ascii().to_string();
        text.replace("SYSLOG_IDENTIFIER=rgun\\nRGUN_PID=1\\nRGUN_STREAM=stderr\\n", "").replace("\\n", "\n")
    }

    #[test]
    fn traceback_is_one_entry_however_the_reads_split_it() {
        let stream = b"first\n\x1e@a\x1eTraceback (most recent call last):\n\x1e@a\x1e  File \"a.py\"\n\x1e@a\x1eE: x\n\
                       \x1e@a\x1e\n\x1e@a\x1eThe above exception was the direct cause of the following exception:\n\
                       \x1e@a\x1e\n\x1e@a\x1eTraceback (most recent call last):\n\x1e@a\x1e  File \"a.py\"\n\x1e@a\x1eE: y\n\
                       Traceback (most recent call last):\n  File \"b.py\"\nE: z";
        let expected = "PRIORITY=6\nMESSAGE=first\nPRIORITY=3\nRGUN_REQUEST_ID=a\nMESSAGE\n\\xb2\\x00\\x00\\x00\\x00\\x00\\x00\\x00\
                        Traceback (most recent call last):\n  File \\\"a.py\\\"\nE: x\n\nThe above exception was the direct \
                        cause of the following exception:\n\nTraceback (most recent call last):\n  File \\\"a.py\\\"\nE: y\n\
                        PRIORITY=3\nMESSAGE\n5\\x00\\x00\\x00\\x00\\x00\\x00\\x00Traceback (most recent call last):\n  \
                        File \\\"b.py\\\"\nE: z\n";
        assert_eq!(entries_of(&[stream]), expected);
        for at in 0..stream.len() {
            let (before, after) = stream.split_at(at);
            assert_eq!(entries_of(&[before, after]), expected, "at {at}");
        }
        assert_eq!(entries_of(&stream.chunks(1).collect::<Vec<_>>()), expected);
    }

    #[test]
    fn record_ends_a_traceback() {
        let stream =
            [b"Traceback (most recent call last):\n  File \"a.py\"\n\x1e", RECORD, b"\nE: x\n"].concat();
        assert_eq!(
            entries_of(&[&stream]),
            "PRIORITY=3\nMESSAGE\n0\\x00\\x00\\x00\\x00\\x00\\x00\\x00Traceback (most recent call last):\n  File \
             \\\"a.py\\\"\nPRIORITY=4\nMESSAGE=m\nPRIORITY=6\nMESSAGE=E: x\n"
        );
    }
}
