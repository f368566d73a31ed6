//! The types of `[reload]`.

use std::path::PathBuf;
use std::time::Duration;

use glob::Pattern;

/// `[reload]`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reload {
    /// A request target that the new code must answer with a status below 500 before it gets other
    /// requests. `None` is `"off"`.
    pub probe: Option<String>,
    /// Time after the switch to new code during which the old workers are kept; rgun switches back
    /// to them if the new ones fail clearly more often. `None` is `"off"`.
    pub watch: Option<Duration>,
    /// Reloads that changed files cause.
    pub on_change: OnChange,
}

/// Which files are watched, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnChange {
    /// Whether a changed file causes a reload.
    pub enabled: bool,
    /// Directories in which every Python file is watched, imported or not. Absolute.
    pub dirs: Vec<PathBuf>,
    /// Further files: patterns of names, or of paths, which may be relative to the application's
    /// directory.
    pub include: Vec<Pattern>,
    /// Files and directories that do not count: patterns as in `include`.
    pub exclude: Vec<Pattern>,
    /// Time without a change after which the reload starts.
    pub delay: Duration,
    /// Whether to poll the files, for file systems that do not report changes.
    pub poll: bool,
}

impl Default for OnChange {
    fn default() -> Self {
        Self {
            enabled: false,
            dirs: Vec::new(),
            include: Vec::new(),
            exclude: Vec::new(),
            // Editors write a file in several steps; a person does not notice this delay.
            delay: Duration::from_millis(50),
            poll: false,
        }
    }
}
