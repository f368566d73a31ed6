//! Makes a worker's process.
//!
//! # Why `unsafe`
//! Six things must happen in the child between fork and exec, and only `pre_exec` can do them: entering
//! the cgroup (so that no instruction of the worker runs outside it), placing the control socket at its
//! number, asking for SIGKILL when the daemon dies, restoring the limit of open files that the daemon has raised
//! for itself, restoring the signal dispositions and the mask that a program started by systemd has, and ignoring
//! those signals that would kill a worker which has not come so far as to handle them ([`INITIALLY_IGNORED`]). The closure makes
//! plain system calls only: no allocation, no lock, no logging (signal-safety(7)).
//!
//! A disposition or mask that the daemon was started with (nohup(1), a shell's background job) is not for workers:
//! an ignored signal stays ignored over execve(2), in every program that the application starts as well.
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

/// What a worker has handlers for that let it live, as soon as its extension is loaded (src/worker/dispositions.rs,
/// stacks.rs): orders to the daemon, which a process manager sends to all, and the signal for stacks.
const INITIALLY_IGNORED: [libc::c_int; 6] =
    [libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGTTIN, libc::SIGTTOU, STACKS_SIGNAL];

/// Runs in the worker's interpreter before anything else: checks the interpreter, loads the extension. It travels in
/// a variable, which is gone before the application is imported, because arguments are what the process list shows.
const BOOTSTRAP: &str = include_str!("../../worker/bootstrap.py");
const BOOTSTRAP_VARIABLE: &str = "RGUN_BOOTSTRAP";
const RUN_BOOTSTRAP: &str = "import os; exec(os.environ.pop('RGUN_BOOTSTRAP'))";

/// What every process of a pool is started with.
#[derive(Debug, Default)]
pub(super) struct ProcessSettings {
    /// The soft limit of open files, which the daemon had before it raised its own. `None`: the daemon's own.
    pub(super) open_files: Option<u64>,
    /// The user that the processes run as; `None` for the daemon's.
    pub(super) identity: Option<UserIdentity>,
}

pub(super) fn spawn(
    spec: &SpawnSpec<'_>,
    extension: &Path,
    control: &OwnedFd,
    output: Option<WorkerEnds>,
    cgroup: Option<&WorkerCgroup>,
    settings: &ProcessSettings,
) -> Result<Pid, SpawnError> {
    let entrance = cgroup.map(WorkerCgroup::open_procs).transpose().map_err(SpawnError::open_cgroup)?;
    let entrance_fd = entrance.as_ref().map(AsRawFd::as_raw_fd);
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
        // Before `set_up_child`: the kernel forgets the signal of the parent's death when the user changes (prctl(2)).
        identity.apply(&mut command);
    }
    for variable in OWN_VARIABLES {
        command.env_remove(variable);
    }
    command.envs(spec.app.env.iter().map(|(name, value)| (name, value)));
    command.env(BOOTSTRAP_VARIABLE, BOOTSTRAP);
    let daemon = nix::unistd::getpid();
    let open_files = settings.open_files;
    // SAFETY: the closure only makes async-signal-safe system calls and does not allocate: `io::Error`s are
    // made from an errno.
    unsafe {
        command.pre_exec(move || {
            set_up_child(entrance_fd, control_fd, daemon)?;
            restore_file_limit(open_files)?;
            reset_signals(&signals)
        });
    }
    let made = command.spawn().map_err(|source| spawn_error(spec, source));
    // Dropping a `Child` neither kills nor reaps it; from here on it is known by its number.
    made.map(|child| Pid::from_raw(child.id().cast_signed()))
}

/// What made `execve(2)` or `chdir(2)` fail: the error is the same for both.
fn spawn_error(spec: &SpawnSpec<'_>, source: io::Error) -> SpawnError {
    let directory = &spec.app.directory;
    // With a slash, which only a directory that may be entered has.
    if let Err(source) = directory.join(".").metadata() {
        return SpawnError::Directory { path: directory.clone(), source };
    }
    let python = &spec.app.python;
    match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => SpawnError::Interpreter {
            path: python.path.clone(),
            source_of_path: python.source.to_string(),
            source,
        },
        _ if source.raw_os_error() == Some(nix::errno::Errno::ENOEXEC as i32) => SpawnError::Interpreter {
            path: python.path.clone(),
            source_of_path: python.source.to_string(),
            source,
        },
        _ => SpawnError::System { resource: "the process", source },
    }
}

/// Between fork and exec. Only async-signal-safe calls.
fn set_up_child(entrance: Option<RawFd>, control: RawFd, daemon: Pid) -> io::Result<()> {
    if let Some(entrance) = entrance {
        // "0" is the writing process itself (cgroups(7)).
        // SAFETY: the descriptor is open: the parent keeps the file until the child has been made.
        let entrance = unsafe { std::os::fd::BorrowedFd::borrow_raw(entrance) };
        nix::unistd::write(entrance, b"0")?;
    }
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    if nix::unistd::getppid() != daemon {
        // The daemon died before the call above: nobody would ever send the signal.
        return Err(io::Error::from_raw_os_error(nix::errno::Errno::ESRCH as i32));
    }
    // SAFETY: the descriptor is open in the child as it was in the parent.
    let from = unsafe { std::os::fd::BorrowedFd::borrow_raw(control) };
    if control == CONTROL_FD {
        nix::fcntl::fcntl(from, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
    } else {
        // dup2 clears close-on-exec on the copy; what stood at that number was the daemon's, and is closed.
        // SAFETY: this is the forked child before exec; nothing in it uses the old descriptor any more.
        unsafe { nix::unistd::dup2_raw(from, CONTROL_FD) }.map(std::os::fd::IntoRawFd::into_raw_fd)?;
    }
    Ok(())
}

/// The soft limit of open files that the daemon was started with. Only async-signal-safe calls.
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

/// Default dispositions and an empty mask, but for [`INITIALLY_IGNORED`], which are ignored until then.
/// Only async-signal-safe calls.
fn reset_signals(signals: &Signals) -> io::Result<()> {
    for signal in 1..=signals.last {
        let is_fixed = signal == libc::SIGKILL || signal == libc::SIGSTOP;
        if is_fixed || signals.reserved.contains(&signal) {
            continue;
        }
        let disposition = if INITIALLY_IGNORED.contains(&signal) { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: neither disposition is a function of ours that could run at a bad time.
        if unsafe { libc::signal(signal, disposition) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?)
}
