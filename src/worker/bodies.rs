//! Request bodies and sockets of takeovers, received as descriptors. The control thread inserts
//! them, the slots take them.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, PoisonError};

use rgun_channel::frame::ExchangeId;

use crate::python::lock;

/// The descriptor of each exchange that has not started: a request body or the socket of a
/// takeover.
#[derive(Debug, Default)]
pub(crate) struct SpooledBodies {
    waiting: Mutex<HashMap<ExchangeId, OwnedFd>>,
    arrived: Condvar,
}

impl SpooledBodies {
    /// Takes the body of an exchange; waits until the control thread has received the body, which
    /// the daemon sends before the exchange's frame. Called without the GIL.
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

    /// Closes the body of an exchange. Returns false if there is none.
    pub(crate) fn discard(&self, exchange: ExchangeId) -> bool {
        lock(&self.waiting).remove(&exchange).is_some()
    }
}
