//! What a worker is started with: what `run` asks of the pool, and the message that tells it the worker.

use std::num::NonZeroU64;
use std::time::Duration;

use rgun_channel::control::{EventLoop, Hooks, Interface, Lifespan, ListenerInfo, Role, Start};
use rgun_channel::layout::Geometry;

use crate::config;
use crate::dispatch::Slots;
use crate::id::{Generation, WorkerId};

/// What to start.
#[derive(Debug, Clone, Copy)]
pub struct SpawnSpec<'a> {
    /// Which life of which seat.
    pub worker: WorkerId,
    /// Which load of code and configuration.
    pub generation: Generation,
    /// The application.
    pub app: &'a config::App,
    /// Functions of it to call at points of its life.
    pub hooks: &'a Hooks,
    /// Slots of a WSGI worker.
    pub threads: u32,
    /// Slots of an ASGI worker.
    pub concurrency: u32,
    /// WebSockets that an ASGI worker may have accepted besides.
    pub max_websockets: u32,
    /// More than one worker may run.
    pub multiprocess: bool,
    /// What requests learn of the listeners.
    pub listeners: &'a [ListenerInfo],
    /// What it is for.
    pub role: Role,
    /// A zygote's: the path of the request that it answers itself before the first fork; empty for none.
    pub warm_up: &'a str,
    /// Bytes of memory at which a [`MemoryEvent::High`](super::MemoryEvent::High) is told, if the kernel can.
    pub max_memory: Option<u64>,
    /// After how many requests the dispatcher says that it has served enough; jitter included.
    pub max_requests: Option<NonZeroU64>,
    /// How long its children may outlive it when it cgroups in good order.
    pub children_timeout: Duration,
}

impl SpawnSpec<'_> {
    /// How many exchanges the worker can have at a time; which of the two numbers counts is known when it is ready.
    pub(super) fn slots(&self) -> Slots {
        let concurrency = self.concurrency.min(Geometry::MAX_SLOTS);
        let websockets = self.max_websockets.min(Geometry::MAX_SLOTS - concurrency);
        Slots { threads: self.threads, concurrency, websockets }
    }

    /// The worker's first message.
    pub(super) fn start(&self, geometry: Geometry) -> Start {
        let config::App { target, directory, interface, lifespan, event_loop, root_path, pythonpath, .. } =
            self.app;
        Start {
            protocol: rgun_channel::PROTOCOL_VERSION,
            geometry,
            generation: u32::try_from(self.generation.0).unwrap_or(u32::MAX),
            worker: self.worker.number.0,
            life: self.worker.life.0,
            role: self.role,
            hooks: self.hooks.clone(),
            warm_up: self.warm_up.to_owned(),
            multiprocess: self.multiprocess,
            interface: match interface {
                config::Interface::Auto => Interface::Auto,
                config::Interface::Wsgi => Interface::Wsgi,
                config::Interface::Asgi => Interface::Asgi,
            },
            threads: self.threads,
            // Which of them are WebSockets is not its concern.
            concurrency: self.slots().concurrency + self.slots().websockets,
            lifespan: match lifespan {
                config::Lifespan::Auto => Lifespan::Auto,
                config::Lifespan::On => Lifespan::On,
                config::Lifespan::Off => Lifespan::Off,
            },
            event_loop: match event_loop {
                config::Loop::Auto => EventLoop::Auto,
                config::Loop::Asyncio => EventLoop::Asyncio,
                config::Loop::Uvloop => EventLoop::Uvloop,
            },
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
