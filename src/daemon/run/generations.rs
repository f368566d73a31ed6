//! The configurations of the generations, and their conversion into the settings of `supervise`,
//! `dispatch`, `http`, `net` and workers.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::num::{NonZeroU16, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use rgun_channel::control;

use crate::config::{self, Config, Preload, Retry, Target, Workers};
use crate::id::Generation;
use crate::journal::requests::AccessLine;
use crate::negotiation::Coding;
use crate::pool::UserIdentity;
use crate::supervise::{BackoffLimits, SupervisorPolicy};
use crate::tls::{LoadedTls, TlsContext};
use crate::{dispatch, http, net, websocket};

use super::buffer_limits::BufferLimits;
use super::file_settings::file_settings;
use super::system::{AutoLimits, Host};
use super::worker_users::WorkerUsers;

/// The configurations by generation. Each is kept as long as workers of its generation may be
/// spawned.
#[derive(Debug)]
pub(super) struct Generations {
    configs: BTreeMap<Generation, Arc<Config>>,
    /// The configuration that applies to new requests.
    live: Arc<Config>,
    /// The certificates of each generation. A generation without TLS has no entry.
    tls: BTreeMap<Generation, Arc<TlsContext>>,
    /// The certificates of new connections.
    live_tls: Option<Arc<TlsContext>>,
    /// The users of all generations.
    pub(super) worker_users: WorkerUsers,
    /// The users that the workers run as. A generation whose workers run as the daemon's user has no
    /// entry.
    identities: BTreeMap<Generation, Arc<UserIdentity>>,
    /// Generations whose zygote was a serving worker before (`workers.refork`).
    reforked: HashSet<Generation>,
}

impl Generations {
    /// Starts with generation 1, which is live.
    pub(super) fn new(
        config: Config,
        tls: Option<Arc<TlsContext>>,
        worker_users: WorkerUsers,
        identity: Option<Arc<UserIdentity>>,
    ) -> Self {
        let live = Arc::new(config);
        let configs = BTreeMap::from([(Generation(1), Arc::clone(&live))]);
        let contexts = tls.iter().map(|tls| (Generation(1), Arc::clone(tls))).collect();
        let identities = identity.into_iter().map(|identity| (Generation(1), identity)).collect();
        Self {
            configs,
            live,
            tls: contexts,
            live_tls: tls,
            worker_users,
            identities,
            reforked: HashSet::new(),
        }
    }

    /// Adds a generation that is about to boot.
    pub(super) fn add(
        &mut self,
        generation: Generation,
        config: Config,
        tls: Option<Arc<TlsContext>>,
        identity: Option<Arc<UserIdentity>>,
    ) {
        self.configs.insert(generation, Arc::new(config));
        self.tls.extend(tls.map(|tls| (generation, tls)));
        self.identities.extend(identity.map(|identity| (generation, identity)));
    }

    /// Returns the user that the workers of a generation run as; `None`: the daemon's.
    pub(super) fn identity(&self, generation: Generation) -> Option<Arc<UserIdentity>> {
        self.identities.get(&generation).cloned()
    }

    /// Returns the configuration of a generation.
    pub(super) fn get(&self, generation: Generation) -> Option<Arc<Config>> {
        self.configs.get(&generation).cloned()
    }

    /// Makes a generation's configuration the live one, and returns it.
    pub(super) fn go_live(&mut self, generation: Generation) -> Option<Arc<Config>> {
        let config = self.get(generation)?;
        self.live = Arc::clone(&config);
        self.live_tls = self.tls.get(&generation).cloned();
        Some(config)
    }

    /// Notes that workers of the generation serve ASGI: a default request timeout is removed.
    /// Returns the configuration if it has changed and is live.
    pub(super) fn note_asgi(&mut self, generation: Generation) -> Option<Arc<Config>> {
        let config = self.configs.get_mut(&generation)?;
        if !config.app_argument.untimed_asgi || config.timeouts.request.is_none() {
            return None;
        }
        let is_live = Arc::ptr_eq(config, &self.live);
        Arc::make_mut(config).timeouts.request = None;
        is_live.then(|| {
            self.live = Arc::clone(config);
            Arc::clone(config)
        })
    }

    /// Returns the certificates of new connections; `None` without TLS.
    pub(super) fn live_tls(&self) -> Option<&Arc<TlsContext>> {
        self.live_tls.as_ref()
    }

    /// Returns the live configuration.
    pub(super) fn live(&self) -> &Config {
        &self.live
    }

