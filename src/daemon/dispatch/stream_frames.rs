//! Stream frames to an ASGI worker about the end of an exchange: disconnect, half-close and
//! cancellation.

use rgun_channel::frame::StreamFrame;

use super::exchange::Exchange;
use super::exchange::websocket::ABNORMAL_CLOSURE;
use super::worker::Worker;

impl Worker {
    /// Sends Disconnect, once, for an exchange whose client is gone, unless the exchange has ended.
    pub(super) fn send_disconnect(&mut self, exchange: &mut Exchange) {
        let code = if exchange.websocket.is_some() { ABNORMAL_CLOSURE } else { 0 };
        self.send_disconnect_with(exchange, code, b"");
    }

    /// Sends Disconnect, once, with a WebSocket's close code and reason, unless the exchange has
    /// ended.
    pub(super) fn send_disconnect_with(&mut self, exchange: &mut Exchange, code: u16, reason: &[u8]) {
        if self.is_asgi()
            && !exchange.has_ended()
            && !std::mem::replace(&mut exchange.attempt.disconnect_sent, true)
        {
            self.send(&StreamFrame::Disconnect { exchange: exchange.id, code, reason, cancel: false });
        }
    }

    /// Asks the worker to cancel the task of an exchange that has failed: its deadline has passed, or the
    /// worker exits.
    pub(super) fn cancel_task(&mut self, exchange: &mut Exchange) {
        exchange.attempt.disconnect_sent = true;
        self.expect_cancel_report();
        self.send(&StreamFrame::Disconnect { exchange: exchange.id, code: 0, reason: b"", cancel: true });
    }

    /// Sends HalfClose to an ASGI worker, unless the exchange has ended.
    pub(super) fn send_half_close(&mut self, exchange: &Exchange) {
        if self.is_asgi() && !exchange.has_ended() {
            self.send(&StreamFrame::HalfClose { exchange: exchange.id });
        }
    }
}
