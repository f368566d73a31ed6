//! Memory limits, usage and events of a worker's cgroup (the kernel's
//! Documentation/admin-guide/cgroup-v2.rst, "Memory Interface Files").
//!
//! `pool` sets the limits of each worker and reads the events of [`CgroupWatch`]; `run` decides
//! what to do about a worker that exceeds a limit.
//!
//! # Usage
//! `memory.current` includes the page cache, which the kernel can reclaim without harm: a worker
//! that has read a large file has not grown. [`WorkerCgroup::memory_usage`] therefore subtracts
//! file pages, and adds swap. Pages that a forked worker still shares with its zygote are charged
//! to the zygote.
//!
//! # Limits
//! `memory.high` is the soft limit: above it the kernel slows the processes down and reclaims
//! memory, and kills none. `memory.max`, 1.5 times as much, is the hard limit: above it the kernel
//! kills all processes of the cgroup (`memory.oom.group`), and no others. Swap is limited to the
//! difference of the two, so that a runaway worker reaches the hard limit before it fills the
//! system's swap.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify;

use super::cgroup::{CgroupError, Delegation, WorkerCgroup, own_cgroup, read, write};

/// Counters of `memory.events` since the cgroup was created.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryEventCounts {
    /// Number of times that a process was throttled above the soft limit.
    pub high: u64,
    /// Number of times that the hard limit was about to be exceeded.
    pub max: u64,
    /// Number of times that an allocation failed at the hard limit.
    pub oom: u64,
    /// Number of processes killed by the out-of-memory killer, for this cgroup's limit or any
    /// other.
    pub oom_kill: u64,
}

impl MemoryEventCounts {
    /// Parses `memory.events`. Skips unknown keys; absent keys count as zero.
    fn parse(text: &str) -> Self {
        let mut events = Self::default();
        for (key, value) in parse_flat_keyed(text) {
            match key {
                "high" => events.high = value,
                "max" => events.max = value,
                "oom" => events.oom = value,
                "oom_kill" => events.oom_kill = value,
                _ => {}
            }
        }
        events
    }
}

impl WorkerCgroup {
    /// Sets the soft limit in bytes, and from it the hard limit and the swap limit.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn limit_memory(&self, soft: u64) -> Result<(), CgroupError> {
        let headroom = soft / 2;
        write(&self.file("memory.oom.group"), "1")?;
        write(&self.file("memory.max"), &soft.saturating_add(headroom).to_string())?;
        let swap = self.file("memory.swap.max");
        // Absent without swap accounting.
        if swap.exists() {
            write(&swap, &headroom.to_string())?;
        }
        write(&self.file("memory.high"), &soft.to_string())
    }

    /// Lifts the soft limit, so that the worker finishes its requests at full speed.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn lift_soft_limit(&self) -> Result<(), CgroupError> {
        write(&self.file("memory.high"), "max")
    }

    /// Lifts all limits.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn lift_limits(&self) -> Result<(), CgroupError> {
        self.lift_soft_limit()?;
        let swap = self.file("memory.swap.max");
        if swap.exists() {
            write(&swap, "max")?;
        }
        write(&self.file("memory.max"), "max")
    }

    /// Returns the bytes that the processes use: without file pages, with swap.
    ///
    /// # Errors
    /// If `memory.current` or `memory.stat` cannot be read.
    pub fn memory_usage(&self) -> Result<u64, CgroupError> {
        let number = |name| Ok(read(&self.file(name))?.trim().parse().unwrap_or(0));
        let current: u64 = number("memory.current")?;
        let statistics = read(&self.file("memory.stat"))?;
        let files: u64 = parse_flat_keyed(&statistics)
            .filter(|(key, _)| matches!(*key, "active_file" | "inactive_file"))
            .map(|(_, bytes)| bytes)
            .fold(0, u64::saturating_add);
        // Absent without swap accounting.
        let swapped = number("memory.swap.current").unwrap_or(0);
        Ok(current.saturating_sub(files).saturating_add(swapped))
    }

    /// Reads `memory.events`.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn memory_events(&self) -> Result<MemoryEventCounts, CgroupError> {
        Ok(MemoryEventCounts::parse(&read(&self.file("memory.events"))?))
    }
}

impl Delegation {
    /// Returns how often the processes of the unit together reached its hard limit (`MemoryMax=`) and
    /// could not free memory. 0 if the kernel does not count this (`memory.events.local`, Linux 5.3).
    pub fn unit_ooms(&self) -> u64 {
        read(&self.service_cgroup().join("memory.events.local"))
            .map_or(0, |text| MemoryEventCounts::parse(&text).oom)
    }
}

