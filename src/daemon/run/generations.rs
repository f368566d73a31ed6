//! The configurations of the generations that are alive, and what the parts must know of them.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::num::{NonZeroU16, NonZeroU64};
use std::sync::Arc;

use rgun_channel::control;

use crate::config::{self, Config, Retry, Target, Workers};
use crate::id::Generation;
use crate::supervise::SupervisorPolicy;
use crate::{dispatch, http, net, websocket};

use super::buffer_limits::BufferLimits;
use super::system::AutoLimits;

/// Every generation that may still be spawned, with its configuration.
#[derive(Debug)]
pub(super) struct Generations {
    configs: BTreeMap<Generation, Arc<Config>>,
    live: Arc<Config>,
}

impl Generations {
    /// The first one.
    pub(super) fn new(config: Config) -> Self {
        let live = Arc::new(config);
        Self { configs: BTreeMap::from([(Generation(1), Arc::clone(&live))]), live }
    }

    /// One that is about to boot.
    pub(super) fn add(&mut self, generation: Generation, config: Config) {
        self.configs.insert(generation, Arc::new(config));
    }

    /// Its configuration.
    pub(super) fn get(&self, generation: Generation) -> Option<Arc<Config>> {
        self.configs.get(&generation).cloned()
    }

    /// Requests go by this one's configuration from now on.
    pub(super) fn go_live(&mut self, generation: Generation) -> Option<Arc<Config>> {
        let config = self.get(generation)?;
        self.live = Arc::clone(&config);
        Some(config)
    }

    /// The configuration that requests go by.
    pub(super) fn live(&self) -> &Config {
        &self.live
    }

    /// Nothing of it will be spawned any more.
    pub(super) fn forget(&mut self, generation: Generation) {
        self.configs.remove(&generation);
    }

    /// Does any of them want this?
    pub(super) fn any(&self, wants: impl Fn(&Config) -> bool) -> bool {
        self.configs.values().any(|config| wants(config))
    }
}

/// What the supervisor goes by. `cores` are the usable ones; under systemd a boot that fails is tried again for ever.
pub(super) fn policy(config: &Config, cores: usize, supervised: bool) -> SupervisorPolicy {
    let (min, count) = config.workers.count.bounds(cores);
    let cores = u16::try_from(cores).ok().and_then(NonZeroU16::new).unwrap_or(NonZeroU16::MIN);
    SupervisorPolicy {
        min,
        preload: config.workers.preload,
        probe: config.reload.probe.is_some(),
        watch: config.reload.watch,
        max_lifetime: config.workers.max_lifetime,
        idle_exit: config.workers.idle_exit,
        boots_at_once: cores,
        exit_on_first_boot_failure: !supervised,
        slots: config.workers.threads.into(),
        ..SupervisorPolicy::new(
            config.app.target.to_string(),
            count,
            config.timeouts.boot,
            config.timeouts.drain,
        )
    }
}

/// What the dispatcher goes by.
pub(super) fn dispatch_policy(config: &Config, auto: AutoLimits, room: &BufferLimits) -> dispatch::Policy {
    let rules = config.timeouts.paths.iter().map(|rule| dispatch::Rule {
        pattern: rule.pattern.clone(),
        request: rule.request,
        concurrency: rule.concurrency,
    });
    dispatch::Policy {
        queue: config.limits.queue.unwrap_or(auto.queue),
        queue_timeout: config.timeouts.queue,
        request_timeout: config.timeouts.request,
        slow: config.log.slow,
        stall: config.timeouts.stall,
        rules: rules.collect(),
        retry_idempotent: config.workers.retry == Retry::Idempotent,
        // The last ones, too, have time to answer.
        close_window: config.websocket.close_window.min(config.timeouts.drain / 2),
        response_memory: room.response_memory,
        response_disk: room.response_disk,
        spool: room.directory.clone(),
    }
}

