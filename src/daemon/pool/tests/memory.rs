//! Tests of memory usage and events, with imitated cgroup files and (in a real cgroup) with the
//! kernel.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::super::memory_limits::MemoryLimits;
use super::*;
use crate::systemd::memory::MemoryEventCounts;

/// Variable that names a cgroup2 directory with `memory` in its `cgroup.subtree_control`, for the
/// test with the kernel.
const REAL_CGROUP: &str = "RGUN_TEST_CGROUP";

const MIB: u64 = 1 << 20;

fn sleeping_interpreter(fixture: &PoolFixture) -> Python {
    let path = fixture.directory.join("sleeping-python");
    fs::write(&path, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    Python { path, source: PythonSource::Configured }
}

#[test]
fn memory_usage_without_controller_is_pss() {
    in_own_process(module_path!(), "memory_usage_without_controller_is_pss", || {
        let mut fixture = PoolFixture::new("exec sleep 1000", None);
        fixture.spawn(worker(0, 1));
        let bytes = fixture.pool.memory_usage(worker(0, 1)).unwrap();
        assert!((4096..1 << 30).contains(&bytes), "{bytes}");
        assert_eq!(fixture.pool.memory_usage(worker(0, 2)), None);
        assert!(fixture.pool.memory_watch_fd().is_none());
        assert_eq!(fixture.pool.take_workers_over_limit(), []);
        fixture.pool.kill(worker(0, 1));
        wait_for_exit(fixture.pool.processes[&worker(0, 1)].pid);
        assert_eq!(fixture.pool.memory_usage(worker(0, 1)), None, "a zombie has none");
    });
}

#[test]
fn memory_usage_includes_children_in_the_cgroup() {
    in_own_process(module_path!(), "memory_usage_includes_children_in_the_cgroup", || {
        let mut fixture = PoolFixture::new("exec sleep 1000", Some(&[Controller::Pids]));
        let cgroup = fixture.create_cgroup_files("g1-w0-1");
        let own = fixture.spawn(worker(0, 1)).pid;
        let other = child("exec sleep 1000");
        // Shared pages count in proportion, so both processes must have called exec.
        let sleeps = |pid| fs::read(format!("/proc/{pid}/cmdline")).unwrap().starts_with(b"sleep");
        eventually("both have called exec", || sleeps(own) && sleeps(to_u32(other)));
        fs::write(cgroup.join("cgroup.procs"), format!("{own}\n")).unwrap();
        let alone = fixture.pool.memory_usage(worker(0, 1)).unwrap();
        fs::write(cgroup.join("cgroup.procs"), format!("{own}\n{other}\n")).unwrap();
        let both = fixture.pool.memory_usage(worker(0, 1)).unwrap();
        assert!(both >= alone + 4096, "{both} {alone}");
        kill(other, Signal::SIGKILL).unwrap();
    });
}

#[test]
fn soft_limit_is_reported_once_and_lifted() {
    in_own_process(module_path!(), "soft_limit_is_reported_once_and_lifted", || {
        let mut fixture = PoolFixture::new("exec sleep 1000", Some(&[Controller::Memory]));
        assert!(fixture.pool.has_memory_controller());
        let cgroup = fixture.create_cgroup_files("g1-w0-1");
        let idle = fixture.create_cgroup_files("g1-w1-2");
        for id in [worker(0, 1), worker(1, 2)] {
            let spec = SpawnSpec { max_memory: Some(1_600_000), ..fixture.spec(id) };
            fixture.pool.spawn(&spec, &fixture.reactor).unwrap();
        }
        let file = |cgroup: &PathBuf, name: &str| fs::read_to_string(cgroup.join(name)).unwrap();
        assert_eq!([file(&cgroup, "memory.high"), file(&cgroup, "memory.max")], ["1600000", "2400000"]);
        let is_readable = |pool: &Pool| {
            let mut fds = [PollFd::new(pool.memory_watch_fd().unwrap(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
        };
        assert!(!is_readable(&fixture.pool));

        // The page cache has reached the limit.
        let stat = |files: u64| format!("anon 0\ninactive_file {files}\nactive_file 0\n");
        fs::write(cgroup.join("memory.current"), "1600000\n").unwrap();
        fs::write(cgroup.join("memory.stat"), stat(200_000)).unwrap();
        fs::write(cgroup.join("memory.events"), "high 1\noom_kill 0\n").unwrap();
        assert!(is_readable(&fixture.pool));
        assert_eq!(fixture.pool.take_workers_over_limit(), []);
        assert!(!is_readable(&fixture.pool));
        assert_eq!(file(&cgroup, "memory.high"), "1600000");
        assert_eq!(fixture.pool.memory_usage(worker(0, 1)), Some(1_400_000));

        // The application has reached the limit.
        fs::write(cgroup.join("memory.stat"), stat(50_000)).unwrap();
        assert_eq!(fixture.pool.take_workers_over_limit(), [], "no new event");
        fs::write(cgroup.join("memory.high"), "").unwrap();
        fs::write(cgroup.join("memory.events"), "high 2\noom_kill 0\n").unwrap();
        assert_eq!(fixture.pool.take_workers_over_limit(), [worker(0, 1)]);
        assert_eq!([file(&cgroup, "memory.high"), file(&cgroup, "memory.max")], ["max", "2400000"]);
        assert_eq!(file(&idle, "memory.high"), "1600000");
        fs::write(cgroup.join("memory.events"), "high 3\noom_kill 0\n").unwrap();
        assert_eq!(fixture.pool.take_workers_over_limit(), [], "reported once");

        fs::write(cgroup.join("memory.events"), "high 3\noom_kill 1\n").unwrap();
        assert_eq!(fixture.pool.take_workers_over_limit(), []);
        fs::write(cgroup.join("memory.events"), "high 3\noom 1\noom_kill 2\n").unwrap();
        fixture.pool.kill(worker(0, 1));
        let exit = fixture.next_exit();
        assert_eq!((exit.worker, exit.oom_cause), (worker(0, 1), Some(OomCause::WorkerLimit)));
        fixture.pool.kill(worker(1, 2));
        assert_eq!(fixture.next_exit().oom_cause, None, "SIGKILL without an oom_kill count");
    });
}

#[test]
fn cause_of_an_oom_kill_is_the_limit_that_was_reached() {
    let directory = scratch_dir("oom-cause");
    let delegation = Delegation::fake(directory.join("workers"), &[Controller::Memory]);
    let unit_events = |ooms: u64| {
        fs::write(directory.join("memory.events.local"), format!("max 9\noom {ooms}\noom_kill 0\n")).unwrap();
    };
    unit_events(3);
    let mut limits = MemoryLimits { last_unit_ooms: delegation.unit_ooms(), ..MemoryLimits::default() };
    assert_eq!(limits.last_unit_ooms, 3);
    let mut cause = |oom: u64, oom_kill: u64| {
        limits.last_oom = None;
        limits.update(MemoryEventCounts { oom, oom_kill, ..MemoryEventCounts::default() }, Some(&delegation));
        limits.last_oom.map(|(_, cause)| cause)
    };
    assert_eq!(cause(0, 0), None);
    assert_eq!(cause(1, 1), Some(OomCause::WorkerLimit));
    assert_eq!(cause(1, 1), None, "no new kill");
    assert_eq!(cause(1, 2), Some(OomCause::Elsewhere), "an earlier limit is no cause");
    unit_events(4);
    assert_eq!(cause(1, 3), Some(OomCause::UnitLimit));
    assert_eq!(cause(1, 4), Some(OomCause::Elsewhere));
    fs::remove_dir_all(directory).unwrap();
}

#[test]
fn plain_exit_does_not_count_as_oom_kill() {
    in_own_process(module_path!(), "plain_exit_does_not_count_as_oom_kill", || {
        let mut fixture = PoolFixture::new("exit 3", Some(&[Controller::Memory]));
        let cgroup = fixture.create_cgroup_files("g1-w0-1");
        fixture.spawn(worker(0, 1));
        fs::write(cgroup.join("memory.events"), "oom_kill 1\n").unwrap();
        let exit = fixture.next_exit();
        assert_eq!((exit.status, exit.oom_cause), (Exit::Code(3), None));
    });
}

#[test]
fn zygote_has_no_limits_and_promotion_lifts_them() {
    in_own_process(module_path!(), "zygote_has_no_limits_and_promotion_lifts_them", || {
        let mut fixture = PoolFixture::new("exec sleep 1000", Some(&[Controller::Memory]));
        let cgroup = fixture.create_cgroup_files("g1-z-1");
        let spec =
            SpawnSpec { role: Role::Zygote, max_memory: Some(1_000_000), ..fixture.spec(worker(0, 1)) };
        fixture.pool.spawn(&spec, &fixture.reactor).expect("the zygote enters g1-z-1");
        assert_eq!(fs::read_to_string(cgroup.join("memory.high")).unwrap(), "", "a zygote has no limit");
        let cgroup = fixture.create_cgroup_files("g1-w1-2");
        let spec = SpawnSpec { max_memory: Some(1_000_000), ..fixture.spec(worker(1, 2)) };
        fixture.pool.spawn(&spec, &fixture.reactor).unwrap();
        for name in ["memory.high", "memory.max"] {
            fs::write(cgroup.join(name), "").unwrap();
        }
        fixture.pool.on_promoted(worker(1, 2));
        for name in ["memory.high", "memory.max"] {
            assert_eq!(fs::read_to_string(cgroup.join(name)).unwrap(), "max");
        }
    });
}

#[test]
fn kernel_reports_soft_limit_and_kills_at_hard_limit() {
    let Some(cgroup) = std::env::var_os(REAL_CGROUP).map(PathBuf::from) else {
        let message = "SKIPPED memory limits of the kernel: RGUN_TEST_CGROUP names no cgroup";
        // Not captured by libtest.
        io::Write::write_all(&mut io::stderr(), format!("{message}\n").as_bytes()).unwrap();
        return;
    };
    in_own_process(module_path!(), "kernel_reports_soft_limit_and_kills_at_hard_limit", || {
        // `tail` holds its input in memory, because its output is not read.
        let hold = "{ head -c 36M /dev/zero | tail -c 36M | sleep 1000; } &";
        let wait = |file: &str| format!("until [ -e {file} ]; do sleep 0.02; done");
        let script = [
            // On a disk: a file in tmpfs counts as the worker's memory.
            "dd if=/dev/zero of=file bs=1M count=64 conv=fsync 2>/dev/null; cat file > /dev/null; rm file; dd if=/dev/zero of=file bs=1M count=64 conv=fsync 2>/dev/null; echo > has-read",
            &wait("grow"),
            hold,
            &wait("grow-more"),
            hold,
            "wait",
        ]
        .join("\n");
        let mut fixture = PoolFixture::new(&script, None);
        let delegation = Delegation::fake(cgroup.clone(), &[Controller::Memory]);
        fixture.pool = Pool::new(fixture.directory.join("extension.so"), Some(delegation));
        let ids = [worker(0, 1), worker(1, 2)];
        let touch = |fixture: &PoolFixture, file: &str| fs::write(fixture.directory.join(file), "").unwrap();

        let spec = SpawnSpec { max_memory: Some(32 * MIB), ..fixture.spec(ids[0]) };
        fixture.pool.spawn(&spec, &fixture.reactor).unwrap();
        eventually("the worker has read a file", || fixture.directory.join("has-read").exists());
        let cgroup = cgroup.join("g1-w0-1");
        let events = || fs::read_to_string(cgroup.join("memory.events")).unwrap();
        assert!(!events().contains("high 0\n"), "the page cache has reached the limit: {}", events());
        assert_eq!(fixture.pool.take_workers_over_limit(), [], "{}", events());
        assert!(fixture.pool.memory_usage(ids[0]).unwrap() < 16 * MIB);
        // A second worker, which must not be affected.
        fixture.app =
            Box::leak(Box::new(App { python: sleeping_interpreter(&fixture), ..fixture.app.clone() }));
        fixture.spawn(ids[1]);

        touch(&fixture, "grow");
        let start = Instant::now();
        loop {
            let mut fds = [PollFd::new(fixture.pool.memory_watch_fd().unwrap(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, PollTimeout::from(20_000_u16)).unwrap(), 1, "{}", events());
            match fixture.pool.take_workers_over_limit().as_slice() {
                [] => assert!(start.elapsed() < DEADLINE, "{}", events()),
                events => break assert_eq!(events, [ids[0]]),
            }
        }
        assert_eq!(fs::read_to_string(cgroup.join("memory.high")).unwrap(), "max\n");
        eventually("the worker goes on growing", || fixture.pool.memory_usage(ids[0]).unwrap() > 36 * MIB);
        assert_eq!(fixture.pool.reap(), []);

        touch(&fixture, "grow-more");
        let exit = fixture.next_exit();
        assert_eq!((exit.worker, exit.oom_cause), (ids[0], Some(OomCause::WorkerLimit)), "{exit:?}");
        assert_eq!(exit.status, Exit::Signal { signal: 9, core_dumped: false });
        fixture.pool.kill(ids[1]);
        let exit = fixture.next_exit();
        assert_eq!((exit.worker, exit.oom_cause), (ids[1], None), "{exit:?}");
        eventually("no cgroup is left", || fixture.pool.remove_stale_cgroups() == 0);
    });
}
