//! Tests of forks: requests, reports and timeouts.

use rgun_channel::control::{Fork, Report};
use rgun_channel::map::Map;

use super::*;

#[test]
fn death_by_real_time_signal_is_reported_with_its_number() {
    in_own_process(module_path!(), "death_by_real_time_signal_is_reported_with_its_number", || {
        let mut fixture = PoolFixture::new("", None);
        let _zygote = fixture.zygote(worker(0, 1));
        fixture.pool.fork(&fixture.spec(worker(1, 2)), worker(0, 1)).unwrap();
        let pid = child("kill -50 $$");
        wait_for_exit(pid);
        fixture.pool.on_forked(worker(0, 1), 2, to_u32(pid)).unwrap();
        assert_eq!(fixture.next_exit().status, Exit::Signal { signal: 50, core_dumped: false });
    });
}

#[test]
fn fork_sends_the_worker_its_descriptors() {
    in_own_process(module_path!(), "fork_sends_the_worker_its_descriptors", || {
        let mut fixture = PoolFixture::new("", None);
        let zygote = fixture.zygote(worker(0, 1));
        let spec = SpawnSpec { threads: 8, ..fixture.spec(worker(3, 2)) };
        fixture.pool.fork(&spec, worker(0, 1)).unwrap();
        let (command, fds) = receive_command(&zygote);
        assert_eq!(command, Command::Fork(Fork { worker: 3, incarnation: 2 }));
        let [control, map, stacks, _wake]: [OwnedFd; 4] = fds.try_into().unwrap();
        let pid = child("exec sleep 1000");
        let spawned = fixture.pool.on_forked(worker(0, 1), 2, to_u32(pid)).unwrap();
        assert_eq!((spawned.pid, spawned.link.worker), (to_u32(pid), worker(3, 2)));
        assert_eq!(spawned.link.geometry, Geometry::standard(3), "the zygote's geometry");
        Map::attach(map.as_fd(), Geometry::standard(3).total_bytes(), true).unwrap();
        // The descriptors connect to the daemon's ends.
        control::send(&control, &Report::Booting { python: "CPython".into() }.encode(), &[]).unwrap();
        let mut buffer = vec![0; MAX_MESSAGE_BYTES];
        assert!(receive(&spawned.link.control, &mut buffer).unwrap().len > 0);
        io::Write::write_all(&mut fs::File::from(stacks), b"here").unwrap();
        assert_eq!(fixture.pool.read_stacks(worker(3, 2)).as_deref(), Some("here"));
        assert_eq!(fixture.pool.take_lost_forks().len(), 0);

        fixture.pool.kill(worker(3, 2));
        let exit = fixture.next_exit();
        assert_eq!((exit.worker, exit.pid), (worker(3, 2), to_u32(pid)));
        assert_eq!(exit.status, Exit::Signal { signal: 9, core_dumped: false });
    });
}

#[test]
fn forked_worker_gets_a_cgroup_and_dies_with_its_children() {
    in_own_process(module_path!(), "forked_worker_gets_a_cgroup_and_dies_with_its_children", || {
        let mut fixture = PoolFixture::new("", Some(&[]));
        let zygote = fixture.zygote(worker(0, 1));
        let cgroup = fixture.create_cgroup_files("g1-w3-2");
        fixture.pool.fork(&fixture.spec(worker(3, 2)), worker(0, 1)).unwrap();
        let (_, fds) = receive_command(&zygote);
        let [_control, _map, _stacks, _wake, procs]: [OwnedFd; 5] = fds.try_into().unwrap();
        io::Write::write_all(&mut fs::File::from(procs), b"0").unwrap();
        assert_eq!(fs::read_to_string(cgroup.join("cgroup.procs")).unwrap(), "0");

        let file = fixture.directory.join("child.pid");
        let pid = child(&format!("sleep 1000 & echo $! > {}; wait", file.display()));
        fixture.pool.on_forked(worker(0, 1), 2, to_u32(pid)).unwrap();
        let mut grandchild = None;
        eventually("the worker starts a child", || {
            grandchild = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
            grandchild.is_some()
        });
        fixture.pool.kill(worker(3, 2));
        assert_eq!(fixture.next_exit().worker, worker(3, 2));
        eventually("its child is killed", || {
            fixture.pool.reap();
            !is_running(Pid::from_raw(grandchild.unwrap()))
        });

        // Ordinary files keep the directory from being removed, as processes keep a cgroup.
        assert_eq!(fixture.pool.remove_stale_cgroups(), 1);
        for entry in fs::read_dir(&cgroup).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        assert_eq!(fixture.pool.remove_stale_cgroups(), 0);
        assert!(!cgroup.exists());
    });
}

