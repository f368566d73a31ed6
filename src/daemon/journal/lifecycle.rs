//! The log of the daemon itself: `tracing`, to journald or stderr.
//!
//! Field names are written `rgun.worker` in the code; journald gets `RGUN_WORKER` (tracing-journald upper-cases
//! and replaces the dot). Its default prefix `F_` is switched off, and INFO is mapped to priority 6 and DEBUG to
//! 7: it would map them to 5 and 6.

use std::io::IsTerminal;

use nix::sys::stat::fstat;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::Level;

/// Where the log goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// journald's native socket.
    Journal,
    /// Lines on stderr.
    Stderr,
}

/// Starts the log. To be called once, before any other thread exists.
pub fn start(level: Level) -> Destination {
    let filter = match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    // Libraries speak up only when something is wrong.
    let filter = Targets::new().with_default(filter.min(LevelFilter::WARN)).with_target("rgun", filter);
    let registry = tracing_subscriber::registry();
    if stderr_is_the_journal()
        && let Ok(journald) = tracing_journald::layer()
    {
        let journald = journald
            .with_field_prefix(None)
            .with_syslog_identifier("rgun".to_owned())
            .with_priority_mappings(PriorityMappings {
                error: Priority::Error,
                warn: Priority::Warning,
                info: Priority::Informational,
                debug: Priority::Debug,
                trace: Priority::Debug,
            });
        registry.with(journald.with_filter(filter)).init();
        return Destination::Journal;
    }
    let stderr = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    registry.with(stderr.with_filter(filter)).init();
    Destination::Stderr
}

/// `JOURNAL_STREAM` holds device and inode of the journal's stream; it is stderr's only if they agree (a shell
/// started by a service may have redirected it; systemd.exec(5)).
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = fstat(std::io::stderr()) else { return false };
    stream == format!("{}:{}", stderr.st_dev, stderr.st_ino)
}
