//! What a worker inherits: the daemon's environment without systemd's messages, and no socket.

use std::fs;

use crate::support::Rgun;
use crate::support::systemd::{self, Notified};

#[test]
fn workers_get_nothing_of_what_systemd_told_the_daemon() {
    let (socket, address) = systemd::tcp("127.0.0.1:0");
    let rgun = Rgun::fake().socket("web", socket);
    let mut notified = Notified::at(rgun.scratch());
    let daemon = rgun
        .variable("NOTIFY_SOCKET", &notified.name)
        .variable("WATCHDOG_USEC", "10000000")
        .variable("LISTEN_PIDFDID", "1")
        .variable("FDSTORE", "3")
        .variable("INHERITED", "yes")
        .flags(["--env", "OWN=set"])
        .at(address)
        .serving();
    notified.wait("READY=1");
    let worker = daemon.worker();
    let environment = fs::read(format!("/proc/{worker}/environ")).unwrap();
    let names: Vec<String> = environment
        .split(|byte| *byte == 0)
        .map(|variable| String::from_utf8_lossy(variable).split('=').next().unwrap_or_default().to_owned())
        .collect();
    for prefix in ["NOTIFY_", "LISTEN_", "WATCHDOG_", "FDSTORE", "MEMORY_PRESSURE_"] {
        assert!(!names.iter().any(|name| name.starts_with(prefix)), "{prefix}: {names:?}");
    }
    for name in ["INHERITED", "OWN", "PATH"] {
        assert!(names.iter().any(|other| other == name), "{name}: {names:?}");
    }
}

#[test]
fn a_worker_holds_no_socket_but_its_control_socket() {
    let (socket, address) = systemd::tcp("127.0.0.1:0");
    let daemon = Rgun::fake().socket("web", socket).at(address).serving();
    let mut client = daemon.connect();
    let worker = client.get("/pid").said("pid");
    let links = fs::read_dir(format!("/proc/{worker}/fd")).unwrap().flatten();
    let sockets: Vec<_> = links
        .filter_map(|link| Some((link.file_name(), fs::read_link(link.path()).ok()?)))
        .filter(|(_, target)| target.to_string_lossy().starts_with("socket:"))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(sockets, ["3"], "neither the listener nor the client's connection");
}

#[test]
fn a_worker_runs_in_the_applications_directory_and_its_group_is_its_own() {
    let daemon = Rgun::fake().serving();
    let worker = daemon.worker();
    let directory = fs::read_link(format!("/proc/{worker}/cwd")).unwrap();
    assert_eq!(directory, daemon.scratch().path());
    let stat = fs::read_to_string(format!("/proc/{worker}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    assert_eq!(fields[1], daemon.pid().to_string(), "ppid");
    assert_eq!(fields[2], worker.to_string(), "pgrp");
}
