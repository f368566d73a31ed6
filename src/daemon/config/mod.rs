//! What rgun was told to do: checked, immutable types.
//!
//! [`load`] merges command line, environment, file and defaults (in this order of precedence), checks the
//! winners, and returns either a [`Config`] that the rest of the daemon trusts without looking again, or *all*
//! errors at once. `cli` calls it; everybody else only reads the types.
//!
//! Nothing here logs, reads the process's environment or current directory (both are arguments), or starts an
//! interpreter: whether the application can be imported is for a worker to find out. The only look at the
//! world is at the application's directory and interpreter, which must exist, because an absent directory is a
//! configuration error, not a boot failure.
//!
//! A value that a source of higher precedence overrides is not checked; an unknown name is an error anywhere.

mod bind;
mod check;
mod environment;
mod error;
mod file;
mod fs;
mod keys;
mod paths;
mod python;
mod read;
mod rules;
mod settings;
mod target;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod trusted;
pub mod units;
mod value;

use std::path::Path;

pub use bind::Bind;
pub use environment::Environment;
pub(crate) use environment::{CONFIG_VARIABLE, unread_variables};
pub use error::{ConfigError, ConfigErrors, ValueError};
pub use python::{Python, PythonSource};
pub use settings::{
    App, Config, Count, Hooks, Http, Interface, Level, Lifespan, Limits, Listen, Log, Loop, PathRule, Reload,
    Retry, Timeouts, Underscores, WebSocket, Workers,
};
pub use target::Target;
pub use trusted::Proxy;
pub(crate) use trusted::forwarded_allow_ips;
pub(crate) use value::{Layer, Setting, Value};

pub(crate) use keys::{SECTIONS, key_of_word, name, variable_name};

/// Where the daemon looks when neither APP nor `--config` is given.
pub const DEFAULT_FILE: &str = "/etc/rgun/rgun.toml";

/// A configuration and what the operator should hear about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loaded {
    /// The checked configuration.
    pub(crate) config: Config,
    /// One sentence each.
    pub(crate) warnings: Vec<String>,
}

/// Merges and checks: `command_line` over `environment` over the file over the defaults.
///
/// # Errors
/// Everything that is wrong, at once. Only a file that cannot be read or is not TOML hides what else its
/// content would have been accused of.
pub(crate) fn load(
    command_line: Layer,
    environment: &Environment,
    path: Option<&Path>,
    cwd: &Path,
) -> Result<Loaded, ConfigErrors> {
    let mut errors = Vec::new();
    let variables = environment::read(environment, &mut errors);
    let file = match path.map(|path| file::read(path, &mut errors)) {
        None => Layer::new(),
        Some(Some(layer)) => layer,
        // What the file would have set is unknown, so anything said about it would be a guess.
        Some(None) => return Err(ConfigErrors(errors)),
    };
    check::check(&check::Layers { command_line, variables, file, environment, path, cwd }, errors)
}
