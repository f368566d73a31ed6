//! The hooks of gunicorn's arbiter, called in a process that lives as long as the daemon.

use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use super::helper::{self, Helper, HelperError};
use super::location::ConfLocation;
use crate::config::{Bind, Config, Preload};

/// The classes of the hooks' arguments, which are those of the hooks in workers.
const HOOK_OBJECTS: &str = include_str!("../../../worker/hook_objects.py");

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

/// Facts that hooks read from `server`, besides the configuration.
#[derive(Debug)]
pub struct ServerFacts<'a> {
    /// The addresses of the listeners.
    pub addresses: &'a [Bind],
    /// The number of workers at the start.
    pub workers: u16,
}

impl DaemonHooks {
    /// Starts the process and runs the file in it. Hooks run in the application's directory and
    /// environment. `stderr` is where the process writes what the hooks print; `None` for the
    /// daemon's standard error.
    ///
    /// # Errors
    /// A message for the operator.
    pub fn start(
        &self,
        config: &Config,
        facts: &ServerFacts<'_>,
        stderr: Option<OwnedFd>,
    ) -> Result<HookProcess, String> {
        let Self { python, location, cwd, known, functions } = self.clone();
        let app = &config.app;
        let mut command = helper::command(&python, "hooks", &location, &known, &cwd);
        command.arg(&app.directory).arg(describe_server(config, facts)).arg(HOOK_OBJECTS);
        command.envs(app.env.iter().map(|(name, value)| (name, value)));
        if let Some(stderr) = stderr {
            command.stderr(stderr);
        }
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

/// Returns the attributes of `server` in JSON: `address`, `num_workers`, and in `cfg` the settings
/// that flags and variables may have changed, with gunicorn's names and units.
fn describe_server(config: &Config, facts: &ServerFacts<'_>) -> String {
    let Config { app, workers, timeouts, .. } = config;
    let address = |bind: &Bind| match bind {
        Bind::Tcp { host, port } => json!([host, port]),
        Bind::Unix { path } => json!(path.to_string_lossy()),
    };
    let seconds = |time: Option<Duration>| time.map_or(0, |time| time.as_secs());
    json!({
        "address": facts.addresses.iter().map(address).collect::<Vec<_>>(),
        "num_workers": facts.workers,
        "cfg": {
            "bind": facts.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "chdir": app.directory.to_string_lossy(),
            "graceful_timeout": timeouts.drain.as_secs(),
            "max_requests": workers.max_requests.map_or(0, NonZeroU64::get),
            "preload_app": workers.preload == Preload::Application,
            "proc_name": "rgun",
            "threads": workers.threads,
            "timeout": seconds(timeouts.request),
            "workers": facts.workers,
            "wsgi_app": app.target.to_string(),
        },
    })
    .to_string()
}

impl HookProcess {
    /// The id of the process.
    pub fn pid(&self) -> u32 {
        self.helper.pid()
    }

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
