//! What can happen to the supervisor. `run` builds these from signals, child exits and the workers' control
//! messages; nothing here is decided yet, and nothing a worker says is believed beyond what its state allows.

use std::fmt;
use std::time::Duration;

use crate::id::{Generation, WorkerId};

use super::SupervisorPolicy;

/// Something that happened, told in the past tense except for the operator's orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The daemon has its listeners: begin.
    Started,
    /// The process asked for by `Spawn` exists.
    Spawned {
        /// The life it was spawned as.
        worker: WorkerId,
        /// Its process id, for people and metrics; actions name the worker, never the pid.
        pid: u32,
    },
    /// The process asked for by `Spawn` could not be made. (Of a fork that was under way when its zygote was reaped,
    /// nothing needs to be told.)
    SpawnFailed {
        /// The life that never began.
        worker: WorkerId,
        /// Whose fault it was.
        fault: SpawnFault,
        /// One line for people: which call failed, on what, and why.
        reason: String,
    },
    /// The worker has imported its application and finished its lifespan startup; the zygote can be forked from.
    Ready {
        /// Who.
        worker: WorkerId,
    },
    /// The worker says that it cannot boot; it is about to exit by itself.
    BootFailed {
        /// Who.
        worker: WorkerId,
        /// What it said.
        failure: BootFailure,
    },
    /// The process was reaped.
    Exited {
        /// Who.
        worker: WorkerId,
        /// How it ended.
        exit: Exit,
    },
    /// A request in this worker ran over its deadline and did not yield; its client has had its 504 already.
    DeadlineExceeded {
        /// Who.
        worker: WorkerId,
    },
    /// The worker broke the channel's contract, or hung up its control socket without exiting.
    Misbehaved {
        /// Who.
        worker: WorkerId,
        /// What it did, one line.
        reason: String,
    },
    /// A retiring worker has no exchange left that anybody waits for. Exchanges that ran over their deadline do not
    /// count: their client has been answered, and their thread may never end.
    Drained {
        /// Who.
        worker: WorkerId,
    },
    /// The stacks that [`Action::DumpStacks`](super::Action::DumpStacks) asked for, or nothing when they did not come.
    StacksDumped {
        /// Whose.
        worker: WorkerId,
        /// What `faulthandler` wrote.
        stacks: Option<String>,
    },
    /// The worker has done its share: another life is to take its seat, and then it finishes and leaves.
    RecycleDue {
        /// Who.
        worker: WorkerId,
        /// Why.
        reason: RecycleReason,
    },
    /// A signal that was sent to this process, and not to the daemon, asks it to finish what it runs and leave. It is
    /// ready, or about to say so.
    StopRequested {
        /// Who.
        worker: WorkerId,
        /// The signal's number.
        signal: i32,
    },
    /// The answer to [`Action::Probe`](super::Action::Probe).
    Probed {
        /// Who was asked.
        worker: WorkerId,
        /// Nothing, or why that answer is not good enough.
        outcome: Result<(), String>,
    },
    /// The operator wants a new generation: new code, and this policy.
    Reload {
        /// What it goes by.
        policy: SupervisorPolicy,
    },
    /// The operator wants this many workers more (SIGTTIN) or fewer (SIGTTOU), until the next reload.
    Adjust {
        /// How many more.
        by: i32,
    },
    /// How busy everybody was lately; comes every second while `min` and `max` differ, an `idle_exit` is set, or the
    /// daemon watches a new generation.
    Load(LoadSample),
    /// A request has come and nobody serves: the end of a sleep.
    WorkerRequested,
    /// Stop when everybody has been answered (the first SIGTERM or SIGINT).
    Stop,
    /// Stop now (a second SIGTERM or SIGINT, or SIGQUIT).
    StopNow,
    /// No connection with a request is left.
    EdgeDrained,
    /// Time has passed; the only event that runs deadlines out.
    Tick,
}

/// Why a worker that serves well is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecycleReason {
    /// It has served as many requests as `workers.max_requests` (with its jitter) allows.
    Requests {
        /// How many.
        served: u64,
    },
    /// It has grown to `workers.max_memory`.
    Memory {
        /// Bytes it uses.
        bytes: u64,
        /// Bytes it may use.
        limit: u64,
    },
    /// It is `workers.max_lifetime` old. (The supervisor finds this out by itself.)
    Lifetime,
    /// It has served `workers.refork` requests and may become the zygote; or another one has, and this one is replaced
    /// by a fork of it. Of no effect without `preload`.
    Refork,
    /// A signal asks it to leave ([`Event::StopRequested`]).
    Signal {
        /// The signal's number.
        signal: i32,
    },
}

