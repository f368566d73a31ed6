//! Ends requests that have not started when the daemon stops: takes them back for the next daemon, or
//! rejects them.

use std::time::{Duration, Instant};

use rgun_channel::frame::{ExchangeId, Request};
use tokio::time::{sleep, sleep_until};

use super::exchange::response_parts::RequestBody;
use super::exchange::{Exchange, ExchangeState};
use super::fault::Fault;
use super::{Dispatcher, State};

/// Interval at which new requests are rejected.
const REJECT_INTERVAL: Duration = Duration::from_millis(50);

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

    /// Rejects all requests that have not started, from this time on and forever: the daemon stops.
    pub async fn reject_waiting_from(&self, time: Instant) {
        sleep_until(time.into()).await;
        loop {
            self.lock().reject_waiting(Instant::now());
            sleep(REJECT_INTERVAL).await;
        }
    }
}

impl State {
    fn reject_waiting(&mut self, now: Instant) {
        // Held requests first, so that none of them gets the permit of a rejected request.
        let waiting: Vec<_> = self.rules.held().chain(self.queue.iter()).collect();
        for id in waiting {
            self.fail(id, Fault::Unavailable("the daemon stops".into()), now);
        }
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
