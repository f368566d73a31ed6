//! The state word of a submission record: who owns the request, decided by one compare-and-swap.
//!
//! ```text
//!            worker: claim()          ┌─▶ CLAIMED   the worker runs it
//!   READY ───────────────────────────┤
//!            daemon: revoke()         └─▶ REVOKED   the daemon gives it to another worker
//!   PAD                                            filler before the ring's end, nobody's
//! ```
//! The word is written by the daemon when it publishes the record (before the head moves, so the
//! worker sees it), and after that only by the two transitions above.
//!
//! A completion record has one, too: the worker may still say that it is done with the exchange, in one step, while the
//! daemon has not taken the record.
//!
//! ```text
//!            daemon: take()           ┌─▶ CLAIMED   as it was pushed
//!   READY ───────────────────────────┤
//!            worker: amend()          └─▶ DONE ── daemon: take() ──▶ CLAIMED   its frame has DONE
//! ```

use crate::ProtocolError;
use crate::sync::{AtomicU32, Ordering};

/// Published, not yet started: either side may take it.
pub const READY: u32 = 1;
/// Taken by a worker thread.
pub const CLAIMED: u32 = 2;
/// Taken back by the daemon; the worker skips it.
pub const REVOKED: u32 = 3;
/// Filler up to the end of the ring.
pub const PAD: u32 = 4;
/// A completion, to which the worker has added that it is done with the exchange.
pub const DONE: u32 = 5;

/// What became of an attempt to claim a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It is the caller's: run it.
    Claimed,
    /// The daemon took it back, or it is filler: skip it.
    Skip,
}

/// Worker side: takes a record, unless the daemon was faster.
///
/// # Errors
/// When the word holds a value that no daemon writes at this point.
pub fn claim(word: &AtomicU32) -> Result<Claim, ProtocolError> {
    // Acquire on success: what the daemon wrote before publishing is visible through the head as well;
    // this pairs with nothing else but costs nothing on x86-64.
    match word.compare_exchange(READY, CLAIMED, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Ok(Claim::Claimed),
        Err(REVOKED | PAD) => Ok(Claim::Skip),
        Err(other) => Err(ProtocolError::RecordState(other)),
    }
}

/// Worker side: adds to a completion that was pushed that the worker is done with the exchange. False if the daemon has
/// taken it.
pub fn mark_done(word: &AtomicU32) -> bool {
    word.compare_exchange(READY, DONE, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

/// Daemon side: takes a completion, and says what it was ([`DONE`], [`PAD`]; anything else is [`READY`]).
pub fn take(word: &AtomicU32) -> u32 {
    word.swap(CLAIMED, Ordering::AcqRel)
}

/// Daemon side: takes a record back. True if it had not been claimed: the request is the daemon's again.
pub fn revoke(word: &AtomicU32) -> bool {
    word.compare_exchange(READY, REVOKED, Ordering::AcqRel, Ordering::Acquire).is_ok()
}
