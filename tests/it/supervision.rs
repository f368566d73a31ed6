//! Supervision of workers: stacks, crashes, recycling, their number, preload, hooks and path rules.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::systemd::NotifySocket;
use crate::support::{Daemon, Rgun, wait_until};

fn with_file(rgun: Rgun, toml: &str) -> Rgun {
    let path = rgun.scratch().write("rgun.toml", toml);
    rgun.flags(["--config", path.to_str().expect("ASCII")])
}

// Stacks.

const STUCK: &str = "
import ctypes, time

def export(environ):
    if environ['QUERY_STRING'] == 'c':
        ctypes.PyDLL(None).sleep(60)  # holds the GIL
    time.sleep(60)

def application(environ, start_response):
    if environ['PATH_INFO'] == '/export':
        export(environ)
    start_response('200 OK', [('Content-Type', 'text/plain')])
    return [b'ok']
";

fn assert_stack_is_logged(daemon: &Daemon, path: &str, line: &str) {
    let response = daemon.get(path);
    response.assert_error(504);
    let id = response.field("x-request-id").to_owned();
    assert!(daemon.log.wait_for("GET /export 504").contains("ERROR"));
    // In the log the fields follow the stacks.
    let fields = daemon.log.wait_for(&id);
    assert!(fields.contains("rgun.worker=0"), "{fields}");
    let stack = daemon.log.wait_for("in export");
    assert!(stack.contains("app.py") && stack.contains(line), "{stack}");
    assert!(daemon.log.text().contains("<- this request"), "{}", daemon.log.text());
    daemon.log.wait_for_count(1, &id);
    assert_eq!(daemon.log.count(&id), 1, "one entry for the request");
    assert_eq!(daemon.get("/").text(), "ok", "served by the successor");
}

#[test]
fn response_504_is_logged_with_the_stacks_of_its_worker() {
    let daemon = Rgun::python(STUCK).flags(["--timeout", "500ms"]).start_ready();
    assert_stack_is_logged(&daemon, "/export", "line 7");
}

#[test]
fn stacks_are_dumped_while_c_code_holds_the_gil() {
    let daemon = Rgun::python(STUCK).flags(["--timeout", "500ms"]).start_ready();
    assert_stack_is_logged(&daemon, "/export?c", "line 6");
}

#[test]
fn slow_request_is_logged_once_with_its_stack() {
    let source = STUCK.replace("time.sleep(60)", "time.sleep(1)");
    let daemon = Rgun::python(&source).set("log.slow", "200ms").start_ready();
    assert_eq!(daemon.get("/export").text(), "ok");
    let entry = daemon.log.wait_for("GET /export is slow");
    assert!(entry.contains("WARN"), "{entry}");
    assert!(daemon.log.wait_for("in export").contains("app.py"));
    assert_eq!(daemon.get("/export").text(), "ok");
    daemon.log.wait_for_count(2, "GET /export is slow");
    daemon.log.wait_for_count(2, "is slow");
    assert_eq!(daemon.log.count("is slow"), 2, "one entry for each request");
}

#[test]
fn hanging_import_is_logged_with_its_stack() {
    let rgun = Rgun::python("import time\ntime.sleep(60)\n").set("timeouts.boot", "700ms");
    let mut systemd = NotifySocket::at(rgun.scratch());
    let name = systemd.name.clone();
    let daemon = rgun.variable("NOTIFY_SOCKET", &name).start();
    let entry = daemon.log.wait_for("did not boot");
    assert!(entry.contains("timeouts.boot"), "{entry}");
    let stack = daemon.log.wait_for("app.py");
    assert!(stack.contains("line 2"), "{stack}");
    daemon.get("/").assert_error(503);
    systemd.wait("STATUS=0/1 workers ready");
}

// Crashes.

#[test]
fn worker_death_is_logged_with_its_request() {
    let daemon = Rgun::fake().start_ready();
    let response = daemon.get("/abort");
    response.assert_error(502);
    let line = daemon.log.wait_for("was killed by SIGABRT");
    assert!(line.contains("GET /abort"), "{line}");
    assert!(line.contains(response.field("x-request-id")), "{line}");
}

