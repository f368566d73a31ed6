//! The worker socket: one `AF_UNIX` `SOCK_SEQPACKET` pair per worker, for lifecycle and
//! descriptors.
//!
//! The daemon sends [`Command`]s, a process answers with [`Report`]s. One message is one packet;
//! its first byte is the kind. A descriptor travels with the message that names it, and that
//! message is sent before the frame which refers to the descriptor is published.
//!
//! | from | message | descriptors |
//! |---|---|---|
//! | daemon | [`Command::Start`] | shared map, reactor page, reactor eventfd, stacks, wake |
//! | daemon | [`Command::Body`] | the spooled request body, positioned at 0; or the application's end of a socket pair ([`Request::is_takeover`](crate::frame::Request::is_takeover)) |
//! | daemon | [`Command::Cancel`] | |
//! | daemon | [`Command::Stop`] | |
//! | daemon | [`Command::DumpStacks`] | |
//! | daemon | [`Command::Abort`] | |
//! | daemon | [`Command::Fork`] | the worker socket of the new process, shared map, stacks, wake; stdout and stderr, or neither; `cgroup.procs` of its cgroup, or nothing |
//! | daemon | [`Command::Promote`] | |
//! | daemon | [`Command::ReportSources`] | |
//! | daemon | [`Command::TrimMemory`] | |
//! | daemon | [`Command::ChildExited`] | |
//! | worker | [`Report::Refused`] | |
//! | worker | [`Report::Booting`], [`Report::Ready`], [`Report::Failed`] | |
//! | worker | [`Report::File`] | the response's file |
//! | worker | [`Report::StacksDumped`], [`Report::AbortHookEnded`], [`Report::Warning`], [`Report::Sources`], [`Report::StopRequested`] | |
//! | zygote | [`Report::Forked`], [`Report::ForkFailed`], [`Report::Promoted`] | |
//!
//! A *zygote* (`workers.preload`) serves no requests: it imports the application or other modules
//! ([`Preload`]) and forks workers ([`Command::Fork`]). Zygote and workers each have a worker socket.
//! While a zygote imports, it reads no messages, since it has no second thread; only
//! [`STACKS_SIGNAL`] reaches it.
//!
//! *Wake* is a non-blocking eventfd that the event loop of an ASGI worker polls. The daemon writes
//! to it for new records, credit and space. (The threads of a WSGI worker sleep on futexes.)
//!
//! *Stacks* is a memfd into which `faulthandler` writes the Python stacks of the process. The
//! daemon truncates it, sends [`Command::DumpStacks`] (or [`STACKS_SIGNAL`], if the worker does not
//! answer because some code holds the GIL), and reads it after [`Report::StacksDumped`].
//!
//! [`Report::Refused`] is also written by the bootstrap in plain Python, before the extension is
//! loaded: the byte `R`, then UTF-8 text to the end.

mod messages;
mod socket;
mod start;

pub use messages::{Command, FailureKind, Fork, Report};
pub use socket::{ReceivedMessage, pair, receive, send};
pub use start::{EventLoop, Hooks, Interface, Lifespan, ListenerInfo, Preload, Role, Start};

/// Maximum length of a message, bytes; below the kernel's default `wmem_default` of 212,992.
pub const MAX_MESSAGE_BYTES: usize = 96 * 1024;

/// Maximum number of descriptors in one message.
pub const MAX_FDS: usize = 7;

/// Descriptor number of the worker's end of the worker socket.
pub const CONTROL_FD: i32 = 3;

/// Makes a worker write its stacks even while some code holds the GIL: `faulthandler` writes them,
/// then the handler sends [`Report::StacksDumped`]. A real-time signal that neither glibc nor
/// common applications use.
///
/// Only for a process that does not answer [`Command::DumpStacks`] and will be replaced: if the GIL
/// is released meanwhile, `faulthandler` walks frames that change and may crash the process
/// (measured: once in a few hundred signals to a worker with several busy threads).
pub const STACKS_SIGNAL: i32 = 50;
