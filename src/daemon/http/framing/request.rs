//! A request's head: its line, its fields, and what they say of the body.

use http::Uri;

use super::{HeadLimits, Violation, find_control, host, is_token, table};

/// A head as far as it has been scanned. Positions count from its first byte.
#[derive(Debug, Default)]
pub(super) struct Head {
    /// The next byte to be looked at.
    at: usize,
    /// Where the line begins that it belongs to.
    line: usize,
    /// Where the fields begin; 0 within the request line.
    fields: usize,
    n_fields: usize,
    is_1_0: bool,
    length: Option<u64>,
    coding: Option<Coding>,
}

/// What `Transfer-Encoding` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Chunked,
    /// Another, below `chunked`.
    BelowChunked,
    /// One that does not say where the body ends.
    Other,
}

/// How a request's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    None,
    Length(u64),
    Chunked,
}

/// The longest body of which hyper can count the bytes.
const MAX_LENGTH: u64 = u64::MAX - 2;

impl Head {
    /// Looks at what was not looked at before; where the head ends, if it is complete. A version above 1.1 becomes 1.1
    /// in place: hyper does not know a later one, and it means the same (RFC 9110 §2.5).
    pub(super) fn scan(&mut self, bytes: &mut [u8], limits: HeadLimits) -> Result<Option<usize>, Violation> {
        if self.at == 0
            && let Some(first) = bytes.first()
            && !is_token(*first)
        {
            if bytes == b"\r" {
                return Ok(None);
            }
            // At once: what speaks another protocol may wait for an answer and send no line.
            return Err(Violation::RequestLine("the request does not begin with a method"));
        }
        loop {
            self.at += find_control(bytes.get(self.at..).unwrap_or_default());
            match bytes.get(self.at..).unwrap_or_default() {
                [] | [b'\r'] => {
                    self.check_size(self.at, limits)?;
                    return Ok(None);
                }
                [b'\r', b'\n', ..] => {
                    let end = self.at;
                    self.at += 2;
                    let line = self.line;
                    self.line = self.at;
                    if self.fields == 0 {
                        self.check_size(end, limits)?;
                        self.fields = self.at;
                        self.is_1_0 = request_line(bytes.get_mut(line..end).unwrap_or_default())?;
                    } else if line == end {
                        return Ok(Some(self.at));
                    } else {
                        self.check_size(self.at, limits)?;
                        self.n_fields += 1;
                        if self.n_fields > limits.n_fields {
                            return Err(Violation::TooManyFields);
                        }
                        self.field(bytes.get(line..end).unwrap_or_default())?;
                    }
                }
                [b'\t', ..] if self.fields > 0 => self.at += 1,
                _ if self.fields == 0 => {
                    return Err(Violation::RequestLine(
                        "the request line has a control byte, or a bare CR or LF",
                    ));
                }
                _ => return Err(Violation::Field("a header field has a control byte, or a bare CR or LF")),
            }
        }
    }

    /// `end` is how far the line goes that is not complete, or the fields that are.
    fn check_size(&self, end: usize, limits: HeadLimits) -> Result<(), Violation> {
        if self.fields == 0 {
            return if end > limits.request_line { Err(Violation::RequestLineTooLong) } else { Ok(()) };
        }
        if end - self.fields > limits.fields { Err(Violation::FieldsTooLong) } else { Ok(()) }
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Violation> {
        let colon = line.iter().position(|byte| !is_token(*byte)).unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        match (name, value) {
            ([], [b' ' | b'\t', ..]) => return Err(Violation::Field("a header field is folded")),
            ([], _) => return Err(Violation::Field("a header field has no name")),
            (_, [b' ' | b'\t', ..]) => {
                return Err(Violation::Field("a header field has a space before its colon"));
            }
            (_, [b':', ..]) => {}
            _ => return Err(Violation::Field("a header field's name is malformed")),
        }
        let value = || value.get(1..).unwrap_or_default().trim_ascii();
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") && !host::is_valid(value()) => Err(Violation::Host),
            14 if name.eq_ignore_ascii_case(b"content-length") => self.set_length(value()),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.set_coding(value());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn set_length(&mut self, digits: &[u8]) -> Result<(), Violation> {
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return Err(Violation::Length("Content-Length is not a number"));
        }
        let length = digits.iter().try_fold(0_u64, |length, digit| {
            length
                .checked_mul(10)?
                .checked_add(u64::from(digit - b'0'))
                .filter(|length| *length <= MAX_LENGTH)
        });
        let length = length.ok_or(Violation::BodyTooLong)?;
        match self.length.replace(length) {
            None => Ok(()),
            Some(_) => Err(Violation::Length("there is more than one Content-Length")),
        }
    }

    fn set_coding(&mut self, value: &[u8]) {
        let last = value.rsplit(|byte| *byte == b',').next().unwrap_or_default().trim_ascii();
        self.coding = Some(match self.coding {
            _ if !last.eq_ignore_ascii_case(b"chunked") => Coding::Other,
            None if last.len() == value.len() => Coding::Chunked,
            _ => Coding::BelowChunked,
        });
    }

    /// What follows the head, when that is complete (RFC 9112 §6.3).
    pub(super) fn body(&self) -> Result<Body, Violation> {
        match (self.coding, self.length) {
            (None, None | Some(0)) => Ok(Body::None),
            (None, Some(length)) => Ok(Body::Length(length)),
            (Some(_), Some(_)) => {
                Err(Violation::Length("there are both Transfer-Encoding and Content-Length"))
            }
            (Some(_), None) if self.is_1_0 => Err(Violation::Length("HTTP/1.0 knows no Transfer-Encoding")),
            (Some(Coding::Chunked), None) => Ok(Body::Chunked),
            (Some(Coding::BelowChunked), None) => Err(Violation::Coding),
            (Some(Coding::Other), None) => {
                Err(Violation::Length("Transfer-Encoding does not end with chunked"))
            }
        }
    }
}

/// Checks a request line, and says whether it is one of HTTP/1.0.
fn request_line(line: &mut [u8]) -> Result<bool, Violation> {
    let malformed = |reason| Err(Violation::RequestLine(reason));
    let method = line.iter().position(|byte| !is_token(*byte)).unwrap_or(line.len());
    let Some((b' ', rest)) = line.get_mut(method..).and_then(<[u8]>::split_first_mut) else {
        return malformed("the request's method is malformed");
    };
    let Some(space) = rest.iter().position(|byte| *byte == b' ') else {
        return malformed("the request line has no version");
    };
    let (target, version) = rest.split_at_mut(space);
    if !is_target(target) {
        return malformed("the request's target is malformed");
    }
    match version {
        [b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'0'..=b'9'] => {
            let is_1_0 = *minor == b'0';
            if !is_1_0 {
                *minor = b'1';
            }
            Ok(is_1_0)
        }
        [b' ', b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => Err(Violation::Version),
        _ => malformed("the request's version is malformed"),
    }
}

/// Characters of a path and its query that mean nothing to the framing, and that every parser takes.
static PLAIN: [bool; 256] = table(b"/?-._~!$&'()*+,;=:@%");

fn is_target(target: &[u8]) -> bool {
    let is_plain = target.first() == Some(&b'/') && target.iter().all(|byte| PLAIN[usize::from(*byte)]);
    is_plain || Uri::try_from(target).is_ok()
}
