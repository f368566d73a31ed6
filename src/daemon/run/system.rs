//! What the daemon takes from the system at its start: sockets, cores, descriptors, a cgroup, a place for large bodies.

use std::num::NonZeroU16;
use std::path::PathBuf;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::Refused;
use crate::config::{Bind, Config};
use crate::journal::lifecycle::Destination;
use crate::net::Listener;
use crate::report::Chain;
use crate::systemd::{cgroup::Delegation, listen};

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
pub(super) fn listeners(config: &Config) -> Result<Vec<Listener>, Refused> {
    let inherited = listen::inherited().map_err(|error| Refused::config(&error))?;
    if inherited.is_empty() {
        let bind = |bind: &Bind| Listener::bind(bind).map_err(|error| Refused::config(&error));
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

/// Raises the soft limit of open files to the hard one and returns it: the default soft limit of 1024 is for
/// programs that use select(2).
pub(super) fn raise_file_limit() -> u64 {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) => {
            if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
                hard
            } else {
                soft
            }
        }
        Err(error) => {
            tracing::debug!(%error, "cannot read RLIMIT_NOFILE, ignoring");
            1024
        }
    }
}

/// `limits.connections = "auto"`: what the limit of open files leaves after the workers' channels and
/// one spooled body or file for every second connection.
pub(super) fn connection_limit(files: u64, workers: NonZeroU16) -> usize {
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
