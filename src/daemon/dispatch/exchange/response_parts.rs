//! The parts of a response, as a completion contains them and as the client gets them.

use std::cell::RefCell;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use rgun_channel::frame::UNTIL_EOF;
use rgun_channel::slab::Chunk;

use crate::budget::Reservation;

use crate::dispatch::data::Data;
use crate::dispatch::worker::contract::ContractBreach;

/// A response's head.
#[derive(Debug)]
pub struct ResponseHead {
    /// Status code.
    pub status: StatusCode,
    /// The application's reason phrase (RFC 9112 §4), without control bytes; `None` for the status
    /// code's own.
    pub reason: Option<Box<[u8]>>,
    /// The application's fields, in its order.
    pub fields: HeaderMap,
    /// The Content-Length among the fields.
    pub length: ContentLength,
}

/// Maximum number of boxes of former heads in the pool; more are freed.
const MAX_SPARE_HEADS: usize = 256;

thread_local! {
    #[expect(clippy::vec_box, reason = "the boxes are what is reused")]
    static SPARE_HEADS: RefCell<Vec<Box<ResponseHead>>> = const { RefCell::new(Vec::new()) };
}

impl ResponseHead {
    /// Boxes a head in the memory of a former one, which saves 300 instructions per response: heads
    /// are allocated and freed in batches, which the allocator's own cache does not serve.
    pub fn into_box(self) -> Box<Self> {
        match SPARE_HEADS.with_borrow_mut(Vec::pop) {
            Some(mut spare) => {
                *spare = self;
                spare
            }
            None => Box::new(self),
        }
    }

    /// Takes the head out and keeps the box for another one.
    pub fn unbox(mut boxed: Box<Self>) -> Self {
        let empty = Self {
            status: StatusCode::OK,
            reason: None,
            fields: HeaderMap::new(),
            length: ContentLength::Absent,
        };
        let head = std::mem::replace(&mut *boxed, empty);
        SPARE_HEADS.with_borrow_mut(|spare| {
            if spare.len() < MAX_SPARE_HEADS {
                spare.push(boxed);
            }
        });
        head
    }
}

/// A response's Content-Length (RFC 9110 §8.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentLength {
    /// No Content-Length.
    Absent,
    /// One number of bytes.
    Bytes(u64),
    /// Not a number, or several numbers that differ.
    Invalid,
}

impl ContentLength {
    /// Adds another Content-Length of the same head.
    #[must_use]
    pub fn combine(self, value: &[u8]) -> Self {
        // Digits only: `parse` accepts a sign.
        let digits = Some(value).filter(|value| value.iter().all(u8::is_ascii_digit));
        let len = digits.and_then(|value| str::from_utf8(value).ok()?.parse().ok());
        match (self, len) {
            (Self::Absent, Some(len)) => Self::Bytes(len),
            (Self::Bytes(other), Some(len)) if other == len => self,
            _ => Self::Invalid,
        }
    }

    /// Returns whether a whole body of `len` bytes agrees with the header; `None` is a length not
    /// known yet.
    pub fn matches(self, len: Option<u64>) -> bool {
        match self {
            Self::Absent => true,
            Self::Bytes(declared) => Some(declared) == len,
            Self::Invalid => false,
        }
    }

    /// Returns whether a body may have at least `len` bytes.
    pub(crate) fn allows(self, len: u64) -> bool {
        !matches!(self, Self::Bytes(declared) if declared < len)
    }
}

/// A file, or a part of it, that is sent from its descriptor.
#[derive(Debug)]
pub struct FilePart {
    /// The open file.
    pub fd: Arc<OwnedFd>,
    /// Offset of the first byte.
    pub offset: u64,
    /// Number of bytes; `None` is up to the end of the file.
    pub len: Option<u64>,
    /// The file's share of `limits.response_disk`, if the daemon made the file.
    pub reservation: Option<Reservation>,
}

impl FilePart {
    /// Makes a part of a file with the offset and length that a worker names.
    ///
    /// # Errors
    /// The part's end is beyond the largest offset of any file.
    pub(crate) fn new(fd: OwnedFd, offset: u64, len: u64) -> Result<Self, ContractBreach> {
        let len = Some(len).filter(|len| *len != UNTIL_EOF);
        // No offset of a file is larger (off_t).
        match offset.checked_add(len.unwrap_or(0)) {
            Some(end) if i64::try_from(end).is_ok() => {
                Ok(Self { fd: Arc::new(fd), offset, len, reservation: None })
            }
            _ => {
                let len = len.map_or_else(|| "up to its end".to_owned(), |len| format!("{len} bytes"));
                Err(format!("named a file's part beyond the largest offset: {len} from byte {offset}").into())
            }
        }
    }
}

