//! Tests of the findings.

use super::*;
use crate::cli::unit_state::UnitState;
use crate::control::StatusReply;

const WELL: &str =
    "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nResult=success\nUser=rgun-shop\n";

fn shop() -> Service {
    Service::new(Some("shop".into())).unwrap()
}

fn facts(service: &str, socket: &str) -> Facts {
    // Later lines replace earlier ones.
    let state = |more: &str| UnitState::parse(&format!("{WELL}{more}"));
    Facts {
        service: state(service),
        socket: state(socket),
        metrics: UnitState::parse("LoadState=loaded\nActiveState=inactive\nResult=success\n"),
        check: CheckOutcome::Sound(String::new()),
        control: ControlState::Denies,
        control_path: "/run/rgun-shop/control".into(),
        last_error: None,
        socket_log: String::new(),
        has_pressure: true,
        oom: OomKills::default(),
        ignored_lines: Vec::new(),
    }
}

/// Returns the severity and the text of the only finding.
fn only(facts: &Facts) -> (Severity, String) {
    let found = judge(&shop(), facts);
    let [finding] = found.as_slice() else { panic!("{found:?}") };
    (finding.severity, format!("{} | {}", finding.what, finding.remedy))
}

#[test]
fn running_service_has_no_findings() {
    assert_eq!(judge(&shop(), &facts("", "")), []);
}

#[test]
fn service_that_waits_for_a_connection_has_no_findings() {
    let facts = Facts { control: ControlState::Absent, ..facts("ActiveState=inactive\n", "") };
    assert_eq!(judge(&shop(), &facts), []);
}

#[test]
fn ignored_lines_of_drop_ins_are_warnings() {
    let line = "/etc/systemd/system/rgun@shop.service.d/a.conf:2: Unknown key name 'Users' in section 'Service', ignoring.";
    let (severity, text) = only(&Facts { ignored_lines: vec![line.to_owned()], ..facts("", "") });
    assert_eq!(severity, Severity::Warning);
    assert!(text.starts_with(&format!("systemd ignores a line: {line} | correct it")), "{text}");
}

#[test]
fn failed_start_is_named_with_its_remedy() {
    for (service, what, remedy) in [
        ("Result=exit-code\nExecMainStatus=217", "217/USER: there is no user rgun-shop", "rgun init"),
        ("Result=exit-code\nExecMainStatus=226", "226/NAMESPACE", "ReadWritePaths=-/path"),
        ("Result=exit-code\nExecMainStatus=78", "exited with status 78: no module", "systemctl restart"),
        ("Result=start-limit-hit", "no longer started", "systemctl reset-failed rgun@shop.service"),
        ("Result=oom-kill", "lack of memory", "workers.max_memory"),
        ("Result=timeout", "its application did not boot", "journalctl -u rgun@shop.service"),
        ("Result=signal", "has failed (signal)", "journalctl -u rgun@shop.service"),
    ] {
        let failed = format!("ActiveState=failed\n{service}\n");
        let facts = Facts { last_error: Some("no module".into()), ..facts(&failed, "") };
        let (severity, text) = only(&facts);
        assert_eq!(severity, Severity::Problem);
        assert!(text.contains(what) && text.contains(remedy), "{text}");
    }
}

#[test]
fn service_without_a_ready_worker_is_a_problem() {
    for numbers in ["0/2 workers ready", "0/2 workers ready, 1 booting", "0/2 workers ready, no zygote"] {
        for active in ["active", "activating"] {
            let line = format!("{numbers}: hooks.post_fork: there is no module; the last reload was refused");
            let (severity, text) = only(&facts(&format!("ActiveState={active}\nStatusText={line}\n"), ""));
            assert_eq!(severity, Severity::Problem);
            assert!(text.contains(&format!("no worker is ready: {line}")), "{text}");
        }
    }
    assert_eq!(judge(&shop(), &facts("StatusText=0/2 workers ready\n", "")), [], "they boot");
}

#[test]
fn reply_of_the_daemon_counts_more_than_the_status_line() {
    let status: StatusReply = serde_json::from_value(serde_json::json!({
        "version": "1", "pid": 1, "status": "", "generation": 1, "draining": false, "workers_ready": 0,
        "workers_desired": 2, "running": 0, "queued": 0, "slots": 0, "wait_p95_usec": 0, "responses": 0,
        "failed_responses": 0, "workers_spawned": 2, "boot_failures": 2, "worker_crashes": 0,
    }))
    .unwrap();
    let answers = |unavailable: Option<&str>| {
        let unavailable = unavailable.map(str::to_owned);
        let control = ControlState::Answers(Box::new(StatusReply { unavailable, ..status.clone() }));
        let line = "ActiveState=active\nStatusText=0/2 workers ready: an old line\n";
        Facts { control, ..facts(line, "") }
    };
    let (severity, text) = only(&answers(Some("no module shop")));
    assert_eq!(severity, Severity::Problem);
    assert!(text.contains("no worker is ready: no module shop"), "{text}");
    assert_eq!(judge(&shop(), &answers(None)), []);
    let silent = Facts { control: ControlState::Silent, ..facts("", "") };
    assert!(only(&silent).1.contains("has not answered on /run/rgun-shop/control for 5 s"));
}

#[test]
fn error_of_the_check_is_not_repeated_as_the_exit() {
    let check = CheckOutcome::Wrong("error: /etc/rgun/shop.toml:1: is not TOML".into());
    let failed = "ActiveState=failed\nResult=exit-code\nExecMainStatus=78\n";
    let last_error = Some("/etc/rgun/shop.toml:1: is not TOML".into());
    let (_, text) = only(&Facts { check, last_error, ..facts(failed, "") });
    assert!(text.starts_with("/etc/rgun/shop.toml:1: is not TOML | repair it"), "{text}");
}

