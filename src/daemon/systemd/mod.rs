//! What systemd hands over, and what it is told. The only module that reads `LISTEN_*`, `NOTIFY_SOCKET`,
//! `WATCHDOG_*` and `JOURNAL_STREAM`, before any thread exists.

pub mod cgroup;
pub mod listen;
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
