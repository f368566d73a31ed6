//! The data of a stream in h2's send queue.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use crate::http::body::response::OutgoingData;

/// The payload of a DATA frame: a piece of a response's body, a part of a piece, or bytes of a
/// WebSocket. A piece is released when h2 has written its last part; the journal entry of the
/// response follows the last piece.
#[derive(Debug)]
pub(super) enum StreamData {
    /// No bytes: only the end of the stream.
    End,
    Whole(OutgoingData),
    Part(Part),
    Bytes(Bytes),
}

/// A part of a piece that was split to fit a flow-control window.
#[derive(Debug)]
pub(super) struct Part {
    piece: Arc<OutgoingData>,
    start: usize,
    end: usize,
}

impl StreamData {
    /// Returns the first `len` bytes, or all if there are fewer, and the rest.
    pub(super) fn split(self, len: usize) -> (Self, Option<Self>) {
        if self.remaining() <= len {
            return (self, None);
        }
        let part = match self {
            Self::End => return (Self::End, None),
            Self::Bytes(mut bytes) => {
                let first = bytes.split_to(len);
                return (Self::Bytes(first), Some(Self::Bytes(bytes)));
            }
            Self::Whole(piece) => {
                let end = piece.remaining();
                Part { piece: Arc::new(piece), start: 0, end }
            }
            Self::Part(part) => part,
        };
        let Part { piece, start, end } = part;
        let first = Part { piece: Arc::clone(&piece), start, end: start + len };
        (Self::Part(first), Some(Self::Part(Part { piece, start: start + len, end })))
    }
}

impl Buf for StreamData {
    fn remaining(&self) -> usize {
        match self {
            Self::End => 0,
            Self::Whole(piece) => piece.remaining(),
            Self::Part(Part { start, end, .. }) => end - start,
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::End => &[],
            Self::Whole(piece) => piece.chunk(),
            // A piece is one chunk.
            Self::Part(Part { piece, start, end }) => piece.chunk().get(*start..*end).unwrap_or_default(),
            Self::Bytes(bytes) => bytes,
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::End => {}
            Self::Whole(piece) => piece.advance(count),
            Self::Part(part) => part.start = part.end.min(part.start + count),
            Self::Bytes(bytes) => bytes.advance(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::Data;

    fn bytes(data: &mut StreamData) -> Vec<u8> {
        data.copy_to_bytes(data.remaining()).to_vec()
    }

    #[test]
    fn a_piece_is_split_into_parts_without_loss() {
        let piece = OutgoingData::from(Data::with_reservation(Bytes::from_static(b"some bytes"), None));
        let (mut first, rest) = StreamData::Whole(piece).split(4);
        let (mut second, rest) = rest.unwrap().split(3);
        let (mut third, rest) = rest.unwrap().split(100);
        assert!(rest.is_none());
        assert_eq!((first.remaining(), second.remaining(), third.remaining()), (4, 3, 3));
        second.advance(1);
        assert_eq!([bytes(&mut first), bytes(&mut second), bytes(&mut third)].concat(), b"somebytes");
        let (mut first, rest) = StreamData::Bytes(Bytes::from_static(b"text")).split(1);
        assert_eq!((bytes(&mut first), bytes(&mut rest.unwrap())), (b"t".to_vec(), b"ext".to_vec()));
        assert!(StreamData::End.split(0).1.is_none());
    }
}