    /// Removes a generation whose workers are no longer spawned.
    pub(super) fn forget(&mut self, generation: Generation) {
        self.configs.remove(&generation);
        self.tls.remove(&generation);
        self.identities.remove(&generation);
        self.reforked.remove(&generation);
    }

    /// Whether a worker of the generation became its zygote. Workers are then spawned without the
    /// limit `workers.refork`.
    pub(super) fn has_reforked(&self, generation: Generation) -> bool {
        self.reforked.contains(&generation)
    }

    /// Notes that a worker of the generation became its zygote.
    pub(super) fn note_reforked(&mut self, generation: Generation) {
        self.reforked.insert(generation);
    }

    /// Notes that the generation's zygote is gone.
    pub(super) fn clear_reforked(&mut self, generation: Generation) {
        self.reforked.remove(&generation);
    }

    /// Whether the predicate holds for any generation's configuration.
    pub(super) fn any(&self, predicate: impl Fn(&Config) -> bool) -> bool {
        self.configs.values().any(|config| predicate(config))
    }
}

/// The supervisor's settings.
pub(super) fn policy(config: &Config, host: &Host) -> SupervisorPolicy {
    let (min, count) = config.workers.count.bounds(host.cores);
    let cores = u16::try_from(host.cores).ok().and_then(NonZeroU16::new).unwrap_or(NonZeroU16::MIN);
    SupervisorPolicy {
        min,
        preload: config.workers.preload != Preload::Off,
        probe: config.reload.probe.is_some(),
        watch: config.reload.watch,
        max_lifetime: config.workers.max_lifetime,
        idle_exit: config.workers.idle_exit,
        drain_delay: config.timeouts.drain_delay,
        boots_at_once: cores,
        // With `reload.on_change`, the next change may correct the failure.
        backoff: retry_backoff(config.reload.on_change.enabled),
        exit_on_first_boot_failure: !host.is_supervised && !config.reload.on_change.enabled,
        slots: config.workers.threads.into(),
        ..SupervisorPolicy::new(
            config.app.target.to_string(),
            count,
            config.timeouts.boot,
            drain_timeout(config),
        )
    }
}

/// Returns `timeouts.drain`; with `reload.on_change`, at most [`MAX_DEVELOPMENT_DRAIN`]. After each
/// change the old workers drain, and all generations together may have only three workers per seat.
pub(super) fn drain_timeout(config: &Config) -> Duration {
    let max = if config.reload.on_change.enabled { MAX_DEVELOPMENT_DRAIN } else { Duration::MAX };
    config.timeouts.drain.min(max)
}

/// Maximum time for running requests to finish after a reload or a stop, with `reload.on_change`.
const MAX_DEVELOPMENT_DRAIN: Duration = Duration::from_secs(5);

/// Returns the backoff after a failed boot. With `reload.on_change` the next change ends the
/// backoff, so few attempts before it are enough.
fn retry_backoff(reloads_on_change: bool) -> BackoffLimits {
    let initial = Duration::from_millis(if reloads_on_change { 2000 } else { 100 });
    BackoffLimits { initial, max: Duration::from_secs(30) }
}

/// The dispatcher's settings.
pub(super) fn dispatch_policy(config: &Config, auto: AutoLimits, buffers: &BufferLimits) -> dispatch::Policy {
    let rules = config.timeouts.paths.iter().map(|rule| dispatch::Rule {
        pattern: rule.pattern.clone(),
        request: rule.request,
        concurrency: rule.concurrency,
    });
    dispatch::Policy {
        queue: config.limits.queue.unwrap_or(auto.queue),
        queue_per_client: config.limits.queue_per_client,
        queue_timeout: config.timeouts.queue,
        request_timeout: config.timeouts.request,
        slow: config.log.slow,
        stall: config.timeouts.stall,
        rules: rules.collect(),
        retry_idempotent: config.workers.retry == Retry::Idempotent,
        // At most half of the drain timeout, so that the clients closed last still have time to
        // answer.
        close_window: config.websocket.close_window.min(drain_timeout(config) / 2),
        response_memory: buffers.response_memory,
        response_disk: buffers.response_disk,
        spool: buffers.directory.clone(),
    }
}

