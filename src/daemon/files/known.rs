//! Caches the field values of files that were served lately, so that they are not formatted for
//! each request.
//!
//! Each request still opens its file. The values are used only while the file's state is unchanged,
//! so a changed file never gets old values.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderValue;

use super::condition::Validators;
use super::encoding::Encoding;
use super::media_type::MediaType;
use super::state::FileState;

/// Number of slots in the table, a power of two. A file takes about half a KiB.
const MAX_FILES: usize = 256;

/// Length in bytes of the longest path in the table.
const MAX_PATH: usize = 256;

/// A file, and the values of the fields that it alone determines.
#[derive(Debug)]
pub(super) struct KnownFile {
    /// The path below the directory.
    path: Box<[u8]>,
    pub(super) state: FileState,
    /// The content coding, if the file is precompressed.
    encoding: Option<Encoding>,
    /// Chosen by the path's extension.
    pub(super) media_type: MediaType,
    pub(super) validators: Validators,
    /// `Content-Length` of the whole file.
    pub(super) content_length: HeaderValue,
}

impl KnownFile {
    fn new(path: &[u8], state: FileState, encoding: Option<Encoding>) -> Self {
        Self {
            path: path.into(),
            encoding,
            media_type: MediaType::of(path),
            validators: Validators::of(&state, encoding),
            content_length: HeaderValue::from(state.len),
            state,
        }
    }
}

/// A table of files by their path below one directory. Each path has one slot, which it may share
/// with other paths; the slot holds the file that was stored last.
#[derive(Debug)]
pub(super) struct KnownFiles {
    slots: Mutex<Box<[Option<Arc<KnownFile>>]>>,
    /// Random, so that no client can choose paths that share a slot.
    hasher: RandomState,
}

impl KnownFiles {
    /// Creates an empty table.
    pub(super) fn new() -> Self {
        Self { slots: Mutex::new(vec![None; MAX_FILES].into_boxed_slice()), hasher: RandomState::new() }
    }

    /// Returns the file that was last stored for a path.
    pub(super) fn get(&self, path: &[u8]) -> Option<Arc<KnownFile>> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get(self.slot_index(path))?.as_ref().filter(|file| *file.path == *path).cloned()
    }

    /// Returns `known` if it describes this file; otherwise describes the file and stores the
    /// result.
    pub(super) fn describe(
        &self,
        known: Option<Arc<KnownFile>>,
        path: &[u8],
        state: FileState,
        encoding: Option<Encoding>,
    ) -> Arc<KnownFile> {
        if let Some(known) = known
            && known.state == state
            && known.encoding == encoding
        {
            return known;
        }
        let file = Arc::new(KnownFile::new(path, state, encoding));
        if path.len() <= MAX_PATH {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(slot) = slots.get_mut(self.slot_index(path)) {
                *slot = Some(Arc::clone(&file));
            }
        }
        file
    }

    /// Removes the file of a path that now names something else.
    pub(super) fn forget(&self, path: &[u8]) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get_mut(self.slot_index(path)) {
            *slot = None;
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the low bits are all that is used")]
    fn slot_index(&self, path: &[u8]) -> usize {
        self.hasher.hash_one(path) as usize % MAX_FILES
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::FileTime;
    use super::*;

    fn state(len: u64) -> FileState {
        let time = FileTime { seconds: 1_577_836_800, nanoseconds: 0 };
        FileState { device: 1, inode: 2, len, modified: time, changed: time }
    }

    #[test]
    fn values_are_reused_only_for_the_same_state_and_coding() {
        let files = KnownFiles::new();
        let describe = |state, encoding| files.describe(files.get(b"a.css"), b"a.css", state, encoding);
        let first = describe(state(10), None);
        assert_eq!(first.validators.etag, "\"5e0be100-0-a\"");
        assert!(Arc::ptr_eq(&first, &describe(state(10), None)));
        let coded = describe(state(10), Some(Encoding::Gzip));
        assert_eq!(coded.validators.etag, "\"5e0be100-0-a-gzip\"");
        for (name, changed) in [
            ("length", state(11)),
            ("device", FileState { device: 3, ..state(10) }),
            ("inode", FileState { inode: 3, ..state(10) }),
            (
                "modified",
                FileState { modified: FileTime { seconds: 1_577_836_801, nanoseconds: 0 }, ..state(10) },
            ),
            (
                "changed",
                FileState { changed: FileTime { seconds: 1_577_836_800, nanoseconds: 1 }, ..state(10) },
            ),
        ] {
            let before = describe(state(10), None);
            assert!(!Arc::ptr_eq(&before, &describe(changed.clone(), None)), "{name}");
            assert_eq!(describe(changed.clone(), None).state, changed, "{name}");
        }
    }

    #[test]
    fn table_keeps_a_bounded_number_of_files() {
        let files = KnownFiles::new();
        let paths: Vec<String> = (0..4 * MAX_FILES).map(|number| format!("{number}.css")).collect();
        for path in &paths {
            drop(files.describe(None, path.as_bytes(), state(10), None));
            assert!(files.get(path.as_bytes()).is_some_and(|file| *file.path == *path.as_bytes()));
        }
        let kept = paths.iter().filter(|path| files.get(path.as_bytes()).is_some()).count();
        assert!((1..=MAX_FILES).contains(&kept), "{kept}");
        let last = paths.last().map(String::as_bytes).unwrap_or_default();
        files.forget(last);
        assert!(files.get(last).is_none());
        let long = vec![b'a'; MAX_PATH + 1];
        drop(files.describe(None, &long, state(10), None));
        assert!(files.get(&long).is_none());
    }
}
