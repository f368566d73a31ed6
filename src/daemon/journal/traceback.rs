//! Finds the tracebacks that a process prints instead of logging them, so that each is one entry.
//!
//! A traceback begins with its heading, goes on with indented lines, and ends with the line of the
//! exception. A chain of exceptions is one traceback, with the sentences between its parts. So is
//! an exception group, whose lines have a margin. Further lines of an exception's message look
//! like other output: they are lines.
//!
//! Lines are held until the traceback has ended, or the next line of its request does not belong to it;
//! at most for a limited time and up to a limited size ([`Tracebacks::deadline`], [`MAX_BYTES`]). Lines
//! of another request are not part of it, and come before it if another thread prints them meanwhile.

use std::time::Instant;

use super::traceback_line::{Last, PATIENCE_AT_END, begin};

/// Maximum number of bytes that are held: those of one entry, as for a line.
const MAX_BYTES: usize = 48 << 10;

/// Maximum number of tracebacks that are held for a stream: threads may print some at the same time.
const MAX_HELD: usize = 32;

/// The tracebacks of a stream, while they are read.
#[derive(Debug, Default)]
pub(super) struct Tracebacks {
    /// At most one of each request, and one of none.
    held: Vec<OpenTraceback>,
}

#[derive(Debug)]
struct OpenTraceback {
    /// Lines, with line feeds between them.
    text: Vec<u8>,
    /// Length of the lines that are known to be a traceback. The others may turn out to be lines.
    certain: usize,
    request: Option<String>,
    last: Last,
    /// When the last line came.
    since: Instant,
}

/// Lines that are held no longer.
#[derive(Debug)]
pub(super) struct ReleasedLines {
    text: Vec<u8>,
    /// Length of the traceback in `text`.
    traceback: usize,
    /// The request of all lines.
    pub(super) request: Option<String>,
}

impl Tracebacks {
    /// Takes the next line of the stream. Returns lines that must be logged before it, and whether it is
    /// held; otherwise it must be logged now.
    pub(super) fn take(
        &mut self,
        line: &[u8],
        request: Option<&str>,
        now: Instant,
    ) -> (Vec<ReleasedLines>, bool) {
        let mut released =
            self.release_if(
                |held| {
                    if held.is_of(request) { !held.add(line, now) } else { held.may_have_ended() }
                },
            );
        if self.held.iter().any(|held| held.is_of(request)) {
            return (released, true);
        }
        let Some(last) = begin(line) else { return (released, false) };
        if self.held.len() >= MAX_HELD {
            released.push(self.held.remove(0).release());
        }
        self.held.push(OpenTraceback {
            text: line.to_vec(),
            certain: if last == Last::Group { line.len() } else { 0 },
            request: request.map(str::to_owned),
            last,
            since: now,
        });
        (released, true)
    }

    /// Returns what must be logged before a record of this request.
    pub(super) fn release_before(&mut self, request: Option<&str>) -> Vec<ReleasedLines> {
        self.release_if(|held| held.is_of(request) || held.may_have_ended())
    }

    /// Returns what has been held for too long.
    pub(super) fn release_expired(&mut self, now: Instant) -> Vec<ReleasedLines> {
        self.release_if(|held| held.deadline() <= now)
    }

    /// Returns what is held.
    pub(super) fn release(&mut self) -> Vec<ReleasedLines> {
        self.release_if(|_| true)
    }

    fn release_if(&mut self, condition: impl FnMut(&mut OpenTraceback) -> bool) -> Vec<ReleasedLines> {
        self.held.extract_if(.., condition).map(OpenTraceback::release).collect()
    }

    /// Returns when held lines must be released.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.held.iter().map(OpenTraceback::deadline).min()
    }
}

impl OpenTraceback {
    fn is_of(&self, request: Option<&str>) -> bool {
        self.request.as_deref() == request
    }

    /// Returns whether lines of other requests must not be logged before this traceback.
    fn may_have_ended(&self) -> bool {
        self.last.patience() == PATIENCE_AT_END
    }

    fn deadline(&self) -> Instant {
        self.since + self.last.patience()
    }

    fn release(self) -> ReleasedLines {
        ReleasedLines { text: self.text, traceback: self.certain, request: self.request }
    }

