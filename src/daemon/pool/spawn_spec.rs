//! [`SpawnSpec`]: the parameters of a new worker or zygote, and the Start message made from them.

use std::num::{NonZeroU16, NonZeroU64};
use std::time::Duration;

use rgun_channel::control::{
    EventLoop, Hooks, Interface, Lifespan, ListenerInfo, MAX_MESSAGE_BYTES, Preload, Role, Start,
};
use rgun_channel::layout::Geometry;
use rgun_channel::log_record::LogToken;

use crate::config;
use crate::id::{Generation, WorkerId};
use crate::link::Slots;

use super::identity::UserIdentity;

/// The parameters of a new worker or zygote.
#[derive(Debug, Clone, Copy)]
pub struct SpawnSpec<'a> {
    /// Number and incarnation of the worker.
    pub worker: WorkerId,
    /// The generation of code and configuration.
    pub generation: Generation,
    /// The application that the worker loads.
    pub app: &'a config::App,
    /// The user that the process runs as; `None`: the daemon's. A worker that a zygote forks has the
    /// zygote's user.
    pub identity: Option<&'a UserIdentity>,
    /// The hook functions that the worker calls.
    pub hooks: &'a Hooks,
    /// Number of slots of a WSGI worker.
    pub threads: u32,
    /// Number of slots for requests of an ASGI worker.
    pub concurrency: u32,
    /// Number of further slots of an ASGI worker, for accepted WebSockets.
    pub max_websockets: u32,
    /// More than one worker may run (`wsgi.multiprocess`).
    pub multiprocess: bool,
    /// The worker reports the files that it loads (`reload.on_change`).
    pub report_sources: bool,
    /// The worker sends records of logging with their fields (`log.records`).
    pub log_records: bool,
    /// The listeners' addresses, for the environ or scope of requests.
    pub listeners: &'a [ListenerInfo],
    /// Worker or zygote.
    pub role: Role,
    /// Imports of a zygote before it forks workers.
    pub preload: &'a Preload,
    /// Soft limit of memory in bytes, reported by [`Pool::take_workers_over_limit`](super::Pool::take_workers_over_limit);
    /// `None` is no limit.
    pub max_memory: Option<u64>,
    /// Maximum number of processes and threads.
    pub max_tasks: config::MaxTasks,
    /// `cpu.weight`; `None` for the kernel's default.
    pub cpu_weight: Option<NonZeroU16>,
    /// Number of requests, jitter included, after which the worker is due for recycling; `None` is
    /// no limit.
    pub max_requests: Option<NonZeroU64>,
    /// Time that the worker's children may run after the worker has exited with status 0
    /// (`workers.children_timeout`).
    pub children_timeout: Duration,
}

// The configuration refuses settings that would make the Start message too long to send.
const _: () = assert!(config::MAX_START_BYTES <= MAX_MESSAGE_BYTES);

impl SpawnSpec<'_> {
    /// Returns the numbers of slots for each interface, because a worker reports its interface only
    /// when it is ready.
    pub(super) fn slots(&self) -> Slots {
        let concurrency = self.concurrency.min(Geometry::MAX_SLOTS);
        let websockets = self.max_websockets.min(Geometry::MAX_SLOTS - concurrency);
        Slots { threads: self.threads, concurrency, websockets }
    }

    /// Builds the Start message.
    pub(super) fn start(&self, geometry: Geometry, log_token: Option<LogToken>) -> Start {
        let config::App { target, directory, interface, asgi, root_path, pythonpath, log_config, .. } =
            self.app;
        Start {
            protocol: rgun_channel::PROTOCOL_VERSION,
            geometry,
            generation: u32::try_from(self.generation.0).unwrap_or(u32::MAX),
            worker: self.worker.number.0,
            incarnation: self.worker.incarnation.0,
            role: self.role,
            hooks: self.hooks.clone(),
            preload: self.preload.clone(),
            log_config: log_config.as_ref().map(|path| path.clone().into_os_string()).unwrap_or_default(),
            multiprocess: self.multiprocess,
            report_sources: self.report_sources,
            log_token,
            interface: match interface {
                config::Interface::Auto => Interface::Auto,
                config::Interface::Wsgi => Interface::Wsgi,
                config::Interface::Asgi => Interface::Asgi,
            },
            threads: self.threads,
            // The worker does not distinguish slots for requests from slots for WebSockets.
            concurrency: self.slots().concurrency + self.slots().websockets,
            lifespan: match asgi.lifespan {
                config::Lifespan::Auto => Lifespan::Auto,
                config::Lifespan::On => Lifespan::On,
                config::Lifespan::Off => Lifespan::Off,
            },
            event_loop: match asgi.event_loop {
                config::Loop::Auto => EventLoop::Auto,
                config::Loop::Asyncio => EventLoop::Asyncio,
                config::Loop::Uvloop => EventLoop::Uvloop,
            },
            pathsend: asgi.pathsend,
            module: target.module.clone(),
            attribute: target.attribute.clone(),
            factory: target.factory,
            directory: directory.clone().into(),
            pythonpath: pythonpath.iter().map(|path| path.clone().into()).collect(),
            root_path: root_path.clone(),
            listeners: self.listeners.to_vec(),
        }
    }
}