/// Returns the bytes of memory that this process and its children may use: the machine's memory, or
/// the lowest limit of this cgroup and its ancestors if that is less. `None` if the kernel reports
/// neither.
pub fn usable_bytes() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(parse_mem_total);
    let cgroup = own_cgroup().ok().and_then(|own| lowest_limit(&own));
    [machine, cgroup].into_iter().flatten().min()
}

/// Parses `MemTotal` of `/proc/meminfo` (proc_meminfo(5)). Returns bytes.
fn parse_mem_total(meminfo: &str) -> Option<u64> {
    let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    kib?.trim().parse::<u64>().ok().map(|kib| kib.saturating_mul(1024))
}

/// Returns the lowest hard limit (`memory.max`) or soft limit (`memory.high`) of a cgroup and its
/// ancestors.
fn lowest_limit(cgroup: &Path) -> Option<u64> {
    // The root cgroup has no such files; "max" (no limit) does not parse.
    let limit = |directory: &Path, name| read(&directory.join(name)).ok()?.trim().parse().ok();
    cgroup
        .ancestors()
        .flat_map(|directory| [limit(directory, "memory.max"), limit(directory, "memory.high")])
        .flatten()
        .min()
}

/// Parses a flat keyed file: lines of a key, a space and a number. Skips other lines.
fn parse_flat_keyed(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, value.trim().parse().ok()?))
    })
}

/// A watch over the `memory.events` of many cgroups, by inotify: the kernel marks the file as
/// modified when a counter changes (at most every 10 ms).
#[derive(Debug)]
pub struct CgroupWatch(OwnedFd);

/// Identifies a cgroup in a [`CgroupWatch`] until the cgroup is removed. Ids are not reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WatchId(i32);

impl CgroupWatch {
    /// Creates a watch without cgroups.
    ///
    /// # Errors
    /// The error of `inotify_init1(2)`.
    pub fn new() -> io::Result<Self> {
        Ok(Self(inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?))
    }

    /// Adds a cgroup.
    ///
    /// # Errors
    /// The error of `inotify_add_watch(2)`.
    pub fn add(&self, cgroup: &WorkerCgroup) -> io::Result<WatchId> {
        let file = cgroup.file("memory.events");
        Ok(WatchId(inotify::add_watch(&self.0, file, inotify::WatchFlags::MODIFY)?))
    }

    /// Returns the cgroups whose counters have changed since the last call. Does not block.
    pub fn changed(&self) -> ChangedCgroups {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.0, &mut buffer);
        let mut changed = ChangedCgroups::default();
        loop {
            match reader.next() {
                Ok(event) if event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW) => {
                    changed.overflowed = true;
                }
                Ok(event) => changed.ids.push(WatchId(event.wd())),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return changed,
                Err(error) => {
                    tracing::debug!(%error, "cannot read the inotify of memory.events, reading all of them");
                    changed.overflowed = true;
                    return changed;
                }
            }
        }
    }
}

impl AsFd for CgroupWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The result of [`CgroupWatch::changed`].
#[derive(Debug, Default)]
pub struct ChangedCgroups {
    ids: Vec<WatchId>,
    /// The inotify queue overflowed or cannot be read: any cgroup may have changed.
    overflowed: bool,
}

