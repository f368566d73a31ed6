//! What goes back to the daemon: completion frames, slab chunks, and the doorbell.
//!
//! # When the doorbell rings
//! The daemon's reactor announces its sleep ([`Epoch`]); only then is its eventfd written, once per
//! sleep. A response may wait for the next one if the application is quick: the daemon is then woken once for both.
//! Whoever defers must ring when there is no next one
//! ([`crate::serve`]), before it sleeps ([`crate::worker::Worker::wait_and_claim`]), before it waits for room,
//! and after the oldest unrung completion is [`DEFER`] old. If the next exchange turns out to be long,
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
pub(crate) const DEFER: u64 = 500_000;

/// From this many bytes on, copying into the slab is done without the GIL.
const COPY_DETACHED: usize = 4 * CHUNK_BYTES;

/// Most chunks in one frame: 1 MiB, so that the daemon can begin to write while the rest is copied.
const CHUNKS_PER_FRAME: usize = 16;

/// The worker's ends of completion ring, slab and doorbell.
#[derive(Debug)]
pub(crate) struct Output {
    map: Arc<Map>,
    ring: Mutex<Ring>,
    slab: Mutex<SlabSender>,
    /// Has the reactor's page and doorbell.
    process: &'static Process,
}

#[derive(Debug)]
struct Ring {
    sender: CompletionSender,
    /// The last epoch that was rung for.
    rung: u32,
    /// Something was pushed that nobody has looked at the epoch for.
    owed: bool,
}

impl Output {
    /// Over a fresh map.
    pub(crate) fn new(map: Arc<Map>, geometry: &Geometry, process: &'static Process) -> Self {
        Self {
            ring: Mutex::new(Ring {
                sender: CompletionSender::new(Arc::clone(&map), geometry),
                rung: 0,
                owed: false,
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
            self.ring();
            let mut outcome = Ok(None);
            self.wants_space().wait_until(&InterruptibleFutex(worker), || {
                outcome = self.try_push(frame);
                !matches!(outcome, Ok(None))
            });
            outcome.map(|_| ())
        })
    }

    /// Publishes a frame if there is room for it.
    pub(crate) fn try_push(&self, frame: &[u8]) -> Result<Option<Position>, ProtocolError> {
        let mut ring = lock(&self.ring);
        let pushed = ring.sender.push_positioned(frame)?;
        ring.owed |= pushed.is_some();
        Ok(pushed)
    }

    /// Adds DONE to a frame that was published with END, unless the daemon has taken it.
    pub(crate) fn amend(&self, position: Position) -> bool {
        lock(&self.ring).sender.mark_done(position)
    }

    /// Wakes the daemon if it sleeps and something was pushed since it was last asked after.
    pub(crate) fn ring(&self) {
        let must_ring = {
            let ring = &mut *lock(&self.ring);
            if !ring.owed {
                return;
            }
            ring.owed = false;
            Epoch(self.process.reactor.u32(REACTOR_EPOCH)).must_wake(&mut ring.rung)
        };
        if must_ring {
            // EAGAIN would mean that the counter is full, so the daemon has been rung; other errors of an
            // eventfd that we hold do not exist (eventfd(2)).
            let _ = rustix::io::write(&self.process.eventfd, &1_u64.to_ne_bytes());
        }
    }

    /// Copies the front of `bytes` into as many chunks as are free (at least one, at most a frame's
    /// worth); waits for the first without the GIL. Returns the chunks and how many bytes they took.
    pub(crate) fn fill(
        &self,
        py: Python<'_>,
        worker: &impl SignalHandlers,
        bytes: &[u8],
        chunks: &mut Vec<(u32, u32)>,
    ) -> Result<usize, ProtocolError> {
        chunks.clear();
        if bytes.len() >= COPY_DETACHED {
            return py.detach(|| self.fill_detached(worker, bytes, chunks));
        }
        match self.try_fill(bytes, chunks)? {
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
        let taken = self.try_fill(bytes, chunks)?;
        if taken > 0 {
            return Ok(taken);
        }
        self.ring();
        let mut outcome = Ok(0);
        self.wants_space().wait_until(&InterruptibleFutex(worker), || {
            outcome = self.try_fill(bytes, chunks);
            !matches!(outcome, Ok(0))
        });
        outcome
    }

    /// Copies the front of `bytes` into the chunks that are free, as many as a frame may have.
    pub(crate) fn try_fill(
        &self,
        bytes: &[u8],
        chunks: &mut Vec<(u32, u32)>,
    ) -> Result<usize, ProtocolError> {
        let mut taken = 0;
        for part in bytes.chunks(CHUNK_BYTES).take(CHUNKS_PER_FRAME) {
            // Locked per chunk: another thread, perhaps with the GIL, waits for one copy at most.
            let Some(chunk) = lock(&self.slab).fill(part)? else { break };
            chunks.push((chunk, u32::try_from(part.len()).expect("a chunk is 64 KiB")));
            taken += part.len();
        }
        Ok(taken)
    }

    /// What is waited on for room or chunks.
    pub(crate) fn wants_space(&self) -> WaitFlag<'_> {
        WaitFlag(self.map.u32(Geometry::word(Word::SpaceWait)))
    }
}
