//! The worker's ends of completion ring and slab, and waking the daemon.
//!
//! # When the daemon is woken
//! The daemon's reactor announces its sleep ([`Epoch`]); only then does the worker write to the
//! reactor's eventfd, once per sleep. After a quick response the wake-up may be deferred to the
//! next response, so that the daemon is woken once for both. A caller that defers a wake-up must
//! wake the daemon when there is no next request ([`crate::serve`]), before it sleeps
//! ([`crate::worker::Worker::wait_and_claim`]), before it waits for space, and once the oldest
//! completion is [`Output::wakeup_delay_ns`] old. If the next exchange takes long, the daemon still
//! sees the completion: it polls every millisecond while this worker's submission ring has records.
//!
//! While all workers have a backlog, the daemon waits for them only, for a few milliseconds at most
//! ([`BacklogWait`]). An event loop does not end this wait when a completion is
//! [`Output::wakeup_delay_ns`] old, but ends it before its own sleep, with completions or without.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use pyo3::prelude::*;
use rgun_channel::ProtocolError;
use rgun_channel::layout::{
    CHUNK_BYTES, Geometry, REACTOR_BACKLOG_WAIT, REACTOR_EPOCH, REACTOR_WAKEUP_DELAY, Word,
};
use rgun_channel::map::Map;
use rgun_channel::ring::{CompletionSender, Position};
use rgun_channel::slab::SlabSender;
use rgun_channel::wake::{BacklogWait, Epoch, WaitFlag};

use crate::process::Process;
use crate::python::lock;
use crate::wait::{InterruptibleFutex, SignalHandlers};

/// Maximum delay of a deferred wake-up, nanoseconds, unless the daemon allows more because requests wait for long. A
/// wake-up is deferred only while another request waits in the ring, that is, while all workers are busy. Half a
/// millisecond is then little compared with the wait for a slot. Measured with a Django view of 200 µs, everything on
/// one core: every wake-up of the daemon costs two context switches.
const MIN_WAKEUP_DELAY_NS: u64 = 500_000;

/// Minimum size of a payload that is copied into the slab with the GIL released.
pub(crate) const DETACHED_COPY_BYTES: usize = 4 * CHUNK_BYTES;

/// Minimum size of a payload that goes into the slab although it would fit into its frame. The daemon
/// writes a chunk to the client without copying it; a payload in a frame is copied three more times.
pub(crate) const MIN_CHUNK_PAYLOAD: usize = 16 * 1024;

/// Maximum chunks per frame: 1 MiB, so that the daemon can begin to write while the rest is copied.
const MAX_CHUNKS_PER_FRAME: usize = 16;

/// The worker's ends of the completion ring and the slab.
#[derive(Debug)]
pub(crate) struct Output {
    map: Arc<Map>,
    completions: Mutex<CompletionEnd>,
    slab: Mutex<SlabSender>,
    /// Owner of the reactor's page and eventfd.
    process: &'static Process,
}

#[derive(Debug)]
struct CompletionEnd {
    sender: CompletionSender,
    /// Epoch in which this worker last woke the daemon.
    woken_epoch: u32,
    /// A frame was pushed since the epoch was last checked.
    wakeup_pending: bool,
}

impl Output {
    /// Creates both ends over a map that no worker has used.
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

    /// Publishes a frame; waits for space without the GIL. The caller decides when to wake the
    /// daemon.
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

    /// Publishes a frame if there is space for it.
    pub(crate) fn try_push(&self, frame: &[u8]) -> Result<Option<Position>, ProtocolError> {
        let mut ring = lock(&self.completions);
        let pushed = ring.sender.push_positioned(frame)?;
        ring.wakeup_pending |= pushed.is_some();
        Ok(pushed)
    }

    /// Adds DONE to a frame published with END. Returns false if the daemon has popped the frame.
    pub(crate) fn mark_done(&self, position: Position) -> bool {
        lock(&self.completions).sender.mark_done(position)
    }

    /// Wakes the daemon if it sleeps and a frame was pushed since the last call.
    pub(crate) fn wake_daemon(&self) {
        let must_wake = {
            let ring = &mut *lock(&self.completions);
            if !ring.wakeup_pending {
                return;
            }
            ring.wakeup_pending = false;
            Epoch(self.process.reactor_page.u32(REACTOR_EPOCH)).must_wake(&mut ring.woken_epoch)
        };
        if must_wake {
            // EAGAIN means that the counter is at its maximum, so the eventfd is readable already;
            // an open eventfd has no other errors (eventfd(2)).
            let _ = rustix::io::write(&self.process.reactor_eventfd, &1_u64.to_ne_bytes());
        }
    }

    /// Wakes the daemon if the daemon waits for workers only. Called before an event loop sleeps, because
    /// the loop has no backlog any more.
    pub(crate) fn wake_waiting_daemon(&self) {
        if self.is_daemon_waiting() {
            lock(&self.completions).wakeup_pending = true;
            self.wake_daemon();
        }
    }

    /// Returns the maximum delay of a deferred wake-up, nanoseconds.
    pub(crate) fn wakeup_delay_ns(&self) -> u64 {
        let micros = self.process.reactor_page.u32(REACTOR_WAKEUP_DELAY).load(Ordering::Relaxed);
        MIN_WAKEUP_DELAY_NS.max(1000 * u64::from(micros))
    }

    /// Returns whether the daemon waits for workers only. If so, the daemon reads the frames pushed so
    /// far within a few milliseconds, without a wake-up.
    pub(crate) fn is_daemon_waiting(&self) -> bool {
        BacklogWait(self.process.reactor_page.u32(REACTOR_BACKLOG_WAIT)).is_announced()
    }

    /// Copies a payload that would fit into its frame into a chunk instead, if the payload is not small
    /// and a chunk is free. Returns the number of bytes copied: all, or zero.
    pub(crate) fn try_fill_chunk(
        &self,
        bytes: &[u8],
        chunks: &mut Vec<(u32, u32)>,
    ) -> Result<usize, ProtocolError> {
        chunks.clear();
        if bytes.len() < MIN_CHUNK_PAYLOAD { Ok(0) } else { self.try_fill_chunks(bytes, chunks) }
    }

    /// Copies the front of `bytes` into free chunks: at least one, at most
    /// [`MAX_CHUNKS_PER_FRAME`]. Waits for the first chunk without the GIL. Returns the number of
    /// bytes copied.
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

    /// Fills chunks as [`Output::fill_chunks`] does. Called without the GIL.
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

    /// Copies the front of `bytes` into free chunks, at most [`MAX_CHUNKS_PER_FRAME`]. Returns the
    /// number of bytes copied.
    pub(crate) fn try_fill_chunks(
        &self,
        bytes: &[u8],
        chunks: &mut Vec<(u32, u32)>,
    ) -> Result<usize, ProtocolError> {
        let mut taken = 0;
        for part in bytes.chunks(CHUNK_BYTES).take(MAX_CHUNKS_PER_FRAME) {
            // Locked per chunk: another thread, perhaps with the GIL held, waits for one copy at
            // most.
            let Some(chunk) = lock(&self.slab).fill(part)? else { break };
            chunks.push((chunk, u32::try_from(part.len()).expect("a chunk is 64 KiB")));
            taken += part.len();
        }
        Ok(taken)
    }

    /// Returns the flag on which a thread waits for ring space or chunks.
    pub(crate) fn space_flag(&self) -> WaitFlag<'_> {
        WaitFlag(self.map.u32(Geometry::word(Word::SpaceWait)))
    }
}