#[test]
fn socket_that_cannot_listen_is_named() {
    let failed = "ActiveState=failed\nResult=resources\nListen=127.0.0.1:8000 (Stream)\n";
    let log = "Failed to create listening socket (127.0.0.1:8000): Address already in use".to_owned();
    let (_, text) = only(&Facts { socket_log: log, ..facts("", failed) });
    assert!(
        text.contains("cannot listen at 127.0.0.1:8000: another program uses") && text.contains("ss -ltnp"),
        "{text}"
    );
    let (_, text) = only(&facts("", "ActiveState=failed\nResult=service-start-limit-hit\n"));
    assert!(text.contains("rgun@shop.socket was closed"), "{text}");
    assert!(text.ends_with("systemctl start rgun@shop.socket rgun@shop.service"), "{text}");
    let (_, text) = only(&facts("ActiveState=inactive\n", "ActiveState=inactive\n"));
    assert!(text.contains("systemctl enable --now rgun@shop.socket"), "{text}");
}

#[test]
fn missing_metrics_are_a_warning() {
    let metrics =
        |more: &str| UnitState::parse(&format!("LoadState=loaded\nListen=127.0.0.1:9797 (Stream)\n{more}"));
    for (facts, what) in [
        (
            Facts { metrics: metrics("ActiveState=failed\nResult=resources\n"), ..facts("", "") },
            "rgun-metrics@shop.socket cannot listen at 127.0.0.1:9797",
        ),
        (
            Facts { metrics: metrics("ActiveState=failed\nResult=start-limit-hit\n"), ..facts("", "") },
            "rgun-metrics@shop.socket was closed",
        ),
        (
            Facts { metrics: metrics("ActiveState=failed\nResult=timeout\n"), ..facts("", "") },
            "rgun-metrics@shop.socket has failed (timeout)",
        ),
        (
            Facts {
                metrics: metrics("ActiveState=inactive\nResult=success\nUnitFileState=enabled\n"),
                ..facts("", "")
            },
            "rgun-metrics@shop.socket is enabled but not open",
        ),
        (
            facts(
                "StatusText=1/1 workers ready; no metrics are served at :1: metrics.bind: :1 is in use\n",
                "",
            ),
            "no metrics are served at some of the addresses of metrics.bind",
        ),
    ] {
        let (severity, text) = only(&facts);
        assert_eq!(severity, Severity::Warning);
        assert!(text.contains(what) && text.contains("systemctl restart rgun@shop.service"), "{text}");
    }
    let open = Facts { metrics: metrics("ActiveState=active\nUnitFileState=enabled\n"), ..facts("", "") };
    assert_eq!(judge(&shop(), &open), []);
}

#[test]
fn missing_unit_is_the_only_finding() {
    let (_, text) = only(&facts("LoadState=not-found\nActiveState=inactive\n", ""));
    assert!(text.contains("systemd knows no unit rgun@shop.service"), "{text}");
}

#[test]
fn wrong_configuration_is_a_problem() {
    let wrong = CheckOutcome::Wrong("error: rgun-shop cannot enter /home/ada".into());
    let (severity, text) = only(&Facts { check: wrong, ..facts("", "") });
    assert_eq!(severity, Severity::Problem);
    assert!(text.starts_with("rgun-shop cannot enter /home/ada | repair it"), "{text}");
    let (severity, text) = only(&Facts { check: CheckOutcome::NotRoot, ..facts("", "") });
    assert_eq!(severity, Severity::Warning);
    assert!(text.ends_with("sudo rgun doctor shop"), "{text}");
}

#[test]
fn running_daemon_without_a_control_socket_is_a_problem() {
    let facts = Facts { control: ControlState::Absent, ..facts("", "") };
    assert!(only(&facts).1.contains("RuntimeDirectory=rgun-shop"));
}

#[test]
fn socket_of_a_dead_daemon_is_a_problem() {
    let stale = Facts { control: ControlState::Refuses, ..facts("ActiveState=inactive\n", "") };
    assert!(only(&stale).1.contains("rm /run/rgun-shop/control"));
}

#[test]
fn what_the_operator_should_know_is_a_warning() {
    let oom = |reached_unit_limit, has_worker_limit| {
        let oom = OomKills { killed: 2, reached_unit_limit, has_worker_limit };
        Facts { oom, ..facts("", "") }
    };
    for (facts, what) in [
        (
            oom(false, false),
            "killed 2 processes of rgun@shop.service for lack of memory | set workers.max_memory",
        ),
        (oom(false, true), "or raise workers.max_memory"),
        (oom(true, true), "the service has reached the limit of the unit | raise MemoryMax="),
        (Facts { has_pressure: false, ..facts("", "") }, "does not report memory pressure (PSI)"),
        (Facts { last_error: Some("worker 3 died".into()), ..facts("", "") }, "is: worker 3 died"),
        (facts("NRestarts=4\n", ""), "restarted rgun@shop.service 4 times"),
        (facts("NeedDaemonReload=yes\n", ""), "systemd has not read the change"),
        (facts("UnitFileState=disabled\n", "UnitFileState=disabled\n"), "does not start with the machine"),
    ] {
        let (severity, text) = only(&facts);
        assert_eq!(severity, Severity::Warning);
        assert!(text.contains(what), "{text}");
    }
}
