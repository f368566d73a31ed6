//! The pool with real processes: shell scripts where the interpreter belongs, and children of the test where a zygote's
//! workers belong (its two forks make them the daemon's children; a test's own children are that already).
//!
//! The pool reaps whatever child of this process has ended, so each test runs in a process of its own.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command as Program;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use rgun_channel::control::{Fork, MAX_MESSAGE, Report, receive};
use rgun_channel::frame::ExchangeId;

use super::*;
use crate::config::{App, Python, PythonSource, Target};
use crate::supervise::{Life, WorkerNr};
use crate::systemd::cgroup::Controller;
use crate::systemd::scratch;

/// Longer than anything here takes on a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(20);

const IN_A_PROCESS_OF_ITS_OWN: &str = "RGUN_TEST_IN_A_PROCESS_OF_ITS_OWN";

/// Runs `test`, named `name`, in a process of its own.
fn alone(name: &str, test: impl FnOnce()) {
    if std::env::var_os(IN_A_PROCESS_OF_ITS_OWN).is_some() {
        return test();
    }
    let output = Program::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("pool::tests::{name}"), "--nocapture"])
        .env(IN_A_PROCESS_OF_ITS_OWN, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// What a test's pool needs: an interpreter that is a script, and the shared page.
struct Stage {
    directory: PathBuf,
    app: &'static App,
    reactor: Reactor,
    pool: Pool,
}

impl Stage {
    fn new(script: &str, controllers: Option<&[Controller]>) -> Self {
        let directory = scratch("pool");
        let path = directory.join("python");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let app = App {
            target: Target { module: "hello".into(), attribute: "app".into(), factory: false },
            directory: directory.clone(),
            python: Python { path, source: PythonSource::Configured },
            interface: config::Interface::Auto,
            root_path: String::new(),
            lifespan: config::Lifespan::Auto,
            event_loop: config::Loop::Auto,
            env: Vec::new(),
            pythonpath: Vec::new(),
        };
        let delegation = controllers.map(|controllers| Delegation::imitation(directory.clone(), controllers));
        Self {
            app: Box::leak(Box::new(app)),
            reactor: Reactor::new().unwrap(),
            pool: Pool::new(directory.join("extension.so"), delegation),
            directory,
        }
    }

    fn plan(&self, worker: WorkerId) -> Plan<'static> {
        Plan {
            worker,
            generation: Generation(1),
            app: self.app,
            hooks: Box::leak(Box::default()),
            threads: 1,
            concurrency: 1,
            multiprocess: true,
            listeners: &[],
            role: Role::Worker,
            warm_up: "",
            max_memory: None,
            max_requests: None,
        }
    }

    fn spawn(&mut self, worker: WorkerId) -> Spawned {
        self.pool.spawn(&self.plan(worker), &self.reactor).unwrap()
    }

    /// A zygote whose words are the test's: its process sleeps. Returns its end of the control socket.
    fn zygote(&mut self, worker: WorkerId) -> OwnedFd {
        let (channel, _, theirs) = Channel::new(Geometry::standard(3)).unwrap();
        let limits = memory::Limits::default();
        let pid = child("exec sleep 1000");
        let process = Process { pid, role: Role::Zygote, channel, leaf: None, limits };
        self.pool.processes.insert(worker, process);
        theirs
    }

    /// Makes the files of a leaf, as the kernel does.
    fn prepare_leaf(&self, name: &str) -> PathBuf {
        let leaf = self.directory.join(name);
        fs::create_dir(&leaf).unwrap();
        for (file, text) in [
            ("cgroup.procs", ""),
            ("memory.current", "1000\n"),
            ("memory.stat", "anon 1000\ninactive_file 0\nactive_file 0\n"),
            ("memory.events", "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n"),
            ("memory.high", ""),
            ("memory.max", ""),
            ("memory.oom.group", ""),
        ] {
            fs::write(leaf.join(file), text).unwrap();
        }
        leaf
    }

    /// The next process that ends.
    fn ended(&mut self) -> Ended {
        let mut ended = Vec::new();
        eventually("a worker ends", || {
            ended = self.pool.reap();
            !ended.is_empty()
        });
        assert_eq!(ended.len(), 1, "{ended:?}");
        ended[0]
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for process in self.pool.processes.values() {
            process.kill_all();
        }
        fs::remove_dir_all(&self.directory).unwrap();
    }
}