#[test]
fn idempotent_request_is_retried_if_configured() {
    let source = "
import os
def application(environ, start_response):
    try:
        os.mkdir('died')
    except FileExistsError:
        start_response('200 OK', [])
        return [b'second']
    os._exit(3)
";
    let daemon = Rgun::python(source).set("workers.retry", "idempotent").start_ready();
    assert_eq!(daemon.get("/").text(), "second");
    daemon.log.wait_for("retrying GET /: worker 0 died");
}

#[test]
fn post_is_not_retried() {
    let daemon = Rgun::fake().set("workers.retry", "idempotent").start_ready();
    let mut client = daemon.connect();
    client.send("POST /die HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n");
    client.response().assert_error(502);
}

#[test]
fn request_that_killed_two_workers_is_quarantined() {
    let daemon = Rgun::fake().flags(["--workers", "2"]).start();
    daemon.log.wait_for_count(2, "is ready after");
    daemon.get("/die").assert_error(502);
    daemon.get("/die").assert_error(502);
    daemon.log.wait_for("GET /die has killed two workers");
    let refused = daemon.get("/die");
    refused.assert_error(503);
    assert!(refused.has("retry-after"));
    assert_eq!(daemon.get("/hello").status, 200, "other requests are served");
    daemon.log.wait_for_count(2, "exited with status 3");
    assert_eq!(daemon.log.count("exited with status 3"), 2);
}

// Recycling.

#[test]
fn worker_is_recycled_after_max_requests() {
    let daemon = Rgun::fake().flags(["--max-requests", "5"]).start_ready();
    let first = daemon.worker();
    let mut client = daemon.connect();
    for _ in 0..40 {
        assert_eq!(client.get("/hello").status, 200);
    }
    daemon.log.wait_for("has served");
    wait_until("the successor serves", || (daemon.worker() != first).then_some(()));
    assert_eq!(daemon.log.count("WARN"), 0, "{}", daemon.log.text());
    wait_until("one worker is left", || (daemon.descendants().len() == 1).then_some(()));
}

#[test]
fn worker_is_recycled_over_max_memory() {
    let source = "
kept = []
def application(environ, start_response):
    if environ['PATH_INFO'] == '/grow':
        kept.append(bytearray(64 << 20))
    start_response('200 OK', [])
    return [str(len(kept)).encode()]
";
    let daemon = Rgun::python(source).set("workers.max_memory", "48MiB").start_ready();
    assert_eq!(daemon.get("/grow").text(), "1");
    daemon.log.wait_for("workers.max_memory");
    wait_until("the new worker has kept nothing", || (daemon.get("/").text() == "0").then_some(()));
}

#[test]
fn worker_is_recycled_after_max_lifetime() {
    let daemon = Rgun::fake().set("workers.max_lifetime", "1s").start_ready();
    let first = daemon.worker();
    wait_until("another worker serves", || (daemon.worker() != first).then_some(()));
    daemon.log.wait_for("workers.max_lifetime");
}

// The number of workers.

