//! Reads the host at startup: sockets, cores, limits of descriptors and memory, the delegated
//! cgroup, the spool directory.

use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::SystemTime;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rgun_channel::control::ListenerInfo;

use super::error::{StartupError, errno_of};
use crate::cli::own_directory;
use crate::config::{Bind, Config, DUMPABLE_VARIABLE, MAX_LISTENERS, name};
use crate::error_chain::Chain;
use crate::exit_status::EX_OSERR;
use crate::journal::daemon_log::Destination;
use crate::net::{BindError, Listener};
use crate::systemd::cgroup::{Delegation, OwnUnit};
use crate::systemd::listen::InheritedListener;
use crate::systemd::memory;

/// Facts about the host, read once at startup.
#[derive(Debug)]
pub(super) struct Host {
    /// When the daemon started.
    pub(super) started_at: SystemTime,
    /// Cores this process may use.
    pub(super) cores: usize,
    /// Whether systemd started the daemon. If so, a first boot that fails is retried; else the
    /// daemon exits.
    pub(super) is_supervised: bool,
    /// The instruction to restart the daemon, for the end of a sentence.
    pub(super) restart: String,
    /// Whether systemd passed the listening sockets, and so starts the daemon at a connection.
    pub(super) is_socket_activated: bool,
    /// Whether systemd passed the sockets for metrics.
    pub(super) has_metrics_socket: bool,
    /// The listeners, as described to workers.
    pub(super) listeners: Vec<ListenerInfo>,
    /// The limits for keys that are `"auto"`.
    pub(super) auto_limits: AutoLimits,
    /// Maximum number of connections that a stop hands over to the next daemon.
    pub(super) hand_over: usize,
}

/// Returns how to restart the daemon, whose unit is `unit`. `is_supervised`: systemd started the
/// daemon.
pub(super) fn restart_instruction(is_supervised: bool, unit: Option<OwnUnit>) -> String {
    if !is_supervised {
        return "stop rgun and start it again".to_owned();
    }
    let (name, is_users) = unit.map_or_else(Default::default, |unit| (unit.name, unit.is_users));
    let stem = name.strip_suffix(".service").unwrap_or("rgun");
    let manager = if is_users { "--user " } else { "" };
    format!("run `systemctl {manager}restart {stem}`")
}

/// Takes over the cgroup that systemd delegates. `None` if there is none; the daemon works without
/// it.
pub(super) fn delegation(destination: Destination) -> Option<Delegation> {
    match Delegation::acquire() {
        Ok(delegation) => Some(delegation),
        Err(reason) => {
            // Warn only under systemd: the unit sets Delegate=, so delegation was expected.
            if destination == Destination::Journal {
                tracing::warn!(error = %Chain(&reason), "workers get no cgroups of their own");
            } else {
                tracing::debug!(error = %Chain(&reason), "workers get no cgroups of their own");
            }
            None
        }
    }
}

/// Returns the sockets that systemd passed. If it passed none, binds the addresses of `[listen]`.
pub(super) fn listeners(
    config: &Config,
    inherited: Vec<InheritedListener>,
) -> Result<Vec<Listener>, StartupError> {
    if inherited.is_empty() {
        let bind = |(name, bind): (Option<&str>, &Bind)| {
            Listener::bind(bind, name).map_err(|error| {
                let key = name.map_or_else(|| name::BIND.to_owned(), |name| format!("listen.{name}.bind"));
                bind_error(&key, &error)
            })
        };
        return config.listen.addresses().into_iter().map(bind).collect();
    }
    check_names(config, &inherited)?;
    if inherited.len() > MAX_LISTENERS {
        return Err(StartupError::config_reason(format!(
            "systemd passed {} sockets; the maximum is {MAX_LISTENERS}: remove ListenStream= from the socket unit, or \
             run several instances",
            inherited.len()
        )));
    }
    if config.listen.explicit {
        let addresses: Vec<_> = config.listen.bind.iter().map(ToString::to_string).collect();
        warn_unused_addresses(&format!("{} = {}", name::BIND, addresses.join(", ")));
    }
    Ok(inherited.into_iter().map(Listener::inherited).collect())
}

/// Warns that addresses have no effect; `settings` are keys with their values.
pub(super) fn warn_unused_addresses(settings: &str) {
    tracing::warn!(
        "listening on the sockets that systemd passed; {settings} has no effect: change ListenStream= in the socket \
         unit instead"
    );
}

/// Warns that the addresses of `metrics.bind` have no effect.
pub(super) fn warn_unused_metrics(addresses: &str) {
    tracing::warn!(
        "serving metrics on the sockets that systemd passed; {} = {addresses} has no effect: change ListenStream= in \
         the socket unit instead",
        name::METRICS_BIND
    );
}

/// Returns the error of a start that cannot bind an address of the setting `key`.
pub(super) fn bind_error(key: &str, error: &BindError) -> StartupError {
    let errno = match error {
        BindError::InUse(_) => Some(nix::libc::EADDRINUSE),
        BindError::NotAvailable(_) => Some(nix::libc::EADDRNOTAVAIL),
        other => errno_of(other),
    };
    let remedy = match error {
        BindError::InUse(_) if key == name::BIND => " with --bind".to_owned(),
        BindError::InUse(_) => format!(" in {key}"),
        _ => String::new(),
    };
    let wrong = StartupError::config_reason(format!("{key}: {}{remedy}", Chain(error)));
    // The other process may end, and the interface may come up: the unit tries again.
    let is_transient = matches!(error, BindError::InUse(_) | BindError::NotAvailable(_));
    StartupError { errno, status: if is_transient { EX_OSERR } else { wrong.status }, ..wrong }
}