/// A whole request body that is not part of its exchange's frame.
#[derive(Debug)]
pub enum RequestBody {
    /// In memory. It follows the frame into the ring, so that it is copied once.
    Inline(Bytes),
    /// In a file.
    Spooled(SpooledBody),
}

/// A spooled request body, which travels as a descriptor.
#[derive(Debug)]
pub struct SpooledBody {
    /// The file with the body, in memory or on disk.
    pub fd: OwnedFd,
    /// The body's share of the limit for all spooled bodies; `None` if it is not counted.
    pub reservation: Option<Reservation>,
}

#[cfg(test)]
impl From<std::fs::File> for RequestBody {
    fn from(file: std::fs::File) -> Self {
        Self::Spooled(SpooledBody { fd: file.into(), reservation: None })
    }
}

/// The part of a body that came with a completion.
#[derive(Debug)]
pub enum Payload {
    /// Bytes from the frame, perhaps none.
    Bytes(Bytes),
    /// Chunks of the worker's slab.
    Chunks(Vec<Arc<Chunk>>),
    /// A file, or a part of it.
    File(Box<FilePart>),
}

impl Payload {
    /// Returns the number of bytes; `None` for a file that is sent up to its end.
    pub(crate) fn len(&self) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(bytes.len() as u64),
            Self::Chunks(chunks) => Some(chunks.iter().map(|chunk| chunk.bytes().len() as u64).sum()),
            Self::File(file) => file.len,
        }
    }
}

/// Permission for a worker's slot to send more of a body: the client has been sent this many bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Credit {
    /// Index in `State::workers`.
    pub(crate) worker: usize,
    pub(crate) slot: u16,
    pub(crate) bytes: u64,
}

/// A piece of a body, with the credit that the worker gets for it.
pub(crate) type CreditedPiece = (BodyPiece, Option<Credit>);

/// A response at the time its head is taken.
#[derive(Debug)]
pub(crate) struct ResponseStart {
    /// Boxed, because a head is moved ten times on its way to the connection.
    pub(crate) head: Box<ResponseHead>,
    /// The body, if it is complete and in one piece.
    pub(crate) body: Option<Data>,
    /// The file that is the whole body.
    pub(crate) file: Option<Box<FilePart>>,
    /// Nothing follows.
    pub(crate) is_complete: bool,
    /// Length of the body in bytes; `None` while the worker is sending it.
    pub(crate) body_len: Option<u64>,
}

/// A piece of a streamed body.
#[derive(Debug)]
pub enum BodyPiece {
    /// Bytes from memory.
    Bytes(Data),
    /// Bytes that were spilled to a file.
    Spilled(Box<FilePart>),
    /// The application's file.
    File(Box<FilePart>),
    /// The trailers, after which nothing follows.
    Trailers(Box<HeaderMap>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_length_is_a_number_and_duplicates_agree() {
        let declared =
            |values: &[&[u8]]| values.iter().fold(ContentLength::Absent, |sum, value| sum.combine(value));
        assert_eq!(declared(&[]), ContentLength::Absent);
        assert_eq!(declared(&[b"13"]), ContentLength::Bytes(13));
        assert_eq!(declared(&[b"13", b"13"]), ContentLength::Bytes(13));
        for invalid in [
            &[&b"13"[..], b"14"][..],
            &[b"13", b"14", b"13"],
            &[b""],
            &[b"1x"],
            &[b"-1"],
            &[b"+13"],
            &[b"18446744073709551616"],
        ] {
            assert_eq!(declared(invalid), ContentLength::Invalid, "{invalid:?}");
            assert!(!declared(invalid).matches(Some(13)));
        }
        assert!(declared(&[]).matches(Some(13)) && declared(&[b"13"]).matches(Some(13)));
        assert!(!declared(&[b"13"]).matches(Some(12)) && !declared(&[b"13"]).matches(None));
        assert!(declared(&[]).allows(u64::MAX) && declared(&[b"13"]).allows(13));
        assert!(!declared(&[b"13"]).allows(14));
    }

    #[test]
    fn file_part_beyond_the_largest_offset_is_an_error() {
        let part = |offset, len| {
            let fd = std::fs::File::open("/dev/null").unwrap().into();
            FilePart::new(fd, offset, len).map(|part| part.len)
        };
        let max = i64::MAX as u64;
        assert_eq!(part(0, max), Ok(Some(max)));
        assert_eq!(part(7, UNTIL_EOF), Ok(None));
        for (offset, len) in [(1, max), (u64::MAX, 1), (0, u64::MAX - 1), (u64::MAX, UNTIL_EOF)] {
            assert!(part(offset, len).is_err(), "{offset} {len}");
        }
    }
}
