//! Scans a chunked body (RFC 9112 §7.1): sizes, extensions and trailers, more strictly than hyper.

use super::bytes::is_token;
use super::violation::{HeadLimits, Violation};

/// The state of one chunked body.
#[derive(Debug)]
pub(super) struct ChunkScanner {
    limits: HeadLimits,
    state: ChunkState,
    /// The chunk size read so far.
    size: u64,
    /// Number of digits of `size` read so far, including leading zeros.
    n_digits: u8,
    /// Bytes of extensions in the body so far.
    extensions: usize,
    /// Bytes of trailers so far.
    trailers: usize,
    n_trailers: usize,
    /// The beginning of the current trailer's name, in lower case, and the name's length.
    name: [u8; MAX_FORBIDDEN_NAME],
    name_len: usize,
}

/// The element that the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ChunkState {
    Size,
    Extension(ExtensionState),
    SizeLf,
    Data(u64),
    DataCr,
    DataLf,
    /// The beginning of a trailer line, or of the final empty line.
    Trailer,
    TrailerName,
    TrailerValue,
    TrailerLf,
    EndLf,
}

/// The position in `*( BWS ";" BWS name [ BWS "=" BWS value ] )`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExtensionState {
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

/// Maximum number of hexadecimal digits of a chunk size: 64 bits.
const MAX_DIGITS: u8 = 16;

/// Maximum number of bytes of extensions in one body, as in hyper. No extension has an effect in
/// rgun, and none is known to be in use.
const MAX_EXTENSIONS: usize = 16 * 1024 - 1;

/// Fields that decide the end of a message or its host; no trailer may have their names (RFC 9110
/// §6.5.1).
pub(in crate::http) const FORBIDDEN_TRAILERS: [&str; 3] = ["content-length", "transfer-encoding", "host"];

/// Length of the longest of [`FORBIDDEN_TRAILERS`].
const MAX_FORBIDDEN_NAME: usize = 17;

impl ChunkScanner {
    pub(super) fn new(limits: HeadLimits) -> Self {
        Self {
            limits,
            state: ChunkState::Size,
            size: 0,
            n_digits: 0,
            extensions: 0,
            trailers: 0,
            n_trailers: 0,
            name: [0; MAX_FORBIDDEN_NAME],
            name_len: 0,
        }
    }

