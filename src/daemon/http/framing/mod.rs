//! Where a message of HTTP/1.1 ends and whether it is one at all, found out before hyper sees its bytes (RFC 9112).
//!
//! Pure state, no IO: `wire` presents what has been read, and [`Framing::accept`] says how much of it hyper may have. A
//! head is let through whole or not at all; a body as it comes. Nothing is let through beyond the end of a message, so
//! that a connection's next request is looked at only when hyper asks for it.
//!
//! What hyper would refuse is refused here, because hyper's own answers have no request id; and what hyper lets pass
//! although two parsers could disagree about it: a body of two lengths, spaces and control bytes around a chunk's size,
//! bare line feeds, a Host that is none.

mod chunks;
mod host;
mod request;
#[cfg(test)]
mod tests;

use self::chunks::Chunks;
use self::request::{Body, Head};

pub(super) use self::host::is_valid as is_host;

/// What bounds a head. Units: bytes, except for the number of fields.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadLimits {
    /// `limits.request_line`.
    pub(super) request_line: usize,
    /// `limits.header`: all fields together, with their line ends; of a chunked body's trailers too.
    pub(super) fields: usize,
    /// `limits.headers`.
    pub(super) n_fields: usize,
}

/// Why a message is refused. `fault` has the status code of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Violation {
    /// The request line is malformed.
    RequestLine(&'static str),
    /// A version of HTTP other than 1.x.
    Version,
    /// `limits.request_line`.
    RequestLineTooLong,
    /// A field's line is malformed.
    Field(&'static str),
    /// `limits.header`.
    FieldsTooLong,
    /// `limits.headers`.
    TooManyFields,
    /// The value of Host names no host.
    Host,
    /// The length of the body is malformed, or stated twice.
    Length(&'static str),
    /// The body is longer than any that could be served.
    BodyTooLong,
    /// The transfer coding ends with `chunked` and has another below it.
    Coding,
    /// A chunked body, or its trailers, are malformed.
    Chunk(&'static str),
    /// The head took longer than `timeouts.header`.
    SlowHead,
}

/// The framing of one connection's messages.
#[derive(Debug)]
pub(super) struct Framing {
    limits: HeadLimits,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Between two messages, or within a head.
    Head(Head),
    /// So much of a body is still to come.
    Length(u64),
    Chunked(Box<Chunks>),
    /// A message was refused, perhaps after part of its body was let through: nothing follows.
    Broken(Violation),
}

impl Framing {
    /// Of a connection on which nothing has come.
    pub(super) fn new(limits: HeadLimits) -> Self {
        Self { limits, state: State::Head(Head::default()) }
    }

    /// True within a body: bytes go on to hyper as they come.
    pub(super) fn is_mid_body(&self) -> bool {
        !matches!(self.state, State::Head(_))
    }

    /// How many bytes of the front hyper may have. 0 within a head that is not complete: all of it is to be presented
    /// again, with more.
    ///
    /// # Errors
    /// The message is to be refused. Of a head nothing was let through.
    pub(super) fn accept(&mut self, bytes: &mut [u8]) -> Result<usize, Violation> {
        let accepted = self.advance(bytes);
        if let Err(violation) = accepted {
            self.state = State::Broken(violation);
        }
        accepted
    }

    fn advance(&mut self, bytes: &mut [u8]) -> Result<usize, Violation> {
        match &mut self.state {
            State::Head(head) => {
                let Some(end) = head.scan(bytes, self.limits)? else { return Ok(0) };
                self.state = match head.body()? {
                    Body::None => State::Head(Head::default()),
                    Body::Length(len) => State::Length(len),
                    Body::Chunked => State::Chunked(Box::new(Chunks::new(self.limits))),
                };
                Ok(end)
            }
            State::Length(left) => {
                let len = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= len as u64;
                if *left == 0 {
                    self.state = State::Head(Head::default());
                }
                Ok(len)
            }
            State::Chunked(chunks) => {
                let (len, outcome) = chunks.accept(bytes);
                match outcome {
                    Ok(false) => {}
                    Ok(true) => self.state = State::Head(Head::default()),
                    Err(violation) if len == 0 => return Err(violation),
                    Err(violation) => self.state = State::Broken(violation),
                }
                Ok(len)
            }
            State::Broken(violation) => Err(*violation),
        }
    }
}

/// Empty lines before a request, which are ignored (RFC 9112 §2.2): their length.
pub(super) fn empty_lines(bytes: &[u8]) -> usize {
    let mut len = 0;
    while let Some(rest) = bytes.get(len..) {
        match rest {
            [b'\r', b'\n', ..] => len += 2,
            [b'\n', ..] => len += 1,
            _ => break,
        }
    }
    len
}

/// A character of a token (RFC 9110 §5.6.2): methods, names of fields and of chunks' extensions.
#[inline]
fn is_token(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

static TOKEN: [bool; 256] = table(b"!#$%&'*+-.^_`|~");

/// Letters, digits, and these.
const fn table(others: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        #[expect(clippy::cast_possible_truncation, reason = "it is below 128")]
        let letter = (byte as u8).is_ascii_alphanumeric();
        table[byte] = letter;
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = true;
        at += 1;
    }
    table
}

/// Where the first control byte is (RFC 9110 §5.5: CTL), or the length. Eight at a time: this is all that is looked at
/// of most of a head.
#[inline]
fn find_control(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    let (words, rest) = bytes.as_chunks::<8>();
    for (nr, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let delete = word ^ (ONES * 0x7f);
        // The high bit of each byte below 0x20, or equal to 0x7f. A borrow can flag a byte wrongly only above one that
        // is flagged rightly, and the lowest is the one that counts.
        let found =
            (word.wrapping_sub(ONES * 0x20) & !word | delete.wrapping_sub(ONES) & !delete) & (ONES * 0x80);
        if found != 0 {
            return nr * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    let tail = rest.iter().position(u8::is_ascii_control).unwrap_or(rest.len());
    words.len() * 8 + tail
}