fn worker(number: u16, life: u64) -> WorkerId {
    WorkerId { number: WorkerNr(number), life: Life(life) }
}

/// A child of this process that leads its own process group, as a forked worker does.
#[expect(clippy::zombie_processes, reason = "reaping is what is tested")]
fn child(script: &str) -> Pid {
    let child = Program::new("/bin/sh").args(["-c", script]).process_group(0).spawn().unwrap();
    Pid::from_raw(child.id().cast_signed())
}

fn number(pid: Pid) -> u32 {
    pid.as_raw().unsigned_abs()
}

/// There is no event for "a process that is not our child has become something"; so this looks often, for long enough.
fn eventually(what: &str, mut happens: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !happens() {
        assert!(Instant::now() < deadline, "{what}: not in {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until a child has ended, and leaves it unreaped.
fn await_end(pid: Pid) {
    eventually("a child ends", || process::ended(Which::One(pid)).unwrap().is_some());
}

fn lives(pid: Pid) -> bool {
    // A zombie has no command line.
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

fn hear(socket: &OwnedFd) -> (Command, Vec<OwnedFd>) {
    let mut buffer = vec![0; MAX_MESSAGE];
    let received = receive(socket, &mut buffer).unwrap();
    (Command::decode(&buffer[..received.len]).unwrap(), received.fds)
}

#[test]
fn a_worker_ends_once_with_its_status_and_under_its_own_pid() {
    alone("a_worker_ends_once_with_its_status_and_under_its_own_pid", || {
        let mut stage = Stage::new("exit 7", None);
        let spawned = stage.spawn(worker(0, 1));
        assert!(!stage.pool.is_empty());
        let ended = stage.ended();
        let expected =
            Ended { worker: worker(0, 1), pid: spawned.pid, how: Exit::Code(7), oom_killed: false };
        assert_eq!(ended, expected);
        assert!(stage.pool.is_empty());
        assert_eq!(stage.pool.reap(), []);
        process::ended(Which::Any).expect_err("no child is left");
    });
}

#[test]
fn an_interpreter_that_is_not_there_is_the_configurations_fault_and_leaves_nothing() {
    alone("an_interpreter_that_is_not_there_is_the_configurations_fault_and_leaves_nothing", || {
        let mut stage = Stage::new("exit 0", Some(&[]));
        fs::remove_file(&stage.app.python.path).unwrap();
        stage.prepare_leaf("g1-w0-1");
        let error = stage.pool.spawn(&stage.plan(worker(0, 1)), &stage.reactor).unwrap_err();
        assert!(matches!(error, SpawnError::Interpreter { .. }), "{error}");
        assert_eq!(error.fault(), SpawnFault::Config);
        assert!(stage.pool.is_empty());
        process::ended(Which::Any).expect_err("no child is left");
    });
}

#[test]
fn a_kill_takes_what_the_worker_started_and_leaves_no_zombie() {
    alone("a_kill_takes_what_the_worker_started_and_leaves_no_zombie", || {
        let mut stage = Stage::new("sleep 1000 & echo $! > child.pid\nsleep 1000", None);
        stage.spawn(worker(0, 1));
        let file = stage.directory.join("child.pid");
        let mut pid = None;
        eventually("the worker starts a child", || {
            pid = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
            pid.is_some()
        });
        let pid = Pid::from_raw(pid.unwrap());
        assert!(lives(pid));
        stage.pool.kill(worker(0, 1));
        let how = stage.ended().how;
        assert_eq!(how, Exit::Signal { signal: 9, core_dumped: false });
        // The children came to this process, which is a subreaper.
        eventually("the orphans are reaped", || {
            assert_eq!(stage.pool.reap(), []);
            process::ended(Which::Any).is_err()
        });
        assert!(!lives(pid));
    });
}

#[test]
fn an_orphan_is_reaped_without_a_word_while_workers_live() {
    alone("an_orphan_is_reaped_without_a_word_while_workers_live", || {
        let mut stage = Stage::new("exec sleep 1000", None);
        let spawned = stage.spawn(worker(0, 1));
        let output =
            Program::new("/bin/sh").args(["-c", "sleep 0.05 >/dev/null & echo $!"]).output().unwrap();
        let orphan = Pid::from_raw(String::from_utf8(output.stdout).unwrap().trim().parse().unwrap());
        eventually("the orphan is ours, and reaped", || {
            assert_eq!(stage.pool.reap(), []);
            !process::is_child(orphan) && !lives(orphan)
        });
        assert!(process::is_child(Pid::from_raw(spawned.pid.cast_signed())));
    });
}

#[test]
fn death_by_a_real_time_signal_is_told_as_what_it_is() {
    alone("death_by_a_real_time_signal_is_told_as_what_it_is", || {
        let mut stage = Stage::new("", None);
        let _zygote = stage.zygote(worker(0, 1));
        stage.pool.fork(&stage.plan(worker(1, 2)), worker(0, 1)).unwrap();
        let pid = child("kill -50 $$");
        await_end(pid);
        stage.pool.forked(worker(0, 1), 2, number(pid)).unwrap();
        assert_eq!(stage.ended().how, Exit::Signal { signal: 50, core_dumped: false });
    });
}

#[test]
fn the_signal_for_stacks_does_not_hurt_a_worker_that_cannot_handle_it_yet() {
    alone("the_signal_for_stacks_does_not_hurt_a_worker_that_cannot_handle_it_yet", || {
        let mut stage = Stage::new("exec sleep 1000", None);
        let spawned = stage.spawn(worker(0, 1));
        stage.pool.signal_stacks(worker(0, 1)).unwrap();
        kill(Pid::from_raw(spawned.pid.cast_signed()), Signal::SIGTERM).unwrap();
        assert_eq!(stage.ended().how, Exit::Signal { signal: 15, core_dumped: false });
        stage.pool.signal_stacks(worker(0, 1)).expect_err("never to a process that is gone");
    });
}

#[test]
fn stacks_are_asked_for_on_the_control_socket_and_begin_anew_each_time() {
    alone("stacks_are_asked_for_on_the_control_socket_and_begin_anew_each_time", || {
        let mut stage = Stage::new("", None);
        let (asked, id) = (stage.zygote(worker(0, 1)), worker(0, 1));
        let write = |stage: &Stage, text: &[u8]| {
            let file = stage.pool.processes[&id].channel.stacks.as_fd().try_clone_to_owned().unwrap();
            io::Write::write_all(&mut fs::File::from(file), text).unwrap();
        };
        assert_eq!(stage.pool.stacks(id), None);
        write(&stage, b"old\n");
        assert_eq!(stage.pool.stacks(id).as_deref(), Some("old"));
        stage.pool.ask_stacks(id, Some(ExchangeId(8))).unwrap();
        assert_eq!(hear(&asked).0, Command::Stacks(Some(ExchangeId(8))));
        assert_eq!(stage.pool.stacks(id), None);
        write(&stage, b"new\n");
        assert_eq!(stage.pool.stacks(id).as_deref(), Some("new"));
        drop(asked);
        stage.pool.ask_stacks(id, None).expect_err("nobody listens");
        stage.pool.ask_stacks(worker(0, 2), None).expect_err("nobody is there");
        assert_eq!(stage.pool.stacks(worker(0, 2)), None);
    });
}

#[test]
fn a_zygote_is_asked_for_a_worker_with_all_that_the_worker_needs() {
    alone("a_zygote_is_asked_for_a_worker_with_all_that_the_worker_needs", || {
        let mut stage = Stage::new("", None);
        let zygote = stage.zygote(worker(0, 1));
        let plan = Plan { threads: 8, ..stage.plan(worker(3, 2)) };
        stage.pool.fork(&plan, worker(0, 1)).unwrap();
        let (command, fds) = hear(&zygote);
        assert_eq!(command, Command::Fork(Fork { worker: 3, life: 2 }));
        let [control, map, stacks, _wake]: [OwnedFd; 4] = fds.try_into().unwrap();
        let pid = child("exec sleep 1000");
        let spawned = stage.pool.forked(worker(0, 1), 2, number(pid)).unwrap();
        assert_eq!((spawned.pid, spawned.link.worker), (number(pid), worker(3, 2)));
        assert_eq!(spawned.link.geometry, Geometry::standard(3), "the zygote's");
        Map::attach(map.as_fd(), Geometry::standard(3).total(), true).unwrap();
        // Each is the other end of what the daemon has.
        control::send(&control, &Report::Booting { python: "CPython".into() }.encode(), &[]).unwrap();
        let mut buffer = vec![0; MAX_MESSAGE];
        assert!(receive(&spawned.link.control, &mut buffer).unwrap().len > 0);
        io::Write::write_all(&mut fs::File::from(stacks), b"here").unwrap();
        assert_eq!(stage.pool.stacks(worker(3, 2)).as_deref(), Some("here"));
        assert_eq!(stage.pool.lost_forks().len(), 0);

        stage.pool.kill(worker(3, 2));
        let ended = stage.ended();
        assert_eq!((ended.worker, ended.pid), (worker(3, 2), number(pid)));
        assert_eq!(ended.how, Exit::Signal { signal: 9, core_dumped: false });
    });
}

#[test]
fn a_forked_worker_enters_a_leaf_of_its_own_and_is_killed_with_its_children() {
    alone("a_forked_worker_enters_a_leaf_of_its_own_and_is_killed_with_its_children", || {
        let mut stage = Stage::new("", Some(&[]));
        let zygote = stage.zygote(worker(0, 1));
        let leaf = stage.prepare_leaf("g1-w3-2");
        stage.pool.fork(&stage.plan(worker(3, 2)), worker(0, 1)).unwrap();
        let (_, fds) = hear(&zygote);
        let [_control, _map, _stacks, _wake, entrance]: [OwnedFd; 5] = fds.try_into().unwrap();
        io::Write::write_all(&mut fs::File::from(entrance), b"0").unwrap();
        assert_eq!(fs::read_to_string(leaf.join("cgroup.procs")).unwrap(), "0");

        let file = stage.directory.join("child.pid");
        let pid = child(&format!("sleep 1000 & echo $! > {}; wait", file.display()));
        stage.pool.forked(worker(0, 1), 2, number(pid)).unwrap();
        let mut grandchild = None;
        eventually("the worker starts a child", || {
            grandchild = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
            grandchild.is_some()
        });
        stage.pool.kill(worker(3, 2));
        assert_eq!(stage.ended().worker, worker(3, 2));
        eventually("its child is gone", || {
            stage.pool.reap();
            !lives(Pid::from_raw(grandchild.unwrap()))
        });

        // The kernel's files go with the directory; these do not, which is how a busy leaf looks.
        assert_eq!(stage.pool.remove_leaves(), 1);
        for entry in fs::read_dir(&leaf).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        assert_eq!(stage.pool.remove_leaves(), 0);
        assert!(!leaf.exists());
    });
}

#[test]
fn a_zygotes_claim_is_believed_only_of_a_child_that_is_nobodys() {
    alone("a_zygotes_claim_is_believed_only_of_a_child_that_is_nobodys", || {
        let mut stage = Stage::new("exec sleep 1000", None);
        let _zygote = stage.zygote(worker(0, 1));
        let _other = stage.zygote(worker(0, 2));
        let known = stage.spawn(worker(1, 3)).pid;
        let parent = std::os::unix::process::parent_id();
        let pids = [0, 1, known, std::process::id(), parent, u32::MAX, i32::MAX.cast_unsigned()];
        for (pid, life) in pids.into_iter().zip(10_u64..) {
            stage.pool.fork(&stage.plan(worker(2, life)), worker(0, 1)).unwrap();
            let error = stage.pool.forked(worker(0, 1), life, pid).unwrap_err();
            assert!(matches!(error, SpawnError::Claim { .. }), "{pid}: {error}");
            let lost = stage.pool.lost_forks();
            assert_eq!(lost.len(), 1, "{pid}");
            assert_eq!(lost[0].0, worker(2, life));
        }
        // One that nobody has asked for, or not this zygote.
        let pid = child("exec sleep 1000");
        let error = stage.pool.forked(worker(0, 1), 99, number(pid)).unwrap_err();
        assert!(error.to_string().contains("nobody has asked"), "{error}");
        stage.pool.fork(&stage.plan(worker(2, 30)), worker(0, 1)).unwrap();
        stage.pool.forked(worker(0, 2), 30, number(pid)).unwrap_err();
        assert_eq!(stage.pool.lost_forks().len(), 0, "the right zygote may still answer");
        stage.pool.forked(worker(0, 1), 30, number(pid)).unwrap();
        stage.pool.forked(worker(0, 1), 30, number(pid)).expect_err("not twice");
        stage.pool.fork(&stage.plan(worker(2, 31)), worker(1, 3)).expect_err("a worker is no zygote");
        stage.pool.promoted(worker(1, 3));
        stage.pool.fork(&stage.plan(worker(2, 31)), worker(1, 3)).expect("now it is one");
    });
}

#[test]
fn a_worker_that_ended_before_it_was_told_of_is_still_told_how() {
    alone("a_worker_that_ended_before_it_was_told_of_is_still_told_how", || {
        let mut stage = Stage::new("", None);
        let _zygote = stage.zygote(worker(0, 1));
        stage.pool.fork(&stage.plan(worker(1, 2)), worker(0, 1)).unwrap();
        let pid = child("exit 9");
        await_end(pid);
        assert_eq!(stage.pool.reap(), [], "it may be the one");
        stage.pool.forked(worker(0, 1), 2, number(pid)).unwrap();
        let ended = stage.ended();
        assert_eq!((ended.worker, ended.how), (worker(1, 2), Exit::Code(9)));

        // When nobody is awaited any more, what was held back is reaped.
        stage.pool.fork(&stage.plan(worker(1, 3)), worker(0, 1)).unwrap();
        let stranger = child("exit 0");
        await_end(stranger);
        assert_eq!(stage.pool.reap(), []);
        assert!(process::is_child(stranger));
        assert_eq!(stage.pool.fork_failed(3), Some(worker(1, 3)));
        assert!(!process::is_child(stranger));
        assert_eq!(stage.pool.fork_failed(3), None);
    });
}

#[test]
fn a_worker_is_lost_with_its_zygote_unless_the_zygote_had_told_of_it() {
    alone("a_worker_is_lost_with_its_zygote_unless_the_zygote_had_told_of_it", || {
        let mut stage = Stage::new("", None);
        let zygote = stage.zygote(worker(0, 1));
        for life in [2, 3] {
            stage.pool.fork(&stage.plan(worker(1, life)), worker(0, 1)).unwrap();
        }
        let pid = child("exec sleep 1000");
        stage.pool.kill(worker(0, 1));
        assert_eq!(stage.ended().worker, worker(0, 1));
        drop(zygote);
        // Its last words are read after its end was seen.
        stage.pool.forked(worker(0, 1), 2, number(pid)).unwrap();
        assert!(!stage.pool.is_empty());
        let due = stage.pool.forks_due().unwrap();
        assert!(due <= Instant::now() + Duration::from_secs(1), "not as long as a living one is given");
        let mut lost = Vec::new();
        eventually("the other worker is lost", || {
            lost = stage.pool.lost_forks();
            !lost.is_empty()
        });
        assert!(Instant::now() >= due);
        let [(id, error)] = lost.as_slice() else { panic!("{lost:?}") };
        assert_eq!((*id, error.fault()), (worker(1, 3), SpawnFault::System));
        assert_eq!(stage.pool.forks_due(), None);
        stage.pool.fork(&stage.plan(worker(1, 4)), worker(0, 1)).expect_err("it is gone");
    });
}

#[test]
fn a_worker_that_comes_too_late_is_killed() {
    alone("a_worker_that_comes_too_late_is_killed", || {
        let mut stage = Stage::new("", None);
        let _zygote = stage.zygote(worker(0, 1));
        stage.pool.fork(&stage.plan(worker(1, 2)), worker(0, 1)).unwrap();
        assert_eq!(stage.pool.lost_forks().len(), 0);
        stage.pool.forks.expire();
        let lost = stage.pool.lost_forks();
        assert_eq!(lost[0].0, worker(1, 2));
        let pid = child("exec sleep 1000");
        let error = stage.pool.forked(worker(0, 1), 2, number(pid)).unwrap_err();
        assert!(matches!(error, SpawnError::TooLate), "{error}");
        eventually("it is killed and reaped", || {
            assert_eq!(stage.pool.reap(), []);
            !process::is_child(pid)
        });
        assert_eq!(stage.pool.lost_forks().len(), 0, "told once");
    });
}

#[test]
fn a_worker_that_is_killed_before_it_exists_is_killed_when_it_does() {
    alone("a_worker_that_is_killed_before_it_exists_is_killed_when_it_does", || {
        let mut stage = Stage::new("", None);
        let _zygote = stage.zygote(worker(0, 1));
        stage.pool.fork(&stage.plan(worker(1, 2)), worker(0, 1)).unwrap();
        stage.pool.kill(worker(1, 2));
        let pid = child("exec sleep 1000");
        stage.pool.forked(worker(0, 1), 2, number(pid)).unwrap();
        assert_eq!(stage.ended().how, Exit::Signal { signal: 9, core_dumped: false });
    });
}

#[test]
fn without_a_controller_memory_is_what_the_worker_holds_in_proportion() {
    alone("without_a_controller_memory_is_what_the_worker_holds_in_proportion", || {
        let mut stage = Stage::new("exec sleep 1000", None);
        stage.spawn(worker(0, 1));
        let bytes = stage.pool.memory(worker(0, 1)).unwrap();
        assert!((4096..1 << 30).contains(&bytes), "{bytes}");
        assert_eq!(stage.pool.memory(worker(0, 2)), None);
        assert!(stage.pool.memory_watch_fd().is_none());
        assert_eq!(stage.pool.memory_events(), []);
        stage.pool.kill(worker(0, 1));
        await_end(stage.pool.processes[&worker(0, 1)].pid);
        assert_eq!(stage.pool.memory(worker(0, 1)), None, "a zombie has none");
    });
}

#[test]
fn children_count_where_a_leaf_names_them() {
    alone("children_count_where_a_leaf_names_them", || {
        let mut stage = Stage::new("exec sleep 1000", Some(&[Controller::Pids]));
        let leaf = stage.prepare_leaf("g1-w0-1");
        let own = stage.spawn(worker(0, 1)).pid;
        let other = child("exec sleep 1000");
        fs::write(leaf.join("cgroup.procs"), format!("{own}\n")).unwrap();
        let alone = stage.pool.memory(worker(0, 1)).unwrap();
        fs::write(leaf.join("cgroup.procs"), format!("{own}\n{other}\n")).unwrap();
        assert!(stage.pool.memory(worker(0, 1)).unwrap() > alone + alone / 4);
        kill(other, Signal::SIGKILL).unwrap();
    });
}

#[test]
fn a_worker_at_its_limit_is_told_once_and_not_slowed_down() {
    alone("a_worker_at_its_limit_is_told_once_and_not_slowed_down", || {
        let mut stage = Stage::new("exec sleep 1000", Some(&[Controller::Memory]));
        assert!(stage.pool.has_memory_controller());
        let leaf = stage.prepare_leaf("g1-w0-1");
        let idle = stage.prepare_leaf("g1-w1-2");
        for id in [worker(0, 1), worker(1, 2)] {
            let plan = Plan { max_memory: Some(1_600_000), ..stage.plan(id) };
            stage.pool.spawn(&plan, &stage.reactor).unwrap();
        }
        let file = |leaf: &PathBuf, name: &str| fs::read_to_string(leaf.join(name)).unwrap();
        assert_eq!([file(&leaf, "memory.high"), file(&leaf, "memory.max")], ["1600000", "2400000"]);
        let is_readable = |pool: &Pool| {
            let mut fds = [PollFd::new(pool.memory_watch_fd().unwrap(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
        };
        assert!(!is_readable(&stage.pool));

        // The page cache has come to the limit.
        let stat = |files: u64| format!("anon 0\ninactive_file {files}\nactive_file 0\n");
        fs::write(leaf.join("memory.current"), "1600000\n").unwrap();
        fs::write(leaf.join("memory.stat"), stat(200_000)).unwrap();
        fs::write(leaf.join("memory.events"), "high 1\noom_kill 0\n").unwrap();
        assert!(is_readable(&stage.pool));
        assert_eq!(stage.pool.memory_events(), []);
        assert!(!is_readable(&stage.pool));
        assert_eq!(file(&leaf, "memory.high"), "1600000");
        assert_eq!(stage.pool.memory(worker(0, 1)), Some(1_400_000));

        // The application has.
        fs::write(leaf.join("memory.stat"), stat(50_000)).unwrap();
        assert_eq!(stage.pool.memory_events(), [], "nothing has happened since");
        fs::write(leaf.join("memory.high"), "").unwrap();
        fs::write(leaf.join("memory.events"), "high 2\noom_kill 0\n").unwrap();
        assert_eq!(stage.pool.memory_events(), [MemoryEvent::High(worker(0, 1))]);
        assert_eq!([file(&leaf, "memory.high"), file(&leaf, "memory.max")], ["max", "2400000"]);
        assert_eq!(file(&idle, "memory.high"), "1600000");
        fs::write(leaf.join("memory.events"), "high 3\noom_kill 0\n").unwrap();
        assert_eq!(stage.pool.memory_events(), [], "told once");

        fs::write(leaf.join("memory.events"), "high 3\noom_kill 1\n").unwrap();
        assert_eq!(stage.pool.memory_events(), [MemoryEvent::OomKill(worker(0, 1))]);
        stage.pool.kill(worker(0, 1));
        let ended = stage.ended();
        assert_eq!((ended.worker, ended.oom_killed), (worker(0, 1), true));
        stage.pool.kill(worker(1, 2));
        assert!(!stage.ended().oom_killed, "SIGKILL alone does not mean that");
    });
}

#[test]
fn an_exit_by_itself_is_no_want_of_memory_whatever_happened_to_its_children() {
    alone("an_exit_by_itself_is_no_want_of_memory_whatever_happened_to_its_children", || {
        let mut stage = Stage::new("exit 3", Some(&[Controller::Memory]));
        let leaf = stage.prepare_leaf("g1-w0-1");
        stage.spawn(worker(0, 1));
        fs::write(leaf.join("memory.events"), "oom_kill 1\n").unwrap();
        let ended = stage.ended();
        assert_eq!((ended.how, ended.oom_killed), (Exit::Code(3), false));
    });
}

#[test]
fn a_zygotes_leaf_is_named_after_it_and_a_promoted_workers_limits_are_lifted() {
    alone("a_zygotes_leaf_is_named_after_it_and_a_promoted_workers_limits_are_lifted", || {
        let mut stage = Stage::new("exec sleep 1000", Some(&[Controller::Memory]));
        stage.prepare_leaf("g1-z-1");
        let plan = Plan { role: Role::Zygote, ..stage.plan(worker(0, 1)) };
        stage.pool.spawn(&plan, &stage.reactor).expect("it enters g1-z-1");
        let leaf = stage.prepare_leaf("g1-w1-2");
        let plan = Plan { max_memory: Some(1_000_000), ..stage.plan(worker(1, 2)) };
        stage.pool.spawn(&plan, &stage.reactor).unwrap();
        for name in ["memory.high", "memory.max"] {
            fs::write(leaf.join(name), "").unwrap();
        }
        stage.pool.promoted(worker(1, 2));
        for name in ["memory.high", "memory.max"] {
            assert_eq!(fs::read_to_string(leaf.join(name)).unwrap(), "max");
        }
    });
}
