//! Finds the directories to watch and the real paths of files. Only this file of the module reads
//! directories.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::rules::WatchedFiles;

/// Maximum number of watched directories. More are a mistake, such as the application's directory
/// being `/`.
pub(super) const MAX_DIRECTORIES: usize = 20_000;

/// The directories to watch, without symbolic links in their paths.
#[derive(Debug, Default)]
pub(super) struct DirectorySet {
    pub(super) paths: BTreeSet<PathBuf>,
    /// Whether there are more than [`MAX_DIRECTORIES`].
    pub(super) is_truncated: bool,
}

/// Finds the directories that exist.
pub(super) fn find(files: &WatchedFiles) -> DirectorySet {
    let mut found = DirectorySet::default();
    let directories: BTreeSet<&Path> = files.directories().collect();
    found.paths.extend(directories.into_iter().filter_map(canonical_directory));
    // Separate from `found.paths`: a source's directory may also be in a tree, and the walk of that
    // tree must descend into it.
    let mut visited: BTreeSet<PathBuf> = BTreeSet::new();
    let mut open: Vec<PathBuf> = files.trees().filter_map(canonical_directory).collect();
    while let Some(directory) = open.pop() {
        if !visited.insert(directory.clone()) {
            continue;
        }
        if visited.len() > MAX_DIRECTORIES {
            found.is_truncated = true;
            break;
        }
        open.extend(subdirectories(&directory).filter(|path| !files.skips(path) && !is_environment(path)));
    }
    found.paths.append(&mut visited);
    found
}

/// Returns the files in a directory; none if it cannot be read.
pub(super) fn files_in(directory: &Path) -> impl Iterator<Item = PathBuf> {
    entries(directory).filter(|(_, is_directory)| !is_directory).map(|(path, _)| path)
}

/// Returns whether a file was modified at this time or later.
pub(super) fn has_changed_since(file: &Path, time: SystemTime) -> bool {
    file.metadata().and_then(|metadata| metadata.modified()).is_ok_and(|modified| modified >= time)
}

/// Returns the subdirectories of a directory, without symbolic links.
fn subdirectories(directory: &Path) -> impl Iterator<Item = PathBuf> {
    entries(directory).filter(|(_, is_directory)| *is_directory).map(|(path, _)| path)
}

/// Returns the path of each entry of a directory, and whether the entry is a directory. A deleted
/// or unreadable directory has no entries.
fn entries(directory: &Path) -> impl Iterator<Item = (PathBuf, bool)> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| (entry.path(), entry.file_type().is_ok_and(|kind| kind.is_dir())))
}

/// Returns whether the directory is a virtual environment of venv or conda.
fn is_environment(directory: &Path) -> bool {
    directory.join("pyvenv.cfg").exists() || directory.join("conda-meta").exists()
}

fn canonical_directory(path: &Path) -> Option<PathBuf> {
    path.canonicalize().ok().filter(|path| path.is_dir())
}

/// Resolves the symbolic links in the path's directory. The last component stays: it may be a link,
/// or not exist.
pub(super) fn canonical(path: &Path) -> PathBuf {
    let parts = path.parent().and_then(|parent| parent.canonicalize().ok()).zip(path.file_name());
    parts.map_or_else(|| path.to_owned(), |(parent, name): (PathBuf, &OsStr)| parent.join(name))
}

/// Returns the path of git's lock for the work tree that contains the directory. The lock exists
/// while git changes files.
pub(super) fn git_lock(directory: &Path) -> Option<PathBuf> {
    let root = directory.ancestors().find(|ancestor| ancestor.join(".git").is_dir())?;
    Some(root.join(".git/index.lock"))
}
