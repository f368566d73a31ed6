//! `gunicorn.conf.py`: its settings become flags, and its hooks become functions that workers call.
//!
//! The file is Python, so the application's interpreter runs it, in a process of its own
//! (`helper`); the daemon contains no Python. `arguments` turns the settings into flags, which
//! [`read`] parses like those of the command line. The table of all settings is
//! `compat::gunicorn::TABLE`.

mod arguments;
mod daemon_hooks;
mod helper;
mod location;

use std::path::Path;
use std::time::Duration;

use super::compat::flag::CompatFlag;
use super::compat::gunicorn::TABLE;
use super::foreign::{self, FlagSource};
use crate::config::{ConfigError, Layer, Setting, Value, name};

pub use daemon_hooks::{DaemonHooks, HookProcess, ServerFacts};
pub(crate) use helper::Adjust;
use helper::HelperError;
pub(super) use location::ConfLocation;

pub(super) use arguments::{Arguments, HookFunction};

/// Maximum time that the file may run; not more than `WatchdogSec=` of the packaged unit.
const MAX_RUN_TIME: Duration = Duration::from_secs(30);

/// The settings of the file.
#[derive(Debug, Default)]
pub(super) struct ConfSettings {
    pub(super) layer: Layer,
    pub(super) warnings: Vec<String>,
    /// The hooks of the arbiter; `None` if the file has none.
    pub(super) daemon_hooks: Option<DaemonHooks>,
}

/// Runs the file with the interpreter, in `cwd`, and returns its settings. `adjust` changes the
/// process that runs the file.
///
/// # Errors
/// All errors of the file.
pub(super) fn read(
    location: &ConfLocation,
    python: &Path,
    cwd: &Path,
    adjust: Adjust<'_>,
) -> Result<ConfSettings, Vec<ConfigError>> {
    let origin = location.to_string();
    let mut arguments = run(location, python, cwd, adjust)?;
    arguments.add_process_state();
    let Arguments { args, hooks, worker_settings, daemon_hooks, warnings, errors, .. } = arguments;
    let mut parsed = foreign::parse(&args, FlagSource::File(&origin));
    parsed.errors.extend(errors);
    if !parsed.errors.is_empty() {
        return Err(parsed.errors);
    }
    let mut layer = parsed.layer;
    for HookFunction { setting, key, target } in hooks {
        let value = target.map_or_else(|| location.function(&setting), Value::text);
        layer.insert(key, Setting::flag(&format!("{origin}: {setting}"), value));
    }
    if let Some(setting) = worker_settings.first() {
        run_in_workers(location, &format!("{origin}: {setting}"), &mut layer);
    }
    let daemon_hooks = (!daemon_hooks.is_empty()).then(|| DaemonHooks {
        python: python.to_owned(),
        location: location.clone(),
        cwd: cwd.to_owned(),
        known: known_settings(),
        functions: daemon_hooks,
    });
    let warnings = warnings.into_iter().chain(parsed.warnings).collect();
    Ok(ConfSettings { layer, warnings, daemon_hooks })
}

/// Makes workers run the configuration, if none of its functions is a hook: adds a hook that names
/// the configuration but no function. `origin` is the setting that needs this.
pub(super) fn run_in_workers(location: &ConfLocation, origin: &str, layer: &mut Layer) {
    const HOOKS: [&str; 5] =
        [name::POST_FORK, name::POST_WORKER_INIT, name::WORKER_EXIT, name::WORKER_ABORT, name::CHILD_EXIT];
    let run = location.function("");
    let prefix = run.to_string();
    let prefix = prefix.trim_end_matches('"');
    let is_run = HOOKS
        .iter()
        .filter_map(|hook| layer.get(hook))
        .any(|setting| setting.value.to_string().starts_with(prefix));
    // If none is vacant, all five are functions that the configuration names in other modules.
    if !is_run && let Some(vacant) = HOOKS.iter().find(|hook| !layer.contains_key(*hook)) {
        layer.insert(vacant, Setting::flag(origin, run));
    }
}

/// Returns the names of all settings, separated by commas.
fn known_settings() -> String {
    TABLE.iter().map(CompatFlag::setting_name).collect::<Vec<_>>().join(",")
}

/// Runs the file, and returns the flags and functions that have the same effect.
///
/// # Errors
/// The file cannot be read, or raised an exception.
pub(super) fn run(
    location: &ConfLocation,
    python: &Path,
    cwd: &Path,
    adjust: Adjust<'_>,
) -> Result<Arguments, Vec<ConfigError>> {
    let origin = location.to_string();
    if let ConfLocation::File(path) = location
        && let Err(error) = path.metadata()
    {
        let hint = "name an existing file with --config (RGUN_CONFIG)";
        return Err(vec![file_error(origin, format!("cannot be read: {error}"), Some(hint.to_owned()))]);
    }
    let names = helper::run(python, location, &known_settings(), cwd, MAX_RUN_TIME, adjust)
        .map_err(|error| vec![describe(&error, origin.clone(), python)])?;
    Ok(arguments::convert(&names, &origin))
}

fn file_error(origin: String, reason: String, hint: Option<String>) -> ConfigError {
    ConfigError { origin, key: String::new(), value: None, reason, hint }
}

fn describe(error: &HelperError, origin: String, python: &Path) -> ConfigError {
    let HelperError::Raised { summary, place, inner } = error else {
        return file_error(origin, error.to_string(), None);
    };
    let inner = inner.as_ref().map(|inner| format!(" (in {inner})")).unwrap_or_default();
    let hint = summary.strip_prefix("ModuleNotFoundError: No module named ").map(|module| {
        if module.trim_matches('\'').split('.').next() == Some("gunicorn") {
            return format!(
                "{} does not have gunicorn: keep it installed there, or remove the import; rgun needs no class of gunicorn",
                python.display()
            );
        }
        format!(
            "{} does not have {module}; install it there, or name another interpreter with --python",
            python.display()
        )
    });
    file_error(place.clone().unwrap_or(origin), format!("{error}{inner}"), hint)
}
