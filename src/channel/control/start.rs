//! [`Start`]: everything a process needs to boot.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::OsStrExt;

use crate::ProtocolError;
use crate::frame::{Reader, put_bytes, put_text};
use crate::layout::Geometry;
use crate::log_record::LogToken;

/// The task of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// Serves requests.
    Worker = 0,
    /// Imports the application and forks workers.
    Zygote = 1,
    /// Boots as a worker for `rgun check`: the hooks are looked up, and none is called.
    Check = 2,
}

impl Role {
    fn from_byte(byte: u8) -> Result<Self, ProtocolError> {
        match byte {
            0 => Ok(Self::Worker),
            1 => Ok(Self::Zygote),
            2 => Ok(Self::Check),
            _ => Err(ProtocolError::Control("unknown role")),
        }
    }
}

/// Gunicorn's server hooks, each as `module:function` or `/path/of/file:function`, or empty for
/// none. They get gunicorn's arguments and run in workers, since the daemon has no Python.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hooks {
    /// `(server, worker)`, before the application is imported; with preload, in the forked process.
    pub post_fork: String,
    /// `(worker)`, after the application is imported, before the first request.
    pub post_worker_init: String,
    /// `(server, worker)`, in a worker before it exits.
    pub worker_exit: String,
    /// `(worker)`, in a worker before it is killed ([`Command::Abort`](super::Command::Abort)).
    pub worker_abort: String,
    /// `(server, worker)`, in another process of the application, after a worker has exited
    /// ([`Command::ChildExited`](super::Command::ChildExited)).
    pub child_exit: String,
}

/// Use of the ASGI lifespan protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Lifespan {
    /// The protocol is run; an application that raises at startup is served without it.
    #[default]
    Auto = 0,
    /// The protocol is run; an exception at startup fails the boot.
    On = 1,
    /// The protocol is not run.
    Off = 2,
}

impl Lifespan {
    fn from_byte(byte: u8) -> Result<Self, ProtocolError> {
        match byte {
            0 => Ok(Self::Auto),
            1 => Ok(Self::On),
            2 => Ok(Self::Off),
            _ => Err(ProtocolError::Control("unknown lifespan")),
        }
    }
}

/// The event loop of an ASGI worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum EventLoop {
    /// uvloop if it is installed, else asyncio.
    #[default]
    Auto = 0,
    /// The standard library's loop.
    Asyncio = 1,
    /// uvloop; the boot fails if it is not installed.
    Uvloop = 2,
}

impl EventLoop {
    fn from_byte(byte: u8) -> Result<Self, ProtocolError> {
        match byte {
            0 => Ok(Self::Auto),
            1 => Ok(Self::Asyncio),
            2 => Ok(Self::Uvloop),
            _ => Err(ProtocolError::Control("unknown event loop")),
        }
    }
}

/// The calling interface of the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Interface {
    /// Detected by the worker.
    Auto = 0,
    /// PEP 3333.
    Wsgi = 1,
    /// ASGI 3.
    Asgi = 2,
}

impl fmt::Display for Interface {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Auto => "WSGI or ASGI",
            Self::Wsgi => "WSGI",
            Self::Asgi => "ASGI",
        })
    }
}

impl Interface {
    pub(super) fn from_byte(byte: u8) -> Result<Self, ProtocolError> {
        match byte {
            0 => Ok(Self::Auto),
            1 => Ok(Self::Wsgi),
            2 => Ok(Self::Asgi),
            _ => Err(ProtocolError::Control("unknown interface")),
        }
    }
}

/// The part of the environ or scope that depends on the listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerInfo {
    /// `SERVER_NAME`: the bound address, or the host name for a wildcard or unix socket.
    pub name: String,
    /// `SERVER_PORT` as text. For a unix socket the default port of http, so that applications
    /// build correct URLs (PEP 3333 requires both variables, and neither may be empty).
    pub port: String,
    /// Path of a unix socket, else empty.
    pub path: String,
}

/// The imports of a zygote before it forks workers. Ignored by workers; a worker that checks the
/// configuration imports the modules too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preload {
    /// The application.
    Application {
        /// Path of the warm-up request that the zygote runs before its first fork, so that objects
        /// which the application creates at its first request are shared. Empty for none.
        warm_up: String,
    },
    /// These modules; each worker imports the application.
    Modules(Vec<String>),
}

impl Preload {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Application { warm_up } => {
                out.push(0);
                put_text(warm_up, out);
            }
            Self::Modules(modules) => {
                out.push(1);
                put_count(modules.len(), out);
                for module in modules {
                    put_text(module, out);
                }
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
        match reader.u8()? {
            0 => Ok(Self::Application { warm_up: string(reader)? }),
            1 => Ok(Self::Modules(list(reader, string)?)),
            _ => Err(ProtocolError::Control("unknown preload")),
        }
    }
}

