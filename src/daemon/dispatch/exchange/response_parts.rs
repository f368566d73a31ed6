//! What an answer is made of: as a completion brings it, as an exchange keeps it, and as its client takes it.
//!
//! Values only. `received` makes them out of what a worker says, `exchange` puts them together and takes them apart,
//! `ticket` and `http` send them; which may come when, `exchange` decides.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use rgun_channel::frame::UNTIL_EOF;
use rgun_channel::slab::Chunk;

use crate::budget::Reservation;

use crate::dispatch::data::Data;
use crate::dispatch::fault::Fault;

/// A response's head.
#[derive(Debug)]
pub struct ResponseHead {
    /// Status code.
    pub status: StatusCode,
    /// The application's reason phrase (RFC 9112 §4), without control bytes; `None` for the status code's own.
    pub reason: Option<Box<[u8]>>,
    /// The application's fields, in its order.
    pub fields: HeaderMap,
    /// What those say of the body's length.
    pub length: ContentLength,
}

/// What an answer's fields say of its length (RFC 9110 §8.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentLength {
    /// There is no Content-Length.
    Absent,
    /// So many bytes.
    Bytes(u64),
    /// What is no number, or several that differ.
    Invalid,
}

impl ContentLength {
    /// One more Content-Length.
    pub(crate) fn combine(self, value: &[u8]) -> Self {
        // Digits only: `parse` would take a sign.
        let digits = Some(value).filter(|value| value.iter().all(u8::is_ascii_digit));
        let len = digits.and_then(|value| str::from_utf8(value).ok()?.parse().ok());
        match (self, len) {
            (Self::Absent, Some(len)) => Self::Bytes(len),
            (Self::Bytes(other), Some(len)) if other == len => self,
            _ => Self::Invalid,
        }
    }

    /// Is this all of the body? `None`: as many bytes as there will be.
    pub fn matches(self, len: Option<u64>) -> bool {
        match self {
            Self::Absent => true,
            Self::Bytes(declared) => Some(declared) == len,
            Self::Invalid => false,
        }
    }

    /// Is there room in the body for so many bytes?
    pub(crate) fn allows(self, len: u64) -> bool {
        !matches!(self, Self::Bytes(declared) if declared < len)
    }
}

/// A file to send, by its descriptor.
#[derive(Debug)]
pub struct FilePart {
    /// The descriptor.
    pub fd: Arc<OwnedFd>,
    /// First byte.
    pub offset: u64,
    /// Number of bytes; `None`: as many as there are.
    pub len: Option<u64>,
    /// Of the disk, if the file is the daemon's own.
    pub reservation: Option<Reservation>,
}

impl FilePart {
    /// A part of a file as a worker names it: one that can be read.
    pub(crate) fn new(fd: OwnedFd, offset: u64, len: u64) -> Result<Self, String> {
        let len = Some(len).filter(|len| *len != UNTIL_EOF);
        // No offset of a file is larger (off_t).
        match offset.checked_add(len.unwrap_or(0)) {
            Some(end) if i64::try_from(end).is_ok() => {
                Ok(Self { fd: Arc::new(fd), offset, len, reservation: None })
            }
            _ => Err(format!("named {len:?} bytes from byte {offset} of a file")),
        }
    }
}

/// A request's body that does not travel in its frame.
#[derive(Debug)]
pub struct RequestBody {
    /// The descriptor.
    pub fd: OwnedFd,
    /// What it holds of what all bodies may hold, if that is counted.
    pub reservation: Option<Reservation>,
}

#[cfg(test)]
impl From<std::fs::File> for RequestBody {
    fn from(file: std::fs::File) -> Self {
        Self { fd: file.into(), reservation: None }
    }
}

/// The part of a body that a completion brought.
#[derive(Debug)]
pub enum Payload {
    /// Bytes, perhaps none.
    Bytes(Bytes),
    /// Several slab chunks.
    Chunks(Vec<Arc<Chunk>>),
    /// A file.
    File(FilePart),
}

impl Payload {
    /// Number of bytes; `None`: as many as there are.
    pub(crate) fn len(&self) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(bytes.len() as u64),
            Self::Chunks(chunks) => Some(chunks.iter().map(|chunk| chunk.bytes().len() as u64).sum()),
            Self::File(file) => file.len,
        }
    }
}

/// What a poll of an exchange's answer found.
#[derive(Debug)]
pub(crate) enum Progress<T> {
    /// Nothing yet; the waker is stored.
    Pending,
    /// This.
    Ready(T),
    /// The exchange failed.
    Failed(Fault),
}

/// Body bytes that leave for the client: the worker may send as many more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Credit {
    /// Index in `State::workers`.
    pub(crate) worker: usize,
    pub(crate) slot: u16,
    pub(crate) bytes: u64,
}

/// What there is of an answer when its head is taken.
#[derive(Debug)]
pub(crate) struct ResponseStart {
    pub(crate) head: ResponseHead,
    /// The body, if that is one piece or none.
    pub(crate) body: Option<Data>,
    pub(crate) file: Option<FilePart>,
    /// Nothing follows.
    pub(crate) is_complete: bool,
    /// Bytes of the body, if all of it is there.
    pub(crate) body_len: Option<u64>,
}

/// The next piece of a streamed body.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Bytes to send.
    Bytes(Data),
    /// Bytes to send that were kept in a file meanwhile.
    Spilled(FilePart),
    /// A file to send.
    File(FilePart),
    /// The fields that follow.
    Trailers(Box<HeaderMap>),
    /// The body is complete.
    End,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_a_number_and_all_that_are_given_agree() {
        let declared =
            |values: &[&[u8]]| values.iter().fold(ContentLength::Absent, |sum, value| sum.combine(value));
        assert_eq!(declared(&[]), ContentLength::Absent);
        assert_eq!(declared(&[b"13"]), ContentLength::Bytes(13));
        assert_eq!(declared(&[b"13", b"13"]), ContentLength::Bytes(13));
        for nonsense in [
            &[&b"13"[..], b"14"][..],
            &[b"13", b"14", b"13"],
            &[b""],
            &[b"1x"],
            &[b"-1"],
            &[b"+13"],
            &[b"18446744073709551616"],
        ] {
            assert_eq!(declared(nonsense), ContentLength::Invalid, "{nonsense:?}");
            assert!(!declared(nonsense).matches(Some(13)));
        }
        assert!(declared(&[]).matches(Some(13)) && declared(&[b"13"]).matches(Some(13)));
        assert!(!declared(&[b"13"]).matches(Some(12)) && !declared(&[b"13"]).matches(None));
        assert!(declared(&[]).allows(u64::MAX) && declared(&[b"13"]).allows(13));
        assert!(!declared(&[b"13"]).allows(14));
    }

    #[test]
    fn a_part_of_a_file_ends_where_a_file_can() {
        let part = |offset, len| {
            let fd = std::fs::File::open("/dev/null").unwrap().into();
            FilePart::new(fd, offset, len).map(|part| part.len)
        };
        let most = i64::MAX as u64;
        assert_eq!(part(0, most), Ok(Some(most)));
        assert_eq!(part(7, UNTIL_EOF), Ok(None));
        for (offset, len) in [(1, most), (u64::MAX, 1), (0, u64::MAX - 1), (u64::MAX, UNTIL_EOF)] {
            assert!(part(offset, len).is_err(), "{offset} {len}");
        }
    }
}
