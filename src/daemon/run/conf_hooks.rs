//! The hooks of gunicorn's arbiter in `gunicorn.conf.py`: `on_starting`, `when_ready`, `on_reload`,
//! `on_exit`.
//!
//! A separate process calls `on_reload` at each reload, and every other hook once. A thread waits
//! for `when_ready` and `on_reload`, so that the main loop continues.

use std::thread::JoinHandle;

use super::{StartupError, system};
use crate::cli::{HookProcess, Invocation, ServerFacts};
use crate::config::{Bind, Config};
use crate::journal::output::{PipeMode, WorkerOutput};
use crate::systemd::listen::{InheritedListener, InheritedSocket};

/// The process that calls the hooks.
#[derive(Debug, Default)]
pub(super) enum ConfHooks {
    /// There are no hooks.
    #[default]
    None,
    /// `when_ready` has not been called.
    Starting(HookProcess),
    /// The thread calls a hook and returns the process, or `None` if an earlier thread has
    /// panicked.
    Calling(JoinHandle<Option<HookProcess>>),
}

impl ConfHooks {
    /// Starts the process, if there are hooks, and calls `on_starting`. `inherited` are the sockets
    /// from systemd, `output` puts what the hooks print into the log.
    ///
    /// # Errors
    /// The process cannot be started, or `on_starting` raised, which ends gunicorn too.
    pub(super) fn start(
        invocation: &Invocation,
        inherited: &[InheritedListener],
        output: Option<&WorkerOutput>,
    ) -> Result<Self, StartupError> {
        let Some(hooks) = &invocation.daemon_hooks else { return Ok(Self::None) };
        let config = &invocation.config;
        let addresses = addresses(config, inherited);
        let workers = config.workers.count.resolve(system::available_cores()).get();
        let facts = ServerFacts { addresses: &addresses, workers };
        let pipes = output
            .map(|output| output.pipes(PipeMode::OwnUser))
            .transpose()
            .map_err(StartupError::system("read the output of the hooks"))?;
        let (stderr, ends) = pipes.map(|(theirs, ours)| (theirs.stderr, ours)).unzip();
        let started = hooks.start(config, &facts, stderr).and_then(|mut process| {
            if let (Some(output), Some(ends)) = (output, ends) {
                output.follow(ends, None, None, process.pid());
            }
            process.call("on_starting")?;
            Ok(process)
        });
        match started {
            Ok(process) => Ok(Self::Starting(process)),
            Err(reason) => Err(StartupError::config_reason(reason)),
        }
    }

    /// Calls `when_ready`, the first time only.
    pub(super) fn on_ready(&mut self) {
        match std::mem::take(self) {
            Self::Starting(mut process) => {
                *self = Self::Calling(std::thread::spawn(move || {
                    log_failure(process.call("when_ready"));
                    Some(process)
                }));
            }
            other => *self = other,
        }
    }

    /// Calls `on_reload`, once the running hook has returned.
    pub(super) fn on_reload(&mut self) {
        *self = match std::mem::take(self) {
            // The application has never been ready; `when_ready` comes first.
            Self::Starting(process) => Self::Starting(process),
            Self::Calling(thread) => Self::Calling(std::thread::spawn(move || {
                let mut process = thread.join().ok()??;
                log_failure(process.call("on_reload"));
                Some(process)
            })),
            Self::None => Self::None,
        };
    }

    /// Calls `on_exit`, and ends the process.
    pub(super) fn finish(self) {
        let process = match self {
            Self::None => None,
            Self::Starting(process) => Some(process),
            // An error is a panic of the thread, which has been printed.
            Self::Calling(thread) => thread.join().ok().flatten(),
        };
        if let Some(mut process) = process {
            log_failure(process.call("on_exit"));
        }
    }
}

/// Returns the addresses of the sockets from systemd, or of those that the daemon will bind.
fn addresses(config: &Config, inherited: &[InheritedListener]) -> Vec<Bind> {
    if inherited.is_empty() {
        return config.listen.addresses().into_iter().map(|(_, bind)| bind.clone()).collect();
    }
    // A socket without an address, such as an abstract one, is left out.
    let address = |socket: &InheritedSocket| match socket {
        InheritedSocket::Tcp(listener) => {
            let address = listener.local_addr().ok()?;
            Some(Bind::Tcp { host: address.ip().to_string(), port: address.port() })
        }
        InheritedSocket::Unix(listener) => {
            let path = listener.local_addr().ok()?.as_pathname()?.to_owned();
            Some(Bind::Unix { path })
        }
    };
    inherited.iter().filter_map(|listener| address(&listener.socket)).collect()
}

fn log_failure(outcome: Result<(), String>) {
    if let Err(reason) = outcome {
        tracing::warn!("{reason}");
    }
}