impl ChangedCgroups {
    /// Returns true if the counters of this cgroup may have changed.
    pub fn contains(&self, id: WatchId) -> bool {
        self.overflowed || self.ids.contains(&id)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::cgroup::{Controller, Delegation};
    use super::super::scratch_dir;
    use super::*;

    #[test]
    fn memory_events_parse_with_unknown_keys() {
        let text = "low 0\nhigh 12\nmax 3\noom 2\noom_kill 1\noom_group_kill 1\nsock_throttled 0\n";
        assert_eq!(
            MemoryEventCounts::parse(text),
            MemoryEventCounts { high: 12, max: 3, oom: 2, oom_kill: 1 }
        );
        assert_eq!(
            MemoryEventCounts::parse("high 5\n"),
            MemoryEventCounts { high: 5, ..MemoryEventCounts::default() }
        );
        assert_eq!(MemoryEventCounts::parse("high\nmax many\n\n"), MemoryEventCounts::default());
    }

    #[test]
    fn lowest_limit_includes_ancestors() {
        let directory = scratch_dir("memory-bound");
        let (service, cgroup) = (directory.join("rgun.service"), directory.join("rgun.service/daemon"));
        fs::create_dir_all(&cgroup).unwrap();
        assert_eq!(lowest_limit(&cgroup), None);
        fs::write(cgroup.join("memory.max"), "max\n").unwrap();
        fs::write(service.join("memory.max"), "1000000\n").unwrap();
        fs::write(directory.join("memory.max"), "2000000\n").unwrap();
        assert_eq!(lowest_limit(&cgroup), Some(1_000_000));
        fs::write(directory.join("memory.high"), "500000\n").unwrap();
        assert_eq!(lowest_limit(&cgroup), Some(500_000), "the soft limit counts");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn machine_memory_is_read_from_meminfo() {
        assert_eq!(parse_mem_total("MemTotal:        2048 kB\nMemFree:  1 kB\n"), Some(2 << 20));
        assert_eq!(parse_mem_total("MemFree: 1 kB\n"), None);
        assert!(usable_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn memory_usage_excludes_page_cache_and_includes_swap() {
        let directory = scratch_dir("memory-usage");
        let cgroup =
            Delegation::fake(directory.clone(), &[Controller::Memory]).create_worker("g1-w0-1").unwrap();
        cgroup.memory_usage().unwrap_err();
        fs::write(cgroup.file("memory.current"), "1000000\n").unwrap();
        fs::write(
            cgroup.file("memory.stat"),
            "anon 300000\nfile 700000\ninactive_file 400000\nactive_file 200000\n",
        )
        .unwrap();
        assert_eq!(cgroup.memory_usage().unwrap(), 400_000, "without swap accounting");
        fs::write(cgroup.file("memory.swap.current"), "50000\n").unwrap();
        assert_eq!(cgroup.memory_usage().unwrap(), 450_000);
        // The two files are not read at the same instant.
        fs::write(cgroup.file("memory.current"), "100\n").unwrap();
        assert_eq!(cgroup.memory_usage().unwrap(), 50_000);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn hard_limit_is_1_5_times_soft_limit_and_both_are_lifted() {
        let directory = scratch_dir("memory-limits");
        let cgroup =
            Delegation::fake(directory.clone(), &[Controller::Memory]).create_worker("g1-w0-1").unwrap();
        let file = |name: &str| fs::read_to_string(cgroup.file(name)).unwrap();
        for name in ["memory.high", "memory.max", "memory.oom.group"] {
            fs::write(cgroup.file(name), "").unwrap();
        }
        cgroup.limit_memory(1000).unwrap();
        assert_eq!(
            [file("memory.high"), file("memory.max"), file("memory.oom.group")],
            ["1000", "1500", "1"]
        );
        assert!(!cgroup.file("memory.swap.max").exists());

        for name in ["memory.high", "memory.max", "memory.swap.max", "memory.oom.group"] {
            fs::write(cgroup.file(name), "").unwrap();
        }
        cgroup.limit_memory(u64::MAX).unwrap();
        assert_eq!(file("memory.max"), u64::MAX.to_string(), "saturates");
        assert_eq!(file("memory.swap.max"), (u64::MAX / 2).to_string());

        for name in ["memory.high", "memory.max", "memory.swap.max"] {
            fs::write(cgroup.file(name), "").unwrap();
        }
        cgroup.lift_soft_limit().unwrap();
        assert_eq!([file("memory.high"), file("memory.max")], ["max", ""]);
        fs::write(cgroup.file("memory.high"), "").unwrap();
        cgroup.lift_limits().unwrap();
        assert_eq!(["memory.high", "memory.max", "memory.swap.max"].map(file), ["max", "max", "max"]);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn refused_limit_is_an_error_that_names_the_file() {
        let directory = scratch_dir("memory-refused");
        let cgroup =
            Delegation::fake(directory.clone(), &[Controller::Memory]).create_worker("g1-w0-1").unwrap();
        let error = cgroup.limit_memory(1000).unwrap_err().to_string();
        assert!(error.contains("memory.oom.group"), "{error}");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn watch_reports_changed_cgroup_after_another_is_removed() {
        let directory = scratch_dir("memory-watch");
        let delegation = Delegation::fake(directory.clone(), &[Controller::Memory]);
        let cgroups = ["g1-w0-1", "g1-w1-2"].map(|name| delegation.create_worker(name).unwrap());
        let watch = CgroupWatch::new().unwrap();
        watch.add(&cgroups[0]).unwrap_err();
        let ids = cgroups.each_ref().map(|cgroup| {
            fs::write(cgroup.file("memory.events"), "high 0\n").unwrap();
            watch.add(cgroup).unwrap()
        });
        assert!(ids.iter().all(|id| !watch.changed().contains(*id)));
        fs::write(cgroups[1].file("memory.events"), "high 1\n").unwrap();
        let changed = watch.changed();
        assert!(!changed.contains(ids[0]) && changed.contains(ids[1]));
        assert!(!watch.changed().contains(ids[1]), "reported once");
        fs::remove_file(cgroups[1].file("memory.events")).unwrap();
        fs::write(cgroups[0].file("memory.events"), "high 1\n").unwrap();
        assert!(watch.changed().contains(ids[0]));
        fs::remove_dir_all(directory).unwrap();
    }
}
