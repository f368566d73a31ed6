//! The handles of an exchange that `http` and `websocket` hold: ticket, response body, request body, WebSocket, takeover.

pub(super) mod takeover;
pub(super) mod ticket;
pub(super) mod upload;
pub(super) mod websocket;
