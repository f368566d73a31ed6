//! An interim response (RFC 9110 §15.2) on its way from the response future to the connection's
//! stream.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// Holds at most one interim response. While one is unsent, further ones are dropped: they are only
/// hints, and must not pile up for a client that does not read.
#[derive(Debug, Default)]
pub struct InterimSlot {
    /// True if `bytes` is not empty. Avoids the lock in the usual case.
    is_full: AtomicBool,
    /// The encoded response, not yet taken by the stream. Allocated for the first one, because most connections
    /// never have one.
    bytes: OnceLock<Box<Mutex<Vec<u8>>>>,
    /// The stream has taken an interim response and not written all of it.
    in_flight: AtomicBool,
}

impl InterimSlot {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.get_or_init(Box::default).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues an encoded interim response; drops it if another one is queued or in flight.
    pub fn push(&self, bytes: Vec<u8>) {
        if self.in_flight.load(Ordering::Relaxed) || self.is_full.load(Ordering::Relaxed) {
            return;
        }
        *self.lock() = bytes;
        self.is_full.store(true, Ordering::Relaxed);
    }

    /// Removes the queued response and returns it; empty if there is none.
    pub fn take(&self) -> Vec<u8> {
        if !self.is_full.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.is_full.store(false, Ordering::Relaxed);
        std::mem::take(&mut *self.lock())
    }

    /// Notes whether the stream is writing an interim response.
    pub(super) fn set_in_flight(&self, in_flight: bool) {
        self.in_flight.store(in_flight, Ordering::Relaxed);
    }
}
