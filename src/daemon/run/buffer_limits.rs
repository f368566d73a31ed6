//! Limits for buffered response and request bodies, in memory and on disk: configured, or a part of
//! the host's resources.

use std::path::{Path, PathBuf};

use crate::config;
use crate::systemd::memory;

/// Divisor for `"auto"` limits in memory: responses may take 1/16 of the usable memory, and request
/// bodies another 1/16.
const MEMORY_DIVISOR: u64 = 16;

/// Bounds of `"auto"` limits in memory. The lower one is enough for a few responses.
const MIN_MEMORY_BYTES: u64 = 16 << 20;
const MAX_MEMORY_BYTES: u64 = 1 << 30;

/// Divisor for `"auto"` limits on disk: responses may take a quarter of the free space, and request
/// bodies another quarter.
const DISK_DIVISOR: u64 = 4;

/// Upper bound of the `"auto"` limit for responses on disk: an endless stream to a slow client
/// would fill any disk.
const MAX_RESPONSE_DISK_BYTES: u64 = 4 << 30;

/// Limits in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BufferLimits {
    /// `limits.response_memory`.
    pub(super) response_memory: u64,
    /// `limits.response_disk`.
    pub(super) response_disk: u64,
    /// `limits.spool_memory`.
    pub(super) spool_memory: u64,
    /// `limits.spool_disk`.
    pub(super) spool_disk: u64,
    /// The directory for bodies on disk.
    pub(super) directory: PathBuf,
}

impl BufferLimits {
    /// Takes the configured limits, and measures the host for those that are `"auto"`.
    pub(super) fn measure(limits: &config::Limits, directory: PathBuf) -> Self {
        // If the kernel does not report the memory, the lower bound applies.
        let (memory, disk) = (memory::usable_bytes().unwrap_or(0), free_disk(&directory));
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

/// Returns the free bytes in the directory's file system. If they cannot be read, logs a warning
/// and returns 0.
fn free_disk(directory: &Path) -> u64 {
    match rustix::fs::statvfs(directory) {
        Ok(status) => status.f_bavail.saturating_mul(status.f_frsize),
        Err(error) => {
            tracing::warn!(
                rgun.directory = %directory.display(),
                %error,
                "cannot read the free space of {}, where large bodies are stored; they will be refused",
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

    fn limits(memory: u64, disk: u64) -> BufferLimits {
        BufferLimits::resolve(&config::Limits::default(), memory, disk, PathBuf::new())
    }

    #[test]
    fn auto_memory_limits_are_a_bounded_part_of_memory() {
        assert_eq!(limits(GIB, 0).response_memory + limits(GIB, 0).spool_memory, GIB / 8);
        assert_eq!(limits(64 << 20, 0).response_memory, MIN_MEMORY_BYTES);
        assert_eq!(limits(512 * GIB, 0).spool_memory, MAX_MEMORY_BYTES);
    }

    #[test]
    fn auto_disk_limits_leave_half_of_the_disk_free() {
        let small = limits(GIB, 8 * GIB);
        assert_eq!(small.response_disk + small.spool_disk, 4 * GIB);
        assert_eq!(limits(GIB, 1000 * GIB).response_disk, MAX_RESPONSE_DISK_BYTES);
        assert_eq!(limits(GIB, 1000 * GIB).spool_disk, 250 * GIB);
    }

    #[test]
    fn configured_limits_override_auto() {
        let limits =
            config::Limits { response_memory: Some(0), spool_disk: Some(5), ..config::Limits::default() };
        let limits = BufferLimits::resolve(&limits, GIB, GIB, PathBuf::new());
        assert_eq!((limits.response_memory, limits.spool_disk, limits.spool_memory), (0, 5, GIB / 16));
    }

    #[test]
    fn this_host_has_memory_and_disk() {
        let limits = BufferLimits::measure(&config::Limits::default(), std::env::temp_dir());
        assert!(limits.response_memory >= MIN_MEMORY_BYTES && limits.spool_disk > 0, "{limits:?}");
    }
}
