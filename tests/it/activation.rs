//! Sockets passed by systemd, and addresses bound by the daemon itself. Unusable sockets are
//! refused with a remedy.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::support::client::Address;
use crate::support::{Client, Rgun, systemd};

#[test]
fn each_systemd_socket_is_served_under_its_name() {
    let rgun = Rgun::fake();
    let (four, at_four) = systemd::tcp("127.0.0.1:0");
    let (six, at_six) = systemd::tcp("[::1]:0");
    let (local, at_local) = systemd::unix(&rgun.scratch().join("local"));
    let rgun = rgun.socket("web", four).socket("six", six).socket("local", local);
    let daemon = rgun.at(at_four.clone()).start_ready();

    for (index, (name, address)) in
        [("web", &at_four), ("six", &at_six), ("local", &at_local)].iter().enumerate()
    {
        let response = Client::connect(address).unwrap().get("/echo");
        assert_eq!(response.status, 200);
        assert_eq!(response.value("listener"), index.to_string(), "{name}");
        let line = daemon.log.wait_for(&format!("rgun.listener={name}"));
        assert!(line.contains("listening on "), "{line}");
    }
    let Address::Tcp(address) = at_four else { panic!("TCP") };
    daemon.log.wait_for(&format!("listening on {address}"));
    let peer = Client::connect(&at_six).unwrap().get("/echo").value("peer");
    assert!(peer.starts_with("::1 "), "{peer}");
    let peer = Client::connect(&at_local).unwrap().get("/echo").value("peer");
    assert_eq!(peer.trim(), "0", "a client on a unix socket has no address");
}

#[test]
fn systemd_socket_outlives_the_daemon() {
    let rgun = Rgun::fake();
    let path = rgun.scratch().join("local");
    let (socket, address) = systemd::unix(&path);
    let kept = socket.try_clone().unwrap();
    let mut daemon = rgun.socket("local", socket).at(address.clone()).start_ready();
    daemon.stop();
    assert!(path.exists(), "the socket file belongs to systemd");
    // A client that connects between two daemons waits in the backlog.
    let mut early = Client::connect(&address).unwrap();
    early.send_get("/hello");
    let _next = Rgun::fake().socket("local", kept).at(address).start_ready();
    assert_eq!(early.response().status, 200);
}

#[test]
fn unused_daemon_exits_despite_health_checks() {
    let rgun = Rgun::fake();
    let (socket, address) = systemd::unix(&rgun.scratch().join("local"));
    let rgun = rgun.socket("local", socket).at(address);
    let mut daemon = rgun.set("daemon.idle_exit", "10s").set("health.path", "/-/healthz").start_ready();
    let mut idle = daemon.connect();
    assert_eq!(idle.get("/hello").status, 200);
    let used_at = Instant::now();
    let mut monitor = daemon.connect();
    // Health checks get 200 until the stop begins.
    while monitor.try_send("GET /-/healthz HTTP/1.1\r\nHost: a\r\n\r\n").is_ok()
        && monitor.try_response("GET").is_ok_and(|response| response.status == 200)
    {
        assert!(used_at.elapsed() < Duration::from_secs(20), "the daemon still runs");
        std::thread::sleep(Duration::from_millis(200));
    }
    assert!(used_at.elapsed() >= Duration::from_secs(9), "{:?}", used_at.elapsed());
    idle.assert_closed();
    assert_eq!(daemon.wait_exit().code(), Some(79));
    daemon.log.wait_for("exiting; systemd starts the service again at the next connection");
}