    /// Adds the next line of the request if it belongs to the traceback.
    fn add(&mut self, line: &[u8], now: Instant) -> bool {
        if self.text.len() + 1 + line.len() > MAX_BYTES {
            return false;
        }
        let Some(next) = self.last.next(line) else { return false };
        self.text.push(b'\n');
        self.text.extend_from_slice(line);
        if matches!(next, Last::Frame | Last::Exception | Last::Group | Last::GroupEnd) {
            self.certain = self.text.len();
        }
        (self.last, self.since) = (next, now);
        true
    }
}

impl ReleasedLines {
    /// Returns the traceback; `None` if the lines were none.
    pub(super) fn traceback(&self) -> Option<&[u8]> {
        self.text.get(..self.traceback).filter(|text| !text.is_empty())
    }

    /// Returns the lines after the traceback.
    pub(super) fn lines(&self) -> impl Iterator<Item = &[u8]> {
        let rest = self.text.get(self.traceback..).filter(|rest| !rest.is_empty());
        let rest = rest.map(|rest| if self.traceback > 0 { rest.get(1..).unwrap_or_default() } else { rest });
        rest.into_iter().flat_map(|rest| rest.split(|byte| *byte == b'\n'))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::traceback_line::PATIENCE_WITHIN;
    use super::*;

    const SIMPLE: &str = "Traceback (most recent call last):\n  File \"a.py\", line 1, in f\n    f()\n    ~^^\n  \
                          [Previous line repeated 3 more times]\nmodule.E.<locals>.Fault: it failed: badly";

    const CHAIN: &str = "Traceback (most recent call last):\n  File \"a.py\", line 1, in f\nKeyError: 'x'\n\n\
                         During handling of the above exception, another exception occurred:\n\n\
                         Traceback (most recent call last):\n  File \"a.py\", line 3, in f\nValueError\n\n\
                         The above exception was the direct cause of the following exception:\n\n\
                         Traceback (most recent call last):\n  File \"a.py\", line 5, in f\nRuntimeError: end";

    const GROUP: &str = "  + Exception Group Traceback (most recent call last):\n  |   File \"a.py\", line 1, in f\n  \
                         | ExceptionGroup: two (2 sub-exceptions)\n  +-+---------------- 1 ----------------\n    \
                         | Traceback (most recent call last):\n    |   File \"a.py\", line 1, in g\n    \
                         | ValueError: 1\n    | \n    | second line\n    +---------------- 2 ----------------\n    \
                         | TypeError: 2\n    +------------------------------------";

    const SYNTAX: &str = "Traceback (most recent call last):\n  File \"a.py\", line 1, in <module>\n  \
                          File \"b.py\", line 1\n    x = = 1\n        ^\nSyntaxError: invalid syntax";

    /// Passes lines to the state machine, each with its request; returns the entries, tracebacks as `!text`,
    /// with their requests if they have one. `expired`: the deadline passes after each line.
    fn entries_of<'a>(
        lines: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
        expired: bool,
    ) -> Vec<String> {
        let mut tracebacks = Tracebacks::default();
        let mut entries = Vec::new();
        for (line, request) in lines {
            let (released, is_held) = tracebacks.take(line.as_bytes(), request, Instant::now());
            add(&mut entries, released);
            if !is_held {
                entries.push(shown(line.as_bytes(), request));
            }
            assert!(tracebacks.deadline().is_some() || !is_held, "{line}");
            if expired {
                add(&mut entries, tracebacks.release());
            }
        }
        add(&mut entries, tracebacks.release());
        entries
    }

    fn add(entries: &mut Vec<String>, released: Vec<ReleasedLines>) {
        for released in released {
            let request = released.request.as_deref();
            entries.extend(released.traceback().map(|text| format!("!{}", shown(text, request))));
            entries.extend(released.lines().map(|line| shown(line, request)));
        }
    }

    fn shown(text: &[u8], request: Option<&str>) -> String {
        let text = str::from_utf8(text).unwrap();
        request.map_or_else(|| text.to_owned(), |request| format!("{request}: {text}"))
    }

    fn entries(text: &str) -> Vec<String> {
        entries_of(text.split('\n').map(|line| (line, None)), false)
    }

    #[test]
    fn traceback_is_one_entry() {
        for text in [SIMPLE, CHAIN, GROUP, SYNTAX] {
            assert_eq!(entries(&format!("before\n{text}\nafter")), ["before", &format!("!{text}"), "after"]);
            assert_eq!(entries(&format!("{text}\n\nafter")), [&format!("!{text}"), "", "after"]);
            assert_eq!(entries(text), [format!("!{text}")]);
            assert_eq!(entries(&format!("{text}\n{text}")), [format!("!{text}"), format!("!{text}")]);
        }
    }

