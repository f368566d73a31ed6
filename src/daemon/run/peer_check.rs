//! Which processes may use the control socket: all that can open it, except for workers and the
//! processes that they have started.
//!
//! The socket's mode admits root, the daemon's user and the members of `control.group`. A process of
//! the daemon's user, or of a user that workers run as, is refused if it is in the cgroup of a
//! worker or of the daemon, or if it descends from the daemon. The daemon is a subreaper, so its
//! descendants cannot escape by a double fork.
//!
//! `ProtectProc=` of the unit hides processes of other users, and those that are not dumpable. A
//! hidden client of one of these users is refused. A hidden ancestor ends the search for the daemon:
//! the ancestor may be the shell of an operator.

use std::io;
use std::path::Path;

use nix::unistd::{Pid, geteuid};
use tokio::net::unix::UCred;

use super::worker_users::WorkerUsers;
use crate::error_chain::Chain;
use crate::systemd::cgroup::{CgroupError, Delegation, cgroup_of};

/// Maximum length of a chain of ancestors. A client with more is refused.
const MAX_ANCESTORS: usize = 1000;

/// Decides about clients of the control socket.
#[derive(Debug)]
pub(super) struct PeerCheck {
    /// The daemon.
    daemon: Pid,
    /// The cgroups of daemon and workers; `None` without delegation.
    delegation: Option<Delegation>,
    /// The users that workers run as.
    worker_users: WorkerUsers,
}

/// The reason why the control socket refuses a client.
#[derive(Debug, thiserror::Error)]
pub(super) enum PeerRefusal {
    #[error(
        "process {0} was started by this daemon, which takes no commands from its workers; use systemctl reload"
    )]
    Worker(Pid),
    #[error("user {0} may not use the control socket")]
    Stranger(u32),
    #[error("process {0} has exited, or hides its attributes from this daemon")]
    Hidden(Pid),
    #[error("cannot find out which process it is: {}", Chain(.0))]
    System(#[from] io::Error),
}

impl PeerCheck {
    pub(super) fn new(daemon: Pid, delegation: Option<Delegation>, worker_users: WorkerUsers) -> Self {
        Self { daemon, delegation, worker_users }
    }

    /// Checks the process that has connected (SO_PEERCRED, unix(7)).
    ///
    /// # Errors
    /// The process is not allowed to give commands.
    pub(super) fn check(&self, peer: &UCred) -> Result<(), PeerRefusal> {
        // Pid 0 stands for a process outside the daemon's PID namespace: not a worker.
        let Some(pid) = peer.pid().filter(|pid| *pid > 0) else { return Ok(()) };
        if self.may_be_worker(peer.uid()) { self.check_process(Pid::from_raw(pid)) } else { Ok(()) }
    }

    /// Returns whether workers run as this user, or did.
    fn may_be_worker(&self, uid: u32) -> bool {
        uid == geteuid().as_raw() || self.worker_users.contains(uid)
    }

    fn check_process(&self, pid: Pid) -> Result<(), PeerRefusal> {
        let refusal = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => PeerRefusal::Hidden(pid),
            _ => PeerRefusal::System(error),
        };
        if self.runs_in_delegation(pid).map_err(refusal)?
            || self.descends_from_daemon(pid).map_err(refusal)?
        {
            return Err(PeerRefusal::Worker(pid));
        }
        Ok(())
    }

    /// Returns true if the process is in the cgroup of the daemon or of a worker.
    fn runs_in_delegation(&self, pid: Pid) -> io::Result<bool> {
        let Some(delegation) = &self.delegation else { return Ok(false) };
        match cgroup_of(pid.as_raw()) {
            Ok(cgroup) => Ok(delegation.contains(&cgroup)),
            Err(CgroupError::System { source, .. }) => Err(source),
            // The process is in no cgroup below the mount that has the delegated cgroups.
            Err(CgroupError::NoCgroup2 | CgroupError::NotDelegated) => Ok(false),
        }
    }

    /// Returns true if the daemon is an ancestor of the process. A process with too many ancestors
    /// counts as a descendant.
    fn descends_from_daemon(&self, pid: Pid) -> io::Result<bool> {
        let mut child = pid;
        let mut parent = parent_of(child)?;
        for _ in 0..MAX_ANCESTORS {
            if parent == self.daemon {
                return Ok(true);
            }
            if parent.as_raw() <= 1 {
                return Ok(false);
            }
            match parent_of(parent) {
                Ok(grandparent) => (child, parent) = (parent, grandparent),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // If the parent has exited, the child has another one now.
                    let current = parent_of(child)?;
                    if current == parent {
                        return Ok(false);
                    }
                    parent = current;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// Reads the parent of a process (proc_pid_stat(5)).
fn parent_of(pid: Pid) -> io::Result<Pid> {
    let stat = match std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")) {
        // The process has exited since the file was opened.
        Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) => {
            return Err(io::ErrorKind::NotFound.into());
        }
        stat => stat?,
    };
    parse_parent(&stat).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Parses the fourth field. The second, the name in parentheses, may contain parentheses and spaces.
fn parse_parent(stat: &str) -> Option<Pid> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(1)?.parse().ok().map(Pid::from_raw)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn grandchild_is_refused_and_its_grandparent_allowed() {
        let daemon = nix::unistd::getpid();
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 1000 & echo $!; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = io::BufReader::new(shell.stdout.take().unwrap());
        io::BufRead::read_line(&mut output, &mut line).unwrap();
        let grandchild = Pid::from_raw(line.trim().parse().unwrap());
        let peers = PeerCheck::new(daemon, None, WorkerUsers::default());
        let child = Pid::from_raw(shell.id().cast_signed());
        assert!(matches!(peers.check_process(child), Err(PeerRefusal::Worker(pid)) if pid == child));
        assert!(
            matches!(peers.check_process(grandchild), Err(PeerRefusal::Worker(pid)) if pid == grandchild)
        );
        peers.check_process(daemon).unwrap();
        nix::sys::signal::kill(grandchild, nix::sys::signal::Signal::SIGKILL).unwrap();
        shell.wait().unwrap();
    }

    #[test]
    fn processes_of_the_workers_user_are_checked() {
        let check = |users| PeerCheck::new(nix::unistd::getpid(), None, users).may_be_worker(4711);
        assert!(check(WorkerUsers::of(4711)));
        assert!(!check(WorkerUsers::of(4712)) && !check(WorkerUsers::default()));
        let peers = PeerCheck::new(nix::unistd::getpid(), None, WorkerUsers::of(4711));
        assert!(peers.may_be_worker(geteuid().as_raw()));
    }

    #[test]
    fn client_that_has_exited_is_refused() {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        let refused = PeerCheck::new(nix::unistd::getpid(), None, WorkerUsers::default()).check_process(pid);
        assert!(matches!(refused, Err(PeerRefusal::Hidden(_))), "{refused:?}");
    }

    #[test]
    fn parent_is_parsed_despite_parentheses_in_the_name() {
        assert_eq!(parse_parent("12 (a) S 99) R 7 12 12 0"), Some(Pid::from_raw(7)));
        assert_eq!(parse_parent("12 (a"), None);
    }
}
