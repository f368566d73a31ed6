//! Request bodies that come as descriptors: the control thread puts them here, and the slots take them.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, PoisonError};

use rgun_channel::frame::ExchangeId;

use crate::python::lock;

/// Request bodies that came as a descriptor, by exchange, until their slot takes them.
#[derive(Debug, Default)]
pub(crate) struct SpooledBodies {
    waiting: Mutex<HashMap<ExchangeId, OwnedFd>>,
    arrived: Condvar,
}

impl SpooledBodies {
    /// The body of an exchange. It was sent before the exchange's frame, so it is there or about to be;
    /// to be called without the GIL.
    pub(crate) fn take(&self, exchange: ExchangeId) -> OwnedFd {
        let mut waiting = lock(&self.waiting);
        loop {
            if let Some(body) = waiting.remove(&exchange) {
                return body;
            }
            waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Closes all that nobody has taken.
    pub(crate) fn clear(&self) {
        lock(&self.waiting).clear();
    }

    /// Keeps a body for its slot.
    pub(crate) fn insert(&self, exchange: ExchangeId, body: OwnedFd) {
        lock(&self.waiting).insert(exchange, body);
        self.arrived.notify_all();
    }

    /// True if it had been kept.
    pub(crate) fn discard(&self, exchange: ExchangeId) -> bool {
        lock(&self.waiting).remove(&exchange).is_some()
    }
}
