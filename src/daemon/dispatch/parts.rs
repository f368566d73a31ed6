//! What an answer is made of: as a completion brings it, as an exchange keeps it, and as its client takes it.
//!
//! Values only. `received` makes them out of what a worker says, `exchange` puts them together and takes them apart,
//! `ticket` and `http` send them; which may come when, `exchange` decides.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::exchange::Fault;

/// A response's head.
#[derive(Debug)]
pub struct Head {
    /// Status code.
    pub status: StatusCode,
    /// The application's fields, in its order.
    pub fields: HeaderMap,
    /// What those say of the body's length.
    pub length: Declared,
}

/// What an answer's fields say of its length (RFC 9110 §8.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Declared {
    /// There is no Content-Length.
    Nothing,
    /// So many bytes.
    Bytes(u64),
    /// What is no number, or several that differ.
    Nonsense,
}

impl Declared {
    /// One more Content-Length.
    pub(super) fn and(self, value: &[u8]) -> Self {
        let len = str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        match (self, len) {
            (Self::Nothing, Some(len)) => Self::Bytes(len),
            (Self::Bytes(other), Some(len)) if other == len => self,
            _ => Self::Nonsense,
        }
    }

    /// Is this all of the body?
    pub fn agrees_with(self, len: u64) -> bool {
        match self {
            Self::Nothing => true,
            Self::Bytes(declared) => declared == len,
            Self::Nonsense => false,
        }
    }
}

/// A file to send, by its descriptor.
#[derive(Debug)]
pub struct FilePart {
    /// The descriptor.
    pub fd: OwnedFd,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub len: u64,
}

/// The part of a body that a completion brought.
#[derive(Debug)]
pub enum Payload {
    /// Bytes, perhaps none.
    Bytes(Bytes),
    /// Several slab chunks.
    Chunks(Vec<Bytes>),
    /// A file.
    File(FilePart),
}

/// Pieces of a body, in order. An answer is mostly one, which then needs no allocation.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// There is one if there is any.
    pub(super) first: Option<Bytes>,
    pub(super) rest: VecDeque<Bytes>,
}

impl Parts {
    pub(super) fn push(&mut self, piece: Bytes) {
        if self.first.is_none() {
            self.first = Some(piece);
        } else {
            self.rest.push_back(piece);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        std::mem::replace(&mut self.first, self.rest.pop_front())
    }
}

/// What a poll of an exchange's answer found.
#[derive(Debug)]
pub(super) enum Progress<T> {
    /// Nothing yet; the waker is stored.
    Pending,
    /// This.
    Ready(T),
    /// The exchange failed.
    Failed(Fault),
}

/// Body bytes that leave for the client: the worker may send as many more.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaving {
    /// Index in `State::workers`.
    pub(super) worker: usize,
    pub(super) slot: u16,
    pub(super) bytes: u64,
}

/// What there is of an answer when its head is taken.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) head: Head,
    pub(super) parts: Parts,
    pub(super) file: Option<FilePart>,
    /// Nothing follows.
    pub(super) complete: bool,
}

/// The next piece of a streamed body.
#[derive(Debug)]
pub(super) enum Piece {
    /// Bytes to send.
    Bytes(Bytes),
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
        let declared = |values: &[&[u8]]| values.iter().fold(Declared::Nothing, |sum, value| sum.and(value));
        assert_eq!(declared(&[]), Declared::Nothing);
        assert_eq!(declared(&[b"13"]), Declared::Bytes(13));
        assert_eq!(declared(&[b"13", b"13"]), Declared::Bytes(13));
        for nonsense in [&[&b"13"[..], b"14"][..], &[b"13", b"14", b"13"], &[b""], &[b"1x"], &[b"-1"]] {
            assert_eq!(declared(nonsense), Declared::Nonsense, "{nonsense:?}");
            assert!(!declared(nonsense).agrees_with(13));
        }
        assert!(declared(&[]).agrees_with(13) && declared(&[b"13"]).agrees_with(13));
        assert!(!declared(&[b"13"]).agrees_with(12));
    }
}
