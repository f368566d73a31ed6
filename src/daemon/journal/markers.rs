//! Marks of entries that the formats treat differently.

/// The field of an entry whose message is a line in the operator's own form (`log.access_format`).
/// On a terminal and as text, the entry is this line alone.
pub(super) const WHOLE_LINE: &str = "whole_line";

/// The field with the event of an entry ([`catalog`](super::catalog)): `MESSAGE_ID=` in the
/// journal, and in JSON. Lines of text do not have it.
pub(super) const MESSAGE_ID: &str = "message_id";

/// Target of the entries of answered requests.
pub(super) const ACCESS: &str = "rgun::access";

/// Target of the entries of requests that failed.
pub(super) const REQUEST: &str = "rgun::request";

/// Target of the lines that only a terminal shows, and without a time: start, reload and stop.
pub(super) const TERMINAL: &str = "rgun::terminal";
