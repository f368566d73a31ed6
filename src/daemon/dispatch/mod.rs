//! Dispatches requests to workers: one queue for all workers, and one *exchange* per request.
//!
//! `http` submits a request and awaits its [`Ticket`]. `edge` calls [`Dispatcher::before_park`] at
//! the end of every turn of the reactor, that is, of every iteration of its loop. `pool` makes a
//! worker's [`Link`](crate::link::Link). `run` attaches and detaches workers, sets the [`Policy`],
//! reads the load, and gets a [`Notice`] of each event.
//!
//! # Invariants
//! - A request is assigned to a worker only when it can start: when a slot is idle, or a little
//!   ahead of time (*prefetched*) when the application answers within a few milliseconds. Its frame is
//!   then a *record* in the worker's submission ring. A prefetched record that would have to wait
//!   is *revoked* (`revoke_stalled`, `steal`).
//! - Every exchange is answered exactly once: by the application, or by a [`Fault`].
//! - An exchange stays in the table until the client has everything or is gone, and the worker has
//!   sent DONE or is gone. A completion for an id that is not in the table is therefore a breach of
//!   contract, never a late response.
//! - An exchange with a [permit](admission::rules) keeps it until its worker is done. An exchange
//!   held by its rule is not in the queue.
//! - Workers are woken at the end of the reactor's turn, not per push; on a single core sometimes a
//!   turn later ([`gathering`]).
//!
//! # Files
//! From the bottom up:
//! - values: [`fault`], [`notice`], [`policy`], [`data`], [`tick_rate`], [`load_stats`],
//!   [`wait_histogram`], [`spin`], [`coalescing`], [`gathering`];
//! - [`admission`]: the queue, path rules, the quarantine;
//! - [`worker`]: one worker's channel and load;
//! - [`exchange`]: one request, its response, and the table of all exchanges;
//! - [`state`]: everything behind the dispatcher's lock;
//! - operations: [`submit`] and [`finish`] begin and end an exchange, [`permits`] applies path
//!   rules, [`scheduler`] chooses a worker, [`completions`] collects completions, [`stream_frames`]
//!   sends frames about the end of an exchange, [`half_close`] reacts to half-closed clients,
//!   [`withdraw`] ends waiting requests when the daemon stops, [`lifecycle`] attaches and removes
//!   workers, [`timers`] checks deadlines, [`slow_clients`] takes responses of slow clients off their
//!   workers, [`measure`] samples the load, [`snapshot`] lists requests and workers, [`readiness`]
//!   answers health checks, and `http` uses an exchange through [`handles`].
//!
//! The imports of the files form no circle.

mod admission;
mod coalescing;
mod completions;
mod data;
mod exchange;
mod fault;
mod finish;
mod gathering;
mod half_close;
mod handles;
mod lifecycle;
mod load_stats;
mod measure;
mod notice;
mod permits;
mod policy;
mod readiness;
mod scheduler;
mod slow_clients;
mod snapshot;
mod spin;
mod state;
mod stream_frames;
mod submit;
#[cfg(test)]
mod tests;
mod tick_rate;
mod timers;
mod wait_histogram;
mod withdraw;
mod worker;

pub use self::admission::rules::Rule;
pub use self::data::Data;
pub use self::exchange::body::MAX_PART;
pub use self::exchange::response_parts::{
    BodyPiece, ContentLength, FilePart, Payload, RequestBody, ResponseHead, SpooledBody,
};
pub use self::exchange::takeover::TakeoverEvent;
pub use self::exchange::websocket::Outgoing;
pub use self::fault::{Fault, UploadFault};
pub use self::handles::takeover::TakeoverHandle;
pub use self::handles::ticket::{AppBody, AppResponse, BodyStream, Ticket};
pub use self::handles::upload::Upload;
pub use self::handles::websocket::WebSocketHandle;
pub use self::notice::{Notice, NoticeSink, RequestInfo, ResponseProgress};
pub use self::policy::Policy;
pub use self::readiness::Readiness;
pub use self::snapshot::{ActiveRequest, WorkerLoadSummary};
use self::state::State;
pub use self::state::{Dispatcher, LoadSummary};
pub use self::wait_histogram::WaitTotals;
