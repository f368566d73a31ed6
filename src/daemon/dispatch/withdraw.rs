//! Takes requests that have not started back from the dispatcher, for the next daemon.

use std::time::Instant;

use rgun_channel::frame::{ExchangeId, Request};

use super::Dispatcher;
use super::exchange::response_parts::RequestBody;
use super::exchange::{Exchange, ExchangeState};

impl Dispatcher {
    /// Withdraws a request that waits for a worker or a permit. `copy` returns what the caller needs
    /// of the request, or `None` if the request must stay. Returns `None` if the request stays: it
    /// has started or may have, or its body travels in parts.
    pub(super) fn withdraw<T>(
        &self,
        id: ExchangeId,
        copy: impl FnOnce(&Request<'_>, Option<&RequestBody>) -> Option<T>,
    ) -> Option<T> {
        let mut state = self.lock();
        let state = &mut *state;
        let exchange = state.exchanges.get(id).filter(|exchange| exchange.is_withdrawable())?;
        let copied = copy(&exchange.request()?, exchange.body.as_ref())?;
        let now = Instant::now();
        state.abandon(id, now);
        // The request may have held a permit, or may have held up requests behind it in the queue.
        self.refill_all(state, now);
        Some(copied)
    }
}

impl Exchange {
    fn is_withdrawable(&self) -> bool {
        let has_parts = self.upload.is_some() && self.websocket.is_none();
        matches!(self.state, ExchangeState::Queued | ExchangeState::Held(_))
            && !(has_parts || self.is_retry || self.is_pinned)
            && self.fault.is_none()
    }
}
