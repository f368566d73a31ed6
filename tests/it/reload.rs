//! Reloads: a new generation replaces the old one without a lost request, or the old one stays.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;

use crate::support::systemd::{self, NotifySocket};
use crate::support::{Daemon, Gate, Rgun, wait_until};

/// Configures fake workers whose next boot [`set_next_boot`] decides, and a control socket.
fn rgun() -> Rgun {
    let rgun = Rgun::fake();
    let runtime = rgun.scratch().path().display().to_string();
    let behaviour = format!("@{}", rgun.scratch().join("behaviour").display());
    rgun.variable("RUNTIME_DIRECTORY", &runtime).fake_behaviour(&behaviour)
}

fn set_next_boot(daemon: &Daemon, behaviour: &str) {
    daemon.scratch().write("behaviour", behaviour);
}

/// Runs `rgun reload` until it exits.
fn reload(daemon: &Daemon) -> Output {
    reload_command(daemon).output().expect("rgun runs")
}

fn reload_command(daemon: &Daemon) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rgun"));
    command.arg("reload").env_clear().env("RUNTIME_DIRECTORY", daemon.scratch().path());
    command
}

/// Starts `rgun reload`.
fn start_reload(daemon: &Daemon) -> Child {
    reload_command(daemon).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("rgun runs")
}

/// Configures fake workers that wait at a [`Gate`] before they boot, and a control socket.
fn gated() -> (Rgun, Gate) {
    let (rgun, gate) = Rgun::fake().gated();
    let runtime = rgun.scratch().path().display().to_string();
    (rgun.variable("RUNTIME_DIRECTORY", &runtime), gate)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn generation(daemon: &Daemon) -> String {
    daemon.get("/pid").value("generation")
}

#[test]
fn sighup_replaces_the_generation() {
    let daemon = rgun().flags(["--workers", "2"]).start();
    daemon.log.wait_for_count(2, "is ready after");
    assert_eq!(generation(&daemon), "1");
    let old = daemon.descendants();
    daemon.signal(Signal::SIGHUP);
    daemon.log.wait_for("reloaded: generation 2 serves");
    assert_eq!(generation(&daemon), "2");
    wait_until("the old workers exit", || {
        let left = daemon.descendants();
        (left.len() == 2 && old.iter().all(|pid| !left.contains(pid))).then_some(())
    });
}

#[test]
fn reload_command_waits_for_the_outcome() {
    let daemon = rgun().start_ready();
    let output = reload(&daemon);
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).contains("generation 2 serves"), "{output:?}");
    assert_eq!(generation(&daemon), "2");
}

#[test]
fn failed_import_keeps_the_old_generation() {
    let rgun = rgun();
    let mut systemd = NotifySocket::at(rgun.scratch());
    let name = systemd.name.clone();
    let daemon = rgun.variable("NOTIFY_SOCKET", &name).start_ready();
    let worker = daemon.worker();
    set_next_boot(&daemon, "failed");
    let output = reload(&daemon);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = text(&output.stderr);
    assert!(stderr.contains("the fake application does not load"), "{stderr}");
    assert!(stderr.contains("Fake: boom"), "the traceback's end: {stderr}");
    assert_eq!(daemon.worker(), worker, "the old worker stays");
    daemon.log.wait_for("reload failed");
    systemd.wait("RELOADING=1");
    let at =
        systemd.wait("STATUS=1/1 workers ready; reload failed: loading it raised Fake (fake.py, line 1)");
    assert!(systemd.assignments[at].1.contains("generation 1"), "{:?}", systemd.assignments[at]);

    set_next_boot(&daemon, "");
    assert!(reload(&daemon).status.success(), "the reload succeeds");
    assert_ne!(daemon.worker(), worker);
}

#[test]
fn failed_second_worker_keeps_the_old_generation() {
    let (rgun, gate) = gated();
    let daemon = rgun.flags(["--workers", "2"]).start();
    for ready in 1..=2 {
        gate.open("");
        daemon.log.wait_for_count(ready, "is ready after");
    }
    let mut before = daemon.descendants();
    before.sort_unstable();
    let client = start_reload(&daemon);
    gate.open("");
    daemon.log.wait_for_count(3, "is ready after");
    gate.open("failed");
    let output = client.wait_with_output().expect("the command exits");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    wait_until("only the old workers are left", || {
        let mut left = daemon.descendants();
        left.sort_unstable();
        (left == before).then_some(())
    });
    assert_eq!(generation(&daemon), "1");
}

