//! Workers that a zygote forks: what is asked, what is believed, and what becomes of those that never come.

use rgun_channel::control::{Fork, Report};
use rgun_channel::map::Map;

use super::*;

#[test]
fn death_by_a_real_time_signal_is_told_as_what_it_is() {
    in_own_process(module_path!(), "death_by_a_real_time_signal_is_told_as_what_it_is", || {
        let mut stage = PoolFixture::new("", None);
        let _zygote = stage.zygote(worker(0, 1));
        stage.pool.fork(&stage.spec(worker(1, 2)), worker(0, 1)).unwrap();
        let pid = child("kill -50 $$");
        wait_for_exit(pid);
        stage.pool.on_forked(worker(0, 1), 2, to_u32(pid)).unwrap();
        assert_eq!(stage.next_exit().exit, Exit::Signal { signal: 50, core_dumped: false });
    });
}

#[test]
fn a_zygote_is_asked_for_a_worker_with_all_that_the_worker_needs() {
    in_own_process(module_path!(), "a_zygote_is_asked_for_a_worker_with_all_that_the_worker_needs", || {
        let mut stage = PoolFixture::new("", None);
        let zygote = stage.zygote(worker(0, 1));
        let spec = SpawnSpec { threads: 8, ..stage.spec(worker(3, 2)) };
        stage.pool.fork(&spec, worker(0, 1)).unwrap();
        let (command, fds) = receive_command(&zygote);
        assert_eq!(command, Command::Fork(Fork { worker: 3, life: 2 }));
        let [control, map, stacks, _wake]: [OwnedFd; 4] = fds.try_into().unwrap();
        let pid = child("exec sleep 1000");
        let spawned = stage.pool.on_forked(worker(0, 1), 2, to_u32(pid)).unwrap();
        assert_eq!((spawned.pid, spawned.link.worker), (to_u32(pid), worker(3, 2)));
        assert_eq!(spawned.link.geometry, Geometry::standard(3), "the zygote's");
        Map::attach(map.as_fd(), Geometry::standard(3).total_bytes(), true).unwrap();
        // Each is the other end of what the daemon has.
        control::send(&control, &Report::Booting { python: "CPython".into() }.encode(), &[]).unwrap();
        let mut buffer = vec![0; MAX_MESSAGE_BYTES];
        assert!(receive(&spawned.link.control, &mut buffer).unwrap().len > 0);
        io::Write::write_all(&mut fs::File::from(stacks), b"here").unwrap();
        assert_eq!(stage.pool.read_stacks(worker(3, 2)).as_deref(), Some("here"));
        assert_eq!(stage.pool.take_lost_forks().len(), 0);

        stage.pool.kill(worker(3, 2));
        let ended = stage.next_exit();
        assert_eq!((ended.worker, ended.pid), (worker(3, 2), to_u32(pid)));
        assert_eq!(ended.exit, Exit::Signal { signal: 9, core_dumped: false });
    });
}

#[test]
fn a_forked_worker_enters_a_leaf_of_its_own_and_is_killed_with_its_children() {
    in_own_process(
        module_path!(),
        "a_forked_worker_enters_a_leaf_of_its_own_and_is_killed_with_its_children",
        || {
            let mut stage = PoolFixture::new("", Some(&[]));
            let zygote = stage.zygote(worker(0, 1));
            let cgroup = stage.create_cgroup_files("g1-w3-2");
            stage.pool.fork(&stage.spec(worker(3, 2)), worker(0, 1)).unwrap();
            let (_, fds) = receive_command(&zygote);
            let [_control, _map, _stacks, _wake, entrance]: [OwnedFd; 5] = fds.try_into().unwrap();
            io::Write::write_all(&mut fs::File::from(entrance), b"0").unwrap();
            assert_eq!(fs::read_to_string(cgroup.join("cgroup.procs")).unwrap(), "0");

            let file = stage.directory.join("child.pid");
            let pid = child(&format!("sleep 1000 & echo $! > {}; wait", file.display()));
            stage.pool.on_forked(worker(0, 1), 2, to_u32(pid)).unwrap();
            let mut grandchild = None;
            eventually("the worker starts a child", || {
                grandchild = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
                grandchild.is_some()
            });
            stage.pool.kill(worker(3, 2));
            assert_eq!(stage.next_exit().worker, worker(3, 2));
            eventually("its child is gone", || {
                stage.pool.reap();
                !is_running(Pid::from_raw(grandchild.unwrap()))
            });

            // The kernel's files go with the directory; these do not, which is how a busy cgroup looks.
            assert_eq!(stage.pool.remove_stale_cgroups(), 1);
            for entry in fs::read_dir(&cgroup).unwrap() {
                fs::remove_file(entry.unwrap().path()).unwrap();
            }
            assert_eq!(stage.pool.remove_stale_cgroups(), 0);
            assert!(!cgroup.exists());
        },
    );
}

