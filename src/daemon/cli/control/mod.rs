//! The commands that talk to a running daemon over its control socket: `rgun reload`, `status`,
//! `workers`, `requests`, `top`, `stacks`, `scale` and `drain`.
//!
//! Each calls one method of `io.rgun.Server` ([`crate::control`]) and prints the reply. None reads
//! the configuration or the application. `ExecReload=` of the unit runs `rgun reload`.

mod render;
mod reply;
mod top;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::error::Failure;
use super::flags::control::{ControlCommand, DaemonFlags, QueryFlags};
use super::service::{Service, own_directory};
use super::unit_state::find_sleep;
use crate::control::{CallError, ControlClient, ReloadReply, RemoteError};
use crate::exit_status::EX_UNAVAILABLE;
use reply::{REPLY_TIMEOUT, parse, print};

/// Name of the control socket in the runtime directory.
pub const SOCKET: &str = "control";

/// The packaged unit's `RuntimeDirectory=`.
const DEFAULT_DIRECTORY: &str = "/run/rgun";

/// A command for a running daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlRequest {
    /// The daemon's control socket, absolute; `None` for the socket of the packaged unit.
    pub(super) socket: Option<PathBuf>,
    /// The command.
    pub(super) action: ControlAction,
    /// Whether to print the reply as JSON.
    pub(super) json: bool,
}

impl ControlRequest {
    /// Reads the arguments. `cwd` is the directory of a relative `--socket`.
    ///
    /// # Errors
    /// The name of the instance is not valid.
    pub(super) fn new(command: ControlCommand, cwd: &Path) -> Result<Self, Failure> {
        let (action, QueryFlags { daemon, json }) = match command {
            ControlCommand::Reload(daemon) => (ControlAction::Reload, QueryFlags { daemon, json: false }),
            ControlCommand::Status(query) => (ControlAction::Status, query),
            ControlCommand::Workers(query) => (ControlAction::Workers, query),
            ControlCommand::Requests(query) => (ControlAction::Requests, query),
            ControlCommand::Top { daemon, once } => {
                (ControlAction::Top { once }, QueryFlags { daemon, json: false })
            }
            ControlCommand::Stacks { query, worker } => (ControlAction::Stacks(worker), query),
            ControlCommand::Scale { workers, query } => (ControlAction::Scale(workers), query),
            ControlCommand::Drain { query, undo } => (ControlAction::Drain(!undo), query),
        };
        let DaemonFlags { instance, socket } = daemon;
        let socket = match instance {
            Some(_) => Some(Service::new(instance)?.runtime_directory().join(SOCKET)),
            None => socket.map(|path| cwd.join(path)),
        };
        Ok(Self { socket, action, json })
    }
}

/// A command and its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ControlAction {
    Reload,
    Status,
    Workers,
    Requests,
    /// Whether to print one screen instead of one every second.
    Top {
        once: bool,
    },
    /// The worker's number; `None` for all workers.
    Stacks(Option<u16>),
    /// The number of workers.
    Scale(u16),
    /// Whether health checks get the status 503.
    Drain(bool),
}

/// Returns rgun's directory of `$RUNTIME_DIRECTORY` (systemd.exec(5)); `None` if the variable is
/// unset or empty.
pub fn runtime_directory() -> Option<PathBuf> {
    own_directory(&std::env::var_os("RUNTIME_DIRECTORY")?)
}

/// Runs the command and returns the exit status: 0 if the command succeeded, 1 if the daemon refused
/// or failed, or stdout is closed, 69 if no daemon answers.
pub fn run(request: &ControlRequest) -> ExitCode {
    let ControlRequest { socket, action, .. } = request;
    let path = socket.clone().unwrap_or_else(|| {
        runtime_directory().unwrap_or_else(|| PathBuf::from(DEFAULT_DIRECTORY)).join(SOCKET)
    });
    let name = action.name();
    match perform(request, &path) {
        // A closed stdout does not change the result of a reload.
        Ok(text) if print(&text).is_ok() || *action == ControlAction::Reload => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(CallError::Io(error)) => {
            print_error(name, &explain_unreachable(name, &path, &error));
            ExitCode::from(EX_UNAVAILABLE)
        }
        Err(CallError::Closed) => {
            print_error(name, "the daemon closed the connection: it is stopping, or has too many clients");
            ExitCode::FAILURE
        }
        Err(CallError::Remote(error)) => {
            print_error(name, explain_refusal(&error).trim_end());
            ExitCode::FAILURE
        }
    }
}

