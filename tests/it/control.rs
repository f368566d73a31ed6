//! The control socket: the commands for a running daemon, against a real daemon, and Varlink by
//! hand.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::{DEADLINE, Daemon, Rgun, wait_until};

/// Configures fake workers and a control socket.
fn rgun() -> Rgun {
    let rgun = Rgun::fake();
    let runtime = rgun.scratch().path().display().to_string();
    rgun.variable("RUNTIME_DIRECTORY", &runtime)
}

/// Runs a command for the daemon until it exits.
fn run(daemon: &Daemon, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rgun"))
        .args(args)
        .env_clear()
        .env("RUNTIME_DIRECTORY", daemon.scratch().path())
        .output()
        .expect("rgun runs")
}

/// Runs a command that must succeed, and returns its output.
fn output(daemon: &Daemon, args: &[&str]) -> String {
    let output = run(daemon, args);
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("the output is UTF-8")
}

fn json(daemon: &Daemon, args: &[&str]) -> Value {
    serde_json::from_str(&output(daemon, args)).expect("the output is JSON")
}

/// Sends a call and returns all replies.
fn call(daemon: &Daemon, call: &Value) -> Vec<Value> {
    let mut client = connect(daemon, call);
    let mut replies: Vec<Value> = Vec::new();
    while replies.last().is_none_or(|reply| reply["continues"] == true) {
        replies.push(next_reply(&mut client));
    }
    replies
}

/// Connects to the control socket and sends a call.
fn connect(daemon: &Daemon, call: &Value) -> UnixStream {
    let mut client = UnixStream::connect(daemon.scratch().join("control")).expect("the daemon listens");
    client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    client.write_all(format!("{call}\0").as_bytes()).expect("the daemon reads");
    client
}

fn next_reply(client: &mut UnixStream) -> Value {
    let mut message = Vec::new();
    loop {
        let mut byte = [0];
        client.read_exact(&mut byte).expect("the daemon replies");
        match byte {
            [0] => return serde_json::from_slice(&message).expect("a reply is JSON"),
            [byte] => message.push(byte),
        }
    }
}

#[test]
fn status_and_workers_describe_a_running_daemon() {
    let daemon = rgun().flags(["--workers", "2"]).start();
    daemon.log.wait_for_count(2, "is ready after");
    assert_eq!(daemon.get("/pid").status, 200);
    let status = wait_until("the response is counted", || {
        let status = json(&daemon, &["status", "--json"]);
        (status["responses"] == 1).then_some(status)
    });
    assert_eq!(status["pid"], daemon.pid());
    assert_eq!((&status["workers_ready"], &status["workers_desired"]), (&json!(2), &json!(2)), "{status}");
    assert!(output(&daemon, &["status"]).contains("workers:     2 of 2 ready\n"));
    let workers = json(&daemon, &["workers", "--json"]);
    let workers = workers["workers"].as_array().expect("an array");
    let pids = daemon.descendants();
    for (number, worker) in workers.iter().enumerate() {
        assert_eq!((&worker["number"], &worker["state"]), (&json!(number), &json!("ready")), "{worker}");
        assert!(pids.iter().any(|pid| worker["pid"] == *pid), "{worker}: {pids:?}");
    }
    assert_eq!(output(&daemon, &["workers"]).lines().count(), 3);
}

#[test]
fn requests_lists_running_and_queued_requests() {
    let daemon = rgun().flags(["--workers", "1"]).over_tcp().start_ready();
    assert_eq!(output(&daemon, &["requests"]), "no request is queued or running\n");
    let mut running = daemon.connect();
    running.send_get("/hang?secret=1");
    let listed = |state: &str| {
        let reply = json(&daemon, &["requests", "--json"]);
        let requests = reply["requests"].as_array().expect("an array").clone();
        requests.into_iter().find(|request| request["state"] == state)
    };
    let request = wait_until("the request runs", || listed("running"));
    assert_eq!((&request["method"], &request["path"]), (&json!("GET"), &json!("/hang")), "{request}");
    assert_eq!((&request["worker"], &request["client"]), (&json!(0), &json!("127.0.0.1")), "{request}");
    let mut waiting = daemon.connect();
    waiting.send("GET /a%0Ab HTTP/1.1\r\nHost: a\r\nX-Request-ID: mine\r\n\r\n");
    let request = wait_until("the other waits", || listed("queued"));
    assert_eq!((&request["path"], &request["id"]), (&json!("/a%0Ab"), &json!("mine")), "{request}");
    let text = output(&daemon, &["requests"]);
    let states: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert_eq!(states, ["WORKER", "running", "queued"], "{text}");
}

#[test]
fn top_without_a_terminal_prints_all_once() {
    let daemon = rgun().over_tcp().start_ready();
    let mut running = daemon.connect();
    running.send_get("/hang");
    let text = wait_until("the request runs", || {
        let text = output(&daemon, &["top"]);
        text.contains("GET     /hang").then_some(text)
    });
    for part in ["workers:     1 of 1 ready\n", "\nWORKER ", "\nELAPSED "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains('\x1b'), "{text}");
}

