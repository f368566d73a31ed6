//! The exchanges with slow clients, and the jobs that write their responses to files.
//!
//! [`slow_clients`](crate::dispatch::slow_clients) decides which exchanges are watched and which
//! bytes are written.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rgun_channel::frame::ExchangeId;

use crate::budget::Reservation;
use crate::spool;

use crate::dispatch::data::Data;
use crate::dispatch::exchange::Exchange;
use crate::dispatch::exchange::response_buffer::Segment;
use crate::dispatch::tick_rate::TickRate;

/// A response that uses less memory than this is not written to a file.
pub(crate) const MIN_SPILL_BYTES: u64 = 64 * 1024;

/// An exchange that has made no progress for this time is checked less often.
const ACTIVE_TIME: Duration = Duration::from_millis(20);

/// The state of [`slow_clients`](crate::dispatch::slow_clients).
#[derive(Debug)]
pub(crate) struct SlowClients {
    pub(crate) watched: Vec<WatchedExchange>,
    /// Jobs to be run.
    pub(crate) jobs: Vec<SpillJob>,
    /// When slab chunks were last freed.
    pub(crate) last_reclaim: Instant,
    /// Responses to slow clients may occupy slab chunks.
    pub(crate) may_own_chunks: bool,
    /// When memory was last free at a check, or a write to a file last made room.
    pub(crate) last_room: Instant,
    /// When files may be written again after a failure.
    pub(crate) retry_at: Option<Instant>,
    /// When a failure was last logged.
    pub(crate) last_report: Option<Instant>,
}

/// An exchange whose worker waits for its client, or that uses much memory while memory is scarce.
#[derive(Debug)]
pub(crate) struct WatchedExchange {
    pub(crate) id: ExchangeId,
    /// [`ResponseBuffer::n_popped`](crate::dispatch::exchange::response_buffer::ResponseBuffer::n_popped)
    /// at the last check.
    pub(crate) n_popped: u64,
    /// When the client last took a piece.
    pub(crate) last_popped: Instant,
    /// When bytes were last taken over from the worker, or written to a file.
    pub(crate) last_drained: Instant,
}

impl SlowClients {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            watched: Vec::new(),
            jobs: Vec::new(),
            last_reclaim: now,
            may_own_chunks: false,
            last_room: now,
            retry_at: None,
            last_report: None,
        }
    }

    pub(crate) fn watch(&mut self, exchange: &mut Exchange, now: Instant) {
        exchange.is_watched = true;
        self.watched.push(WatchedExchange {
            id: exchange.id,
            n_popped: exchange.response.buffer.n_popped,
            last_popped: now,
            last_drained: now,
        });
    }

    /// Returns how often slow clients are to be checked.
    pub(crate) fn tick_rate(&self, now: Instant) -> TickRate {
        let is_active =
            |watch: &WatchedExchange| now.saturating_duration_since(watch.last_drained) < ACTIVE_TIME;
        if self.watched.iter().any(is_active) {
            TickRate::Fast
        } else if self.watched.is_empty() && !self.may_own_chunks {
            TickRate::Idle
        } else {
            TickRate::Slow
        }
    }

    /// Returns whether files may be written: no write has failed within the retry interval.
    pub(crate) fn can_write(&self, now: Instant) -> bool {
        self.retry_at.is_none_or(|until| now >= until)
    }
}

/// Pieces of a response to be written to a file.
#[derive(Debug)]
pub(crate) struct SpillJob {
    pub(crate) id: ExchangeId,
    pub(crate) data: Vec<Data>,
    /// The file and the position in it; None: a new file.
    pub(crate) file: Option<(Arc<OwnedFd>, u64)>,
    pub(crate) reservation: Reservation,
    pub(crate) directory: PathBuf,
}

/// The result of a [`SpillJob`].
#[derive(Debug)]
pub(crate) struct SpillResult {
    pub(crate) id: ExchangeId,
    /// The written segment, or the error and the data, which must be kept in memory.
    pub(crate) written: Result<Segment, (io::Error, Vec<Data>)>,
}

impl SpillJob {
    /// Writes the data; blocks.
    pub(crate) fn run(self) -> SpillResult {
        let Self { id, data, file, reservation, directory } = self;
        let written = match write(&data, file, &directory) {
            Ok((file, start)) => Ok(Segment { file, start, len: reservation.bytes(), reservation }),
            Err(error) => Err((error, data)),
        };
        SpillResult { id, written }
    }
}

fn write(
    data: &[Data],
    file: Option<(Arc<OwnedFd>, u64)>,
    directory: &Path,
) -> io::Result<(Arc<OwnedFd>, u64)> {
    let (fd, start) = match file {
        Some(open) => open,
        None => (Arc::new(OwnedFd::from(spool::unnamed_file(directory)?)), 0),
    };
    let file = File::from(fd.try_clone()?);
    let (mut block, mut at) = (Vec::new(), start);
    for piece in data {
        // Small pieces are written together.
        block.extend_from_slice(piece);
        if block.len() as u64 >= MIN_SPILL_BYTES {
            file.write_all_at(&block, at)?;
            at += block.len() as u64;
            block.clear();
        }
    }
    file.write_all_at(&block, at)?;
    Ok((fd, start))
}
