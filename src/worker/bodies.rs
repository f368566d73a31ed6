//! Request bodies received as descriptors: the control thread inserts them, the slots take them.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, PoisonError};

use rgun_channel::frame::ExchangeId;

use crate::python::lock;

/// Descriptors of request bodies, by exchange, until the exchange starts.
#[derive(Debug, Default)]
pub(crate) struct SpooledBodies {
    waiting: Mutex<HashMap<ExchangeId, OwnedFd>>,
    arrived: Condvar,
}

impl SpooledBodies {
    /// Takes the body of an exchange, and waits for it if necessary: the daemon sends the body before the exchange's
    /// frame. Called without the GIL.
    pub(crate) fn take(&self, exchange: ExchangeId) -> OwnedFd {
        let mut waiting = lock(&self.waiting);
        loop {
            if let Some(body) = waiting.remove(&exchange) {
                return body;
            }
            waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Closes all descriptors.
    pub(crate) fn clear(&self) {
        lock(&self.waiting).clear();
    }

    /// Stores the body of an exchange.
    pub(crate) fn insert(&self, exchange: ExchangeId, body: OwnedFd) {
        lock(&self.waiting).insert(exchange, body);
        self.arrived.notify_all();
    }

    /// Closes the body of an exchange; false if there is none.
    pub(crate) fn discard(&self, exchange: ExchangeId) -> bool {
        lock(&self.waiting).remove(&exchange).is_some()
    }
}
