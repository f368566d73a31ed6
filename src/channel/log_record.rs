//! The form in which a worker writes records of Python's `logging`, and the requests of printed lines,
//! to its stdout and stderr ([`Start::log_records`](crate::control::Start::log_records)).
//!
//! | bytes | meaning |
//! |---|---|
//! | `RS {"rgun":"record",...} LF` | a record of `logging`: a JSON object with the keys below |
//! | `RS @ID RS` | the text up to the next line feed or tag belongs to the request `ID` |
//! | `RS @ RS` | the text up to the next line feed or tag belongs to no request |
//!
//! `RS` is [`SEPARATOR`]. It may follow the start of a line that has not ended; this start is then a
//! line of its own. Bytes of any other form are text, also those of a record that the writes of two
//! processes have mixed.
//!
//! | key | value |
//! |---|---|
//! | `rgun` | `"record"` |
//! | `priority` | 1 to 7, as in syslog(3) |
//! | `message` | the formatted text, with its traceback |
//! | `logger`, `file`, `line`, `function`, `thread`, `process` | the logger and where it was called |
//! | `request_id` | the request; missing if it is not known |
//! | `extra` | an object of further fields, name to text |

/// Begins a record or a tag: the record separator of ASCII and RFC 7464.
pub const SEPARATOR: u8 = 0x1e;

/// Follows [`SEPARATOR`] in a tag.
pub const TAG: u8 = b'@';

/// Maximum number of bytes of a record.
pub const MAX_RECORD_BYTES: usize = 512 << 10;
