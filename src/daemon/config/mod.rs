//! The configuration: reading, checking, and the checked, immutable types.
//!
//! [`load`] merges command line, environment, file and defaults (in this order of precedence),
//! checks the resulting values, and returns either a [`Config`] that needs no further check, or
//! *all* errors at once. `cli` calls it.
//!
//! This module does not log, read the process's environment or current directory (both are
//! arguments), or start an interpreter: a worker finds out whether the application can be imported.
//! It reads no file but the configuration and the pages of `[errors]`. It checks that the
//! application's directory, the interpreter and the directories of `[[static]]` exist, because a
//! missing one is a configuration error, not a boot failure.
//!
//! A value that a source of higher precedence overrides is not checked; an unknown key is an error
//! in every source.

mod access_format;
mod bind;
mod certificates;
mod check;
mod checker;
mod combinations;
mod compression;
mod control;
mod credentials;
mod daemon;
mod entry;
mod environment;
mod error;
mod error_pages;
mod file;
mod foreign_file;
mod forwarding;
mod fs;
mod health;
mod idle_exit;
mod keys;
mod listen;
mod listeners;
mod log;
mod mounts;
mod on_change;
mod paths;
mod preload;
mod proxy;
mod python;
mod read;
mod reload;
mod responses;
mod restart;
mod rules;
mod settings;
mod start_message;
mod static_mounts;
mod target;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod timeouts;
mod tls;
mod trusted;
pub mod units;
mod value;
mod worker_limits;
mod worker_user;
mod workers;

use std::path::{Path, PathBuf};

use checker::Layers;

pub use access_format::{AccessFormat, Atom, FormatPiece};
pub use bind::Bind;
pub(crate) use checker::Loaded;
pub use daemon::DaemonSettings;
pub use environment::Environment;
pub(crate) use environment::{CONFIG_VARIABLE, DUMPABLE_VARIABLE, FDSTORE_VARIABLE, unread_variables};
pub use error::{ConfigError, ConfigErrors, ValueError};
pub(crate) use foreign_file::HYPERCORN_NAMES;
pub use listen::{Listen, MAX_LISTENERS, METRICS_SOCKET, NamedListener};
pub use log::{AccessLog, Level, Log, LogFormat};
pub use proxy::{Proxy, ProxyField, ProxyHeaders, TrustedProxies};
pub(crate) use python::find_program;
pub use reload::{OnChange, Reload};
pub use responses::{Algorithm, Compression, Control, ErrorPage, ErrorStatus, Health};
pub use restart::{PendingChange, SettingText, pending_changes};
pub use settings::{
    App, AppArgumentDefaults, Asgi, Config, Hooks, Http, Interface, Lifespan, Limits, Loop, Python,
    PythonSource, SearchedDirectory, Underscores, WebSocket,
};
pub(crate) use start_message::MAX_START_BYTES;
pub use static_mounts::{FollowLinks, ImmutableFiles, SendfileDirectory, StaticFallback, StaticMount};
pub use target::Target;
pub use timeouts::{PathRule, Timeouts};
pub use tls::{CertificateFiles, ClientAuth, Tls, TlsOrigins, TlsVersion};
pub(crate) use trusted::forwarded_allow_ips;
pub(crate) use value::{Layer, Setting, Value, overlay};
pub use workers::{AccountName, Count, MaxTasks, Preload, Retry, WorkerUser, Workers};

#[cfg(test)]
pub(crate) use keys::is_key;
pub(crate) use keys::{SECTIONS, key_of_word, key_position, name, nearest, variable_name};

/// The configuration file.
#[derive(Debug)]
pub(crate) enum FileSource<'a> {
    /// There is no file.
    None,
    /// The TOML file at this path.
    Toml(&'a Path),
    /// The settings that a `gunicorn.conf.py` has made.
    Gunicorn {
        /// Its path; `None` for a module.
        path: Option<&'a Path>,
        /// Its settings.
        layer: Layer,
    },
}

/// The file that is read when neither APP nor `--config` is given.
pub const DEFAULT_FILE: &str = "/etc/rgun/rgun.toml";

