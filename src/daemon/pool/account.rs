//! Users and groups of the machine, found by name or number (getpwnam(3), getgrnam(3)).

use std::ffi::CString;
use std::path::PathBuf;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

/// A user of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserAccount {
    /// The login name.
    pub name: String,
    /// The user id.
    pub uid: Uid,
    /// The primary group.
    pub gid: Gid,
    /// The home directory.
    pub home: PathBuf,
    /// The login shell.
    pub shell: PathBuf,
}

impl UserAccount {
    /// Finds a user; a name of digits is taken as a number. Returns `None` if there is no such user.
    ///
    /// # Errors
    /// The error of the lookup.
    pub fn find(name: &str) -> nix::Result<Option<Self>> {
        let known = match name.parse() {
            Ok(number) => User::from_uid(Uid::from_raw(number)),
            Err(_) => User::from_name(name),
        };
        known.map(|user| user.map(Self::from))
    }

    /// Returns all groups of the user, `gid` included.
    pub fn groups_with(&self, gid: Gid) -> Vec<Gid> {
        let name = CString::new(self.name.as_str()).ok();
        name.and_then(|name| getgrouplist(&name, gid).ok()).unwrap_or_else(|| vec![gid])
    }
}

impl From<User> for UserAccount {
    fn from(user: User) -> Self {
        let User { name, uid, gid, dir: home, shell, .. } = user;
        Self { name, uid, gid, home, shell }
    }
}

/// Finds a group; a name of digits is taken as a number, whose group need not exist. Returns `None`
/// if there is no group with this name.
///
/// # Errors
/// The error of the lookup.
pub fn find_group(name: &str) -> nix::Result<Option<Gid>> {
    match name.parse() {
        Ok(number) => Ok(Some(Gid::from_raw(number))),
        Err(_) => Group::from_name(name).map(|group| group.map(|group| group.gid)),
    }
}
