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
    /// Whether to poll instead of using inotify.
    pub poll: bool,
}

/// A notice to the main loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchNotice {
    /// Reload: files have changed, and no change has followed for [`WatchSettings::delay`], or
    /// changes have gone on for 5 s.
    Changed(Changes),
    /// Ask the workers which files they have loaded.
    SourcesWanted,
}

/// Receives notices, on the watcher's thread.
pub type WatchSink = Box<dyn Fn(WatchNotice) + Send>;
