//! The configuration: reading, checking, and the checked, immutable types.
//!
//! [`load`] merges command line, environment, file and defaults (in this order of precedence), checks the
//! resulting values, and returns either a [`Config`] that needs no further check, or *all* errors at once. `cli`
//! calls it.
//!
//! This module does not log, read the process's environment or current directory (both are arguments), or start an
//! interpreter: a worker finds out whether the application can be imported. Outside the configuration file it only
//! looks at the application's directory and interpreter, because a missing directory is a configuration error, not
//! a boot failure, and reads the pages of `[errors]`.
//!
//! A value that a source of higher precedence overrides is not checked; an unknown key is an error in every source.

mod answers;
mod bind;
mod certificates;
mod check;
mod checker;
mod compression;
mod entry;
mod environment;
mod error;
mod error_pages;
mod file;
mod forwarding;
mod fs;
mod health;
mod keys;
mod listen;
mod listeners;
mod log;
mod mounts;
mod paths;
mod proxy;
mod python;
mod read;
mod rules;
mod settings;
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

use std::path::Path;

pub use answers::{Algorithm, Compression, ErrorPage, ErrorStatus, Health};
pub use bind::Bind;
pub use environment::Environment;
pub(crate) use environment::{CONFIG_VARIABLE, unread_variables};
pub use error::{ConfigError, ConfigErrors, ValueError};
pub use listen::{Listen, NamedListener};
pub use log::{Level, Log, LogFormat};
pub use proxy::{Proxy, ProxyField, ProxyHeaders, TrustedProxies};
pub(crate) use python::find_program;
pub use settings::{
    App, AppArgumentDefaults, Config, Count, Hooks, Http, Interface, Lifespan, Limits, Loop, Python,
    PythonSource, Reload, Retry, SearchedDirectory, Underscores, WebSocket, Workers,
};
pub use static_mounts::{FollowLinks, ImmutableFiles, SendfileDirectory, StaticFallback, StaticMount};
pub use target::Target;
pub use timeouts::{PathRule, Timeouts};
pub use tls::{CertificateFiles, ClientAuth, Tls, TlsVersion};
pub(crate) use trusted::forwarded_allow_ips;
pub(crate) use value::{Layer, Setting, Value};

pub(crate) use keys::{SECTIONS, key_of_word, name, variable_name};

/// The file that is read when neither APP nor `--config` is given.
pub const DEFAULT_FILE: &str = "/etc/rgun/rgun.toml";

/// A checked configuration and its warnings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// The checked configuration.
    pub(crate) config: Config,
    /// For the log, one sentence each.
    pub(crate) warnings: Vec<String>,
}

/// Merges and checks the sources: `command_line` over `environment` over the file over the defaults. `program` is the
/// path that `rgun` was started by.
///
/// # Errors
/// All errors at once. The exception is a file that cannot be read or is not TOML: then only this and errors in the
/// names of variables are reported.
pub(crate) fn load(
    command_line: Layer,
    environment: &Environment,
    path: Option<&Path>,
    cwd: &Path,
    program: Option<&Path>,
) -> Result<Loaded, ConfigErrors> {
    let mut errors = Vec::new();
    let variables = environment::read(environment, &mut errors);
    let file = match path.map(|path| file::read(path, &mut errors)) {
        None => Layer::new(),
        Some(Some(layer)) => layer,
        // The file's settings are unknown, so further errors could be wrong.
        Some(None) => return Err(ConfigErrors(errors)),
    };
    check::check(&checker::Layers { command_line, variables, file, environment, path, cwd, program }, errors)
}
