//! Finds the database files in the application's settings: its user must be able to write them.

use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::config::App;
use crate::pool::UserIdentity;

const SCRIPT: &str = include_str!("databases.py");

/// Time for the import. It succeeded before, in the worker.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Imports the application once more and returns its database files.
///
/// # Errors
/// When the process cannot be started or read. A failing import is not an error: the worker had imported it.
pub(super) fn find(app: &App, identity: &UserIdentity) -> io::Result<Vec<PathBuf>> {
    let mut command = Command::new(&app.python.path);
    identity.apply(&mut command);
    command.arg("-c").arg(SCRIPT).arg(&app.target.module).arg(&app.target.attribute);
    command.arg(if app.target.factory { "1" } else { "0" }).arg(&app.directory).args(&app.pythonpath);
    command.envs(app.env.iter().map(|(name, value)| (name, value)));
    command.current_dir(&app.directory).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let mut pipe = child.stdout.take().ok_or_else(|| io::Error::other("it has no standard output"))?;
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).map(|_| bytes)
    });
    let begun = Instant::now();
    while child.try_wait()?.is_none() {
        if begun.elapsed() > TIMEOUT {
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // Processes that the application started would keep the pipe open. ESRCH: none is left.
    let group = nix::unistd::Pid::from_raw(child.id().cast_signed());
    match nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
        Err(errno) => return Err(errno.into()),
    }
    let bytes = reader.join().map_err(|_| io::Error::other("the reader panicked"))??;
    let paths = bytes.split(|byte| *byte == 0).filter(|path| !path.is_empty());
    Ok(paths.map(|path| PathBuf::from(std::ffi::OsString::from_vec(path.to_vec()))).collect())
}