/// The settings of HTTP and WebSocket connections.
pub(super) fn http_settings(config: &Config, buffers: &BufferLimits) -> http::Settings {
    http::Settings {
        limits: http::RequestLimits {
            body: config.limits.body,
            header: config.limits.header,
            headers: config.limits.headers,
            request_line: config.limits.request_line,
            body_timeout: config.timeouts.body,
            body_rate: config.limits.body_rate,
            spool_memory: buffers.spool_memory,
            spool_disk: buffers.spool_disk,
            keepalive: !config.timeouts.keepalive.is_zero(),
        },
        underscores: match config.http.underscores {
            config::Underscores::Drop => http::UnderscorePolicy::Drop,
            config::Underscores::Refuse => http::UnderscorePolicy::Refuse,
            config::Underscores::Allow => http::UnderscorePolicy::Allow,
        },
        http2: config.http.http2.then_some(http::Http2Settings { max_streams: config.limits.streams }),
        forwarding: forwarding_settings(&config.proxy),
        websocket: websocket::WebSocketSettings {
            max_message: config.websocket.max_message as u64,
            ping_interval: config.websocket.ping_interval,
            ping_timeout: config.websocket.ping_timeout,
            compression: config.websocket.compression,
        },
        https: http::HttpsPolicy::new(config.http.redirect_to_https, config.http.hsts.as_deref()),
        health: http::HealthPaths::new(config.health.path.as_deref(), config.health.live_path.as_deref()),
        error_pages: error_pages(&config.errors),
        compression: compression(&config.compression),
        failure_page: None,
        boot_page: config.timeouts.boot_page,
        access_log: config.log.access.is_on().then(|| http::AccessSettings {
            query: config.log.query,
            line: config.log.access_format.as_deref().map(|format| Arc::new(AccessLine::new(format.clone()))),
        }),
        files: file_settings(config),
    }
}

/// The settings of compression.
fn compression(config: &config::Compression) -> Option<Box<http::CompressionPolicy>> {
    let coding = |algorithm: &config::Algorithm| match algorithm {
        config::Algorithm::Zstd => Coding::Zstd,
        config::Algorithm::Brotli => Coding::Brotli,
        config::Algorithm::Gzip => Coding::Gzip,
    };
    let codings = config.algorithms.iter().map(coding).collect();
    http::CompressionPolicy::new(codings, &config.types, config.min_size, config.level)
}

/// Returns the operator's error pages (`[errors]`).
fn error_pages(pages: &[config::ErrorPage]) -> Option<Arc<http::ErrorPages>> {
    if pages.is_empty() {
        return None;
    }
    let mut by_status = http::ErrorPages::default();
    for config::ErrorPage { status, html, .. } in pages {
        let html = bytes::Bytes::from(html.clone());
        match status {
            config::ErrorStatus::Status(status) => drop(by_status.statuses.insert(*status, html)),
            config::ErrorStatus::ClientErrors => by_status.client_errors = Some(html),
            config::ErrorStatus::ServerErrors => by_status.server_errors = Some(html),
        }
    }
    Some(Arc::new(by_status))
}

fn forwarding_settings(proxy: &config::Proxy) -> http::ForwardingSettings {
    http::ForwardingSettings {
        trusted: trusted_peers(&proxy.trusted),
        headers: match proxy.headers {
            config::ProxyHeaders::Off => http::ForwardingHeaders::Off,
            config::ProxyHeaders::XForwarded => http::ForwardingHeaders::XForwarded,
            config::ProxyHeaders::Forwarded => http::ForwardingHeaders::Forwarded,
        },
        fields: proxy
            .fields
            .iter()
            .map(|field| match field {
                config::ProxyField::For => http::ForwardedField::For,
                config::ProxyField::Proto => http::ForwardedField::Proto,
                config::ProxyField::Host => http::ForwardedField::Host,
                config::ProxyField::Port => http::ForwardedField::Port,
                config::ProxyField::Prefix => http::ForwardedField::Prefix,
            })
            .collect(),
    }
}

/// Returns the peers that may send a PROXY header to the listener with this name; `None` if its
/// connections have no header.
pub(super) fn proxy_senders(config: &Config, listener: &str) -> Option<net::TrustedPeers> {
    let is_required = config.listen.requires_proxy_header(listener);
    is_required.then(|| trusted_peers(&config.proxy.protocol_trusted))
}

fn trusted_peers(peers: &config::TrustedProxies) -> net::TrustedPeers {
    net::TrustedPeers { all: peers.all, unix: peers.unix, networks: peers.networks.clone() }
}

/// Reads the certificates, if any listener has TLS. `previous` are the certificates being replaced.
///
/// # Errors
/// Files are missing or unusable.
pub(crate) fn load_tls(
    config: &Config,
    previous: Option<&TlsContext>,
) -> Result<Option<LoadedTls>, config::ConfigErrors> {
    let alpn = if config.http.http2 { ALPN } else { HTTP1_ALPN };
    if config.listen.has_tls() { TlsContext::load(&config.tls, alpn, previous) } else { Ok(None) }
}

