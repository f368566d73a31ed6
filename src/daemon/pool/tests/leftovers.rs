//! Processes that exited workers leave behind: how they are found, killed and reported.

use super::*;

const MINUTE: Duration = Duration::from_mins(1);

/// A worker that starts a child, writes the child's pid to `child`, and exits. If the worker has a
/// cgroup, the test writes the cgroup's files in place of the kernel.
struct WorkerWithChild {
    fixture: PoolFixture,
    child: Pid,
}

impl WorkerWithChild {
    fn spawn(exit_command: &str, children_timeout: Duration, in_cgroup: bool) -> Self {
        let script =
            format!("cd \"${{0%/*}}\"; sleep 1000 & echo $! >child.new; mv child.new child; {exit_command}");
        let mut fixture = PoolFixture::new(&script, in_cgroup.then_some(&[]));
        let cgroup = in_cgroup.then(|| fixture.create_cgroup_files("g1-w0-1"));
        let spec = SpawnSpec { children_timeout, ..fixture.spec(worker(0, 1)) };
        fixture.pool.spawn(&spec, &fixture.reactor).unwrap();
        let mut child = None;
        eventually("the child is started", || {
            let text = fs::read_to_string(fixture.directory.join("child")).unwrap_or_default();
            child = text.trim().parse().ok().map(Pid::from_raw);
            child.is_some()
        });
        let child = child.unwrap();
        eventually("the child has become `sleep`", || {
            fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|name| name.trim() == "sleep")
        });
        if let Some(cgroup) = cgroup {
            fs::write(cgroup.join("cgroup.procs"), format!("{child}\n")).unwrap();
        }
        Self { fixture, child }
    }

    fn child_is_running(&self) -> bool {
        let state = fs::read_to_string(format!("/proc/{}/stat", self.child)).unwrap_or_default();
        state.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }

    fn assert_child_killed(&self) {
        eventually("the child is killed", || !self.child_is_running());
    }

    fn kill_and_report(&mut self) -> KilledLeftovers {
        let mut killed = self.fixture.pool.kill_leftovers();
        assert_eq!(killed.len(), 1, "{killed:?}");
        assert_eq!(self.fixture.pool.kill_leftovers(), [], "reported once");
        killed.remove(0)
    }
}

impl Drop for WorkerWithChild {
    fn drop(&mut self) {
        // ESRCH: it was killed already.
        let _ = kill(self.child, Signal::SIGKILL);
    }
}

#[test]
fn children_of_clean_exit_run_until_timeout_and_are_listed() {
    let name = "children_of_clean_exit_run_until_timeout_and_are_listed";
    in_own_process(module_path!(), name, || {
        for in_cgroup in [false, true] {
            let mut parent = WorkerWithChild::spawn("exit 0", MINUTE, in_cgroup);
            let pid = parent.fixture.next_exit().pid;
            assert_eq!(parent.fixture.pool.kill_leftovers(), []);
            assert!(
                parent.child_is_running() && parent.fixture.pool.has_leftovers(),
                "in a cgroup: {in_cgroup}"
            );
            assert!(parent.fixture.pool.next_leftover_kill().unwrap() > Instant::now() + MINUTE / 2);
            parent.fixture.pool.leftovers.expire();
            let killed = parent.kill_and_report();
            assert_eq!((killed.worker, killed.pid, killed.n_processes), (worker(0, 1), pid, 1));
            assert_eq!(killed.commands, [(parent.child.as_raw().unsigned_abs(), "sleep".to_owned())]);
            parent.assert_child_killed();
            assert!(!parent.fixture.pool.has_leftovers());
        }
    });
}

#[test]
fn children_die_unless_exit_is_clean_and_timeout_positive() {
    let name = "children_die_unless_exit_is_clean_and_timeout_positive";
    in_own_process(module_path!(), name, || {
        for (exit_command, children_timeout) in
            [("exit 1", MINUTE), ("kill -9 $$", MINUTE), ("exit 0", Duration::ZERO)]
        {
            let mut parent = WorkerWithChild::spawn(exit_command, children_timeout, false);
            parent.fixture.next_exit();
            parent.assert_child_killed();
            assert!(!parent.fixture.pool.has_leftovers(), "{exit_command}");
        }
        let mut parent = WorkerWithChild::spawn("exec sleep 1000", MINUTE, false);
        parent.fixture.pool.kill(worker(0, 1));
        parent.fixture.next_exit();
        parent.assert_child_killed();
        assert!(!parent.fixture.pool.has_leftovers());
    });
}

#[test]
fn children_that_exit_in_time_leave_no_cgroup() {
    let name = "children_that_exit_in_time_leave_no_cgroup";
    in_own_process(module_path!(), name, || {
        let mut parent = WorkerWithChild::spawn("exit 0", MINUTE, true);
        parent.fixture.next_exit();
        kill(parent.child, Signal::SIGTERM).unwrap();
        // The kernel removes the files of a cgroup with the directory.
        for file in fs::read_dir(parent.fixture.directory.join("g1-w0-1")).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
        parent.fixture.pool.remove_stale_cgroups();
        assert!(!parent.fixture.directory.join("g1-w0-1").exists() && !parent.fixture.pool.has_leftovers());
        drop(parent);

        let mut parent = WorkerWithChild::spawn("exit 0", MINUTE, false);
        parent.fixture.next_exit();
        kill(parent.child, Signal::SIGTERM).unwrap();
        eventually("the child is pruned", || {
            parent.fixture.pool.reap();
            !parent.fixture.pool.has_leftovers()
        });
        assert_eq!(parent.fixture.pool.kill_leftovers(), []);
    });
}

#[test]
fn grandchildren_are_found_in_the_process_group() {
    let name = "grandchildren_are_found_in_the_process_group";
    in_own_process(module_path!(), name, || {
        let relay =
            "sh -c 'while [ ! -e go ]; do sleep 0.01; done; sleep 1000 & echo $! >grandchild' & exit 0";
        let mut parent = WorkerWithChild::spawn(relay, MINUTE, false);
        parent.fixture.next_exit();
        kill(parent.child, Signal::SIGKILL).unwrap();
        fs::write(parent.fixture.directory.join("go"), "").unwrap();
        let mut grandchild = None;
        eventually("the grandchild is started", || {
            let text = fs::read_to_string(parent.fixture.directory.join("grandchild")).unwrap_or_default();
            grandchild = text.trim().parse::<i32>().ok();
            parent.fixture.pool.reap();
            grandchild.is_some()
        });
        parent.child = Pid::from_raw(grandchild.unwrap());
        eventually("the relay is pruned", || {
            parent.fixture.pool.reap();
            parent.fixture.pool.leftovers.n_processes() == 1
        });
        assert!(parent.child_is_running() && parent.fixture.pool.has_leftovers());
        assert_eq!(parent.fixture.pool.terminate_leftovers(Instant::now()), 1);
        parent.fixture.pool.kill_leftovers();
        parent.assert_child_killed();
    });
}
