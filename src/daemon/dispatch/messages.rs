//! Messages to an ASGI worker about exchanges that it has: parts of their bodies, that their clients are gone, that they
//! are cancelled.
//!
//! All of them go through the [`outbox`](super::worker::outbox).

use std::task::Waker;
use std::time::{Duration, Instant};

use rgun_channel::frame::StreamFrame;

use super::exchange::Exchange;
use super::exchange::socket::ABNORMAL_CLOSURE;
use super::worker::Worker;
use super::worker::outbox::LoopHealth;

impl Worker {
    /// Calls [`Outbox::say`](super::worker::outbox::Outbox::say).
    pub(super) fn send(&mut self, later: &StreamFrame<'_>) {
        self.outbox.send(&mut self.submissions, later);
    }

    /// Calls [`Outbox::say_part`](super::worker::outbox::Outbox::say_part).
    pub(super) fn send_part(&mut self, part: &StreamFrame<'_>, waker: &Waker) -> Result<bool, String> {
        self.outbox.send_part(&mut self.submissions, part, waker)
    }

    /// Calls [`Outbox::say_more`](super::worker::outbox::Outbox::say_more).
    pub(super) fn flush(&mut self) -> Result<bool, String> {
        self.outbox.flush(&mut self.submissions)
    }

    /// Nobody waits for the answer to this exchange any more: it is told so once, unless it has said everything.
    pub(super) fn send_disconnect(&mut self, exchange: &mut Exchange) {
        let code = if exchange.websocket.is_some() { ABNORMAL_CLOSURE } else { 0 };
        self.send_disconnect_with(exchange, code, b"");
    }

    /// The same of a WebSocket that is closed with this code.
    pub(super) fn send_disconnect_with(&mut self, exchange: &mut Exchange, code: u16, reason: &[u8]) {
        if self.is_asgi() && !exchange.has_ended() && !std::mem::replace(&mut exchange.disconnect_sent, true)
        {
            self.send(&StreamFrame::Disconnect { exchange: exchange.id, code, reason, cancel: false });
        }
    }

    /// The time of this exchange is up: its task is to be cancelled.
    pub(super) fn cancel_task(&mut self, exchange: &mut Exchange) {
        exchange.disconnect_sent = true;
        self.send(&StreamFrame::Disconnect { exchange: exchange.id, code: 0, reason: b"", cancel: true });
    }

    /// Is it to be asked for its pulse?
    pub(super) fn has_watched_loop(&self) -> bool {
        self.is_asgi() && (self.n_running() > 0 || self.n_websockets() > 0 || self.outbox.is_awaiting_loop())
    }

    /// Calls [`Outbox::pulse`](super::worker::outbox::Outbox::pulse).
    pub(super) fn check_loop(&mut self, stall: Duration, now: Instant) -> LoopHealth {
        let progress = self.progress();
        self.outbox.check_loop(&mut self.submissions, stall, progress, now)
    }
}
