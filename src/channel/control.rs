//! The control socket: one `AF_UNIX` `SOCK_SEQPACKET` pair per worker, for lifecycle and descriptors.
//!
//! Commands of the daemon are imperative, facts from the worker past tense. One message is one packet;
//! its first byte is the kind. Descriptors travel with the message that names them, and always before
//! the ring's frame that needs them is published, so that the other side never waits for one in vain.
//!
//! | from | message | descriptors |
//! |---|---|---|
//! | daemon | [`Command::Start`] | shared map, reactor page, reactor eventfd, stacks, wake |
//! | daemon | [`Command::Body`] | the spooled request body, positioned at 0 |
//! | daemon | [`Command::Forget`] | |
//! | daemon | [`Command::Stop`] | |
//! | daemon | [`Command::Stacks`] | |
//! | daemon | [`Command::Fork`] | the new worker's control socket, its shared map, its stacks, its wake; its stdout and stderr, or neither; entrance of its cgroup, or not |
//! | daemon | [`Command::Promote`] | |
//! | daemon | [`Command::ChildExited`] | |
//! | worker | [`Report::Refused`] | |
//! | worker | [`Report::Booting`], [`Report::Ready`], [`Report::Failed`] | |
//! | worker | [`Report::File`] | the response's file |
//! | worker | [`Report::Stacks`], [`Report::Warning`], [`Report::StopRequested`] | |
//! | zygote | [`Report::Forked`], [`Report::ForkFailed`], [`Report::Promoted`] | |
//!
//! A *zygote* (`workers.preload`) is a worker that never serves: it imports the application and makes workers of
//! itself by [`Command::Fork`]. It speaks this protocol on its own control socket, its workers each on theirs.
//! Until it is ready it hears nothing but [`STACKS_SIGNAL`]: it has no thread that could.
//!
//! *Wake* is an eventfd that does not block: where the daemon rings for an ASGI worker, whose event loop watches it. (A
//! WSGI worker's threads sleep on futexes.) It is rung for all that those are woken for: records, credit, space.
//!
//! *Stacks* are a memfd that the daemon makes: where `faulthandler` writes the Python stacks of the process. The
//! daemon empties it, asks ([`Command::Stacks`], or [`STACKS_SIGNAL`] when that is not heard because something holds
//! the GIL), and reads it when [`Report::Stacks`] says that they are there.
//!
//! [`Report::Refused`] is the one message that the bootstrap writes in plain Python, before it knows
//! whether the extension can be loaded: the byte `R`, then UTF-8 text to the end.

use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

use crate::ProtocolError;
use crate::frame::{ExchangeId, Reader, put_bytes, put_text};
use crate::layout::Geometry;

/// Longest message, bytes; well below the kernel's default `wmem_default` of 212,992.
pub const MAX_MESSAGE_BYTES: usize = 96 * 1024;

/// Most descriptors in one message.
pub const MAX_FDS: usize = 7;

/// The descriptor number under which a worker finds its end of the control socket.
pub const CONTROL_FD: i32 = 3;

/// The signal that makes a worker write its stacks although something holds the GIL (`faulthandler.register`, chained
/// to a handler that sends [`Report::Stacks`]). A real-time signal that neither glibc nor usual applications use.
///
/// Only for a process that did not hear [`Command::Stacks`] and will not be kept: while something holds the GIL the
/// frames of all threads stand still, but if it lets go just then, `faulthandler` walks frames that change, and may take
/// the process down (seen: once in some hundred signals to a worker of several busy threads).
pub const STACKS_SIGNAL: i32 = 50;

/// What a process is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// It serves.
    Worker = 0,
    /// It imports the application and forks workers.
    Zygote = 1,
}

/// Functions of the application that are called at points of a worker's life: `module:function`, or empty.
/// Gunicorn's server hooks, called with its arguments; they run in workers, since the daemon has no Python.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hooks {
    /// `(server, worker)`, before the application is imported; with preload: in the new process.
    pub post_fork: String,
    /// `(worker)`, after the application is imported, before the first request.
    pub post_worker_init: String,
    /// `(server, worker)`, in a worker that is about to exit.
    pub worker_exit: String,
    /// `(server, worker)`, in another process, about a worker that has exited ([`Command::ChildExited`]).
    pub child_exit: String,
}

/// Whether an ASGI application's lifespan is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Lifespan {
    /// If the application knows it: one that raises is taken not to.
    #[default]
    Auto = 0,
    /// Yes; one that raises cannot boot.
    On = 1,
    /// No.
    Off = 2,
}