#[test]
fn an_orphan_that_leads_no_group_can_be_a_worker_and_is_killed_by_its_number() {
    in_own_process(
        module_path!(),
        "an_orphan_that_leads_no_group_can_be_a_worker_and_is_killed_by_its_number",
        || {
            let mut stage = PoolFixture::new("", None);
            let _zygote = stage.zygote(worker(0, 1));
            stage.pool.fork(&stage.spec(worker(1, 2)), worker(0, 1)).unwrap();
            // Its parent has ended, so this subreaper is its parent now. Its group is this test's.
            let script = "sleep 1000 >/dev/null 2>&1 & echo $!";
            let output = Program::new("/bin/sh").args(["-c", script]).output().unwrap();
            let pid = Pid::from_raw(String::from_utf8(output.stdout).unwrap().trim().parse().unwrap());
            stage.pool.on_forked(worker(0, 1), 2, to_u32(pid)).unwrap();
            stage.pool.kill(worker(1, 2));
            let ended = stage.next_exit();
            assert_eq!((ended.worker, ended.pid), (worker(1, 2), to_u32(pid)));
            assert_eq!(ended.exit, Exit::Signal { signal: 9, core_dumped: false });
        },
    );
}

#[test]
fn a_zygotes_claim_is_believed_only_of_a_child_that_is_nobodys() {
    in_own_process(module_path!(), "a_zygotes_claim_is_believed_only_of_a_child_that_is_nobodys", || {
        let mut stage = PoolFixture::new("exec sleep 1000", None);
        let _zygote = stage.zygote(worker(0, 1));
        let _other = stage.zygote(worker(0, 2));
        let known = stage.spawn(worker(1, 3)).pid;
        let parent = std::os::unix::process::parent_id();
        let pids = [0, 1, known, std::process::id(), parent, u32::MAX, i32::MAX.cast_unsigned()];
        for (pid, life) in pids.into_iter().zip(10_u64..) {
            stage.pool.fork(&stage.spec(worker(2, life)), worker(0, 1)).unwrap();
            let error = stage.pool.on_forked(worker(0, 1), life, pid).unwrap_err();
            assert!(matches!(error, SpawnError::FalseFork { .. }), "{pid}: {error}");
            let lost = stage.pool.take_lost_forks();
            assert_eq!(lost.len(), 1, "{pid}");
            assert_eq!((lost[0].worker, lost[0].timed_out), (worker(2, life), false));
        }
        // One that nobody has asked for, or not this zygote.
        let pid = child("exec sleep 1000");
        let error = stage.pool.on_forked(worker(0, 1), 99, to_u32(pid)).unwrap_err();
        assert!(error.to_string().contains("nobody has asked"), "{error}");
        stage.pool.fork(&stage.spec(worker(2, 30)), worker(0, 1)).unwrap();
        stage.pool.on_forked(worker(0, 2), 30, to_u32(pid)).unwrap_err();
        assert_eq!(stage.pool.take_lost_forks().len(), 0, "the right zygote may still answer");
        stage.pool.on_forked(worker(0, 1), 30, to_u32(pid)).unwrap();
        stage.pool.on_forked(worker(0, 1), 30, to_u32(pid)).expect_err("not twice");
        stage.pool.fork(&stage.spec(worker(2, 31)), worker(1, 3)).expect_err("a worker is no zygote");
        stage.pool.on_promoted(worker(1, 3));
        stage.pool.fork(&stage.spec(worker(2, 31)), worker(1, 3)).expect("now it is one");
    });
}

