//! The handles of an exchange that `http` and `websocket` hold: ticket, response body, request body, WebSocket.

pub(super) mod ticket;
pub(super) mod upload;
pub(super) mod websocket;