    #[test]
    fn introduction_and_prefix_belong_to_the_traceback() {
        for introduction in [
            "Exception in thread Thread-1 (f):\n",
            "Exception ignored in: <function A.__del__ at 0x1>\n",
            "<4>Exception in thread x:\n",
            "<4>",
        ] {
            for text in [SIMPLE, CHAIN] {
                assert_eq!(entries(&format!("{introduction}{text}")), [format!("!{introduction}{text}")]);
            }
        }
        let group = format!("Exception in thread Thread-1 (f):\n{GROUP}");
        assert_eq!(entries(&group), [format!("!{group}")]);
    }

    #[test]
    fn groups_and_tracebacks_form_chains() {
        let link = "\n\nDuring handling of the above exception, another exception occurred:\n\n";
        for text in [format!("{GROUP}{link}{SIMPLE}"), format!("{SIMPLE}{link}{GROUP}")] {
            assert_eq!(entries(&text), [format!("!{text}")]);
        }
    }

    #[test]
    fn further_lines_of_a_message_are_lines() {
        assert_eq!(
            entries(&format!("{SIMPLE}\nsecond\n  third")),
            [&format!("!{SIMPLE}"), "second", "  third"]
        );
        let link = "The above exception was the direct cause of the following exception:";
        let rest = format!("{link}\n\n{SIMPLE}");
        assert_eq!(
            entries(&format!("{SIMPLE}\nsecond\n\n{rest}")),
            [&format!("!{SIMPLE}"), "second", "", &format!("!{rest}")]
        );
    }

    #[test]
    fn what_only_begins_like_a_traceback_stays_lines() {
        let link = "During handling of the above exception, another exception occurred:";
        let heading = "Traceback (most recent call last):";
        for text in [
            format!("{heading}\nother"),
            format!("{heading}\n\nother"),
            format!("<3>{heading}\n<3>  File \"a.py\""),
            "Exception in thread x:\nException in thread y:\nother".to_owned(),
            format!("{link}\nother"),
            format!("{link}\n\nother"),
            format!(" {heading}\n  File"),
            format!("{heading} \n  File"),
            "  indented\nValueError: x".to_owned(),
        ] {
            assert_eq!(entries(&text), text.split('\n').collect::<Vec<_>>());
        }
        // The chain is broken off at each of its lines: nothing is lost.
        let mut begun = CHAIN.split('\n').take(3).collect::<Vec<_>>().join("\n");
        let certain = format!("!{begun}");
        let mut rest = Vec::new();
        for line in ["", link, "", heading] {
            begun = format!("{begun}\n{line}");
            rest.push(line);
            let expected: Vec<_> = [certain.as_str()].into_iter().chain(rest.iter().copied()).collect();
            assert_eq!(entries(&begun), expected);
            let expected: Vec<_> = expected.into_iter().chain(["other"]).collect();
            assert_eq!(entries(&format!("{begun}\nother")), expected);
        }
    }

    #[test]
    fn output_in_between_ends_the_traceback() {
        let text = "Traceback (most recent call last):\n  File \"a.py\", line 1, in f";
        for line in ["", "GET /x 200", "Exception in thread y:"] {
            assert_eq!(entries(&format!("{text}\n{line}\nE: x")), [&format!("!{text}"), line, "E: x"]);
        }
        assert_eq!(entries(&format!("{text}\n{SIMPLE}")), [format!("!{text}"), format!("!{SIMPLE}")]);
    }

