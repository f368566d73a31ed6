//! The supervisor's inputs. `run` builds them from signals, child exits and the workers' control
//! messages, without filtering: the supervisor ignores events that a worker's state does not allow.

use std::fmt;
use std::time::Duration;

use crate::id::{Generation, WorkerId};

use super::SupervisorPolicy;

/// An occurrence (named in the past tense) or an order of the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The daemon has its listeners, so workers can be spawned.
    Started,
    /// `Spawn` succeeded: the process exists.
    Spawned {
        /// The worker of the `Spawn`.
        worker: WorkerId,
        /// The worker's process id, for status output; actions name the worker, never the pid.
        pid: u32,
    },
    /// `Spawn` failed. May be omitted for a fork if the zygote was reaped before the zygote
    /// reported the outcome.
    SpawnFailed {
        /// The worker of the `Spawn`.
        worker: WorkerId,
        /// Whether a retry can succeed.
        fault: SpawnFault,
        /// The failed call, its argument and its error, one line.
        reason: String,
    },
    /// The worker has imported the application and completed its lifespan startup, or the zygote
    /// can be forked from.
    Ready {
        /// The booted worker.
        worker: WorkerId,
    },
    /// The worker has reported that it cannot boot; it exits by itself.
    BootFailed {
        /// The worker that failed.
        worker: WorkerId,
        /// The reported failure.
        failure: BootFailure,
    },
    /// The process was reaped.
    Exited {
        /// The worker whose process ended.
        worker: WorkerId,
        /// The end of the process.
        exit: Exit,
    },
    /// A request in this worker has exceeded its deadline and is still running; the client has
    /// received its 504.
    DeadlineExceeded {
        /// The worker that runs the request.
        worker: WorkerId,
    },
    /// The worker violated the channel's contract, or closed its socket without exiting.
    Misbehaved {
        /// The worker in violation.
        worker: WorkerId,
        /// The violation, one line.
        reason: String,
    },
    /// A retiring worker has no request left whose client still waits. Requests over their deadline
    /// do not count: they have been answered, and their thread may never end.
    Drained {
        /// The retiring worker.
        worker: WorkerId,
    },
    /// The answer to [`Action::DumpStacks`](super::Action::DumpStacks).
    StacksDumped {
        /// The worker of the `DumpStacks`.
        worker: WorkerId,
        /// The output of `faulthandler`; `None` if it did not arrive in time.
        stacks: Option<String>,
    },
    /// The worker has reached a limit: it is replaced, and exits when its successor is ready.
    RecycleDue {
        /// The worker to replace.
        worker: WorkerId,
        /// The limit that the worker has reached.
        reason: RecycleReason,
    },
    /// The process of a worker that is ready, or about to be, received a signal that asks it to
    /// exit.
    StopRequested {
        /// The worker that received the signal.
        worker: WorkerId,
        /// The signal's number.
        signal: i32,
    },
    /// The answer to [`Action::Probe`](super::Action::Probe).
    Probed {
        /// The worker of the `Probe`.
        worker: WorkerId,
        /// `Ok`, or why the response is not acceptable.
        outcome: Result<(), String>,
    },
    /// The operator requests a reload.
    Reload {
        /// The policy of the new generation.
        policy: SupervisorPolicy,
    },
    /// The operator changes the number of workers until the next reload (SIGTTIN, SIGTTOU).
    Adjust {
        /// The number of workers to add; negative: to remove.
        by: i32,
    },
    /// The operator sets the number of workers until the next reload.
    SetCount {
        /// The number of workers; not 0.
        to: u16,
    },
    /// The operator makes load balancers remove the daemon, or return to it: health checks are
    /// answered 503 until `enable` is false. Other requests are served.
    SetDraining {
        /// Whether load balancers should remove the daemon.
        enable: bool,
    },
    /// The load since the last sample. Sent every second while `workers.count` is a range,
    /// `workers.idle_exit` is set, or a rollback is possible.
    Load(LoadSample),
    /// Memory is short.
    MemoryPressure {
        /// Number of requests that run or wait.
        n_requests: usize,
    },
    /// A request arrived while no worker is admitted.
    WorkerRequested,
    /// The daemon has not been used for `daemon.idle_exit`, and systemd will start it again at the
    /// next connection.
    Unused {
        /// The time since the last use.
        idle_for: Duration,
    },
    /// Stop after all requests are answered (the first SIGTERM or SIGINT). During a departure, this
    /// ends the departure.
    Stop,
    /// Stop now (a second SIGTERM or SIGINT, or SIGQUIT).
    StopNow,
    /// The edge has no request left.
    EdgeDrained,
    /// Time has passed. Deadlines expire only on this event.
    Tick,
}

/// The reason for replacing a healthy worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecycleReason {
    /// The worker reached `workers.max_requests` (with its jitter).
    Requests {
        /// The number of requests it served.
        served: u64,
    },
    /// The worker reached `workers.max_memory`.
    Memory {
        /// The bytes it uses.
        bytes: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The worker reached `workers.max_lifetime`. The supervisor itself notices this.
    Lifetime,
    /// The worker served `workers.refork` requests and may become the zygote. Or another worker
    /// became the zygote, and a fork of that zygote replaces this worker. Ignored without
    /// `workers.preload`.
    Refork,
    /// The worker received a signal ([`Event::StopRequested`]).
    Signal {
        /// The signal's number.
        signal: i32,
    },
}