/// Calls the method and returns the text to print.
fn perform(request: &ControlRequest, path: &Path) -> Result<String, CallError> {
    if let ControlAction::Top { once } = request.action {
        return top::run(path, once).map(|()| String::new());
    }
    let mut daemon = ControlClient::connect(path)?;
    let (method, parameters) = request.action.call();
    let method = format!("io.rgun.Server.{method}");
    if request.action == ControlAction::Reload {
        let mut on_progress = |reply| {
            // If stdout is closed, the reload continues.
            let _ = parse::<ReloadReply>(reply).map(|reply| print(&format!("{}\n", reply.message)));
        };
        let reply: ReloadReply = parse(daemon.call(&method, parameters, Some(&mut on_progress))?)?;
        return Ok(format!("{}\n", reply.message));
    }
    daemon.set_timeout(REPLY_TIMEOUT)?;
    let reply = daemon.call(&method, parameters, None)?;
    if request.json {
        return Ok(format!("{reply}\n"));
    }
    Ok(match request.action {
        ControlAction::Reload | ControlAction::Top { .. } => String::new(),
        ControlAction::Status => render::status(&parse(reply)?),
        ControlAction::Workers => render::workers(&parse(reply)?),
        ControlAction::Requests => render::requests(&parse(reply)?),
        ControlAction::Stacks(_) => render::stacks(&parse(reply)?),
        ControlAction::Scale(_) => render::scale(&parse(reply)?),
        ControlAction::Drain(_) => render::drain(&parse(reply)?),
    })
}

impl ControlAction {
    /// Returns the command's name.
    fn name(self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::Status => "status",
            Self::Workers => "workers",
            Self::Requests => "requests",
            Self::Top { .. } => "top",
            Self::Stacks(_) => "stacks",
            Self::Scale(_) => "scale",
            Self::Drain(_) => "drain",
        }
    }

    /// Returns the method of `io.rgun.Server` and its parameters.
    fn call(self) -> (&'static str, Map<String, Value>) {
        let (method, parameters) = match self {
            Self::Reload => ("Reload", json!({})),
            Self::Status | Self::Top { .. } => ("Status", json!({})),
            Self::Workers => ("Workers", json!({})),
            Self::Requests => ("Requests", json!({})),
            Self::Stacks(worker) => ("Stacks", json!({ "worker": worker })),
            Self::Scale(workers) => ("Scale", json!({ "workers": workers })),
            Self::Drain(enable) => ("Drain", json!({ "enable": enable })),
        };
        let Value::Object(parameters) = parameters else { return (method, Map::new()) };
        (method, parameters)
    }
}

/// Explains why no daemon answers on the control socket.
fn explain_unreachable(command: &str, path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            let remedy = if command == "reload" {
                ", another socket with --socket, and send SIGHUP to a daemon outside systemd"
            } else {
                ", and another socket with --socket"
            };
            let is_absent = error.kind() == io::ErrorKind::NotFound;
            let what = if is_absent {
                format!("no socket {}", path.display())
            } else {
                format!("nothing listens on {}", path.display())
            };
            let names = path.parent().and_then(Service::of_runtime_directory);
            if let Some((names, sleep)) = names.as_ref().and_then(|names| Some((names, find_sleep(names)?))) {
                return format!(
                    "{} is {sleep} ({what}, but {} listens): systemctl start {} starts it now",
                    names.service_unit(),
                    names.socket_unit(),
                    names.unit_stem()
                );
            }
            let unit = names.map_or_else(|| "rgun".to_owned(), |names| names.unit_stem());
            format!(
                "no rgun is running here ({what}): systemctl start {unit}; name an instance with rgun {command} \
                 NAME{remedy}"
            )
        }
        io::ErrorKind::PermissionDenied => format!(
            "{}: {error}: run the command as root or as the service's user; control.group lets the members of a \
             group read",
            path.display()
        ),
        io::ErrorKind::WouldBlock => {
            let seconds = REPLY_TIMEOUT.as_secs();
            format!("{}: the daemon has not answered for {seconds} s; see its log", path.display())
        }
        _ => format!("{}: {error}", path.display()),
    }
}

/// Explains an error that the daemon replied with.
fn explain_refusal(error: &RemoteError) -> String {
    match error.name.as_str() {
        "io.rgun.Server.PermissionDenied" | "io.rgun.Server.ReloadFailed" => {
            error.text("reason").unwrap_or_default().to_owned()
        }
        "io.rgun.Server.NoSuchWorker" => {
            "no worker with this number is ready: rgun workers lists all".to_owned()
        }
        "io.rgun.Server.NoHealthCheck" => {
            "health.path is not set, so no load balancer would notice: set it, reload, and have the load balancer check \
             it"
                .to_owned()
        }
        "io.rgun.Server.Stopping" => "the daemon is stopping".to_owned(),
        "org.varlink.service.MethodNotFound" => {
            "the running daemon is another version, which lacks this command: systemctl restart rgun".to_owned()
        }
        name => format!("the daemon replied {name}"),
    }
}

fn print_error(command: &str, text: &str) {
    // If stderr is closed, only the exit status can report the error.
    let _ = writeln!(io::stderr(), "rgun {command}: {text}");
}
