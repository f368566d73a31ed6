//! The log of the daemon itself: `tracing`, to journald or stderr.
//!
//! Field names are written `rgun.worker` in the code; journald gets `RGUN_WORKER` (tracing-journald upper-cases
//! and replaces the dot). Its default prefix `F_` is switched off, and INFO is mapped to priority 6 and DEBUG to
//! 7: it would map them to 5 and 6.

use std::io::IsTerminal;
use std::sync::OnceLock;

use nix::sys::stat::fstat;
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
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

/// Changes the filter that [`start`] has set.
static SET_FILTER: OnceLock<Box<dyn Fn(Targets) + Send + Sync>> = OnceLock::new();

/// From now on this is the least severe message that is written.
pub fn set_level(level: Level) {
    if let Some(set) = SET_FILTER.get() {
        set(filter(level));
    }
}

fn filter(level: Level) -> Targets {
    let filter = match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    // Libraries speak up only when something is wrong.
    Targets::new().with_default(filter.min(LevelFilter::WARN)).with_target("rgun", filter)
}

/// Makes the filter of a layer one that [`set_level`] can change. There is one log a process.
fn adjustable<S: 'static>(level: Level) -> reload::Layer<Targets, S> {
    let (filter, handle) = reload::Layer::new(filter(level));
    let set = move |filter| {
        if let Err(error) = handle.reload(filter) {
            tracing::warn!(%error, "cannot change log.level");
        }
    };
    let _first = SET_FILTER.set(Box::new(set));
    filter
}

/// Starts the log. To be called once, before any other thread exists.
pub fn start(level: Level) -> Destination {
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
        registry.with(journald.with_filter(adjustable(level))).init();
        return Destination::Journal;
    }
    let stderr = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    registry.with(stderr.with_filter(adjustable(level))).init();
    Destination::Stderr
}

/// `JOURNAL_STREAM` holds device and inode of the journal's stream; it is stderr's only if they agree (a shell
/// started by a service may have redirected it; systemd.exec(5)).
fn stderr_is_the_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    let Ok(stderr) = fstat(std::io::stderr()) else { return false };
    stream == format!("{}:{}", stderr.st_dev, stderr.st_ino)
}
