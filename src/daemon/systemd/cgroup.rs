//! The daemon's delegated cgroup: a cgroup for itself, a cgroup per worker (cgroups(7); systemd's
//! CGROUP_DELEGATION).
//!
//! ```text
//! rgun.service/            systemd's; ours to fill because of Delegate=
//!   daemon/                this process
//!   workers/g1-w0-1/       one worker: generation 1, seat 0, life 1
//! ```
//! Processes may only live in cgroups once controllers are enabled below a cgroup, so the daemon moves
//! itself first. Where nothing is delegated (no systemd, a container without cgroup2) workers stay where
//! the daemon is; that is said once, and everything else works.
//!
//! Each controller is there or not on its own: who needs one asks [`Delegation::has`] or [`WorkerCgroup::has_memory`].
//! What a worker may use, and what it uses, is in [`memory`](super::memory).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The delegated subtree.
#[derive(Debug)]
pub struct Delegation {
    workers: PathBuf,
    /// Those that its cgroups have.
    controllers: Vec<Controller>,
}

/// A worker's cgroup; removed by [`WorkerCgroup::remove`] after its processes are gone.
#[derive(Debug)]
pub struct WorkerCgroup {
    path: PathBuf,
    has_memory: bool,
}

/// What the kernel can bound in a cgroup, as far as the daemon makes use of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    /// Bytes.
    Memory,
    /// Processes and threads.
    Pids,
    /// Processor time.
    Cpu,
    /// Reads and writes of block devices.
    Io,
}

impl Controller {
    const USED: [Self; 4] = [Self::Memory, Self::Pids, Self::Cpu, Self::Io];

    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::Io => "io",
        }
    }
}

/// Why there is no delegation. None of these is an error: the daemon goes on without.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// Not started by systemd with `Delegate=`.
    #[error("the service's cgroup is not delegated (Delegate= is not set, or this is not a systemd service)")]
    NotDelegated,
    /// No cgroup2 file system is mounted.
    #[error("no cgroup2 file system is mounted")]
    NoCgroup2,
    /// The kernel said no.
    #[error("cannot {operation} {path}")]
    System {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl Delegation {
    /// Takes possession of the cgroup this process is in, if systemd has delegated it: moves the process
    /// to `daemon/`, enables the controllers that are there, makes `workers/`.
    ///
    /// # Errors
    /// Why it is not possible; the caller goes on without.
    pub fn acquire() -> Result<Self, CgroupError> {
        let own = own_cgroup()?;
        // systemd marks a delegated cgroup with an extended attribute, but only since 251 and not in every
        // container; ownership of cgroup.procs and our being alone in it is what it means in practice.
        let name = own.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // DelegateSubgroup= (systemd 254) starts us in a cgroup already.
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

    /// Whether the cgroups have this controller.
    pub fn has(&self, controller: Controller) -> bool {
        self.controllers.contains(&controller)
    }

    /// Makes the cgroup of a worker.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn create_worker(&self, name: &str) -> Result<WorkerCgroup, CgroupError> {
        let path = self.workers.join(name);
        create_dir(&path)?;
        Ok(WorkerCgroup { path, has_memory: self.has(Controller::Memory) })
    }

    /// A directory that plays the delegated subtree: what is not the kernel's can be tested anywhere.
    #[cfg(test)]
    pub(crate) fn fake(workers: PathBuf, controllers: &[Controller]) -> Self {
        Self { workers, controllers: controllers.to_vec() }
    }
}

impl WorkerCgroup {
    /// Opens the file into which the new process writes itself, between fork and exec.
    ///
    /// # Errors
    /// What `open(2)` says.
    pub fn open_procs(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(self.file("cgroup.procs"))
    }

    /// SIGKILL to everything in it, children of the worker too (`cgroup.kill`, Linux 5.14). False when the
    /// kernel has no such file: the caller then kills the process group.
    pub fn kill(&self) -> bool {
        write(&self.file("cgroup.kill"), "1").is_ok()
    }

    /// The processes in it: the worker, and those that it started and that stayed.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn processes(&self) -> Result<Vec<u32>, CgroupError> {
        Ok(read(&self.file("cgroup.procs"))?.lines().filter_map(|line| line.parse().ok()).collect())
    }

    /// Whether the kernel counts and bounds its memory.
    pub fn has_memory(&self) -> bool {
        self.has_memory
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Removes it. Fails (EBUSY) while a process is left in it.
    ///
    /// # Errors
    /// What `rmdir(2)` says.
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

fn create_dir(path: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(CgroupError::System { operation: "make", path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

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

/// Is any process but this one in the cgroup? Then it is not ours to rearrange.
fn has_other_processes(cgroup: &Path) -> Result<bool, CgroupError> {
    let own = std::process::id().to_string();
    Ok(read(&cgroup.join("cgroup.procs"))?.lines().any(|pid| pid != own))
}

/// Enables each controller that is available, one by one: an absent one must not cost the others.
fn enable_controllers(cgroup: &Path) {
    let available = read(&cgroup.join("cgroup.controllers")).unwrap_or_default();
    for controller in Controller::USED.map(Controller::name) {
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

/// Those that the cgroups below this one have.
fn enabled_controllers(cgroup: &Path) -> Vec<Controller> {
    let enabled = read(&cgroup.join("cgroup.subtree_control")).unwrap_or_default();
    let is_enabled =
        |controller: &Controller| enabled.split_ascii_whitespace().any(|name| name == controller.name());
    Controller::USED.into_iter().filter(is_enabled).collect()
}

/// The cgroup this process is in, as a path below the mounted cgroup2 file system.
pub(super) fn own_cgroup() -> Result<PathBuf, CgroupError> {
    let mounts = read(Path::new("/proc/self/mountinfo"))?;
    let (root, mount_point) = cgroup2_mount(&mounts).ok_or(CgroupError::NoCgroup2)?;
    let membership = read(Path::new("/proc/self/cgroup"))?;
    let own = membership.lines().find_map(|line| line.strip_prefix("0::")).ok_or(CgroupError::NoCgroup2)?;
    let below = Path::new(own).strip_prefix(root).map_err(|_| CgroupError::NoCgroup2)?;
    Ok(mount_point.join(below))
}

/// Finds the cgroup2 mount: its root within the hierarchy and its mount point (proc_pid_mountinfo(5)).
/// Hybrid hosts mount it at `/sys/fs/cgroup/unified`, so the path cannot be assumed.
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
    fn each_controller_is_there_or_not_on_its_own() {
        let directory = crate::systemd::scratch_dir("controllers");
        assert_eq!(enabled_controllers(&directory), [], "an absent file is no controller");
        fs::write(directory.join("cgroup.subtree_control"), "cpu io memory\n").unwrap();
        assert_eq!(enabled_controllers(&directory), [Controller::Memory, Controller::Cpu, Controller::Io]);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_leaf_knows_its_processes_and_stays_while_there_is_something_in_it() {
        let directory = crate::systemd::scratch_dir("cgroup");
        let cgroup = Delegation::fake(directory.clone(), &[]).create_worker("g1-w0-1").unwrap();
        fs::write(cgroup.file("cgroup.procs"), "17\n4711\n").unwrap();
        assert_eq!(cgroup.processes().unwrap(), [17, 4711]);
        assert!(!cgroup.has_memory());
        assert!(!cgroup.kill(), "a kernel without cgroup.kill must not be believed to have killed");
        cgroup.remove().unwrap_err();
        fs::remove_file(cgroup.file("cgroup.procs")).unwrap();
        cgroup.remove().unwrap();
        cgroup.remove().unwrap();
        fs::remove_dir_all(directory).unwrap();
    }
}