#[test]
fn a_worker_that_ended_before_it_was_told_of_is_still_told_how() {
    in_own_process(module_path!(), "a_worker_that_ended_before_it_was_told_of_is_still_told_how", || {
        let mut stage = PoolFixture::new("", None);
        let _zygote = stage.zygote(worker(0, 1));
        stage.pool.fork(&stage.spec(worker(1, 2)), worker(0, 1)).unwrap();
        let pid = child("exit 9");
        wait_for_exit(pid);
        assert_eq!(stage.pool.reap(), [], "it may be the one");
        stage.pool.on_forked(worker(0, 1), 2, to_u32(pid)).unwrap();
        let ended = stage.next_exit();
        assert_eq!((ended.worker, ended.exit), (worker(1, 2), Exit::Code(9)));

        // When nobody is awaited any more, what was held back is reaped.
        stage.pool.fork(&stage.spec(worker(1, 3)), worker(0, 1)).unwrap();
        let stranger = child("exit 0");
        wait_for_exit(stranger);
        assert_eq!(stage.pool.reap(), []);
        assert!(process::is_child(stranger));
        assert_eq!(stage.pool.on_fork_failed(worker(0, 1), 3).unwrap(), Some(worker(1, 3)));
        assert!(!process::is_child(stranger));
        stage.pool.on_fork_failed(worker(0, 1), 3).expect_err("it has answered");
    });
}

#[test]
fn a_worker_is_lost_with_its_zygote_unless_the_zygote_had_told_of_it() {
    in_own_process(
        module_path!(),
        "a_worker_is_lost_with_its_zygote_unless_the_zygote_had_told_of_it",
        || {
            let mut stage = PoolFixture::new("", None);
            let zygote = stage.zygote(worker(0, 1));
            for life in [2, 3] {
                stage.pool.fork(&stage.spec(worker(1, life)), worker(0, 1)).unwrap();
            }
            let pid = child("exec sleep 1000");
            stage.pool.kill(worker(0, 1));
            assert_eq!(stage.next_exit().worker, worker(0, 1));
            drop(zygote);
            // Its last words are read after its end was seen.
            stage.pool.on_forked(worker(0, 1), 2, to_u32(pid)).unwrap();
            assert!(!stage.pool.is_empty());
            let due = stage.pool.next_fork_deadline().unwrap();
            assert!(due <= Instant::now() + Duration::from_secs(1), "not as long as a living one is given");
            let mut lost = Vec::new();
            eventually("the other worker is lost", || {
                lost = stage.pool.take_lost_forks();
                !lost.is_empty()
            });
            assert!(Instant::now() >= due);
            let [lost] = lost.as_slice() else { panic!("{lost:?}") };
            assert_eq!((lost.worker, lost.error.fault()), (worker(1, 3), SpawnFault::System));
            assert_eq!((lost.zygote, lost.timed_out), (worker(0, 1), false), "it did not hang");
            assert_eq!(stage.pool.next_fork_deadline(), None);
            stage.pool.fork(&stage.spec(worker(1, 4)), worker(0, 1)).expect_err("it is gone");
        },
    );
}

#[test]
fn a_worker_that_comes_too_late_is_killed() {
    in_own_process(module_path!(), "a_worker_that_comes_too_late_is_killed", || {
        let mut stage = PoolFixture::new("", None);
        let _zygote = stage.zygote(worker(0, 1));
        stage.pool.fork(&stage.spec(worker(1, 2)), worker(0, 1)).unwrap();
        assert_eq!(stage.pool.take_lost_forks().len(), 0);
        stage.pool.forks.expire();
        let lost = stage.pool.take_lost_forks();
        assert_eq!((lost[0].worker, lost[0].zygote), (worker(1, 2), worker(0, 1)));
        assert!(lost[0].timed_out, "it hangs");
        let pid = child("exec sleep 1000");
        let error = stage.pool.on_forked(worker(0, 1), 2, to_u32(pid)).unwrap_err();
        assert!(matches!(error, SpawnError::TooLate), "{error}");
        eventually("it is killed and reaped", || {
            assert_eq!(stage.pool.reap(), []);
            !process::is_child(pid)
        });
        assert_eq!(stage.pool.take_lost_forks().len(), 0, "told once");
    });
}

