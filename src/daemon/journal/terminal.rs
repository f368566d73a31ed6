//! Formats an event of `tracing` as a line for a person at a terminal: local time, message, and the
//! few fields that help to read it. The journal has all fields; [`format`](super::format) chooses
//! between the forms.
//!
//! ```text
//! 15:57:01 GET /users/42 200  6 B  1.6 ms  203.0.113.9
//! 15:57:02 GET /boom 500  0.9 ms  id 32a6…0001
//!   Traceback (most recent call last):
//!   …
//!   ValueError: boom
//! 15:57:09 warning: worker 0 has a request over its deadline; it is being replaced
//! ```

use std::fmt;
use std::io;
use std::time::Duration;

use rustix::termios::tcgetwinsize;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use crate::escape::{LineFeeds, escape};

use super::markers::{ACCESS, REQUEST, TERMINAL, WHOLE_LINE};

/// The first line of a Python traceback.
const TRACEBACK: &str = "Traceback (most recent call last):";

/// Minimum width of a terminal, in columns, for lines to be shortened.
const MIN_COLUMNS: usize = 40;

const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const BLUE: &str = "34";
const CYAN: &str = "36";

/// Returns the line of an event. `colours`: with ANSI colours.
pub(super) fn line(event: &Event<'_>, colours: bool) -> String {
    let mut entry = TerminalEntry::default();
    event.record(&mut entry);
    let time = chrono::Local::now().format("%H:%M:%S").to_string();
    let (level, target) = (*event.metadata().level(), event.metadata().target());
    let columns = tcgetwinsize(io::stderr()).map_or(0, |size| usize::from(size.ws_col));
    entry.line(&time, level, target, Style { colours, columns })
}

#[derive(Debug, Clone, Copy)]
struct Style {
    colours: bool,
    /// Width of the terminal; 0 if it is unknown.
    columns: usize,
}

impl Style {
    fn paint(self, text: &str, colour: &str) -> String {
        if self.colours && !text.is_empty() {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// The message of an event, and the fields that its line shows.
#[derive(Debug, Default)]
struct TerminalEntry {
    message: String,
    status: Option<u64>,
    bytes: Option<u64>,
    duration_us: Option<u64>,
    client: String,
    request_id: String,
    /// The message is a line in the operator's own form.
    is_whole_line: bool,
}

impl TerminalEntry {
    fn line(&self, time: &str, level: Level, target: &str, style: Style) -> String {
        if self.is_whole_line {
            return format!("{}\n", self.message);
        }
        if target == TERMINAL {
            return self.plain_line(level, style);
        }
        let is_request = target == ACCESS || target == REQUEST;
        let (first, rest) = self.message.split_once('\n').unwrap_or((&self.message, ""));
        // The summary repeats the last line of a traceback, so it is left out.
        let first =
            if target == REQUEST && rest.starts_with(TRACEBACK) { before_summary(first) } else { first };
        let prefix = match level {
            _ if is_request => String::new(),
            Level::ERROR => style.paint("error: ", RED),
            Level::WARN => style.paint("warning: ", YELLOW),
            Level::INFO => String::new(),
            Level::DEBUG => style.paint("debug: ", BLUE),
            Level::TRACE => style.paint("trace: ", BLUE),
        };
        let details = if is_request { self.details(target) } else { String::new() };
        let room = style.columns.saturating_sub(time.len() + 1 + details.chars().count());
        let first = if target == ACCESS && style.columns >= MIN_COLUMNS {
            shorten(first, room)
        } else {
            first.to_owned()
        };
        let first = if is_request { self.paint_status(&first, style) } else { first };
        let mut line = format!("{} {prefix}{first}{}\n", style.paint(time, DIM), style.paint(&details, DIM));
        for more in rest.lines() {
            line.push_str("  ");
            line.push_str(more);
            line.push('\n');
        }
        line
    }

    /// Returns a line about the daemon itself, with its first word in a colour.
    fn plain_line(&self, level: Level, style: Style) -> String {
        let text = self.message.trim_start_matches(' ');
        let space = &self.message[..self.message.len() - text.len()];
        let (first, rest) = text.split_at(text.find(' ').unwrap_or(text.len()));
        let colour = if level == Level::ERROR { RED } else { GREEN };
        format!("{space}{}{rest}\n", style.paint(first, colour))
    }

    /// Returns size, duration and client of an answered request; duration and id of a failed one.
    fn details(&self, target: &str) -> String {
        let duration = self.duration_us.map(|time| format_duration(Duration::from_micros(time)));
        let parts = if target == ACCESS {
            let client = (!self.client.is_empty()).then(|| self.client.clone());
            [self.bytes.map(format_bytes), duration, client]
        } else {
            let id = (!self.request_id.is_empty()).then(|| format!("id {}", short_id(&self.request_id)));
            [None, duration, id]
        };
        parts.into_iter().flatten().fold(String::new(), |details, part| details + "  " + &part)
    }

    /// Colours the status, which follows the path in the message.
    fn paint_status(&self, message: &str, style: Style) -> String {
        let Some(status) = self.status else { return message.to_owned() };
        let colour = match status {
            100..=299 => GREEN,
            300..=399 => CYAN,
            400..=499 => YELLOW,
            _ => RED,
        };
        let text = format!(" {status}");
        match message.find(&text) {
            Some(at) => {
                let (before, after) = message.split_at(at);
                let after = after.get(text.len()..).unwrap_or_default();
                format!("{before} {}{after}", style.paint(&status.to_string(), colour))
            }
            None => message.to_owned(),
        }
    }

    fn record(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = escape(value, LineFeeds::Keep).into_owned(),
            "rgun.client" => self.client = escape(value, LineFeeds::Escape).into_owned(),
            "rgun.request_id" => self.request_id = escape(value, LineFeeds::Escape).into_owned(),
            WHOLE_LINE => self.is_whole_line = true,
            _ => {}
        }
    }
}

impl Visit for TerminalEntry {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "rgun.status" => self.status = Some(value),
            "rgun.bytes" => self.bytes = Some(value),
            "rgun.duration_us" => self.duration_us = Some(value),
            _ => {}
        }
    }

