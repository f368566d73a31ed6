//! Splits the output of a process into lines and records ([`rgun_channel::log_record`]), and puts them
//! into the log.

use std::sync::Arc;
use std::time::Instant;

use rgun_channel::log_record::{LogToken, SEPARATOR};

use super::daemon_log::{self, LineForm, OutputRoute};
use super::output_entry::{OutputEntry, OutputSource, request_of};
use super::output_parts::{LinePart, MAX_TAG_BYTES, parts, unfinished};
use super::queue::LogQueue;
use super::traceback::{ReleasedLines, Tracebacks};

/// Maximum number of bytes of a line in one entry; longer lines are split. The default of
/// journald's `LineMax=`.
const MAX_LINE: usize = 48 << 10;

/// Splits a stream into lines.
#[derive(Debug)]
pub(super) struct LineSplitter {
    route: OutputRoute,
    source: OutputSource,
    /// The beginning of records and tags; `None` if there are none ([`LogToken::marker`]).
    marker: Option<String>,
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

impl LineSplitter {
    pub(super) fn new(route: OutputRoute, source: OutputSource, token: Option<LogToken>) -> Self {
        Self {
            route,
            source,
            marker: token.map(LogToken::marker),
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
        if self.partial.len() > MAX_LINE + MAX_TAG_BYTES {
            let at = self.marker.as_ref().and_then(|marker| unfinished(&self.partial, marker.as_bytes()));
            let rest = self.partial.split_off(at.unwrap_or(self.partial.len()));
            let piece = std::mem::replace(&mut self.partial, rest);
            if !piece.is_empty() {
                self.log(piece);
                self.is_continued = true;
            }
        }
    }

    /// Logs the unfinished line at the end of the stream.
    pub(super) fn end(&mut self) {
        if !self.partial.is_empty() {
            let mut line = std::mem::take(&mut self.partial);
            line.push(b'\n');
            self.log(line);
        }
        let released = self.tracebacks.release();
        self.log_tracebacks(released);
    }

    /// Returns when [`release_expired`](Self::release_expired) must be called; `None` if no traceback is
    /// held.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.tracebacks.deadline()
    }

    /// Logs the tracebacks that have been held for too long.
    pub(super) fn release_expired(&mut self, now: Instant) {
        let released = self.tracebacks.release_expired(now);
        self.log_tracebacks(released);
    }
}

impl LineSplitter {
    fn log_tracebacks(&self, released: Vec<ReleasedLines>) {
        if released.is_empty() {
            return;
        }
        if let Some(mut batch) = self.batch() {
            self.log_released(released, &mut batch);
            push_lines(&batch.queue, batch.lines);
        }
    }

    /// Logs whole lines, or a part of a line that is too long.
    fn log(&mut self, text: Vec<u8>) {
        let Some(mut batch) = self.batch() else { return };
        let marker = self.marker.clone();
        let marker = marker.as_ref().map(String::as_bytes);
        if batch.form == Some(LineForm::Raw) && (marker.is_none() || !text.contains(&SEPARATOR)) {
            return push_lines(&batch.queue, text);
        }
        let now = Instant::now();
        let mut split_request = self.split_request.take();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            if self.is_continued && marker.is_some_and(|marker| line.starts_with(marker)) {
                self.end_split_line(&mut batch);
            }
            let parts = parts(line.strip_suffix(b"\n").unwrap_or(line), split_request.as_deref(), marker);
            for (index, part) in parts.iter().enumerate() {
                // Each part but the last is a line of its own.
                let is_whole = line.ends_with(b"\n") || index + 1 < parts.len();
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
                self.is_continued = false;
            }
            let last_request = match parts.last() {
                Some(LinePart::Text(_, request)) if !line.ends_with(b"\n") => request.map(str::to_owned),
                _ => None,
            };
            split_request = last_request;
            self.is_continued = false;
        }
        self.split_request = split_request;
        push_lines(&batch.queue, batch.lines);
    }

