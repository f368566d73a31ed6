//! The main loop's data about reloads. `reload` and `file_watch` change the data.

use std::collections::HashMap;
use std::sync::Arc;

use super::buffer_limits::BufferLimits;
use super::generations;
use crate::config::Config;
use crate::control::ReplySender;
use crate::file_watch::FileWatch;
use crate::http::{self, FailurePage, LoadFailure};
use crate::id::Generation;
use crate::supervise::BootFailure;

/// The watcher that causes reloads, the clients that wait for reloads, and the page that shows
/// their failures.
#[derive(Debug)]
pub(super) struct Reloads {
    /// Clients of the control socket that wait for a reload, by the generation of that reload.
    pub(super) replies: HashMap<Generation, ReplySender>,
    /// Number of reloads that have read the configuration again on a thread of their own.
    pub(super) n_rereads: u64,
    /// The number of the last of them whose configuration was used or refused; 0 before the first.
    pub(super) last_reread: u64,
    /// Watches the application's files; `None` without `reload.on_change`.
    pub(super) file_watch: Option<FileWatch>,
    /// Whether the last reload has failed, so that older code serves.
    pub(super) is_behind: bool,
    /// The failure that a developer's browser shows; `None` if the daemon is a service.
    failure_page: Option<Arc<FailurePage>>,
}

impl Reloads {
    /// Creates the data of a daemon that has not reloaded yet. `is_supervised`: the daemon is a
    /// service.
    pub(super) fn new(is_supervised: bool) -> Self {
        Self {
            replies: HashMap::new(),
            n_rereads: 0,
            last_reread: 0,
            file_watch: None,
            is_behind: false,
            failure_page: (!is_supervised).then(Arc::default),
        }
    }

    /// Returns the settings of HTTP connections.
    pub(super) fn http_settings(&self, config: &Config, buffers: &BufferLimits) -> http::Settings {
        let failure_page = self.failure_page.clone().filter(|_| config.reload.on_change.enabled);
        http::Settings { failure_page, ..generations::http_settings(config, buffers) }
    }

    /// Sets or clears the failure that a developer's browser shows. The flag is true if older code
    /// serves meanwhile.
    pub(super) fn show_failure(&self, failure: Option<(&BootFailure, bool)>) {
        let Some(page) = &self.failure_page else { return };
        page.set(failure.map(|(failure, old_code_serves)| LoadFailure {
            summary: failure.summary.clone(),
            traceback: failure.traceback.clone().unwrap_or_default(),
            old_code_serves,
        }));
    }
}