/// Checks that systemd passed a socket for each table `[listen.NAME]`. If a socket is missing, logs
/// a warning if its table has `bind`, else returns an error.
fn check_names(config: &Config, inherited: &[InheritedListener]) -> Result<(), StartupError> {
    for table in &config.listen.named {
        if inherited.iter().any(|socket| socket.name == table.name) {
            continue;
        }
        let passed: Vec<_> = inherited.iter().map(|socket| socket.name.as_str()).collect();
        let text = format!(
            "[listen.{name}]: systemd passed no socket with this name, but {passed}; write FileDescriptorName={name} \
             in the socket unit",
            name = table.name,
            passed = passed.join(", ")
        );
        if table.bind.is_empty() {
            return Err(StartupError::config_reason(text));
        }
        tracing::warn!("{text}");
    }
    Ok(())
}

/// Returns the number of cores that this process may use, by its affinity mask and the cgroup's CPU
/// quota.
pub(super) fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Makes the daemon's memory and descriptors inaccessible to other processes of its user, which
/// include the workers unless `workers.user` is set (`PR_SET_DUMPABLE`, PR_SET_DUMPABLE(2const)). The
/// daemon then leaves no core dump either. Workers are not affected: execve(2) resets the attribute.
///
/// # Errors
/// The error of `prctl(2)`; no Linux refuses this.
pub(super) fn hide_memory() -> nix::Result<()> {
    if std::env::var_os(DUMPABLE_VARIABLE).is_some_and(|value| value == "1") {
        return Ok(());
    }
    nix::sys::prctl::set_dumpable(false)
}

/// The soft limit of open files.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileLimit {
    /// The limit at startup, which workers get. `None` if it could not be read; the limit was then
    /// left unchanged.
    pub(super) inherited: Option<u64>,
    /// The daemon's limit now.
    pub(super) own: u64,
}

/// Raises the daemon's soft limit of open files to the hard one. Workers keep the inherited limit:
/// the application may use select(2), which fails for descriptors above 1023.
pub(super) fn raise_file_limit() -> FileLimit {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => {
            let is_raised = soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
            FileLimit { inherited: Some(soft), own: if is_raised { hard } else { soft } }
        }
        Err(error) => {
            tracing::debug!(%error, "cannot read RLIMIT_NOFILE, ignoring");
            FileLimit { inherited: None, own: 1024 }
        }
    }
}

/// The limits for keys that are `"auto"`, measured on this host.
#[derive(Debug, Clone, Copy)]
pub(super) struct AutoLimits {
    /// `limits.connections`.
    pub(super) connections: usize,
    /// `limits.queue`.
    pub(super) queue: usize,
}

impl AutoLimits {
    /// Measures the limits. `files`: descriptors the daemon may open.
    pub(super) fn new(files: u64, workers: NonZeroU16) -> Self {
        Self { connections: connection_limit(files, workers), queue: queue_limit(memory::usable_bytes()) }
    }
}

/// Assumed memory of a queued request: the default of `limits.header`. Most take a tenth of it.
const BYTES_PER_QUEUED_REQUEST: u64 = 16 << 10;

/// `limits.queue = "auto"`: queued requests may take an eighth of the memory.
fn queue_limit(memory: Option<u64>) -> usize {
    let requests = memory.unwrap_or(0) / 8 / BYTES_PER_QUEUED_REQUEST;
    usize::try_from(requests).unwrap_or(usize::MAX).clamp(MIN_QUEUE, MAX_QUEUE)
}

/// Bounds of `limits.queue = "auto"`: even a small machine can hold the clients of a busy minute,
/// and even a large one cannot answer more before their clients give up.
const MIN_QUEUE: usize = 1000;
const MAX_QUEUE: usize = 100_000;

/// `limits.connections = "auto"`: half of the descriptors that the workers' channels leave, so that
/// every connection may also have a spooled body or a file open.
fn connection_limit(files: u64, workers: NonZeroU16) -> usize {
    // Descriptors of the daemon itself, and of each worker's channel.
    let own = 64 + 8 * u64::from(workers.get());
    usize::try_from(files.saturating_sub(own) / 2).unwrap_or(usize::MAX).max(16)
}

/// The directory for large bodies: the unit's `CacheDirectory=` (systemd.exec(5)), else `/var/tmp`,
/// which is on disk, unlike `/tmp` on many systems.
pub(super) fn spool_directory() -> PathBuf {
    let directories = std::env::var_os("CACHE_DIRECTORY");
    let own = directories.and_then(|directories| own_directory(&directories));
    own.unwrap_or_else(|| PathBuf::from("/var/tmp"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_is_the_command_of_the_units_manager() {
        let unit = |name: &str, is_users| Some(OwnUnit { name: name.to_owned(), is_users });
        for (is_supervised, unit, expected) in [
            (true, unit("rgun@a.service", false), "run `systemctl restart rgun@a`"),
            (true, unit("rgun.service", true), "run `systemctl --user restart rgun`"),
            (true, None, "run `systemctl restart rgun`"),
            (false, unit("gnome-terminal-server.service", true), "stop rgun and start it again"),
        ] {
            assert_eq!(restart_instruction(is_supervised, unit), expected);
        }
    }

    #[test]
    fn auto_queue_limit_is_an_eighth_of_memory_within_bounds() {
        assert_eq!(queue_limit(None), 1000);
        assert_eq!(queue_limit(Some(1 << 20)), 1000);
        assert_eq!(queue_limit(Some(1 << 30)), 8192);
        assert_eq!(queue_limit(Some(1 << 40)), 100_000);
    }
}