#[test]
fn worker_without_process_group_is_killed_by_pid() {
    in_own_process(module_path!(), "worker_without_process_group_is_killed_by_pid", || {
        let mut fixture = PoolFixture::new("", None);
        let _zygote = fixture.zygote(worker(0, 1));
        fixture.pool.fork(&fixture.spec(worker(1, 2)), worker(0, 1)).unwrap();
        // The child's parent exits, so this subreaper becomes its parent. The child stays in this
        // test's process group.
        let script = "sleep 1000 >/dev/null 2>&1 & echo $!";
        let output = Program::new("/bin/sh").args(["-c", script]).output().unwrap();
        let pid = Pid::from_raw(String::from_utf8(output.stdout).unwrap().trim().parse().unwrap());
        fixture.pool.on_forked(worker(0, 1), 2, to_u32(pid)).unwrap();
        fixture.pool.kill(worker(1, 2));
        let exit = fixture.next_exit();
        assert_eq!((exit.worker, exit.pid), (worker(1, 2), to_u32(pid)));
        assert_eq!(exit.status, Exit::Signal { signal: 9, core_dumped: false });
    });
}

#[test]
fn forked_report_must_name_an_unknown_child() {
    in_own_process(module_path!(), "forked_report_must_name_an_unknown_child", || {
        let mut fixture = PoolFixture::new("exec sleep 1000", None);
        let _zygote = fixture.zygote(worker(0, 1));
        let _other = fixture.zygote(worker(0, 2));
        let known = fixture.spawn(worker(1, 3)).pid;
        let parent = std::os::unix::process::parent_id();
        let pids = [0, 1, known, std::process::id(), parent, u32::MAX, i32::MAX.cast_unsigned()];
        for (pid, incarnation) in pids.into_iter().zip(10_u64..) {
            fixture.pool.fork(&fixture.spec(worker(2, incarnation)), worker(0, 1)).unwrap();
            let error = fixture.pool.on_forked(worker(0, 1), incarnation, pid).unwrap_err();
            assert!(matches!(error, SpawnError::FalseFork { .. }), "{pid}: {error}");
            let lost = fixture.pool.take_lost_forks();
            assert_eq!(lost.len(), 1, "{pid}");
            assert_eq!((lost[0].worker, lost[0].timed_out), (worker(2, incarnation), false));
        }
        // A fork that was not requested, or not of this zygote.
        let pid = child("exec sleep 1000");
        let error = fixture.pool.on_forked(worker(0, 1), 99, to_u32(pid)).unwrap_err();
        assert!(error.to_string().contains("was not requested"), "{error}");
        fixture.pool.fork(&fixture.spec(worker(2, 30)), worker(0, 1)).unwrap();
        fixture.pool.on_forked(worker(0, 2), 30, to_u32(pid)).unwrap_err();
        assert_eq!(fixture.pool.take_lost_forks().len(), 0, "the right zygote may still answer");
        fixture.pool.on_forked(worker(0, 1), 30, to_u32(pid)).unwrap();
        fixture.pool.on_forked(worker(0, 1), 30, to_u32(pid)).expect_err("not twice");
        fixture.pool.fork(&fixture.spec(worker(2, 31)), worker(1, 3)).expect_err("a worker is not a zygote");
        fixture.pool.on_promoted(worker(1, 3));
        fixture.pool.fork(&fixture.spec(worker(2, 31)), worker(1, 3)).expect("it is a zygote now");
    });
}

