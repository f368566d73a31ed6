//! What workers inherit from the daemon: its environment without systemd's variables, and no
//! sockets. The directory in which they start.

use std::fs;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::systemd::{self, NotifySocket};
use crate::support::{Rgun, Scratch, wait_until};

#[test]
fn workers_do_not_inherit_systemds_variables() {
    let (socket, address) = systemd::tcp("127.0.0.1:0");
    let rgun = Rgun::fake().socket("web", socket);
    let mut notified = NotifySocket::at(rgun.scratch());
    let daemon = rgun
        .variable("NOTIFY_SOCKET", &notified.name)
        .variable("WATCHDOG_USEC", "10000000")
        .variable("LISTEN_PIDFDID", "1")
        .variable("FDSTORE", "3")
        .variable("RGUN_FDSTORE", "3")
        .variable("INHERITED", "yes")
        .flags(["--env", "OWN=set"])
        .at(address)
        .start_ready();
    notified.wait("READY=1");
    let worker = daemon.worker();
    let environment = fs::read(format!("/proc/{worker}/environ")).unwrap();
    let names: Vec<String> = environment
        .split(|byte| *byte == 0)
        .map(|variable| String::from_utf8_lossy(variable).split('=').next().unwrap_or_default().to_owned())
        .collect();
    for prefix in ["NOTIFY_", "LISTEN_", "WATCHDOG_", "FDSTORE", "RGUN_FDSTORE", "MEMORY_PRESSURE_"] {
        assert!(!names.iter().any(|name| name.starts_with(prefix)), "{prefix}: {names:?}");
    }
    for name in ["INHERITED", "OWN", "PATH"] {
        assert!(names.iter().any(|other| other == name), "{name}: {names:?}");
    }
}

#[test]
fn worker_has_no_socket_but_its_control_socket() {
    let (socket, address) = systemd::tcp("127.0.0.1:0");
    let daemon = Rgun::fake().socket("web", socket).at(address).start_ready();
    let mut client = daemon.connect();
    let worker = client.get("/pid").value("pid");
    let links = fs::read_dir(format!("/proc/{worker}/fd")).unwrap().flatten();
    let sockets: Vec<_> = links
        .filter_map(|link| Some((link.file_name(), fs::read_link(link.path()).ok()?)))
        .filter(|(_, target)| target.to_string_lossy().starts_with("socket:"))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(sockets, ["3"], "neither the listener nor the client's connection");
}

#[test]
fn worker_has_its_own_directory_and_process_group() {
    let daemon = Rgun::fake().start_ready();
    let worker = daemon.worker();
    let directory = fs::read_link(format!("/proc/{worker}/cwd")).unwrap();
    assert_eq!(directory, daemon.scratch().path());
    let stat = fs::read_to_string(format!("/proc/{worker}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    assert_eq!(fields[1], daemon.pid().to_string(), "ppid");
    assert_eq!(fields[2], worker.to_string(), "pgrp");
}

#[test]
fn removed_application_directory_is_named() {
    let rgun = Rgun::fake();
    let app = rgun.scratch().join("app");
    fs::create_dir(&app).unwrap();
    let daemon = rgun.flags(["--chdir", app.to_str().expect("ASCII")]).start_ready();
    let worker = daemon.worker();
    fs::remove_dir(&app).unwrap();
    kill(Pid::from_raw(worker.cast_signed()), Signal::SIGKILL).unwrap();
    let line = daemon.log.wait_for("cannot start a worker in");
    assert!(line.contains(app.to_str().unwrap()) && line.contains("app.directory"), "{line}");
    assert!(line.contains("No such file or directory"), "{line}");
    assert_eq!(daemon.log.count("cannot run the interpreter"), 0);
    daemon.signal(Signal::SIGHUP);
    let line = daemon.log.wait_for("app.directory = ");
    assert!(line.contains("does not exist"), "{line}");
    fs::create_dir(&app).unwrap();
    wait_until("a worker serves again", || (daemon.get("/pid").status == 200).then_some(()));
}

#[test]
fn start_in_a_removed_directory_fails_with_status_78() {
    let scratch = Scratch::new();
    let shell = "mkdir gone && cd gone && rmdir ../gone && exec \"$0\" fake:app";
    let rgun = Command::new("/bin/sh")
        .args(["-c", shell, env!("CARGO_BIN_EXE_rgun")])
        .current_dir(scratch.path())
        .env_remove("PWD")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&rgun.stderr);
    assert_eq!(rgun.status.code(), Some(78), "{stderr}");
    let gone = scratch.join("gone").display().to_string();
    assert!(stderr.contains(&format!("current directory, {gone}, is gone")), "{stderr}");
}