/// Finds the interpreter for a `gunicorn.conf.py` in `directory`, before the file's settings are
/// known: the configured interpreter, else that of the application's directory, else that of
/// `directory`.
///
/// # Errors
/// The errors in `app.directory` and `app.python`.
pub(crate) fn find_interpreter(
    command_line: &Layer,
    environment: &Environment,
    cwd: &Path,
    program: Option<&Path>,
    directory: Option<&Path>,
) -> Result<PathBuf, ConfigErrors> {
    let variables = environment::read(environment, &mut Vec::new());
    let layers = Layers {
        command_line: command_line.clone(),
        variables,
        file: Layer::new(),
        environment,
        path: None,
        cwd,
        program,
    };
    let python = check::find_interpreter(&layers)?;
    let is_guess = matches!(python.source, PythonSource::Path);
    let other = directory.filter(|_| is_guess).map(|directory| Layers { cwd: directory, ..layers });
    Ok(match other.map(|layers| check::find_interpreter(&layers)) {
        Some(Ok(other)) => other.path,
        _ => python.path,
    })
}

/// Returns the errors of a file whose text is `text`. Errors about paths are omitted, because the
/// paths may be on another machine.
#[cfg(test)]
pub(crate) fn errors_of_file(text: &str) -> String {
    let (mut errors, path) = (Vec::new(), Path::new("rgun.toml"));
    let file = file::parse(path, text, &mut errors).unwrap_or_default();
    let environment = Environment::default();
    let (command_line, variables) = (Layer::new(), Layer::new());
    let layers = Layers {
        command_line,
        variables,
        file,
        environment: &environment,
        path: Some(path),
        cwd: path,
        program: None,
    };
    let elsewhere = [name::DIRECTORY, name::PYTHON, name::CERT, name::KEY, name::TARGET, name::PYTHONPATH];
    match check::check(&layers, errors) {
        Ok(_) => String::new(),
        Err(ConfigErrors(errors)) => {
            let errors = errors.into_iter().filter(|error| {
                !elsewhere.contains(&error.key.as_str()) && !error.key.starts_with("static[")
            });
            ConfigErrors(errors.collect()).to_string()
        }
    }
}

/// Merges and checks the sources: `command_line` over `environment` over the file over the
/// defaults. `program` is the path that `rgun` was started by.
///
/// # Errors
/// All errors at once. The exception is a file that cannot be read or is not TOML: then only this
/// error and errors in the names of variables are reported.
pub(crate) fn load(
    command_line: Layer,
    environment: &Environment,
    file: FileSource<'_>,
    cwd: &Path,
    program: Option<&Path>,
) -> Result<Loaded, ConfigErrors> {
    let mut errors = Vec::new();
    let mut variables = environment::read(environment, &mut errors);
    let (path, file) = match file {
        FileSource::None => (None, Layer::new()),
        FileSource::Toml(path) => match file::read(path, &mut errors) {
            Some(layer) => (Some(path), layer),
            // The file's settings are unknown, so further errors could be wrong.
            None => return Err(ConfigErrors(errors)),
        },
        FileSource::Gunicorn { path, layer } => {
            // In gunicorn, the file overrides these variables.
            variables.retain(|key, setting| !layer.contains_key(key) || !environment::is_gunicorns(setting));
            (path, layer)
        }
    };
    let has_root_path =
        [&command_line, &variables, &file].iter().any(|layer| layer.contains_key(name::ROOT_PATH));
    // gunicorn takes the root path from SCRIPT_NAME. Without APP on the command line, the variable
    // is ignored: it is probably left over from CGI.
    if command_line.contains_key(name::TARGET)
        && !has_root_path
        && let Some(path) = environment.value(environment::SCRIPT_NAME)
    {
        let path = path.to_string_lossy().into_owned();
        variables.insert(name::ROOT_PATH, Setting::variable(environment::SCRIPT_NAME, path));
    }
    check::check(&Layers { command_line, variables, file, environment, path, cwd, program }, errors)
}
