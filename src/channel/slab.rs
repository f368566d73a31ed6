//! The slab: 64 KiB chunks in which a worker passes bodies that are too large for its ring, or large
//! enough that the daemon had better not copy them.
//!
//! At first the worker owns all chunks. It fills a chunk and names it in a frame (number and
//! length). From then on the chunk is *lent*: it belongs to the daemon until the daemon returns the
//! chunk's number through the free ring. A worker that names a lent chunk violates the protocol.
//!
//! The daemon passes a lent chunk to the HTTP stack without a copy ([`Chunk::bytes`]): the bytes go
//! from shared memory to `writev(2)`. When a client is slow, the daemon copies its chunks and
//! returns them ([`SlabReceiver::relieve`], [`SlabReceiver::reclaim_overdue`]), so slow clients do
//! not hold chunks for long. A worker that writes into a lent chunk races with the daemon's reads.
//! The daemon does not interpret the bytes, so the worst outcome is that the worker's own client
//! receives garbage.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crate::ProtocolError;
use crate::layout::{CHUNK_BYTES, Geometry, Word};
use crate::map::Map;
use crate::wake::{WaitFlag, Waker};

/// The worker's end: fills free chunks.
#[derive(Debug)]
pub struct SlabSender {
    map: Arc<Map>,
    geometry: Geometry,
    free: Vec<u32>,
    free_tail: u64,
}

impl SlabSender {
    /// Creates the worker's end over a new map.
    pub fn new(map: Arc<Map>, geometry: &Geometry) -> Self {
        // Lowest chunk last, so that low chunks are used (and faulted in) first.
        let free = (0..geometry.chunks).rev().collect();
        Self { map, geometry: *geometry, free, free_tail: 0 }
    }

    /// Returns the number of free chunks.
    ///
    /// # Errors
    /// The free ring is inconsistent.
    pub fn n_available(&mut self) -> Result<usize, ProtocolError> {
        self.collect_returned()?;
        Ok(self.free.len())
    }

