//! The source of changes: inotify by the crate `notify`, or polling.
//!
//! Polling is implemented here. The crate's own polling compares modification times in whole
//! seconds, or else the content of all files in the watched directories, including databases.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{ErrorKind, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::directories::{self, DirectorySet};
use super::rules::{Relevance, WatchedFiles};

/// A source of changes.
#[derive(Debug)]
pub(super) enum Backend {
    /// The watcher, and the directories that it watches.
    Inotify(RecommendedWatcher, BTreeSet<PathBuf>),
    /// The files at the last poll.
    Poll(FileSnapshot),
}

/// A change in a watched directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FileEvent {
    /// The file or directory at this path was written, created, moved or deleted.
    Changed(PathBuf),
    /// The kernel has dropped events.
    Overflow,
}

/// The reason why inotify cannot be used: the system's limit, or another error.
#[derive(Debug)]
pub(super) struct InotifyError(pub(super) String);

impl Backend {
    /// Starts inotify, without a watched directory yet. A thread of the crate calls `sink`.
    ///
    /// # Errors
    /// inotify cannot be used.
    pub(super) fn inotify(sink: impl Fn(FileEvent) + Send + 'static) -> Result<Self, InotifyError> {
        let handler = move |event: notify::Result<Event>| {
            // An error concerns one directory, which was deleted.
            let Ok(event) = event else { return };
            if event.need_rescan() {
                sink(FileEvent::Overflow);
            } else if is_change(event.kind) {
                event.paths.into_iter().for_each(|path| sink(FileEvent::Changed(path)));
            }
        };
        let watcher = notify::recommended_watcher(handler).map_err(|error| InotifyError::new(&error))?;
        Ok(Self::Inotify(watcher, BTreeSet::new()))
    }

    /// Watches exactly these directories. Returns those that inotify did not watch before; none
    /// when polling.
    ///
    /// # Errors
    /// inotify cannot watch them all.
    pub(super) fn watch(
        &mut self,
        wanted: &DirectorySet,
        files: &WatchedFiles,
    ) -> Result<Vec<PathBuf>, InotifyError> {
        let (watcher, watched) = match self {
            Self::Inotify(watcher, watched) => (watcher, watched),
            Self::Poll(snapshot) => {
                snapshot.set_scope(wanted, files);
                return Ok(Vec::new());
            }
        };
        for gone in watched.difference(&wanted.paths) {
            // Fails for a deleted directory, which the kernel no longer watches.
            let _ = watcher.unwatch(gone);
        }
        watched.retain(|directory| wanted.paths.contains(directory));
        let mut added = Vec::new();
        for directory in &wanted.paths {
            if watched.contains(directory) {
                continue;
            }
            match watcher.watch(directory, RecursiveMode::NonRecursive) {
                Ok(()) => added.push(directory.clone()),
                Err(error) if matches!(error.kind, ErrorKind::MaxFilesWatch) => {
                    return Err(InotifyError::new(&error));
                }
                // The directory was deleted, or cannot be read.
                Err(error) => tracing::debug!(%error, "not watching {}", directory.display()),
            }
        }
        watched.extend(added.iter().cloned());
        Ok(added)
    }

    /// Forgets a directory that was deleted or moved, and the directories below it.
    pub(super) fn forget(&mut self, path: &Path) {
        if let Self::Inotify(watcher, watched) = self
            && watched.contains(path)
        {
            for directory in watched.extract_if(.., |directory| directory.starts_with(path)) {
                // Fails for a deleted directory, which the kernel no longer watches.
                let _ = watcher.unwatch(&directory);
            }
        }
    }
}

impl InotifyError {
    fn new(error: &notify::Error) -> Self {
        Self(match &error.kind {
            ErrorKind::MaxFilesWatch => {
                "its limit is reached; raise it: sysctl fs.inotify.max_user_watches=524288".to_owned()
            }
            ErrorKind::Io(error) if error.raw_os_error() == Some(nix::libc::EMFILE) => {
                "its limit is reached; raise it: sysctl fs.inotify.max_user_instances=512".to_owned()
            }
            _ => error.to_string(),
        })
    }
}

/// Returns whether a file's content or name has changed. Reading a file or changing its mode does
/// not count. touch(1) counts, because it opens the file for writing.
fn is_change(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Create(_)
        | EventKind::Remove(_)
        | EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Name(_)) => true,
        EventKind::Modify(_) | EventKind::Access(_) | EventKind::Any | EventKind::Other => false,
    }
}

/// The relevant files in the watched directories at one time.
#[derive(Debug)]
pub(super) struct FileSnapshot(HashMap<PathBuf, FileVersion>);

/// Modification time, size and inode: one of them changes when a file is written or replaced.
type FileVersion = (Option<SystemTime>, u64, u64);

impl FileSnapshot {
    /// Reads the directories.
    pub(super) fn new(directories: &DirectorySet, files: &WatchedFiles) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let paths = directories.paths.iter().flat_map(|directory| directories::files_in(directory));
        let relevant = paths.filter(|path| files.relevance(path) != Relevance::None);
        let version = |path: PathBuf| {
            let metadata = path.metadata().ok()?;
            Some((path, (metadata.modified().ok(), metadata.len(), metadata.ino())))
        };
        Self(relevant.filter_map(version).collect())
    }

    /// Adds the files that count now and were not known, and removes those that no longer count.
    /// The others keep their version, so that the next poll still finds changes made since the last
    /// one.
    fn set_scope(&mut self, directories: &DirectorySet, files: &WatchedFiles) {
        let is_watched = |path: &PathBuf| {
            path.parent().is_some_and(|directory| directories.paths.contains(directory))
                && files.relevance(path) != Relevance::None
        };
        self.0.retain(|path, _| is_watched(path));
        for (path, version) in Self::new(directories, files).0 {
            self.0.entry(path).or_insert(version);
        }
    }

    /// Replaces the snapshot with a later one, and returns the files that differ.
    pub(super) fn advance(&mut self, later: Self) -> Vec<PathBuf> {
        let earlier = std::mem::replace(&mut self.0, later.0);
        let changed = self.0.iter().filter(|(path, version)| earlier.get(*path) != Some(*version));
        let deleted = earlier.keys().filter(|path| !self.0.contains_key(*path));
        changed.map(|(path, _)| path).chain(deleted).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_scope_keeps_the_changes_since_the_last_poll() {
        let place = std::env::temp_dir().join(format!("rgun-scope-{}", std::process::id()));
        std::fs::create_dir_all(&place).unwrap();
        let [kept, changed, deleted, added] = ["a.py", "b.py", "c.py", "d.py"].map(|name| place.join(name));
        let mut files = WatchedFiles::default();
        for path in [&kept, &changed, &deleted] {
            std::fs::write(path, "1").unwrap();
            files.add(path);
        }
        let mut snapshot = FileSnapshot::new(&directories::find(&files), &files);
        std::fs::write(&changed, "a = 2").unwrap();
        std::fs::remove_file(&deleted).unwrap();
        std::fs::write(&added, "1").unwrap();
        files.add(&added);
        snapshot.set_scope(&directories::find(&files), &files);
        let mut found = snapshot.advance(FileSnapshot::new(&directories::find(&files), &files));
        found.sort();
        assert_eq!(found, [changed, deleted]);
        std::fs::remove_dir_all(&place).unwrap();
    }
}
