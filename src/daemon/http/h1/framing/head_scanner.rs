//! Scans a request's head: the request line, the fields, and the body length that they declare.

use http::Uri;

use super::bytes::{find_control, is_token, table, token_len};
use super::host;
use super::violation::{HeadLimits, Violation};

/// The state of a partially scanned head. Positions count from its first byte.
#[derive(Debug, Default)]
pub(super) struct HeadScanner {
    /// The next byte to scan.
    pos: usize,
    /// The beginning of the current field line.
    line_start: usize,
    /// The colon of the current field line; 0 until it is found.
    colon: usize,
    /// The beginning of the fields; 0 within the request line.
    fields_start: usize,
    n_fields: usize,
    is_http_10: bool,
    length: Option<u64>,
    coding: Option<TransferCoding>,
}

/// The value of `Transfer-Encoding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TransferCoding {
    Chunked,
    /// `chunked` after another coding.
    BelowChunked,
    /// A final coding other than `chunked`, which does not delimit the body.
    Other,
}

/// The length of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyLength {
    None,
    Known(u64),
    Chunked,
}

/// Largest `Content-Length` that hyper accepts.
const MAX_CONTENT_LENGTH: u64 = u64::MAX - 2;

impl HeadScanner {
    /// Continues the scan; `bytes` begins with the head's first byte. Returns the end of the head,
    /// or `None` while the head is incomplete. Replaces a minor version above 1 with 1 in place:
    /// hyper refuses such a version, although it is compatible (RFC 9110 §2.5).
    pub(super) fn scan(&mut self, bytes: &mut [u8], limits: HeadLimits) -> Result<Option<usize>, Violation> {
        if self.fields_start == 0 && !self.scan_request_line(bytes, limits)? {
            return Ok(None);
        }
        while let Some(mut rest) = bytes.get(self.pos..) {
            if self.colon == 0 {
                let len = token_len(rest);
                self.pos += len;
                match rest.get(len..).unwrap_or_default() {
                    [b':', value @ ..] if self.pos > self.line_start => {
                        self.colon = self.pos;
                        self.pos += 1;
                        rest = value;
                    }
                    [b'\r', b'\n', ..] if self.pos == self.line_start => return Ok(Some(self.pos + 2)),
                    [] => break,
                    [b'\r'] if self.pos == self.line_start => return Ok(None),
                    rest => return Err(self.bad_name(rest)),
                }
            }
            let len = find_control(rest);
            self.pos += len;
            match rest.get(len..).unwrap_or_default() {
                [b'\r', b'\n', ..] => {
                    let (name, value) = (self.line_start..self.colon, self.colon + 1..self.pos);
                    self.pos += 2;
                    self.check_fields(limits)?;
                    self.n_fields += 1;
                    if self.n_fields > limits.n_fields {
                        return Err(Violation::TooManyFields);
                    }
                    (self.line_start, self.colon) = (self.pos, 0);
                    self.check_field(
                        bytes.get(name).unwrap_or_default(),
                        bytes.get(value).unwrap_or_default(),
                    )?;
                }
                [] | [b'\r'] => break,
                [b'\t', ..] => self.pos += 1,
                _ => return Err(Violation::Field("a header field has a control byte, or a bare CR or LF")),
            }
        }
        self.check_fields(limits).map(|()| None)
    }

    /// Scans the request line; returns false if it is incomplete.
    fn scan_request_line(&mut self, bytes: &mut [u8], limits: HeadLimits) -> Result<bool, Violation> {
        if let Some(len) = plain_request_line(bytes).filter(|len| *len - CRLF_BYTES <= limits.request_line) {
            self.pos = len;
            (self.line_start, self.fields_start) = (len, len);
            return Ok(true);
        }
        match &*bytes {
            [] | [b'\r'] => return Ok(false),
            [first, ..] if is_token(*first) => {}
            // Refused at the first byte: a client of another protocol may wait for a response
            // without sending a line end.
            _ => return Err(Violation::RequestLine("the request does not begin with a method")),
        }
        self.pos += find_control(bytes.get(self.pos..).unwrap_or_default());
        if self.pos > limits.request_line {
            return Err(Violation::RequestLineTooLong);
        }
        match bytes.get(self.pos..).unwrap_or_default() {
            [b'\r', b'\n', ..] => {
                self.is_http_10 = check_request_line(bytes.get_mut(..self.pos).unwrap_or_default())?;
                self.pos += 2;
                (self.line_start, self.fields_start) = (self.pos, self.pos);
                Ok(true)
            }
            [] | [b'\r'] => Ok(false),
            _ => Err(Violation::RequestLine("the request line has a control byte, or a bare CR or LF")),
        }
    }

    /// Checks the bytes of the fields scanned so far against the limit.
    fn check_fields(&self, limits: HeadLimits) -> Result<(), Violation> {
        if self.pos - self.fields_start > limits.fields { Err(Violation::FieldsTooLong) } else { Ok(()) }
    }

    /// Returns the violation of a field name that is followed by `rest`.
    fn bad_name(&self, rest: &[u8]) -> Violation {
        Violation::Field(match rest {
            [b' ' | b'\t', ..] if self.pos == self.line_start => "a header field is folded",
            [b' ' | b'\t', ..] => "a header field has a space before its colon",
            [b':', ..] => "a header field has no name",
            [b'\r' | b'\n', ..] => "a header field has no colon, or its line ends with a bare CR or LF",
            _ => "a header field's name is malformed",
        })
    }

