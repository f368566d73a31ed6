//! Output of workers in the log: lines stay whole when several workers print at the same time.

use std::collections::BTreeMap;
use std::thread;

use crate::support::systemd::{Journald, may_replace_journald};
use crate::support::{Daemon, Rgun, report_skipped};

/// Prints by path: `line/<character>/<length>`, `die`, `child`, `record`, `error`, `traceback`.
const PRINTER: &str = r#"import logging, os, subprocess, sys, traceback
def application(environ, start_response):
    what, *rest = environ['PATH_INFO'].strip('/').split('/')
    if what == 'line':
        character, length = rest
        print(character * int(length), file=sys.stderr)
    elif what == 'die':
        os.write(2, b'its last words')
        os._exit(3)
    elif what == 'child':
        subprocess.run(['/bin/sh', '-c', 'echo a child speaks >&2'], check=True)
    elif what == 'record':
        record = b'{"rgun":"record","priority":3,"message":"failed\\nTraceback","logger":"shop","request_id":"ab-1",' \
            b'"line":7,"extra":{"ORDER":"1","MESSAGE_ID":"forged","RGUN_WORKER":"9"}}'
        marker = sys.modules['rgun_worker.log_records'].marker.encode()
        os.write(2, b'partial' + marker + record + b'\n' + marker + b'@ab-1\x1ea line of a request\n')
        os.write(2, marker + record[:40] + b'torn\n' + record[40:] + b'\n')
    elif what == 'json':
        marker = sys.modules['rgun_worker.log_records'].marker.encode()
        os.write(2, marker + b'{"rgun":"record","priority":3,"message":"{\\"own\\":1}"}\n')
    elif what == 'out':
        print('on stdout', flush=True)
    elif what == 'error':
        print('<3>it went wrong', file=sys.stderr, flush=True)
    elif what == 'traceback':
        try:
            raise KeyError(rest[0])
        except KeyError:
            traceback.print_exc()
    start_response('200 OK', [])
    return [b'printed']
"#;

/// Length of the lines in bytes: journald's default `LineMax=`.
const LINE_BYTES: usize = 48 << 10;

const N_LINES: usize = 20;

/// Lets four workers print long lines at the same time, and asserts that each line is whole.
fn assert_long_lines_stay_whole(daemon: &Daemon) {
    let characters = ["a", "b", "c", "d"];
    thread::scope(|scope| {
        for character in characters {
            scope.spawn(move || {
                for _ in 0..N_LINES {
                    assert_eq!(daemon.get(&format!("/line/{character}/{LINE_BYTES}")).status, 200);
                }
            });
        }
    });
    let whole: Vec<String> = characters.map(|character| character.repeat(LINE_BYTES)).into();
    for line in &whole {
        daemon.log.wait_for_count(N_LINES, line);
    }
    let text = daemon.log.text();
    let mut counts = BTreeMap::new();
    for line in text.lines().filter(|line| line.len() > 1000) {
        assert!(
            whole.iter().any(|whole| whole == line),
            "torn: {}...{}",
            &line[..20],
            &line[line.len() - 20..]
        );
        *counts.entry(&line[..1]).or_insert(0) += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [N_LINES; 4]);
}

#[test]
fn long_lines_of_several_workers_at_once_stay_whole() {
    let daemon = Rgun::python(PRINTER).flags(["--workers", "4"]).start();
    daemon.log.wait_for_count(4, "is ready after");
    assert_long_lines_stay_whole(&daemon);
}

#[test]
fn long_lines_of_several_forked_workers_at_once_stay_whole() {
    let daemon = Rgun::python(PRINTER).flags(["--workers", "4", "--preload"]).start();
    daemon.log.wait_for_count(5, "is ready after");
    assert_long_lines_stay_whole(&daemon);
}

#[test]
fn last_output_of_a_dying_worker_is_logged() {
    let daemon = Rgun::python(PRINTER).start_ready();
    daemon.get("/die").assert_error(502);
    assert_eq!(daemon.log.wait_for("its last words"), "its last words");
}

#[test]
fn output_at_exit_is_in_the_log() {
    let source = format!(
        "import atexit\natexit.register(lambda: print('goodbye', end='', file=sys.stderr, flush=True))\n{PRINTER}"
    );
    let mut daemon = Rgun::python(&source).start_ready();
    daemon.stop();
    daemon.log.wait_for_end();
    daemon.log.wait_for_count(1, "goodbye");
    assert_eq!(daemon.log.count("goodbye"), 1);
}

#[test]
fn output_of_the_applications_child_is_in_the_log() {
    let daemon = Rgun::python(PRINTER).start_ready();
    assert_eq!(daemon.get("/child").status, 200);
    daemon.log.wait_for("a child speaks");
}

