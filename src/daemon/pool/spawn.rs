//! Starts the process of a worker or zygote.
//!
//! # Why `unsafe`
//! Seven things must happen in the child between fork and exec, and `pre_exec` is the one hook
//! there:
//! - enter the cgroup, so that no instruction of the worker runs outside it
//! - restore the limit of open files that the daemon has raised for itself
//! - become the worker's user, and enter the application's directory as this user
//! - put the worker socket at its number
//! - ask for SIGKILL when the daemon dies
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

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::unistd::{AccessFlags, Pid};
use rgun_channel::control::{CONTROL_FD, STACKS_SIGNAL};

use crate::journal::output::WorkerEnds;
use crate::systemd::OWN_VARIABLES;
use crate::systemd::cgroup::WorkerCgroup;

use super::error::SpawnError;
use super::identity::{Credentials, UserIdentity};
use super::spawn_spec::SpawnSpec;
use super::user_access::test_access;

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
    if let Some(identity) = spec.identity {
        identity.set_environment(&mut command);
    }
    for variable in OWN_VARIABLES {
        command.env_remove(variable);
    }
    command.envs(spec.app.env.iter().map(|(name, value)| (name, value)));
    command.env(BOOTSTRAP_VARIABLE, BOOTSTRAP);
    let daemon = nix::unistd::getpid();
    let open_files = settings.open_files;
    let user = spec.identity.map(|identity| ChildUser::new(identity, &spec.app.directory)).transpose();
    let user = user.map_err(|source| SpawnError::System { resource: "the user", source })?;
    // SAFETY: the closure only makes async-signal-safe system calls and does not allocate: each
    // `io::Error` holds an errno.
    unsafe {
        command.pre_exec(move || {
            enter_cgroup(procs_fd)?;
            restore_file_limit(open_files)?;
            if let Some(user) = &user {
                user.assume()?;
            }
            set_up_child(control_fd, daemon)?;
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
    let user = spec.identity.map(|identity| identity.user.clone());
    if let Err(source) = enter(directory, spec.identity) {
        return SpawnError::Directory { path: directory.clone(), user, source };
    }
    if source.raw_os_error() == Some(nix::errno::Errno::E2BIG as i32) {
        return SpawnError::Environment { source };
    }
    let is_interpreter = matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied)
        || source.raw_os_error() == Some(nix::errno::Errno::ENOEXEC as i32);
    if !is_interpreter {
        return SpawnError::System { resource: "the process", source };
    }
    let python = &spec.app.python;
    let (path, source_of_path) = (python.path.clone(), python.source.to_string());
    SpawnError::Interpreter { path, source_of_path, user, source }
}

/// Returns the error of entering a directory as the user.
fn enter(directory: &Path, identity: Option<&UserIdentity>) -> io::Result<()> {
    // `/.` resolves in a directory that may be entered.
    let inside = directory.join(".");
    inside.metadata()?;
    let Some(identity) = identity else { return Ok(()) };
    match test_access(&identity.credentials, &[(inside, AccessFlags::X_OK)])?.first() {
        Some(errno) if *errno != 0 => Err(io::Error::from_raw_os_error(*errno)),
        _ => Ok(()),
    }
}

/// Enters the cgroup. Makes async-signal-safe calls only.
fn enter_cgroup(procs: Option<RawFd>) -> io::Result<()> {
    if let Some(procs) = procs {
        // "0" stands for the writing process (cgroups(7)).
        // SAFETY: the descriptor is open: the parent keeps the file open until the child has called
        // exec.
        let procs = unsafe { std::os::fd::BorrowedFd::borrow_raw(procs) };
        nix::unistd::write(procs, b"0")?;
    }
    Ok(())
}

/// The user that a child becomes, and the directory that it enters as this user.
#[derive(Debug)]
struct ChildUser {
    credentials: Credentials,
    directory: CString,
}

impl ChildUser {
    /// Copies what the child needs, because the child must not allocate.
    ///
    /// # Errors
    /// The path contains a zero byte.
    fn new(identity: &UserIdentity, directory: &Path) -> io::Result<Self> {
        let directory = CString::new(directory.as_os_str().as_bytes())?;
        Ok(Self { credentials: identity.credentials.clone(), directory })
    }

    /// Becomes the user and enters the directory. Makes async-signal-safe calls only.
    fn assume(&self) -> io::Result<()> {
        self.credentials.assume()?;
        // `Command` has entered the directory with the daemon's rights.
        Ok(nix::unistd::chdir(self.directory.as_c_str())?)
    }
}

/// Sets the parent-death signal and places the worker socket. Must follow a change of the user,
/// which clears this signal (prctl(2)). Makes async-signal-safe calls only.
fn set_up_child(control: RawFd, daemon: Pid) -> io::Result<()> {
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
