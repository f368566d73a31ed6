//! Starts the process of a worker or zygote.
//!
//! # Why `unsafe`
//! Six things must happen in the child between fork and exec, and `pre_exec` is the one hook there:
//! - enter the cgroup, so that no instruction of the worker runs outside it
//! - put the worker socket at its number
//! - ask for SIGKILL when the daemon dies
//! - restore the limit of open files that the daemon has raised for itself
//! - reset signal dispositions and mask to those of a program started by systemd
//! - ignore the signals that would kill a worker before it has handlers for them
//!   ([`INITIALLY_IGNORED`])
//!
//! The closure only makes system calls: no allocation, no lock, no logging (signal-safety(7)).
//!
//! Dispositions and mask that the daemon was started with (by nohup(1), or as a shell's background
//! job) are reset because an ignored signal stays ignored over execve(2), also in the programs that
//! the application starts.
#![expect(unsafe_code, reason = "pre_exec")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::Pid;
use rgun_channel::control::{CONTROL_FD, STACKS_SIGNAL};

use crate::journal::output::WorkerEnds;
use crate::systemd::OWN_VARIABLES;
use crate::systemd::cgroup::WorkerCgroup;

use super::error::SpawnError;
use super::identity::UserIdentity;
use super::spawn_spec::SpawnSpec;

/// Signals that a worker ignores until its extension has installed handlers
/// (src/worker/dispositions.rs, stacks.rs): the daemon's signals, which a process manager sends to
/// the whole process group, and the signal for stacks.
const INITIALLY_IGNORED: [libc::c_int; 6] =
    [libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGTTIN, libc::SIGTTOU, STACKS_SIGNAL];

/// Python code that runs first in the worker: checks the interpreter and loads the extension. The
/// code is passed in an environment variable, because the process list shows arguments; the worker
/// removes the variable.
const BOOTSTRAP: &str = include_str!("../../worker/bootstrap.py");
/// The environment variable that contains [`BOOTSTRAP`].
const BOOTSTRAP_VARIABLE: &str = "RGUN_BOOTSTRAP";
/// The argument of `python -c`: removes the variable and runs its code.
const RUN_BOOTSTRAP: &str = "import os; exec(os.environ.pop('RGUN_BOOTSTRAP'))";

/// Settings of all processes of a pool.
#[derive(Debug, Default)]
pub(super) struct ProcessSettings {
    /// The soft limit of open files that the daemon had before it raised its own; `None` for the
    /// daemon's limit.
    pub(super) open_files: Option<u64>,
    /// The user that the processes run as; `None` for the daemon's user.
    pub(super) identity: Option<UserIdentity>,
}

/// Starts the process and returns its pid. `control` is the worker's end of its socket.
pub(super) fn spawn(
    spec: &SpawnSpec<'_>,
    extension: &Path,
    control: &OwnedFd,
    output: Option<WorkerEnds>,
    cgroup: Option<&WorkerCgroup>,
    settings: &ProcessSettings,
) -> Result<Pid, SpawnError> {
    let procs = cgroup.map(WorkerCgroup::open_procs).transpose().map_err(SpawnError::open_cgroup)?;
    let procs_fd = procs.as_ref().map(AsRawFd::as_raw_fd);
    let control_fd = control.as_raw_fd();
    let signals = Signals { last: libc::SIGRTMAX(), reserved: 32..libc::SIGRTMIN() };
    let python = &spec.app.python;
    let mut command = Command::new(&python.path);
    command
        .arg("-c")
        .arg(RUN_BOOTSTRAP)
        .arg(extension)
        .current_dir(&spec.app.directory)
        .stdin(Stdio::null())
        .process_group(0);
    if let Some(WorkerEnds { stdout, stderr }) = output {
        command.stdout(stdout).stderr(stderr);
    }
    if let Some(identity) = &settings.identity {
        // Before `set_up_child`: a change of the user clears the parent-death signal (prctl(2)).
        identity.apply(&mut command);
    }
    for variable in OWN_VARIABLES {
        command.env_remove(variable);
    }
    command.envs(spec.app.env.iter().map(|(name, value)| (name, value)));
    command.env(BOOTSTRAP_VARIABLE, BOOTSTRAP);
    let daemon = nix::unistd::getpid();
    let open_files = settings.open_files;
    // SAFETY: the closure only makes async-signal-safe system calls and does not allocate: each
    // `io::Error` holds an errno.
    unsafe {
        command.pre_exec(move || {
            set_up_child(procs_fd, control_fd, daemon)?;
            restore_file_limit(open_files)?;
            reset_signals(&signals)
        });
    }
    let spawned = command.spawn().map_err(|source| spawn_error(spec, source));
    // Dropping a `Child` neither kills nor reaps it.
    spawned.map(|child| Pid::from_raw(child.id().cast_signed()))
}