/// Which event loop serves an ASGI application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum EventLoop {
    /// uvloop if it can be imported.
    #[default]
    Auto = 0,
    /// The standard library's.
    Asyncio = 1,
    /// uvloop's; it must be installed.
    Uvloop = 2,
}

/// How the application wants to be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Interface {
    /// Let the worker find out.
    Auto = 0,
    /// PEP 3333.
    Wsgi = 1,
    /// ASGI 3.
    Asgi = 2,
}

impl Interface {
    fn from_byte(byte: u8) -> Result<Self, ProtocolError> {
        match byte {
            0 => Ok(Self::Auto),
            1 => Ok(Self::Wsgi),
            2 => Ok(Self::Asgi),
            _ => Err(ProtocolError::Control("unknown interface")),
        }
    }
}

/// What a request learns about the listener it came through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerInfo {
    /// `SERVER_NAME`: the bound address, or the host name for a wildcard or unix socket.
    pub name: String,
    /// `SERVER_PORT` as text; for a unix socket the scheme's default, so that URLs come out right
    /// (PEP 3333 wants both variables present and not empty).
    pub port: String,
    /// Path of a unix socket, else empty.
    pub path: String,
}

/// Everything a worker needs to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// [`crate::PROTOCOL_VERSION`] of the daemon.
    pub protocol: u32,
    /// Sizes of the shared map that comes with this message.
    pub geometry: Geometry,
    /// Load of code and configuration this worker belongs to.
    pub generation: u32,
    /// Stable seat number.
    pub worker: u16,
    /// Which life in it: counts up over the whole daemon.
    pub life: u64,
    /// What the process is for.
    pub role: Role,
    /// What to call when.
    pub hooks: Hooks,
    /// A zygote's: the path of the request that it answers itself before the first fork, so that what the
    /// application makes at its first request is shared too; empty for none.
    pub warm_up: String,
    /// More than one worker process may run: `wsgi.multiprocess`.
    pub multiprocess: bool,
    /// How to call the application.
    pub interface: Interface,
    /// Slots of a WSGI worker. The geometry has room for as many as either needs.
    pub threads: u32,
    /// Slots of an ASGI worker.
    pub concurrency: u32,
    /// ASGI only.
    pub lifespan: Lifespan,
    /// ASGI only.
    pub event_loop: EventLoop,
    /// Module to import.
    pub module: String,
    /// Attribute in it, dotted.
    pub attribute: String,
    /// Call the attribute without arguments to get the application.
    pub factory: bool,
    /// Directory to put on `sys.path`. As the file system has it: UTF-8 or not.
    pub directory: OsString,
    /// Directories to put on `sys.path` before it.
    pub pythonpath: Vec<OsString>,
    /// `SCRIPT_NAME` / `root_path`.
    pub root_path: String,
    /// The listeners, by index.
    pub listeners: Vec<ListenerInfo>,
}

/// Daemon → worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Boot. Always the first message.
    Start(Box<Start>),
    /// The descriptor of this exchange's body; its frame follows on the ring.
    Body(ExchangeId),
    /// The exchange was revoked: drop its body's descriptor. If it runs already, its client has gone: the
    /// worker does not read the application's iterable any further, closes it, and sends DONE.
    Cancel(ExchangeId),
    /// Claim nothing more, finish what runs, exit 0.
    Stop,
    /// Write the stacks of all threads to the stacks descriptor and answer with [`Report::Stacks`]. With an exchange:
    /// only if that still runs. Taken under the GIL, so that nothing is harmed; whoever cannot wait sends
    /// [`STACKS_SIGNAL`].
    DumpStacks(Option<ExchangeId>),
    /// To a zygote: make a worker.
    Fork(Fork),
    /// To a worker that serves nothing any more: become a zygote.
    Promote,
    /// Another worker of the application has exited: call `hooks.child_exit`.
    ChildExited {
        /// Its process id; in use by nobody of ours when this is sent.
        pid: u32,
        /// Its seat.
        worker: u16,
        /// Its life.
        life: u64,
    },
}

/// Which worker a zygote is to make. Its geometry, listeners and all else are those of the zygote's [`Start`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fork {
    /// Its seat.
    pub worker: u16,
    /// Its life.
    pub life: u64,
}

/// What kind of boot failure it is: whose fault, and whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FailureKind {
    /// The configuration names something that does not exist or cannot be called.
    Config = 0,
    /// The application raised while it was imported or made.
    App = 1,
}

