//! The daemon's delegated cgroup, with one cgroup for the daemon and one per worker (cgroups(7);
//! systemd's CGROUP_DELEGATION).
//!
//! ```text
//! rgun.service/            systemd's; delegated by Delegate=
//!   daemon/                this process
//!   workers/g1-w0-1/       one worker: generation 1, seat 0, incarnation 1
//! ```
//! A cgroup with controllers enabled below it may not contain processes, so the daemon first moves
//! itself into `daemon/`. Without delegation (no systemd, or a container without cgroup2) workers
//! stay in the daemon's cgroup; this is logged once.
//!
//! Each controller may be absent: see [`Delegation::has`] and [`WorkerCgroup::has_memory`]. Memory
//! limits and usage are in [`memory`](super::memory).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The delegated subtree of cgroups.
#[derive(Debug, Clone)]
pub struct Delegation {
    /// Path of `workers/`.
    workers: PathBuf,
    /// The controllers of the cgroups below `workers/`.
    controllers: Vec<Controller>,
}

/// The cgroup of one worker. Not removed on drop: see [`WorkerCgroup::remove`].
#[derive(Debug)]
pub struct WorkerCgroup {
    path: PathBuf,
    /// The memory controller is enabled.
    has_memory: bool,
}

/// A cgroup controller that the daemon enables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    /// Memory in bytes.
    Memory,
    /// Number of processes and threads.
    Pids,
    /// CPU time.
    Cpu,
    /// Reads and writes of block devices.
    Io,
}

impl Controller {
    const ENABLED: [Self; 4] = [Self::Memory, Self::Pids, Self::Cpu, Self::Io];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::Io => "io",
        }
    }
}

/// A failed cgroup operation. The daemon works without cgroups, so none is fatal.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The daemon was not started by systemd, or its unit lacks `Delegate=`.
    #[error("the service's cgroup is not delegated (Delegate= is not set, or this is not a systemd service)")]
    NotDelegated,
    /// No cgroup2 file system is mounted.
    #[error("no cgroup2 file system is mounted")]
    NoCgroup2,
    /// A file operation failed.
    #[error("cannot {operation} {path}")]
    System {
        /// The operation: a verb.
        operation: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the system call.
        #[source]
        source: io::Error,
    },
}

impl Delegation {
    /// Sets up the cgroup of this process, if systemd has delegated it: moves the process to
    /// `daemon/`, creates `workers/` and enables the available controllers.
    ///
    /// # Errors
    /// If the cgroup is not delegated or cannot be set up. The daemon then works without cgroups of
    /// its own.
    pub fn acquire() -> Result<Self, CgroupError> {
        let own = own_cgroup()?;
        // systemd marks a delegated cgroup with an extended attribute, but only since 251 and not
        // in every container. So check what delegation implies: the cgroup is a service's, has no
        // other process in it and is writable.
        let name = own.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // DelegateSubgroup= (systemd 254) starts the daemon in `daemon/` already.
        let (root, inside) = match own.parent() {
            Some(parent) if name == "daemon" => (parent.to_path_buf(), true),
            _ => (own.clone(), false),
        };
        let is_service = root.extension().is_some_and(|kind| kind == "service" || kind == "scope");
        if !is_service || std::env::var_os("INVOCATION_ID").is_none() {
            return Err(CgroupError::NotDelegated);
        }
        if !inside {
            if has_other_processes(&root)? {
                return Err(CgroupError::NotDelegated);
            }
            let cgroup = root.join("daemon");
            create_dir(&cgroup).map_err(|error| match error {
                CgroupError::System { ref source, .. } if is_denied(source) => CgroupError::NotDelegated,
                error => error,
            })?;
            write(&cgroup.join("cgroup.procs"), "0")?;
        }
        let workers = root.join("workers");
        create_dir(&workers)?;
        enable_controllers(&root);
        enable_controllers(&workers);
        let controllers = enabled_controllers(&workers);
        Ok(Self { workers, controllers })
    }

