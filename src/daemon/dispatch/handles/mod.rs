//! The handles by which `http` and `websocket` use an exchange: ticket, response body, request
//! body, WebSocket and takeover.

pub(super) mod takeover;
pub(super) mod ticket;
pub(super) mod upload;
pub(super) mod websocket;