#[test]
fn signals_add_and_remove_workers() {
    let daemon = Rgun::fake().start_ready();
    // One after the other, because equal pending signals are merged (signal(7)).
    for (signal, workers) in [(Signal::SIGTTIN, 2), (Signal::SIGTTIN, 3), (Signal::SIGTTOU, 2)] {
        daemon.signal(signal);
        wait_until("the number of workers changes", || (daemon.descendants().len() == workers).then_some(()));
    }
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn workers_are_added_while_requests_wait() {
    let rgun = with_file(Rgun::fake().without_worker_count(), "[workers]\ncount = { min = 1, max = 3 }\n");
    let daemon = rgun.start_ready();
    assert_eq!(daemon.descendants().len(), 1);
    let mut clients: Vec<_> = (0..8)
        .map(|_| {
            let mut client = daemon.connect();
            client.send_get("/slow/1500");
            client
        })
        .collect();
    wait_until("a second worker starts", || (daemon.descendants().len() >= 2).then_some(()));
    for client in &mut clients {
        assert_eq!(client.response().text(), "slow");
    }
    daemon.log.wait_for("requests waited for");
}

#[test]
fn memory_pressure_ends_idle_workers() {
    let rgun = with_file(Rgun::fake().without_worker_count(), "[workers]\ncount = { min = 1, max = 3 }\n");
    let fifo = rgun.scratch().join("pressure");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let path = fifo.to_str().expect("an ASCII path").to_owned();
    let daemon = rgun.variable("MEMORY_PRESSURE_WATCH", &path).start_ready();
    let mut clients: Vec<_> = (0..8).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        client.send_get("/slow/1500");
    }
    daemon.log.wait_for("requests waited for");
    for client in &mut clients {
        assert_eq!(client.response().text(), "slow");
    }
    wait_until("all workers are booted", || (daemon.descendants().len() > 1).then_some(()));
    std::fs::write(&fifo, "x").unwrap();
    daemon.log.wait_for("memory is short: idle workers");
    daemon.log.wait_for("trims its memory");
    daemon.log.wait_for("now 1: memory is short");
    wait_until("one worker is left", || (daemon.descendants().len() == 1).then_some(()));
    std::fs::write(&fifo, "x").unwrap();
    daemon.log.wait_for("memory has not been short for 10s");
    assert_eq!(daemon.log.count("memory is short: idle workers"), 1, "one entry for the episode");
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn trigger_for_a_fifo_is_no_memory_pressure() {
    let rgun = Rgun::fake();
    let fifo = rgun.scratch().join("pressure");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let path = fifo.to_str().expect("an ASCII path").to_owned();
    // "some" in base64.
    let rgun = rgun.variable("MEMORY_PRESSURE_WATCH", &path).variable("MEMORY_PRESSURE_WRITE", "c29tZQ==");
    let daemon = rgun.start_ready();
    assert_eq!(daemon.get("/hello").status, 200);
    assert_eq!(daemon.log.count("memory is short"), 0);
    std::fs::write(&fifo, "x").unwrap();
    daemon.log.wait_for("memory is short");
}

#[test]
fn unwatched_memory_pressure_of_a_service_is_logged() {
    let is_measured = Path::new("/proc/pressure/memory").exists();
    let absent = if is_measured { ": No such file or directory" } else { "may need psi=1" };
    for (watch, reason) in [("/dev/null", "MemoryPressureWatch= of the unit"), ("/nonexistent", absent)] {
        let rgun = Rgun::fake();
        let systemd = NotifySocket::at(rgun.scratch());
        let rgun = rgun.variable("NOTIFY_SOCKET", &systemd.name).variable("MEMORY_PRESSURE_WATCH", watch);
        let daemon = rgun.start_ready();
        let line = daemon.log.wait_for("memory pressure is not watched");
        assert!(line.contains("INFO") && line.contains(reason), "{line}");
    }
    let daemon = Rgun::fake().start_ready();
    assert_eq!(daemon.log.count("memory pressure is not watched"), 0, "a daemon outside systemd");
}

#[test]
fn idle_workers_exit_and_a_request_restarts_them() {
    let daemon = Rgun::fake().set("workers.idle_exit", "1s").start_ready();
    wait_until("all workers exit", || daemon.descendants().is_empty().then_some(()));
    daemon.log.wait_for("the next request starts them again");
    assert_eq!(daemon.get("/hello").status, 200, "the request waits for a worker");
    assert_eq!(daemon.descendants().len(), 1);
}

// Preload and hooks.

const PRELOADED: &str = "
import os
imported_by = os.getpid()
def application(environ, start_response):
    start_response('200 OK', [])
    return [f'{imported_by} {os.getpid()} {os.getppid()}'.encode()]
";

#[test]
fn warning_of_the_zygote_has_no_worker_number() {
    let source = format!("import socket\nkept = socket.socketpair()\n{PRELOADED}");
    let daemon = Rgun::python(&source).flags(["--preload"]).start();
    let warning = daemon.log.wait_for("the zygote: ");
    assert!(warning.contains("AF_UNIX"), "{warning}");
    assert!(!warning.contains("rgun.worker=") && warning.contains("rgun.pid="), "{warning}");
}

#[test]
fn preloaded_workers_are_children_of_the_daemon() {
    let daemon = Rgun::python(PRELOADED).flags(["--preload", "--workers", "2"]).start();
    daemon.log.wait_for_count(3, "is ready after");
    let body = daemon.get("/").text();
    let pids: Vec<u32> = body.split(' ').map(|pid| pid.parse().expect("a pid")).collect();
    assert_ne!(pids[0], pids[1], "imported in the zygote");
    assert_eq!(pids[2], daemon.pid(), "a child of the daemon");
    assert_eq!(daemon.descendants().len(), 3, "a zygote and two workers");

    let pid = Pid::from_raw(i32::try_from(pids[1]).expect("a pid"));
    kill(pid, Signal::SIGKILL).expect("it runs");
    wait_until("a successor is forked", || {
        let left = daemon.descendants();
        (left.len() == 3 && !left.contains(&pids[1])).then_some(())
    });
    assert!(daemon.get("/").text().starts_with(&format!("{} ", pids[0])), "from the same zygote");
}

#[test]
fn preloaded_modules_are_shared_and_reloaded() {
    const APP: &str = "
import os
import shared
imported_by = os.getpid()
def application(environ, start_response):
    start_response('200 OK', [])
    return [f'{shared.version} {shared.imported_by} {imported_by} {os.getpid()}'.encode()]
";
    const SHARED: &str = "import os\nversion = 1\nimported_by = os.getpid()\n";
    let rgun = Rgun::python(APP).flags(["--workers", "2"]).set("workers.preload", "email,shared");
    rgun.scratch().write("shared.py", SHARED);
    let daemon = rgun.start();
    daemon.log.wait_for("worker 1 is ready after");
    let zygotes: HashSet<String> = (0..8)
        .map(|_| {
            let body = daemon.get("/").text();
            let [version, zygote, importer, pid] = body.split(' ').collect::<Vec<_>>()[..] else {
                panic!("{body}");
            };
            assert_eq!((version, importer), ("1", pid), "the worker imports the application: {body}");
            assert_ne!(zygote, pid);
            zygote.to_owned()
        })
        .collect();
    assert_eq!(zygotes.len(), 1, "{zygotes:?}");

    // Of another length: Python's cache of bytecode tells versions of a second apart by it.
    daemon.scratch().write("shared.py", &SHARED.replace("= 1", "= 22"));
    daemon.signal(Signal::SIGHUP);
    daemon.log.wait_for("reloaded: generation 2 serves");
    assert!(daemon.get("/").text().starts_with("22 "));
}

#[test]
fn zygote_of_modules_imports_no_application_for_a_hook() {
    const APP: &str = "
import os
import sys
imported_by = os.getpid()
def child_exit(server, worker):
    print('child_exit of', worker.age, file=sys.stderr, flush=True)
def application(environ, start_response):
    start_response('200 OK', [])
    return [f'{imported_by} {os.getpid()}'.encode()]
";
    let rgun = Rgun::python(APP).flags(["--workers", "2"]).set("workers.preload", "email");
    let daemon = with_file(rgun, "[hooks]\nchild_exit = \"app:child_exit\"\n").start();
    daemon.log.wait_for_count(3, "is ready after");
    // Workers that boot after the first call of the hook would be copies of a zygote that made it.
    for n_killed in 1..=3 {
        let body = daemon.get("/").text();
        let (importer, pid) = body.split_once(' ').expect("two ids");
        assert_eq!(importer, pid, "the worker imports the application itself");
        kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL).unwrap();
        daemon.log.wait_for_count(n_killed, "child_exit of");
        daemon.log.wait_for_count(3 + n_killed, "is ready after");
    }
}

