//! The pool with real processes: shell scripts where the interpreter belongs, and children of the test where a zygote's
//! workers belong (its two forks make them the daemon's children; a test's own children are that already).
//!
//! The pool reaps whatever child of this process has ended, so each test runs in a process of its own.

mod fork;
mod leftovers;
mod memory;

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command as Program, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use rgun_channel::control::{MAX_MESSAGE_BYTES, receive};
use rgun_channel::frame::ExchangeId;

use super::*;
use crate::config::{self, App, Python, PythonSource, Target};
use crate::id::{Generation, Life, WorkerNr};
use crate::supervise::SpawnFault;
use crate::systemd::cgroup::Controller;
use crate::systemd::scratch_dir;

/// Longer than anything here takes on a machine that is busy with other things.
const DEADLINE: Duration = Duration::from_secs(20);

const OWN_PROCESS_VARIABLE: &str = "RGUN_TEST_IN_A_PROCESS_OF_ITS_OWN";

/// Runs `test`, named `name` in `module`, in a process of its own.
fn in_own_process(module: &str, name: &str, test: impl FnOnce()) {
    if std::env::var_os(OWN_PROCESS_VARIABLE).is_some() {
        // What hangs must not hang whoever waits for it.
        std::thread::spawn(|| {
            std::thread::sleep(3 * DEADLINE);
            std::process::abort();
        });
        return test();
    }
    let output = Program::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{}::{name}", module.trim_start_matches("rgun::")), "--nocapture"])
        .env(OWN_PROCESS_VARIABLE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// What a test's pool needs: an interpreter that is a script, and the shared page.
struct PoolFixture {
    directory: PathBuf,
    app: &'static App,
    reactor: Reactor,
    pool: Pool,
}

impl PoolFixture {
    fn new(script: &str, controllers: Option<&[Controller]>) -> Self {
        let directory = scratch_dir("pool");
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
        let delegation = controllers.map(|controllers| Delegation::fake(directory.clone(), controllers));
        Self {
            app: Box::leak(Box::new(app)),
            reactor: Reactor::new().unwrap(),
            pool: Pool::new(directory.join("extension.so"), delegation),
            directory,
        }
    }

    fn spec(&self, worker: WorkerId) -> SpawnSpec<'static> {
        SpawnSpec {
            worker,
            generation: Generation(1),
            app: self.app,
            hooks: Box::leak(Box::default()),
            threads: 1,
            concurrency: 1,
            max_websockets: 0,
            multiprocess: true,
            listeners: &[],
            role: Role::Worker,
            warm_up: "",
            max_memory: None,
            max_requests: None,
            children_timeout: Duration::ZERO,
        }
    }

    fn spawn(&mut self, worker: WorkerId) -> SpawnedWorker {
        self.pool.spawn(&self.spec(worker), &self.reactor).unwrap()
    }

    /// A zygote whose words are the test's: its process sleeps. Returns its end of the control socket.
    fn zygote(&mut self, worker: WorkerId) -> OwnedFd {
        // First: a child has our descriptors until the kernel closes them at exec, which we do not see.
        let pid = child("exec sleep 1000");
        let (channel, _, theirs) = Channel::new(Geometry::standard(3)).unwrap();
        let limits = memory_limits::MemoryLimits::default();
        let process = WorkerProcess {
            pid,
            role: Role::Zygote,
            channel,
            cgroup: None,
            memory_limits: limits,
            children_timeout: Duration::ZERO,
        };
        self.pool.processes.insert(worker, process);
        theirs
    }

    /// Makes the files of a cgroup, as the kernel does.
    fn create_cgroup_files(&self, name: &str) -> PathBuf {
        let cgroup = self.directory.join(name);
        fs::create_dir(&cgroup).unwrap();
        for (file, text) in [
            ("cgroup.procs", ""),
            ("memory.current", "1000\n"),
            ("memory.stat", "anon 1000\ninactive_file 0\nactive_file 0\n"),
            ("memory.events", "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n"),
            ("memory.high", ""),
            ("memory.max", ""),
            ("memory.oom.group", ""),
        ] {
            fs::write(cgroup.join(file), text).unwrap();
        }
        cgroup
    }

    /// The next process that ends.
    fn next_exit(&mut self) -> WorkerExit {
        let mut ended = Vec::new();
        eventually("a worker ends", || {
            ended = self.pool.reap();
            !ended.is_empty()
        });
        assert_eq!(ended.len(), 1, "{ended:?}");
        ended[0]
    }
}

impl Drop for PoolFixture {
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
    let mut program = Program::new("/bin/sh");
    // Should it outlive its test, it must not keep the output of that open.
    program.args(["-c", script]).process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
    let child = program.spawn().unwrap();
    Pid::from_raw(child.id().cast_signed())
}

fn to_u32(pid: Pid) -> u32 {
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

/// Waits until a child has ended, and cgroups it unreaped.
fn wait_for_exit(pid: Pid) {
    eventually("a child ends", || process::peek_exit(WaitTarget::Pid(pid)).unwrap().is_some());
}

/// Whether it is there, and no zombie (proc_pid_stat(5)).
fn is_running(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|text| !matches!(text.rsplit_once(") ").unwrap().1.as_bytes()[0], b'Z' | b'X'))
}

fn receive_command(socket: &OwnedFd) -> (Command, Vec<OwnedFd>) {
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    let received = receive(socket, &mut buffer).unwrap();
    (Command::decode(&buffer[..received.len]).unwrap(), received.fds)
}

#[test]
fn a_worker_ends_once_with_its_status_and_under_its_own_pid() {
    in_own_process(module_path!(), "a_worker_ends_once_with_its_status_and_under_its_own_pid", || {
        let mut stage = PoolFixture::new("exit 7", None);
        let spawned = stage.spawn(worker(0, 1));
        assert!(!stage.pool.is_empty());
        let ended = stage.next_exit();
        let expected =
            WorkerExit { worker: worker(0, 1), pid: spawned.pid, exit: Exit::Code(7), oom_killed: false };
        assert_eq!(ended, expected);
        assert!(stage.pool.is_empty());
        assert_eq!(stage.pool.reap(), []);
        process::peek_exit(WaitTarget::Any).expect_err("no child is left");
    });
}

#[test]
fn an_interpreter_that_is_not_there_is_the_configurations_fault_and_leaves_nothing() {
    in_own_process(
        module_path!(),
        "an_interpreter_that_is_not_there_is_the_configurations_fault_and_leaves_nothing",
        || {
            let mut stage = PoolFixture::new("exit 0", Some(&[]));
            fs::remove_file(&stage.app.python.path).unwrap();
            stage.create_cgroup_files("g1-w0-1");
            let error = stage.pool.spawn(&stage.spec(worker(0, 1)), &stage.reactor).unwrap_err();
            assert!(matches!(error, SpawnError::Interpreter { .. }), "{error}");
            assert_eq!(error.fault(), SpawnFault::Config);
            assert!(stage.pool.is_empty());
            process::peek_exit(WaitTarget::Any).expect_err("no child is left");
        },
    );
}

#[test]
fn a_kill_takes_what_the_worker_started_and_leaves_no_zombie() {
    in_own_process(module_path!(), "a_kill_takes_what_the_worker_started_and_leaves_no_zombie", || {
        let mut stage = PoolFixture::new("sleep 1000 & echo $! > child.pid\nsleep 1000", None);
        stage.spawn(worker(0, 1));
        let file = stage.directory.join("child.pid");
        let mut pid = None;
        eventually("the worker starts a child", || {
            pid = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
            pid.is_some()
        });
        let pid = Pid::from_raw(pid.unwrap());
        assert!(is_running(pid));
        stage.pool.kill(worker(0, 1));
        let how = stage.next_exit().exit;
        assert_eq!(how, Exit::Signal { signal: 9, core_dumped: false });
        // The children came to this process, which is a subreaper.
        eventually("the orphans are reaped", || {
            assert_eq!(stage.pool.reap(), []);
            process::peek_exit(WaitTarget::Any).is_err()
        });
        assert!(!is_running(pid));
    });
}

#[test]
fn an_orphan_is_reaped_without_a_word_while_workers_live() {
    in_own_process(module_path!(), "an_orphan_is_reaped_without_a_word_while_workers_live", || {
        let mut stage = PoolFixture::new("exec sleep 1000", None);
        let spawned = stage.spawn(worker(0, 1));
        let output =
            Program::new("/bin/sh").args(["-c", "sleep 0.05 >/dev/null 2>&1 & echo $!"]).output().unwrap();
        let orphan = Pid::from_raw(String::from_utf8(output.stdout).unwrap().trim().parse().unwrap());
        eventually("the orphan is ours, and reaped", || {
            assert_eq!(stage.pool.reap(), []);
            !process::is_child(orphan) && !is_running(orphan)
        });
        assert!(process::is_child(Pid::from_raw(spawned.pid.cast_signed())));
    });
}

#[test]
fn the_signal_for_stacks_does_not_hurt_a_worker_that_cannot_handle_it_yet() {
    in_own_process(
        module_path!(),
        "the_signal_for_stacks_does_not_hurt_a_worker_that_cannot_handle_it_yet",
        || {
            let mut stage = PoolFixture::new("exec sleep 1000", None);
            let spawned = stage.spawn(worker(0, 1));
            stage.pool.signal_stacks(worker(0, 1)).unwrap();
            kill(Pid::from_raw(spawned.pid.cast_signed()), Signal::SIGTERM).unwrap();
            assert_eq!(stage.next_exit().exit, Exit::Signal { signal: 15, core_dumped: false });
            stage.pool.signal_stacks(worker(0, 1)).expect_err("never to a process that is gone");
        },
    );
}

#[test]
fn stacks_are_asked_for_on_the_control_socket_and_begin_anew_each_time() {
    in_own_process(
        module_path!(),
        "stacks_are_asked_for_on_the_control_socket_and_begin_anew_each_time",
        || {
            let mut stage = PoolFixture::new("", None);
            let (asked, id) = (stage.zygote(worker(0, 1)), worker(0, 1));
            let write = |stage: &PoolFixture, text: &[u8]| {
                let file = stage.pool.processes[&id].channel.stacks.as_fd().try_clone_to_owned().unwrap();
                io::Write::write_all(&mut fs::File::from(file), text).unwrap();
            };
            assert_eq!(stage.pool.read_stacks(id), None);
            write(&stage, b"old\n");
            assert_eq!(stage.pool.read_stacks(id).as_deref(), Some("old"));
            stage.pool.request_stacks(id, Some(ExchangeId(8))).unwrap();
            assert_eq!(receive_command(&asked).0, Command::DumpStacks(Some(ExchangeId(8))));
            assert_eq!(stage.pool.read_stacks(id), None);
            write(&stage, b"new\n");
            assert_eq!(stage.pool.read_stacks(id).as_deref(), Some("new"));
            drop(asked);
            stage.pool.request_stacks(id, None).expect_err("nobody listens");
            stage.pool.request_stacks(worker(0, 2), None).expect_err("nobody is there");
            assert_eq!(stage.pool.read_stacks(worker(0, 2)), None);
        },
    );
}
