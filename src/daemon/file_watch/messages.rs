//! The watcher's settings, and its notices to the main loop.

use std::time::Duration;

use super::pending::Changes;
use super::rules::WatchRules;

/// The settings of the watcher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchSettings {
    /// Which files count.
    pub rules: WatchRules,
    /// Time without a change after which a reload starts.
    pub delay: Duration,
    /// Polls instead of using inotify.
    pub poll: bool,
}

/// A notice to the main loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchNotice {
    /// Files have changed, and are quiet: reload.
    Changed(Changes),
    /// Ask the workers for files that they have loaded meanwhile.
    SourcesWanted,
}

/// Receives notices, on the watcher's thread.
pub type WatchSink = Box<dyn Fn(WatchNotice) + Send>;
