//! The identity of a worker: seat, incarnation and generation. `supervise` assigns the numbers;
//! other modules pass them on.

use std::fmt;

/// The number of a worker's seat, `0..count`, or [`WorkerNr::ZYGOTE`]. A replacement gets the
/// number of its predecessor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerNr(pub u16);

impl WorkerNr {
    /// The number of a zygote. A worker that becomes the zygote keeps its own number.
    pub const ZYGOTE: WorkerNr = WorkerNr(u16::MAX);

    /// Maximum number of workers, whose numbers are all below [`WorkerNr::ZYGOTE`].
    pub const MAX_COUNT: u16 = Self::ZYGOTE.0 - 1;
}

/// The number of a worker process among all that the daemon has started, counted from 1. Never
/// reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation(pub u64);

/// The number of a generation, counted from 1: the workers of a generation run the same load of
/// code and configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// Identifies a worker process. During a replacement, two processes share a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId {
    /// The number of the seat.
    pub number: WorkerNr,
    /// The process in that seat.
    pub incarnation: Incarnation,
}

impl fmt::Display for WorkerNr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ZYGOTE { f.write_str("zygote") } else { self.0.fmt(f) }
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = if self.number == WorkerNr::ZYGOTE { "" } else { "worker " };
        write!(f, "{role}{} (incarnation {})", self.number, self.incarnation)
    }
}
