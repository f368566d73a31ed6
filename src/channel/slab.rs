//! The slab: 64 KiB chunks in which a worker hands over bodies too large for its ring.
//!
//! All chunks are the worker's at the start. It fills one, names it in a frame (chunk number, length)
//! and from then on the chunk is the daemon's, until the daemon returns its number through the free
//! ring. A worker that names a chunk which is not its own breaks the contract.
//!
//! A received chunk is lent to the HTTP stack as it lies ([`Chunk::bytes`]): no second copy between the worker's memory
//! and `writev(2)`. One whose client is slow is copied then ([`SlabReceiver::reclaim_overdue`]), and its place in the slab
//! returned, so that slow clients hold none of it. Strictly speaking a worker that writes into a chunk it
//! has given away races with that read; no code of ours looks at the bytes, so the worst outcome is
//! that its own client receives garbage.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crate::ProtocolError;
use crate::layout::{CHUNK_BYTES, Geometry, Word};
use crate::map::Map;
use crate::wake::{WaitFlag, Waker};

/// Worker's end: takes free chunks and fills them.
#[derive(Debug)]
pub struct SlabSender {
    map: Arc<Map>,
    geometry: Geometry,
    free: Vec<u32>,
    free_tail: u64,
}

impl SlabSender {
    /// All chunks of a fresh map.
    pub fn new(map: Arc<Map>, geometry: &Geometry) -> Self {
        // Highest last, so that low chunks are used (and faulted in) first.
        let free = (0..geometry.chunks).rev().collect();
        Self { map, geometry: *geometry, free, free_tail: 0 }
    }

    /// Number of chunks that can be taken now.
    ///
    /// # Errors
    /// When the daemon's free ring is impossible.
    pub fn n_available(&mut self) -> Result<usize, ProtocolError> {
        self.collect_returned()?;
        Ok(self.free.len())
    }

    /// Copies up to [`CHUNK_BYTES`] bytes into a free chunk and returns its number; `None` when all are lent
    /// ([`Word::SpaceWait`] is what to wait on).
    ///
    /// # Errors
    /// When the daemon's free ring is impossible.
    ///
    /// # Panics
    /// If `bytes` is longer than a chunk.
    pub fn fill(&mut self, bytes: &[u8]) -> Result<Option<u32>, ProtocolError> {
        assert!(bytes.len() <= CHUNK_BYTES, "a chunk holds {CHUNK_BYTES} bytes");
        if self.free.is_empty() {
            self.collect_returned()?;
        }
        let Some(chunk) = self.free.pop() else { return Ok(None) };
        self.map.copy_in(self.geometry.slab_offset() + chunk as usize * CHUNK_BYTES, bytes);
        Ok(Some(chunk))
    }

