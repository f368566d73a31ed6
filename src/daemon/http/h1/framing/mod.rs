//! Where a message of HTTP/1.1 ends and whether it is one at all, found out before hyper sees its bytes (RFC 9112).
//!
//! Pure state, no IO: `wire` presents what has been read, and [`Framing::accept`] says how much of it hyper may have. A
//! head is let through whole or not at all; a body as it comes. Nothing is let through beyond the end of a message, so
//! that a connection's next request is looked at only when hyper asks for it.
//!
//! What hyper would refuse is refused here, because hyper's own answers have no request id; and what hyper lets pass
//! although two parsers could disagree about it: a body of two lengths, spaces and control bytes around a chunk's size,
//! bare line feeds, a Host that is none.

mod bytes;
mod chunk_scanner;
mod head_scanner;
mod host;
#[cfg(test)]
mod tests;
mod violation;

use self::chunk_scanner::ChunkScanner;
use self::head_scanner::{BodyLength, HeadScanner};
pub(in crate::http) use self::host::is_valid as is_host;
pub(in crate::http) use self::violation::{HeadLimits, Violation};

/// The framing of one connection's messages.
#[derive(Debug)]
pub(in crate::http) struct Framing {
    limits: HeadLimits,
    state: FramingState,
}

#[derive(Debug)]
enum FramingState {
    /// Between two messages, or within a head.
    Head(HeadScanner),
    /// So much of a body is still to come.
    Length(u64),
    Chunked(Box<ChunkScanner>),
    /// A message was refused, perhaps after part of its body was let through: nothing follows.
    Broken(Violation),
}

impl Framing {
    /// Of a connection on which nothing has come.
    pub(in crate::http) fn new(limits: HeadLimits) -> Self {
        Self { limits, state: FramingState::Head(HeadScanner::default()) }
    }

    /// True within a body: bytes go on to hyper as they come.
    pub(in crate::http) fn is_mid_body(&self) -> bool {
        !matches!(self.state, FramingState::Head(_))
    }

    /// How many bytes of the front hyper may have. 0 within a head that is not complete: all of it is to be presented
    /// again, with more.
    ///
    /// # Errors
    /// The message is to be refused. Of a head nothing was let through.
    pub(in crate::http) fn accept(&mut self, bytes: &mut [u8]) -> Result<usize, Violation> {
        let accepted = self.advance(bytes);
        if let Err(violation) = accepted {
            self.state = FramingState::Broken(violation);
        }
        accepted
    }

    fn advance(&mut self, bytes: &mut [u8]) -> Result<usize, Violation> {
        match &mut self.state {
            FramingState::Head(head) => {
                let Some(end) = head.scan(bytes, self.limits)? else { return Ok(0) };
                self.state = match head.body()? {
                    BodyLength::None => FramingState::Head(HeadScanner::default()),
                    BodyLength::Known(len) => FramingState::Length(len),
                    BodyLength::Chunked => FramingState::Chunked(Box::new(ChunkScanner::new(self.limits))),
                };
                Ok(end)
            }
            FramingState::Length(left) => {
                let len = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= len as u64;
                if *left == 0 {
                    self.state = FramingState::Head(HeadScanner::default());
                }
                Ok(len)
            }
            FramingState::Chunked(chunks) => {
                let (len, outcome) = chunks.accept(bytes);
                match outcome {
                    Ok(false) => {}
                    Ok(true) => self.state = FramingState::Head(HeadScanner::default()),
                    Err(violation) if len == 0 => return Err(violation),
                    Err(violation) => self.state = FramingState::Broken(violation),
                }
                Ok(len)
            }
            FramingState::Broken(violation) => Err(*violation),
        }
    }
}

/// Empty lines before a request, which are ignored (RFC 9112 §2.2): their length.
pub(in crate::http) fn empty_lines(bytes: &[u8]) -> usize {
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