#[test]
fn wrong_configuration_lists_all_its_errors() {
    let rgun = rgun();
    let path = rgun.scratch().join("rgun.toml");
    std::fs::write(&path, "[timeouts]\nrequest = \"5s\"\n").expect("a new file");
    let daemon = rgun.flags(["--config", path.to_str().expect("ASCII")]).start_ready();
    std::fs::write(&path, "[timeouts]\nrequest = \"soon\"\n[limits]\nqueue = -1\n").expect("a writable file");
    let output = reload(&daemon);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = text(&output.stderr);
    assert!(stderr.contains("timeouts.request") || stderr.contains("request"), "{stderr}");
    assert!(stderr.contains("queue"), "both errors: {stderr}");
    assert_eq!(generation(&daemon), "1");
    daemon.log.wait_for_count(1, "is ready after");
    assert_eq!(daemon.log.count("is ready after"), 1, "no worker was booted");
}

#[test]
fn reload_applies_changed_limits_and_counts() {
    let rgun = rgun().without_worker_count();
    let path = rgun.scratch().join("rgun.toml");
    std::fs::write(&path, "[workers]\ncount = 1\n[timeouts]\nrequest = \"30s\"\n").expect("a new file");
    let daemon = rgun.flags(["--config", path.to_str().expect("ASCII")]).start_ready();
    std::fs::write(&path, "[workers]\ncount = 3\n[timeouts]\nrequest = \"300ms\"\n[limits]\nbody = \"10\"\n")
        .expect("a writable file");
    assert!(reload(&daemon).status.success());
    wait_until("three workers run", || (daemon.descendants().len() == 3).then_some(()));
    daemon.get("/hang").assert_error(504);
    let mut client = daemon.connect();
    client.send(b"POST /body HTTP/1.1\r\nhost: a\r\ncontent-length: 11\r\n\r\nhello world");
    assert_eq!(client.response().status, 413);
}

#[test]
fn no_request_is_lost_while_generations_change() {
    let daemon = Arc::new(rgun().flags(["--workers", "2"]).start());
    daemon.log.wait_for_count(2, "is ready after");
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..6)
        .map(|number| {
            let (daemon, stop) = (Arc::clone(&daemon), Arc::clone(&stop));
            thread::spawn(move || {
                let mut served = 0_u32;
                let mut client = daemon.connect();
                while !stop.load(Ordering::Relaxed) {
                    let path = if number % 2 == 0 { "/hello" } else { "/slow/3" };
                    let response = client.get(path);
                    assert_eq!(response.status, 200, "{}", response.text());
                    if number == 5 {
                        client = daemon.connect();
                    }
                    served += 1;
                }
                served
            })
        })
        .collect();
    for _ in 0..8 {
        assert!(reload(&daemon).status.success());
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.join().expect("no request failed") > 0);
    }
}

#[test]
fn request_of_the_old_generation_is_finished() {
    let daemon = rgun().start_ready();
    let mut client = daemon.connect();
    client.send_get("/stream/8/100").response_head();
    assert!(reload(&daemon).status.success());
    assert_eq!(generation(&daemon), "2");
    let rest = client.chunked_text();
    assert!(rest.contains("part 7"), "the whole response: {rest}");
}

#[test]
fn second_reload_supersedes_the_first() {
    let (rgun, gate) = gated();
    let daemon = rgun.start();
    gate.open("");
    daemon.log.wait_for("is ready after");
    let old = daemon.worker();
    let first = start_reload(&daemon);
    daemon.log.wait_for("generation 2 boots;");
    let canary =
        wait_until("the canary is started", || daemon.descendants().into_iter().find(|pid| *pid != old));
    let second = start_reload(&daemon);
    daemon.log.wait_for("generation 3 boots;");
    wait_until("the first canary exits", || (!daemon.descendants().contains(&canary)).then_some(()));
    gate.open("");
    let (first, second) = (
        first.wait_with_output().expect("the command exits"),
        second.wait_with_output().expect("the command exits"),
    );
    assert!(second.status.success(), "{second:?}");
    assert_eq!(first.status.code(), Some(1));
    assert!(text(&first.stderr).contains("superseded"), "{first:?}");
    assert_eq!(generation(&daemon), "3");
}

