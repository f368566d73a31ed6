//! Notifications to systemd: READY, STATUS, STOPPING, WATCHDOG, EXTEND_TIMEOUT_USEC.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::Rgun;
use crate::support::systemd::NotifySocket;

fn notified(rgun: Rgun) -> (Rgun, NotifySocket) {
    let systemd = NotifySocket::at(rgun.scratch());
    (rgun.variable("NOTIFY_SOCKET", &systemd.name), systemd)
}

#[test]
fn ready_is_sent_once_a_worker_is_ready() {
    let (rgun, gate) = Rgun::fake().gated();
    let (rgun, mut systemd) = notified(rgun);
    let daemon = rgun.start();
    systemd.wait("STATUS=starting: booting fake:app");
    let mut early = daemon.connect();
    early.send_get("/hello");
    let so_far = systemd.received();
    assert!(!so_far.iter().any(|line| line == "READY=1"), "{so_far:?}");

    gate.open("");
    systemd.wait("READY=1");
    systemd.wait("STATUS=1/1 workers ready");
    assert_eq!(early.response().status, 200, "the client that waited is served");
}

#[test]
fn failed_boot_is_in_the_status_and_sends_no_ready() {
    let (rgun, mut systemd) = notified(Rgun::fake().fake_behaviour("failed"));
    let mut daemon = rgun.start();
    let at = systemd.wait("STATUS=0/1 workers ready: loading it raised Fake (fake.py, line 1)");
    let (_, line) = &systemd.assignments[at];
    assert!(line.contains("retry in"), "{line}");
    let response = daemon.get("/hello");
    let body = response.assert_error(503).text();
    assert!(!body.contains("fake application"), "{body}");
    let line = daemon.log.wait_for(response.field("x-request-id"));
    assert!(line.contains("the fake application does not load"), "the log has the reason: {line}");
    daemon.log.wait_for_count(2, "did not boot");
    daemon.stop();
    assert!(!systemd.received().iter().any(|line| line == "READY=1"));
}

#[test]
fn systemd_that_does_not_read_stops_nothing() {
    let rgun = Rgun::fake();
    let runtime = rgun.scratch().path().display().to_string();
    let (rgun, mut systemd) = notified(rgun.variable("RUNTIME_DIRECTORY", &runtime));
    systemd.fill();
    let daemon = rgun.start();
    assert_eq!(daemon.get("/hello").status, 200);
    let last = 13;
    for generation in 2..=last {
        daemon.signal(Signal::SIGHUP);
        daemon.log.wait_for(&format!("reloaded: generation {generation} serves"));
    }
    daemon.signal(Signal::SIGTERM);
    daemon.log.wait_for("stopping");
    let stopping = systemd.wait("STOPPING=1");
    let received = systemd.received();
    let count = |line: &str| received.iter().filter(|received| *received == line).count();
    assert_eq!((count("READY=1"), count("RELOADING=1")), (last, last - 1), "{received:?}");
    let first = received.iter().position(|line| line == "READY=1").expect("counted above");
    let order: Vec<_> = received[first..stopping]
        .iter()
        .filter(|line| matches!(line.as_str(), "READY=1" | "RELOADING=1"))
        .collect();
    assert!(order.chunks(2).all(|pair| pair[0] == "READY=1"), "{order:?}");
    let lines = received.iter().filter(|line| line.starts_with("STATUS=")).count();
    assert!(lines < last, "an old status is not sent later: {received:?}");
}

#[test]
fn failed_start_sends_reason_and_errno() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (rgun, mut systemd) = notified(Rgun::fake());
    let (status, log, _) = rgun.flags(["--bind", &address]).run();
    assert_eq!(status, 71, "{log}");
    systemd.wait(&format!("STATUS=listen.bind: {address} is in use"));
    systemd.wait("ERRNO=98");
}

#[test]
fn wrong_configuration_is_in_the_status_without_values() {
    // The second one is found only after the configuration has been read.
    for (key, value) in [("timeouts.request", "30 parsecs"), ("workers.user", "no-such-user")] {
        let variable = format!("RGUN_{}", key.replace('.', "_").to_uppercase());
        let (rgun, mut systemd) = notified(Rgun::fake().set(key, value));
        let (status, log, _) = rgun.run();
        assert_eq!(status, 78, "{log}");
        assert!(log.contains(&format!("{variable}: {key} = \"{value}\": ")), "{log}");
        systemd.wait(&format!("STATUS={variable}: {key} is wrong; see the log"));
        assert!(!systemd.received().iter().any(|line| line.contains(value)), "{systemd:?}");
    }
}

#[test]
fn slow_start_extends_the_timeout_of_systemd() {
    let (rgun, gate) = Rgun::fake().gated();
    let (rgun, mut systemd) = notified(rgun);
    let _daemon = rgun.start();
    let at = systemd.wait("EXTEND_TIMEOUT_USEC=");
    let (_, line) = &systemd.assignments[at];
    let micros: u64 = line.rsplit('=').next().unwrap().parse().unwrap();
    assert!(micros >= 1_000_000, "{line}");
    gate.open("");
    systemd.wait("READY=1");
}