/// The application protocols (RFC 7301), the preferred one first. `curl --http1.0` offers nothing
/// but `http/1.0`.
const ALPN: &[&[u8]] = &[b"h2", b"http/1.1", b"http/1.0"];

/// The application protocols without HTTP/2.
const HTTP1_ALPN: &[&[u8]] = &[b"http/1.1", b"http/1.0"];

/// Returns the certificates for the listener with this name; `None` if it has no TLS.
pub(super) fn listener_tls(
    config: &Config,
    tls: Option<&Arc<TlsContext>>,
    listener: &str,
) -> Option<Arc<TlsContext>> {
    tls.filter(|_| config.listen.speaks_tls(listener)).cloned()
}

/// The connection limits of a configuration.
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

/// Number of slots of an ASGI worker; 1 with `app.interface = "wsgi"`, where more would waste
/// memory.
pub(super) fn concurrency(config: &Config) -> u32 {
    match config.app.interface {
        config::Interface::Wsgi => 1,
        config::Interface::Auto | config::Interface::Asgi => config.workers.concurrency.get(),
    }
}

/// Number of WebSockets that an ASGI worker may have open in addition to its slots.
pub(super) fn websockets(config: &Config) -> u32 {
    match config.app.interface {
        config::Interface::Wsgi => 0,
        config::Interface::Auto | config::Interface::Asgi => config.websocket.max_connections,
    }
}

/// The hook functions that workers call.
pub(crate) fn worker_hooks(config: &Config) -> control::Hooks {
    let text = |hook: &Option<Target>| hook.as_ref().map(ToString::to_string).unwrap_or_default();
    let config::Hooks { post_fork, post_worker_init, worker_exit, worker_abort, child_exit } = &config.hooks;
    control::Hooks {
        post_fork: text(post_fork),
        post_worker_init: text(post_worker_init),
        worker_exit: text(worker_exit),
        worker_abort: text(worker_abort),
        child_exit: text(child_exit),
    }
}

/// Returns the imports of a zygote before it forks workers.
pub(crate) fn preload(config: &Config) -> control::Preload {
    match &config.workers.preload {
        Preload::Modules(modules) => control::Preload::Modules(modules.clone()),
        Preload::Off | Preload::Application => {
            control::Preload::Application { warm_up: config.reload.probe.clone().unwrap_or_default() }
        }
    }
}

/// Returns the number of requests after which the dispatcher reports a worker for recycling: the
/// minimum of `workers.max_requests` and, until a worker has become the zygote, `workers.refork`.
/// `None`: never.
pub(super) fn max_requests(workers: &Workers, has_reforked: bool) -> Option<NonZeroU64> {
    let refork = workers.refork.filter(|_| workers.preload == Preload::Application && !has_reforked);
    [refork, max_requests_with_jitter(workers)].into_iter().flatten().min()
}

/// `workers.max_requests` plus a random part of the jitter: workers started together are then not
/// recycled together.
fn max_requests_with_jitter(workers: &Workers) -> Option<NonZeroU64> {
    let min = workers.max_requests?;
    let jitter = match workers.max_requests_jitter {
        0 => 0,
        // A new `RandomState` is seeded from the system's randomness.
        max => RandomState::new().build_hasher().finish() % max.saturating_add(1),
    };
    Some(min.saturating_add(jitter))
}

#[cfg(test)]
mod tests {
    use super::super::testing::configuration;
    use super::*;

    #[test]
    fn asgi_removes_the_default_request_timeout_of_app() {
        let first = Generation(1);
        let mut generations = Generations::new(configuration(&["app"]), None, WorkerUsers::default(), None);
        assert!(generations.live().timeouts.request.is_some());
        let changed = generations.note_asgi(first).expect("the live configuration");
        assert_eq!((changed.timeouts.request, generations.live().timeouts.request), (None, None));
        assert_eq!(generations.note_asgi(first), None, "the second worker changes nothing");
        // A reload's generation is not live while it boots.
        generations.add(Generation(2), configuration(&["app"]), None, None);
        assert_eq!(generations.note_asgi(Generation(2)), None);
        assert_eq!(generations.go_live(Generation(2)).expect("generation 2").timeouts.request, None);
        let mut timed =
            Generations::new(configuration(&["app", "--timeout", "9"]), None, WorkerUsers::default(), None);
        assert_eq!(timed.note_asgi(first), None);
        assert_eq!(timed.live().timeouts.request, Some(Duration::from_secs(9)));
    }

    #[test]
    fn max_requests_jitter_is_within_bounds() {
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