#[test]
fn exit_of_a_worker_before_its_fork_report_is_returned() {
    in_own_process(module_path!(), "exit_of_a_worker_before_its_fork_report_is_returned", || {
        let mut fixture = PoolFixture::new("", None);
        let _zygote = fixture.zygote(worker(0, 1));
        fixture.pool.fork(&fixture.spec(worker(1, 2)), worker(0, 1)).unwrap();
        let pid = child("exit 9");
        wait_for_exit(pid);
        assert_eq!(fixture.pool.reap(), [], "it may be the pending worker");
        fixture.pool.on_forked(worker(0, 1), 2, to_u32(pid)).unwrap();
        let exit = fixture.next_exit();
        assert_eq!((exit.worker, exit.status), (worker(1, 2), Exit::Code(9)));

        // Unknown children are reaped as soon as no fork is pending.
        fixture.pool.fork(&fixture.spec(worker(1, 3)), worker(0, 1)).unwrap();
        let unknown_child = child("exit 0");
        wait_for_exit(unknown_child);
        assert_eq!(fixture.pool.reap(), []);
        assert!(process::is_child(unknown_child));
        assert_eq!(fixture.pool.on_fork_failed(worker(0, 1), 3).unwrap(), Some(worker(1, 3)));
        assert!(!process::is_child(unknown_child));
        fixture.pool.on_fork_failed(worker(0, 1), 3).expect_err("already reported");
    });
}

#[test]
fn pending_forks_are_lost_when_their_zygote_dies() {
    in_own_process(module_path!(), "pending_forks_are_lost_when_their_zygote_dies", || {
        let mut fixture = PoolFixture::new("", None);
        let zygote = fixture.zygote(worker(0, 1));
        for incarnation in [2, 3] {
            fixture.pool.fork(&fixture.spec(worker(1, incarnation)), worker(0, 1)).unwrap();
        }
        let pid = child("exec sleep 1000");
        fixture.pool.kill(worker(0, 1));
        assert_eq!(fixture.next_exit().worker, worker(0, 1));
        drop(zygote);
        // The zygote's last report is read after its exit was reaped.
        fixture.pool.on_forked(worker(0, 1), 2, to_u32(pid)).unwrap();
        assert!(!fixture.pool.is_empty());
        let due = fixture.pool.next_fork_deadline().unwrap();
        assert!(due <= Instant::now() + Duration::from_secs(1), "sooner than FORK_TIMEOUT");
        let mut lost = Vec::new();
        eventually("the other worker is lost", || {
            lost = fixture.pool.take_lost_forks();
            !lost.is_empty()
        });
        assert!(Instant::now() >= due);
        let [lost] = lost.as_slice() else { panic!("{lost:?}") };
        assert_eq!((lost.worker, lost.error.fault()), (worker(1, 3), SpawnFault::System));
        assert_eq!((lost.zygote, lost.timed_out), (worker(0, 1), false), "it has died, not hung");
        assert_eq!(fixture.pool.next_fork_deadline(), None);
        fixture.pool.fork(&fixture.spec(worker(1, 4)), worker(0, 1)).expect_err("the zygote has exited");
    });
}

#[test]
fn worker_reported_after_timeout_is_killed() {
    in_own_process(module_path!(), "worker_reported_after_timeout_is_killed", || {
        let mut fixture = PoolFixture::new("", None);
        let _zygote = fixture.zygote(worker(0, 1));
        fixture.pool.fork(&fixture.spec(worker(1, 2)), worker(0, 1)).unwrap();
        assert_eq!(fixture.pool.take_lost_forks().len(), 0);
        fixture.pool.forks.expire();
        let lost = fixture.pool.take_lost_forks();
        assert_eq!((lost[0].worker, lost[0].zygote), (worker(1, 2), worker(0, 1)));
        assert!(lost[0].timed_out, "it hangs");
        let pid = child("exec sleep 1000");
        let error = fixture.pool.on_forked(worker(0, 1), 2, to_u32(pid)).unwrap_err();
        assert!(matches!(error, SpawnError::TooLate), "{error}");
        eventually("it is killed and reaped", || {
            assert_eq!(fixture.pool.reap(), []);
            !process::is_child(pid)
        });
        assert_eq!(fixture.pool.take_lost_forks().len(), 0, "returned once");
    });
}