#[test]
fn worker_line_is_a_journal_entry_with_its_fields() {
    if !may_replace_journald() {
        return report_skipped("workers' lines in the journal: needs root to replace journald");
    }
    let rgun = Rgun::python(PRINTER);
    let journald = Journald::at(rgun.scratch());
    let daemon = rgun.journald(&journald.directory).start();
    assert_eq!(daemon.get(&format!("/line/x/{LINE_BYTES}")).status, 200);
    let message = format!("MESSAGE={}\n", "x".repeat(LINE_BYTES));
    let names =
        [&b"RGUN_WORKER=0\n"[..], b"RGUN_STREAM=stderr\n", b"PRIORITY=6\n", b"SYSLOG_IDENTIFIER=rgun\n"];
    journald.wait(&[&names[..], &[message.as_bytes(), b"RGUN_PID="]].concat());
    assert_eq!(daemon.get("/error").status, 200);
    journald.wait(&[b"PRIORITY=3\n", b"MESSAGE=it went wrong\n"]);
    drop(daemon);
}

#[test]
fn record_in_the_journal_has_only_fields_of_its_own() {
    if !may_replace_journald() {
        return report_skipped("records in the journal: needs root to replace journald");
    }
    let rgun = Rgun::python(PRINTER);
    let journald = Journald::at(rgun.scratch());
    let daemon = rgun.journald(&journald.directory).start();
    assert_eq!(daemon.get("/record").status, 200);
    journald.wait(&[b"MESSAGE=partial\n", b"PRIORITY=6\n"]);
    let record = journald.wait(&[
        b"MESSAGE\n\x10\0\0\0\0\0\0\0failed\nTraceback\n",
        b"PRIORITY=3\n",
        b"LOGGER=shop\n",
        b"CODE_LINE=7\n",
        b"RGUN_REQUEST_ID=ab-1\n",
        b"RGUN_WORKER=0\n",
        b"RGUN_GENERATION=1\n",
        b"ORDER=1\n",
    ]);
    for forged in [&b"MESSAGE_ID"[..], b"RGUN_WORKER=9"] {
        assert!(!record.windows(forged.len()).any(|part| part == forged), "{}", record.escape_ascii());
    }
    journald.wait(&[b"MESSAGE=a line of a request\n", b"RGUN_REQUEST_ID=ab-1\n"]);
    journald.wait(&[b"torn\n", b"PRIORITY=6\n"]);
    journald.wait(&[b"RGUN_WORKER\":\"9\"}}\n", b"RGUN_WORKER=0\n"]);
    drop(daemon);
}

#[test]
fn record_on_stderr_is_its_text_and_torn_records_are_lines() {
    let daemon = Rgun::python(PRINTER).start_ready();
    assert_eq!(daemon.get("/record").status, 200);
    for line in ["partial", "failed", "Traceback", "a line of a request"] {
        assert_eq!(daemon.log.wait_for(line), line);
    }
    daemon.log.wait_for("torn");
    daemon.log.wait_for("RGUN_WORKER\":\"9\"}}");
}

/// journald reads stderr, not the native socket: each line needs its priority.
#[test]
fn records_on_a_journal_stream_have_priorities() {
    if !may_replace_journald() {
        return report_skipped("records on a stream of the journal: needs root to replace /run");
    }
    for (format, lines) in [
        ("auto", ["<3>failed", "<3>Traceback"]),
        (
            "text",
            ["<3>failed", "<3>Traceback rgun.worker=0 rgun.request_id=ab-1 logger=shop code_line=7 ORDER=1"],
        ),
    ] {
        let rgun = Rgun::python(PRINTER).flags(["--log-format", format]);
        let without_socket = rgun.scratch().path().to_owned();
        let daemon = rgun.journald(&without_socket).start();
        assert_eq!(daemon.get("/record").status, 200);
        for line in lines {
            assert_eq!(daemon.log.wait_for(line), line);
        }
        assert_eq!(daemon.get("/json").status, 200);
        assert_eq!(daemon.log.wait_for("own"), "<3>{\"own\":1}");
    }
}

#[test]
fn stdout_has_no_priorities_if_only_stderr_is_the_journal() {
    if !may_replace_journald() {
        return report_skipped("stdout beside a stream of the journal: needs root to replace /run");
    }
    let rgun = Rgun::python(PRINTER).flags(["--log-format", "json", "--access-logfile", "-"]);
    let without_socket = rgun.scratch().path().to_owned();
    let mut daemon = rgun.journald(&without_socket).start();
    assert_eq!(daemon.get("/out").status, 200);
    assert!(daemon.log.wait_for("is ready").starts_with("<6>{"));
    daemon.stop();
    let stdout = daemon.stdout();
    assert_eq!(stdout.lines().count(), 2, "{stdout}");
    assert!(stdout.lines().all(|line| line.starts_with('{')), "{stdout}");
}

/// A last line that the traceback waits for does not come: it is logged all the same.
#[test]
fn printed_traceback_is_one_object_of_json() {
    let daemon = Rgun::python(PRINTER).flags(["--log-format", "json"]).start();
    assert_eq!(daemon.get("/traceback/first").status, 200);
    let line = daemon.log.wait_for("KeyError: 'first'");
    assert!(line.contains(r#""level":"error""#), "{line}");
    assert!(line.contains(r#""message":"Traceback (most recent call last):\n  File "#), "{line}");
    assert!(line.contains(r#""rgun.worker":0"#), "{line}");
    assert_eq!(daemon.log.count("Traceback"), 1);
}
