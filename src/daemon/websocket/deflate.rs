//! Compression of messages (RFC 7692 §7.2). A message borrows its compressor from a
//! [`DeflatePool`].

use std::sync::{Mutex, PoisonError};

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::extension::{DeflateParams, MAX_WINDOW_BITS};

/// The end of a compressed message, which a sender omits (RFC 7692 §7.2.1).
const SYNC_TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// Maximum number of unused compressors in the pool, and of unused decompressors. A message in one
/// piece returns its compressor or decompressor at once, so that all such messages can share one. A
/// message in several parts keeps it until the message is complete.
const MAX_SPARE_STATES: usize = 4;

/// Unused decompressors (50 KiB each) and compressors (300 KiB each).
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

/// The output of decompression. Its size is fixed, since a few bytes may decompress to a thousand
/// times as many.
#[derive(Debug)]
pub(super) struct InflateBuffer {
    bytes: Box<[u8]>,
    len: usize,
}

impl InflateBuffer {
    /// Creates a buffer of `size` bytes, at least one.
    pub(super) fn new(size: usize) -> Self {
        Self { bytes: vec![0; size.max(1)].into_boxed_slice(), len: 0 }
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Returns the decompressed bytes.
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

/// The decompressor of one message.
#[derive(Debug)]
pub(super) struct Inflater {
    state: Decompress,
    /// Number of bytes of [`SYNC_TAIL`] that were decompressed.
    tail_used: usize,
}

/// The bytes are not valid deflate.
#[derive(Debug)]
pub(super) struct InvalidDeflate;

impl Inflater {
    pub(super) fn new(pool: &DeflatePool) -> Self {
        let state = pop_spare(&pool.inflate)
            .unwrap_or_else(|| Decompress::new_with_window_bits(false, MAX_WINDOW_BITS));
        Self { state, tail_used: 0 }
    }

    /// Decompresses into the rest of `out`. Returns how many of `bytes` are used up: all of them
    /// unless `out` is full.
    pub(super) fn inflate(&mut self, bytes: &[u8], out: &mut InflateBuffer) -> Result<usize, InvalidDeflate> {
        let mut consumed = 0;
        loop {
            let (total_in, total_out) = (self.state.total_in(), self.state.total_out());
            let input = bytes.get(consumed..).unwrap_or_default();
            let status = self.state.decompress(input, out.spare_mut(), FlushDecompress::Sync);
            let status = status.map_err(|_| InvalidDeflate)?;
            let used = usize::try_from(self.state.total_in() - total_in).unwrap_or_default();
            let written = usize::try_from(self.state.total_out() - total_out).unwrap_or_default();
            consumed += used;
            out.len += written;
            if status == Status::StreamEnd {
                // A block was marked as the last (RFC 7692 §7.2.3.4); a new stream follows.
                self.state.reset(false);
            }
            if consumed == bytes.len() || out.is_full() {
                return Ok(consumed);
            }
            if used == 0 && written == 0 && status != Status::StreamEnd {
                // Deflate made no progress, although there is input and room for output.
                return Err(InvalidDeflate);
            }
        }
    }

    /// Decompresses the tail that the sender omitted. Returns true once all output of the message
    /// was written.
    pub(super) fn finish(&mut self, out: &mut InflateBuffer) -> Result<bool, InvalidDeflate> {
        if out.is_full() {
            return Ok(false);
        }
        let tail = SYNC_TAIL.get(self.tail_used..).unwrap_or_default();
        self.tail_used += self.inflate(tail, out)?;
        // If the buffer is full, the decompressor may hold more output.
        Ok(self.tail_used == SYNC_TAIL.len() && !out.is_full())
    }

    /// Returns the decompressor to the pool.
    pub(super) fn recycle(mut self, pool: &DeflatePool) {
        self.state.reset(false);
        push_spare(&pool.inflate, self.state);
    }
}

/// The compressor of one message.
#[derive(Debug)]
pub(super) struct Deflater {
    state: Compress,
    /// The window has the default size; only such compressors return to the pool.
    is_poolable: bool,
}

impl Deflater {
    pub(super) fn new(params: DeflateParams, pool: &DeflatePool) -> Self {
        let is_poolable = params.window_bits == MAX_WINDOW_BITS;
        let spare = if is_poolable { pop_spare(&pool.deflate) } else { None };
        let state = spare.unwrap_or_else(|| {
            // At this level JSON shrinks to a third of its size. The next level shrinks it to a
            // quarter, but needs twice the time, and one thread serves all connections.
            Compress::new_with_window_bits(Compression::fast(), false, params.window_bits)
        });
        Self { state, is_poolable }
    }

    /// Compresses `bytes` and appends the output to `out`. With `end`, also appends the bytes that
    /// the compressor has held back.
    pub(super) fn deflate(&mut self, bytes: &[u8], end: bool, out: &mut Vec<u8>) {
        let flush = if end { FlushCompress::Sync } else { FlushCompress::None };
        let mut consumed = 0;
        loop {
            out.reserve(1024.max((bytes.len() - consumed) / 2));
            let before = self.state.total_in();
            let input = bytes.get(consumed..).unwrap_or_default();
            // Compression cannot fail: any input is valid.
            let status = self.state.compress_vec(input, out, flush);
            debug_assert!(status.is_ok(), "{status:?}");
            consumed += usize::try_from(self.state.total_in() - before).unwrap_or_default();
            let has_room = out.len() < out.capacity();
            if consumed >= bytes.len() && has_room || status.is_err() {
                break;
            }
        }
        if end && out.ends_with(&SYNC_TAIL) {
            out.truncate(out.len() - SYNC_TAIL.len());
        }
    }

    /// Returns the compressor to the pool.
    pub(super) fn recycle(mut self, pool: &DeflatePool) {
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
        let mut deflater = Deflater::new(DeflateParams { window_bits }, pool);
        let mut out = Vec::new();
        for (at, part) in parts.iter().enumerate() {
            deflater.deflate(part, at + 1 == parts.len(), &mut out);
        }
        deflater.recycle(pool);
        out
    }

    fn inflate(pool: &DeflatePool, mut bytes: &[u8], room: usize) -> Result<Vec<u8>, InvalidDeflate> {
        let mut inflater = Inflater::new(pool);
        let mut whole = Vec::new();
        let mut out = InflateBuffer::new(room);
        loop {
            out.clear();
            bytes = &bytes[inflater.inflate(bytes, &mut out)?..];
            let is_whole = bytes.is_empty() && inflater.finish(&mut out)?;
            whole.extend_from_slice(out.filled());
            if is_whole {
                inflater.recycle(pool);
                return Ok(whole);
            }
        }
    }

    #[test]
    fn message_round_trips_for_all_splits_and_buffer_sizes() {
        let pool = DeflatePool::default();
        let random: Vec<u8> =
            (0..100_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
        let uniform = vec![b'x'; 300_000];
        for message in [&b""[..], b"Hello", &random, &uniform] {
            for bits in [9, 12, 15] {
                let half = message.len() / 2;
                for parts in [&[message][..], &[&message[..half], &message[half..]], &[message, b""]] {
                    let deflated = deflate(&pool, bits, parts);
                    for room in [1, 7, 1024, 65_536] {
                        // One call for each byte is slow: small buffers are for short messages.
                        if room > 7 || message.len() < 100 {
                            assert_eq!(inflate(&pool, &deflated, room).unwrap(), message);
                        }
                    }
                }
            }
        }
        assert!(deflate(&pool, 15, &[&uniform]).len() < uniform.len() / 50);
    }

    #[test]
    fn rfc_examples_are_decompressed() {
        let pool = DeflatePool::default();
        // RFC 7692 §7.2.3.1, §7.2.3.3 (no compression), §7.2.3.4 (a last block), §7.2.3.5 (two
        // blocks).
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
    fn invalid_deflate_is_an_error() {
        assert!(inflate(&DeflatePool::default(), b"\xff\xff\xff\xff", 1024).is_err());
    }

    #[test]
    fn compressors_are_reset_and_reused_between_messages() {
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
