//! What every request needs for a while and would have to allocate: a thread keeps it for its next one.
//!
//! Small values share a block, and header maps go round: from an answer to hyper, which fills it with its connection's
//! next request, and from there back to here. Of five allocations for a short request none is left (1 k instructions of
//! 14.8 k in the daemon).

use std::cell::RefCell;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

/// Bytes that small values share. While one of them lives all of the block does, so it is no larger than what a waiting
/// connection costs anyway.
const BLOCK_BYTES: usize = 4096;

/// Bytes of the longest value that has a place in one; longer ones have their own.
const MAX_SHARED_BYTES: usize = BLOCK_BYTES / 8;

/// Header maps that are kept, and for how many fields the largest may have room: a rare large head is not remembered.
const MAX_MAPS: usize = 256;
const MAX_MAP_CAPACITY: usize = 64;

thread_local! {
    static BLOCK: RefCell<BytesMut> = RefCell::new(BytesMut::with_capacity(BLOCK_BYTES));
    static MAPS: RefCell<Vec<HeaderMap>> = const { RefCell::new(Vec::new()) };
}

/// A copy of a value.
pub fn copy(value: &[u8]) -> Bytes {
    if value.len() > MAX_SHARED_BYTES {
        return Bytes::copy_from_slice(value);
    }
    BLOCK.with_borrow_mut(|block| {
        // When it is full: the same block if all of it has been given back, or another.
        block.reserve(value.len());
        block.extend_from_slice(value);
        block.split().freeze()
    })
}

/// An empty header map with room for so many fields.
pub fn header_map(room: usize) -> HeaderMap {
    match MAPS.with_borrow_mut(Vec::pop) {
        Some(mut map) => {
            map.reserve(room);
            map
        }
        None => HeaderMap::with_capacity(room),
    }
}

/// Nobody needs this one any more.
pub fn recycle(mut map: HeaderMap) {
    if map.capacity() == 0 || map.capacity() > MAX_MAP_CAPACITY {
        return;
    }
    map.clear();
    MAPS.with_borrow_mut(|maps| {
        if maps.len() < MAX_MAPS {
            maps.push(map);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_copies_of_any_length() {
        let values: Vec<Vec<u8>> = (0..3000_usize)
            .map(|n| vec![u8::try_from(n % 251).unwrap(); n % (MAX_SHARED_BYTES + 2)])
            .collect();
        let copies: Vec<Bytes> = values.iter().map(|value| copy(value)).collect();
        assert!(values.iter().zip(&copies).all(|(value, copy)| value == copy));
    }

    #[test]
    fn a_map_comes_back_empty_and_a_large_one_does_not() {
        let mut map = HeaderMap::with_capacity(8);
        map.insert(http::header::HOST, http::HeaderValue::from_static("a.example"));
        recycle(map);
        let again = header_map(4);
        assert!(again.is_empty() && again.capacity() >= 8);
        recycle(HeaderMap::with_capacity(10 * MAX_MAP_CAPACITY));
        assert!(header_map(1).capacity() <= MAX_MAP_CAPACITY);
    }
}
