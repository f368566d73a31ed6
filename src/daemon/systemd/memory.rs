//! What a cgroup cgroup may use of memory, what it uses, and what the kernel had to do about it (the kernel's
//! Documentation/admin-guide/cgroup-v2.rst, "Memory Interface Files").
//!
//! `pool` bounds each worker's cgroup and awaits [`CgroupWatch`]; what to do about a worker that has grown is decided
//! elsewhere.
//!
//! # What counts
//! `memory.current` counts the page cache too: a worker that has read a large file is not a worker that has grown, and
//! the kernel takes that memory back without harm. [`WorkerCgroup::memory_usage`] therefore cgroups file pages out, and adds what
//! was swapped out. Pages that a forked worker still shares with its zygote are the zygote's.
//!
//! # The two limits
//! `memory.high` is the soft one: beyond it the kernel slows the processes down and takes back what it can; nobody dies.
//! `memory.max`, at half as much again, is the hard one: beyond it the kernel kills the whole cgroup
//! (`memory.oom.group`), and nothing outside of it. Swap is bounded to what lies between the two, so that a worker
//! that runs away ends there instead of in everybody's swap.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::inotify;

use super::cgroup::{CgroupError, WorkerCgroup, own_cgroup, read, write};

/// Counts of `memory.events` since the cgroup was made, of those that the daemon acts upon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryEventCounts {
    /// Times that a process was slowed down because the soft limit was exceeded.
    pub high: u64,
    /// Times that the hard limit was about to be exceeded.
    pub max: u64,
    /// Times that nothing could be taken back at the hard limit.
    pub oom: u64,
    /// Processes that an out-of-memory killer has killed, whosever limit it was.
    pub oom_kill: u64,
}

impl MemoryEventCounts {
    /// Reads the file's text. Unknown keys are a newer kernel's; absent ones an older kernel's, and count as zero.
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
    /// Sets the soft limit, and what follows from it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn limit_memory(&self, soft: u64) -> Result<(), CgroupError> {
        let between = soft / 2;
        write(&self.file("memory.oom.group"), "1")?;
        write(&self.file("memory.max"), &soft.saturating_add(between).to_string())?;
        let swap = self.file("memory.swap.max");
        // The file is absent where the kernel does not count swap; there is then nothing to bound it by.
        if swap.exists() {
            write(&swap, &between.to_string())?;
        }
        write(&self.file("memory.high"), &soft.to_string())
    }

    /// Lifts the soft limit: who is over it is to finish what it does, and at full speed.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn lift_soft_limit(&self) -> Result<(), CgroupError> {
        write(&self.file("memory.high"), "max")
    }

    /// Lifts all limits.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn lift_limits(&self) -> Result<(), CgroupError> {
        self.lift_soft_limit()?;
        let swap = self.file("memory.swap.max");
        if swap.exists() {
            write(&swap, "max")?;
        }
        write(&self.file("memory.max"), "max")
    }

    /// Bytes that its processes use, as the text at the top of this file counts them.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn memory_usage(&self) -> Result<u64, CgroupError> {
        let number = |name| Ok(read(&self.file(name))?.trim().parse().unwrap_or(0));
        let current: u64 = number("memory.current")?;
        let statistics = read(&self.file("memory.stat"))?;
        let files: u64 = parse_flat_keyed(&statistics)
            .filter(|(key, _)| matches!(*key, "active_file" | "inactive_file"))
            .map(|(_, bytes)| bytes)
            .fold(0, u64::saturating_add);
        // Absent where the kernel does not count swap.
        let swapped = number("memory.swap.current").unwrap_or(0);
        Ok(current.saturating_sub(files).saturating_add(swapped))
    }

    /// What the kernel had to do so far.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn memory_events(&self) -> Result<MemoryEventCounts, CgroupError> {
        Ok(MemoryEventCounts::parse(&read(&self.file("memory.events"))?))
    }
}

