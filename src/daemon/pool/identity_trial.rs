//! Finds out whether this process may run workers as a user: forks a process that becomes the user,
//! and checks that it can be signalled. A look at the capabilities would not suffice, because the
//! unit's system call filter and the user namespace decide, too.
//!
//! # Why `unsafe`
//! The process is forked and never executes a program. It only makes async-signal-safe calls
//! (signal-safety(7)); everything that they need is allocated before the fork.
#![expect(unsafe_code, reason = "fork")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::signal::kill;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe2, read, write};

use super::identity::{Credentials, SwitchFault, SwitchStep};

/// The reason why workers cannot run as the user.
#[derive(Debug)]
pub(super) enum TrialFault {
    /// The process could not become the user.
    Switch(SwitchFault),
    /// This process may not signal the user's processes.
    Signal(Errno),
    /// The trial could not be made.
    System(io::Error),
}

/// The steps in the order in which the process sends them, as numbers from 1.
const STEPS: [SwitchStep; 5] =
    [SwitchStep::Groups, SwitchStep::Group, SwitchStep::User, SwitchStep::Ambient, SwitchStep::Capabilities];

/// Runs a process as the user, for a moment.
///
/// # Errors
/// The process could not become the user, or cannot be signalled.
pub(super) fn try_credentials(user: &Credentials) -> Result<(), TrialFault> {
    let system = |errno: Errno| TrialFault::System(errno.into());
    let (result, result_end) = pipe2(OFlag::O_CLOEXEC).map_err(system)?;
    // The process runs until its parent closes `release_tx`.
    let (release_rx, release_tx) = pipe2(OFlag::O_CLOEXEC).map_err(system)?;
    // SAFETY: the child makes async-signal-safe calls only and ends by _exit(2).
    match unsafe { fork() }.map_err(system)? {
        ForkResult::Child => run_child(user, &result_end, &release_rx, &release_tx),
        ForkResult::Parent { child } => {
            drop((result_end, release_rx));
            let outcome = read_result(&result).and_then(|()| kill(child, None).map_err(TrialFault::Signal));
            drop(release_tx);
            reap(child);
            outcome
        }
    }
}

/// Becomes the user, sends the number of the step that failed (0 for success) and its errno, and
/// waits until the parent has closed its copy of `release_tx`.
fn run_child(user: &Credentials, result: &OwnedFd, release_rx: &OwnedFd, release_tx: &OwnedFd) -> ! {
    let [step, errno] = match user.assume() {
        Ok(()) => [0, 0],
        Err(SwitchFault { step, errno }) => {
            // A step that is not in the table is sent as the number after the last one, not as success.
            let idx = STEPS.iter().position(|known| *known == step).unwrap_or(STEPS.len());
            [i32::try_from(idx + 1).unwrap_or(i32::MAX), errno as i32]
        }
    };
    let mut message = [0; 8];
    message[..4].copy_from_slice(&step.to_ne_bytes());
    message[4..].copy_from_slice(&errno.to_ne_bytes());
    // SAFETY: this is the forked child, which has its own copy of the descriptor and does not use it.
    unsafe { libc::close(release_tx.as_raw_fd()) };
    if write(result, &message).is_ok() {
        while read(release_rx, &mut [0; 1]) == Err(Errno::EINTR) {}
    }
    // SAFETY: ends the process without running destructors or handlers, whose locks another thread
    // of the parent may have held.
    unsafe { libc::_exit(0) }
}

fn read_result(result: &OwnedFd) -> Result<(), TrialFault> {
    let mut message = [0; 8];
    let len = loop {
        match read(result, &mut message) {
            Err(Errno::EINTR) => {}
            read => break read.map_err(|errno| TrialFault::System(errno.into()))?,
        }
    };
    if len < message.len() {
        // Such as a system call filter that kills.
        return Err(TrialFault::System(io::Error::other("the process was killed")));
    }
    let [step, errno] =
        [0, 4].map(|at| i32::from_ne_bytes([message[at], message[at + 1], message[at + 2], message[at + 3]]));
    if step == 0 {
        return Ok(());
    }
    match usize::try_from(step - 1).ok().and_then(|idx| STEPS.get(idx)) {
        Some(step) => Err(TrialFault::Switch(SwitchFault { step: *step, errno: Errno::from_raw(errno) })),
        None => Err(TrialFault::System(Errno::from_raw(errno).into())),
    }
}

fn reap(child: Pid) {
    while waitpid(child, None) == Err(Errno::EINTR) {}
}

#[cfg(test)]
mod tests {
    use nix::unistd::{Gid, Uid};
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

    use super::*;

    /// Tries a user in a thread without some of root's capabilities. Returns `None` if this is not
    /// root.
    fn try_without(removed: CapabilitySet) -> Option<Result<(), TrialFault>> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: needs root");
            return None;
        }
        let user = Credentials {
            uid: Uid::from_raw(65534),
            gid: Gid::from_raw(65534),
            groups: vec![Gid::from_raw(65534)],
        };
        let thread = std::thread::spawn(move || {
            let mut sets = capabilities(None).unwrap();
            sets.effective -= removed;
            set_capabilities(None, sets).unwrap();
            try_credentials(&user)
        });
        Some(thread.join().unwrap())
    }

    #[test]
    fn user_without_problems_is_accepted() {
        if let Some(outcome) = try_without(CapabilitySet::empty()) {
            outcome.unwrap();
        }
    }

    #[test]
    fn each_missing_capability_is_named() {
        for (removed, expected) in
            [(CapabilitySet::SETGID, SwitchStep::Groups), (CapabilitySet::SETUID, SwitchStep::User)]
        {
            let Some(outcome) = try_without(removed) else { return };
            let Err(TrialFault::Switch(fault)) = outcome else { panic!("{outcome:?}") };
            assert_eq!((fault.step, fault.errno), (expected, Errno::EPERM));
        }
        let outcome = try_without(CapabilitySet::KILL);
        assert!(matches!(outcome, Some(Err(TrialFault::Signal(Errno::EPERM)))), "{outcome:?}");
    }
}
