//! Watches the application's files, to reload when they change (`reload.on_change`).
//!
//! ```text
//! workers ── imported files ──▶ thread ── Changed, once the files are quiet ──▶ run, which reloads
//! inotify or polling ─ changes ─▶     ── SourcesWanted ──▶ run, which asks the workers
//! ```
//!
//! A change requires a reload if a worker has imported the file, if it is a template or environment
//! file in the application's directories, or if the configuration names it ([`WatchRules`]). After
//! a failed start or reload, a change of any Python file in a watched directory requires a reload,
//! because the application may have failed to import that file.
//!
//! | file | contents |
//! |---|---|
//! | `rules.rs` | which files count; pure |
//! | `pending.rs` | waiting for quiet; pure |
//! | `directories.rs` | the directories to watch |
//! | `backend.rs` | inotify, polling |
//! | `traceback.rs` | the files in a traceback; pure |
//! | `messages.rs` | settings and notices |
//! | `thread.rs` | the thread |
//!
//! The watches are on directories, because a watch on a file ends when an editor saves by renaming.
//! Paths in this module have no symbolic links in their directories, because inotify reports each
//! directory under one path.

mod backend;
mod directories;
mod messages;
mod pending;
mod rules;
mod thread;
mod traceback;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use glob::Pattern;

pub use self::messages::{WatchNotice, WatchSettings, WatchSink};
pub use self::pending::Changes;
pub use self::rules::WatchRules;
use self::thread::{Input, WatchThread};
pub use self::traceback::sources_of_traceback;

/// The watcher. Dropping it ends its thread.
#[derive(Debug)]
pub struct FileWatch {
    inputs: Sender<Input>,
    thread: Option<JoinHandle<()>>,
}

impl FileWatch {
    /// Starts to watch.
    ///
    /// # Errors
    /// The thread cannot be created.
    pub fn start(settings: WatchSettings, sink: WatchSink) -> std::io::Result<Self> {
        let (inputs, inputs_rx) = channel();
        let events = inputs.clone();
        let builder = std::thread::Builder::new().name("rgun-watch".to_owned());
        let thread = builder.spawn(move || WatchThread::new(settings, inputs_rx, events, sink).run())?;
        Ok(Self { inputs, thread: Some(thread) })
    }

    /// Replaces the settings, after the configuration was read again.
    pub fn apply(&self, settings: WatchSettings) {
        self.send(Input::Settings(settings));
    }

    /// Adds paths that a worker has reported: files that it has loaded, and directories of
    /// templates, which end with a slash.
    pub fn add_sources(&self, paths: Vec<PathBuf>) {
        self.send(Input::Sources(paths));
    }

    /// Notes whether the last start or reload has failed.
    pub fn note_outcome(&self, failed: bool) {
        self.send(Input::Outcome { failed });
    }

    fn send(&self, input: Input) {
        // Fails only after a panic of the thread, which the panic hook has logged.
        let _ = self.inputs.send(input);
    }
}

impl Drop for FileWatch {
    fn drop(&mut self) {
        self.send(Input::Stop);
        if let Some(thread) = self.thread.take() {
            // An error means that the thread has panicked, which the panic hook has logged.
            let _ = thread.join();
        }
    }
}

impl WatchRules {
    /// Makes the rules. A relative pattern with a slash is relative to the first of `roots`.
    pub fn new(
        roots: &[PathBuf],
        python_roots: &[PathBuf],
        files: &[PathBuf],
        include: &[Pattern],
        exclude: &[Pattern],
    ) -> Self {
        let canonical = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        let roots: Vec<PathBuf> = roots.iter().map(canonical).collect();
        let base = roots.first().map_or(Path::new("/"), PathBuf::as_path);
        let absolute = |patterns: &[Pattern]| patterns.iter().map(|pattern| resolve(pattern, base)).collect();
        Self {
            python_roots: python_roots.iter().map(canonical).collect(),
            files: files.iter().map(|file| directories::canonical(file)).collect(),
            include: absolute(include),
            exclude: absolute(exclude),
            roots,
        }
    }
}

/// Makes a relative pattern with a slash absolute by joining it to `base`, and removes a slash at
/// its end. Returns any other pattern as it is.
fn resolve(pattern: &Pattern, base: &Path) -> Pattern {
    let text = pattern.as_str();
    let relative = text.trim_end_matches('/').trim_start_matches("./");
    if !text.contains('/') || text.starts_with('/') || relative.is_empty() {
        return pattern.clone();
    }
    let base = Pattern::escape(&base.to_string_lossy());
    // Joining an escaped path and a valid pattern makes a valid pattern.
    Pattern::new(&format!("{base}/{relative}")).unwrap_or_else(|_| pattern.clone())
}

/// Describes changes for a log entry: `views.py`, `shop/views.py and 299 other files`.
pub fn describe(changes: &Changes, base: &Path) -> String {
    let Changes { first, others } = changes;
    let base = base.canonicalize().unwrap_or_else(|_| base.to_owned());
    let name = first.strip_prefix(&base).ok().filter(|name| !name.as_os_str().is_empty()).unwrap_or(first);
    let name = crate::escape::escape_path(name);
    match others {
        0 => name.to_string(),
        1 => format!("{name} and 1 other file"),
        others => format!("{name} and {others} other files"),
    }
}