/// Finds whether the directory, the interpreter or the system is at fault: `chdir(2)` and
/// `execve(2)` fail alike.
fn spawn_error(spec: &SpawnSpec<'_>, source: io::Error) -> SpawnError {
    let directory = &spec.app.directory;
    // `/.` resolves in a directory that may be entered.
    if let Err(source) = directory.join(".").metadata() {
        return SpawnError::Directory { path: directory.clone(), source };
    }
    let is_interpreter = matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
        || source.raw_os_error() == Some(nix::errno::Errno::ENOEXEC as i32);
    if !is_interpreter {
        return SpawnError::System { resource: "the process", source };
    }
    let python = &spec.app.python;
    SpawnError::Interpreter { path: python.path.clone(), source_of_path: python.source.to_string(), source }
}

/// Enters the cgroup, sets the parent-death signal and places the worker socket. Runs between fork
/// and exec: makes async-signal-safe calls only.
fn set_up_child(procs: Option<RawFd>, control: RawFd, daemon: Pid) -> io::Result<()> {
    if let Some(procs) = procs {
        // "0" stands for the writing process (cgroups(7)).
        // SAFETY: the descriptor is open: the parent keeps the file open until the child has called
        // exec.
        let procs = unsafe { std::os::fd::BorrowedFd::borrow_raw(procs) };
        nix::unistd::write(procs, b"0")?;
    }
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    if nix::unistd::getppid() != daemon {
        // The daemon died before the call above, so the kernel would not send the signal.
        return Err(io::Error::from_raw_os_error(nix::errno::Errno::ESRCH as i32));
    }
    // SAFETY: the descriptor is open in the child as it was in the parent.
    let from = unsafe { std::os::fd::BorrowedFd::borrow_raw(control) };
    if control == CONTROL_FD {
        nix::fcntl::fcntl(from, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
    } else {
        // dup2 clears close-on-exec on the copy and closes the daemon's descriptor of that number.
        // SAFETY: this is the forked child before exec; nothing in it uses the descriptor that is
        // closed.
        unsafe { nix::unistd::dup2_raw(from, CONTROL_FD) }.map(std::os::fd::IntoRawFd::into_raw_fd)?;
    }
    Ok(())
}

/// Sets the soft limit of open files. Makes async-signal-safe calls only.
fn restore_file_limit(soft: Option<u64>) -> io::Result<()> {
    let Some(soft) = soft else { return Ok(()) };
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard)?)
}

/// The numbers of all signals that a program may handle.
#[derive(Debug, Clone)]
struct Signals {
    /// The highest number.
    last: libc::c_int,
    /// Real-time signals that the C library keeps for itself (nptl(7)).
    reserved: std::ops::Range<libc::c_int>,
}

/// Sets default dispositions, except for [`INITIALLY_IGNORED`], and an empty mask. Makes
/// async-signal-safe calls only.
fn reset_signals(signals: &Signals) -> io::Result<()> {
    for signal in 1..=signals.last {
        let is_fixed = signal == libc::SIGKILL || signal == libc::SIGSTOP;
        if is_fixed || signals.reserved.contains(&signal) {
            continue;
        }
        let disposition = if INITIALLY_IGNORED.contains(&signal) { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: SIG_IGN and SIG_DFL run no handler of this program.
        if unsafe { libc::signal(signal, disposition) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
}
