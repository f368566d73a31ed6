//! Why a worker's process was not made.

use std::io;
use std::path::PathBuf;

use crate::supervise::SpawnFault;

/// Why a process was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The directory that it is to run in is gone, or closed.
    #[error("cannot start a worker in {path} (app.directory)")]
    Directory {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The interpreter cannot be executed.
    #[error("cannot run the interpreter {path} (app.python, {source_of_path})")]
    Interpreter {
        /// Its path.
        path: PathBuf,
        /// Where the path came from.
        source_of_path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The channel, the cgroup or the process could not be made.
    #[error("cannot create {resource} for a worker")]
    System {
        /// What was to be made.
        resource: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The zygote cannot fork it.
    #[error("cannot have a worker forked by the zygote")]
    Zygote(#[source] io::Error),
    /// What a zygote said is not so.
    #[error("the zygote claims to have forked life {life} as process {pid}, but {reason}")]
    FalseFork {
        /// The life it named.
        life: u64,
        /// The process it named.
        pid: u32,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Somebody says that a worker could not be forked, and was not asked for it.
    #[error("it claims to have failed to fork life {life}, but nobody has asked it to")]
    UnexpectedFailure {
        /// The life it named.
        life: u64,
    },
    /// The zygote has forked it when nobody waited for it any more; it was killed.
    #[error("the zygote forked a worker too late")]
    TooLate,
}

impl SpawnError {
    pub(super) fn open_cgroup(source: io::Error) -> Self {
        Self::System { resource: "the cgroup's entrance", source }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> SpawnFault {
        match self {
            Self::Interpreter { .. } | Self::Directory { .. } => SpawnFault::Config,
            Self::System { .. }
            | Self::Zygote(_)
            | Self::FalseFork { .. }
            | Self::UnexpectedFailure { .. }
            | Self::TooLate => SpawnFault::System,
        }
    }
}
