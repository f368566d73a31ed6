//! Offsets in the shared map.
//!
//! | offset | size | contents | writer |
//! |---|---|---|---|
//! | 0 | 4096 | header: magic u64, version u32, then the [`Geometry`] (u32 each) | daemon, before the worker starts |
//! | 4096 + 128·i | 4 or 8 | the words, one per 128 bytes, order of [`Word`] | see [`Word`] |
//! | `slots` | 256·n | per slot: [`SLOT_EXCHANGE`], [`SLOT_STARTED`], [`SLOT_THREAD`] (worker); [`SLOT_ACKED`] (daemon), [`SLOT_CREDIT_WAIT`] | see there |
//! | `submission` | power of two | submission ring | daemon (frames), worker (claims) |
//! | `completion` | power of two | completion ring | worker |
//! | `free` | 4·chunks | free ring: chunk numbers | daemon |
//! | `slab` | 65,536·chunks | chunks | worker |
//!
//! The daemon decides the geometry, sends it in [`crate::control::Start`] and never reads it from
//! the map.

/// First word of the map: `b"rgunchan"`.
pub const MAGIC: u64 = u64::from_le_bytes(*b"rgunchan");

/// Bytes of one slab chunk.
pub const CHUNK_BYTES: usize = 64 * 1024;

/// Maximum number of bytes of a body that travels inside its frame.
pub const MAX_INLINE_BODY: usize = 64 * 1024;

/// Alignment of records, and the size of a record's header (`len u32 | state u32`), bytes.
pub const RECORD_ALIGN: usize = 8;

pub(crate) const PAGE_BYTES: usize = 4096;
const WORD_STRIDE: usize = 128;
const SLOT_STRIDE: usize = 256;

/// The words of the control page, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Word {
    /// u64, daemon: bytes published in the submission ring so far.
    SubmissionHead = 0,
    /// u64, worker: bytes consumed from the submission ring so far.
    SubmissionTail,
    /// u64, worker: bytes published in the completion ring so far.
    CompletionHead,
    /// u64, daemon: bytes consumed from the completion ring so far.
    CompletionTail,
    /// u32, both by compare-and-swap: worker threads that announced sleep and have no token
    /// ([`crate::wake`]).
    Asleep,
    /// u32, both: wake tokens granted and not taken; a shared futex (not PRIVATE).
    Tokens,
    /// u32, both: odd while a worker thread waits for room in the completion ring or the slab; a
    /// futex ([`crate::wake::WaitFlag`]).
    SpaceWait,
    /// u64, daemon: chunks returned through the free ring so far.
    FreeHead,
    /// u64, worker: chunks taken from the free ring so far.
    FreeTail,
}

/// Number of [`Word`]s.
const WORDS: usize = 9;

/// Offset in a slot: u64, worker: id of the running exchange; 0 for none.
pub const SLOT_EXCHANGE: usize = 0;
/// Offset in a slot: u64, worker: `CLOCK_MONOTONIC` at the start of that exchange, nanoseconds.
pub const SLOT_STARTED: usize = 8;
/// Offset in a slot: u64, worker: `pthread_self(3)` of the slot's thread, as `faulthandler` prints
/// it.
pub const SLOT_THREAD: usize = 16;
/// Offset in a slot: u64, daemon: response body bytes of all the slot's exchanges so far (never
/// reset) that were written to the client or discarded. Inline and chunk parts count, file parts do
/// not. The worker counts the bytes it sends the same way; the difference is the number of bytes
/// buffered in the daemon.
///
/// When the daemon pops a `DONE`, it acknowledges the rest of that exchange at once: bytes still on
/// their way to a slow client must not take the window from the slot's next exchange.
pub const SLOT_ACKED: usize = 128;
/// Offset in a slot: u32, both: odd while the slot's thread waits for [`SLOT_ACKED`] to grow; a
/// futex ([`crate::wake::WaitFlag`]).
pub const SLOT_CREDIT_WAIT: usize = 136;

/// A slot's thread waits while more than this many bytes of its response are buffered in the
/// daemon.
pub const RESPONSE_WINDOW: u64 = 1024 * 1024;

/// Bytes of the reactor's page: a second map, made by [`crate::map::Map::create_for_readers`], one
/// for all workers of an edge thread.
pub const REACTOR_PAGE_BYTES: usize = PAGE_BYTES;
/// Offset in the reactor's page: u32, daemon: whether the reactor sleeps ([`crate::wake::Epoch`]).
pub const REACTOR_EPOCH: usize = 0;
/// Offset in the reactor's page: u32, daemon: whether the reactor waits for workers only
/// ([`crate::wake::BacklogWait`]).
pub const REACTOR_BACKLOG_WAIT: usize = 4;
/// Offset in the reactor's page: u32, daemon: 1 while a worker with one thread may spin for its next
/// request ([`crate::spin`]), else 0.
pub const REACTOR_SPIN: usize = 8;
/// Offset in the reactor's page: u32, daemon: the time in microseconds for which a worker that has another request may
/// defer its wake-up of the daemon. 0 until the daemon has changed it: the worker's own minimum.
pub const REACTOR_WAKEUP_DELAY: usize = 12;