#[test]
fn scale_sets_the_number_until_the_next_reload() {
    let daemon = rgun().flags(["--workers", "1"]).start_ready();
    assert_eq!(output(&daemon, &["scale", "3"]), "workers until the next reload: 3\n");
    daemon.log.wait_for_count(3, "is ready after");
    assert_eq!(json(&daemon, &["scale", "2", "--json"]), json!({ "workers": 2 }));
    wait_until("a worker exits", || (daemon.descendants().len() == 2).then_some(()));
    output(&daemon, &["reload"]);
    wait_until("the number of the configuration", || (daemon.descendants().len() == 1).then_some(()));
}

#[test]
fn drain_fails_health_checks_until_it_is_undone() {
    let daemon = rgun().set("health.path", "/-/healthz").start_ready();
    let health = || daemon.get("/-/healthz").status;
    assert_eq!(health(), 200);
    assert!(output(&daemon, &["drain"]).starts_with("drained: "));
    assert_eq!(health(), 503);
    assert_eq!(daemon.get("/pid").status, 200, "other requests are served");
    output(&daemon, &["reload"]);
    assert_eq!(health(), 503, "a reload does not undo it");
    assert_eq!(json(&daemon, &["status", "--json"])["draining"], true);
    assert!(output(&daemon, &["drain", "--undo"]).starts_with("not drained: "));
    assert_eq!(health(), 200);
}

#[test]
fn drain_without_a_health_check_is_refused() {
    let daemon = rgun().start_ready();
    let output = run(&daemon, &["drain"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("rgun drain: health.path is not set"),
        "{output:?}"
    );
}

#[test]
fn commands_without_a_daemon_exit_69() {
    for args in [&["status"][..], &["workers"], &["requests"], &["stacks"], &["scale", "2"], &["drain"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_rgun"))
            .args(args)
            .args(["--socket", "/nonexistent/control"])
            .output()
            .expect("rgun runs");
        assert_eq!(output.status.code(), Some(69), "{output:?}");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        let expected = format!("rgun {}: no rgun is running here (no socket /nonexistent/control)", args[0]);
        assert!(message.starts_with(&expected), "{message}");
    }
}

#[test]
fn socket_that_a_killed_daemon_left_is_explained() {
    let path = std::env::temp_dir().join(format!("rgun-left-{}", std::process::id()));
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    let output = Command::new(env!("CARGO_BIN_EXE_rgun")).args(["status", "--socket"]).arg(&path).output();
    std::fs::remove_file(&path).expect("the socket is there");
    let output = output.expect("rgun runs");
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let expected = format!("rgun status: no rgun is running here (nothing listens on {})", path.display());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.starts_with(&expected), "{message}");
}

#[test]
fn reload_by_varlink_reports_its_progress() {
    let daemon = rgun().start_ready();
    let replies = call(&daemon, &json!({ "method": "io.rgun.Server.Reload", "more": true }));
    let message = |reply: &Value| reply["parameters"]["message"].as_str().map(str::to_owned);
    assert_eq!(replies.len(), 2, "{replies:?}");
    assert_eq!(message(&replies[0]).as_deref(), Some("generation 2 boots; the old workers keep serving"));
    assert_eq!(message(&replies[1]).as_deref(), Some("generation 2 serves"));
}

#[test]
fn reload_without_a_ready_worker_says_so() {
    let rgun = rgun();
    let rgun = rgun.fake_behaviour("never");
    let daemon = rgun.start();
    wait_until("the daemon listens", || daemon.scratch().join("control").exists().then_some(()));
    let reload = json!({ "method": "io.rgun.Server.Reload", "more": true });
    let expected = "generation 2 boots; no old worker is ready: requests wait or get 503 until a new one is";
    let mut client = connect(&daemon, &reload);
    assert_eq!(next_reply(&mut client)["parameters"]["message"], expected);
    daemon.log.wait_for(&format!("reloading: {expected}"));
}

#[test]
fn every_metric_has_a_description() {
    let daemon = rgun().start_ready();
    let names = |method: &str| -> Vec<Value> {
        let replies =
            call(&daemon, &json!({ "method": format!("io.systemd.Metrics.{method}"), "more": true }));
        replies.into_iter().map(|reply| reply["parameters"]["name"].clone()).collect()
    };
    let listed = names("List");
    assert!(listed.contains(&json!("io.rgun.Server.responses_total")), "{listed:?}");
    assert_eq!(listed, names("Describe"));
}

#[test]
fn socket_without_a_group_admits_only_the_user() {
    let daemon = rgun().start_ready();
    let socket = std::fs::metadata(daemon.scratch().join("control")).expect("the socket exists");
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
}

#[test]
fn unknown_control_group_is_a_configuration_error() {
    let (status, stderr, _) = rgun().set("control.group", "no-such-group").run();
    assert_eq!(status, 78, "{stderr}");
    assert!(stderr.contains("control.group = \"no-such-group\": there is no such group"), "{stderr}");
}
