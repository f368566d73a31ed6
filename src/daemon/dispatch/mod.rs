//! One queue for all workers, and the exchanges that are under way.
//!
//! `http` submits a request and awaits its [`Ticket`]; `edge` calls [`Dispatcher::before_park`] at the
//! end of every turn of the reactor; `pool` makes a worker's [`Link`]; `run` attaches and detaches workers, sets the
//! [`Policy`], measures, and is told by [`Notice`].
//!
//! # Invariants
//! - A request is bound to a worker only when it can start: it is pushed into a worker's ring when a slot
//!   is idle, or a little ahead of time (*prefetch*) when the application answers within a millisecond; a
//!   prefetched record is *revoked* when it would have to wait (`revoke_stalled`, `steal`).
//! - Every exchange is answered exactly once: by the application, or by a [`Fault`].
//! - An exchange stays in the table until both sides are through with it: the client has everything (or is
//!   gone) and the worker has said DONE (or is gone). An id that is not in the table is therefore a breach
//!   of contract, never a late answer.
//! - An exchange with a [permit](rules) keeps it until its worker is done with it; who waits for one is in no queue.
//! - Doorbells ring at the end of the reactor's turn, never per push.
//!
//! # Files
//! From the bottom up: values (`parts`, `fault`, `body`, `socket`, `notice`, `policy`); one worker's channel (`worker`,
//! `outbox`, `running`, `service_time`); an [exchange](exchange::Exchange); the [`state`] of all of them; and what
//! happens to it: `submit` and `ending` begin and end an exchange, `placing` chooses its worker, `turn` collects answers,
//! `workers` attaches and detaches workers, `housekeeping` checks deadlines, `slow` takes answers of slow clients off
//! their workers. A file imports only files below it.

mod body;
mod buffer;
mod data;
mod delivery;
mod ending;
mod exchange;
mod exchanges;
mod fault;
mod gauge;
mod half_close;
mod housekeeping;
mod keeper;
mod later;
mod link;
mod measure;
mod notice;
mod outbox;
mod parts;
mod permits;
mod placing;
mod policy;
mod quarantine;
mod queue;
mod reactor;
mod received;
mod relief;
mod reports;
mod rules;
mod running;
mod service_time;
mod slow;
mod socket;
mod state;
mod submit;
#[cfg(test)]
mod tests;
mod ticket;
mod turn;
mod upload;
mod wait_estimate;
mod websocket;
mod worker;
mod workers;

pub use self::body::PART;
pub use self::data::Data;
pub use self::fault::{Fault, UploadFault};
pub use self::link::{Link, Slots};
pub use self::notice::{Asked, Had, Notice, NoticeSink};
pub use self::parts::{Declared, FilePart, Head, Payload, RequestBody};
pub use self::policy::Policy;
pub use self::reactor::Reactor;
pub use self::rules::Rule;
pub use self::socket::Outgoing;
use self::state::State;
pub use self::state::{Dispatcher, Load};
pub use self::ticket::{Answer, BodyStream, StreamPiece, Ticket};
pub use self::upload::Upload;
pub use self::websocket::WebSocket;