#[test]
fn a_worker_that_is_killed_before_it_exists_is_killed_when_it_does() {
    in_own_process(module_path!(), "a_worker_that_is_killed_before_it_exists_is_killed_when_it_does", || {
        let mut stage = PoolFixture::new("", None);
        let _zygote = stage.zygote(worker(0, 1));
        stage.pool.fork(&stage.spec(worker(1, 2)), worker(0, 1)).unwrap();
        stage.pool.kill(worker(1, 2));
        let pid = child("exec sleep 1000");
        stage.pool.on_forked(worker(0, 1), 2, to_u32(pid)).unwrap();
        assert_eq!(stage.next_exit().exit, Exit::Signal { signal: 9, core_dumped: false });
    });
}

#[test]
fn a_zygote_that_answers_one_after_the_other_does_not_hang() {
    in_own_process(module_path!(), "a_zygote_that_answers_one_after_the_other_does_not_hang", || {
        let mut stage = PoolFixture::new("", None);
        let (_slow, _hanging) = (stage.zygote(worker(0, 1)), stage.zygote(worker(0, 2)));
        for (life, zygote) in [(3, 1), (4, 1), (5, 1), (6, 2)] {
            stage.pool.fork(&stage.spec(worker(1, life)), worker(0, zygote)).unwrap();
        }
        stage.pool.forks.expire();
        stage.pool.on_forked(worker(0, 1), 3, to_u32(child("exec sleep 1000"))).unwrap();
        let lost = stage.pool.take_lost_forks();
        let [lost] = lost.as_slice() else { panic!("{lost:?}") };
        assert_eq!((lost.worker, lost.zygote, lost.timed_out), (worker(1, 6), worker(0, 2), true));
        stage.pool.forks.expire();
        assert_eq!(
            stage.pool.on_fork_failed(worker(0, 1), 4).unwrap(),
            Some(worker(1, 4)),
            "that is an answer too"
        );
        assert_eq!(stage.pool.take_lost_forks().len(), 0);
        stage.pool.forks.expire();
        assert_eq!(stage.pool.take_lost_forks()[0].worker, worker(1, 5));
    });
}

#[test]
fn nobody_answers_for_a_zygote_but_itself() {
    in_own_process(module_path!(), "nobody_answers_for_a_zygote_but_itself", || {
        let mut stage = PoolFixture::new("exec sleep 1000", None);
        let _zygote = stage.zygote(worker(0, 1));
        let (other, liar) = (worker(0, 2), worker(1, 3));
        let _other = stage.zygote(other);
        stage.spawn(liar);
        stage.pool.fork(&stage.spec(worker(2, 4)), worker(0, 1)).unwrap();
        for sender in [liar, other] {
            let error = stage.pool.on_fork_failed(sender, 4).unwrap_err();
            assert!(error.to_string().contains("nobody has asked it"), "{error}");
        }
        assert_eq!(stage.pool.take_lost_forks().len(), 0, "the zygote's answer is still to come");

        // The same when it has been given up: it is not taken off the list of those to be killed, nor is anybody.
        stage.pool.forks.expire();
        assert_eq!(stage.pool.take_lost_forks().len(), 1);
        let innocent = child("exec sleep 1000");
        for sender in [liar, other] {
            stage.pool.on_fork_failed(sender, 4).unwrap_err();
            let error = stage.pool.on_forked(sender, 4, to_u32(innocent)).unwrap_err();
            assert!(matches!(error, SpawnError::FalseFork { .. }), "{error}");
        }
        assert!(is_running(innocent));
        let error = stage.pool.on_forked(worker(0, 1), 4, to_u32(innocent)).unwrap_err();
        assert!(matches!(error, SpawnError::TooLate), "its own answer: {error}");
        stage.pool.fork(&stage.spec(worker(2, 5)), worker(0, 1)).unwrap();
        stage.pool.forks.expire();
        stage.pool.take_lost_forks();
        assert_eq!(stage.pool.on_fork_failed(worker(0, 1), 5).unwrap(), None, "it was given up before");
    });
}
