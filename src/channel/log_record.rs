//! The form in which a worker writes records of Python's `logging`, and the requests of printed lines,
//! to its stdout and stderr ([`Start::log_token`](crate::control::Start::log_token)).
//!
//! | bytes | meaning |
//! |---|---|
//! | `RS TOKEN {"rgun":"record",...} LF` | a record of `logging`: a JSON object with the keys below |
//! | `RS TOKEN @ID RS` | the text up to the next line feed or tag belongs to the request `ID` |
//! | `RS TOKEN @ RS` | the text up to the next line feed or tag belongs to no request |
//!
//! `RS` is [`SEPARATOR`]; the spaces stand for nothing. `TOKEN` is the [`LogToken`] of the process: a text that
//! a client has sent, and the application prints, is neither record nor tag.
//!
//! A record or tag may follow the start of a line that has not ended; this start is then a line of its
//! own. Bytes of any other form are text, also those of a record that the writes of two processes have
//! mixed; `RS TOKEN` itself is never logged.
//!
//! | key | value |
//! |---|---|
//! | `rgun` | `"record"` |
//! | `priority` | 1 to 7, as in syslog(3) |
//! | `message` | the formatted text, with its traceback |
//! | `logger`, `file`, `line`, `function`, `thread`, `process` | the logger and where it was called |
//! | `request_id` | the request; missing if it is not known |
//! | `extra` | an object of further fields, name to text |

use std::fmt;
use std::num::NonZeroU64;

/// Begins a record or a tag: the record separator of ASCII and RFC 7464.
pub const SEPARATOR: u8 = 0x1e;

/// Follows the [`LogToken`] in a tag.
pub const TAG: u8 = b'@';

/// Maximum number of bytes of a record.
pub const MAX_RECORD_BYTES: usize = 512 << 10;

/// Number of bytes of [`LogToken::marker`].
pub const MARKER_BYTES: usize = 17;

/// The secret by which the daemon knows the records and tags of a process. The daemon chooses it at
/// random for each process that it starts; a worker that a zygote forks has the zygote's, because it may
/// inherit what the zygote has not written yet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct LogToken(NonZeroU64);

impl LogToken {
    /// Creates a token from random bytes.
    #[must_use]
    pub fn from_random(bytes: [u8; 8]) -> Self {
        Self(NonZeroU64::new(u64::from_ne_bytes(bytes)).unwrap_or(NonZeroU64::MIN))
    }

    /// Returns the bytes that begin records and tags: [`SEPARATOR`] and the token as 16 hexadecimal digits.
    #[must_use]
    pub fn marker(self) -> String {
        format!("{}{:016x}", char::from(SEPARATOR), self.0)
    }

    /// Reads a token of a message; 0 stands for none.
    pub(crate) fn from_wire(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    /// Returns the number in a message.
    pub(crate) fn to_wire(token: Option<Self>) -> u64 {
        token.map_or(0, |token| token.0.get())
    }
}

impl fmt::Debug for LogToken {
    /// Keeps the token out of logs.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("LogToken")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marker_has_a_fixed_length_and_debug_does_not_show_it() {
        for bytes in [[0; 8], [1; 8], [0xff; 8]] {
            let token = LogToken::from_random(bytes);
            assert_eq!(token.marker().len(), MARKER_BYTES);
            assert_eq!(format!("{token:?}"), "LogToken");
            assert_eq!(LogToken::from_wire(LogToken::to_wire(Some(token))), Some(token));
        }
        assert_eq!(LogToken::from_wire(LogToken::to_wire(None)), None);
    }
}