    /// Returns the cgroup of the service, which contains those of the daemon and the workers.
    pub fn service_cgroup(&self) -> &Path {
        self.workers.parent().unwrap_or(&self.workers)
    }

    /// Returns true if the cgroup is that of the daemon, of a worker, or below one of them.
    pub fn contains(&self, cgroup: &Path) -> bool {
        let root = self.service_cgroup();
        cgroup.starts_with(&self.workers) || cgroup.starts_with(root.join("daemon"))
    }

    /// Returns true if the workers' cgroups have this controller.
    pub fn has(&self, controller: Controller) -> bool {
        self.controllers.contains(&controller)
    }

    /// Returns half of the number of processes and threads that the service may have (`pids.max`,
    /// `TasksMax=`): a worker that starts processes without end leaves the other half to the daemon
    /// and the other workers. `None` without a limit.
    pub fn auto_max_tasks(&self) -> Option<u32> {
        let limit = fs::read_to_string(self.workers.parent()?.join("pids.max")).ok()?;
        // "max" (no limit) does not parse.
        limit.trim().parse().ok().map(|limit: u32| (limit / 2).max(1))
    }

    /// Creates the cgroup of a worker, or reuses one of the same name.
    ///
    /// # Errors
    /// If `mkdir(2)` fails.
    pub fn create_worker(&self, name: &str) -> Result<WorkerCgroup, CgroupError> {
        let path = self.workers.join(name);
        create_dir(&path)?;
        Ok(WorkerCgroup { path, has_memory: self.has(Controller::Memory) })
    }

    /// Uses an ordinary directory as the delegated subtree, for tests without cgroup2.
    #[cfg(test)]
    pub(crate) fn fake(workers: PathBuf, controllers: &[Controller]) -> Self {
        Self { workers, controllers: controllers.to_vec() }
    }
}

