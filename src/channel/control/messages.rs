//! The control messages, and their encoding. The contents of [`Start`] are in `start.rs`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use super::{Interface, MAX_MESSAGE_BYTES, Start};
use crate::ProtocolError;
use crate::frame::{ExchangeId, Reader, put_bytes, put_text};

/// A message from the daemon to a worker or zygote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Boots the process. Always the first message.
    Start(Box<Start>),
    /// Carries the descriptor of an exchange's body, or the socket of a takeover; the exchange's
    /// frame follows on the ring.
    Body(ExchangeId),
    /// Cancels an exchange of a WSGI worker. If the worker has not started the exchange, the
    /// descriptor of its body is closed. If the exchange is running, its client has disconnected:
    /// the worker stops reading the application's iterable, closes it and sends DONE.
    Cancel(ExchangeId),
    /// Stops the worker: it claims no more requests, finishes the running ones and exits with
    /// status 0.
    Stop,
    /// Requests the stacks of all threads, or of one exchange's thread or task. The worker writes
    /// them with the GIL held and answers with [`Report::StacksDumped`].
    DumpStacks(Option<ExchangeId>),
    /// Calls `hooks.worker_abort`, because the daemon is about to kill the worker. The worker
    /// answers with [`Report::AbortHookEnded`].
    Abort,
    /// Makes a zygote fork a worker.
    Fork(Fork),
    /// Turns a drained worker into a zygote.
    Promote,
    /// Requests [`Report::Sources`] with the files that were loaded since the last such report.
    ReportSources,
    /// Asks a worker to return memory to the system once it runs no request: it collects garbage
    /// and trims the heap. The worker does not answer.
    TrimMemory,
    /// Reports the exit of another worker, for `hooks.child_exit`.
    ChildExited {
        /// Process id of the exited worker.
        pid: u32,
        /// Number of the exited worker's seat.
        worker: u16,
        /// Incarnation of the exited worker.
        incarnation: u64,
    },
}

/// Identity of the worker to fork. Everything else is as in the zygote's [`Start`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fork {
    /// Number of the worker's seat.
    pub worker: u16,
    /// The worker's incarnation.
    pub incarnation: u64,
}

/// Cause of a boot failure; decides whether the daemon retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FailureKind {
    /// The configuration names something that does not exist or cannot be called.
    Config = 0,
    /// The application raised an exception while it was imported or created.
    App = 1,
}

/// A message from a worker or zygote to the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The interpreter cannot run a worker (too old, free-threaded, not CPython, extension not
    /// loadable).
    Refused(String),
    /// The extension is loaded; the import of the application begins.
    Booting {
        /// For instance `CPython 3.11.2`.
        python: String,
    },
    /// The application is imported, or what a zygote imports; a worker accepts requests.
    Ready {
        /// [`Interface::Auto`] only from a zygote whose workers import the application.
        interface: Interface,
    },
    /// The application could not be loaded; the worker exits.
    Failed {
        /// Cause of the failure.
        kind: FailureKind,
        /// One line with the cause and the remedy. Includes the text of the application's
        /// exception, which may contain secrets.
        summary: String,
        /// The traceback; empty if there is none.
        traceback: String,
        /// One line without text from the application: at most the exception's type, a file and a
        /// line number.
        headline: String,
    },
    /// Carries the descriptor of an exchange's response file; the frame follows on the ring.
    File(ExchangeId),
    /// The stacks are written (true), or the requested exchange is no longer running (false).
    StacksDumped(bool),
    /// The hook of [`Command::Abort`] has returned or raised, or there is none.
    AbortHookEnded,
    /// A warning for the operator, one or more lines.
    Warning(String),
    /// The worker is forked. It is a child of the daemon, because the daemon is a subreaper.
    Forked {
        /// The forked worker's incarnation.
        incarnation: u64,
        /// The forked worker's process id. The daemon checks that this process is one of its
        /// children.
        pid: u32,
    },
    /// The worker could not be forked.
    ForkFailed {
        /// The incarnation of the worker to fork.
        incarnation: u64,
        /// Error text.
        reason: String,
    },
    /// The worker has become a zygote.
    Promoted,
    /// Files that the process has loaded and not reported yet: absolute paths of Python modules
    /// outside of the standard library and site-packages, and directories of templates, which end
    /// with a slash. Sent if [`Start::report_sources`] is set, and as the answer to
    /// [`Command::ReportSources`]. A long list takes several messages.
    Sources(Vec<OsString>),
    /// The process received this signal (SIGTERM or SIGINT) and asks to be stopped; it serves until
    /// [`Command::Stop`]. A signal handler writes this report: `t`, then the signal's number.
    StopRequested(u8),
}

