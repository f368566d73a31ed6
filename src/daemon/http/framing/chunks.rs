//! A chunked body (RFC 9112 §7.1): sizes, extensions and trailers, more strictly than hyper, which comes after.

use super::bytes::is_token;
use super::violation::{HeadLimits, Violation};

/// A chunked body as far as it has come.
#[derive(Debug)]
pub(super) struct Chunks {
    limits: HeadLimits,
    at: At,
    /// Of the size that is being read.
    size: u64,
    /// Digits of it, leading zeros too.
    n_digits: u8,
    /// Bytes of extensions in the whole body.
    extensions: usize,
    /// Bytes of trailers.
    trailers: usize,
    n_trailers: usize,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size,
    Extension(Extension),
    SizeLf,
    Data(u64),
    DataCr,
    DataLf,
    /// The beginning of a trailer's line, or of the empty one.
    Trailer,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
}

/// Where in `*( BWS ";" BWS name [ BWS "=" BWS value ] )`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extension {
    BeforeName,
    Name,
    AfterName,
    BeforeValue,
    Value,
    Quoted,
    Escaped,
    AfterQuoted,
    AfterValue,
}

/// A size needs no more digits: 16 are all of 64 bits.
const MAX_DIGITS: u8 = 16;

/// Bytes of extensions in one body. They mean nothing here, and are not known to be in use.
const MAX_EXTENSIONS: usize = 16 * 1024 - 1;

impl Chunks {
    pub(super) fn new(limits: HeadLimits) -> Self {
        Self { limits, at: At::Size, size: 0, n_digits: 0, extensions: 0, trailers: 0, n_trailers: 0 }
    }

    /// How many bytes belong to the body, and whether that ends with them.
    pub(super) fn accept(&mut self, bytes: &[u8]) -> (usize, Result<bool, Violation>) {
        let mut len = 0;
        while let Some(byte) = bytes.get(len) {
            if let At::Data(left) = &mut self.at {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - len);
                len += here;
                *left -= here as u64;
                if *left == 0 {
                    self.at = At::DataCr;
                }
                continue;
            }
            match self.step(*byte) {
                Ok(Some(next)) => self.at = next,
                Ok(None) => return (len + 1, Ok(true)),
                Err(reason) => return (len, Err(Violation::Chunk(reason))),
            }
            len += 1;
        }
        (len, Ok(false))
    }

    /// What comes after this byte; `None` after the last.
    fn step(&mut self, byte: u8) -> Result<Option<At>, &'static str> {
        Ok(Some(match (self.at, byte) {
            (At::Size, _) => self.size(byte)?,
            (At::Extension(at), _) => {
                self.extensions += 1;
                if self.extensions > MAX_EXTENSIONS {
                    return Err("the extensions of the body's chunks are too long");
                }
                extension(at, byte).ok_or("an extension of a chunk is malformed")?
            }
            (At::SizeLf, b'\n') => {
                self.n_digits = 0;
                match std::mem::take(&mut self.size) {
                    0 => At::Trailer,
                    size => At::Data(size),
                }
            }
            (At::SizeLf, _) => return Err("the line of a chunk's size does not end with CRLF"),
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size,
            (At::DataCr | At::DataLf, _) => return Err("a chunk is longer than its size"),
            (At::EndLf, b'\n') => return Ok(None),
            _ => self.trailer(byte)?,
        }))
    }

    fn size(&mut self, byte: u8) -> Result<At, &'static str> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' if self.n_digits > 0 => return Ok(At::SizeLf),
            b';' if self.n_digits > 0 => return Ok(At::Extension(Extension::BeforeName)),
            _ => return Err("a chunk's size is malformed"),
        };
        if self.n_digits == MAX_DIGITS {
            return Err("a chunk's size has more than 16 digits");
        }
        self.n_digits += 1;
        self.size = self.size << 4 | u64::from(digit);
        Ok(At::Size)
    }

    fn trailer(&mut self, byte: u8) -> Result<At, &'static str> {
        let next = match (self.at, byte) {
            (At::Trailer, b'\r') => return Ok(At::EndLf),
            (At::Trailer, _) if is_token(byte) => {
                self.n_trailers += 1;
                At::TrailerName
            }
            (At::TrailerName, _) if is_token(byte) => At::TrailerName,
            (At::TrailerName, b':') => At::TrailerValue,
            (At::TrailerValue, b'\r') => At::TrailerLf,
            (At::TrailerValue, _) if byte == b'\t' || !byte.is_ascii_control() => At::TrailerValue,
            (At::TrailerLf, b'\n') => At::Trailer,
            _ => return Err("a trailer of the body is malformed"),
        };
        self.trailers += 1;
        if self.trailers > self.limits.fields || self.n_trailers > self.limits.n_fields {
            return Err("the body's trailers are longer than limits.header, or more than limits.headers");
        }
        Ok(next)
    }
}

/// What comes after this byte of an extension, if it may be there.
fn extension(at: Extension, byte: u8) -> Option<At> {
    let next = match (at, byte) {
        (Extension::BeforeName, b' ' | b'\t') => Extension::BeforeName,
        (Extension::BeforeName | Extension::Name, _) if is_token(byte) => Extension::Name,
        (Extension::Name | Extension::AfterName, b' ' | b'\t') => Extension::AfterName,
        (Extension::Name | Extension::AfterName, b'=') | (Extension::BeforeValue, b' ' | b'\t') => {
            Extension::BeforeValue
        }
        (Extension::BeforeValue, b'"') => Extension::Quoted,
        (Extension::BeforeValue | Extension::Value, _) if is_token(byte) => Extension::Value,
        (Extension::Quoted, b'"') => Extension::AfterQuoted,
        (Extension::Quoted, b'\\') => Extension::Escaped,
        (Extension::Quoted | Extension::Escaped, _) if byte == b'\t' || !byte.is_ascii_control() => {
            Extension::Quoted
        }
        (Extension::Value | Extension::AfterQuoted | Extension::AfterValue, b' ' | b'\t') => {
            Extension::AfterValue
        }
        (Extension::BeforeName | Extension::BeforeValue | Extension::Quoted | Extension::Escaped, _) => {
            return None;
        }
        (_, b';') => Extension::BeforeName,
        (Extension::Name | Extension::Value | Extension::AfterQuoted, b'\r') => return Some(At::SizeLf),
        _ => return None,
    };
    Some(At::Extension(next))
}
