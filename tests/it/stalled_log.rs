//! An unread log delays nothing: requests are served, workers are replaced and stop signals are
//! obeyed. Lost entries are counted.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::systemd::{Journald, may_replace_journald};
use crate::support::{Daemon, Rgun, report_skipped, wait_until};

/// More entries, a few hundred bytes each, than a pipe and the daemon's queues hold.
const FLOOD: usize = 20_000;

/// Maximum time of an exit: one second for the last lines. The rest is slack for a busy machine.
const EXIT: Duration = Duration::from_secs(10);

/// Sends requests that all have an entry in the access log.
fn flood(daemon: &Daemon) {
    let mut client = daemon.connect();
    for _ in 0..FLOOD {
        assert_eq!(client.get("/hello").status, 200);
    }
}

/// Starts a daemon whose access log is full and not read.
fn start_with_full_log() -> Daemon {
    let daemon = Rgun::fake().flags(["--access-logfile", "/dev/stderr"]).start_ready();
    daemon.log.pause_reading();
    flood(&daemon);
    daemon
}

fn assert_killed_worker_is_replaced(daemon: &Daemon) {
    let victim = daemon.worker();
    kill(Pid::from_raw(i32::try_from(victim).expect("a pid")), Signal::SIGKILL).expect("it runs");
    wait_until("another worker answers", || {
        let response = daemon.get("/pid");
        (response.status == 200 && response.value("pid") != victim.to_string()).then_some(())
    });
}

fn assert_exits(mut daemon: Daemon, signal: Signal) {
    let begun = Instant::now();
    daemon.signal(signal);
    let status = daemon.wait_exit();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(begun.elapsed() < EXIT, "{:?}", begun.elapsed());
}

#[test]
fn workers_are_replaced_while_stderr_is_unread() {
    let mut daemon = start_with_full_log();
    assert_killed_worker_is_replaced(&daemon);
    daemon.log.resume_reading();
    daemon.log.wait_for("was killed by SIGKILL");
    daemon.stop();
}

#[test]
fn sigterm_stops_a_daemon_with_unread_stderr() {
    assert_exits(start_with_full_log(), Signal::SIGTERM);
}

#[test]
fn sigquit_stops_a_daemon_with_unread_stderr() {
    assert_exits(start_with_full_log(), Signal::SIGQUIT);
}

#[test]
fn lost_lines_are_counted_once_stderr_is_read() {
    let daemon = start_with_full_log();
    daemon.log.resume_reading();
    daemon.log.wait_for("lines are missing");
    let text = daemon.log.text();
    assert!(text.matches("GET /hello 200").count() < FLOOD, "nothing was lost");
}

#[test]
fn printing_worker_runs_while_stderr_is_unread() {
    let source = "import sys\n\
        def application(environ, start_response):\n\
        \x20   for _ in range(100):\n\
        \x20       sys.stderr.write('x' * 99999 + '\\n')\n\
        \x20   start_response('200 OK', [])\n\
        \x20   return [b'printed']\n";
    let mut daemon = Rgun::python(source).start_ready();
    daemon.log.pause_reading();
    // 10 MB each: more than the daemon queues.
    for _ in 0..3 {
        assert_eq!(daemon.get("/").text(), "printed");
    }
    daemon.log.resume_reading();
    daemon.log.wait_for("lines are missing");
    daemon.stop();
}

#[test]
fn unread_journald_socket_delays_nothing() {
    if !may_replace_journald() {
        return report_skipped("a journald that never reads: needs root to replace journald");
    }
    let rgun = Rgun::fake().flags(["--access-logfile", "/dev/stderr"]);
    let journald = Journald::at(rgun.scratch());
    let daemon = rgun.journald(&journald.directory).start();
    flood(&daemon);
    assert_killed_worker_is_replaced(&daemon);
    assert_exits(daemon, Signal::SIGTERM);
}

#[test]
fn lost_entries_are_counted_in_the_journal() {
    if !may_replace_journald() {
        return report_skipped("a journald that reads late: needs root to replace journald");
    }
    let rgun = Rgun::fake().flags(["--access-logfile", "/dev/stderr"]);
    let journald = Journald::at(rgun.scratch());
    let daemon = rgun.journald(&journald.directory).start();
    flood(&daemon);
    journald.wait(&[b"PRIORITY=4\n", b"RGUN_DROPPED=", b"lines are missing"]);
    drop(daemon);
}