#[test]
fn idle_exit_without_systemd_sockets_has_a_warning() {
    let daemon = Rgun::fake().set("daemon.idle_exit", "10s").start_ready();
    let line = daemon.log.wait_for("daemon.idle_exit has no effect");
    assert!(line.contains("WARN") && line.contains("socket unit"), "{line}");
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn sockets_with_another_listen_pid_are_ignored() {
    let rgun = Rgun::fake();
    let path = rgun.scratch().join("own");
    let (theirs, _) = systemd::tcp("127.0.0.1:0");
    let bind = format!("unix:{}", path.display());
    let rgun = rgun.socket("theirs", theirs).listen_pid("1").flags(["--bind", bind.as_str()]);
    let daemon = rgun.at(Address::Unix(path)).start_ready();
    assert_eq!(daemon.get("/hello").status, 200);
    daemon.log.wait_for_count(1, "listening on ");
    assert_eq!(daemon.log.count("listening on "), 1);
}

#[test]
fn bind_is_ignored_with_a_warning_beside_systemd_sockets() {
    let (socket, address) = systemd::tcp("127.0.0.1:0");
    let rgun = Rgun::fake().socket("web", socket).flags(["--bind", "127.0.0.1:1"]);
    let daemon = rgun.at(address).start_ready();
    let line = daemon.log.wait_for("has no effect");
    assert!(
        line.contains("WARN") && line.contains("127.0.0.1:1") && line.contains("ListenStream="),
        "{line}"
    );
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn listen_fds_without_a_socket_is_refused() {
    let rgun = Rgun::fake().variable("LISTEN_FDS", "0");
    let (socket, _) = systemd::tcp("127.0.0.1:0");
    let (code, log, _) = rgun.socket("x", socket).run();
    assert_eq!(code, 78, "{log}");
    assert!(log.contains("LISTEN_FDS=\"0\" names no socket") && log.contains("ListenStream="), "{log}");
}

#[test]
fn more_sockets_than_the_maximum_are_refused() {
    let rgun = (0..65).fold(Rgun::fake(), |rgun, _| rgun.socket("web", systemd::tcp("127.0.0.1:0").0));
    let (code, log, _) = rgun.run();
    assert_eq!(code, 78, "{log}");
    assert!(log.contains("systemd passed 65 sockets; the maximum is 64"), "{log}");
    assert!(log.contains("remove ListenStream= from the socket unit"), "{log}");
}

#[test]
fn datagram_socket_is_refused_and_named() {
    let (code, log, _) = Rgun::fake().socket("dns", systemd::datagram()).run();
    assert_eq!(code, 78, "{log}");
    assert!(log.contains("\"dns\"") && log.contains("datagram") && log.contains("ListenStream="), "{log}");
}

#[test]
fn connection_from_accept_yes_is_refused() {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (code, log, _) = Rgun::fake().socket("inetd", theirs.into()).run();
    assert_eq!(code, 78, "{log}");
    assert!(log.contains("\"inetd\"") && log.contains("Accept=no"), "{log}");
    drop(ours);
}

#[test]
fn descriptor_that_is_not_a_socket_is_refused() {
    let (code, log, _) = Rgun::fake().socket("file", File::open("/dev/null").unwrap().into()).run();
    assert_eq!(code, 78, "{log}");
    assert!(log.contains("\"file\"") && log.contains("not a socket"), "{log}");
}

#[test]
fn bad_socket_is_refused_before_a_worker_starts() {
    let (good, _) = systemd::tcp("127.0.0.1:0");
    let (code, log, _) = Rgun::fake().socket("web", good).socket("dns", systemd::datagram()).run();
    assert_eq!(code, 78, "{log}");
    assert!(!log.contains("worker"), "{log}");
}

#[test]
fn own_socket_files_are_replaced_and_removed() {
    let rgun = Rgun::fake();
    let path = rgun.scratch().join("socket");
    // A stale socket file, as a crash leaves it.
    drop(systemd::unix(&path));
    let mut daemon = rgun.start_ready();
    assert_eq!(daemon.get("/hello").status, 200);
    daemon.stop();
    assert!(!path.exists(), "the daemon removes its own socket file");
}

#[test]
fn several_addresses_can_be_bound() {
    let rgun = Rgun::fake();
    let other = rgun.scratch().join("other");
    let bind = format!("unix:{}", other.display());
    let daemon = rgun.flags(["--bind", bind.as_str()]).start_ready();
    assert_eq!(daemon.get("/hello").status, 200);
    assert_eq!(Client::connect(&Address::Unix(other)).unwrap().get("/hello").status, 200);
}
