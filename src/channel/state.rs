//! The state word of a record, changed by one compare-and-swap.
//!
//! In the submission ring it decides between worker and daemon:
//!
//! ```text
//!            worker: claim()          ┌─▶ CLAIMED   the worker runs it
//!   READY ───────────────────────────┤
//!            daemon: revoke()         └─▶ REVOKED   the daemon gives it to another worker
//!   PAD                                            padding before the ring's end
//! ```
//! The daemon writes READY when it publishes the record, before it moves the head. After that only
//! the two transitions above change the word.
//!
//! In the completion ring, the worker may add DONE to a record until the daemon takes it:
//!
//! ```text
//!            daemon: take()           ┌─▶ CLAIMED   as it was pushed
//!   READY ───────────────────────────┤
//!            worker: mark_done()      └─▶ DONE ── daemon: take() ──▶ CLAIMED   its frame has DONE
//! ```

use crate::ProtocolError;
use crate::sync::{AtomicU32, Ordering};

/// Published and not claimed.
pub const READY: u32 = 1;
/// Claimed by a worker thread; in the completion ring, taken by the daemon.
pub const CLAIMED: u32 = 2;
/// Revoked by the daemon; the worker skips it.
pub const REVOKED: u32 = 3;
/// Padding up to the end of the ring.
pub const PAD: u32 = 4;
/// A completion to which the worker has added DONE.
pub const DONE: u32 = 5;

/// Result of [`claim`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// The caller owns the record.
    Claimed,
    /// The record is revoked or padding.
    Skip,
}

/// Worker: claims a record unless the daemon has revoked it.
///
/// # Errors
/// The word holds none of READY, REVOKED and PAD.
pub fn claim(word: &AtomicU32) -> Result<Claim, ProtocolError> {
    // The frame is visible through the head already; Acquire here pairs with nothing and costs
    // nothing on x86-64.
    match word.compare_exchange(READY, CLAIMED, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Ok(Claim::Claimed),
        Err(REVOKED | PAD) => Ok(Claim::Skip),
        Err(other) => Err(ProtocolError::RecordState(other)),
    }
}

/// Worker: adds DONE to a pushed completion. Returns false if the daemon has taken the completion.
pub fn mark_done(word: &AtomicU32) -> bool {
    word.compare_exchange(READY, DONE, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

/// Daemon: takes a completion and returns its old state. The caller treats every state except
/// [`DONE`] and [`PAD`] as [`READY`].
pub fn take(word: &AtomicU32) -> u32 {
    word.swap(CLAIMED, Ordering::AcqRel)
}

/// Daemon: revokes a record. Returns false if the worker has claimed the record.
pub fn revoke(word: &AtomicU32) -> bool {
    word.compare_exchange(READY, REVOKED, Ordering::AcqRel, Ordering::Acquire).is_ok()
}