/// What the edge measured since the last time it was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadSample {
    /// Requests that wait.
    pub queued: usize,
    /// The longest wait of those that were given to a worker or still wait.
    pub longest_wait: Duration,
    /// Requests that run.
    pub running: usize,
    /// The most that ran at the same time.
    pub max_running: usize,
    /// How long nothing has been asked; zero while something runs or waits.
    pub idle_for: Duration,
    /// How the generations answered since each became live, by generation; those that have answered nothing are left
    /// out.
    pub responses: Vec<(Generation, ResponseStats)>,
}

/// How requests ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResponseStats {
    /// All that were answered, whoever did it.
    pub answered: u64,
    /// Of those: a status of 500 or above, an answer that broke off, a worker that died, a deadline.
    pub failed: u64,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It called exit, with this status.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// The signal's number.
        signal: i32,
        /// Whether the kernel wrote a core dump (`coredumpctl` may have it).
        core_dumped: bool,
    },
}

impl Exit {
    /// Whether a signal ended it that asks a process to leave.
    pub fn is_by_request(self) -> bool {
        matches!(self, Exit::Signal { signal: SIGINT | SIGTERM, .. })
    }
}

/// Numbers of all Linux architectures (signal(7)).
const SIGINT: i32 = 2;
/// As above.
const SIGTERM: i32 = 15;

impl fmt::Display for Exit {
    /// Reads after the worker's name: "worker 2 was killed by SIGSEGV (core dumped)".
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

/// Why a process could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpawnFault {
    /// What the configuration names cannot be executed (ENOENT, EACCES, ENOEXEC): trying again changes nothing.
    Config,
    /// The system had no process, memory or descriptor to give (EAGAIN, ENOMEM, EMFILE): it may the next time.
    System,
}

/// Why a worker did not come up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootFailure {
    /// What sort of failure.
    pub kind: BootFailureKind,
    /// One line for people, such as `ImportError: No module named 'mysite'`. It may hold what the application's
    /// exception says, and so its secrets: it is for the journal and for who may command the daemon.
    pub summary: String,
    /// One line for everybody on the machine: nothing in it is text of the application's. For STATUS=.
    pub headline: String,
    /// The application's traceback, when there is one.
    pub traceback: Option<String>,
}

/// The sorts of boot failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootFailureKind {
    /// The worker said so: no such module or attribute, not callable, a Python that is not supported.
    Config,
    /// The worker said so: the application's import or lifespan startup raised.
    App,
    /// It took longer than `timeouts.boot`.
    Timeout,
    /// The process ended while booting and said nothing (a crash in an extension module, `sys.exit` at import).
    Died,
    /// SIGTERM or SIGINT ended the process while it booted: somebody wanted that.
    Signalled,
    /// It broke the channel's contract while booting (a worker extension of another version, for one).
    Misbehaved,
    /// The process could not be made: what the configuration names cannot be executed.
    Spawn,
    /// The process could not be made: the system was short of something.
    System,
    /// It is up, and did not answer `reload.probe` as it should.
    Probe,
    /// It did not fail: another reload has taken its seat.
    Superseded,
    /// It did not fail: the daemon stops.
    Stopped,
}

impl BootFailure {
    /// One that the daemon has found out by itself: everybody may read of it.
    pub fn new(kind: BootFailureKind, summary: impl Into<String>) -> Self {
        let summary = summary.into();
        Self { kind, headline: summary.clone(), summary, traceback: None }
    }
}

impl BootFailureKind {
    /// Whether the next attempt would fail the same way unless somebody changes something.
    pub fn is_lasting(self) -> bool {
        !matches!(self, BootFailureKind::System | BootFailureKind::Signalled)
    }
}

impl fmt::Display for BootFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.summary)
    }
}

/// A signal's name for people, or its number.
pub fn name_of_signal(signal: i32) -> String {
    signal_name(signal).map_or_else(|| format!("signal {signal}"), str::to_owned)
}

/// The signals a crashed worker is found with; numbers of Linux on x86, Arm and RISC-V (signal(7)).
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
