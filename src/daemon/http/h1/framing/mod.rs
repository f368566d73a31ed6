//! Checks the framing of HTTP/1 requests (RFC 9112) before hyper sees them: where each message
//! ends, and whether it is well formed.
//!
//! Pure state, no IO: `wire` passes in the bytes it has read, and [`Framing::accept`] returns how
//! many of them hyper may read. A head is accepted whole or not at all, a body as it arrives. A head
//! is accepted together with what has arrived of a body of known length, which needs no check.
//! Nothing beyond the end of a message is accepted, so the next request is checked only when hyper
//! reads it.
//!
//! The framing refuses messages that hyper would refuse, because hyper's own responses have no
//! request id. It also refuses messages that hyper accepts, but that two parsers could read
//! differently: a body with two lengths, spaces and control bytes around a chunk's size, an invalid
//! Host, a target with a fragment, a trailer that would change the framing, and a bare LF anywhere.
//!
//! RFC 9112 §2.2 allows a recipient to treat a bare LF as a line end, also in the empty lines
//! before a request. A proxy in front of rgun may do otherwise. The proxy and rgun would then see
//! different messages, so rgun refuses a bare LF.

mod bytes;
mod chunk_scanner;
mod head_scanner;
mod host;
#[cfg(test)]
mod tests;
mod violation;

use self::chunk_scanner::ChunkScanner;
pub(in crate::http) use self::chunk_scanner::FORBIDDEN_TRAILERS;
use self::head_scanner::{BodyLength, HeadScanner};
pub(in crate::http) use self::host::is_valid as is_host;
pub(in crate::http) use self::violation::{HeadLimits, Violation};

/// The framing state of one connection.
#[derive(Debug)]
pub(in crate::http) struct Framing {
    limits: HeadLimits,
    state: FramingState,
}

/// The position in the sequence of messages.
#[derive(Debug)]
enum FramingState {
    /// Between two messages or within a head.
    Head(HeadScanner),
    /// Within a body of known length; the bytes still to come.
    Length(u64),
    Chunked(Box<ChunkScanner>),
    /// A message was refused, possibly after part of its body was accepted. Nothing more is
    /// accepted.
    Broken(Violation),
}

impl Framing {
    /// Creates the state of a new connection.
    pub(in crate::http) fn new(limits: HeadLimits) -> Self {
        Self { limits, state: FramingState::Head(HeadScanner::default()) }
    }

    /// True within a body, and after a violation.
    pub(in crate::http) fn is_mid_body(&self) -> bool {
        !matches!(self.state, FramingState::Head(_))
    }

    /// Returns how many leading bytes hyper may read. Returns 0 if the head is incomplete; the next
    /// call must pass the same bytes again, followed by more.
    ///
    /// # Errors
    /// The message must be refused. If the violation is in a head, no part of the head was
    /// accepted.
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
                self.state = match head.body_length()? {
                    BodyLength::None => FramingState::Head(HeadScanner::default()),
                    BodyLength::Known(len) => return Ok(end + self.accept_known(len, bytes.len() - end)),
                    BodyLength::Chunked => FramingState::Chunked(Box::new(ChunkScanner::new(self.limits))),
                };
                Ok(end)
            }
            &mut FramingState::Length(left) => Ok(self.accept_known(left, bytes.len())),
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

    /// Accepts up to `available` bytes of a body of which `left` bytes are still to come. Returns how
    /// many.
    fn accept_known(&mut self, left: u64, available: usize) -> usize {
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(available);
        self.state = match left - len as u64 {
            0 => FramingState::Head(HeadScanner::default()),
            left => FramingState::Length(left),
        };
        len
    }
}

/// Returns the length of the empty lines before a request, which are ignored (RFC 9112 §2.2).
pub(in crate::http) fn empty_lines(bytes: &[u8]) -> usize {
    let mut len = 0;
    while let Some([b'\r', b'\n', ..]) = bytes.get(len..) {
        len += 2;
    }
    len
}
