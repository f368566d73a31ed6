//! Runs processes as another user: `rgun check`, started as root, runs the application as the
//! unit's user.
//!
//! The daemon itself never changes its user.
//!
//! # Why `unsafe`
//! `std::process::Command` cannot set the supplementary groups, so the process would keep root's.
//! The closure only makes system calls (signal-safety(7)).
#![expect(unsafe_code, reason = "pre_exec")]

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

/// A user with groups and environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserIdentity {
    /// The user's name, as the operator gave it.
    pub user: String,
    /// The user id.
    pub uid: Uid,
    /// The primary group.
    pub gid: Gid,
    /// The supplementary groups.
    pub groups: Vec<Gid>,
    /// The complete environment.
    pub environment: Vec<(OsString, OsString)>,
}

impl UserIdentity {
    /// Makes a command run as this user in this environment. Call before adding variables: it
    /// clears the environment.
    pub fn apply(&self, command: &mut Command) {
        command.env_clear().envs(self.environment.iter().map(|(name, value)| (name, value)));
        let Self { uid, gid, groups, .. } = self.clone();
        // SAFETY: the closure makes three system calls and allocates nothing: the groups are moved
        // into it.
        unsafe {
            command.pre_exec(move || switch_user(uid, gid, &groups));
        }
    }
}

/// Switches the process to this user for good. Makes async-signal-safe calls only.
///
/// # Errors
/// The error of the system call that failed; EPERM without root's privileges.
pub fn switch_user(uid: Uid, gid: Gid, groups: &[Gid]) -> io::Result<()> {
    // The user must be set last: afterwards the process may not change its groups.
    setgroups(groups)?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    Ok(())
}