    /// Copies up to [`CHUNK_BYTES`] bytes into a free chunk and returns its number; `None` if all
    /// chunks are lent. The caller then waits on [`Word::SpaceWait`]. Uses the chunk that was returned
    /// last, because the processor's cache still has it.
    ///
    /// # Errors
    /// The free ring is inconsistent.
    ///
    /// # Panics
    /// `bytes` is longer than a chunk.
    pub fn fill(&mut self, bytes: &[u8]) -> Result<Option<u32>, ProtocolError> {
        assert!(bytes.len() <= CHUNK_BYTES, "a chunk holds {CHUNK_BYTES} bytes");
        self.collect_returned()?;
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
                return Err(ProtocolError::Chunk { chunk, why: "was returned, but does not exist" });
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

/// The daemon's end: receives chunks, and returns them once they are written to the client.
#[derive(Debug, Clone)]
pub struct SlabReceiver {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    map: Arc<Map>,
    geometry: Geometry,
    loans: Mutex<Loans>,
    /// Written to when a chunk is returned and the worker waits for one. Unset: the worker's
    /// threads wait on a futex.
    eventfd: OnceLock<Arc<OwnedFd>>,
}

/// The lent chunks. Behind a mutex, because any thread may drop a [`Chunk`].
#[derive(Debug)]
struct Loans {
    chunks: Vec<Option<Loan>>,
    count: usize,
    /// Number of chunks received so far.
    n_received: u64,
    free_head: u64,
    /// Number of calls of [`SlabReceiver::reclaim_overdue`] so far.
    round: u64,
}

/// A lent chunk.
#[derive(Debug)]
struct Loan {
    chunk: Weak<Chunk>,
    /// [`Loans::n_received`] when the chunk was received.
    order: u64,
    /// [`Loans::round`] when the chunk was received.
    received_in: u64,
}

impl Loans {
    /// True if more than half of the slab is lent. Until at most half is lent, the worker is not
    /// woken for free chunks.
    fn is_scarce(&self) -> bool {
        self.count * 2 > self.chunks.len()
    }
}

impl SlabReceiver {
    /// Creates the daemon's end over a new map.
    pub fn new(map: Arc<Map>, geometry: &Geometry) -> Self {
        let chunks = (0..geometry.chunks).map(|_| None).collect();
        let loans = Loans { chunks, count: 0, n_received: 0, free_head: 0, round: 0 };
        Self {
            shared: Arc::new(Shared {
                map,
                geometry: *geometry,
                loans: Mutex::new(loans),
                eventfd: OnceLock::new(),
            }),
        }
    }

    /// Sets the eventfd that wakes the worker's event loop when a chunk is returned. Later calls
    /// have no effect.
    pub fn wake_by_eventfd(&self, eventfd: Arc<OwnedFd>) {
        // An error means that the eventfd is set already.
        drop(self.shared.eventfd.set(eventfd));
    }

    /// Receives a chunk named by a frame.
    ///
    /// # Errors
    /// The number or length is out of range, or the chunk is lent already.
    pub fn receive(&self, chunk: u32, len: u32) -> Result<Arc<Chunk>, ProtocolError> {
        if len as usize > CHUNK_BYTES {
            return Err(ProtocolError::Chunk { chunk, why: "is longer than a chunk" });
        }
        let mut loans = self.shared.lock();
        let (order, received_in) = (loans.n_received, loans.round);
        let loan = match loans.chunks.get_mut(chunk as usize) {
            None => return Err(ProtocolError::Chunk { chunk, why: "does not exist" }),
            Some(Some(_)) => {
                return Err(ProtocolError::Chunk { chunk, why: "is lent to the daemon already" });
            }
            Some(loan) => loan,
        };
        let (shared, len) = (Arc::clone(&self.shared), len as usize);
        let received = Arc::new(Chunk { shared, number: chunk, len, copy: OnceLock::new() });
        *loan = Some(Loan { chunk: Arc::downgrade(&received), order, received_in });
        loans.n_received += 1;
        loans.count += 1;
        Ok(received)
    }

    /// Copies and returns every chunk that was received before the previous call. The caller's
    /// interval must be long enough for a client that reads to receive a chunk.
    pub fn reclaim_overdue(&self) {
        let mut loans = self.shared.lock();
        let round = loans.round;
        loans.round += 1;
        let overdue = loans.chunks.iter().flatten().filter(|loan| loan.received_in < round);
        let overdue: Vec<_> = overdue.filter_map(|loan| loan.chunk.upgrade()).collect();
        drop(loans);
        for chunk in overdue {
            chunk.copy_and_return();
        }
    }

    /// True if a quarter of the slab or more is lent.
    pub fn is_quarter_lent(&self) -> bool {
        self.shared.lock().count * 4 >= self.shared.geometry.chunks as usize
    }

    /// Copies and returns the oldest chunks until at most half of the slab is lent, which wakes the
    /// worker if it waits. Called when all chunks have been offered to their sockets: those still
    /// lent wait for slow clients, for which the worker's other responses must not wait. Returns
    /// whether a chunk is still lent.
    pub fn relieve(&self) -> bool {
        let loans = self.shared.lock();
        if !loans.is_scarce() {
            return loans.count > 0;
        }
        let n_excess = loans.count - loans.chunks.len() / 2;
        let mut oldest: Vec<_> =
            loans.chunks.iter().flatten().map(|loan| (loan.order, &loan.chunk)).collect();
        oldest.sort_unstable_by_key(|(order, _)| *order);
        let excess: Vec<_> =
            oldest.into_iter().take(n_excess).filter_map(|(_, chunk)| chunk.upgrade()).collect();
        drop(loans);
        for chunk in excess {
            chunk.copy_and_return();
        }
        true
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Loans> {
        self.loans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of a received chunk. The chunk returns to the worker when this value is dropped or its
/// bytes are copied.
#[derive(Debug)]
pub struct Chunk {
    shared: Arc<Shared>,
    number: u32,
    len: usize,
    /// The bytes, once the chunk is returned to the worker.
    copy: OnceLock<Box<[u8]>>,
}

impl Chunk {
    /// Returns the bytes, from the slab or from the copy.
    pub fn bytes(&self) -> &[u8] {
        match self.copy.get() {
            Some(copy) => copy,
            None => self.shared_bytes(),
        }
    }

    /// True until the chunk is returned to the worker.
    pub fn is_lent(&self) -> bool {
        self.copy.get().is_none()
    }

    /// Copies the bytes and returns the chunk to the worker. Later calls do nothing.
    ///
    /// All readers of the chunk must be on the caller's thread: another thread could read the bytes
    /// that the worker writes next.
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

    /// Returns the bytes in shared memory.
    fn shared_bytes(&self) -> &[u8] {
        let offset = self.shared.geometry.slab_offset() + self.number as usize * CHUNK_BYTES;
        #[expect(unsafe_code, reason = "passing shared memory to writev without a copy")]
        // SAFETY: between `receive` and `return_chunk` the daemon owns the chunk by protocol; the
        // module docs explain why a worker that violates it harms its own client only.
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
    /// Returns a chunk to the worker. Wakes the worker if it waits and at most half of the slab is
    /// lent: a worker that is woken for each chunk sends each in a frame of its own, and sleeps
    /// again. [`SlabReceiver::relieve`] guarantees that the wake-up comes.
    fn return_chunk(&self, number: u32) {
        let Self { map, geometry, eventfd, .. } = self;
        let mut loans = self.lock();
        loans.chunks[number as usize] = None;
        loans.count -= 1;
        map.u32(free_ring_offset(geometry, loans.free_head)).store(number, Ordering::Relaxed);
        loans.free_head += 1;
        map.u64(Geometry::word(Word::FreeHead)).store(loans.free_head, Ordering::Release);
        if loans.is_scarce() {
            return;
        }
        drop(loans);
        let waker = eventfd.get().map_or(Waker::Futex, |eventfd| Waker::EventFd(eventfd.as_fd()));
        WaitFlag(map.u32(Geometry::word(Word::SpaceWait))).notify(&waker);
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
    fn chunks_are_reused() {
        let (mut sender, receiver) = pair(3);
        for round in 0..50_u8 {
            let a = sender.fill(&[round; 100]).unwrap().unwrap();
            let b = sender.fill(&vec![round + 1; CHUNK_BYTES]).unwrap().unwrap();
            let a = receiver.receive(a, 100).unwrap();
            let b = receiver.receive(b, u32::try_from(CHUNK_BYTES).unwrap()).unwrap();
            assert_eq!(a.bytes(), &[round; 100]);
            assert_eq!(b.bytes(), &vec![round + 1; CHUNK_BYTES][..]);
            drop(b);
            drop(a);
        }
        assert_eq!(sender.n_available().unwrap(), 3);
    }

    #[test]
    fn fill_works_again_after_a_chunk_is_returned() {
        let (mut sender, receiver) = pair(1);
        let chunk = sender.fill(b"x").unwrap().unwrap();
        assert_eq!(sender.fill(b"y").unwrap(), None);
        drop(receiver.receive(chunk, 1).unwrap());
        assert_eq!(sender.fill(b"y").unwrap(), Some(chunk));
    }

    #[test]
    fn chunk_that_was_returned_last_is_filled_next() {
        let (mut sender, receiver) = pair(3);
        let [first, second] = [b"x", b"y"].map(|bytes| sender.fill(bytes).unwrap().unwrap());
        drop(receiver.receive(second, 1).unwrap());
        drop(receiver.receive(first, 1).unwrap());
        assert_eq!(sender.fill(b"z").unwrap(), Some(first));
    }

    #[test]
    fn chunk_out_of_range_or_received_twice_is_an_error() {
        let (_sender, receiver) = pair(2);
        assert!(receiver.receive(2, 1).is_err());
        assert!(receiver.receive(0, 65_537).is_err());
        let _held = receiver.receive(0, 1).unwrap();
        assert!(receiver.receive(0, 1).is_err());
    }

    #[test]
    fn relieve_returns_the_oldest_chunks_beyond_half() {
        let (mut sender, receiver) = pair(4);
        let mut lend = |byte| receiver.receive(sender.fill(&[byte]).unwrap().unwrap(), 1).unwrap();
        let chunks = [1, 2, 3, 4].map(&mut lend);
        assert!(receiver.relieve());
        assert_eq!(chunks.each_ref().map(|chunk| chunk.is_lent()), [false, false, true, true]);
        let later = [5, 6].map(&mut lend);
        assert!(receiver.relieve());
        let are_lent = chunks.iter().chain(&later).map(|chunk| chunk.is_lent());
        assert_eq!(are_lent.collect::<Vec<_>>(), [false, false, false, false, true, true]);
        let bytes: Vec<_> = chunks.iter().chain(&later).map(|chunk| chunk.bytes()[0]).collect();
        assert_eq!(bytes, [1, 2, 3, 4, 5, 6]);
        drop((chunks, later));
        assert!(!receiver.relieve());
        assert_eq!(sender.n_available().unwrap(), 4);
    }

    #[test]
    fn waiting_worker_is_woken_when_half_of_the_slab_is_free() {
        let (mut sender, receiver) = pair(4);
        let map = Arc::clone(&sender.map);
        let mut lend = || receiver.receive(sender.fill(b"x").unwrap().unwrap(), 1).unwrap();
        let mut lent: Vec<_> = (0..4).map(|_| lend()).collect();
        let flag = WaitFlag(map.u32(Geometry::word(Word::SpaceWait)));
        flag.announce_wait();
        let is_waiting = || flag.0.load(Ordering::Relaxed) & 1 == 1;
        drop(lent.pop());
        assert!(is_waiting());
        drop(lent.pop());
        assert!(!is_waiting());
        flag.announce_wait();
        lent.extend((0..2).map(|_| lend()));
        assert!(is_waiting());
        // The client takes nothing.
        receiver.relieve();
        assert!(!is_waiting());
    }

    #[test]
    fn overdue_chunks_are_copied_and_returned() {
        let (mut sender, receiver) = pair(2);
        let slow = receiver.receive(sender.fill(b"slow").unwrap().unwrap(), 4).unwrap();
        receiver.reclaim_overdue();
        let quick = receiver.receive(sender.fill(b"quick").unwrap().unwrap(), 5).unwrap();
        assert_eq!(sender.n_available().unwrap(), 0);
        receiver.reclaim_overdue();
        assert_eq!(sender.n_available().unwrap(), 1, "only the older one");
        // The chunk has other bytes now; the copy has the old ones.
        let again = receiver.receive(sender.fill(b"else").unwrap().unwrap(), 4).unwrap();
        assert_eq!((slow.bytes(), quick.bytes(), again.bytes()), (&b"slow"[..], &b"quick"[..], &b"else"[..]));
        slow.copy_and_return();
        drop((slow, quick, again));
        assert_eq!(sender.n_available().unwrap(), 2, "each is returned once");
    }
}