impl Command {
    /// Encodes the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Start(start) => {
                out.push(b'S');
                start.encode(&mut out);
            }
            Self::Body(exchange) => put_id(b'B', *exchange, &mut out),
            Self::Cancel(exchange) => put_id(b'F', *exchange, &mut out),
            Self::Stop => out.push(b'X'),
            Self::DumpStacks(exchange) => put_id(b'K', exchange.unwrap_or(ExchangeId(0)), &mut out),
            Self::Fork(Fork { worker, incarnation }) => {
                out.push(b'Z');
                out.extend_from_slice(&worker.to_le_bytes());
                out.extend_from_slice(&incarnation.to_le_bytes());
            }
            Self::Abort => out.push(b'A'),
            Self::Promote => out.push(b'P'),
            Self::ReportSources => out.push(b'Q'),
            Self::TrimMemory => out.push(b'T'),
            Self::ChildExited { pid, worker, incarnation } => {
                out.push(b'C');
                out.extend_from_slice(&pid.to_le_bytes());
                out.extend_from_slice(&worker.to_le_bytes());
                out.extend_from_slice(&incarnation.to_le_bytes());
            }
        }
        out
    }

    /// Decodes a message.
    ///
    /// # Errors
    /// The bytes are not a command, or they are a [`Start`] whose version is not
    /// [`crate::PROTOCOL_VERSION`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader(bytes);
        match reader.u8()? {
            b'S' => Ok(Self::Start(Box::new(Start::decode(&mut reader)?))),
            b'B' => Ok(Self::Body(ExchangeId(reader.u64()?))),
            b'F' => Ok(Self::Cancel(ExchangeId(reader.u64()?))),
            b'X' => Ok(Self::Stop),
            b'K' => {
                let exchange = ExchangeId(reader.u64()?);
                Ok(Self::DumpStacks((exchange.0 != 0).then_some(exchange)))
            }
            b'Z' => Ok(Self::Fork(Fork { worker: reader.u16()?, incarnation: reader.u64()? })),
            b'A' => Ok(Self::Abort),
            b'P' => Ok(Self::Promote),
            b'Q' => Ok(Self::ReportSources),
            b'T' => Ok(Self::TrimMemory),
            b'C' => Ok(Self::ChildExited {
                pid: reader.u32()?,
                worker: reader.u16()?,
                incarnation: reader.u64()?,
            }),
            _ => Err(ProtocolError::Control("unknown command")),
        }
    }
}

impl Report {
    /// The encoding of `StacksDumped(true)`, for a signal handler, which must not allocate.
    pub const STACKS_DUMPED: [u8; 2] = [b'k', 1];

