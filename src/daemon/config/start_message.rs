//! Settings that are part of the first message to each worker, whose length is limited: `pool` compares
//! [`MAX_START_BYTES`] with the channel's maximum.

use std::path::{Path, PathBuf};

use super::checker::Checker;
use super::keys::name;
use super::listen::MAX_LISTENERS;
use super::value::Value;
use super::{ValueError, paths, preload};

/// Maximum length in bytes of each of [`TEXTS`].
const MAX_TEXT: usize = 2048;

/// Maximum length in bytes of all directories of `app.pythonpath` together.
const MAX_PYTHONPATH: usize = 16 * 1024;

/// Bytes that the message has for each text besides the text.
const OVERHEAD: usize = 4;

/// Maximum length in bytes of a listener, which is that of a unix socket: "localhost", "80", and a path of 107 bytes
/// (unix(7)), each of which becomes U+FFFD, of three bytes, if the path is not UTF-8.
const LISTENER_BYTES: usize = (9 + OVERHEAD) + (2 + OVERHEAD) + (3 * 107 + OVERHEAD);

/// Maximum length in bytes of `app.directory` and `log.config`, which exist (`PATH_MAX` in limits.h).
const PATH_BYTES: usize = 4096 + OVERHEAD;

/// Numbers, choices and counts.
const OTHER_BYTES: usize = 256;

/// Maximum length in bytes of the first message to a worker, by the limits of its parts. It has the probe or the
/// modules of `workers.preload`, never both.
pub(crate) const MAX_START_BYTES: usize = (TEXTS.len() - 1) * (MAX_TEXT + OVERHEAD)
    + MAX_PYTHONPATH
    + preload::MAX_BYTES
    + preload::MAX_MODULES * OVERHEAD
    + 2 * PATH_BYTES
    + MAX_LISTENERS * LISTENER_BYTES
    + OTHER_BYTES;

/// The keys whose values are single texts of any length.
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