    #[test]
    fn lines_of_another_request_are_not_merged() {
        let lines: Vec<_> = SIMPLE.split('\n').collect();
        for other in [None, Some("b")] {
            for at in 0..=lines.len() {
                let (before, after) = lines.split_at(at);
                let of =
                    |lines: &[&'static str]| lines.iter().map(|line| (*line, Some("a"))).collect::<Vec<_>>();
                // A line that would continue the traceback if it were of the same request.
                let all = [of(before), vec![("    f()", other)], of(after)].concat();
                let entries = entries_of(all, false);
                let other = shown(b"    f()", other);
                assert_eq!(entries.iter().filter(|entry| **entry == other).count(), 1, "{entries:?}");
                let whole: Vec<_> = entries
                    .iter()
                    .filter(|entry| **entry != other)
                    .flat_map(|entry| entry.trim_start_matches('!').trim_start_matches("a: ").split('\n'))
                    .collect();
                assert_eq!(whole, lines);
            }
        }
        let requests = ["a", "b"].map(|id| SIMPLE.split('\n').map(move |line| (line, Some(id))));
        let [first, second] = requests;
        let expected = [format!("!a: {SIMPLE}"), format!("!b: {SIMPLE}")];
        assert_eq!(entries_of(first.chain(second), false), expected);
    }

    #[test]
    fn tracebacks_of_requests_at_the_same_time_stay_whole() {
        let ids = ["a", "b", "c"];
        let lines = SIMPLE.split('\n').flat_map(|line| {
            let tracebacks = ids.map(|id| (line, Some(id)));
            tracebacks.into_iter().chain([("meanwhile", None), ("meanwhile", Some("d"))])
        });
        let mut entries = entries_of(lines, false);
        entries.retain(|entry| !entry.ends_with("meanwhile"));
        assert_eq!(entries, ids.map(|id| format!("!{id}: {SIMPLE}")));
    }

    #[test]
    fn tracebacks_over_the_limit_are_released() {
        let ids: Vec<String> = (0..=MAX_HELD).map(|number| number.to_string()).collect();
        let heading = SIMPLE.split('\n').next().unwrap();
        let mut tracebacks = Tracebacks::default();
        let mut released: Vec<_> = ids
            .iter()
            .flat_map(|id| tracebacks.take(heading.as_bytes(), Some(id), Instant::now()).0)
            .collect();
        assert_eq!(released.len(), 1);
        assert_eq!(released.pop().unwrap().request.as_deref(), Some("0"));
        assert_eq!(tracebacks.release().len(), MAX_HELD);
    }

    #[test]
    fn only_expired_tracebacks_are_released() {
        let mut tracebacks = Tracebacks::default();
        let start = Instant::now();
        let heading = SIMPLE.split('\n').next().unwrap().as_bytes();
        assert!(tracebacks.take(heading, Some("a"), start).1);
        assert!(tracebacks.take(heading, Some("b"), start + PATIENCE_WITHIN / 2).1);
        assert_eq!(tracebacks.deadline(), Some(start + PATIENCE_WITHIN));
        let [released] = &tracebacks.release_expired(start + PATIENCE_WITHIN)[..] else { panic!() };
        assert_eq!(released.request.as_deref(), Some("a"));
        assert_eq!(tracebacks.deadline(), Some(start + PATIENCE_WITHIN / 2 + PATIENCE_WITHIN));
    }

    #[test]
    fn released_lines_are_entries_at_once() {
        let entries = entries_of(SIMPLE.split('\n').map(|line| (line, None)), true);
        assert_eq!(entries, SIMPLE.split('\n').collect::<Vec<_>>());
    }

    #[test]
    fn waiting_for_the_next_line_is_limited() {
        let mut tracebacks = Tracebacks::default();
        let mut now = Instant::now();
        assert_eq!(tracebacks.deadline(), None);
        for line in CHAIN.split('\n').chain([""]) {
            now += Duration::from_millis(50);
            assert!(tracebacks.take(line.as_bytes(), None, now).1, "{line}");
            let may_be_the_end = line.contains("Error") || line.is_empty();
            let waits = tracebacks.deadline().unwrap() - now;
            // The blank line after a link is followed by a heading.
            assert!(waits == PATIENCE_WITHIN || (may_be_the_end && waits == PATIENCE_AT_END), "{line}");
            if line.contains("Error") {
                assert_eq!(waits, PATIENCE_AT_END);
            }
        }
        assert_eq!(tracebacks.release().len(), 1);
        assert_eq!(tracebacks.deadline(), None);
        assert!(tracebacks.release().is_empty());
    }

    #[test]
    fn traceback_over_the_limit_goes_on_as_lines() {
        let frame = format!("  {}", "x".repeat(998));
        let lines =
            ["Traceback (most recent call last):"].into_iter().chain([frame.as_str(); 60]).chain(["E: x"]);
        let entries = entries_of(lines.map(|line| (line, None)), false);
        let (first, rest) = entries.split_first().unwrap();
        assert!(first.starts_with("!Traceback") && (MAX_BYTES - 1000..=MAX_BYTES + 1).contains(&first.len()));
        let frames = first.split('\n').count() - 1 + rest.len() - 1;
        assert_eq!((frames, rest.last().unwrap().as_str()), (60, "E: x"));
    }
}