/// Bytes of memory that this process and its children may use: the machine's, or less if this cgroup or one above it is
/// limited. `None` when the kernel reports neither.
pub fn usable_bytes() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(parse_mem_total);
    let cgroup = own_cgroup().ok().and_then(|own| lowest_limit(&own));
    [machine, cgroup].into_iter().flatten().min()
}

/// `MemTotal` of `/proc/meminfo`, which is in KiB (proc_meminfo(5)).
fn parse_mem_total(meminfo: &str) -> Option<u64> {
    let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
    kib?.trim().parse::<u64>().ok().map(|kib| kib.saturating_mul(1024))
}

/// The lowest limit of a cgroup and those above it: the hard ones (`memory.max`) and the soft ones (`memory.high`), beyond
/// which processes are slowed down.
fn lowest_limit(cgroup: &Path) -> Option<u64> {
    // The root has no such files, and "max" is not a number.
    let limit = |directory: &Path, name| read(&directory.join(name)).ok()?.trim().parse().ok();
    cgroup
        .ancestors()
        .flat_map(|directory| [limit(directory, "memory.max"), limit(directory, "memory.high")])
        .flatten()
        .min()
}

/// Lines of a key, a space and a number; others are left out.
fn parse_flat_keyed(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, value.trim().parse().ok()?))
    })
}

/// Tells when the counts of some cgroup have changed: an inotify over their `memory.events`, which the kernel marks as
/// modified at every change (at most each 10 ms).
#[derive(Debug)]
pub struct CgroupWatch(OwnedFd);

/// One cgroup in a [`CgroupWatch`]; ends with the cgroup, and its number is not used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct WatchId(i32);

impl CgroupWatch {
    /// Over no cgroup yet.
    ///
    /// # Errors
    /// What `inotify_init1(2)` says.
    pub fn new() -> io::Result<Self> {
        Ok(Self(inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?))
    }

    /// Adds a cgroup.
    ///
    /// # Errors
    /// What `inotify_add_watch(2)` says.
    pub fn add(&self, cgroup: &WorkerCgroup) -> io::Result<WatchId> {
        let file = cgroup.file("memory.events");
        Ok(WatchId(inotify::add_watch(&self.0, file, inotify::WatchFlags::MODIFY)?))
    }

    /// Those that have changed since the last call. Does not block.
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
                    tracing::debug!(%error, "cannot read the watch over memory.events, looking at all of them");
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

/// What [`CgroupWatch::changed`] says.
#[derive(Debug, Default)]
pub struct ChangedCgroups {
    ids: Vec<WatchId>,
    /// More has changed than the kernel could remember.
    overflowed: bool,
}

impl ChangedCgroups {
    /// Whether this cgroup may have changed.
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
    fn memory_events_are_read_whatever_else_a_kernel_counts() {
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
    fn the_lowest_limit_of_the_cgroups_above_counts() {
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
    fn the_memory_of_the_machine_is_known() {
        assert_eq!(parse_mem_total("MemTotal:        2048 kB\nMemFree:  1 kB\n"), Some(2 << 20));
        assert_eq!(parse_mem_total("MemFree: 1 kB\n"), None);
        assert!(usable_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }

    #[test]
    fn the_page_cache_is_not_counted_and_swap_is() {
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
    fn the_hard_limit_is_half_as_much_again_and_the_soft_one_can_be_lifted() {
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
    fn a_limit_that_the_kernel_refuses_is_an_error_that_names_the_file() {
        let directory = scratch_dir("memory-refused");
        let cgroup =
            Delegation::fake(directory.clone(), &[Controller::Memory]).create_worker("g1-w0-1").unwrap();
        let error = cgroup.limit_memory(1000).unwrap_err().to_string();
        assert!(error.contains("memory.oom.group"), "{error}");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_watch_tells_which_leaf_has_changed_and_survives_the_end_of_another() {
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
        assert!(!watch.changed().contains(ids[1]), "told once");
        fs::remove_file(cgroups[1].file("memory.events")).unwrap();
        fs::write(cgroups[0].file("memory.events"), "high 1\n").unwrap();
        assert!(watch.changed().contains(ids[0]));
        fs::remove_dir_all(directory).unwrap();
    }
}
