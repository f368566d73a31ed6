//! What systemd hands over, and what it is told. The only module that reads `LISTEN_*`, `NOTIFY_SOCKET`,
//! `WATCHDOG_*` and `JOURNAL_STREAM`, before any thread exists.

pub mod cgroup;
pub mod listen;
pub mod memory;
pub mod notify;

/// Variables of systemd's protocols that are the daemon's alone: no worker inherits them
/// (sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3)).
pub const OWN_VARIABLES: [&str; 10] = [
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "FDSTORE",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
];

/// A directory of its own for a test that needs one; the test removes it.
#[cfg(test)]
pub(crate) fn scratch_dir(name: &str) -> std::path::PathBuf {
    let directory = std::env::temp_dir().join(format!("rgun-test-{name}-{}", std::process::id()));
    // What a killed run of the same number has left behind.
    let _absent = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("the temporary directory is writable");
    directory
}
