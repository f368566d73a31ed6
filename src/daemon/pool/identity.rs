//! Runs processes as another user: workers with `workers.user`, and in `rgun check`, started as
//! root, the application as the unit's user.
//!
//! The daemon itself never changes its user.
//!
//! # Why `unsafe`
//! `std::process::Command` cannot set the supplementary groups, so the process would keep the
//! daemon's. The closure only makes system calls (signal-safety(7)).
#![expect(unsafe_code, reason = "pre_exec")]

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitySet, CapabilitySets, clear_ambient_capability_set, set_capabilities};

/// A user with groups and environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserIdentity {
    /// The user's name or number, for messages.
    pub user: String,
    /// User and groups.
    pub credentials: Credentials,
    /// The complete environment.
    pub environment: Vec<(OsString, OsString)>,
}

/// The user and the groups of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user id.
    pub uid: Uid,
    /// The primary group.
    pub gid: Gid,
    /// The supplementary groups.
    pub groups: Vec<Gid>,
}

/// A step of [`Credentials::assume`] that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SwitchFault {
    pub(super) step: SwitchStep,
    pub(super) errno: Errno,
}

/// A step of [`Credentials::assume`], in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SwitchStep {
    Groups,
    Group,
    User,
    Ambient,
    Capabilities,
}

impl UserIdentity {
    /// Makes a command run as this user in this environment. Call before adding variables: it
    /// clears the environment.
    pub fn apply(&self, command: &mut Command) {
        self.set_environment(command);
        let credentials = self.credentials.clone();
        // SAFETY: the closure makes system calls only and allocates nothing: the groups are moved
        // into it, and the `io::Error` holds an errno.
        unsafe {
            command.pre_exec(move || Ok(credentials.assume()?));
        }
    }

    /// Replaces the environment of a command.
    pub(super) fn set_environment(&self, command: &mut Command) {
        command.env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
    }
}

impl Credentials {
    /// Switches the process to this user for good, and gives up all capabilities unless the user is
    /// root. Makes async-signal-safe calls only.
    ///
    /// A change of the user clears the parent-death signal (prctl(2)).
    ///
    /// # Errors
    /// The step that failed; EPERM without the capabilities that it needs.
    pub fn assume(&self) -> Result<(), SwitchFault> {
        let fault = |step| move |errno| SwitchFault { step, errno };
        // The user must be set last: afterwards the process may not change its groups.
        setgroups(&self.groups).map_err(fault(SwitchStep::Groups))?;
        setresgid(self.gid, self.gid, self.gid).map_err(fault(SwitchStep::Group))?;
        setresuid(self.uid, self.uid, self.uid).map_err(fault(SwitchStep::User))?;
        if self.uid.is_root() {
            return Ok(());
        }
        // A change from one user to another, neither of them root, keeps all capabilities, and the
        // ambient ones are kept over execve(2), too (capabilities(7)).
        let fault = |step| move |errno: rustix::io::Errno| fault(step)(Errno::from_raw(errno.raw_os_error()));
        let none = CapabilitySet::empty();
        clear_ambient_capability_set().map_err(fault(SwitchStep::Ambient))?;
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
            .map_err(fault(SwitchStep::Capabilities))
    }
}

impl fmt::Display for SwitchFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let call = match self.step {
            SwitchStep::Groups => "setgroups(2)",
            SwitchStep::Group => "setresgid(2)",
            SwitchStep::User => "setresuid(2)",
            SwitchStep::Ambient => "prctl(PR_CAP_AMBIENT)",
            SwitchStep::Capabilities => "capset(2)",
        };
        write!(formatter, "{call}: {}", self.errno.desc())
    }
}

impl From<SwitchFault> for io::Error {
    fn from(fault: SwitchFault) -> Self {
        Self::from_raw_os_error(fault.errno as i32)
    }
}
