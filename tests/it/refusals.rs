//! Wrong configuration, and applications that do not load: the message names key, value and remedy,
//! and systemd does not restart the service after this exit status.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::binaries::old_python;
use crate::support::{Daemon, Rgun, report_skipped, systemd};

const USAGE: i32 = 64;
const SYSTEM: i32 = 71;
const CONFIG: i32 = 78;

/// Runs rgun until it exits. Asserts the exit status, and that the log has all of `facts`. Returns
/// the log.
fn assert_refused(rgun: Rgun, status: i32, facts: &[&str]) -> String {
    let (code, log, printed) = rgun.run();
    assert_eq!(code, status, "{log}{printed}");
    for fact in facts {
        assert!(log.contains(fact), "{fact:?} is missing:\n{log}");
    }
    assert!(!log.contains("panicked"), "{log}");
    log
}

/// Configures rgun with a file instead of flags.
fn with_file(text: &str) -> Rgun {
    let rgun = Rgun::fake().without_flags();
    let path = rgun.scratch().write("rgun.toml", text);
    rgun.flags(["--config", path.to_str().expect("a path of ASCII")])
}

const APP: &str = "[app]\ntarget = \"fake:app\"\n";

#[test]
fn missing_interpreter_is_refused() {
    assert_refused(
        Rgun::fake().flags(["--python", "/nonexistent/bin/python"]),
        USAGE,
        &["--python", "/nonexistent/bin/python"],
    );
    assert_refused(
        with_file(&format!("{APP}python = \"/nonexistent/bin/python\"\n")),
        CONFIG,
        &["rgun.toml", "app.python", "/nonexistent/bin/python"],
    );
}

#[test]
fn interpreter_that_cannot_run_is_refused() {
    let rgun = Rgun::fake();
    let path = rgun.scratch().write("python", "no program");
    assert_refused(
        rgun.flags(["--python", path.to_str().expect("a path of ASCII")]),
        USAGE,
        &["--python", path.to_str().expect("a path of ASCII")],
    );
    let rgun = Rgun::fake();
    let path = rgun.scratch().write("python", "no program either");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    assert_refused(
        rgun.flags(["--python", path.to_str().expect("a path of ASCII")]),
        CONFIG,
        &["exited with status", path.to_str().expect("a path of ASCII")],
    );
}

#[test]
fn environment_that_is_too_long_is_refused() {
    // MAX_ARG_STRLEN: the maximum length of a variable is 128 KiB (execve(2)).
    let variable = format!("[app.env]\nBIG = \"{}\"\n", "x".repeat(128 * 1024));
    assert_refused(
        with_file(&format!("{APP}{variable}")),
        CONFIG,
        &["shorten app.env, or Environment= of the unit", "Argument list too long"],
    );
}

#[test]
fn interpreter_other_than_python_is_refused() {
    assert_refused(
        Rgun::fake().flags(["--python", "/bin/true"]),
        CONFIG,
        &["exited with status 0", "while booting", "app.python = /bin/true"],
    );
}

#[test]
fn interpreter_that_is_too_old_is_refused() {
    let Some(old) = old_python() else {
        return report_skipped("a Python that is too old: there is none on this machine");
    };
    assert_refused(
        Rgun::python("application = print\n").flags(["--python", old.to_str().unwrap()]),
        CONFIG,
        &["it is too old", "CPython 3.9 or later", "app.python"],
    );
}

#[test]
fn missing_module_is_refused() {
    let log = assert_refused(Rgun::python("").target("missing.wsgi"), CONFIG, &["app.target", "missing"]);
    assert!(!log.contains("Traceback"), "a mistake in the configuration has no traceback: {log}");
}

#[test]
fn missing_attribute_is_refused() {
    let log = assert_refused(Rgun::python("app = print\n"), CONFIG, &["app.target", "application"]);
    assert!(!log.contains("Traceback"), "{log}");
    assert!(log.contains("app:app"), "the message names the callable that exists: {log}");
}

#[test]
fn attribute_that_is_not_callable_is_refused() {
    assert_refused(
        Rgun::python("application = 42\n"),
        CONFIG,
        &["app.target", "app:application", "cannot be called"],
    );
}

#[test]
fn import_that_raises_is_logged_with_one_traceback() {
    let log = assert_refused(
        Rgun::python("import json\n\njson.loads('{')\n").flags(["--workers", "4"]),
        CONFIG,
        &["app.py\", line 3", "JSONDecodeError"],
    );
    assert_eq!(log.matches("Traceback (most recent call last)").count(), 1, "{log}");
}

#[test]
fn import_that_exits_is_logged() {
    assert_refused(
        Rgun::python("import os\nos._exit(9)\n"),
        CONFIG,
        &["exited with status 9", "while booting"],
    );
    assert_refused(Rgun::python("raise SystemExit('not today')\n"), CONFIG, &["not today"]);
}

#[test]
fn import_that_never_ends_exceeds_timeouts_boot() {
    let rgun = Rgun::python("import time\nwhile True: time.sleep(1)\n").set("timeouts.boot", "700ms");
    assert_refused(rgun, CONFIG, &["timeouts.boot"]);
}