/// Worker → daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// This interpreter cannot run a worker (too old, free-threaded, not CPython, extension not loadable).
    Refused(String),
    /// The extension is loaded; the application comes next.
    Booting {
        /// For instance `CPython 3.11.2`.
        python: String,
    },
    /// The application is imported and callable; requests may come.
    Ready {
        /// Never [`Interface::Auto`].
        interface: Interface,
    },
    /// The application could not be loaded; the worker exits.
    Failed {
        /// Whose fault.
        kind: FailureKind,
        /// One line that names what is missing, and the remedy; with what the application's exception says, which may
        /// hold its secrets.
        summary: String,
        /// The traceback, or empty.
        traceback: String,
        /// One line without any text of the application's: at most the type of its exception, a file and a line.
        headline: String,
    },
    /// The descriptor of this exchange's response file; the frame follows on the ring.
    File(ExchangeId),
    /// The stacks are written; false when the exchange that was asked about is not running any more.
    StacksDumped(bool),
    /// Something that an operator should know and that stops nobody: one or more lines.
    Warning(String),
    /// The worker exists, as a child of the daemon (which is a subreaper).
    Forked {
        /// Its life.
        life: u64,
        /// Its process id. The daemon believes it only of a child of its own.
        pid: u32,
    },
    /// The worker could not be made.
    ForkFailed {
        /// Its life.
        life: u64,
        /// Why.
        reason: String,
    },
    /// The worker has become a zygote.
    Promoted,
    /// A signal of this number, which is not for the daemon, asks the process to finish what it runs and leave.
    /// It goes on until [`Command::Stop`]. Written by a signal handler: `t`, and the number.
    StopRequested(u8),
}

/// A pair of connected control sockets, close-on-exec. The daemon's end does not block.
///
/// # Errors
/// What `socketpair(2)` says.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

/// Sends one message with its descriptors.
///
/// # Errors
/// What `sendmsg(2)` says; `WouldBlock` on a full non-blocking socket, `BrokenPipe` when the other side
/// is gone (no signal is raised).
///
/// # Panics
/// If there are more than [`MAX_FDS`] descriptors or the message is longer than [`MAX_MESSAGE_BYTES`].
pub fn send(socket: impl AsFd, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    assert!(fds.len() <= MAX_FDS && message.len() <= MAX_MESSAGE_BYTES, "control message is too large");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        let pushed = ancillary.push(SendAncillaryMessage::ScmRights(fds));
        debug_assert!(pushed);
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(message)], &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A received message.
#[derive(Debug)]
pub struct ReceivedMessage {
    /// Number of bytes written to the buffer; 0 means that the other side has closed.
    pub len: usize,
    /// Its descriptors, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// Receives one message into `buffer` (of [`MAX_MESSAGE_BYTES`] bytes).
///
/// When the other side exits without having read all that was sent to it, `unix(7)` reports ECONNRESET
/// once, *ahead* of its own messages that still wait here; its last words must not be lost over that, so
/// that error is skipped: messages follow, then the end.
///
/// # Errors
/// What `recvmsg(2)` says; `WouldBlock` on a non-blocking socket without a message; `InvalidData` when
/// the message or its descriptors did not fit; `Interrupted` is returned, not retried: a Python thread
/// must see its signals.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<ReceivedMessage> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [IoSliceMut::new(buffer)];
    let message = match recvmsg(&socket, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
        Err(rustix::io::Errno::CONNRESET) => {
            recvmsg(&socket, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?
        }
        received => received?,
    };
    let mut fds = Vec::new();
    for part in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = part {
            fds.extend(received);
        }
    }
    if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "control message was truncated"));
    }
    Ok(ReceivedMessage { len: message.bytes, fds })
}

