//! [`SpawnError`]: a worker was not started.

use std::io;
use std::path::PathBuf;

use crate::supervise::SpawnFault;

/// The failure to start a worker or zygote.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The working directory does not exist or cannot be entered.
    #[error("cannot start a worker in {path} (app.directory){}", as_user(user.as_deref()))]
    Directory {
        /// Path of the directory.
        path: PathBuf,
        /// The worker's user, if it is not the daemon's.
        user: Option<String>,
        /// The error of `stat(2)`.
        #[source]
        source: io::Error,
    },
    /// The interpreter cannot be executed.
    #[error("cannot run the interpreter {path} (app.python, {source_of_path}){}", as_user(user.as_deref()))]
    Interpreter {
        /// Path of the interpreter.
        path: PathBuf,
        /// The setting or rule that the path comes from.
        source_of_path: String,
        /// The worker's user, if it is not the daemon's.
        user: Option<String>,
        /// The error of `execve(2)`.
        #[source]
        source: io::Error,
    },
    /// A variable is longer than 128 KiB, or all together are longer than a quarter of `LimitSTACK=` (execve(2)).
    #[error(
        "a worker's environment has a variable that is too long, or too many variables: shorten app.env, or \
         Environment= of the unit"
    )]
    Environment {
        /// The error of `execve(2)`: E2BIG.
        #[source]
        source: io::Error,
    },
    /// A system call failed while the channel, the cgroup or the process was created.
    #[error("cannot set up {resource} for a worker")]
    System {
        /// The resource that could not be set up.
        resource: &'static str,
        /// The error of the system call.
        #[source]
        source: io::Error,
    },
    /// The command Fork could not be sent to the zygote, or was not answered.
    #[error("the zygote cannot fork a worker")]
    Zygote(#[source] io::Error),
    /// A zygote reported a fork that is not valid.
    #[error("the zygote reported incarnation {incarnation} as process {pid}, but {reason}")]
    FalseFork {
        /// The reported incarnation.
        incarnation: u64,
        /// The reported process id.
        pid: u32,
        /// The check that failed.
        reason: &'static str,
    },
    /// A process reported a failed fork that was not requested of it.
    #[error("it reported a failed fork of incarnation {incarnation}, which was not requested of it")]
    UnexpectedFailure {
        /// The reported incarnation.
        incarnation: u64,
    },
    /// The zygote reported the worker after its fork had timed out; the worker was killed.
    #[error("the zygote forked a worker too late")]
    TooLate,
}

/// Names the user that a directory or interpreter must be accessible to.
fn as_user(user: Option<&str>) -> String {
    user.map(|user| format!(" as {user} (workers.user)")).unwrap_or_default()
}

impl SpawnError {
    pub(super) fn open_cgroup(source: io::Error) -> Self {
        Self::System { resource: "the cgroup", source }
    }

    /// Returns whether the configuration or the system is at fault.
    pub fn fault(&self) -> SpawnFault {
        match self {
            Self::Interpreter { .. } | Self::Directory { .. } | Self::Environment { .. } => {
                SpawnFault::Config
            }
            Self::System { .. }
            | Self::Zygote(_)
            | Self::FalseFork { .. }
            | Self::UnexpectedFailure { .. }
            | Self::TooLate => SpawnFault::System,
        }
    }
}