#[test]
fn unknown_key_suggests_the_nearest() {
    assert_refused(
        with_file(&format!("{APP}[workers]\ncuont = 3\n[timeouts]\nrequests = \"3s\"\n")),
        CONFIG,
        &[
            "workers.cuont",
            "did you mean \"count\"",
            "timeouts.requests",
            "did you mean \"request\"",
            "rgun.toml",
        ],
    );
    assert_refused(
        Rgun::fake().set("workers.cuont", "3"),
        CONFIG,
        &["RGUN_WORKERS_CUONT", "RGUN_WORKERS_COUNT"],
    );
    assert_refused(Rgun::fake().flags(["--worker", "3"]), USAGE, &["--worker", "--workers"]);
}

#[test]
fn unknown_unit_lists_the_known_ones() {
    let text = format!("{APP}[timeouts]\nrequest = \"30parsecs\"\n[limits]\nbody = \"1GigaByte\"\n");
    assert_refused(
        with_file(&text),
        CONFIG,
        &["timeouts.request", "30parsecs", "ms", "limits.body", "1GigaByte", "MiB"],
    );
    assert_refused(Rgun::fake().flags(["--timeout", "soon"]), USAGE, &["--timeout", "soon"]);
}

#[test]
fn negative_count_is_refused() {
    assert_refused(with_file(&format!("{APP}[workers]\ncount = -2\n")), CONFIG, &["workers.count", "-2"]);
    assert_refused(Rgun::fake().flags(["--workers", "-2"]), USAGE, &["--workers", "-2"]);
    assert_refused(Rgun::fake().flags(["--threads", "0"]), USAGE, &["--threads", "0"]);
}

#[test]
fn all_errors_are_reported_at_once() {
    let text = format!("{APP}interface = \"cgi\"\n[workers]\nthreads = 0\n[log]\nlevel = \"loud\"\n");
    assert_refused(with_file(&text), CONFIG, &["app.interface", "workers.threads", "log.level"]);
}

#[test]
fn missing_or_malformed_file_is_refused() {
    assert_refused(
        Rgun::fake().without_flags().flags(["--config", "/nonexistent/rgun.toml"]),
        CONFIG,
        &["/nonexistent/rgun.toml"],
    );
    assert_refused(with_file("[app\n"), CONFIG, &["rgun.toml", "1"]);
}

#[test]
fn address_in_use_is_refused() {
    let (_socket, address) = systemd::tcp("127.0.0.1:0");
    let crate::support::client::Address::Tcp(taken) = &address else { panic!("TCP") };
    let bind = taken.to_string();
    assert_refused(
        Rgun::fake().flags(["--bind", bind.as_str()]),
        SYSTEM,
        &["listen.bind", &bind, "in use", "ss -ltnp", "--bind"],
    );

    let other: Daemon = Rgun::fake().start_ready();
    let bind = format!("unix:{}", other.scratch().join("socket").display());
    let expected = ["listen.bind", &bind, "in use", "ss -lxp"];
    assert_refused(Rgun::fake().flags(["--bind", bind.as_str()]), SYSTEM, &expected);
    assert_eq!(other.get("/hello").status, 200, "the first daemon keeps its socket");
}

#[test]
fn address_of_another_machine_is_refused() {
    // A network for documentation (RFC 5737).
    let expected = ["listen.bind", "192.0.2.1:8000", "ip address", "FreeBind=yes"];
    assert_refused(Rgun::fake().flags(["--bind", "192.0.2.1:8000"]), SYSTEM, &expected);
}

#[test]
fn bind_over_a_regular_file_is_refused() {
    let rgun = Rgun::fake();
    let path = rgun.scratch().write("precious", "content");
    let bind = format!("unix:{}", path.display());
    assert_refused(rgun.flags(["--bind", bind.as_str()]), CONFIG, &["listen.bind", &bind, "not a socket"]);
}

#[test]
fn missing_or_unreadable_directory_is_refused() {
    assert_refused(Rgun::fake().flags(["--chdir", "/nonexistent"]), USAGE, &["--chdir", "/nonexistent"]);
    assert_refused(
        with_file(&format!("{APP}directory = \"/etc/passwd\"\n")),
        CONFIG,
        &["app.directory", "/etc/passwd"],
    );
    let rgun = Rgun::fake().obeying_modes();
    let locked = rgun.scratch().join("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o000)).unwrap();
    let path = locked.display().to_string();
    assert_refused(rgun.flags(["--chdir", path.as_str()]), USAGE, &["--chdir", &path]);
}

#[test]
fn clients_waiting_for_a_failed_start_get_503() {
    let (rgun, gate) = Rgun::fake().gated();
    let mut daemon = rgun.start();
    let mut client = daemon.connect();
    client.send_get("/hello");
    gate.open("failed");
    let response = client.response();
    response.assert_error(503);
    assert!(response.text().contains("the application is not available"), "{}", response.text());
    let line = daemon.log.wait_for(response.field("x-request-id"));
    assert!(line.contains("the fake application does not load"), "{line}");
    assert_eq!(daemon.wait_exit().code(), Some(CONFIG));
}
