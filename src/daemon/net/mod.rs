//! Sockets: listeners, the accept loop, and connections as far as they are bytes and time.
//!
//! `run` makes the listeners, `edge` runs [`accept()`], `http` speaks on the [`Stream`]s.

mod accept;
mod connection;
mod crowd;
mod limits;
mod listener;
mod output;
mod peer;
mod stream;

pub use accept::accept;
pub use connection::{CloseReason, Connection, ConnectionTracker, Phase};
pub use limits::ConnectionLimits;
pub use listener::{BindError, Listener};
pub use output::OutputProgress;
pub use peer::Peer;
pub use stream::ClientStream;
