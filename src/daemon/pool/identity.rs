//! Another user to run a process as: `rgun check`, started as root, runs the application as its unit would.
//!
//! The daemon itself never changes its user, and has no use for this.
//!
//! # Why `unsafe`
//! What `std::process::Command` can set by itself cgroups out the supplementary groups; a process without its own would
//! keep root's. The closure makes plain system calls only (signal-safety(7)).
#![expect(unsafe_code, reason = "pre_exec")]

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

/// A user, with what a process needs to be that user's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserIdentity {
    /// As the operator has named the user.
    pub user: String,
    /// The user.
    pub uid: Uid,
    /// The group.
    pub gid: Gid,
    /// All groups.
    pub groups: Vec<Gid>,
    /// The whole environment.
    pub environment: Vec<(OsString, OsString)>,
}

impl UserIdentity {
    /// Has a command run as this user, in this environment. To be called before variables are added.
    pub fn apply(&self, command: &mut Command) {
        command.env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        let Self { uid, gid, groups, .. } = self.clone();
        // SAFETY: the closure makes three system calls and allocates nothing: the groups are moved into it.
        unsafe {
            command.pre_exec(move || switch_user(uid, gid, &groups));
        }
    }
}

/// Gives up what the process may do, for good. Only async-signal-safe calls.
///
/// # Errors
/// What the kernel says; EPERM to whoever is not root.
pub fn switch_user(uid: Uid, gid: Gid, groups: &[Gid]) -> io::Result<()> {
    // The user last: later the process may not change the others any more.
    setgroups(groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    Ok(())
}