    /// Ends a line that was split, because a record or the line of another request follows.
    fn end_split_line(&mut self, batch: &mut Batch) {
        if batch.form.is_some() {
            batch.lines.push(b'\n');
        }
        self.is_continued = false;
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

    /// Returns whether a part of a line is held as that of a traceback. Logs tracebacks that come before it.
    fn holds(&mut self, part: &LinePart<'_>, is_whole: bool, now: Instant, batch: &mut Batch) -> bool {
        let (released, is_held) = match part {
            _ if batch.form == Some(LineForm::Raw) => return false,
            LinePart::Text(text, request) if is_whole && !self.is_continued => {
                self.tracebacks.take(text, *request, now)
            }
            // All: none may be logged before the rest of the line.
            LinePart::Text(..) => (self.tracebacks.release(), false),
            LinePart::Record(record) => (self.tracebacks.release_before(request_of(record)), false),
        };
        self.log_released(released, batch);
        is_held
    }

    fn log_released(&self, released: Vec<ReleasedLines>, batch: &mut Batch) {
        for released in released {
            let request = released.request.as_deref();
            if let Some(text) = released.traceback() {
                self.log_entry(OutputEntry::traceback(text, request), true, batch);
            }
            for line in released.lines() {
                self.log_entry(OutputEntry::line(line, request), true, batch);
            }
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
                return batch.lines.extend(batch.queue.prefix_lines(priority, object.into_bytes()));
            }
        } else if form == LineForm::Text && !is_part && !entry.is_plain() {
            fields = entry.text_fields(&self.source);
        }
        let mut lines = [entry.text, fields.as_bytes()].concat();
        if is_whole {
            lines.push(b'\n');
        }
        if entry.has_own_priority() {
            lines = batch.queue.prefix_lines(entry.priority_and_text(false).0, lines);
        }
        batch.lines.append(&mut lines);
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

    use rgun_channel::log_record::{MARKER_BYTES, MAX_RECORD_BYTES};

    use super::super::output_entry::StreamName;
    use super::super::output_parts::test_lines::{RECORD, marked, token};
    use super::super::sink::Sink;
    use super::*;

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
        let mut lines = LineSplitter::new(OutputRoute::Entries(Arc::clone(&queue)), source, Some(token()));
        for chunk in chunks {
            lines.push(chunk);
            assert!(lines.partial.len() <= MAX_RECORD_BYTES + MARKER_BYTES);
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
        let stream = b"first\n\x1e#@a\x1eTraceback (most recent call last):\n\x1e#@a\x1e  File \"a.py\"\n\x1e#@a\x1eE: x\n\
                       \x1e#@a\x1e\n\x1e#@a\x1eThe above exception was the direct cause of the following exception:\n\
                       \x1e#@a\x1e\n\x1e#@a\x1eTraceback (most recent call last):\n\x1e#@a\x1e  File \"a.py\"\n\x1e#@a\x1eE: y\n\
                       Traceback (most recent call last):\n  File \"b.py\"\nE: z";
        let stream = &*marked(stream);
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
    fn traceback_ends_before_a_part_of_a_line() {
        let long = "x".repeat(MAX_LINE + 1000);
        let heading = "\x1e#@a\x1eTraceback (most recent call last):\n\x1e#@a\x1e  File \"a.py\"\n";
        let entries = entries_of(&[&marked(heading.as_bytes()), long.as_bytes(), b"\n"]);
        let (first, second) = entries.split_once("PRIORITY=6\n").unwrap();
        assert!(first.starts_with("PRIORITY=3\nRGUN_REQUEST_ID=a\n"), "{first}");
        assert!(second.starts_with("MESSAGE=xxx"), "{second}");
    }

    #[test]
    fn record_ends_the_traceback_of_its_request() {
        let stream =
            [b"Traceback (most recent call last):\n  File \"a.py\"\n\x1e#", RECORD, b"\nE: x\n"].concat();
        assert_eq!(
            entries_of(&[&marked(&stream)]),
            "PRIORITY=3\nMESSAGE\n0\\x00\\x00\\x00\\x00\\x00\\x00\\x00Traceback (most recent call last):\n  File \
             \\\"a.py\\\"\nPRIORITY=4\nMESSAGE=m\nPRIORITY=6\nMESSAGE=E: x\n"
        );
        let lines =
            b"\x1e#@a\x1eTraceback (most recent call last):\n\x1e#@a\x1e  File \"a.py\"\n\x1e#".as_slice();
        assert_eq!(
            entries_of(&[&marked(&[lines, RECORD, b"\n\x1e#@a\x1eE: x\n"].concat())]),
            "PRIORITY=4\nMESSAGE=m\nPRIORITY=3\nRGUN_REQUEST_ID=a\nMESSAGE\n5\\x00\\x00\\x00\\x00\\x00\\x00\\x00\
             Traceback (most recent call last):\n  File \\\"a.py\\\"\nE: x\n"
        );
    }
}
