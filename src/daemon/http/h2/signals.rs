//! Requests to a stream's task to send an interim response (100 or 103). Only that task can send
//! one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use http::HeaderMap;

/// The interim responses that a stream's task is to send.
#[derive(Debug, Default)]
pub(in crate::http) struct StreamSignals {
    /// True if `hints` has fields. Avoids the lock in the usual case.
    has_hints: AtomicBool,
    /// The fields of a 103 (RFC 8297).
    hints: Mutex<Option<Box<HeaderMap>>>,
    wants_continue: AtomicBool,
}

impl StreamSignals {
    /// Asks for a 103; replaces one that has not been sent yet.
    pub(in crate::http) fn push_hints(&self, fields: Box<HeaderMap>) {
        *self.hints.lock().unwrap_or_else(PoisonError::into_inner) = Some(fields);
        self.has_hints.store(true, Ordering::Relaxed);
    }

    /// Takes the fields of the 103 to send.
    pub(super) fn take_hints(&self) -> Option<Box<HeaderMap>> {
        if !self.has_hints.swap(false, Ordering::Relaxed) {
            return None;
        }
        self.hints.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Asks for a 100 (RFC 9110 §10.1.1).
    pub(super) fn request_continue(&self) {
        self.wants_continue.store(true, Ordering::Relaxed);
    }

    /// Returns true if a 100 has been requested, and clears the request.
    pub(super) fn take_continue(&self) -> bool {
        self.wants_continue.swap(false, Ordering::Relaxed)
    }
}