impl Command {
    /// The message's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Start(start) => {
                out.push(b'S');
                out.extend_from_slice(&start.protocol.to_le_bytes());
                let Geometry { submission, completion, chunks, slots } = start.geometry;
                for number in [submission, completion, chunks, slots, start.generation] {
                    out.extend_from_slice(&number.to_le_bytes());
                }
                out.extend_from_slice(&start.worker.to_le_bytes());
                out.extend_from_slice(&start.life.to_le_bytes());
                out.extend_from_slice(&[
                    start.role as u8,
                    u8::from(start.multiprocess),
                    start.interface as u8,
                    u8::from(start.factory),
                    start.lifespan as u8,
                    start.event_loop as u8,
                ]);
                out.extend_from_slice(&start.threads.to_le_bytes());
                out.extend_from_slice(&start.concurrency.to_le_bytes());
                let Hooks { post_fork, post_worker_init, worker_exit, child_exit } = &start.hooks;
                for text in [&start.module, &start.attribute] {
                    put_text(text, &mut out);
                }
                put_bytes(start.directory.as_bytes(), &mut out);
                for text in
                    [&start.root_path, post_fork, post_worker_init, worker_exit, child_exit, &start.warm_up]
                {
                    put_text(text, &mut out);
                }
                put_count(start.pythonpath.len(), &mut out);
                for path in &start.pythonpath {
                    put_bytes(path.as_bytes(), &mut out);
                }
                put_count(start.listeners.len(), &mut out);
                for listener in &start.listeners {
                    for text in [&listener.name, &listener.port, &listener.path] {
                        put_text(text, &mut out);
                    }
                }
            }
            Self::Body(exchange) => put_id(b'B', *exchange, &mut out),
            Self::Cancel(exchange) => put_id(b'F', *exchange, &mut out),
            Self::Stop => out.push(b'X'),
            Self::DumpStacks(exchange) => put_id(b'K', exchange.unwrap_or(ExchangeId(0)), &mut out),
            Self::Fork(Fork { worker, life }) => {
                out.push(b'Z');
                out.extend_from_slice(&worker.to_le_bytes());
                out.extend_from_slice(&life.to_le_bytes());
            }
            Self::Promote => out.push(b'P'),
            Self::ChildExited { pid, worker, life } => {
                out.push(b'C');
                out.extend_from_slice(&pid.to_le_bytes());
                out.extend_from_slice(&worker.to_le_bytes());
                out.extend_from_slice(&life.to_le_bytes());
            }
        }
        out
    }

    /// Reads a message.
    ///
    /// # Errors
    /// When it is none of these, or of another [`crate::PROTOCOL_VERSION`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader(bytes);
        match reader.u8()? {
            b'S' => {
                let protocol = reader.u32()?;
                if protocol != crate::PROTOCOL_VERSION {
                    return Err(ProtocolError::Control("daemon and extension speak different versions"));
                }
                let geometry = Geometry {
                    submission: reader.u32()?,
                    completion: reader.u32()?,
                    chunks: reader.u32()?,
                    slots: reader.u32()?,
                };
                geometry.check().map_err(ProtocolError::Control)?;
                let generation = reader.u32()?;
                let worker = reader.u16()?;
                let life = reader.u64()?;
                let role = match reader.u8()? {
                    0 => Role::Worker,
                    1 => Role::Zygote,
                    _ => return Err(ProtocolError::Control("unknown role")),
                };
                let multiprocess = reader.u8()? != 0;
                let interface = Interface::from_byte(reader.u8()?)?;
                let factory = reader.u8()? != 0;
                let lifespan = match reader.u8()? {
                    0 => Lifespan::Auto,
                    1 => Lifespan::On,
                    2 => Lifespan::Off,
                    _ => return Err(ProtocolError::Control("unknown lifespan")),
                };
                let event_loop = match reader.u8()? {
                    0 => EventLoop::Auto,
                    1 => EventLoop::Asyncio,
                    2 => EventLoop::Uvloop,
                    _ => return Err(ProtocolError::Control("unknown event loop")),
                };
                let (threads, concurrency) = (reader.u32()?, reader.u32()?);
                let [module, attribute] = [reader.text()?, reader.text()?].map(str::to_owned);
                let directory = path(&mut reader)?;
                let mut text = || reader.text().map(str::to_owned);
                let root_path = text()?;
                let hooks = Hooks {
                    post_fork: text()?,
                    post_worker_init: text()?,
                    worker_exit: text()?,
                    child_exit: text()?,
                };
                let warm_up = text()?;
                let n_paths = reader.u32()?;
                let pythonpath = (0..n_paths).map(|_| path(&mut reader)).collect::<Result<_, _>>()?;
                let n_listeners = reader.u32()?;
                let listeners = (0..n_listeners)
                    .map(|_| {
                        let [name, port, path] =
                            [reader.text()?, reader.text()?, reader.text()?].map(str::to_owned);
                        Ok(ListenerInfo { name, port, path })
                    })
                    .collect::<Result<_, ProtocolError>>()?;
                Ok(Self::Start(Box::new(Start {
                    protocol,
                    geometry,
                    generation,
                    worker,
                    life,
                    role,
                    hooks,
                    warm_up,
                    multiprocess,
                    interface,
                    threads,
                    concurrency,
                    lifespan,
                    event_loop,
                    module,
                    attribute,
                    factory,
                    directory,
                    pythonpath,
                    root_path,
                    listeners,
                })))
            }
            b'B' => Ok(Self::Body(ExchangeId(reader.u64()?))),
            b'F' => Ok(Self::Cancel(ExchangeId(reader.u64()?))),
            b'X' => Ok(Self::Stop),
            b'K' => {
                let exchange = ExchangeId(reader.u64()?);
                Ok(Self::DumpStacks((exchange.0 != 0).then_some(exchange)))
            }
            b'Z' => Ok(Self::Fork(Fork { worker: reader.u16()?, life: reader.u64()? })),
            b'P' => Ok(Self::Promote),
            b'C' => Ok(Self::ChildExited { pid: reader.u32()?, worker: reader.u16()?, life: reader.u64()? }),
            _ => Err(ProtocolError::Control("unknown command")),
        }
    }
}

