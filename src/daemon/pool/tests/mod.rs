//! Tests of the pool with real processes: shell scripts instead of the interpreter, and children of
//! the test instead of the workers that a zygote forks.
//!
//! The pool reaps any child of its process, so each test runs in its own process.

mod cgroup_limits;
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
use rgun_channel::control::{MAX_MESSAGE_BYTES, Preload, receive};
use rgun_channel::frame::ExchangeId;

use super::*;
use crate::config::{self, App, Python, PythonSource, Target};
use crate::id::{Generation, Incarnation, WorkerNr};
use crate::supervise::SpawnFault;
use crate::systemd::cgroup::Controller;
use crate::systemd::scratch_dir;

/// Timeout of every wait, generous for a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// Set in the process that runs one test.
const OWN_PROCESS_VARIABLE: &str = "RGUN_TEST_OWN_PROCESS";

/// Runs `test`, named `name` in `module`, in its own process.
fn in_own_process(module: &str, name: &str, test: impl FnOnce()) {
    if std::env::var_os(OWN_PROCESS_VARIABLE).is_some() {
        // A test that hangs must not block the process that waits for it.
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

/// A pool with a shell script as the interpreter, and the reactor that its workers share.
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
            asgi: config::Asgi::default(),
            env: Vec::new(),
            unknown_credentials: Vec::new(),
            pythonpath: Vec::new(),
            sendfile_roots: Vec::new(),
            log_config: None,
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
            identity: None,
            worker,
            generation: Generation(1),
            app: self.app,
            hooks: Box::leak(Box::default()),
            threads: 1,
            concurrency: 1,
            max_websockets: 0,
            multiprocess: true,
            report_sources: false,
            log_records: false,
            listeners: &[],
            role: Role::Worker,
            preload: Box::leak(Box::new(Preload::Application { warm_up: String::new() })),
            max_memory: None,
            max_tasks: config::MaxTasks::Off,
            cpu_weight: None,
            max_requests: None,
            children_timeout: Duration::ZERO,
        }
    }

    fn spawn(&mut self, worker: WorkerId) -> SpawnedWorker {
        self.pool.spawn(&self.spec(worker), &self.reactor).unwrap()
    }

    /// Adds a zygote whose process sleeps; the test sends its reports. Returns its end of the
    /// worker socket.
    fn zygote(&mut self, worker: WorkerId) -> OwnedFd {
        // Before the channel is created: until its exec, a child holds this process's descriptors.
        let pid = child("exec sleep 1000");
        let (channel, _, worker_socket) = Channel::new(Geometry::standard(3), None).unwrap();
        let memory_limits = memory_limits::MemoryLimits::default();
        let process = WorkerProcess {
            pid,
            role: Role::Zygote,
            channel,
            cgroup: None,
            memory_limits,
            children_timeout: Duration::ZERO,
        };
        self.pool.processes.insert(worker, process);
        worker_socket
    }

    /// Creates a directory with the files of a cgroup, as the kernel does.
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
            ("pids.max", ""),
            ("cpu.weight", ""),
        ] {
            fs::write(cgroup.join(file), text).unwrap();
        }
        cgroup
    }

    /// Waits for the next exit and returns it.
    fn next_exit(&mut self) -> WorkerExit {
        let mut exits = Vec::new();
        eventually("a worker exits", || {
            exits = self.pool.reap();
            !exits.is_empty()
        });
        assert_eq!(exits.len(), 1, "{exits:?}");
        exits[0]
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

fn worker(number: u16, incarnation: u64) -> WorkerId {
    WorkerId { number: WorkerNr(number), incarnation: Incarnation(incarnation) }
}

/// Starts a child of this process that leads its own process group, as a forked worker does.
#[expect(clippy::zombie_processes, reason = "reaping is what is tested")]
fn child(script: &str) -> Pid {
    let mut program = Program::new("/bin/sh");
    // A child that outlives its test must not keep the test's output open.
    program.args(["-c", script]).process_group(0).stdout(Stdio::null()).stderr(Stdio::null());
    let child = program.spawn().unwrap();
    Pid::from_raw(child.id().cast_signed())
}

fn to_u32(pid: Pid) -> u32 {
    pid.as_raw().unsigned_abs()
}

/// Polls until `happens` returns true: there is no event for a change of a process that is not a
/// child.
fn eventually(what: &str, mut happens: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !happens() {
        assert!(Instant::now() < deadline, "timed out after {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until a child has exited, without reaping it.
fn wait_for_exit(pid: Pid) {
    eventually("a child exits", || process::peek_exit(WaitTarget::Pid(pid)).unwrap().is_some());
}

/// Returns true if the process exists and is not a zombie (proc_pid_stat(5)).
fn is_running(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|text| !matches!(text.rsplit_once(") ").unwrap().1.as_bytes()[0], b'Z' | b'X'))
}

/// Receives one command from the daemon.
fn receive_command(socket: &OwnedFd) -> (Command, Vec<OwnedFd>) {
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    let received = receive(socket, &mut buffer).unwrap();
    (Command::decode(&buffer[..received.len]).unwrap(), received.fds)
}

#[test]
fn exit_is_returned_once_with_status_and_pid() {
    in_own_process(module_path!(), "exit_is_returned_once_with_status_and_pid", || {
        let mut fixture = PoolFixture::new("exit 7", None);
        let spawned = fixture.spawn(worker(0, 1));
        assert!(!fixture.pool.is_empty());
        let exit = fixture.next_exit();
        let expected =
            WorkerExit { worker: worker(0, 1), pid: spawned.pid, status: Exit::Code(7), oom_cause: None };
        assert_eq!(exit, expected);
        assert!(fixture.pool.is_empty());
        assert_eq!(fixture.pool.reap(), []);
        process::peek_exit(WaitTarget::Any).expect_err("no child is left");
    });
}

#[test]
fn missing_interpreter_is_a_config_fault_without_leftovers() {
    in_own_process(module_path!(), "missing_interpreter_is_a_config_fault_without_leftovers", || {
        let mut fixture = PoolFixture::new("exit 0", Some(&[]));
        fs::remove_file(&fixture.app.python.path).unwrap();
        fixture.create_cgroup_files("g1-w0-1");
        let error = fixture.pool.spawn(&fixture.spec(worker(0, 1)), &fixture.reactor).unwrap_err();
        assert!(matches!(error, SpawnError::Interpreter { .. }), "{error}");
        assert_eq!(error.fault(), SpawnFault::Config);
        assert!(fixture.pool.is_empty());
        process::peek_exit(WaitTarget::Any).expect_err("no child is left");
    });
}

#[test]
fn kill_includes_children_and_leaves_no_zombie() {
    in_own_process(module_path!(), "kill_includes_children_and_leaves_no_zombie", || {
        let mut fixture = PoolFixture::new("sleep 1000 & echo $! > child.pid\nsleep 1000", None);
        fixture.spawn(worker(0, 1));
        let file = fixture.directory.join("child.pid");
        let mut pid = None;
        eventually("the worker starts a child", || {
            pid = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
            pid.is_some()
        });
        let pid = Pid::from_raw(pid.unwrap());
        assert!(is_running(pid));
        fixture.pool.kill(worker(0, 1));
        let status = fixture.next_exit().status;
        assert_eq!(status, Exit::Signal { signal: 9, core_dumped: false });
        // This process is a subreaper, so the worker's children are its children now.
        eventually("the orphans are reaped", || {
            assert_eq!(fixture.pool.reap(), []);
            process::peek_exit(WaitTarget::Any).is_err()
        });
        assert!(!is_running(pid));
    });
}

#[test]
fn orphan_is_reaped_without_an_exit_report() {
    in_own_process(module_path!(), "orphan_is_reaped_without_an_exit_report", || {
        let mut fixture = PoolFixture::new("exec sleep 1000", None);
        let spawned = fixture.spawn(worker(0, 1));
        let output =
            Program::new("/bin/sh").args(["-c", "sleep 0.05 >/dev/null 2>&1 & echo $!"]).output().unwrap();
        let orphan = Pid::from_raw(String::from_utf8(output.stdout).unwrap().trim().parse().unwrap());
        eventually("the orphan is adopted and reaped", || {
            assert_eq!(fixture.pool.reap(), []);
            !process::is_child(orphan) && !is_running(orphan)
        });
        assert!(process::is_child(Pid::from_raw(spawned.pid.cast_signed())));
    });
}

#[test]
fn stacks_signal_is_ignored_before_a_handler_is_set() {
    in_own_process(module_path!(), "stacks_signal_is_ignored_before_a_handler_is_set", || {
        let mut fixture = PoolFixture::new("exec sleep 1000", None);
        let spawned = fixture.spawn(worker(0, 1));
        fixture.pool.signal_stacks(worker(0, 1)).unwrap();
        kill(Pid::from_raw(spawned.pid.cast_signed()), Signal::SIGTERM).unwrap();
        assert_eq!(fixture.next_exit().status, Exit::Signal { signal: 15, core_dumped: false });
        fixture.pool.signal_stacks(worker(0, 1)).expect_err("no signal to a reaped process");
    });
}

#[test]
fn each_stacks_request_truncates_the_file() {
    in_own_process(module_path!(), "each_stacks_request_truncates_the_file", || {
        let mut fixture = PoolFixture::new("", None);
        let (socket, id) = (fixture.zygote(worker(0, 1)), worker(0, 1));
        let write = |fixture: &PoolFixture, text: &[u8]| {
            let file = fixture.pool.processes[&id].channel.stacks.as_fd().try_clone_to_owned().unwrap();
            io::Write::write_all(&mut fs::File::from(file), text).unwrap();
        };
        assert_eq!(fixture.pool.read_stacks(id), None);
        write(&fixture, b"old\n");
        assert_eq!(fixture.pool.read_stacks(id).as_deref(), Some("old"));
        fixture.pool.request_stacks(id, Some(ExchangeId(8))).unwrap();
        assert_eq!(receive_command(&socket).0, Command::DumpStacks(Some(ExchangeId(8))));
        assert_eq!(fixture.pool.read_stacks(id), None);
        write(&fixture, b"new\n");
        assert_eq!(fixture.pool.read_stacks(id).as_deref(), Some("new"));
        drop(socket);
        fixture.pool.request_stacks(id, None).expect_err("the socket is closed");
        fixture.pool.request_stacks(worker(0, 2), None).expect_err("no such worker");
        assert_eq!(fixture.pool.read_stacks(worker(0, 2)), None);
    });
}
