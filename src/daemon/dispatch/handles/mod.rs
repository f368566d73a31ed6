//! What `http` and `websocket` hold of an exchange: its ticket, the response body, the request body, the WebSocket.

pub(super) mod ticket;
pub(super) mod upload;
pub(super) mod websocket;