impl WorkerCgroup {
    /// Opens `cgroup.procs`, through which a new process enters the cgroup between fork and exec.
    ///
    /// # Errors
    /// The error of `open(2)`.
    pub fn open_procs(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.file("cgroup.procs"))
    }

    /// Sets the maximum number of processes and threads (`pids.max`): beyond it, fork(2) fails with
    /// EAGAIN.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn limit_tasks(&self, tasks: u32) -> Result<(), CgroupError> {
        write(&self.file("pids.max"), &tasks.to_string())
    }

    /// Sets the share of the processors relative to other workers (`cpu.weight`, 100 by default).
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn set_cpu_weight(&self, weight: u16) -> Result<(), CgroupError> {
        write(&self.file("cpu.weight"), &weight.to_string())
    }

    /// Sends SIGKILL to all processes in the cgroup (`cgroup.kill`, Linux 5.14). Returns false if
    /// the kernel has no such file.
    pub fn kill(&self) -> bool {
        write(&self.file("cgroup.kill"), "1").is_ok()
    }

    /// Lists the processes in the cgroup: the worker and its children.
    ///
    /// # Errors
    /// If `cgroup.procs` cannot be read.
    pub fn processes(&self) -> Result<Vec<u32>, CgroupError> {
        Ok(read(&self.file("cgroup.procs"))?.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Returns true if the memory controller is enabled for the cgroup.
    pub fn has_memory(&self) -> bool {
        self.has_memory
    }

    /// Returns the path of one of the cgroup's files.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Removes the cgroup. Succeeds if it does not exist.
    ///
    /// # Errors
    /// The error of `rmdir(2)`; EBUSY while a process is in it.
    pub fn remove(&self) -> io::Result<()> {
        match fs::remove_dir(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

fn is_denied(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

/// Creates a directory. Succeeds if it exists already.
fn create_dir(path: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(CgroupError::System { operation: "create", path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// Writes to an existing file.
pub(super) fn write(path: &Path, text: &str) -> Result<(), CgroupError> {
    let system = |source| CgroupError::System { operation: "write to", path: path.to_owned(), source };
    let mut file = OpenOptions::new().write(true).open(path).map_err(system)?;
    file.write_all(text.as_bytes()).map_err(system)
}

pub(super) fn read(path: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(path).map_err(|source| CgroupError::System {
        operation: "read",
        path: path.to_owned(),
        source,
    })
}

/// Returns true if a process other than this one is in the cgroup.
fn has_other_processes(cgroup: &Path) -> Result<bool, CgroupError> {
    let own = std::process::id().to_string();
    Ok(read(&cgroup.join("cgroup.procs"))?.lines().any(|pid| pid != own))
}

/// Enables the available controllers one by one, because a single write for all fails if one of
/// them cannot be enabled.
fn enable_controllers(cgroup: &Path) {
    let available = read(&cgroup.join("cgroup.controllers")).unwrap_or_default();
    for controller in Controller::ENABLED.map(Controller::name) {
        if !available.split_ascii_whitespace().any(|name| name == controller) {
            tracing::debug!(rgun.controller = controller, "cgroup controller is not delegated, ignoring");
            continue;
        }
        if let Err(error) = write(&cgroup.join("cgroup.subtree_control"), &format!("+{controller}")) {
            tracing::debug!(rgun.controller = controller, error = %crate::error_chain::Chain(&error),
                "cannot enable a cgroup controller, ignoring");
        }
    }
}

/// Returns the controllers that are enabled for the children of a cgroup.
fn enabled_controllers(cgroup: &Path) -> Vec<Controller> {
    let enabled = read(&cgroup.join("cgroup.subtree_control")).unwrap_or_default();
    let is_enabled =
        |controller: &Controller| enabled.split_ascii_whitespace().any(|name| name == controller.name());
    Controller::ENABLED.into_iter().filter(is_enabled).collect()
}

/// Returns the cgroup of this process, as a path below the cgroup2 mount point.
pub(super) fn own_cgroup() -> Result<PathBuf, CgroupError> {
    cgroup_in(Path::new("/proc/self"))
}

/// A service unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnUnit {
    /// The name, such as `rgun@shop.service`.
    pub name: String,
    /// Whether the service manager is a user's (`systemctl --user`), not the system's.
    pub is_users: bool,
}

/// Returns the service unit that this process belongs to. `None` outside of systemd, and in a scope,
/// such as the session of a terminal.
pub fn own_unit() -> Option<OwnUnit> {
    std::env::var_os("INVOCATION_ID")?;
    unit_of(&own_cgroup().ok()?)
}

/// Returns the innermost unit in a cgroup's path, if it is a service.
fn unit_of(cgroup: &Path) -> Option<OwnUnit> {
    let mut names = cgroup.iter().rev().filter_map(|name| name.to_str());
    let kind = |name: &str| name.rsplit_once('.').map(|(_, kind)| kind.to_owned());
    let is_service = |name: &str| kind(name).as_deref() == Some("service");
    let name = names.find(|name| matches!(kind(name).as_deref(), Some("service" | "scope")))?;
    let is_users = names.any(|name| name.starts_with("user@") && is_service(name));
    is_service(name).then(|| OwnUnit { name: name.to_owned(), is_users })
}

/// Returns the cgroup of a process, as a path below the cgroup2 mount point.
///
/// # Errors
/// There is no cgroup2, or the process has exited or is hidden (`ProtectProc=`).
pub fn cgroup_of(pid: i32) -> Result<PathBuf, CgroupError> {
    cgroup_in(&Path::new("/proc").join(pid.to_string()))
}

/// Returns the cgroup of the process with this directory below `/proc`.
fn cgroup_in(process: &Path) -> Result<PathBuf, CgroupError> {
    let mounts = read(Path::new("/proc/self/mountinfo"))?;
    let (root, mount_point) = cgroup2_mount(&mounts).ok_or(CgroupError::NoCgroup2)?;
    let membership = read(&process.join("cgroup"))?;
    let own = membership.lines().find_map(|line| line.strip_prefix("0::")).ok_or(CgroupError::NoCgroup2)?;
    let below = Path::new(own).strip_prefix(root).map_err(|_| CgroupError::NoCgroup2)?;
    Ok(mount_point.join(below))
}

/// Finds the cgroup2 mount: its root within the hierarchy and its mount point
/// (proc_pid_mountinfo(5)), which is `/sys/fs/cgroup/unified` on hybrid hosts.
fn cgroup2_mount(mountinfo: &str) -> Option<(&Path, PathBuf)> {
    mountinfo.lines().find_map(|line| {
        let (fields, rest) = line.split_once(" - ")?;
        if rest.split(' ').next()? != "cgroup2" {
            return None;
        }
        let mut fields = fields.split(' ').skip(3);
        Some((Path::new(fields.next()?), PathBuf::from(fields.next()?)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_mount_is_found_on_unified_and_hybrid_hosts() {
        let unified = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(cgroup2_mount(unified), Some((Path::new("/"), "/sys/fs/cgroup".into())));
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_mount(hybrid), Some((Path::new("/"), "/sys/fs/cgroup/unified".into())));
        assert_eq!(cgroup2_mount("31 23 0:28 / / rw - ext4 /dev/vda rw\n"), None);
    }

    #[test]
    fn unit_is_the_innermost_service_with_its_manager() {
        let unit = |cgroup: &str| unit_of(Path::new(cgroup)).map(|unit| (unit.name, unit.is_users));
        let system = "/sys/fs/cgroup/system.slice/system-rgun.slice/rgun@a.service/daemon";
        assert_eq!(unit(system), Some(("rgun@a.service".into(), false)));
        let user = "/sys/fs/cgroup/user.slice/user-7.slice/user@7.service";
        assert_eq!(unit(&format!("{user}/app.slice/rgun.service")), Some(("rgun.service".into(), true)));
        assert_eq!(unit(&format!("{user}/app.slice/vte-spawn.scope")), None);
        assert_eq!(unit("/sys/fs/cgroup/user.slice/user-7.slice/session-1.scope"), None);
    }

    #[test]
    fn delegation_contains_daemon_and_workers_only() {
        let delegation = Delegation::fake("/sys/fs/cgroup/a.service/workers".into(), &[]);
        for inside in ["workers", "workers/g1-w0-1", "workers/g1-w0-1/more", "daemon"] {
            assert!(delegation.contains(&Path::new("/sys/fs/cgroup/a.service").join(inside)), "{inside}");
        }
        for outside in ["a.service/.control", "a.service", "b.service/workers", "a.service/workers2"] {
            assert!(!delegation.contains(&Path::new("/sys/fs/cgroup").join(outside)), "{outside}");
        }
    }

    #[test]
    fn enabled_controllers_are_read_from_subtree_control() {
        let directory = crate::systemd::scratch_dir("controllers");
        assert_eq!(enabled_controllers(&directory), [], "an absent file means no controllers");
        fs::write(directory.join("cgroup.subtree_control"), "cpu io memory\n").unwrap();
        assert_eq!(enabled_controllers(&directory), [Controller::Memory, Controller::Cpu, Controller::Io]);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn cgroup_lists_processes_and_is_removed_once_empty() {
        let directory = crate::systemd::scratch_dir("cgroup");
        let cgroup = Delegation::fake(directory.clone(), &[]).create_worker("g1-w0-1").unwrap();
        fs::write(cgroup.file("cgroup.procs"), "17\n4711\n").unwrap();
        assert_eq!(cgroup.processes().unwrap(), [17, 4711]);
        assert!(!cgroup.has_memory());
        assert!(!cgroup.kill(), "no cgroup.kill: nothing was killed");
        cgroup.remove().unwrap_err();
        fs::remove_file(cgroup.file("cgroup.procs")).unwrap();
        cgroup.remove().unwrap();
        cgroup.remove().unwrap();
        fs::remove_dir_all(directory).unwrap();
    }
}
