//! The daemon's end of one worker's shared memory and socket. The policy is in
//! [`Worker`](super::Worker).

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rgun_channel::control::{self, Command};
use rgun_channel::frame::{self, ExchangeId};
use rgun_channel::layout::{Geometry, SLOT_ACKED, SLOT_CREDIT_WAIT, SLOT_EXCHANGE, SLOT_THREAD, Word};
use rgun_channel::map::Map;
use rgun_channel::ring::{CompletionReceiver, SubmissionSender};
use rgun_channel::slab::{Chunk, SlabReceiver};
use rgun_channel::wake::{Sleepers, WaitFlag, Waker};

use crate::dispatch::worker::contract::ContractBreach;

/// Length of popped frames for which a worker that waits for room is woken at once. Its other
/// frames then fill the ring while the daemon passes on the popped ones.
const MIN_SPACE_BYTES: usize = 64 * 1024;

/// Rings, slab and worker socket of one worker.
#[derive(Debug)]
pub(crate) struct WorkerChannel {
    pub(crate) submissions: SubmissionSender,
    pub(crate) completions: CompletionReceiver,
    slab: SlabReceiver,
    map: Arc<Map>,
    control: Arc<OwnedFd>,
    /// The eventfd that an ASGI worker's event loop watches.
    eventfd: Arc<OwnedFd>,
    /// The worker is woken by the eventfd, not by a futex.
    wakes_by_eventfd: bool,
    /// The daemon may own chunks of the slab.
    may_own_chunks: bool,
    /// Frames were popped, and the worker has not been notified.
    has_freed_space: bool,
    /// Number of slots that have a thread, from slot 0 on.
    threads: u32,
    /// Bytes acknowledged so far, by slot.
    acked: Vec<u64>,
    /// Descriptors of response files that arrived before the completion that names them.
    files: HashMap<ExchangeId, OwnedFd>,
}

impl WorkerChannel {
    pub(super) fn new(
        map: Arc<Map>,
        geometry: &Geometry,
        threads: u32,
        control: Arc<OwnedFd>,
        eventfd: Arc<OwnedFd>,
    ) -> Self {
        Self {
            submissions: SubmissionSender::new(Arc::clone(&map), geometry),
            completions: CompletionReceiver::new(Arc::clone(&map), geometry),
            slab: SlabReceiver::new(Arc::clone(&map), geometry),
            map,
            control,
            eventfd,
            wakes_by_eventfd: false,
            may_own_chunks: false,
            has_freed_space: false,
            threads: threads.min(geometry.slots),
            acked: vec![0; geometry.slots as usize],
            files: HashMap::new(),
        }
    }

    /// Chooses how the worker is woken: an event loop by its eventfd, threads by a futex.
    pub(super) fn set_waker(&mut self, is_asgi: bool) {
        self.wakes_by_eventfd = is_asgi;
        if is_asgi {
            self.slab.wake_by_eventfd(Arc::clone(&self.eventfd));
        }
    }