    fn collect_returned(&mut self) -> Result<(), ProtocolError> {
        let head = self.map.u64(Geometry::word(Word::FreeHead)).load(Ordering::Acquire);
        let chunks = u64::from(self.geometry.chunks);
        if head < self.free_tail || head - self.free_tail > chunks - self.free.len() as u64 {
            return Err(ProtocolError::Position {
                ring: "free",
                which: "head",
                value: head,
                own: self.free_tail,
            });
        }
        while self.free_tail < head {
            let chunk =
                self.map.u32(free_ring_offset(&self.geometry, self.free_tail)).load(Ordering::Relaxed);
            if chunk >= self.geometry.chunks {
                return Err(ProtocolError::Chunk { chunk, why: "returned chunk does not exist" });
            }
            self.free.push(chunk);
            self.free_tail += 1;
        }
        self.map.u64(Geometry::word(Word::FreeTail)).store(self.free_tail, Ordering::Release);
        Ok(())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder is below a u32")]
fn free_ring_offset(geometry: &Geometry, index: u64) -> usize {
    geometry.free_offset() + (index % u64::from(geometry.chunks)) as usize * 4
}

/// Daemon's end: receives chunks and returns them when they have been written to the client.
#[derive(Debug, Clone)]
pub struct SlabReceiver {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    map: Arc<Map>,
    geometry: Geometry,
    loans: Mutex<Loans>,
    /// Rung when a chunk is returned that somebody waits for; futexes are woken while there is none.
    eventfd: OnceLock<Arc<OwnedFd>>,
}

/// Which chunks the daemon holds. A mutex, because [`Chunk`]s may be dropped by whoever held them.
#[derive(Debug)]
struct Loans {
    chunks: Vec<Option<Loan>>,
    count: usize,
    free_head: u64,
    /// Calls of [`SlabReceiver::reclaim_overdue`] so far.
    round: u64,
}

/// A chunk in the daemon's hands.
#[derive(Debug)]
struct Loan {
    chunk: Weak<Chunk>,
    /// [`Loans::round`] when it was lent.
    age: u64,
}

impl SlabReceiver {
    /// The daemon's end of a fresh map.
    pub fn new(map: Arc<Map>, geometry: &Geometry) -> Self {
        let chunks = (0..geometry.chunks).map(|_| None).collect();
        let lent = Loans { chunks, count: 0, free_head: 0, round: 0 };
        Self {
            shared: Arc::new(Shared {
                map,
                geometry: *geometry,
                loans: Mutex::new(lent),
                eventfd: OnceLock::new(),
            }),
        }
    }

    /// From now on who waits for a chunk is an event loop that watches this eventfd.
    pub fn wake_by_eventfd(&self, bell: Arc<OwnedFd>) {
        // Said again it is the same.
        drop(self.shared.eventfd.set(bell));
    }

    /// Takes over a chunk that a frame named.
    ///
    /// # Errors
    /// When the number or length is out of range, or the daemon holds that chunk already.
    pub fn receive(&self, chunk: u32, len: u32) -> Result<Arc<Chunk>, ProtocolError> {
        if len as usize > CHUNK_BYTES {
            return Err(ProtocolError::Chunk { chunk, why: "length is beyond the chunk" });
        }
        let mut lent = self.shared.lock();
        let age = lent.round;
        let loan = match lent.chunks.get_mut(chunk as usize) {
            None => return Err(ProtocolError::Chunk { chunk, why: "no such chunk" }),
            Some(Some(_)) => return Err(ProtocolError::Chunk { chunk, why: "given twice" }),
            Some(loan) => loan,
        };
        let (shared, len) = (Arc::clone(&self.shared), len as usize);
        let received = Arc::new(Chunk { shared, number: chunk, len, copy: OnceLock::new() });
        *loan = Some(Loan { chunk: Arc::downgrade(&received), age });
        lent.count += 1;
        Ok(received)
    }

    /// Copies what was lent before the last call, and is lent still, and returns its place to the worker. To be called
    /// at intervals that a client which reads needs for a chunk.
    pub fn reclaim_overdue(&self) {
        let mut lent = self.shared.lock();
        let age = lent.round;
        lent.round += 1;
        let overdue = lent.chunks.iter().flatten().filter(|loan| loan.age < age);
        let overdue: Vec<_> = overdue.filter_map(|loan| loan.chunk.upgrade()).collect();
        drop(lent);
        for chunk in overdue {
            chunk.copy_and_return();
        }
    }

    /// Is a quarter of the slab, or more, in the daemon's hands?
    pub fn is_quarter_lent(&self) -> bool {
        self.shared.lock().count * 4 >= self.shared.geometry.chunks as usize
    }

    /// True when more than half of the slab waits for slow clients: the next chunks are better copied
    /// and returned at once, so that they do not hold up the worker's other responses.
    pub fn is_scarce(&self) -> bool {
        self.shared.lock().count * 2 > self.shared.geometry.chunks as usize
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Loans> {
        self.loans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of a chunk; its place returns to the worker when it is dropped, or copied.
#[derive(Debug)]
pub struct Chunk {
    shared: Arc<Shared>,
    number: u32,
    len: usize,
    /// The bytes, when the chunk itself is the worker's again.
    copy: OnceLock<Box<[u8]>>,
}

impl Chunk {
    /// The bytes, wherever they are.
    pub fn bytes(&self) -> &[u8] {
        match self.copy.get() {
            Some(copy) => copy,
            None => self.shared_bytes(),
        }
    }

    /// Has its place not been returned yet?
    pub fn is_lent(&self) -> bool {
        self.copy.get().is_none()
    }

    /// Copies the bytes and returns the chunk to the worker. Once is enough.
    ///
    /// A reader of the chunk on another thread could see what the worker writes next; all readers in the daemon run on
    /// the caller's thread.
    pub fn copy_and_return(&self) {
        let mut is_first = false;
        self.copy.get_or_init(|| {
            is_first = true;
            self.shared_bytes().into()
        });
        if is_first {
            self.shared.return_chunk(self.number);
        }
    }

    /// The bytes where the worker has put them.
    fn shared_bytes(&self) -> &[u8] {
        let offset = self.shared.geometry.slab_offset() + self.number as usize * CHUNK_BYTES;
        #[expect(unsafe_code, reason = "lending shared memory to writev without a copy")]
        // SAFETY: between `receive` and `return_chunk` the chunk is the daemon's by protocol; the module's text
        // says why a worker that breaks the protocol harms nobody but its own client.
        unsafe {
            self.shared.map.bytes(offset, self.len)
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if self.is_lent() {
            self.shared.return_chunk(self.number);
        }
    }
}

impl Shared {
    /// The chunk is the worker's again.
    fn return_chunk(&self, number: u32) {
        let Self { map, geometry, eventfd: bell, .. } = self;
        let mut lent = self.lock();
        lent.chunks[number as usize] = None;
        lent.count -= 1;
        map.u32(free_ring_offset(geometry, lent.free_head)).store(number, Ordering::Relaxed);
        lent.free_head += 1;
        map.u64(Geometry::word(Word::FreeHead)).store(lent.free_head, Ordering::Release);
        drop(lent);
        let ring = bell.get().map_or(Waker::Futex, |bell| Waker::EventFd(bell.as_fd()));
        WaitFlag(map.u32(Geometry::word(Word::SpaceWait))).notify(&ring);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(chunks: u32) -> (SlabSender, SlabReceiver) {
        let geometry = Geometry { submission: 4096, completion: 4096, chunks, slots: 1 };
        let map = Arc::new(Map::create("slab", geometry.total_bytes()).unwrap().0);
        (SlabSender::new(map.clone(), &geometry), SlabReceiver::new(map, &geometry))
    }

    #[test]
    fn chunks_go_round() {
        let (mut sender, receiver) = pair(3);
        for round in 0..50_u8 {
            let a = sender.fill(&[round; 100]).unwrap().unwrap();
            let b = sender.fill(&vec![round + 1; CHUNK_BYTES]).unwrap().unwrap();
            let a = receiver.receive(a, 100).unwrap();
            let b = receiver.receive(b, u32::try_from(CHUNK_BYTES).unwrap()).unwrap();
            assert!(receiver.is_scarce());
            assert_eq!(a.bytes(), &[round; 100]);
            assert_eq!(b.bytes(), &vec![round + 1; CHUNK_BYTES][..]);
            drop(b);
            drop(a);
        }
        assert_eq!(sender.n_available().unwrap(), 3);
    }

    #[test]
    fn an_empty_slab_says_so_and_recovers() {
        let (mut sender, receiver) = pair(1);
        let chunk = sender.fill(b"x").unwrap().unwrap();
        assert_eq!(sender.fill(b"y").unwrap(), None);
        drop(receiver.receive(chunk, 1).unwrap());
        assert_eq!(sender.fill(b"y").unwrap(), Some(chunk));
    }

    #[test]
    fn chunks_out_of_range_or_given_twice_are_refused() {
        let (_sender, receiver) = pair(2);
        assert!(receiver.receive(2, 1).is_err());
        assert!(receiver.receive(0, 65_537).is_err());
        let _held = receiver.receive(0, 1).unwrap();
        assert!(receiver.receive(0, 1).is_err());
    }
    #[test]
    fn what_is_lent_for_long_is_copied_and_its_place_returned() {
        let (mut sender, receiver) = pair(2);
        let slow = receiver.receive(sender.fill(b"slow").unwrap().unwrap(), 4).unwrap();
        receiver.reclaim_overdue();
        let quick = receiver.receive(sender.fill(b"quick").unwrap().unwrap(), 5).unwrap();
        assert_eq!(sender.n_available().unwrap(), 0);
        receiver.reclaim_overdue();
        assert_eq!(sender.n_available().unwrap(), 1, "only the older one");
        // The place has other bytes now, the copy has not.
        let again = receiver.receive(sender.fill(b"else").unwrap().unwrap(), 4).unwrap();
        assert_eq!((slow.bytes(), quick.bytes(), again.bytes()), (&b"slow"[..], &b"quick"[..], &b"else"[..]));
        slow.copy_and_return();
        drop((slow, quick, again));
        assert_eq!(sender.n_available().unwrap(), 2, "each is returned once");
    }
}