#[test]
fn preload_of_a_missing_module_is_a_configuration_error() {
    let serve = Rgun::python(PRELOADED).flags(["--bind", "127.0.0.1:0"]);
    for rgun in [serve, Rgun::python(PRELOADED).check_as_self()] {
        let (status, stderr, _) = rgun.set("workers.preload", "email,sharde").run();
        assert_eq!(status, 78, "{stderr}");
        assert!(stderr.contains("workers.preload: there is no module sharde"), "{stderr}");
    }
}

#[test]
fn reload_with_preload_loads_new_code_in_a_new_zygote() {
    let daemon = Rgun::python(PRELOADED).flags(["--preload", "--workers", "2"]).start();
    daemon.log.wait_for_count(3, "is ready after");
    let first = daemon.get("/").text();
    daemon.scratch().write("app.py", &PRELOADED.replace("{imported_by}", "new {imported_by}"));
    daemon.signal(Signal::SIGHUP);
    daemon.log.wait_for("reloaded: generation 2 serves");
    let second = daemon.get("/").text();
    assert!(second.starts_with("new "), "{first} then {second}");
    wait_until("the old processes exit", || (daemon.descendants().len() == 3).then_some(()));
}

#[test]
fn drained_worker_is_promoted_to_zygote() {
    let source = "
import os
served = 0
def application(environ, start_response):
    global served
    served += 1
    start_response('200 OK', [])
    return [f'{served} {os.getppid()}'.encode()]
";
    let daemon =
        Rgun::python(source).flags(["--preload", "--workers", "2"]).set("workers.refork", "20").start();
    daemon.log.wait_for_count(3, "is ready after");
    let mut client = daemon.connect();
    let mut in_a_row = 0;
    wait_until("all workers are forked from a worker that had served twenty requests", || {
        let body = client.get("/").text();
        let (served, parent) = body.split_once(' ').expect("two numbers");
        assert_eq!(parent.parse::<u32>().expect("a pid"), daemon.pid());
        let is_reforked = served.parse::<u32>().expect("a number") > 20;
        in_a_row = if is_reforked { in_a_row + 1 } else { 0 };
        let is_settled =
            daemon.log.count("the zygote is ready after") == 2 && daemon.descendants().len() == 3;
        (is_settled && in_a_row >= 20).then_some(())
    });
    assert_eq!(daemon.log.count("ERROR"), 0, "{}", daemon.log.text());
}

