//! The hooks of gunicorn's arbiter, called in a process that lives as long as the daemon.

use std::path::PathBuf;
use std::time::Duration;

use super::helper::{self, Helper, HelperError};
use super::location::ConfLocation;
use crate::config::App;

/// Maximum time for a hook, and for running the file before the first hook.
const MAX_HOOK_TIME: Duration = Duration::from_secs(30);

/// The hooks that a file has: `on_starting`, `when_ready`, `on_reload`, `on_exit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonHooks {
    pub(super) python: PathBuf,
    pub(super) location: ConfLocation,
    pub(super) cwd: PathBuf,
    /// The names of all settings, for `server.cfg`.
    pub(super) known: String,
    pub(super) functions: Vec<String>,
}

/// The process that calls the hooks; killed on drop.
#[derive(Debug)]
pub struct HookProcess {
    helper: Helper,
    location: ConfLocation,
    functions: Vec<String>,
}

impl DaemonHooks {
    /// Starts the process and runs the file in it. Hooks run in the application's directory and
    /// environment.
    ///
    /// # Errors
    /// A message for the operator.
    pub fn start(&self, app: &App) -> Result<HookProcess, String> {
        let Self { python, location, cwd, known, functions } = self.clone();
        let mut command = helper::command(&python, "hooks", &location, &known, &cwd);
        command.arg(&app.directory).envs(app.env.iter().map(|(name, value)| (name, value)));
        let started = Helper::start(&mut command).and_then(|mut helper| {
            helper.read_answer(MAX_HOOK_TIME)?;
            Ok(helper)
        });
        match started {
            Ok(helper) => Ok(HookProcess { helper, location, functions }),
            Err(error) => Err(format!("{location}: {}", describe(&error))),
        }
    }
}

impl HookProcess {
    /// Calls a hook and waits until it returns. Does nothing if the file does not have the hook.
    ///
    /// # Errors
    /// A message for the operator.
    pub fn call(&mut self, name: &str) -> Result<(), String> {
        if !self.functions.iter().any(|function| function == name) {
            return Ok(());
        }
        let answered = self.helper.send(name).and_then(|()| self.helper.read_answer(MAX_HOOK_TIME));
        if matches!(answered, Err(HelperError::TimedOut(_))) {
            // The late answer of this hook would be taken for the answer of the next hook.
            self.functions.clear();
        }
        answered.map(drop).map_err(|error| format!("{}: {name}: {}", self.location, describe(&error)))
    }
}

fn describe(error: &HelperError) -> String {
    match error {
        HelperError::Raised { place: Some(place), .. } => format!("{error} ({place})"),
        _ => error.to_string(),
    }
}
