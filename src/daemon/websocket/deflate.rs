//! Compression of messages (RFC 7692 §7.2), whose state is borrowed for one message at a time from a [`Pool`].

use std::sync::{Mutex, PoisonError};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::extension::DeflateParams;

/// What a sender leaves out at the end of a message (RFC 7692 §7.2.1).
const SYNC_TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// deflate's largest window: reads what was made with any.
const LARGEST_WINDOW: u8 = 15;

/// States that wait for their next use. One is enough while messages are short; those that go on for longer have one
/// each meanwhile.
const MAX_SPARE_STATES: usize = 4;

/// Spare state, which is 50 KiB for inflating and 300 KiB for deflating.
#[derive(Debug, Default)]
pub(super) struct DeflatePool {
    inflate: Mutex<Vec<Decompress>>,
    deflate: Mutex<Vec<Compress>>,
}

fn pop_spare<T>(spare: &Mutex<Vec<T>>) -> Option<T> {
    spare.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

fn push_spare<T>(spare: &Mutex<Vec<T>>, state: T) {
    let mut spare = spare.lock().unwrap_or_else(PoisonError::into_inner);
    if spare.len() < MAX_SPARE_STATES {
        spare.push(state);
    }
}

/// Room to inflate into. It does not grow: what comes of a few bytes may be a thousand times as many.
#[derive(Debug)]
pub(super) struct InflateBuffer {
    bytes: Box<[u8]>,
    len: usize,
}

impl InflateBuffer {
    /// For so many bytes, at least one.
    pub(super) fn new(size: usize) -> Self {
        Self { bytes: vec![0; size.max(1)].into_boxed_slice(), len: 0 }
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// What is there.
    pub(super) fn filled(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    fn spare_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.len..).unwrap_or_default()
    }

    fn is_full(&self) -> bool {
        self.len >= self.bytes.len()
    }
}

/// A compressed message on its way in.
#[derive(Debug)]
pub(super) struct Inflater {
    state: Decompress,
    /// So much of [`TAIL`] has gone in.
    tail_used: usize,
}

/// The bytes are no compressed ones.
#[derive(Debug)]
pub(super) struct InvalidDeflate;

impl Inflater {
    pub(super) fn new(pool: &DeflatePool) -> Self {
        let state = pop_spare(&pool.inflate)
            .unwrap_or_else(|| Decompress::new_with_window_bits(false, LARGEST_WINDOW));
        Self { state, tail_used: 0 }
    }

    /// Inflates into what room `out` has left. Returns how much of `bytes` is taken: less than all only if there is no
    /// more room.
    pub(super) fn inflate(&mut self, bytes: &[u8], out: &mut InflateBuffer) -> Result<usize, InvalidDeflate> {
        let mut taken = 0;
        loop {
            let (before, had) = (self.state.total_in(), self.state.total_out());
            let input = bytes.get(taken..).unwrap_or_default();
            let status = self.state.decompress(input, out.spare_mut(), FlushDecompress::Sync);
            let status = status.map_err(|_| InvalidDeflate)?;
            let used = usize::try_from(self.state.total_in() - before).unwrap_or_default();
            let made = usize::try_from(self.state.total_out() - had).unwrap_or_default();
            taken += used;
            out.len += made;
            if status == Status::StreamEnd {
                // The last block said that it was (RFC 7692 §7.2.3.4); what follows is another stream.
                self.state.reset(false);
            }
            if taken == bytes.len() || out.is_full() {
                return Ok(taken);
            }
            if used == 0 && made == 0 && status != Status::StreamEnd {
                // There is something to read and room to write, and nothing comes of it.
                return Err(InvalidDeflate);
            }
        }
    }

    /// As [`Inflating::inflate`], for what the sender has left out. True when all of it is out.
    pub(super) fn finish(&mut self, out: &mut InflateBuffer) -> Result<bool, InvalidDeflate> {
        if out.is_full() {
            return Ok(false);
        }
        let tail = SYNC_TAIL.get(self.tail_used..).unwrap_or_default();
        self.tail_used += self.inflate(tail, out)?;
        // Whatever is still inside has not found room.
        Ok(self.tail_used == SYNC_TAIL.len() && !out.is_full())
    }

    pub(super) fn recycle(mut self, pool: &DeflatePool) {
        self.state.reset(false);
        push_spare(&pool.inflate, self.state);
    }
}

/// A message on its way out.
#[derive(Debug)]
pub(super) struct Deflater {
    state: Compress,
    is_poolable: bool,
}

impl Deflater {
    pub(super) fn new(agreed: DeflateParams, pool: &DeflatePool) -> Self {
        let is_common = agreed.window_bits == LARGEST_WINDOW;
        let spare = if is_common { pop_spare(&pool.deflate) } else { None };
        let state = spare.unwrap_or_else(|| {
            // JSON becomes a third of its size at this level, and a fourth at the next, in twice the time: time of the
            // thread that has all connections.
            Compress::new_with_window_bits(Compression::fast(), false, agreed.window_bits)
        });
        Self { state, is_poolable: is_common }
    }

    /// Appends what comes of `bytes` to `out`; with `end`, all of what is still inside.
    pub(super) fn deflate(&mut self, bytes: &[u8], end: bool, out: &mut Vec<u8>) {
        let flush = if end { FlushCompress::Sync } else { FlushCompress::None };
        let mut taken = 0;
        loop {
            out.reserve(1024.max((bytes.len() - taken) / 2));
            let before = self.state.total_in();
            let input = bytes.get(taken..).unwrap_or_default();
            // Raw deflate has no wrong input.
            let status = self.state.compress_vec(input, out, flush);
            debug_assert!(status.is_ok(), "{status:?}");
            taken += usize::try_from(self.state.total_in() - before).unwrap_or_default();
            let has_room = out.len() < out.capacity();
            if taken >= bytes.len() && has_room || status.is_err() {
                break;
            }
        }
        if end && out.ends_with(&SYNC_TAIL) {
            out.truncate(out.len() - SYNC_TAIL.len());
        }
    }

    pub(super) fn give_back(mut self, pool: &DeflatePool) {
        if self.is_poolable {
            self.state.reset();
            push_spare(&pool.deflate, self.state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deflate(pool: &DeflatePool, window_bits: u8, parts: &[&[u8]]) -> Vec<u8> {
        let mut deflating = Deflater::new(DeflateParams { window_bits }, pool);
        let mut out = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            deflating.deflate(part, at + 1 == parts.len(), &mut out);
        }
        deflating.give_back(pool);
        out
    }

    fn inflate(pool: &DeflatePool, mut bytes: &[u8], room: usize) -> Result<Vec<u8>, InvalidDeflate> {
        let mut inflating = Inflater::new(pool);
        let mut whole = Vec::new();
        let mut out = InflateBuffer::new(room);
        loop {
            out.clear();
            bytes = &bytes[inflating.inflate(bytes, &mut out)?..];
            let is_whole = bytes.is_empty() && inflating.finish(&mut out)?;
            whole.extend_from_slice(out.filled());
            if is_whole {
                inflating.recycle(pool);
                return Ok(whole);
            }
        }
    }

    #[test]
    fn a_message_comes_out_as_it_went_in_whatever_its_pieces_and_the_room() {
        let pool = DeflatePool::default();
        let random: Vec<u8> =
            (0..100_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
        let dull = vec![b'x'; 300_000];
        for message in [&b""[..], b"Hello", &random, &dull] {
            for bits in [9, 12, 15] {
                let half = message.len() / 2;
                for parts in [&[message][..], &[&message[..half], &message[half..]], &[message, b""]] {
                    let deflated = deflate(&pool, bits, parts);
                    for room in [1, 7, 1024, 65_536] {
                        // The first takes long when every byte is another call.
                        if room > 7 || message.len() < 100 {
                            assert_eq!(inflate(&pool, &deflated, room).unwrap(), message);
                        }
                    }
                }
            }
        }
        assert!(deflate(&pool, 15, &[&dull]).len() < dull.len() / 50);
    }

    #[test]
    fn the_examples_of_the_rfc_are_understood() {
        let pool = DeflatePool::default();
        // RFC 7692 §7.2.3.1, §7.2.3.3 (no compression), §7.2.3.4 (a last block), §7.2.3.5 (two blocks).
        for bytes in [
            &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00][..],
            &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
            &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
            &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
        ] {
            assert_eq!(inflate(&pool, bytes, 1024).unwrap(), b"Hello", "{bytes:x?}");
        }
    }

    #[test]
    fn what_is_no_deflate_is_told() {
        assert!(inflate(&DeflatePool::default(), b"\xff\xff\xff\xff", 1024).is_err());
    }

    #[test]
    fn what_one_message_had_is_forgotten_before_the_next() {
        let pool = DeflatePool::default();
        let message = b"something to remember, and something else to remember";
        let first = deflate(&pool, 15, &[message]);
        assert_eq!(deflate(&pool, 15, &[message]), first);
        assert_eq!(pool.deflate.lock().unwrap().len(), 1);
        for _ in 0..2 {
            assert_eq!(inflate(&pool, &first, 1024).unwrap(), message);
        }
        assert_eq!(pool.inflate.lock().unwrap().len(), 1);
    }
}
