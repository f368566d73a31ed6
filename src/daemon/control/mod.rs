//! The protocol of the control socket: [Varlink](https://varlink.org), the protocol of systemd's own
//! services. `varlinkctl introspect /run/rgun/control` shows the interfaces.
//!
//! | file | contents |
//! |---|---|
//! | `*.varlink` | the definitions of the interfaces, which clients can read |
//! | `server_interface.rs` | the parameters and replies of `io.rgun.Server` |
//! | `metrics.rs` | the replies of `io.systemd.Metrics` |
//! | `interfaces.rs` | `org.varlink.service`: which interfaces there are |
//! | `message.rs` | calls, replies and their encoding |
//! | `fault.rs` | the errors in replies |
//! | `method.rs` | the methods, with their parameters and the access that each needs |
//! | `server.rs` | the daemon's side of a connection |
//! | `client.rs` | the side of `rgun status` and the other commands |
//!
//! A message is a JSON object and a NUL byte. This module does not use the crate zlink: its server
//! serves no other client until one has read its reply, closes the connection at an unknown method,
//! and limits neither connections nor time.

mod client;
mod fault;
mod interfaces;
mod message;
mod method;
mod metrics;
mod server;
mod server_interface;
#[cfg(test)]
mod tests;

/// The beginning of the note in the status line about an address at which no metrics are served; the
/// address follows.
pub const NO_METRICS: &str = "no metrics are served at ";

pub use client::{CallError, ControlClient};
pub use fault::{CallFault, RemoteError};
pub use method::{Access, Method};
pub use metrics::{Metric, MetricFamily, MetricType};
pub use server::{Call, ReplySender, serve};
pub use server_interface::{
    DrainReply, ReloadReply, Request, RequestState, RequestsReply, ScaleReply, StacksReply, StatusReply,
    WorkerEntry, WorkerStacks, WorkersReply,
};
