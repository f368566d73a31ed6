//! Finds the installed worker extension.

use std::io;
use std::path::{Path, PathBuf};

/// File name of the worker extension.
pub const EXTENSION: &str = "rgun_worker.abi3.so";

/// File name of the workers' main module, which is in the directory of the extension
/// (`src/worker/main_module.py`).
const MAIN_MODULE: &str = "rgun_main.py";

/// Finds the worker extension: next to the binary (a build tree), or in `../lib/rgun` (installed).
///
/// # Errors
/// If the extension is in neither place (the message names both), or the main module is not in the
/// same directory.
pub fn find_extension() -> io::Result<PathBuf> {
    let binary = std::env::current_exe()?;
    let directory = binary.parent().unwrap_or(Path::new("/"));
    let candidates = [directory.join(EXTENSION), directory.join("../lib/rgun").join(EXTENSION)];
    let extension = candidates.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        let [beside, installed] = &candidates;
        io::Error::new(
            io::ErrorKind::NotFound,
            format!(
                "the worker extension is neither at {} nor at {}; `make build` creates it",
                beside.display(),
                installed.display()
            ),
        )
    })?;
    let main_module = extension.with_file_name(MAIN_MODULE);
    if main_module.is_file() {
        return Ok(extension);
    }
    let message = format!("{} is missing, but workers need it; reinstall rgun", main_module.display());
    Err(io::Error::new(io::ErrorKind::NotFound, message))
}
