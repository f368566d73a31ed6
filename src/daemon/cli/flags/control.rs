//! The commands for a running daemon, and their arguments.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::id::WorkerNr;

/// The names of the commands.
pub(crate) const CONTROL_COMMANDS: [&str; 8] =
    ["reload", "status", "workers", "requests", "top", "stacks", "scale", "drain"];

/// A command for a running daemon.
#[derive(Debug, Subcommand)]
pub(crate) enum ControlCommand {
    /// Make the running daemon load new code and configuration, and report the result.
    Reload(DaemonFlags),
    /// Print the state of the running daemon.
    Status(QueryFlags),
    /// Print the workers of the running daemon.
    Workers(QueryFlags),
    /// Print the requests that are queued or running, the longest first.
    Requests(QueryFlags),
    /// Show the state, the workers and the requests, every second, until q is pressed.
    Top {
        #[command(flatten)]
        daemon: DaemonFlags,
        /// Print them once, as without a terminal.
        #[arg(long)]
        once: bool,
    },
    /// Print the Python stacks of the workers.
    Stacks {
        #[command(flatten)]
        query: QueryFlags,
        /// Only those of the worker with this number.
        #[arg(short, long, value_name = "NUMBER")]
        worker: Option<u16>,
    },
    /// Set the number of workers until the next reload.
    Scale {
        /// The number of workers.
        #[arg(value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=i64::from(WorkerNr::MAX_COUNT)))]
        workers: u16,
        #[command(flatten)]
        query: QueryFlags,
    },
    /// Answer health checks 503, so that load balancers send no more requests; serve all others.
    Drain {
        #[command(flatten)]
        query: QueryFlags,
        /// Answer health checks as usual again.
        #[arg(long)]
        undo: bool,
    },
}

/// The daemon that a command is for.
#[derive(Debug, Args)]
pub(crate) struct DaemonFlags {
    /// The instance, as in rgun@NAME.service [default: rgun.service].
    #[arg(value_name = "NAME")]
    pub(crate) instance: Option<String>,
    /// The daemon's control socket [default: control in /run/rgun-NAME; without NAME, in
    /// $RUNTIME_DIRECTORY or /run/rgun].
    #[arg(long, value_name = "PATH", conflicts_with = "instance")]
    pub(crate) socket: Option<PathBuf>,
}

/// The daemon that a command is for, and the format of the output.
#[derive(Debug, Args)]
pub(crate) struct QueryFlags {
    #[command(flatten)]
    pub(crate) daemon: DaemonFlags,
    /// Print the reply as one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}
