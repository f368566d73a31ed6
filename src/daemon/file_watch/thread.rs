//! The thread: receives changes, sources and outcomes of boots, and decides when to reload.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime};

use super::backend::{Backend, FileEvent, FileSnapshot, InotifyError};
use super::directories::{self, DirectorySet, MAX_DIRECTORIES};
use super::messages::{WatchNotice, WatchSettings, WatchSink};
use super::pending::PendingChanges;
use super::rules::{Relevance, WatchedFiles};

/// Interval of asking workers for modules that were imported after the boot.
const SOURCES_INTERVAL: Duration = Duration::from_secs(2);

/// A file's modification time is up to one tick of the kernel behind the clock.
const CLOCK_TOLERANCE: Duration = Duration::from_millis(20);

/// Interval of polling.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Time after a change for which a file stays in [`WatchThread::unmatched`]: until then, a worker
/// may report that it has imported the file.
const UNMATCHED_TIME: Duration = Duration::from_secs(10);

/// Maximum number of files in [`WatchThread::unmatched`].
const MAX_UNMATCHED: usize = 1000;

/// A message to the thread.
#[derive(Debug)]
pub(super) enum Input {
    Event(FileEvent),
    /// Paths that a worker has reported.
    Sources(Vec<PathBuf>),
    /// The last start or reload has failed, or has succeeded.
    Outcome {
        failed: bool,
    },
    Settings(WatchSettings),
    Stop,
}

/// The state of the thread.
pub(super) struct WatchThread {
    inputs: Receiver<Input>,
    /// For the events of inotify.
    inputs_tx: Sender<Input>,
    sink: WatchSink,
    backend: Backend,
    files: WatchedFiles,
    pending: PendingChanges,
    /// Python files that have changed and that no worker has reported, each with the time of its
    /// change.
    unmatched: HashMap<PathBuf, Instant>,
    /// Whether the last start or reload has failed. A change of any Python file then requires a
    /// reload, because the application may have failed to import that file.
    failed: bool,
    /// Whether directories may have been created, so that [`WatchThread::sync`] must run.
    needs_sync: bool,
    /// Exists while git changes files of the application's work tree.
    git_lock: Option<PathBuf>,
    /// When to ask the workers for the files that they have loaded.
    ask_at: Instant,
    poll_at: Instant,
    /// When [`WatchThread::sync`] last ran. `None` before its first run, which counts no file as
    /// changed: the workers boot later.
    synced_at: Option<SystemTime>,
    warned_about_size: bool,
}

impl WatchThread {
    pub(super) fn new(
        settings: WatchSettings,
        inputs: Receiver<Input>,
        inputs_tx: Sender<Input>,
        sink: WatchSink,
    ) -> Self {
        let now = Instant::now();
        let mut thread = Self {
            inputs,
            inputs_tx,
            sink,
            backend: Backend::Poll(FileSnapshot::new(&DirectorySet::default(), &WatchedFiles::default())),
            files: WatchedFiles::default(),
            pending: PendingChanges::new(settings.delay),
            unmatched: HashMap::new(),
            failed: false,
            needs_sync: false,
            git_lock: None,
            ask_at: now + SOURCES_INTERVAL,
            poll_at: now + POLL_INTERVAL,
            synced_at: None,
            warned_about_size: false,
        };
        thread.apply_settings(settings);
        thread
    }

