//! The interface to systemd: inherited sockets (`LISTEN_*`), notifications (`NOTIFY_SOCKET`,
//! `WATCHDOG_*`), the file descriptor store, memory pressure (`MEMORY_PRESSURE_*`), the delegated
//! cgroup, the manager's jobs.

pub mod cgroup;
pub mod fd_store;
pub mod listen;
pub mod memory;
pub mod memory_pressure;
pub mod notify;
mod notify_queue;
pub mod stop_job;

/// Environment variables of the systemd protocols that are meant for the daemon and not passed on
/// to workers (sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3)).
pub const OWN_VARIABLES: [&str; 11] = [
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "FDSTORE",
    "RGUN_FDSTORE",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
];

/// Creates a directory for one test. The test removes the directory.
#[cfg(test)]
pub(crate) fn scratch_dir(name: &str) -> std::path::PathBuf {
    let directory = std::env::temp_dir().join(format!("rgun-test-{name}-{}", std::process::id()));
    // A killed run with the same pid may have left the directory behind.
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("the temporary directory is writable");
    directory
}