/// The sizes that daemon and worker agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of the submission ring, a power of two ≥ 4096.
    pub submission: u32,
    /// Bytes of the completion ring, a power of two ≥ 4096.
    pub completion: u32,
    /// Chunks in the slab.
    pub chunks: u32,
    /// Slots: the exchanges that may run at a time.
    pub slots: u32,
}

impl Geometry {
    /// Returns the default sizes, sufficient by measurement: a submission ring of 512 KiB, for seven
    /// bodies of [`MAX_INLINE_BODY`], a completion ring of 256 KiB and a slab of 4 MiB. (With room for
    /// three such bodies, an echo of them takes 5 % more CPU time, for switches between daemon and
    /// worker; with room for fifteen, it takes no less.)
    ///
    /// Pages are faulted in lazily: unused ones take no memory.
    pub const fn standard(slots: u32) -> Self {
        Self { submission: 512 * 1024, completion: 256 * 1024, chunks: 64, slots }
    }

    /// Maximum number of slots.
    pub const MAX_SLOTS: u32 = 1 << 14;

    /// Checks the sizes. Both sides call this before they map anything.
    ///
    /// # Errors
    /// A size is impossible; the text names it.
    pub fn check(&self) -> Result<(), &'static str> {
        let ring = |size: u32| size.is_power_of_two() && (4096..=1 << 28).contains(&size);
        if !ring(self.submission) {
            return Err("submission ring size is not a power of two from 4 KiB to 256 MiB");
        }
        if !ring(self.completion) {
            return Err("completion ring size is not a power of two from 4 KiB to 256 MiB");
        }
        if self.chunks == 0 || self.chunks > 1 << 14 {
            return Err("slab has no chunks or more than 16384");
        }
        if self.slots == 0 || self.slots > Self::MAX_SLOTS {
            return Err("no slots or more than 16384");
        }
        Ok(())
    }

    /// Offset of a word.
    pub const fn word(word: Word) -> usize {
        PAGE_BYTES + WORD_STRIDE * word as usize
    }

    /// Offset of a field of a slot. The slot's number must be below `slots`.
    pub const fn slot(slot: u32, field: usize) -> usize {
        Self::SLOTS + slot as usize * SLOT_STRIDE + field
    }

    const SLOTS: usize = PAGE_BYTES + WORD_STRIDE * WORDS;

    /// Offset of the submission ring.
    pub const fn submission_offset(&self) -> usize {
        (Self::SLOTS + self.slots as usize * SLOT_STRIDE).next_multiple_of(PAGE_BYTES)
    }

    /// Offset of the completion ring.
    pub const fn completion_offset(&self) -> usize {
        self.submission_offset() + self.submission as usize
    }

    /// Offset of the free ring, `chunks` entries of u32.
    pub const fn free_offset(&self) -> usize {
        self.completion_offset() + self.completion as usize
    }

    /// Offset of the slab.
    pub const fn slab_offset(&self) -> usize {
        (self.free_offset() + self.chunks as usize * 4).next_multiple_of(PAGE_BYTES)
    }

    /// Size of the whole map.
    pub const fn total_bytes(&self) -> usize {
        self.slab_offset() + self.chunks as usize * CHUNK_BYTES
    }

    /// Longest frame that fits into an empty submission ring at any position.
    pub const fn max_submission_frame(&self) -> usize {
        self.submission as usize / 2 - RECORD_ALIGN
    }

    /// Longest frame that fits into an empty completion ring at any position.
    pub const fn max_completion_frame(&self) -> usize {
        self.completion as usize / 2 - RECORD_ALIGN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_follow_each_other_without_overlap() {
        let g = Geometry::standard(3);
        assert!(g.check().is_ok());
        assert!(Geometry::word(Word::FreeTail) + 8 <= Geometry::slot(0, 0));
        assert!(Geometry::slot(2, SLOT_CREDIT_WAIT) + 4 <= g.submission_offset());
        assert_eq!(g.completion_offset() - g.submission_offset(), 512 * 1024);
        assert_eq!(g.slab_offset() % 4096, 0);
        assert_eq!(g.total_bytes(), g.slab_offset() + 64 * CHUNK_BYTES);
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for broken in [
            Geometry { submission: 5000, ..Geometry::standard(1) },
            Geometry { completion: 0, ..Geometry::standard(1) },
            Geometry { chunks: 0, ..Geometry::standard(1) },
            Geometry { slots: 0, ..Geometry::standard(1) },
            Geometry { submission: 1 << 30, ..Geometry::standard(1) },
        ] {
            assert!(broken.check().is_err(), "{broken:?}");
        }
    }
}
