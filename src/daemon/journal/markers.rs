//! Marks of entries that the formats treat differently. They are not written.

/// The field of an entry whose message is a line in the operator's own form (`log.access_format`).
/// On a terminal and as text, the entry is this line alone.
pub(super) const WHOLE_LINE: &str = "whole_line";

/// Target of the entries of answered requests.
pub(super) const ACCESS: &str = "rgun::access";

/// Target of the entries of requests that failed.
pub(super) const REQUEST: &str = "rgun::request";

/// Target of the lines that only a terminal shows, and without a time: start, reload and stop.
pub(super) const TERMINAL: &str = "rgun::terminal";