    fn record_bytes(&mut self, _: &Field, _: &[u8]) {}
}

/// `dfb0…0004`: enough to recognise the id of a response.
fn short_id(id: &str) -> String {
    const SHOWN_BYTES: usize = 4;
    match (id.get(..SHOWN_BYTES), id.get(id.len().saturating_sub(SHOWN_BYTES)..)) {
        (Some(start), Some(end)) if id.len() > 2 * SHOWN_BYTES + 1 => format!("{start}…{end}"),
        _ => id.to_owned(),
    }
}

/// Shortens a text in the middle to `columns` characters.
fn shorten(text: &str, columns: usize) -> String {
    let length = text.chars().count();
    if length <= columns {
        return text.to_owned();
    }
    // The end has the status.
    let end = columns / 3;
    let start = columns.saturating_sub(end + 1);
    let head: String = text.chars().take(start).collect();
    let tail: String = text.chars().skip(length - end).collect();
    format!("{head}…{tail}")
}

/// Returns the part before the summary: `GET /boom 500` for `GET /boom 500: ValueError: boom`.
fn before_summary(line: &str) -> &str {
    line.split_once(": ").map_or(line, |(start, _)| start)
}

/// `6 B`, `1.5 KiB`, `3.0 MiB`.
fn format_bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.into_iter().find(|(scale, _)| bytes >= *scale) {
        Some((scale, unit)) => {
            let tenths = u128::from(bytes) * 10 / u128::from(scale);
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

/// `0.9 ms`, `120 ms`, `1.20 s`.
fn format_duration(duration: Duration) -> String {
    match duration.as_micros() {
        micros if micros < 10_000 => format!("{:.1} ms", duration.as_secs_f64() * 1e3),
        micros if micros < 1_000_000 => format!("{} ms", duration.as_millis()),
        _ => format!("{:.2} s", duration.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style { colours: false, columns: 0 };

    fn access() -> TerminalEntry {
        TerminalEntry {
            message: "GET /users/42 200".to_owned(),
            status: Some(200),
            bytes: Some(6),
            duration_us: Some(1600),
            client: "203.0.113.9".to_owned(),
            request_id: "32a6".to_owned(),
            is_whole_line: false,
        }
    }

    #[test]
    fn answered_request_shows_size_duration_and_client() {
        let line = access().line("15:57:01", Level::INFO, ACCESS, PLAIN);
        assert_eq!(line, "15:57:01 GET /users/42 200  6 B  1.6 ms  203.0.113.9\n");
        let unix = TerminalEntry { client: String::new(), ..access() };
        assert_eq!(
            unix.line("15:57:01", Level::INFO, ACCESS, PLAIN),
            "15:57:01 GET /users/42 200  6 B  1.6 ms\n"
        );
    }

    #[test]
    fn failed_request_shows_its_id_before_the_traceback() {
        let message =
            "GET /boom 500: ValueError: boom\nTraceback (most recent call last):\n  File \"a.py\"".to_owned();
        let entry = TerminalEntry { message, status: Some(500), duration_us: Some(900), ..access() };
        assert_eq!(
            entry.line("15:57:02", Level::ERROR, REQUEST, PLAIN),
            "15:57:02 GET /boom 500  0.9 ms  id 32a6\n  Traceback (most recent call last):\n    File \"a.py\"\n"
        );
    }

    #[test]
    fn other_entries_show_severity_and_no_field() {
        for (level, text) in [
            (Level::ERROR, "1 error: two\n  lines\n"),
            (Level::WARN, "1 warning: two\n  lines\n"),
            (Level::INFO, "1 two\n  lines\n"),
            (Level::DEBUG, "1 debug: two\n  lines\n"),
            (Level::TRACE, "1 trace: two\n  lines\n"),
        ] {
            let entry = TerminalEntry { message: "two\nlines".to_owned(), ..access() };
            assert_eq!(entry.line("1", level, "rgun::run", PLAIN), text);
        }
    }

    #[test]
    fn lines_about_the_daemon_have_no_time() {
        let entry = |message: &str| TerminalEntry { message: message.to_owned(), ..access() };
        for (level, message, colour) in
            [(Level::INFO, "ready on http://a", GREEN), (Level::ERROR, "reload failed: x", RED)]
        {
            assert_eq!(entry(message).line("1", level, TERMINAL, PLAIN), format!("{message}\n"));
            let line = entry(message).line("1", level, TERMINAL, Style { colours: true, columns: 0 });
            let (first, rest) = message.split_once(' ').unwrap();
            assert_eq!(line, format!("\x1b[{colour}m{first}\x1b[0m {rest}\n"));
        }
        assert_eq!(entry(" stopping").line("1", Level::INFO, TERMINAL, PLAIN), " stopping\n");
    }

    #[test]
    fn long_id_is_shortened() {
        for (id, short) in
            [("32a6a16a77931c6f000001", "32a6…0001"), ("32a6", "32a6"), ("123456789", "123456789"), ("", "")]
        {
            assert_eq!(short_id(id), short);
        }
    }

    #[test]
    fn colours_mark_time_status_and_details() {
        let line = access().line("1", Level::INFO, ACCESS, Style { colours: true, columns: 0 });
        let dim = "\x1b[2m  6 B  1.6 ms  203.0.113.9\x1b[0m\n";
        assert_eq!(line, format!("\x1b[2m1\x1b[0m GET /users/42 \x1b[32m200\x1b[0m{dim}"));
    }

    #[test]
    fn long_access_line_fits_the_terminal() {
        let message = format!("GET /{} 404", "a".repeat(200));
        let entry = TerminalEntry { message, status: Some(404), ..access() };
        let line = entry.line("15:57:01", Level::INFO, ACCESS, Style { colours: false, columns: 80 });
        assert_eq!(line.trim_end().chars().count(), 80);
        assert!(
            line.starts_with("15:57:01 GET /aaa") && line.contains('…') && line.contains("a 404  6 B"),
            "{line}"
        );
    }

    #[test]
    fn amounts_have_readable_units() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            (3 << 20, "3.0 MiB"),
            (u64::MAX, "17179869183.9 GiB"),
        ] {
            assert_eq!(format_bytes(bytes), text);
        }
        for (micros, text) in
            [(0, "0.0 ms"), (940, "0.9 ms"), (9_940, "9.9 ms"), (120_400, "120 ms"), (1_204_000, "1.20 s")]
        {
            assert_eq!(format_duration(Duration::from_micros(micros)), text);
        }
    }
}
