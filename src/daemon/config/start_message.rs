//! Settings that are part of the first message to each worker, whose length is limited
//! ([`rgun_channel::control::MAX_MESSAGE_BYTES`]).

use std::path::{Path, PathBuf};

use super::checker::Checker;
use super::keys::name;
use super::value::Value;
use super::{ValueError, paths};

/// Maximum length in bytes of each of [`TEXTS`]: that of a path (`PATH_MAX` in limits.h).
const MAX_TEXT: usize = 4096;

/// Maximum length in bytes of all directories of `app.pythonpath` together. With it, all of [`TEXTS`] and
/// `workers.preload`, the message still has room for dozens of listeners.
const MAX_PYTHONPATH: usize = 16 * 1024;

/// Bytes that the message has for each directory besides its path.
const OVERHEAD: usize = 4;

/// The keys whose values are single texts of any length. Paths that are too long do not exist.
const TEXTS: [&str; 8] = [
    name::TARGET,
    name::ROOT_PATH,
    name::PROBE,
    name::POST_FORK,
    name::POST_WORKER_INIT,
    name::WORKER_EXIT,
    name::WORKER_ABORT,
    name::CHILD_EXIT,
];

/// Reads `app.pythonpath`, and reports values that are too long. Relative directories are relative to `base`.
pub(super) fn read(checker: &mut Checker<'_>, base: &Path) -> Vec<PathBuf> {
    for key in TEXTS {
        if let Some(setting) = checker.setting(key)
            && let Value::Text(text) = &setting.value
            && text.len() > MAX_TEXT
        {
            let error = ValueError::new(format!("has {} bytes; the maximum is {MAX_TEXT}", text.len()));
            checker.push_error(key, setting, error.with_hint("write a shorter value"));
        }
    }
    let pythonpath = checker.read(name::PYTHONPATH, Vec::new(), |setting| paths::pythonpath(setting, base));
    let bytes: usize = pythonpath.iter().map(|path| path.as_os_str().len() + OVERHEAD).sum();
    if bytes > MAX_PYTHONPATH
        && let Some(setting) = checker.setting(name::PYTHONPATH)
    {
        let error = ValueError::new(format!(
            "has {} directories of {bytes} bytes in all; the maximum is {MAX_PYTHONPATH} bytes",
            pythonpath.len()
        ))
        .with_hint("list the directories in a .pth file of the virtual environment instead");
        checker.push_error(name::PYTHONPATH, setting, error);
    }
    pythonpath
}
