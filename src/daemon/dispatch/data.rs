//! A piece of a response body between the worker and the client, charged to
//! `limits.response_memory` until it is dropped.
//!
//! A piece is in a chunk of the worker's slab or in the daemon's memory. The slab may move a slow
//! client's piece to the daemon's memory, to return the chunk to the worker; the bytes of [`Data`]
//! stay the same. A connection writes a piece without copying it.

use std::ops::Deref;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use rgun_channel::slab::Chunk;

use crate::budget::{Budget, Reservation};

/// Bytes charged for each piece in addition to its own: its queue entry and reference counts.
const OVERHEAD_BYTES: u64 = 64;

/// Bytes of a block in which small pieces are collected.
const BLOCK_BYTES: usize = 64 * 1024;

/// Length in bytes of the longest piece that is collected.
const MAX_COLLECTED_BYTES: usize = 4 * 1024;

/// The budgets, shared by all workers, of memory and disk for response bodies that the clients have
/// not taken.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// `limits.response_memory`.
    pub(super) memory: Budget,
    /// `limits.response_disk`.
    pub(super) disk: Budget,
}

/// A piece of a response body.
#[derive(Debug)]
pub struct Data {
    bytes: Location,
    /// The charge, which ends with the piece; `None` if the piece is not charged here.
    _reservation: Option<Reservation>,
}

#[derive(Debug)]
enum Location {
    Own(Bytes),
    /// A chunk of a worker's slab, from this offset on.
    Slab(Arc<Chunk>, usize),
    /// A block of small pieces, from this offset on. Boxed, so that the other pieces are small.
    Collected(Box<(Vec<u8>, usize)>),
}

impl Data {
    /// Makes a piece that is charged to `budget`.
    pub(super) fn new(bytes: Bytes, budget: &'static Budget) -> Self {
        let reservation = budget.charge(bytes.len() as u64 + OVERHEAD_BYTES);
        Self { bytes: Location::Own(bytes), _reservation: Some(reservation) }
    }

    /// Makes a piece of a slab chunk, charged to `budget`.
    pub(super) fn from_chunk(chunk: Arc<Chunk>, budget: &'static Budget) -> Self {
        let reservation = budget.charge(chunk.bytes().len() as u64 + OVERHEAD_BYTES);
        Self { bytes: Location::Slab(chunk, 0), _reservation: Some(reservation) }
    }

    /// Makes a piece that is too small to be charged.
    pub(super) fn small(bytes: Bytes) -> Self {
        Self { bytes: Location::Own(bytes), _reservation: None }
    }

    /// Turns a small piece into a block to which others can be appended: many small pieces cost far
    /// more than their bytes.
    pub(super) fn collect(self, budget: &'static Budget) -> Self {
        if self.len() > MAX_COLLECTED_BYTES {
            return self;
        }
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        block.extend_from_slice(&self);
        let reservation = budget.charge(BLOCK_BYTES as u64 + OVERHEAD_BYTES);
        Self { bytes: Location::Collected(Box::new((block, 0))), _reservation: Some(reservation) }
    }

    /// Appends a small piece to a block. Returns false if this is not a block, the block has no
    /// room, or the piece is too long to be collected.
    pub(super) fn append(&mut self, piece: &[u8]) -> bool {
        match &mut self.bytes {
            Location::Collected(collected)
                if piece.len() <= MAX_COLLECTED_BYTES && collected.0.len() + piece.len() <= BLOCK_BYTES =>
            {
                collected.0.extend_from_slice(piece);
                true
            }
            Location::Collected(..) | Location::Own(_) | Location::Slab(..) => false,
        }
    }

    /// Copies the piece and returns its chunk, if it is in a slab.
    pub(super) fn leave_slab(&self) {
        if let Location::Slab(chunk, _) = &self.bytes {
            chunk.copy_and_return();
        }
    }

    /// Makes a piece with a charge that the caller has reserved; `None` for a body that the daemon
    /// itself makes.
    pub fn with_reservation(bytes: Bytes, reservation: Option<Reservation>) -> Self {
        Self { bytes: Location::Own(bytes), _reservation: reservation }
    }
}

impl Deref for Data {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Location::Own(bytes) => bytes,
            Location::Collected(collected) => {
                let (block, start) = &**collected;
                block.get(*start..).unwrap_or_default()
            }
            Location::Slab(chunk, start) => chunk.bytes().get(*start..).unwrap_or_default(),
        }
    }
}

impl Buf for Data {
    fn remaining(&self) -> usize {
        self.len()
    }

    fn chunk(&self) -> &[u8] {
        self
    }

    fn advance(&mut self, count: usize) {
        match &mut self.bytes {
            Location::Own(bytes) => bytes.advance(count),
            Location::Slab(_, start) => *start += count,
            Location::Collected(collected) => collected.1 += count,
        }
    }
}

#[cfg(test)]
mod tests {
    use rgun_channel::layout::Geometry;
    use rgun_channel::map::Map;
    use rgun_channel::slab::{SlabReceiver, SlabSender};

    use super::*;

    fn budget() -> &'static Budget {
        Box::leak(Box::new(Budget::new(1 << 20)))
    }

    #[test]
    fn piece_is_charged_until_it_is_dropped() {
        let budget = budget();
        let mut data = Data::new(Bytes::from_static(b"some bytes"), budget);
        assert_eq!(budget.used(), 10 + OVERHEAD_BYTES);
        data.advance(5);
        assert_eq!((&*data, data.remaining()), (&b"bytes"[..], 5));
        drop(data);
        assert_eq!(budget.used(), 0);
        assert_eq!((&*Data::small(Bytes::from_static(b"few")), budget.used()), (&b"few"[..], 0));
    }

    #[test]
    fn small_pieces_are_collected_in_a_block() {
        let budget = budget();
        let mut block = Data::new(Bytes::from_static(b"one "), budget).collect(budget);
        assert_eq!(budget.used(), BLOCK_BYTES as u64 + OVERHEAD_BYTES);
        assert!(block.append(b"two") && !block.append(&[0; MAX_COLLECTED_BYTES + 1]));
        block.advance(2);
        assert_eq!(&*block, b"e two");
        while block.append(&[7; 1000]) {}
        assert!(block.len() < BLOCK_BYTES && block.len() > BLOCK_BYTES - 1100);
        let mut large = Data::new(vec![0; MAX_COLLECTED_BYTES + 1].into(), budget).collect(budget);
        assert!(!large.append(b"more"));
    }

    #[test]
    fn half_written_piece_survives_reclaim_of_its_chunk() {
        let geometry = Geometry { submission: 4096, completion: 4096, chunks: 1, slots: 1 };
        let map = Arc::new(Map::create("data", geometry.total_bytes()).unwrap().0);
        let (mut sender, receiver) =
            (SlabSender::new(map.clone(), &geometry), SlabReceiver::new(map, &geometry));
        let number = sender.fill(b"some bytes").unwrap().unwrap();
        let mut data = Data::from_chunk(receiver.receive(number, 10).unwrap(), budget());
        data.advance(5);
        receiver.reclaim_overdue();
        receiver.reclaim_overdue();
        assert_eq!(sender.fill(b"other stuff").unwrap(), Some(number));
        assert_eq!(data.chunk(), b"bytes");
        data.advance(5);
        assert_eq!(data.remaining(), 0);
    }
}