#[test]
fn gunicorns_hooks_are_called_in_their_order() {
    let source = "
import os
def note(*words):
    with open('notes', 'a') as notes:
        print(*words, file=notes)
def post_fork(server, worker):
    note('post_fork', worker.pid == os.getpid())
def post_worker_init(worker):
    note('post_worker_init', worker.age)
def worker_exit(server, worker):
    note('worker_exit', worker.pid == os.getpid())
def child_exit(server, worker):
    note('child_exit', worker.age)
def application(environ, start_response):
    start_response('200 OK', [])
    return [b'ok']
";
    let hooks = "[hooks]\npost_fork = \"app:post_fork\"\npost_worker_init = \"app:post_worker_init\"\n\
                 worker_exit = \"app:worker_exit\"\nchild_exit = \"app:child_exit\"\n";
    let mut daemon = with_file(Rgun::python(source), hooks).start_ready();
    assert_eq!(daemon.get("/").text(), "ok");
    daemon.signal(Signal::SIGHUP);
    daemon.log.wait_for("reloaded: generation 2 serves");
    let notes = || std::fs::read_to_string(daemon.scratch().join("notes")).unwrap_or_default();
    wait_until("child_exit is called", || notes().contains("child_exit 1\n").then_some(()));
    let so_far = notes();
    let lines: Vec<&str> = so_far.lines().collect();
    assert_eq!(lines[..2], ["post_fork True", "post_worker_init 1"], "{lines:?}");
    assert!(lines.contains(&"post_worker_init 2") && lines.contains(&"worker_exit True"), "{lines:?}");
    daemon.stop();
}

// Path rules.

#[test]
fn path_rule_overrides_timeout_and_concurrency() {
    let toml = "[timeouts]\nrequest = \"300ms\"\n[[timeouts.path]]\nmatch = \"/slow/*\"\nrequest = \"10s\"\n\
                concurrency = 1\n";
    let daemon = with_file(Rgun::fake(), toml).flags(["--workers", "3"]).start();
    daemon.log.wait_for_count(3, "is ready after");
    let mut slow: Vec<_> = (0..3)
        .map(|_| {
            let mut client = daemon.connect();
            client.send_get("/slow/600");
            client
        })
        .collect();
    let begun = std::time::Instant::now();
    daemon.get("/hang").assert_error(504);
    assert_eq!(daemon.get("/hello").status, 200, "the path rule leaves two workers");
    for client in &mut slow {
        assert_eq!(client.response().text(), "slow");
    }
    assert!(begun.elapsed() >= Duration::from_millis(1800), "the slow requests run one at a time");
}