impl Report {
    /// The message's bytes. Texts beyond the message's size are cut.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Refused(text) => {
                out.push(b'R');
                out.extend_from_slice(truncate_utf8(text, MAX_MESSAGE_BYTES / 2).as_bytes());
            }
            Self::Booting { python } => {
                out.push(b'b');
                put_text(truncate_utf8(python, 1024), &mut out);
            }
            Self::Ready { interface } => out.extend_from_slice(&[b'r', *interface as u8]),
            Self::Failed { kind, summary, traceback, headline } => {
                out.extend_from_slice(&[b'f', *kind as u8]);
                put_text(truncate_utf8(summary, 4096), &mut out);
                put_text(truncate_utf8(traceback, MAX_MESSAGE_BYTES / 2), &mut out);
                put_text(truncate_utf8(headline, 4096), &mut out);
            }
            Self::File(exchange) => put_id(b'i', *exchange, &mut out),
            Self::StacksDumped(written) => out.extend_from_slice(&[b'k', u8::from(*written)]),
            Self::Warning(text) => {
                out.push(b'w');
                put_text(truncate_utf8(text, MAX_MESSAGE_BYTES / 2), &mut out);
            }
            Self::Forked { life, pid } => {
                out.push(b'z');
                out.extend_from_slice(&life.to_le_bytes());
                out.extend_from_slice(&pid.to_le_bytes());
            }
            Self::ForkFailed { life, reason } => {
                out.push(b'e');
                out.extend_from_slice(&life.to_le_bytes());
                put_text(truncate_utf8(reason, 4096), &mut out);
            }
            Self::Promoted => out.push(b'p'),
            Self::StopRequested(signal) => out.extend_from_slice(&[b't', *signal]),
        }
        out
    }

    /// Reads a message.
    ///
    /// # Errors
    /// When it is none of these.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader(bytes);
        match reader.u8()? {
            b'R' => Ok(Self::Refused(String::from_utf8_lossy(reader.0).into_owned())),
            b'b' => Ok(Self::Booting { python: reader.text()?.to_owned() }),
            b'r' => match Interface::from_byte(reader.u8()?)? {
                Interface::Auto => Err(ProtocolError::Control("ready without an interface")),
                interface => Ok(Self::Ready { interface }),
            },
            b'f' => {
                let kind = match reader.u8()? {
                    0 => FailureKind::Config,
                    1 => FailureKind::App,
                    _ => return Err(ProtocolError::Control("unknown kind of failure")),
                };
                let (summary, traceback) = (reader.text()?.to_owned(), reader.text()?.to_owned());
                let headline = reader.text()?.to_owned();
                Ok(Self::Failed { kind, summary, traceback, headline })
            }
            b'i' => Ok(Self::File(ExchangeId(reader.u64()?))),
            b'k' => Ok(Self::StacksDumped(reader.u8()? != 0)),
            b'w' => Ok(Self::Warning(reader.text()?.to_owned())),
            b'z' => Ok(Self::Forked { life: reader.u64()?, pid: reader.u32()? }),
            b'e' => Ok(Self::ForkFailed { life: reader.u64()?, reason: reader.text()?.to_owned() }),
            b'p' => Ok(Self::Promoted),
            b't' => Ok(Self::StopRequested(reader.u8()?)),
            _ => Err(ProtocolError::Control("unknown report")),
        }
    }
}

fn put_id(kind: u8, exchange: ExchangeId, out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(&exchange.0.to_le_bytes());
}

fn path(reader: &mut Reader<'_>) -> Result<OsString, ProtocolError> {
    reader.sized_bytes().map(|bytes| OsStr::from_bytes(bytes).to_owned())
}

