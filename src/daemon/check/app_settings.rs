//! Reads the application's settings: the database files, which its user must be able to write, and
//! Django's `STATIC_URL`, which something must serve.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::config::{App, Config, DEFAULT_FILE, StaticMount};
use crate::pool::UserIdentity;

const SCRIPT: &str = include_str!("app_settings.py");

/// Maximum time for the import, which has succeeded in the worker before.
const IMPORT_TIMEOUT: Duration = Duration::from_mins(1);

/// The settings of the application that concern the service.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AppSettings {
    /// Paths of SQLite databases.
    pub(super) databases: Vec<PathBuf>,
    /// Django's `STATIC_URL`, if the application does not serve it.
    pub(super) static_url: Option<String>,
    /// Django's `STATIC_ROOT`.
    pub(super) static_root: Option<String>,
}

impl AppSettings {
    /// Parses the output of the script.
    fn parse(bytes: &[u8]) -> Self {
        let mut settings = Self::default();
        for record in bytes.split(|byte| *byte == 0) {
            let Some(equals) = record.iter().position(|byte| *byte == b'=') else { continue };
            let (name, value) = (&record[..equals], &record[equals + 1..]);
            let text = || Some(String::from_utf8_lossy(value).into_owned());
            match name {
                b"database" => settings.databases.push(PathBuf::from(OsString::from_vec(value.to_vec()))),
                b"static_url" => settings.static_url = text(),
                b"static_root" => settings.static_root = text(),
                _ => {}
            }
        }
        settings
    }

    /// Returns a warning if neither the application nor a `[[static]]` serves Django's static
    /// files.
    pub(super) fn static_warning(&self, config: &Config) -> Option<String> {
        let url = self.static_url.as_deref()?;
        // A proxy may pass on the path without the application's own prefix.
        let below = url.strip_prefix(config.app.root_path.as_str()).unwrap_or(url);
        let is_served = |mount: &StaticMount| url.starts_with(&mount.url) || below.starts_with(&mount.url);
        if config.static_mounts.iter().any(is_served) {
            return None;
        }
        let file = config.origin.as_deref().unwrap_or(Path::new(DEFAULT_FILE)).display();
        let example = config.app.directory.join("static").display().to_string();
        let root = self.static_root.as_deref().unwrap_or(&example);
        let fill = match self.static_root {
            Some(_) => "fill the directory with `manage.py collectstatic`",
            None => {
                "set STATIC_ROOT to a directory like this one, and fill it with `manage.py collectstatic`"
            }
        };
        Some(format!(
            "neither rgun nor the application serves Django's STATIC_URL, {url:?}: unless a proxy does, add these lines to \
             {file}, and {fill}:\n    [[static]]\n    url = {url:?}\n    directory = {root:?}"
        ))
    }
}

/// Imports the application once more and returns its settings.
///
/// # Errors
/// When the process cannot be started or its output cannot be read. A failing import is ignored,
/// because the worker has imported the application before.
pub(super) fn read(app: &App, identity: Option<&UserIdentity>) -> io::Result<AppSettings> {
    let mut command = Command::new(&app.python.path);
    if let Some(identity) = identity {
        identity.apply(&mut command);
    }
    command.arg("-c").arg(SCRIPT).arg(&app.target.module).arg(&app.target.attribute);
    command.arg(if app.target.factory { "1" } else { "0" }).arg(&app.directory).args(&app.pythonpath);
    command.envs(app.env.iter().map(|(name, value)| (name, value)));
    command.current_dir(&app.directory).process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    let mut pipe =
        child.stdout.take().ok_or_else(|| io::Error::other("the process has no standard output"))?;
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).map(|_| bytes)
    });
    let begun = Instant::now();
    while child.try_wait()?.is_none() {
        if begun.elapsed() > IMPORT_TIMEOUT {
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // Processes that the application has started would keep the pipe open. ESRCH: there are none.
    let group = nix::unistd::Pid::from_raw(child.id().cast_signed());
    match nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
        Err(errno) => return Err(errno.into()),
    }
    let bytes = reader.join().map_err(|_| io::Error::other("the reader panicked"))??;
    Ok(AppSettings::parse(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_parsed_by_name() {
        let parsed =
            AppSettings::parse(b"database=/a=b\0other=1\0static_url=/static/\0broken\0database=/c\xff\0");
        assert_eq!(parsed.databases.len(), 2);
        assert_eq!(parsed.databases[0], Path::new("/a=b"));
        assert_eq!((parsed.static_url.as_deref(), parsed.static_root), (Some("/static/"), None));
    }
}