/// The first message to a process: everything it needs to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// [`crate::PROTOCOL_VERSION`] of the daemon.
    pub protocol: u32,
    /// Layout of the shared map sent with this message.
    pub geometry: Geometry,
    /// The worker's generation: the number of the load of code and configuration that it runs.
    pub generation: u32,
    /// Seat number, stable over restarts of the process.
    pub worker: u16,
    /// The number of this process among all worker processes that the daemon has started.
    pub incarnation: u64,
    /// Task of the process.
    pub role: Role,
    /// Server hooks of the application.
    pub hooks: Hooks,
    /// Imports of a zygote before it forks workers.
    pub preload: Preload,
    /// Configuration file of Python's logging; empty for none. Not necessarily UTF-8.
    pub log_config: OsString,
    /// More than one worker process may run: `wsgi.multiprocess`.
    pub multiprocess: bool,
    /// The process reports the files that it loads ([`Report::Sources`](super::Report::Sources)).
    pub report_sources: bool,
    /// The process writes records of Python's logging, and the requests of printed lines, to its output
    /// in the form of [`crate::log_record`], with this token; `None`: it does not.
    pub log_token: Option<LogToken>,
    /// Calling interface.
    pub interface: Interface,
    /// Slots of a WSGI worker. The geometry has at least the larger of this and `concurrency`.
    pub threads: u32,
    /// Slots of an ASGI worker.
    pub concurrency: u32,
    /// Lifespan protocol; ASGI only.
    pub lifespan: Lifespan,
    /// Event loop; ASGI only.
    pub event_loop: EventLoop,
    /// The application is offered the extension `http.response.pathsend`; ASGI only.
    pub pathsend: bool,
    /// Module to import.
    pub module: String,
    /// Dotted attribute of the module.
    pub attribute: String,
    /// The attribute is a factory: call it without arguments to get the application.
    pub factory: bool,
    /// Directory to put on `sys.path`; not necessarily UTF-8.
    pub directory: OsString,
    /// Directories to put on `sys.path` before `directory`.
    pub pythonpath: Vec<OsString>,
    /// `SCRIPT_NAME` / `root_path`.
    pub root_path: String,
    /// The listeners; [`Request::listener`](crate::frame::Request::listener) is an index.
    pub listeners: Vec<ListenerInfo>,
}

impl Start {
    /// Appends the message's bytes after its kind.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.protocol.to_le_bytes());
        let Geometry { submission, completion, chunks, slots } = self.geometry;
        for number in [submission, completion, chunks, slots, self.generation] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.worker.to_le_bytes());
        out.extend_from_slice(&self.incarnation.to_le_bytes());
        out.extend_from_slice(&[
            self.role as u8,
            u8::from(self.multiprocess),
            u8::from(self.report_sources),
            self.interface as u8,
            u8::from(self.factory),
            self.lifespan as u8,
            self.event_loop as u8,
            u8::from(self.pathsend),
        ]);
        out.extend_from_slice(&self.threads.to_le_bytes());
        out.extend_from_slice(&self.concurrency.to_le_bytes());
        out.extend_from_slice(&LogToken::to_wire(self.log_token).to_le_bytes());
        for text in [&self.module, &self.attribute] {
            put_text(text, out);
        }
        put_bytes(self.directory.as_bytes(), out);
        let Hooks { post_fork, post_worker_init, worker_exit, worker_abort, child_exit } = &self.hooks;
        for text in [&self.root_path, post_fork, post_worker_init, worker_exit, worker_abort, child_exit] {
            put_text(text, out);
        }
        self.preload.encode(out);
        put_bytes(self.log_config.as_bytes(), out);
        put_count(self.pythonpath.len(), out);
        for path in &self.pythonpath {
            put_bytes(path.as_bytes(), out);
        }
        put_count(self.listeners.len(), out);
        for listener in &self.listeners {
            for text in [&listener.name, &listener.port, &listener.path] {
                put_text(text, out);
            }
        }
    }

    /// Reads the bytes after the message's kind.
    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<Self, ProtocolError> {
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
        // Fields are read in the order of this expression, which is the order on the wire.
        Ok(Self {
            protocol,
            geometry,
            generation: reader.u32()?,
            worker: reader.u16()?,
            incarnation: reader.u64()?,
            role: Role::from_byte(reader.u8()?)?,
            multiprocess: reader.u8()? != 0,
            report_sources: reader.u8()? != 0,
            interface: Interface::from_byte(reader.u8()?)?,
            factory: reader.u8()? != 0,
            lifespan: Lifespan::from_byte(reader.u8()?)?,
            event_loop: EventLoop::from_byte(reader.u8()?)?,
            pathsend: reader.u8()? != 0,
            threads: reader.u32()?,
            concurrency: reader.u32()?,
            log_token: LogToken::from_wire(reader.u64()?),
            module: string(reader)?,
            attribute: string(reader)?,
            directory: path(reader)?,
            root_path: string(reader)?,
            hooks: Hooks {
                post_fork: string(reader)?,
                post_worker_init: string(reader)?,
                worker_exit: string(reader)?,
                worker_abort: string(reader)?,
                child_exit: string(reader)?,
            },
            preload: Preload::decode(reader)?,
            log_config: path(reader)?,
            pythonpath: list(reader, path)?,
            listeners: list(reader, |reader| {
                Ok(ListenerInfo { name: string(reader)?, port: string(reader)?, path: string(reader)? })
            })?,
        })
    }
}

fn put_count(count: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&u32::try_from(count).expect("a list has fewer than 2^32 items").to_le_bytes());
}

fn string(reader: &mut Reader<'_>) -> Result<String, ProtocolError> {
    reader.text().map(str::to_owned)
}

fn path(reader: &mut Reader<'_>) -> Result<OsString, ProtocolError> {
    reader.sized_bytes().map(|bytes| OsStr::from_bytes(bytes).to_owned())
}

/// Reads a count, then that number of items.
fn list<'a, T>(
    reader: &mut Reader<'a>,
    item: impl Fn(&mut Reader<'a>) -> Result<T, ProtocolError>,
) -> Result<Vec<T>, ProtocolError> {
    let count = reader.u32()?;
    (0..count).map(|_| item(reader)).collect()
}
