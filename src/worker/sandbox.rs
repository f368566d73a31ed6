//! Restricts the worker's process by Landlock (landlock(7)), so that an attacker's code in a worker
//! cannot turn against the daemon.
//!
//! Applied only if `no_new_privs` is set already, as by `NoNewPrivileges=` of the packaged unit:
//! a worker in the foreground runs without restrictions. A kernel without Landlock restricts
//! nothing; an older version of Landlock restricts what it can.
//!
//! | what | effect | since |
//! |---|---|---|
//! | signals | only to processes that the worker has started, and to itself | Linux 6.12 |
//! | ptrace(2) and the private files of `/proc/PID` | as for signals | Linux 5.19 |
//! | writing to files below `/sys/fs/cgroup` | refused, so a worker cannot raise its own limits | Linux 5.19 |
//!
//! The workers of one zygote share its restrictions, and may signal each other. The daemon has no
//! restrictions and may signal all of them.
//!
//! A file system that is mounted at an entry of `/` after a worker has started is read-only for this
//! worker: the worker's rules name the directories that existed at its start. Mounts further below
//! are not affected.
//!
//! Linux 5.13 to 5.18 have Landlock too. There, every ruleset forbids moving files between
//! directories, so the worker is not restricted.

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, Scope, path_beneath_rules,
};

/// The path to the cgroups. The entries of each directory but the last are allowed one by one,
/// except for the next directory. Landlock has rules that allow, and none that refuse.
const PATH_TO_CGROUPS: [&str; 4] = ["/", "/sys", "/sys/fs", "/sys/fs/cgroup"];

/// Restricts the calling thread and all threads and processes that it starts. Call before the
/// application starts threads, once per process and not again after a fork: restrictions add up,
/// and the kernel allows 16 layers.
///
/// # Errors
/// A directory on the path to the cgroups cannot be read, or a system call of Landlock failed. The
/// process is then not restricted.
pub(crate) fn restrict() -> Result<(), Box<dyn Error>> {
    if !rustix::thread::no_new_privs()? || !allows_moving_files() {
        return Ok(());
    }
    // `Refer` permits moving files between directories, which a ruleset forbids by default.
    let access = AccessFs::WriteFile | AccessFs::Refer;
    Ruleset::default()
        .handle_access(access)?
        .scope(Scope::Signal)?
        .create()?
        .add_rules(path_beneath_rules(paths_without_cgroups()?, access))?
        .restrict_self()?;
    Ok(())
}

/// Returns whether the kernel has Landlock with the right to move files between directories.
fn allows_moving_files() -> bool {
    Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(AccessFs::Refer).is_ok()
}

/// Returns paths that together contain every file of the system, except for `/sys/fs/cgroup`.
fn paths_without_cgroups() -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for pair in PATH_TO_CGROUPS.windows(2) {
        let [directory, excluded] = [Path::new(pair[0]), Path::new(pair[1])];
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            // Without /sys there are no cgroups.
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => {
                return Err(io::Error::new(error.kind(), format!("{}: {error}", directory.display())));
            }
        };
        for entry in entries {
            paths.push(entry?.path());
        }
        paths.retain(|path| path != excluded);
    }
    Ok(paths)
}
