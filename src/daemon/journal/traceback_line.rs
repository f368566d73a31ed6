//! The lines of a printed traceback ([`super::traceback`]).

use std::time::Duration;

/// Maximum time between two lines of a traceback. Before some of them Python reads the source.
pub(super) const PATIENCE_WITHIN: Duration = Duration::from_secs(1);

/// Maximum time between two exceptions of a chain.
pub(super) const PATIENCE_AT_END: Duration = Duration::from_millis(100);

const HEADING: &[u8] = b"Traceback (most recent call last):";
const GROUP_HEADING: &[u8] = b"  + Exception Group Traceback (most recent call last):";

/// Lines before a heading, by their beginning: `threading`'s, and those about `__del__` and the like.
const INTRODUCTIONS: [&[u8]; 2] = [b"Exception in thread ", b"Exception ignored "];

/// The lines between the exceptions of a chain; a blank line is before and after each.
const LINKS: [&[u8]; 2] = [
    b"During handling of the above exception, another exception occurred:",
    b"The above exception was the direct cause of the following exception:",
];

/// The last line that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Last {
    Introduction,
    Heading,
    /// An indented line.
    Frame,
    /// The line of the exception.
    Exception,
    /// A line of a group.
    Group,
    /// The last line of a group, or of a group within it.
    GroupEnd,
    /// The blank line after an exception.
    Blank,
    /// One of [`LINKS`].
    Link,
    /// The blank line after a link.
    BlankAfterLink,
}

impl Last {
    /// Returns the kind of a line that may follow; `None` if the line does not belong to the traceback.
    pub(super) fn next(self, line: &[u8]) -> Option<Self> {
        match self {
            Self::Introduction | Self::BlankAfterLink => heading(line),
            Self::Heading => is_indented(line).then_some(Self::Frame),
            Self::Frame if is_indented(line) => Some(Self::Frame),
            Self::Frame => is_exception(line).then_some(Self::Exception),
            Self::Exception => line.is_empty().then_some(Self::Blank),
            // Another thread's; a group within a group has a margin.
            Self::Group | Self::GroupEnd if line == GROUP_HEADING => None,
            Self::Group | Self::GroupEnd => match line.trim_ascii_start() {
                _ if !is_indented(line) => (self == Self::GroupEnd && line.is_empty()).then_some(Self::Blank),
                [b'+', rule @ ..] if rule.iter().all(|byte| *byte == b'-') => Some(Self::GroupEnd),
                [b'|' | b'+', ..] => Some(Self::Group),
                _ => None,
            },
            Self::Blank => LINKS.contains(&line).then_some(Self::Link),
            Self::Link => line.is_empty().then_some(Self::BlankAfterLink),
        }
    }

    pub(super) fn patience(self) -> Duration {
        match self {
            Self::Exception | Self::GroupEnd | Self::Blank => PATIENCE_AT_END,
            _ => PATIENCE_WITHIN,
        }
    }
}

/// Returns the kind of a line that may begin a traceback. It may have a prefix such as `<3>`.
pub(super) fn begin(line: &[u8]) -> Option<Last> {
    let line = match line {
        [b'<', b'0'..=b'7', b'>', rest @ ..] => rest,
        line => line,
    };
    if INTRODUCTIONS.iter().any(|text| line.starts_with(text)) {
        return Some(Last::Introduction);
    }
    // The first exception of the chain has no traceback, or a message of several lines.
    if LINKS.contains(&line) {
        return Some(Last::Link);
    }
    heading(line)
}

fn heading(line: &[u8]) -> Option<Last> {
    match line {
        HEADING => Some(Last::Heading),
        GROUP_HEADING => Some(Last::Group),
        _ => None,
    }
}

fn is_indented(line: &[u8]) -> bool {
    line.starts_with(b"  ")
}

/// Returns whether a line can be that of an exception: a name, and usually a message after a colon.
/// The output of another thread may have come in between.
fn is_exception(line: &[u8]) -> bool {
    let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
    !name.is_empty() && !name.iter().any(u8::is_ascii_whitespace)
}