    /// Encodes the message; long texts are truncated.
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
            Self::Forked { incarnation, pid } => {
                out.push(b'z');
                out.extend_from_slice(&incarnation.to_le_bytes());
                out.extend_from_slice(&pid.to_le_bytes());
            }
            Self::ForkFailed { incarnation, reason } => {
                out.push(b'e');
                out.extend_from_slice(&incarnation.to_le_bytes());
                put_text(truncate_utf8(reason, 4096), &mut out);
            }
            Self::AbortHookEnded => out.push(b'a'),
            Self::Promoted => out.push(b'p'),
            Self::Sources(paths) => {
                out.push(b'm');
                for path in paths {
                    put_bytes(path.as_bytes(), &mut out);
                }
            }
            Self::StopRequested(signal) => out.extend_from_slice(&[b't', *signal]),
        }
        out
    }

    /// Decodes a message.
    ///
    /// # Errors
    /// The bytes are not a report.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader(bytes);
        match reader.u8()? {
            b'R' => Ok(Self::Refused(String::from_utf8_lossy(reader.0).into_owned())),
            b'b' => Ok(Self::Booting { python: reader.text()?.to_owned() }),
            b'r' => Ok(Self::Ready { interface: Interface::from_byte(reader.u8()?)? }),
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
            b'z' => Ok(Self::Forked { incarnation: reader.u64()?, pid: reader.u32()? }),
            b'e' => Ok(Self::ForkFailed { incarnation: reader.u64()?, reason: reader.text()?.to_owned() }),
            b'a' => Ok(Self::AbortHookEnded),
            b'p' => Ok(Self::Promoted),
            b'm' => {
                let mut paths = Vec::new();
                while !reader.0.is_empty() {
                    paths.push(OsStr::from_bytes(reader.sized_bytes()?).to_owned());
                }
                Ok(Self::Sources(paths))
            }
            b't' => Ok(Self::StopRequested(reader.u8()?)),
            _ => Err(ProtocolError::Control("unknown report")),
        }
    }
}

fn put_id(kind: u8, exchange: ExchangeId, out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(&exchange.0.to_le_bytes());
}

/// Returns the longest prefix of at most `len` bytes that ends at a character boundary.
fn truncate_utf8(text: &str, len: usize) -> &str {
    &text[..text.floor_char_boundary(len)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{EventLoop, Hooks, Lifespan, ListenerInfo, Preload, Role};
    use crate::layout::Geometry;
    use crate::log_record::LogToken;

    fn start() -> Start {
        Start {
            protocol: crate::PROTOCOL_VERSION,
            geometry: Geometry::standard(3),
            generation: 1,
            worker: 2,
            incarnation: 7,
            role: Role::Zygote,
            hooks: Hooks { worker_exit: "gunicorn_conf:worker_exit".into(), ..Hooks::default() },
            preload: Preload::Modules(vec!["django.db.models".into(), "asyncio".into()]),
            log_config: "/srv/logging.json".into(),
            multiprocess: true,
            report_sources: true,
            log_token: Some(LogToken::from_random([7; 8])),
            interface: Interface::Wsgi,
            threads: 3,
            concurrency: 1000,
            lifespan: Lifespan::On,
            event_loop: EventLoop::Uvloop,
            pathsend: true,
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
    fn messages_survive_encoding_and_decoding() {
        for command in [
            Command::Start(Box::new(start())),
            Command::Body(ExchangeId(5)),
            Command::Cancel(ExchangeId(6)),
            Command::Stop,
            Command::DumpStacks(None),
            Command::DumpStacks(Some(ExchangeId(8))),
            Command::Fork(Fork { worker: 3, incarnation: 9 }),
            Command::Abort,
            Command::Promote,
            Command::ReportSources,
            Command::TrimMemory,
            Command::ChildExited { pid: 4711, worker: 3, incarnation: 9 },
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
            Report::Forked { incarnation: 9, pid: 4711 },
            Report::ForkFailed { incarnation: 9, reason: "no memory".into() },
            Report::AbortHookEnded,
            Report::Promoted,
            Report::Sources(vec![]),
            Report::Sources(vec!["/srv/a.py".into(), OsStr::from_bytes(b"/srv/\xff/").into()]),
            Report::StopRequested(15),
        ] {
            assert_eq!(Report::decode(&report.encode()).unwrap(), report);
        }
    }

    #[test]
    fn stacks_dumped_has_its_encoding() {
        assert_eq!(Report::StacksDumped(true).encode(), Report::STACKS_DUMPED);
    }

    #[test]
    fn start_of_another_protocol_version_is_rejected() {
        let message = Command::Start(Box::new(Start { protocol: 99, ..start() })).encode();
        assert!(matches!(Command::decode(&message), Err(ProtocolError::Control(_))));
    }

    #[test]
    fn truncated_start_is_an_error() {
        let message = Command::Start(Box::new(start())).encode();
        for len in 0..message.len() {
            assert!(Command::decode(&message[..len]).is_err(), "{len}");
        }
    }
}
