//! What workers leave behind.

use super::*;

const A_MINUTE: Duration = Duration::from_mins(1);

/// A worker that starts a program, writes its number to `child`, and ends; in a group of its own, or in a cgroup that the
/// test plays.
struct WorkerWithChild {
    stage: PoolFixture,
    child: Pid,
}

impl WorkerWithChild {
    fn spawn(worker_ends: &str, children: Duration, in_leaf: bool) -> Self {
        let script =
            format!("cd \"${{0%/*}}\"; sleep 1000 & echo $! >child.new; mv child.new child; {worker_ends}");
        let mut stage = PoolFixture::new(&script, in_leaf.then_some(&[]));
        let cgroup = in_leaf.then(|| stage.create_cgroup_files("g1-w0-1"));
        let spec = SpawnSpec { children_timeout: children, ..stage.spec(worker(0, 1)) };
        stage.pool.spawn(&spec, &stage.reactor).unwrap();
        let mut child = None;
        eventually("the program is started", || {
            let text = fs::read_to_string(stage.directory.join("child")).unwrap_or_default();
            child = text.trim().parse().ok().map(Pid::from_raw);
            child.is_some()
        });
        let child = child.unwrap();
        if let Some(cgroup) = cgroup {
            fs::write(cgroup.join("cgroup.procs"), format!("{child}\n")).unwrap();
        }
        Self { stage, child }
    }

    fn child_is_running(&self) -> bool {
        let state = fs::read_to_string(format!("/proc/{}/stat", self.child)).unwrap_or_default();
        state.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }

    fn assert_child_killed(&self) {
        eventually("what the worker left behind is killed", || !self.child_is_running());
    }

    fn kill_and_report(&mut self) -> KilledLeftovers {
        let mut killed = self.stage.pool.kill_leftovers();
        assert_eq!(killed.len(), 1, "{killed:?}");
        assert_eq!(self.stage.pool.kill_leftovers(), [], "once is enough");
        killed.remove(0)
    }
}

impl Drop for WorkerWithChild {
    fn drop(&mut self) {
        // ESRCH: as it should be.
        let _ = kill(self.child, Signal::SIGKILL);
    }
}

#[test]
fn a_worker_that_leaves_in_good_order_leaves_its_children_which_are_killed_later_and_named() {
    let name = "a_worker_that_leaves_in_good_order_leaves_its_children_which_are_killed_later_and_named";
    in_own_process(module_path!(), name, || {
        for in_leaf in [false, true] {
            let mut left = WorkerWithChild::spawn("exit 0", A_MINUTE, in_leaf);
            let pid = left.stage.next_exit().pid;
            assert_eq!(left.stage.pool.kill_leftovers(), []);
            assert!(left.child_is_running() && left.stage.pool.has_leftovers(), "in a cgroup: {in_leaf}");
            assert!(left.stage.pool.next_leftover_kill().unwrap() > Instant::now() + A_MINUTE / 2);
            left.stage.pool.leftovers.expire();
            let killed = left.kill_and_report();
            assert_eq!((killed.worker, killed.pid, killed.n_processes), (worker(0, 1), pid, 1));
            assert_eq!(killed.commands, [(left.child.as_raw().unsigned_abs(), "sleep".to_owned())]);
            left.assert_child_killed();
            assert!(!left.stage.pool.has_leftovers());
        }
    });
}

#[test]
fn a_worker_that_fails_or_is_killed_or_has_no_patience_takes_its_children_along() {
    let name = "a_worker_that_fails_or_is_killed_or_has_no_patience_takes_its_children_along";
    in_own_process(module_path!(), name, || {
        for (ends, children) in [("exit 1", A_MINUTE), ("kill -9 $$", A_MINUTE), ("exit 0", Duration::ZERO)] {
            let mut left = WorkerWithChild::spawn(ends, children, false);
            left.stage.next_exit();
            left.assert_child_killed();
            assert!(!left.stage.pool.has_leftovers(), "{ends}");
        }
        let mut left = WorkerWithChild::spawn("exec sleep 1000", A_MINUTE, false);
        left.stage.pool.kill(worker(0, 1));
        left.stage.next_exit();
        left.assert_child_killed();
        assert!(!left.stage.pool.has_leftovers());
    });
}

#[test]
fn children_that_finish_in_time_are_forgotten_and_their_leaf_is_removed() {
    let name = "children_that_finish_in_time_are_forgotten_and_their_leaf_is_removed";
    in_own_process(module_path!(), name, || {
        let mut left = WorkerWithChild::spawn("exit 0", A_MINUTE, true);
        left.stage.next_exit();
        kill(left.child, Signal::SIGTERM).unwrap();
        // What the kernel does with the files of a cgroup when it is removed.
        for file in fs::read_dir(left.stage.directory.join("g1-w0-1")).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
        left.stage.pool.remove_stale_cgroups();
        assert!(!left.stage.directory.join("g1-w0-1").exists() && !left.stage.pool.has_leftovers());
        drop(left);

        let mut left = WorkerWithChild::spawn("exit 0", A_MINUTE, false);
        left.stage.next_exit();
        kill(left.child, Signal::SIGTERM).unwrap();
        eventually("it is forgotten", || {
            left.stage.pool.reap();
            !left.stage.pool.has_leftovers()
        });
        assert_eq!(left.stage.pool.kill_leftovers(), []);
    });
}

#[test]
fn what_children_start_before_they_end_is_found_in_their_group() {
    let name = "what_children_start_before_they_end_is_found_in_their_group";
    in_own_process(module_path!(), name, || {
        let relay =
            "sh -c 'while [ ! -e go ]; do sleep 0.01; done; sleep 1000 & echo $! >grandchild' & exit 0";
        let mut left = WorkerWithChild::spawn(relay, A_MINUTE, false);
        left.stage.next_exit();
        kill(left.child, Signal::SIGKILL).unwrap();
        fs::write(left.stage.directory.join("go"), "").unwrap();
        let mut grandchild = None;
        eventually("the relay has passed on", || {
            let text = fs::read_to_string(left.stage.directory.join("grandchild")).unwrap_or_default();
            grandchild = text.trim().parse::<i32>().ok();
            left.stage.pool.reap();
            grandchild.is_some()
        });
        left.child = Pid::from_raw(grandchild.unwrap());
        eventually("the relay is gone", || {
            left.stage.pool.reap();
            left.stage.pool.leftovers.n_processes() == 1
        });
        assert!(left.child_is_running() && left.stage.pool.has_leftovers());
        assert_eq!(left.stage.pool.terminate_leftovers(Instant::now()), 1);
        left.stage.pool.kill_leftovers();
        left.assert_child_killed();
    });
}
