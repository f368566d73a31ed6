//! What goes back to the daemon: completion frames, slab chunks, and the doorbell.
//!
//! # When the doorbell rings
//! The daemon's reactor announces its sleep ([`Epoch`]); only then is its eventfd written, once per
//! sleep. A response may wait for the next one if the application is quick: the daemon is then woken once for both.
//! Whoever defers must ring when there is no next one
//! ([`crate::serve`]), before it sleeps ([`crate::worker::Worker::wait_and_claim`]), before it waits for room,
//! and after the oldest unrung completion is [`MAX_WAKEUP_DELAY_NS`] old. If the next exchange turns out to be long,
//! the daemon notices by itself: it ticks every millisecond while it has records in this worker's ring.

use std::sync::{Arc, Mutex};

use pyo3::prelude::*;
use rgun_channel::ProtocolError;
use rgun_channel::layout::{CHUNK_BYTES, Geometry, REACTOR_EPOCH, Word};
use rgun_channel::map::Map;
use rgun_channel::ring::{CompletionSender, Position};
use rgun_channel::slab::SlabSender;
use rgun_channel::wake::{Epoch, WaitFlag};

use crate::process::Process;
use crate::python::lock;
use crate::wait::{InterruptibleFutex, SignalHandlers};

/// A completion waits at most this long for company, nanoseconds, and only while there is a next record: while all
/// workers are busy, that is, when half a millisecond is little beside the wait for a slot. Measured with a Django
/// view of 200 µs, everything on one core: every wake-up of the daemon costs two context switches.
pub(crate) const MAX_WAKEUP_DELAY_NS: u64 = 500_000;

/// From this many bytes on, copying into the slab is done without the GIL.
const DETACHED_COPY_BYTES: usize = 4 * CHUNK_BYTES;

/// Most chunks in one frame: 1 MiB, so that the daemon can begin to write while the rest is copied.
const MAX_CHUNKS_PER_FRAME: usize = 16;

/// The worker's ends of completion ring, slab and doorbell.
#[derive(Debug)]
pub(crate) struct Output {
    map: Arc<Map>,
    completions: Mutex<CompletionEnd>,
    slab: Mutex<SlabSender>,
    /// Has the reactor's page and doorbell.
    process: &'static Process,
}

#[derive(Debug)]
struct CompletionEnd {
    sender: CompletionSender,
    /// The last epoch that was rung for.
    woken_epoch: u32,
    /// Something was pushed that nobody has looked at the epoch for.
    wakeup_pending: bool,
}

impl Output {
    /// Over a fresh map.
    pub(crate) fn new(map: Arc<Map>, geometry: &Geometry, process: &'static Process) -> Self {
        Self {
            completions: Mutex::new(CompletionEnd {
                sender: CompletionSender::new(Arc::clone(&map), geometry),
                woken_epoch: 0,
                wakeup_pending: false,
            }),
            slab: Mutex::new(SlabSender::new(Arc::clone(&map), geometry)),
            map,
            process,
        }
    }

    /// Publishes a frame; waits for room without the GIL. The doorbell is the caller's decision.
    pub(crate) fn push(
        &self,
        py: Python<'_>,
        worker: &impl SignalHandlers,
        frame: &[u8],
    ) -> Result<(), ProtocolError> {
        if self.try_push(frame)?.is_some() {
            return Ok(());
        }
        py.detach(|| {
            self.wake_daemon();
            let mut outcome = Ok(None);
            self.space_flag().wait_until(&InterruptibleFutex(worker), || {
                outcome = self.try_push(frame);
                !matches!(outcome, Ok(None))
            });
            outcome.map(|_| ())
        })
    }

    /// Publishes a frame if there is room for it.
    pub(crate) fn try_push(&self, frame: &[u8]) -> Result<Option<Position>, ProtocolError> {
        let mut ring = lock(&self.completions);
        let pushed = ring.sender.push_positioned(frame)?;
        ring.wakeup_pending |= pushed.is_some();
        Ok(pushed)
    }

    /// Adds DONE to a frame that was published with END, unless the daemon has taken it.
    pub(crate) fn mark_done(&self, position: Position) -> bool {
        lock(&self.completions).sender.mark_done(position)
    }

    /// Wakes the daemon if it sleeps and something was pushed since it was last asked after.
    pub(crate) fn wake_daemon(&self) {
        let must_ring = {
            let ring = &mut *lock(&self.completions);
            if !ring.wakeup_pending {
                return;
            }
            ring.wakeup_pending = false;
            Epoch(self.process.reactor.u32(REACTOR_EPOCH)).must_wake(&mut ring.woken_epoch)
        };
        if must_ring {
            // EAGAIN would mean that the counter is full, so the daemon has been rung; other errors of an
            // eventfd that we hold do not exist (eventfd(2)).
            let _ = rustix::io::write(&self.process.eventfd, &1_u64.to_ne_bytes());
        }
    }

    /// Copies the front of `bytes` into as many chunks as are free (at least one, at most a frame's
    /// worth); waits for the first without the GIL. Returns the chunks and how many bytes they took.
    pub(crate) fn fill_chunks(
        &self,
        py: Python<'_>,
        worker: &impl SignalHandlers,
        bytes: &[u8],
        chunks: &mut Vec<(u32, u32)>,
    ) -> Result<usize, ProtocolError> {
        chunks.clear();
        if bytes.len() >= DETACHED_COPY_BYTES {
            return py.detach(|| self.fill_detached(worker, bytes, chunks));
        }
        match self.try_fill_chunks(bytes, chunks)? {
            0 => py.detach(|| self.fill_detached(worker, bytes, chunks)),
            taken => Ok(taken),
        }
    }

    fn fill_detached(
        &self,
        worker: &impl SignalHandlers,
        bytes: &[u8],
        chunks: &mut Vec<(u32, u32)>,
    ) -> Result<usize, ProtocolError> {
        let taken = self.try_fill_chunks(bytes, chunks)?;
        if taken > 0 {
            return Ok(taken);
        }
        self.wake_daemon();
        let mut outcome = Ok(0);
        self.space_flag().wait_until(&InterruptibleFutex(worker), || {
            outcome = self.try_fill_chunks(bytes, chunks);
            !matches!(outcome, Ok(0))
        });
        outcome
    }

    /// Copies the front of `bytes` into the chunks that are free, as many as a frame may have.
    pub(crate) fn try_fill_chunks(
        &self,
        bytes: &[u8],
        chunks: &mut Vec<(u32, u32)>,
    ) -> Result<usize, ProtocolError> {
        let mut taken = 0;
        for part in bytes.chunks(CHUNK_BYTES).take(MAX_CHUNKS_PER_FRAME) {
            // Locked per chunk: another thread, perhaps with the GIL, waits for one copy at most.
            let Some(chunk) = lock(&self.slab).fill(part)? else { break };
            chunks.push((chunk, u32::try_from(part.len()).expect("a chunk is 64 KiB")));
            taken += part.len();
        }
        Ok(taken)
    }

    /// What is waited on for room or chunks.
    pub(crate) fn space_flag(&self) -> WaitFlag<'_> {
        WaitFlag(self.map.u32(Geometry::word(Word::SpaceWait)))
    }
}
