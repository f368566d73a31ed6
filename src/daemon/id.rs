//! The names by which the daemon's parts know a worker: its seat, its life, its generation.
//!
//! Plain numbers at the bottom of the module table. `supervise` assigns them; every other module only passes them on.

use std::fmt;

/// A worker's stable seat, `0..count`; or [`WorkerNr::ZYGOTE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerNr(pub u16);

impl WorkerNr {
    /// What zygotes are known by. (A worker that becomes one keeps the number it had.)
    pub const ZYGOTE: WorkerNr = WorkerNr(u16::MAX);
}

/// One process in one seat: counts up from 1 and is never used again in this daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Life(pub u64);

/// One load of code and configuration, counted from 1; every worker belongs to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(pub u64);

/// Which worker: its seat and which life in it. Two lives of one seat can be alive at once during a replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkerId {
    /// The seat.
    pub number: WorkerNr,
    /// The life in that seat.
    pub life: Life,
}

impl fmt::Display for WorkerNr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ZYGOTE { f.write_str("zygote") } else { self.0.fmt(f) }
    }
}

impl fmt::Display for Life {
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
        write!(f, "{role}{} (life {})", self.number, self.life)
    }
}