#[test]
fn worker_killed_while_pending_dies_on_arrival() {
    in_own_process(module_path!(), "worker_killed_while_pending_dies_on_arrival", || {
        let mut fixture = PoolFixture::new("", None);
        let _zygote = fixture.zygote(worker(0, 1));
        fixture.pool.fork(&fixture.spec(worker(1, 2)), worker(0, 1)).unwrap();
        fixture.pool.kill(worker(1, 2));
        let pid = child("exec sleep 1000");
        fixture.pool.on_forked(worker(0, 1), 2, to_u32(pid)).unwrap();
        assert_eq!(fixture.next_exit().status, Exit::Signal { signal: 9, core_dumped: false });
    });
}

#[test]
fn each_report_of_a_zygote_restarts_the_fork_timeout() {
    in_own_process(module_path!(), "each_report_of_a_zygote_restarts_the_fork_timeout", || {
        let mut fixture = PoolFixture::new("", None);
        let (_slow, _hanging) = (fixture.zygote(worker(0, 1)), fixture.zygote(worker(0, 2)));
        for (incarnation, zygote) in [(3, 1), (4, 1), (5, 1), (6, 2)] {
            fixture.pool.fork(&fixture.spec(worker(1, incarnation)), worker(0, zygote)).unwrap();
        }
        fixture.pool.forks.expire();
        fixture.pool.on_forked(worker(0, 1), 3, to_u32(child("exec sleep 1000"))).unwrap();
        let lost = fixture.pool.take_lost_forks();
        let [lost] = lost.as_slice() else { panic!("{lost:?}") };
        assert_eq!((lost.worker, lost.zygote, lost.timed_out), (worker(1, 6), worker(0, 2), true));
        fixture.pool.forks.expire();
        assert_eq!(
            fixture.pool.on_fork_failed(worker(0, 1), 4).unwrap(),
            Some(worker(1, 4)),
            "a failure restarts the timeout too"
        );
        assert_eq!(fixture.pool.take_lost_forks().len(), 0);
        fixture.pool.forks.expire();
        assert_eq!(fixture.pool.take_lost_forks()[0].worker, worker(1, 5));
    });
}

#[test]
fn fork_reports_of_other_processes_are_rejected() {
    in_own_process(module_path!(), "fork_reports_of_other_processes_are_rejected", || {
        let mut fixture = PoolFixture::new("exec sleep 1000", None);
        let _zygote = fixture.zygote(worker(0, 1));
        let (other, false_sender) = (worker(0, 2), worker(1, 3));
        let _other = fixture.zygote(other);
        fixture.spawn(false_sender);
        fixture.pool.fork(&fixture.spec(worker(2, 4)), worker(0, 1)).unwrap();
        for sender in [false_sender, other] {
            let error = fixture.pool.on_fork_failed(sender, 4).unwrap_err();
            assert!(error.to_string().contains("not requested of it"), "{error}");
        }
        assert_eq!(fixture.pool.take_lost_forks().len(), 0, "the zygote may still report");

        // After the fork was given up, such reports are rejected too: the fork stays in `given_up`,
        // and no process is killed.
        fixture.pool.forks.expire();
        assert_eq!(fixture.pool.take_lost_forks().len(), 1);
        let innocent = child("exec sleep 1000");
        for sender in [false_sender, other] {
            fixture.pool.on_fork_failed(sender, 4).unwrap_err();
            let error = fixture.pool.on_forked(sender, 4, to_u32(innocent)).unwrap_err();
            assert!(matches!(error, SpawnError::FalseFork { .. }), "{error}");
        }
        assert!(is_running(innocent));
        let error = fixture.pool.on_forked(worker(0, 1), 4, to_u32(innocent)).unwrap_err();
        assert!(matches!(error, SpawnError::TooLate), "the zygote's own report: {error}");
        fixture.pool.fork(&fixture.spec(worker(2, 5)), worker(0, 1)).unwrap();
        fixture.pool.forks.expire();
        fixture.pool.take_lost_forks();
        assert_eq!(fixture.pool.on_fork_failed(worker(0, 1), 5).unwrap(), None, "it was given up before");
    });
}