/// The load between two samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadSample {
    /// Requests that wait for a worker.
    pub queued: usize,
    /// The longest wait of a request for a worker, whether that wait has ended or not.
    pub longest_wait: Duration,
    /// Requests that run; prefetched ones are not counted.
    pub running: usize,
    /// The highest number of requests that ran at the same time.
    pub max_running: usize,
    /// The time since the last request ended; zero while a request waits or runs.
    pub idle_for: Duration,
    /// The responses of each generation since it went live; generations without a response are
    /// omitted.
    pub responses: Vec<(Generation, ResponseStats)>,
}

/// Counts of responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseStats {
    /// Requests that ended in a worker, including those that the daemon answered because the worker
    /// died or the deadline was exceeded.
    pub answered: u64,
    /// Those of them that got a status of 500 or above or a truncated response, raised an exception,
    /// exceeded their deadline, or lost their worker.
    pub failed: u64,
}

/// The end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The process exited with this status.
    Code(i32),
    /// The process was killed by a signal.
    Signal {
        /// The signal's number.
        signal: i32,
        /// The kernel wrote a core dump (`coredumpctl` may have it).
        core_dumped: bool,
    },
}

impl Exit {
    /// Returns true for SIGINT and SIGTERM, which ask a process to exit.
    pub fn is_by_request(self) -> bool {
        matches!(self, Exit::Signal { signal: SIGINT | SIGTERM, .. })
    }
}

/// The same number on all Linux architectures (signal(7)).
const SIGINT: i32 = 2;
/// The same number on all Linux architectures (signal(7)).
const SIGTERM: i32 = 15;

impl fmt::Display for Exit {
    /// Writes a predicate for the worker's name: "worker 2 was killed by SIGSEGV (core dumped)".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Exit::Code(status) => write!(f, "exited with status {status}"),
            Exit::Signal { signal, core_dumped } => {
                write!(f, "was killed by {}", name_of_signal(signal))?;
                if core_dumped { f.write_str(" (core dumped)") } else { Ok(()) }
            }
        }
    }
}

/// The cause of a failed `Spawn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpawnFault {
    /// The configured interpreter cannot be executed (ENOENT, EACCES, ENOEXEC). A retry fails as
    /// well.
    Config,
    /// The system lacked a process, memory or a descriptor (EAGAIN, ENOMEM, EMFILE). A retry may
    /// succeed.
    System,
}

/// A worker's failure to boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootFailure {
    /// The kind of failure.
    pub kind: BootFailureKind,
    /// One line, such as `ImportError: No module named 'mysite'`. It may quote the application's
    /// exception and so contain its secrets: only for the journal and for clients that may control
    /// the daemon.
    pub summary: String,
    /// One line without text from the application, so every user of the machine may read it. For
    /// STATUS=.
    pub headline: String,
    /// The application's traceback, if there is one.
    pub traceback: Option<String>,
}

/// The cause of a [`BootFailure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootFailureKind {
    /// Reported by the worker: no such module or attribute, not callable, or an unsupported Python.
    Config,
    /// Reported by the worker: the application's import or lifespan startup raised.
    App,
    /// The boot exceeded `timeouts.boot`.
    Timeout,
    /// The process exited while booting without a report (a crash in an extension module,
    /// `sys.exit` at import).
    Died,
    /// SIGTERM or SIGINT from outside ended the process while it booted.
    Signalled,
    /// The worker violated the channel's contract while booting (for example a worker extension of
    /// another version).
    Misbehaved,
    /// The process could not be created: the configured interpreter cannot be executed.
    Spawn,
    /// The process could not be created: the system lacked a resource.
    System,
    /// The worker is booted, but did not answer `reload.probe` acceptably.
    Probe,
    /// No failure: a later reload has replaced this one.
    Superseded,
    /// No failure: the daemon stops.
    Stopped,
}

impl BootFailure {
    /// Creates a failure found by the daemon itself, whose summary has no text from the
    /// application.
    pub fn new(kind: BootFailureKind, summary: impl Into<String>) -> Self {
        let summary = summary.into();
        Self { kind, headline: summary.clone(), summary, traceback: None }
    }
}

impl BootFailureKind {
    /// Returns true if a retry fails the same way until the application or the configuration
    /// changes.
    pub fn is_lasting(self) -> bool {
        !matches!(self, BootFailureKind::System | BootFailureKind::Signalled)
    }
}

impl fmt::Display for BootFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary)
    }
}

/// Returns a signal's name, or its number if the name is unknown.
pub fn name_of_signal(signal: i32) -> String {
    signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}

/// The signals that usually end a process; the Linux numbers on x86, Arm and RISC-V (signal(7)).
fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return None,
    })
}