    /// Checks a field if the framing depends on it. Inlined so that the slices are made only for
    /// these fields.
    #[inline]
    fn check_field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Violation> {
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") && !host::is_valid(value.trim_ascii()) => {
                Err(Violation::Host)
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => self.set_length(value.trim_ascii()),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.set_coding(value.trim_ascii());
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
                .filter(|length| *length <= MAX_CONTENT_LENGTH)
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
            _ if !last.eq_ignore_ascii_case(b"chunked") => TransferCoding::Other,
            None if last.len() == value.len() => TransferCoding::Chunked,
            _ => TransferCoding::BelowChunked,
        });
    }

    /// Returns the body length that a complete head declares (RFC 9112 §6.3).
    pub(super) fn body_length(&self) -> Result<BodyLength, Violation> {
        match (self.coding, self.length) {
            (None, None | Some(0)) => Ok(BodyLength::None),
            (None, Some(length)) => Ok(BodyLength::Known(length)),
            (Some(_), Some(_)) => {
                Err(Violation::Length("there are both Transfer-Encoding and Content-Length"))
            }
            (Some(_), None) if self.is_http_10 => Err(Violation::Length("HTTP/1.0 has no Transfer-Encoding")),
            (Some(TransferCoding::Chunked), None) => Ok(BodyLength::Chunked),
            (Some(TransferCoding::BelowChunked), None) => Err(Violation::Coding),
            (Some(TransferCoding::Other), None) => {
                Err(Violation::Length("Transfer-Encoding does not end with chunked"))
            }
        }
    }
}

/// Bytes at the end of each line.
const CRLF_BYTES: usize = 2;

/// Returns the length, with CRLF, of a request line of the most frequent form: GET, HEAD or POST, a
/// path without unusual characters, HTTP/1.1. [`check_request_line`] accepts the same lines, but
/// takes 130 more instructions.
#[inline]
fn plain_request_line(bytes: &[u8]) -> Option<usize> {
    let method = match bytes {
        [b'G', b'E', b'T', b' ', b'/', ..] => 4,
        [b'P', b'O', b'S', b'T', b' ', b'/', ..] | [b'H', b'E', b'A', b'D', b' ', b'/', ..] => 5,
        _ => return None,
    };
    let target = bytes.get(method..)?;
    let end = target.iter().position(|byte| !PLAIN_TARGET[usize::from(*byte)])?;
    let version = b" HTTP/1.1\r\n";
    target.get(end..)?.starts_with(version).then_some(method + end + version.len())
}

/// Checks a request line. Returns true for HTTP/1.0.
fn check_request_line(line: &mut [u8]) -> Result<bool, Violation> {
    let malformed = |reason| Err(Violation::RequestLine(reason));
    let method = token_len(line);
    let Some((b' ', rest)) = line.get_mut(method..).and_then(<[u8]>::split_first_mut) else {
        return malformed("the request's method is malformed");
    };
    let plain = rest.iter().position(|byte| !PLAIN_TARGET[usize::from(*byte)]).unwrap_or(rest.len());
    let Some(space) = rest.iter().skip(plain).position(|byte| *byte == b' ') else {
        return malformed("the request line has no version");
    };
    let (target, version) = rest.split_at_mut(plain + space);
    let is_plain = space == 0 && target.first() == Some(&b'/');
    // `Uri` drops a fragment; a request target has none (RFC 9112 §3.2).
    if !is_plain && (target.contains(&b'#') || Uri::try_from(&*target).is_err()) {
        return malformed("the request's target is malformed");
    }
    match version {
        [b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor @ b'0'..=b'9'] => {
            let is_http_10 = *minor == b'0';
            if !is_http_10 {
                *minor = b'1';
            }
            Ok(is_http_10)
        }
        [b' ', b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => Err(Violation::Version),
        _ => malformed("the request's version is malformed"),
    }
}

/// Characters of a path and query that need no further check.
static PLAIN_TARGET: [bool; 256] = table(b"/?-._~!$&'()*+,;=:@%");

#[cfg(test)]
mod tests {
    use super::*;

    /// Puts each byte at each position, and cuts the head at each length.
    #[test]
    fn plain_request_line_is_valid_for_the_full_check() {
        for head in ["GET /a?b HTTP/1.1\r\nHost: x", "POST / HTTP/1.1\r\n", "HEAD /%41 HTTP/1.1\r\n"] {
            let end = head.find("\r\n").unwrap();
            assert_eq!(plain_request_line(head.as_bytes()), Some(end + CRLF_BYTES), "{head}");
            for pos in 0..end + CRLF_BYTES {
                assert_eq!(plain_request_line(&head.as_bytes()[..pos]), None, "{head} cut at {pos}");
                for byte in 0..=u8::MAX {
                    let mut head = head.as_bytes().to_vec();
                    head[pos] = byte;
                    let Some(len) = plain_request_line(&head) else { continue };
                    assert_eq!(len, end + CRLF_BYTES, "{byte} at {pos}");
                    assert_eq!(check_request_line(&mut head[..end]), Ok(false), "{byte} at {pos}");
                }
            }
        }
    }
}