/// What HTTP goes by.
pub(super) fn http_settings(config: &Config, room: &BufferLimits) -> http::Settings {
    http::Settings {
        limits: http::RequestLimits {
            body: config.limits.body,
            header: config.limits.header,
            headers: config.limits.headers,
            request_line: config.limits.request_line,
            body_timeout: config.timeouts.body,
            body_rate: config.limits.body_rate,
            spool_memory: room.spool_memory,
            spool_disk: room.spool_disk,
            keepalive: !config.timeouts.keepalive.is_zero(),
        },
        underscores: match config.http.underscores {
            config::Underscores::Drop => http::UnderscorePolicy::Drop,
            config::Underscores::Refuse => http::UnderscorePolicy::Refuse,
            config::Underscores::Allow => http::UnderscorePolicy::Allow,
        },
        trusted: http::TrustedPeers {
            all: config.proxy.all,
            unix: config.proxy.unix,
            networks: config.proxy.networks.clone(),
        },
        websocket: websocket::WebSocketSettings {
            max_message: config.websocket.max_message as u64,
            ping_interval: config.websocket.ping_interval,
            ping_timeout: config.websocket.ping_timeout,
            compression: config.websocket.compression,
        },
        log_access: config.log.access,
    }
}

/// What connections go by.
pub(super) fn net_limits(config: &Config, auto: AutoLimits) -> net::ConnectionLimits {
    net::ConnectionLimits {
        header: config.timeouts.header,
        keepalive: config.timeouts.keepalive,
        write: config.timeouts.body,
        response_rate: config.limits.response_rate,
        connections: config.limits.connections.unwrap_or(auto.connections),
        per_client: config.limits.connections_per_client,
    }
}

/// Slots of an ASGI worker; 1 for an application that is WSGI for certain, so that no room is made for them.
pub(super) fn concurrency(config: &Config) -> u32 {
    match config.app.interface {
        config::Interface::Wsgi => 1,
        config::Interface::Auto | config::Interface::Asgi => config.workers.concurrency.get(),
    }
}

/// WebSockets that an ASGI worker may have accepted beside its slots.
pub(super) fn websockets(config: &Config) -> u32 {
    match config.app.interface {
        config::Interface::Wsgi => 0,
        config::Interface::Auto | config::Interface::Asgi => config.websocket.max_connections,
    }
}

/// The functions that workers call.
pub(super) fn hooks(config: &Config) -> control::Hooks {
    let text = |hook: &Option<Target>| hook.as_ref().map(ToString::to_string).unwrap_or_default();
    let config::Hooks { post_fork, post_worker_init, worker_exit, child_exit } = &config.hooks;
    control::Hooks {
        post_fork: text(post_fork),
        post_worker_init: text(post_worker_init),
        worker_exit: text(worker_exit),
        child_exit: text(child_exit),
    }
}

/// How many requests one worker serves until it is told of: `workers.refork` while no worker has become the zygote
/// yet, and [`max_requests_with_jitter`].
pub(super) fn max_requests(workers: &Workers, reforked: bool) -> Option<NonZeroU64> {
    let refork = workers.refork.filter(|_| workers.preload && !reforked);
    [refork, max_requests_with_jitter(workers)].into_iter().flatten().min()
}

/// `workers.max_requests` and a random part of the jitter, so that workers that began together do not end together.
fn max_requests_with_jitter(workers: &Workers) -> Option<NonZeroU64> {
    let least = workers.max_requests?;
    let jitter = match workers.max_requests_jitter {
        0 => 0,
        // Seeded from the system's randomness each time.
        most => RandomState::new().build_hasher().finish() % most.saturating_add(1),
    };
    Some(least.saturating_add(jitter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jitter_lies_within_its_bounds() {
        let mut workers = Workers::default();
        assert_eq!(max_requests_with_jitter(&workers), None);
        workers.max_requests = NonZeroU64::new(100);
        assert_eq!(max_requests_with_jitter(&workers), NonZeroU64::new(100));
        workers.max_requests_jitter = 10;
        for _ in 0..200 {
            let served = max_requests_with_jitter(&workers).expect("a limit").get();
            assert!((100..=110).contains(&served), "{served}");
        }
        workers.max_requests_jitter = u64::MAX;
        assert!(max_requests_with_jitter(&workers) >= NonZeroU64::new(100));
    }
}