    /// Runs until [`Input::Stop`].
    pub(super) fn run(mut self) {
        loop {
            let wait = self.next_wakeup().saturating_duration_since(Instant::now());
            match self.inputs.recv_timeout(wait) {
                Ok(Input::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(input) => {
                    self.on_input(input);
                    // Processes all waiting inputs before it reads directories.
                    while let Ok(input) = self.inputs.try_recv() {
                        if matches!(input, Input::Stop) {
                            return;
                        }
                        self.on_input(input);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if std::mem::take(&mut self.needs_sync) {
                self.sync(true);
            }
            self.run_timers(Instant::now());
        }
    }

    fn next_wakeup(&self) -> Instant {
        let poll_at = matches!(self.backend, Backend::Poll(_)).then_some(self.poll_at);
        [Some(self.ask_at), poll_at, self.pending.due()].into_iter().flatten().min().unwrap_or(self.ask_at)
    }

    fn on_input(&mut self, input: Input) {
        match input {
            Input::Event(FileEvent::Changed(path)) => self.on_event(path),
            Input::Event(FileEvent::Overflow) => {
                self.needs_sync = true;
                self.pending.add(self.files.base().to_owned(), Instant::now());
            }
            Input::Sources(paths) => self.add_sources(&paths),
            Input::Outcome { failed } => self.failed = failed,
            Input::Settings(settings) => self.apply_settings(settings),
            Input::Stop => {}
        }
    }

    fn on_event(&mut self, path: PathBuf) {
        if path.is_dir() {
            self.needs_sync |= !self.files.skips(&path);
            return;
        }
        // The path may have been a watched directory.
        self.backend.forget(&path);
        self.on_change(path);
    }

    fn on_change(&mut self, path: PathBuf) {
        let now = Instant::now();
        match self.files.relevance(&path) {
            Relevance::Reload => self.pending.add(path, now),
            Relevance::IfImported if self.failed => self.pending.add(path, now),
            Relevance::IfImported => {
                if self.unmatched.len() < MAX_UNMATCHED {
                    self.unmatched.insert(path, now);
                }
                self.ask_at = now;
            }
            Relevance::None => {}
        }
    }

    fn add_sources(&mut self, paths: &[PathBuf]) {
        let now = Instant::now();
        let mut has_new = false;
        for path in paths {
            let path = if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
                path.clone()
            } else {
                directories::canonical(path)
            };
            has_new |= self.files.add(&path);
            // The file changed before this report, perhaps after the worker had read it.
            if self.unmatched.remove(&path).is_some_and(|changed| now < changed + UNMATCHED_TIME) {
                self.pending.add(path, now);
            }
        }
        if has_new {
            self.sync(false);
            tracing::debug!(?paths, "watching the files that a worker has loaded");
        }
    }

    fn apply_settings(&mut self, settings: WatchSettings) {
        let WatchSettings { rules, delay, poll } = settings;
        self.git_lock = rules.roots.first().and_then(|root| directories::git_lock(root));
        self.pending.set_delay(delay);
        self.files.set_rules(rules);
        match (&self.backend, poll) {
            (Backend::Inotify(..), true) => self.start_polling(),
            (Backend::Poll(_), false) => {
                let inputs = self.inputs_tx.clone();
                // Fails only after the thread has ended.
                match Backend::inotify(move |event| drop(inputs.send(Input::Event(event)))) {
                    Ok(backend) => self.backend = backend,
                    Err(error) => self.fall_back_to_polling(&error),
                }
            }
            _ => {}
        }
        self.sync(false);
    }

    /// Watches the directories that exist now. inotify has reported no change in a directory that
    /// it did not watch before, so the files there that have just been modified count as changed.
    /// `are_created`: directories were created or moved, so all files in the newly watched ones
    /// count.
    fn sync(&mut self, are_created: bool) {
        let now = SystemTime::now();
        let since = self.synced_at.map(|at| at.max(now - SOURCES_INTERVAL) - CLOCK_TOLERANCE);
        self.synced_at = Some(now);
        let wanted = directories::find(&self.files);
        if wanted.is_truncated && !std::mem::replace(&mut self.warned_about_size, true) {
            tracing::warn!(
                "reload.on_change: below {} are more than {MAX_DIRECTORIES} directories; watching some of them, and all \
                 imported files. Exclude others with reload.exclude",
                self.files.base().display()
            );
        }
        match self.backend.watch(&wanted, &self.files) {
            Ok(added) => {
                let files = added.iter().flat_map(|directory| directories::files_in(directory));
                let counts = |file: &PathBuf| {
                    are_created || since.is_some_and(|since| directories::has_changed_since(file, since))
                };
                let changed: Vec<PathBuf> = files.filter(counts).collect();
                for file in changed {
                    self.on_change(file);
                }
            }
            Err(error) => self.fall_back_to_polling(&error),
        }
    }

    fn fall_back_to_polling(&mut self, InotifyError(reason): &InotifyError) {
        self.start_polling();
        tracing::warn!(
            "reload.on_change: inotify cannot watch the application's files: {reason}. Polling the files every \
             {POLL_INTERVAL:?} instead; reload.poll = true polls without this warning"
        );
    }

    fn start_polling(&mut self) {
        self.backend = Backend::Poll(FileSnapshot::new(&directories::find(&self.files), &self.files));
        self.poll_at = Instant::now() + POLL_INTERVAL;
    }

    fn run_timers(&mut self, now: Instant) {
        if self.ask_at <= now {
            self.ask_at = now + SOURCES_INTERVAL;
            self.unmatched.retain(|_, changed| now < *changed + UNMATCHED_TIME);
            (self.sink)(WatchNotice::SourcesWanted);
        }
        if let Backend::Poll(snapshot) = &mut self.backend
            && self.poll_at <= now
        {
            let later = FileSnapshot::new(&directories::find(&self.files), &self.files);
            let changed = snapshot.advance(later);
            for path in changed {
                self.on_change(path);
            }
            self.poll_at = Instant::now() + POLL_INTERVAL;
        }
        let is_busy = self.git_lock.as_deref().is_some_and(Path::exists);
        // A deleted source is a change of the application; any other missing file was temporary.
        let files = &self.files;
        let counts = |path: &Path| files.is_source(path) || path.exists();
        if let Some(changes) = self.pending.take(is_busy, Instant::now(), counts) {
            (self.sink)(WatchNotice::Changed(changes));
        }
    }
}
