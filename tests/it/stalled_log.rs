//! A log that nobody reads holds up nobody: requests are answered, workers replaced, orders to stop obeyed. What was
//! lost is counted.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::systemd::{Journald, may_replace_journald};
use crate::support::{Daemon, Rgun, report_skipped, wait_until};

/// More than a pipe and the daemon's queues hold together, at some hundred bytes an entry.
const FLOOD: usize = 20_000;

/// One second for the last lines, and what the rest of an exit takes on a busy machine.
const EXIT: Duration = Duration::from_secs(10);

/// Requests that are all noted in the access log.
fn flood(daemon: &Daemon) {
    let mut client = daemon.connect();
    for _ in 0..FLOOD {
        assert_eq!(client.get("/hello").status, 200);
    }
}

/// An access log that is full, of which nothing is read.
fn stalled() -> Daemon {
    let daemon = Rgun::fake().flags(["--access-logfile", "-"]).start_ready();
    daemon.log.pause_reading();
    flood(&daemon);
    daemon
}

fn kills_a_worker_and_gets_another(daemon: &Daemon) {
    let victim = daemon.worker();
    kill(Pid::from_raw(i32::try_from(victim).expect("a pid")), Signal::SIGKILL).expect("it runs");
    wait_until("another worker answers", || {
        let response = daemon.get("/pid");
        (response.status == 200 && response.value("pid") != victim.to_string()).then_some(())
    });
}

fn ends(mut daemon: Daemon, signal: Signal) {
    let begun = Instant::now();
    daemon.signal(signal);
    let status = daemon.wait_exit();
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(begun.elapsed() < EXIT, "{:?}", begun.elapsed());
}

#[test]
fn workers_are_replaced_while_stderr_is_unread() {
    let mut daemon = stalled();
    kills_a_worker_and_gets_another(&daemon);
    daemon.log.resume_reading();
    daemon.log.wait_for("was killed by SIGKILL");
    daemon.stop();
}

#[test]
fn sigterm_stops_a_daemon_with_unread_stderr() {
    ends(stalled(), Signal::SIGTERM);
}

#[test]
fn sigquit_stops_a_daemon_with_unread_stderr() {
    ends(stalled(), Signal::SIGQUIT);
}

#[test]
fn lost_lines_are_counted_once_stderr_is_read() {
    let daemon = stalled();
    daemon.log.resume_reading();
    daemon.log.wait_for("lines are missing");
    let text = daemon.log.text();
    assert!(text.matches("GET /hello 200").count() < FLOOD, "nothing was lost");
}

#[test]
fn a_printing_worker_runs_while_stderr_is_unread() {
    let source = "import sys\n\
        def application(environ, start_response):\n\
        \x20   for _ in range(100):\n\
        \x20       sys.stderr.write('x' * 99999 + '\\n')\n\
        \x20   start_response('200 OK', [])\n\
        \x20   return [b'printed']\n";
    let mut daemon = Rgun::python(source).start_ready();
    daemon.log.pause_reading();
    // 10 MB each: more than what the daemon keeps.
    for _ in 0..3 {
        assert_eq!(daemon.get("/").text(), "printed");
    }
    daemon.log.resume_reading();
    daemon.log.wait_for("lines are missing");
    daemon.stop();
}

#[test]
fn an_unread_journald_socket_delays_nothing() {
    if !may_replace_journald() {
        return report_skipped("a journald that never reads: takes root, to put one in its place");
    }
    let rgun = Rgun::fake().flags(["--access-logfile", "-"]);
    let journald = Journald::at(rgun.scratch());
    let daemon = rgun.journald(&journald.directory).start();
    flood(&daemon);
    kills_a_worker_and_gets_another(&daemon);
    ends(daemon, Signal::SIGTERM);
}

#[test]
fn lost_entries_are_counted_in_the_journal() {
    if !may_replace_journald() {
        return report_skipped("a journald that reads late: takes root, to put one in its place");
    }
    let rgun = Rgun::fake().flags(["--access-logfile", "-"]);
    let journald = Journald::at(rgun.scratch());
    let daemon = rgun.journald(&journald.directory).start();
    flood(&daemon);
    journald.wait(&[b"PRIORITY=4\n", b"RGUN_DROPPED=", b"lines are missing"]);
    drop(daemon);
}