#[test]
fn stop_during_a_reload_ends_both() {
    let mut daemon = rgun().start_ready();
    set_next_boot(&daemon, "never");
    let client = start_reload(&daemon);
    daemon.log.wait_for("generation 2 boots;");
    daemon.stop();
    let output = client.wait_with_output().expect("the command exits");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

#[test]
fn reload_starts_an_application_that_failed_to_boot() {
    let rgun = rgun();
    let mut systemd = NotifySocket::at(rgun.scratch());
    let name = systemd.name.clone();
    rgun.scratch().write("behaviour", "failed");
    let daemon = rgun.variable("NOTIFY_SOCKET", &name).start();
    daemon.log.wait_for("did not boot");
    let refused = daemon.get("/hello");
    refused.assert_error(503);
    assert!(
        daemon.log.wait_for(refused.field("x-request-id")).contains("the fake application does not load")
    );
    assert!(refused.has("retry-after"));
    set_next_boot(&daemon, "");
    let output = systemd.receive_during(|| reload(&daemon));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(daemon.get("/hello").status, 200);
    systemd.wait("READY=1");
}

#[test]
fn repaired_application_boots_without_a_reload() {
    let rgun = rgun();
    let mut systemd = NotifySocket::at(rgun.scratch());
    let name = systemd.name.clone();
    rgun.scratch().write("behaviour", "failed");
    let daemon = rgun.variable("NOTIFY_SOCKET", &name).start();
    daemon.log.wait_for("did not boot");
    set_next_boot(&daemon, "");
    systemd.wait("READY=1");
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn probe_decides_whether_a_reload_succeeds() {
    let rgun = rgun();
    let path = rgun.scratch().join("rgun.toml");
    std::fs::write(&path, "[reload]\nprobe = \"/status/500\"\n").expect("a new file");
    let daemon = rgun.flags(["--config", path.to_str().expect("ASCII")]).start_ready();
    let worker = daemon.worker();
    let output = reload(&daemon);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("/status/500"), "{output:?}");
    assert_eq!(daemon.worker(), worker);
    std::fs::write(&path, "[reload]\nprobe = \"/status/404\"\n").expect("a writable file");
    assert!(reload(&daemon).status.success());
    assert_eq!(generation(&daemon), "3");
}

const VERSIONED: &str = "
bad = False
def application(environ, start_response):
    start_response('500 Oops' if bad else '200 OK', [])
    return [str(bad).encode()]
";

#[test]
fn clearly_worse_generation_is_rolled_back() {
    let rgun = Rgun::python(VERSIONED).set("reload.watch", "60s");
    let mut systemd = NotifySocket::at(rgun.scratch());
    let name = systemd.name.clone();
    let daemon = rgun.variable("NOTIFY_SOCKET", &name).start_ready();
    let mut client = daemon.connect();
    for _ in 0..50 {
        assert_eq!(client.get("/").status, 200);
    }
    daemon.scratch().write("app.py", &VERSIONED.replace("bad = False", "bad = True"));
    daemon.signal(Signal::SIGHUP);
    daemon.log.wait_for("reloaded: generation 2 serves");
    let mut refused = 0;
    wait_until("the first generation serves again", || {
        let response = client.get("/");
        refused += u32::from(response.status == 500);
        (refused > 0 && response.status == 200).then_some(())
    });
    let line = daemon.log.wait_for("rolled back to generation 1");
    assert!(line.contains("ERROR"), "{line}");
    systemd.wait("STATUS=1/1 workers ready; ");
    wait_until("one worker is left", || (daemon.descendants().len() == 1).then_some(()));
}

#[test]
fn equally_good_generation_is_kept() {
    let daemon = Rgun::python(VERSIONED).set("reload.watch", "1s").start_ready();
    daemon.signal(Signal::SIGHUP);
    daemon.log.wait_for("reloaded: generation 2 serves");
    assert_eq!(daemon.descendants().len(), 2, "the old generation is on standby");
    let mut client = daemon.connect();
    wait_until("the old generation exits", || {
        assert_eq!(client.get("/").status, 200);
        (daemon.descendants().len() == 1).then_some(())
    });
}

#[test]
fn reload_without_a_daemon_exits_69() {
    let nowhere = PathBuf::from("/nonexistent");
    let output = Command::new(env!("CARGO_BIN_EXE_rgun"))
        .args(["reload", "--socket"])
        .arg(nowhere.join("control"))
        .output()
        .expect("rgun runs");
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert!(text(&output.stderr).contains("/nonexistent/control"), "{output:?}");
}

#[test]
fn stale_control_socket_is_replaced() {
    let rgun = rgun();
    rgun.scratch().write("control", "what a crash left behind");
    let daemon = rgun.start_ready();
    assert!(reload(&daemon).status.success());
}

#[test]
fn sigusr2_names_what_happens_to_connections() {
    let daemon = rgun().start_ready();
    daemon.signal(Signal::SIGUSR2);
    let line = daemon.log.wait_for("ignoring SIGUSR2");
    assert!(line.contains("stop rgun and start it again: connections are refused meanwhile"), "{line}");
    let (socket, address) = systemd::tcp("127.0.0.1:0");
    let activated = rgun().socket("web", socket).at(address).start_ready();
    activated.signal(Signal::SIGUSR2);
    let line = activated.log.wait_for("ignoring SIGUSR2");
    assert!(line.contains("systemd keeps the sockets, so no connection is refused"), "{line}");
}

#[test]
fn address_that_a_socket_unit_overrides_needs_no_restart() {
    let (web, address) = systemd::tcp("127.0.0.1:0");
    let (metrics, _) = systemd::tcp("127.0.0.1:0");
    let rgun = rgun();
    let path = rgun.scratch().write("rgun.toml", "");
    let rgun = rgun.socket("web", web).socket("metrics", metrics).at(address);
    let daemon = rgun.flags(["--config", path.to_str().expect("ASCII")]).start_ready();
    daemon
        .scratch()
        .write("rgun.toml", "[metrics]\nbind = \"127.0.0.1:1\"\n[listen.web]\nbind = \"127.0.0.1:2\"\n");
    assert!(reload(&daemon).status.success());
    daemon.log.wait_for("reloaded: ");
    for setting in ["metrics.bind = \"127.0.0.1:1\"", "listen.web.bind = \"127.0.0.1:2\""] {
        let line = daemon.log.wait_for(&format!("{setting} has no effect: change ListenStream="));
        assert!(line.contains("WARN"), "{line}");
    }
    assert_eq!(daemon.log.count("listen.bind"), 0, "it is not set");
    assert_eq!(daemon.log.count("the reload does not apply"), 0);
}

#[test]
fn change_that_needs_a_restart_is_one_warning() {
    let rgun = rgun();
    let path = rgun.scratch().write("rgun.toml", "");
    let daemon = rgun.flags(["--config", path.to_str().expect("ASCII")]).start_ready();
    let configure = |text: &str| {
        daemon.scratch().write("rgun.toml", text);
    };
    configure("[metrics]\nbind = \"127.0.0.1:1\"\n[log]\nformat = \"json\"\nlevel = \"debug\"\n");
    let output = reload(&daemon);
    assert!(output.status.success(), "{output:?}");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = daemon.log.wait_for("the reload does not apply");
    assert!(line.contains("WARN"), "{line}");
    for part in [
        "metrics.bind = \"127.0.0.1:1\" (in use: \"off\")",
        "log.format = \"json\" (in use: \"auto\")",
        ": stop rgun and start it again",
    ] {
        assert!(line.contains(part) && shown.contains(part), "{part}: {line}\n{shown}");
    }
    daemon.log.wait_for("reloaded: ");
    assert_eq!(generation(&daemon), "2");
    assert_eq!(daemon.log.count("the reload does not apply"), 1);
    configure("");
    daemon.signal(Signal::SIGHUP);
    daemon.log.wait_for_count(2, "reloaded: ");
    assert_eq!(daemon.log.count("the reload does not apply"), 1, "the values in use again");
}
