//! How much workers use, what the kernel tells of it, and (where there is a cgroup to fill) the kernel itself.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;

/// A cgroup2 directory that this test may fill, whose `cgroup.subtree_control` has `memory`: a kernel's own answers.
const REAL_CGROUP: &str = "RGUN_TEST_CGROUP";

const MIB: u64 = 1 << 20;

fn neighbour(stage: &PoolFixture) -> Python {
    let path = stage.directory.join("neighbour");
    fs::write(&path, "#!/bin/sh\nexec sleep 1000\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    Python { path, source: PythonSource::Configured }
}

#[test]
fn without_a_controller_memory_is_what_the_worker_holds_in_proportion() {
    in_own_process(
        module_path!(),
        "without_a_controller_memory_is_what_the_worker_holds_in_proportion",
        || {
            let mut stage = PoolFixture::new("exec sleep 1000", None);
            stage.spawn(worker(0, 1));
            let bytes = stage.pool.memory_usage(worker(0, 1)).unwrap();
            assert!((4096..1 << 30).contains(&bytes), "{bytes}");
            assert_eq!(stage.pool.memory_usage(worker(0, 2)), None);
            assert!(stage.pool.memory_watch_fd().is_none());
            assert_eq!(stage.pool.take_memory_events(), []);
            stage.pool.kill(worker(0, 1));
            wait_for_exit(stage.pool.processes[&worker(0, 1)].pid);
            assert_eq!(stage.pool.memory_usage(worker(0, 1)), None, "a zombie has none");
        },
    );
}

#[test]
fn children_count_where_a_leaf_names_them() {
    in_own_process(module_path!(), "children_count_where_a_leaf_names_them", || {
        let mut stage = PoolFixture::new("exec sleep 1000", Some(&[Controller::Pids]));
        let cgroup = stage.create_cgroup_files("g1-w0-1");
        let own = stage.spawn(worker(0, 1)).pid;
        let other = child("exec sleep 1000");
        // What processes share counts in proportion: they must have become what they will be.
        let sleeps = |pid| fs::read(format!("/proc/{pid}/cmdline")).unwrap().starts_with(b"sleep");
        eventually("both sleep", || sleeps(own) && sleeps(to_u32(other)));
        fs::write(cgroup.join("cgroup.procs"), format!("{own}\n")).unwrap();
        let alone = stage.pool.memory_usage(worker(0, 1)).unwrap();
        fs::write(cgroup.join("cgroup.procs"), format!("{own}\n{other}\n")).unwrap();
        let both = stage.pool.memory_usage(worker(0, 1)).unwrap();
        assert!(both >= alone + 4096, "{both} {alone}");
        kill(other, Signal::SIGKILL).unwrap();
    });
}

#[test]
fn a_worker_at_its_limit_is_told_once_and_not_slowed_down() {
    in_own_process(module_path!(), "a_worker_at_its_limit_is_told_once_and_not_slowed_down", || {
        let mut stage = PoolFixture::new("exec sleep 1000", Some(&[Controller::Memory]));
        assert!(stage.pool.has_memory_controller());
        let cgroup = stage.create_cgroup_files("g1-w0-1");
        let idle = stage.create_cgroup_files("g1-w1-2");
        for id in [worker(0, 1), worker(1, 2)] {
            let spec = SpawnSpec { max_memory: Some(1_600_000), ..stage.spec(id) };
            stage.pool.spawn(&spec, &stage.reactor).unwrap();
        }
        let file = |cgroup: &PathBuf, name: &str| fs::read_to_string(cgroup.join(name)).unwrap();
        assert_eq!([file(&cgroup, "memory.high"), file(&cgroup, "memory.max")], ["1600000", "2400000"]);
        let is_readable = |pool: &Pool| {
            let mut fds = [PollFd::new(pool.memory_watch_fd().unwrap(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
        };
        assert!(!is_readable(&stage.pool));

        // The page cache has come to the limit.
        let stat = |files: u64| format!("anon 0\ninactive_file {files}\nactive_file 0\n");
        fs::write(cgroup.join("memory.current"), "1600000\n").unwrap();
        fs::write(cgroup.join("memory.stat"), stat(200_000)).unwrap();
        fs::write(cgroup.join("memory.events"), "high 1\noom_kill 0\n").unwrap();
        assert!(is_readable(&stage.pool));
        assert_eq!(stage.pool.take_memory_events(), []);
        assert!(!is_readable(&stage.pool));
        assert_eq!(file(&cgroup, "memory.high"), "1600000");
        assert_eq!(stage.pool.memory_usage(worker(0, 1)), Some(1_400_000));

        // The application has.
        fs::write(cgroup.join("memory.stat"), stat(50_000)).unwrap();
        assert_eq!(stage.pool.take_memory_events(), [], "nothing has happened since");
        fs::write(cgroup.join("memory.high"), "").unwrap();
        fs::write(cgroup.join("memory.events"), "high 2\noom_kill 0\n").unwrap();
        assert_eq!(stage.pool.take_memory_events(), [MemoryEvent::High(worker(0, 1))]);
        assert_eq!([file(&cgroup, "memory.high"), file(&cgroup, "memory.max")], ["max", "2400000"]);
        assert_eq!(file(&idle, "memory.high"), "1600000");
        fs::write(cgroup.join("memory.events"), "high 3\noom_kill 0\n").unwrap();
        assert_eq!(stage.pool.take_memory_events(), [], "told once");

        fs::write(cgroup.join("memory.events"), "high 3\noom_kill 1\n").unwrap();
        assert_eq!(stage.pool.take_memory_events(), [MemoryEvent::OomKill(worker(0, 1))]);
        stage.pool.kill(worker(0, 1));
        let ended = stage.next_exit();
        assert_eq!((ended.worker, ended.oom_killed), (worker(0, 1), true));
        stage.pool.kill(worker(1, 2));
        assert!(!stage.next_exit().oom_killed, "SIGKILL alone does not mean that");
    });
}

#[test]
fn an_exit_by_itself_is_no_want_of_memory_whatever_happened_to_its_children() {
    in_own_process(
        module_path!(),
        "an_exit_by_itself_is_no_want_of_memory_whatever_happened_to_its_children",
        || {
            let mut stage = PoolFixture::new("exit 3", Some(&[Controller::Memory]));
            let cgroup = stage.create_cgroup_files("g1-w0-1");
            stage.spawn(worker(0, 1));
            fs::write(cgroup.join("memory.events"), "oom_kill 1\n").unwrap();
            let ended = stage.next_exit();
            assert_eq!((ended.exit, ended.oom_killed), (Exit::Code(3), false));
        },
    );
}

#[test]
fn a_zygotes_leaf_is_named_after_it_and_a_promoted_workers_limits_are_lifted() {
    in_own_process(
        module_path!(),
        "a_zygotes_leaf_is_named_after_it_and_a_promoted_workers_limits_are_lifted",
        || {
            let mut stage = PoolFixture::new("exec sleep 1000", Some(&[Controller::Memory]));
            let cgroup = stage.create_cgroup_files("g1-z-1");
            let spec =
                SpawnSpec { role: Role::Zygote, max_memory: Some(1_000_000), ..stage.spec(worker(0, 1)) };
            stage.pool.spawn(&spec, &stage.reactor).expect("it enters g1-z-1");
            assert_eq!(fs::read_to_string(cgroup.join("memory.high")).unwrap(), "", "a zygote has no limit");
            let cgroup = stage.create_cgroup_files("g1-w1-2");
            let spec = SpawnSpec { max_memory: Some(1_000_000), ..stage.spec(worker(1, 2)) };
            stage.pool.spawn(&spec, &stage.reactor).unwrap();
            for name in ["memory.high", "memory.max"] {
                fs::write(cgroup.join(name), "").unwrap();
            }
            stage.pool.on_promoted(worker(1, 2));
            for name in ["memory.high", "memory.max"] {
                assert_eq!(fs::read_to_string(cgroup.join(name)).unwrap(), "max");
            }
        },
    );
}

#[test]
fn the_kernel_tells_of_a_worker_that_grows_and_kills_it_alone_at_the_hard_limit() {
    let Some(cgroup) = std::env::var_os(REAL_CGROUP).map(PathBuf::from) else {
        let told = "SKIPPED limits of memory by the kernel itself: RGUN_TEST_CGROUP names no cgroup to fill";
        // Past libtest's capture.
        io::Write::write_all(&mut io::stderr(), format!("{told}\n").as_bytes()).unwrap();
        return;
    };
    in_own_process(
        module_path!(),
        "the_kernel_tells_of_a_worker_that_grows_and_kills_it_alone_at_the_hard_limit",
        || {
            // `tail` keeps what it is given, and nobody takes it.
            let hold = "{ head -c 36M /dev/zero | tail -c 36M | sleep 1000; } &";
            let wait = |file: &str| format!("until [ -e {file} ]; do sleep 0.02; done");
            let script = [
            // On a disk: files in memory are the worker's memory.
            "dd if=/dev/zero of=file bs=1M count=64 conv=fsync 2>/dev/null; cat file > /dev/null; rm file; dd if=/dev/zero of=file bs=1M count=64 conv=fsync 2>/dev/null; echo > has-read",
            &wait("grow"),
            hold,
            &wait("grow-more"),
            hold,
            "wait",
        ]
        .join("\n");
            let mut stage = PoolFixture::new(&script, None);
            let delegation = Delegation::fake(cgroup.clone(), &[Controller::Memory]);
            stage.pool = Pool::new(stage.directory.join("extension.so"), Some(delegation));
            let ids = [worker(0, 1), worker(1, 2)];
            let touch = |stage: &PoolFixture, file: &str| fs::write(stage.directory.join(file), "").unwrap();

            let spec = SpawnSpec { max_memory: Some(32 * MIB), ..stage.spec(ids[0]) };
            stage.pool.spawn(&spec, &stage.reactor).unwrap();
            eventually("it has read a file", || stage.directory.join("has-read").exists());
            let cgroup = cgroup.join("g1-w0-1");
            let events = || fs::read_to_string(cgroup.join("memory.events")).unwrap();
            assert!(!events().contains("high 0\n"), "the page cache has come to the limit: {}", events());
            assert_eq!(stage.pool.take_memory_events(), [], "{}", events());
            assert!(stage.pool.memory_usage(ids[0]).unwrap() < 16 * MIB);
            // A neighbour, to be left alone.
            stage.app = Box::leak(Box::new(App { python: neighbour(&stage), ..stage.app.clone() }));
            stage.spawn(ids[1]);

            touch(&stage, "grow");
            let asked = Instant::now();
            loop {
                let mut fds = [PollFd::new(stage.pool.memory_watch_fd().unwrap(), PollFlags::POLLIN)];
                assert_eq!(poll(&mut fds, PollTimeout::from(20_000_u16)).unwrap(), 1, "{}", events());
                match stage.pool.take_memory_events().as_slice() {
                    [] => assert!(asked.elapsed() < DEADLINE, "{}", events()),
                    told => break assert_eq!(told, [MemoryEvent::High(ids[0])]),
                }
            }
            assert_eq!(fs::read_to_string(cgroup.join("memory.high")).unwrap(), "max\n");
            eventually("it goes on growing", || stage.pool.memory_usage(ids[0]).unwrap() > 36 * MIB);
            assert_eq!(stage.pool.reap(), []);

            touch(&stage, "grow-more");
            let ended = stage.next_exit();
            assert_eq!((ended.worker, ended.oom_killed), (ids[0], true), "{ended:?}");
            assert_eq!(ended.exit, Exit::Signal { signal: 9, core_dumped: false });
            stage.pool.kill(ids[1]);
            let ended = stage.next_exit();
            assert_eq!((ended.worker, ended.oom_killed), (ids[1], false), "{ended:?}");
            eventually("no cgroup is left", || stage.pool.remove_stale_cgroups() == 0);
        },
    );
}