    fn waker(&self) -> Waker<'_> {
        if self.wakes_by_eventfd { Waker::EventFd(self.eventfd.as_fd()) } else { Waker::Futex }
    }

    /// Wakes up to `max` of the worker's sleeping threads, or its event loop. Returns whether any
    /// slept.
    pub(super) fn wake(&self, max: u32) -> bool {
        let sleepers = Sleepers {
            asleep: self.map.u32(Geometry::word(Word::Asleep)),
            tokens: self.map.u32(Geometry::word(Word::Tokens)),
        };
        sleepers.wake(&self.waker(), max) > 0
    }

    /// Returns the number of slots in the map, which is the range that completions may name.
    pub(crate) fn n_map_slots(&self) -> usize {
        self.acked.len()
    }

    pub(crate) fn has_no_completions(&self) -> bool {
        self.completions.is_empty()
    }

    /// Wakes the worker if it waits for room in the completion ring. Called after `bytes` of frames
    /// were popped. After fewer than [`MIN_SPACE_BYTES`], the worker is woken at the end of the turn:
    /// by then the slab has free chunks, too, for which the same flag wakes the worker.
    pub(crate) fn free_space(&mut self, bytes: usize) {
        if bytes < MIN_SPACE_BYTES {
            self.has_freed_space = true;
        } else {
            self.notify_space();
        }
    }

    fn notify_space(&self) {
        WaitFlag(self.map.u32(Geometry::word(Word::SpaceWait))).notify(&self.waker());
    }

    /// Gives a slot credit for body bytes that have left for the client, or were discarded.
    pub(crate) fn acknowledge(&mut self, slot: u16, bytes: u64) {
        if bytes > 0 && self.add_credit(slot, bytes) {
            let flag = Geometry::slot(u32::from(slot), SLOT_CREDIT_WAIT);
            WaitFlag(self.map.u32(flag)).notify(&self.waker());
        }
    }

    /// Gives a slot credit and does not wake the worker, which a later call of
    /// [`WorkerChannel::acknowledge`] must do. Returns false if there is no such slot.
    pub(crate) fn add_credit(&mut self, slot: u16, bytes: u64) -> bool {
        let Some(acked) = self.acked.get_mut(usize::from(slot)) else { return false };
        *acked += bytes;
        self.map.u64(Geometry::slot(u32::from(slot), SLOT_ACKED)).store(*acked, Ordering::Release);
        true
    }

    /// Returns `pthread_self(3)` of the thread that runs this exchange, as the worker wrote it:
    /// unchecked.
    pub(crate) fn thread_of(&self, id: ExchangeId) -> Option<u64> {
        let read = |slot, field| self.map.u64(Geometry::slot(slot, field)).load(Ordering::Relaxed);
        // The pages of the other slots stay unused, and would be allocated by reading them.
        let slot = (0..self.threads).find(|slot| read(*slot, SLOT_EXCHANGE) == id.0)?;
        Some(read(slot, SLOT_THREAD)).filter(|thread| *thread != 0)
    }

    pub(crate) fn send_command(&self, command: &Command, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        control::send(&*self.control, &command.encode(), fds)
    }

    /// Receives a message from the worker socket, without blocking.
    pub(super) fn receive(&self, buffer: &mut [u8]) -> io::Result<control::ReceivedMessage> {
        control::receive(&*self.control, buffer)
    }

    /// Sends Cancel: the worker closes a body that was sent ahead of its record, and ends a
    /// response at its next part. The worker may ignore Cancel, because the daemon discards further
    /// completions of the exchange.
    pub(crate) fn send_cancel(&self, id: ExchangeId) {
        if let Err(error) = self.send_command(&Command::Cancel(id), &[]) {
            tracing::debug!(%error, "cannot send Cancel to a worker, ignoring");
        }
    }

    /// Keeps the descriptor of a response file until the completion that names it arrives.
    pub(super) fn store_file(&mut self, id: ExchangeId, fd: OwnedFd) -> Result<(), ContractBreach> {
        if self.files.insert(id, fd).is_some() {
            return Err(format!("sent a second file for exchange {}", id.0).into());
        }
        Ok(())
    }

    pub(super) fn take_file(&mut self, id: ExchangeId) -> Option<OwnedFd> {
        self.files.remove(&id)
    }

    /// Drops the descriptor of an exchange that the worker has finished.
    pub(super) fn drop_file(&mut self, id: ExchangeId) {
        // Usually there is no descriptor, so the id need not be hashed.
        if !self.files.is_empty() {
            self.files.remove(&id);
        }
    }

    /// Returns the slab chunks that a completion names.
    pub(super) fn take_chunks(&mut self, pairs: &[u8]) -> Result<Vec<Arc<Chunk>>, ContractBreach> {
        let mut chunks = Vec::with_capacity(pairs.len() / 8);
        for (number, len) in frame::chunks(pairs) {
            chunks.push(self.slab.receive(number, len)?);
        }
        self.may_own_chunks = true;
        Ok(chunks)
    }

    /// Ends the reactor's turn, in which the tasks of all connections have run: frees chunks that
    /// slow clients hold if more than half of the slab is lent, and wakes the worker if it waits for
    /// room. Called on the reactor's thread.
    pub(crate) fn end_turn(&mut self) {
        if self.may_own_chunks {
            self.may_own_chunks = self.slab.relieve();
        }
        if std::mem::take(&mut self.has_freed_space) {
            self.notify_space();
        }
    }

    /// Returns whether the daemon owns a quarter of the worker's slab or more.
    pub(crate) fn is_quarter_lent(&self) -> bool {
        self.slab.is_quarter_lent()
    }

    /// Copies chunks that the daemon has owned for long, and returns them to the worker.
    pub(crate) fn reclaim(&self) {
        self.slab.reclaim_overdue();
    }
}
