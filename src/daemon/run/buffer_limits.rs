//! How much may wait in memory and on disk: what the configuration says, or what the machine has.

use std::path::{Path, PathBuf};

use crate::config;
use crate::systemd::cgroup;

/// With `"auto"`, of the memory that the daemon may use: for answers, and for requests' bodies. An eighth in all, so
/// that the workers, whose the memory is, hardly notice.
const MEMORY_DIVISOR: u64 = 16;

/// At least as much as a few answers need, at most what nobody misses.
const MIN_MEMORY_BYTES: u64 = 16 << 20;
const MAX_MEMORY_BYTES: u64 = 1 << 30;

/// With `"auto"`, of what is free on the file system: for answers, and for requests' bodies. Half of it stays free in
/// any case.
const DISK_DIVISOR: u64 = 4;

/// A stream without end, read slowly, would fill any disk.
const MAX_RESPONSE_DISK_BYTES: u64 = 4 << 30;

/// Bytes that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BufferLimits {
    pub(super) response_memory: u64,
    pub(super) response_disk: u64,
    pub(super) spool_memory: u64,
    pub(super) spool_disk: u64,
    /// Where files wait.
    pub(super) directory: PathBuf,
}

impl BufferLimits {
    /// As the configuration says; what that leaves to the machine is measured now.
    pub(super) fn measure(limits: &config::Limits, directory: PathBuf) -> Self {
        let (memory, disk) = (usable_memory(), free_disk(&directory));
        Self::resolve(limits, memory, disk, directory)
    }

    fn resolve(limits: &config::Limits, memory: u64, disk: u64, directory: PathBuf) -> Self {
        let memory = (memory / MEMORY_DIVISOR).clamp(MIN_MEMORY_BYTES, MAX_MEMORY_BYTES);
        let disk = disk / DISK_DIVISOR;
        Self {
            response_memory: limits.response_memory.unwrap_or(memory),
            response_disk: limits.response_disk.unwrap_or(disk.min(MAX_RESPONSE_DISK_BYTES)),
            spool_memory: limits.spool_memory.unwrap_or(memory),
            spool_disk: limits.spool_disk.unwrap_or(disk),
            directory,
        }
    }
}

/// What the machine has, or the cgroup may use. Where neither is known, the least that any machine has.
fn usable_memory() -> u64 {
    let machine = rustix::system::sysinfo();
    let total = u64::from(machine.mem_unit) * machine.totalram;
    cgroup::memory_limit().map_or(total, |limit| limit.min(total))
}

fn free_disk(directory: &Path) -> u64 {
    match rustix::fs::statvfs(directory) {
        Ok(status) => status.f_bavail.saturating_mul(status.f_frsize),
        Err(error) => {
            tracing::warn!(
                rgun.directory = %directory.display(),
                %error,
                "cannot see how much is free in {}, where large bodies wait; they will be refused",
                directory.display()
            );
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn room(memory: u64, disk: u64) -> BufferLimits {
        BufferLimits::resolve(&config::Limits::default(), memory, disk, PathBuf::new())
    }

    #[test]
    fn a_small_machine_lends_little_and_a_large_one_no_more_than_is_of_use() {
        assert_eq!(room(GIB, 0).response_memory + room(GIB, 0).spool_memory, GIB / 8);
        assert_eq!(room(64 << 20, 0).response_memory, MIN_MEMORY_BYTES);
        assert_eq!(room(512 * GIB, 0).spool_memory, MAX_MEMORY_BYTES);
    }

    #[test]
    fn half_of_the_disk_stays_free() {
        let small = room(GIB, 8 * GIB);
        assert_eq!(small.response_disk + small.spool_disk, 4 * GIB);
        assert_eq!(room(GIB, 1000 * GIB).response_disk, MAX_RESPONSE_DISK_BYTES);
        assert_eq!(room(GIB, 1000 * GIB).spool_disk, 250 * GIB);
    }

    #[test]
    fn what_the_configuration_says_counts() {
        let limits =
            config::Limits { response_memory: Some(0), spool_disk: Some(5), ..config::Limits::default() };
        let room = BufferLimits::resolve(&limits, GIB, GIB, PathBuf::new());
        assert_eq!((room.response_memory, room.spool_disk, room.spool_memory), (0, 5, GIB / 16));
    }

    #[test]
    fn this_machine_has_memory_and_a_disk() {
        let room = BufferLimits::measure(&config::Limits::default(), std::env::temp_dir());
        assert!(room.response_memory >= MIN_MEMORY_BYTES && room.spool_disk > 0, "{room:?}");
    }
}
