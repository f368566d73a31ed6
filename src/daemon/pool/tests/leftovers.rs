//! What workers leave behind.

use super::*;

const A_MINUTE: Duration = Duration::from_mins(1);

/// A worker that starts a program, writes its number to `child`, and ends; in a group of its own, or in a leaf that the
/// test plays.
struct Left {
    stage: Stage,
    child: Pid,
}

impl Left {
    fn by(worker_ends: &str, children: Duration, in_leaf: bool) -> Self {
        let script =
            format!("cd \"${{0%/*}}\"; sleep 1000 & echo $! >child.new; mv child.new child; {worker_ends}");
        let mut stage = Stage::new(&script, in_leaf.then_some(&[]));
        let leaf = in_leaf.then(|| stage.prepare_leaf("g1-w0-1"));
        let plan = Plan { children, ..stage.plan(worker(0, 1)) };
        stage.pool.spawn(&plan, &stage.reactor).unwrap();
        let mut child = None;
        eventually("the program is started", || {
            let text = fs::read_to_string(stage.directory.join("child")).unwrap_or_default();
            child = text.trim().parse().ok().map(Pid::from_raw);
            child.is_some()
        });
        let child = child.unwrap();
        if let Some(leaf) = leaf {
            fs::write(leaf.join("cgroup.procs"), format!("{child}\n")).unwrap();
        }
        Self { stage, child }
    }

    fn lives(&self) -> bool {
        let state = fs::read_to_string(format!("/proc/{}/stat", self.child)).unwrap_or_default();
        state.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }

    fn dies(&self) {
        eventually("what the worker left behind is killed", || !self.lives());
    }

    fn report(&mut self) -> KilledLeftover {
        let mut killed = self.stage.pool.kill_leftovers();
        assert_eq!(killed.len(), 1, "{killed:?}");
        assert_eq!(self.stage.pool.kill_leftovers(), [], "once is enough");
        killed.remove(0)
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        // ESRCH: as it should be.
        let _ = kill(self.child, Signal::SIGKILL);
    }
}

#[test]
fn a_worker_that_leaves_in_good_order_leaves_its_children_which_are_killed_later_and_named() {
    let name = "a_worker_that_leaves_in_good_order_leaves_its_children_which_are_killed_later_and_named";
    alone(module_path!(), name, || {
        for in_leaf in [false, true] {
            let mut left = Left::by("exit 0", A_MINUTE, in_leaf);
            let pid = left.stage.ended().pid;
            assert_eq!(left.stage.pool.kill_leftovers(), []);
            assert!(left.lives() && left.stage.pool.has_leftovers(), "in a leaf: {in_leaf}");
            assert!(left.stage.pool.leftovers_due().unwrap() > Instant::now() + A_MINUTE / 2);
            left.stage.pool.leftovers.expire();
            let killed = left.report();
            assert_eq!((killed.worker, killed.pid, killed.count), (worker(0, 1), pid, 1));
            assert_eq!(killed.named, [(left.child.as_raw().unsigned_abs(), "sleep".to_owned())]);
            left.dies();
            assert!(!left.stage.pool.has_leftovers());
        }
    });
}

#[test]
fn a_worker_that_fails_or_is_killed_or_has_no_patience_takes_its_children_along() {
    let name = "a_worker_that_fails_or_is_killed_or_has_no_patience_takes_its_children_along";
    alone(module_path!(), name, || {
        for (ends, children) in [("exit 1", A_MINUTE), ("kill -9 $$", A_MINUTE), ("exit 0", Duration::ZERO)] {
            let mut left = Left::by(ends, children, false);
            left.stage.ended();
            left.dies();
            assert!(!left.stage.pool.has_leftovers(), "{ends}");
        }
        let mut left = Left::by("exec sleep 1000", A_MINUTE, false);
        left.stage.pool.kill(worker(0, 1));
        left.stage.ended();
        left.dies();
        assert!(!left.stage.pool.has_leftovers());
    });
}

#[test]
fn children_that_finish_in_time_are_forgotten_and_their_leaf_is_removed() {
    let name = "children_that_finish_in_time_are_forgotten_and_their_leaf_is_removed";
    alone(module_path!(), name, || {
        let mut left = Left::by("exit 0", A_MINUTE, true);
        left.stage.ended();
        kill(left.child, Signal::SIGTERM).unwrap();
        // What the kernel does with the files of a cgroup when it is removed.
        for file in fs::read_dir(left.stage.directory.join("g1-w0-1")).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
        left.stage.pool.remove_leaves();
        assert!(!left.stage.directory.join("g1-w0-1").exists() && !left.stage.pool.has_leftovers());
        drop(left);

        let mut left = Left::by("exit 0", A_MINUTE, false);
        left.stage.ended();
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
    alone(module_path!(), name, || {
        let relay =
            "sh -c 'while [ ! -e go ]; do sleep 0.01; done; sleep 1000 & echo $! >grandchild' & exit 0";
        let mut left = Left::by(relay, A_MINUTE, false);
        left.stage.ended();
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
        assert!(left.lives() && left.stage.pool.has_leftovers());
        assert_eq!(left.stage.pool.end_leftovers(Instant::now()), 1);
        left.stage.pool.kill_leftovers();
        left.dies();
    });
}
