//! What the daemon takes from the system at its start: sockets, cores, descriptors, a cgroup, a place for large bodies.

use std::num::NonZeroU16;
use std::path::PathBuf;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::error::StartupError;
use crate::config::{Bind, Config};
use crate::error_chain::Chain;
use crate::journal::daemon_log::Destination;
use crate::net::Listener;
use crate::systemd::{cgroup::Delegation, listen, memory};

/// The cgroup that systemd delegates, if it does.
pub(super) fn delegation(destination: Destination) -> Option<Delegation> {
    match Delegation::take() {
        Ok(delegation) => Some(delegation),
        Err(reason) => {
            // Outside systemd nobody expects it.
            if destination == Destination::Journal {
                tracing::warn!(error = %Chain(&reason), "workers get no cgroups of their own");
            } else {
                tracing::debug!(error = %Chain(&reason), "workers get no cgroups of their own");
            }
            None
        }
    }
}

/// systemd's sockets if it passed any, else our own.
pub(super) fn listeners(config: &Config) -> Result<Vec<Listener>, StartupError> {
    let inherited = listen::inherited().map_err(|error| StartupError::config(&error))?;
    if inherited.is_empty() {
        let bind = |bind: &Bind| Listener::bind(bind).map_err(|error| StartupError::config(&error));
        return config.listen.bind.iter().map(bind).collect();
    }
    if config.listen.explicit {
        let ignored: Vec<String> = config.listen.bind.iter().map(ToString::to_string).collect();
        tracing::warn!(
            "listening on the sockets that systemd passed; listen.bind = {} has no effect: change \
             ListenStream= in the socket unit instead",
            ignored.join(", ")
        );
    }
    Ok(inherited.into_iter().map(Listener::inherited).collect())
}

/// Cores this process may use (sched_getaffinity(2)).
pub(super) fn available_cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The soft limit of open files: what the daemon was started with, and what it has now.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileLimit {
    /// Workers get this one. `None` when it could not be read: it is then what it was.
    pub(super) inherited: Option<u64>,
    /// The daemon's own.
    pub(super) own: u64,
}

/// Raises the daemon's soft limit of open files to the hard one. The default soft limit of 1024 is for programs that
/// use select(2), which may be true of the application: it does not hold for workers.
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

/// What the system has room for: the limits that are `"auto"`.
#[derive(Debug, Clone, Copy)]
pub(super) struct AutoLimits {
    /// `limits.connections`.
    pub(super) connections: usize,
    /// `limits.queue`.
    pub(super) queue: usize,
}

impl AutoLimits {
    /// Of a daemon that may open so many `files`.
    pub(super) fn new(files: u64, workers: NonZeroU16) -> Self {
        Self { connections: connection_limit(files, workers), queue: queue_limit(memory::usable()) }
    }
}

/// What a request that waits is reckoned to take: as much as `limits.header` allows by default. Most take a tenth.
const BYTES_PER_WAITING: u64 = 16 << 10;

/// `limits.queue = "auto"`: an eighth of the memory for requests that wait.
fn queue_limit(memory: Option<u64>) -> usize {
    let most = memory.unwrap_or(0) / 8 / BYTES_PER_WAITING;
    usize::try_from(most).unwrap_or(usize::MAX).clamp(MIN_QUEUE, MAX_QUEUE)
}

/// A small machine has room for the clients of a busy minute, and a large one does not answer more in any time that
/// somebody waits.
const MIN_QUEUE: usize = 1000;
const MAX_QUEUE: usize = 100_000;

/// `limits.connections = "auto"`: what the limit of open files leaves after the workers' channels and
/// one spooled body or file for every second connection.
fn connection_limit(files: u64, workers: NonZeroU16) -> usize {
    let own = 64 + 8 * u64::from(workers.get());
    usize::try_from(files.saturating_sub(own) / 2).unwrap_or(usize::MAX).max(16)
}

/// Where bodies over 16 MiB wait: on disk, unlike `/tmp` on many systems. systemd's `CacheDirectory=` if the
/// unit has one (systemd.exec(5)).
pub(super) fn spool_directory() -> PathBuf {
    std::env::var_os("CACHE_DIRECTORY").map_or_else(
        || PathBuf::from("/var/tmp"),
        |directories| std::env::split_paths(&directories).next().unwrap_or_else(|| PathBuf::from("/var/tmp")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_takes_an_eighth_of_the_memory_within_its_bounds() {
        assert_eq!(queue_limit(None), 1000);
        assert_eq!(queue_limit(Some(1 << 20)), 1000);
        assert_eq!(queue_limit(Some(1 << 30)), 8192);
        assert_eq!(queue_limit(Some(1 << 40)), 100_000);
    }
}