    /// Scans the next bytes of the body. Returns the number of valid leading bytes, and `Ok(true)`
    /// if the body ends with them.
    pub(super) fn accept(&mut self, bytes: &[u8]) -> (usize, Result<bool, Violation>) {
        let mut len = 0;
        while let Some(byte) = bytes.get(len) {
            if let ChunkState::Data(left) = &mut self.state {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - len);
                len += here;
                *left -= here as u64;
                if *left == 0 {
                    self.state = ChunkState::DataCr;
                }
                continue;
            }
            match self.step(*byte) {
                Ok(Some(next)) => self.state = next,
                Ok(None) => return (len + 1, Ok(true)),
                Err(reason) => return (len, Err(Violation::Chunk(reason))),
            }
            len += 1;
        }
        (len, Ok(false))
    }

    /// Returns the state after this byte; `None` after the last byte of the body.
    fn step(&mut self, byte: u8) -> Result<Option<ChunkState>, &'static str> {
        Ok(Some(match (self.state, byte) {
            (ChunkState::Size, _) => self.step_size(byte)?,
            (ChunkState::Extension(at), _) => {
                self.extensions += 1;
                if self.extensions > MAX_EXTENSIONS {
                    return Err("the extensions of the body's chunks are too long");
                }
                step_extension(at, byte).ok_or("an extension of a chunk is malformed")?
            }
            (ChunkState::SizeLf, b'\n') => {
                self.n_digits = 0;
                match std::mem::take(&mut self.size) {
                    0 => ChunkState::Trailer,
                    size => ChunkState::Data(size),
                }
            }
            (ChunkState::SizeLf, _) => return Err("the line of a chunk's size does not end with CRLF"),
            (ChunkState::DataCr, b'\r') => ChunkState::DataLf,
            (ChunkState::DataLf, b'\n') => ChunkState::Size,
            (ChunkState::DataCr | ChunkState::DataLf, _) => return Err("a chunk is longer than its size"),
            (ChunkState::EndLf, b'\n') => return Ok(None),
            _ => self.step_trailer(byte)?,
        }))
    }

    fn step_size(&mut self, byte: u8) -> Result<ChunkState, &'static str> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' if self.n_digits > 0 => return Ok(ChunkState::SizeLf),
            b';' if self.n_digits > 0 => return Ok(ChunkState::Extension(ExtensionState::BeforeName)),
            _ => return Err("a chunk's size is malformed"),
        };
        if self.n_digits == MAX_DIGITS {
            return Err("a chunk's size has more than 16 digits");
        }
        self.n_digits += 1;
        self.size = self.size << 4 | u64::from(digit);
        Ok(ChunkState::Size)
    }

    fn step_trailer(&mut self, byte: u8) -> Result<ChunkState, &'static str> {
        let next = match (self.state, byte) {
            (ChunkState::Trailer, b'\r') => return Ok(ChunkState::EndLf),
            (ChunkState::Trailer, _) if is_token(byte) => {
                self.n_trailers += 1;
                self.name_len = 0;
                self.add_to_name(byte);
                ChunkState::TrailerName
            }
            (ChunkState::TrailerName, _) if is_token(byte) => {
                self.add_to_name(byte);
                ChunkState::TrailerName
            }
            (ChunkState::TrailerName, b':') if self.has_forbidden_name() => {
                return Err("a trailer of the body would change the message's length, coding or host");
            }
            (ChunkState::TrailerName, b':') => ChunkState::TrailerValue,
            (ChunkState::TrailerValue, b'\r') => ChunkState::TrailerLf,
            (ChunkState::TrailerValue, _) if byte == b'\t' || !byte.is_ascii_control() => {
                ChunkState::TrailerValue
            }
            (ChunkState::TrailerLf, b'\n') => ChunkState::Trailer,
            _ => return Err("a trailer of the body is malformed"),
        };
        self.trailers += 1;
        if self.trailers > self.limits.fields || self.n_trailers > self.limits.n_fields {
            return Err("the body's trailers are longer than limits.header, or more than limits.headers");
        }
        Ok(next)
    }

    fn add_to_name(&mut self, byte: u8) {
        if let Some(place) = self.name.get_mut(self.name_len) {
            *place = byte.to_ascii_lowercase();
        }
        self.name_len += 1;
    }

    fn has_forbidden_name(&self) -> bool {
        let name = self.name.get(..self.name_len);
        name.is_some_and(|name| FORBIDDEN_TRAILERS.iter().any(|forbidden| forbidden.as_bytes() == name))
    }
}

/// Returns the state after this byte of an extension; `None` if the byte is not allowed.
fn step_extension(at: ExtensionState, byte: u8) -> Option<ChunkState> {
    let next = match (at, byte) {
        (ExtensionState::BeforeName, b' ' | b'\t') => ExtensionState::BeforeName,
        (ExtensionState::BeforeName | ExtensionState::Name, _) if is_token(byte) => ExtensionState::Name,
        (ExtensionState::Name | ExtensionState::AfterName, b' ' | b'\t') => ExtensionState::AfterName,
        (ExtensionState::Name | ExtensionState::AfterName, b'=')
        | (ExtensionState::BeforeValue, b' ' | b'\t') => ExtensionState::BeforeValue,
        (ExtensionState::BeforeValue, b'"') => ExtensionState::Quoted,
        (ExtensionState::BeforeValue | ExtensionState::Value, _) if is_token(byte) => ExtensionState::Value,
        (ExtensionState::Quoted, b'"') => ExtensionState::AfterQuoted,
        (ExtensionState::Quoted, b'\\') => ExtensionState::Escaped,
        (ExtensionState::Quoted | ExtensionState::Escaped, _)
            if byte == b'\t' || !byte.is_ascii_control() =>
        {
            ExtensionState::Quoted
        }
        (ExtensionState::Value | ExtensionState::AfterQuoted | ExtensionState::AfterValue, b' ' | b'\t') => {
            ExtensionState::AfterValue
        }
        (
            ExtensionState::BeforeName
            | ExtensionState::BeforeValue
            | ExtensionState::Quoted
            | ExtensionState::Escaped,
            _,
        ) => {
            return None;
        }
        (_, b';') => ExtensionState::BeforeName,
        (ExtensionState::Name | ExtensionState::Value | ExtensionState::AfterQuoted, b'\r') => {
            return Some(ChunkState::SizeLf);
        }
        _ => return None,
    };
    Some(ChunkState::Extension(next))
}