fn put_count(count: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(count).expect("lists of a configuration").to_le_bytes());
}

/// The longest prefix of at most `len` bytes that is still UTF-8.
fn truncate_utf8(text: &str, len: usize) -> &str {
    &text[..text.floor_char_boundary(len)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Start {
        Start {
            protocol: crate::PROTOCOL_VERSION,
            geometry: Geometry::standard(3),
            generation: 1,
            worker: 2,
            life: 7,
            role: Role::Zygote,
            hooks: Hooks { worker_exit: "gunicorn_conf:worker_exit".into(), ..Hooks::default() },
            warm_up: "/healthz".into(),
            multiprocess: true,
            interface: Interface::Wsgi,
            threads: 3,
            concurrency: 1000,
            lifespan: Lifespan::On,
            event_loop: EventLoop::Uvloop,
            module: "mysite.wsgi".into(),
            attribute: "application".into(),
            factory: false,
            directory: "/srv/mysite".into(),
            pythonpath: vec!["/srv/lib".into()],
            root_path: String::new(),
            listeners: vec![ListenerInfo {
                name: "127.0.0.1".into(),
                port: "8000".into(),
                path: String::new(),
            }],
        }
    }

    #[test]
    fn commands_and_reports_come_back_as_they_were_written() {
        for command in [
            Command::Start(Box::new(start())),
            Command::Body(ExchangeId(5)),
            Command::Cancel(ExchangeId(6)),
            Command::Stop,
            Command::DumpStacks(None),
            Command::DumpStacks(Some(ExchangeId(8))),
            Command::Fork(Fork { worker: 3, life: 9 }),
            Command::Promote,
            Command::ChildExited { pid: 4711, worker: 3, life: 9 },
        ] {
            assert_eq!(Command::decode(&command.encode()).unwrap(), command);
        }
        for report in [
            Report::Refused("too old".into()),
            Report::Booting { python: "CPython 3.9.2".into() },
            Report::Ready { interface: Interface::Wsgi },
            Report::Failed {
                kind: FailureKind::App,
                summary: "s".into(),
                traceback: "t\nt".into(),
                headline: "h".into(),
            },
            Report::File(ExchangeId(7)),
            Report::StacksDumped(true),
            Report::Warning("a socket is open".into()),
            Report::Forked { life: 9, pid: 4711 },
            Report::ForkFailed { life: 9, reason: "no memory".into() },
            Report::Promoted,
            Report::StopRequested(15),
        ] {
            assert_eq!(Report::decode(&report.encode()).unwrap(), report);
        }
    }

    #[test]
    fn another_protocol_version_is_refused() {
        let message = Command::Start(Box::new(Start { protocol: 99, ..start() })).encode();
        assert!(matches!(Command::decode(&message), Err(ProtocolError::Control(_))));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let message = Command::Start(Box::new(start())).encode();
        for len in 0..message.len() {
            assert!(Command::decode(&message[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn last_words_arrive_though_the_sender_left_with_messages_unread() {
        let (ours, theirs) = pair().unwrap();
        send(&ours, &Command::Stop.encode(), &[]).unwrap();
        send(&theirs, &Report::Refused("too old".into()).encode(), &[]).unwrap();
        drop(theirs);
        let mut buffer = vec![0; MAX_MESSAGE_BYTES];
        let received = receive(&ours, &mut buffer).unwrap();
        assert_eq!(Report::decode(&buffer[..received.len]).unwrap(), Report::Refused("too old".into()));
        assert_eq!(receive(&ours, &mut buffer).unwrap().len, 0);
    }

    #[test]
    fn descriptors_travel_with_their_message() {
        let (ours, theirs) = pair().unwrap();
        let (read, write) = rustix::pipe::pipe().unwrap();
        send(&ours, &Command::Body(ExchangeId(1)).encode(), &[write.as_fd()]).unwrap();
        let mut buffer = vec![0; MAX_MESSAGE_BYTES];
        let received = receive(&theirs, &mut buffer).unwrap();
        assert_eq!(Command::decode(&buffer[..received.len]).unwrap(), Command::Body(ExchangeId(1)));
        rustix::io::write(&received.fds[0], b"x").unwrap();
        let mut byte = [0];
        rustix::io::read(&read, &mut byte).unwrap();
        assert_eq!(&byte, b"x");
        drop(ours);
        assert_eq!(receive(&theirs, &mut buffer).unwrap().len, 0);
    }
}