#[test]
fn stopping_is_sent_before_the_drain_status() {
    let (rgun, mut systemd) = notified(Rgun::fake());
    let mut daemon = rgun.start_ready();
    systemd.wait("READY=1");
    let mut client = daemon.connect();
    client.send_get("/stream/2/300").response_head();
    daemon.signal(Signal::SIGTERM);
    let stopping = systemd.wait("STOPPING=1");
    systemd.wait_from(stopping, "EXTEND_TIMEOUT_USEC=");
    systemd.wait("STATUS=stopping: ");
    assert!(daemon.wait_exit().success());
    assert!(!systemd.received()[stopping..].iter().any(|line| line == "READY=1"));
}

#[test]
fn status_follows_a_workers_death_and_successor() {
    let (rgun, mut systemd) = notified(Rgun::fake());
    let daemon = rgun.start_ready();
    let ready = systemd.wait("STATUS=1/1 workers ready");
    daemon.get("/die").assert_error(502);
    let dead = systemd.wait_from(ready + 1, "STATUS=0/1 workers ready");
    systemd.wait_from(dead, "STATUS=1/1 workers ready");
    let assignments = systemd.received();
    assert_eq!(assignments.iter().filter(|line| *line == "READY=1").count(), 1, "{assignments:?}");
}

#[test]
fn watchdog_is_pinged_within_its_period() {
    let (rgun, mut systemd) = notified(Rgun::fake().variable("WATCHDOG_USEC", "1000000"));
    let daemon = rgun.start_ready();
    let mut client = daemon.connect();
    // The watchdog is pinged while the worker is busy.
    client.send_get("/stream/3/700").response_head();
    let mut at = systemd.wait("READY=1");
    let mut last = systemd.assignments[at].0;
    for _ in 0..3 {
        at = systemd.wait_from(at + 1, "WATCHDOG=1");
        let now = systemd.assignments[at].0;
        assert!(now - last < Duration::from_secs(1), "{:?} without a ping", now - last);
        last = now;
    }
    systemd.wait("STATUS=1/1 workers ready; 1/1 busy, queue 0, wait p95 0 ms, generation 1");
}

#[test]
fn watchdog_for_another_process_is_not_pinged() {
    let watchdog = Rgun::fake().variable("WATCHDOG_USEC", "20000").variable("WATCHDOG_PID", "1");
    let (rgun, mut systemd) = notified(watchdog);
    let mut daemon = rgun.start_ready();
    assert_eq!(daemon.get("/slow/200").status, 200);
    daemon.stop();
    let assignments = systemd.received();
    assert!(!assignments.iter().any(|line| line.starts_with("WATCHDOG")), "{assignments:?}");
}

#[test]
fn secret_in_an_exception_is_only_in_the_log() {
    let source = "import os\n\ndef connect(url):\n    raise RuntimeError('cannot connect to ' + url)\n\n\
                  connect('postgres://shop:hunter2@db/shop')\n";
    let (rgun, mut systemd) = notified(Rgun::python(source));
    let daemon = rgun.start();
    let at = systemd.wait("STATUS=0/1 workers ready: importing app raised RuntimeError (");
    let (_, line) = &systemd.assignments[at];
    assert!(line.contains("app.py, line 4)"), "{line}");
    let response = daemon.get("/");
    let body = response.assert_error(503).text();
    assert!(body.contains("the application is not available at the moment"), "{body}");
    for text in [&body, &format!("{:?}", response.fields)] {
        assert!(!text.contains("hunter2") && !text.contains("RuntimeError"), "{text}");
    }
    let line = daemon.log.wait_for(response.field("x-request-id"));
    assert!(line.contains("postgres://shop:hunter2@db/shop"), "{line}");
    let assignments = systemd.received();
    assert!(!assignments.iter().any(|line| line.contains("hunter2")), "{assignments:?}");
}

#[test]
fn secret_in_a_failed_reload_is_not_in_the_status() {
    let sound =
        "def application(environ, start_response):\n    start_response('200 OK', [])\n    return [b'']\n";
    let (rgun, mut systemd) = notified(Rgun::python(sound));
    let daemon = rgun.start_ready();
    daemon.scratch().write("app.py", "x = {}['hunter2']\n");
    daemon.signal(Signal::SIGHUP);
    daemon.log.wait_for("reload failed: importing app raised KeyError: 'hunter2'");
    systemd.wait("STATUS=1/1 workers ready; reload failed: importing app raised KeyError (");
    let assignments = systemd.received();
    assert!(!assignments.iter().any(|line| line.contains("hunter2")), "{assignments:?}");
    assert_eq!(daemon.get("/").status, 200);
}
