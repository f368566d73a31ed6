//! WebSockets (RFC 6455, RFC 7692) between a client and `dispatch`.
//!
//! ```text
//! client ──bytes──▶ receive ──parts──▶ dispatch ──▶ worker: receive()
//!        ◀──bytes── send ◀──messages── dispatch ◀── worker: send()
//! ```
//! `http` checks a handshake, submits it like any request and answers it. Once the application has
//! accepted, [`serve`] takes over the connection until its end. [`receive`] and [`send`] translate
//! between bytes and messages; [`conn`] owns the socket and the timers.
//!
//! A WSGI application speaks the protocol itself, on a socket; [`relay`] forwards the bytes.
//!
//! Messages are not stored here. They are forwarded as they arrive, in parts of at most
//! [`dispatch::MAX_PART`](crate::dispatch::MAX_PART); only their length is compared with the limit.
//! All connections share the buffers for input and output; a connection owns bytes only while the
//! client or the application does not accept them.
//!
//! The frame codec is tungstenite's, deflate is zlib-rs'. The rest is written here for two reasons.
//! tungstenite and yawc store whole messages: up to 16 MiB for each client that announces a message
//! of this length. soketto cannot be polled together with another source of messages. (Only yawc
//! and soketto compress.)

mod close_log;
mod conn;
mod context;
mod deflate;
mod extension;
mod frame;
mod key;
mod receive;
mod relay;
mod send;
mod timers;
mod utf8;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::net::ClientStream;

pub use self::conn::{AcceptedHandshake, WebSocketConn, serve as serve_messages};
pub use self::context::{AcceptedRequest, WebSocketResources, WebSocketSettings};
pub use self::extension::{DeflateParams, negotiate};
pub use self::key::{accept, is_key};
pub use self::relay::{RelayConn, TakenConnection};

/// An accepted WebSocket, which takes over the connection after the 101.
#[derive(Debug)]
pub enum AcceptedUpgrade {
    /// An ASGI application exchanges messages.
    Messages(Box<AcceptedHandshake>),
    /// A WSGI application exchanges bytes.
    Takeover(Box<TakenConnection>, Box<AcceptedRequest>),
}

/// A WebSocket connection. The future completes when it has ended.
#[derive(Debug)]
pub enum UpgradedConn {
    /// Speaks the protocol for an ASGI application.
    Messages(Box<WebSocketConn<ClientStream>>),
    /// Forwards bytes to and from a WSGI application.
    Relay(Box<RelayConn>),
}

/// Serves a WebSocket until its end. `early_input` holds the client's bytes that were read with the
/// handshake.
pub fn serve(stream: ClientStream, early_input: &[u8], accepted: AcceptedUpgrade) -> UpgradedConn {
    match accepted {
        AcceptedUpgrade::Messages(accepted) => {
            UpgradedConn::Messages(conn::serve(stream, early_input, *accepted))
        }
        AcceptedUpgrade::Takeover(taken, accepted) => {
            UpgradedConn::Relay(relay::serve(stream, early_input, *taken, *accepted))
        }
    }
}

impl Future for UpgradedConn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut *self {
            Self::Messages(conn) => Pin::new(&mut **conn).poll(cx),
            Self::Relay(conn) => Pin::new(&mut **conn).poll(cx),
        }
    }
}

#[cfg(test)]
mod tests;
