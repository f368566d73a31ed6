//! A restart under systemd: idle connections, and those with an incomplete head, go through
//! systemd's fd store and are continued by the next daemon. `hand_over_requests` tests those with a
//! whole request.

use std::env;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use nix::sys::signal::Signal;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

use crate::support::client::Address;
use crate::support::systemd::{self, NotifySocket};
use crate::support::websocket::WebSocket;
use crate::support::{Client, Daemon, Rgun};
use crate::tls;

/// The name of stored connections.
const CONNECTION: &str = "rgun-connection";
/// The name of the memfd that describes them.
const STATE: &str = "rgun-state";

/// A service with a socket unit and an fd store.
pub(crate) struct Service {
    address: Address,
    socket: OwnedFd,
    notified: NotifySocket,
    pub(crate) daemon: Daemon,
    /// The script in place of `systemctl list-jobs`.
    jobs: PathBuf,
}

impl Service {
    pub(crate) fn start() -> Self {
        let (socket, address) = systemd::tcp("127.0.0.1:0");
        Self::start_on(socket, address)
    }

    fn start_on(socket: OwnedFd, address: Address) -> Self {
        Self::start_with(Rgun::fake(), socket, address, 100)
    }

    /// `max`: `FileDescriptorStoreMax=`.
    pub(crate) fn start_with(rgun: Rgun, socket: OwnedFd, address: Address, max: usize) -> Self {
        let service = Self::start_booting(rgun, socket, address, max);
        service.daemon.log.wait_for("is ready after");
        service
    }

    /// Starts the daemon, which may not have a worker yet.
    pub(crate) fn start_booting(rgun: Rgun, socket: OwnedFd, address: Address, max: usize) -> Self {
        let notified = NotifySocket::at(rgun.scratch());
        let passed = socket.try_clone().expect("descriptors are not scarce");
        let path = format!("{}:{}", rgun.scratch().path().display(), env::var("PATH").unwrap_or_default());
        let systemctl = rgun.scratch().write("systemctl", "#!/bin/sh\n. \"${0%/*}/jobs\"\n");
        fs::set_permissions(systemctl, fs::Permissions::from_mode(0o755)).expect("an own file");
        rgun.scratch().write("jobs", "echo No jobs running.\n");
        let jobs = rgun.scratch().join("jobs");
        let rgun = rgun.variable("NOTIFY_SOCKET", &notified.name).variable("FDSTORE", &max.to_string());
        let rgun = rgun.variable("PATH", &path);
        let daemon = rgun.socket("web", passed).at(address.clone()).start();
        Self { address, socket, notified, daemon, jobs }
    }

    /// Sets the script in place of `systemctl list-jobs`.
    pub(crate) fn set_jobs(&self, script: &str) {
        fs::write(&self.jobs, script).expect("an own file");
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(&self.address).expect("the socket listens")
    }

    /// Waits until the daemon has read everything that was sent so far: sends a malformed request,
    /// which the daemon itself answers, on a new connection.
    pub(crate) fn wait_for_reads(&self) {
        assert_eq!(self.connect().send("?\r\n\r\n").response().status, 400);
    }

    /// Stops the daemon by SIGTERM, and waits until it has exited.
    pub(crate) fn stop(&mut self) {
        self.daemon.signal(Signal::SIGTERM);
        self.wait_exit();
    }

    /// Waits until the daemon, which was asked to stop, has exited.
    pub(crate) fn wait_exit(&mut self) {
        self.daemon.log.wait_for("stopping: ");
        // The daemon may wait for the reply to BARRIER=1 before it exits.
        while self.daemon.try_wait().is_none() {
            self.notified.received();
        }
        assert_eq!(self.daemon.wait_exit().code(), Some(0));
        self.notified.received();
    }

    /// Returns the number of stored descriptors of this name.
    pub(crate) fn n_stored(&self, name: &str) -> usize {
        self.notified.stored.iter().filter(|(stored, _)| stored == name).count()
    }

    /// Starts the next daemon with the descriptors in the store.
    pub(crate) fn start_next(self) -> Self {
        self.start_next_with(Rgun::fake())
    }

    /// Starts a next daemon that exits at once. Returns its exit status.
    pub(crate) fn fail_next(mut self, rgun: Rgun) -> Option<i32> {
        let stored = std::mem::take(&mut self.notified.stored);
        let rgun = rgun.stored(stored).socket("web", self.socket).at(self.address);
        rgun.start().wait_exit().code()
    }

    pub(crate) fn start_next_with(mut self, rgun: Rgun) -> Self {
        let stored = std::mem::take(&mut self.notified.stored);
        Self::start_with(rgun.stored(stored), self.socket, self.address, 100)
    }

    fn restart(mut self) -> Self {
        self.stop();
        self.start_next()
    }
}

#[test]
fn idle_connection_is_served_by_the_next_daemon() {
    let service = Service::start();
    let (mut used, mut silent) = (service.connect(), service.connect());
    assert_eq!(used.get("/hello").status, 200);
    let first = service.daemon.pid();
    let service = service.restart();
    assert_ne!(service.daemon.pid(), first);
    for client in [&mut used, &mut silent] {
        let response = client.get("/hello");
        assert_eq!(response.status, 200);
        assert!(!response.has("connection"), "{:?}", response.fields);
    }
    service.daemon.log.wait_for("took over 2 connections of the previous rgun");
}

#[test]
fn unix_connection_is_served_by_the_next_daemon() {
    let directory = crate::support::Scratch::new();
    let (socket, address) = systemd::unix(&directory.join("web"));
    let service = Service::start_on(socket, address);
    let mut client = service.connect();
    assert_eq!(client.get("/hello").status, 200);
    let _next = service.restart();
    assert_eq!(client.get("/hello").status, 200);
}

#[test]
fn incomplete_head_is_completed_at_the_next_daemon() {
    let mut service = Service::start();
    let mut client = service.connect();
    client.send("GET /echo HTTP/1.1\r\nHost: te");
    service.wait_for_reads();
    service.stop();
    let _next = service.start_next();
    assert_eq!(client.send("st\r\n\r\n").response().status, 200);
}

#[test]
fn request_sent_while_no_daemon_runs_is_answered() {
    let mut service = Service::start();
    let mut client = service.connect();
    assert_eq!(client.get("/hello").status, 200);
    service.stop();
    client.send_get("/hello");
    let _next = service.start_next();
    assert_eq!(client.response().status, 200);
}

#[test]
fn running_request_is_finished_and_its_connection_kept() {
    let mut service = Service::start();
    let mut client = service.connect();
    client.send_get("/stream/3/150").response_head();
    service.daemon.signal(Signal::SIGTERM);
    assert_eq!(client.chunked_text(), "part 0\npart 1\npart 2\n");
    service.wait_exit();
    let _next = service.start_next();
    assert_eq!(client.get("/hello").status, 200);
}

#[test]
fn queued_requests_are_finished_without_connection_close() {
    let mut service = Service::start();
    let mut clients: Vec<_> = (0..3).map(|_| service.connect()).collect();
    for client in &mut clients {
        client.send_get("/slow/200");
    }
    service.wait_for_reads();
    service.daemon.signal(Signal::SIGTERM);
    for client in &mut clients {
        let response = client.response();
        assert_eq!((response.status, response.text().as_str()), (200, "slow"));
        assert!(!response.has("connection"), "{:?}", response.fields);
    }
    service.wait_exit();
    assert_eq!(service.n_stored(CONNECTION), 3);
}

#[test]
fn pipelined_request_is_answered_once() {
    let mut service = Service::start();
    let mut client = service.connect();
    client.send_get("/slow/300").send_get("/pid");
    service.wait_for_reads();
    service.daemon.signal(Signal::SIGTERM);
    assert_eq!(client.response().text(), "slow");
    service.wait_exit();
    let _next = service.start_next();
    assert_eq!(client.response().status, 200);
    assert_eq!(client.get("/hello").status, 200, "the pipelined request has one response");
}

#[test]
fn proxied_client_keeps_its_address() {
    let (socket, address) = systemd::tcp("127.0.0.1:0");
    let proxied =
        || Rgun::fake().set("listen.proxy_protocol", "true").set("proxy.protocol_trusted", "127.0.0.1");
    let mut service = Service::start_with(proxied(), socket, address, 100);
    let mut client = service.connect();
    client.send("PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n");
    assert!(client.get("/echo").value("peer").starts_with("192.0.2.7 "));
    service.stop();
    let _next = service.start_next_with(proxied());
    assert!(client.get("/echo").value("peer").starts_with("192.0.2.7 "), "no second PROXY header");
}

#[test]
fn connections_beyond_the_capacity_of_the_store_are_closed() {
    let (socket, address) = systemd::tcp("127.0.0.1:0");
    // One of the three places is for the state.
    let mut service = Service::start_with(Rgun::fake(), socket, address, 3);
    let mut clients: Vec<_> = (0..4).map(|_| service.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/hello").status, 200);
    }
    service.stop();
    assert_eq!((service.n_stored(CONNECTION), service.n_stored(STATE)), (2, 1));
    let _next = service.start_next();
    let mut n_kept = 0;
    for client in &mut clients {
        let kept = client.try_send("GET /hello HTTP/1.1\r\nHost: test\r\n\r\n").is_ok();
        n_kept += usize::from(kept && client.try_response("GET").is_ok());
    }
    assert_eq!(n_kept, 2);
}

#[test]
fn store_is_empty_after_the_start() {
    let service = Service::start();
    let mut client = service.connect();
    assert_eq!(client.get("/hello").status, 200);
    let mut service = service.restart();
    service.notified.wait("FDSTOREREMOVE=1");
    let lines = service.notified.received();
    for name in [CONNECTION, STATE] {
        assert!(lines.contains(&format!("FDNAME={name}")), "{lines:?}");
    }
    // Without a copy in the store, the client sees the end of the connection.
    client.send("GET /hello HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    assert_eq!(client.response().status, 200);
    client.assert_closed();
}

#[test]
fn connections_are_closed_without_a_store() {
    let (socket, address) = systemd::tcp("127.0.0.1:0");
    let mut service = Service::start_with(Rgun::fake(), socket, address, 0);
    let mut client = service.connect();
    client.send_get("/slow/300");
    service.wait_for_reads();
    service.daemon.signal(Signal::SIGTERM);
    assert_eq!(client.response().field("connection"), "close");
    client.assert_closed();
    service.wait_exit();
    assert!(service.notified.stored.is_empty());
}

/// Applies `change` to the stored state.
pub(crate) fn change_state(service: &mut Service, change: impl FnOnce(&mut Vec<u8>)) {
    let at = service.notified.stored.iter().position(|(name, _)| name == STATE).expect("a state");
    let (_, state) = service.notified.stored.remove(at);
    let (mut state, mut content) = (File::from(state), Vec::new());
    state.rewind().expect("a memfd");
    state.read_to_end(&mut content).expect("a memfd");
    change(&mut content);
    let changed = memfd_create("changed", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("a memfd");
    let mut changed = File::from(changed);
    changed.write_all(&content).expect("a memfd");
    fcntl_add_seals(&changed, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE).expect("an open memfd");
    service.notified.stored.push((STATE.to_owned(), changed.into()));
}

#[test]
fn tls_connection_is_closed_with_close_notify() {
    let cert = tls::self_signed(&["localhost"]);
    let rgun = tls::tls_rgun(&[&cert], "");
    let mut notified = NotifySocket::at(rgun.scratch());
    let rgun = rgun.variable("NOTIFY_SOCKET", &notified.name).variable("FDSTORE", "100");
    let mut daemon = rgun.start_ready();
    let mut client = tls::connect(&daemon, &Arc::new(tls::client(&[&cert], None)), "localhost");
    assert_eq!(tls::get(&mut client, "/hello").unwrap().0, 200);
    daemon.signal(Signal::SIGTERM);
    // rustls reports a connection that ends without close_notify as an error.
    client.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(daemon.wait_exit().code(), Some(0));
    notified.received();
    assert!(notified.stored.is_empty(), "{:?}", notified.stored);
}

#[test]
fn websocket_is_closed_with_1012_and_not_stored() {
    let (socket, address) = systemd::tcp("127.0.0.1:0");
    let mut service = Service::start_with(Rgun::fake_asgi(), socket, address, 100);
    let mut websocket = WebSocket::open(&service.daemon, "/echo");
    service.daemon.signal(Signal::SIGTERM);
    assert_eq!(websocket.read_close().0, 1012);
    websocket.send_close(1012, "").assert_disconnected();
    service.wait_exit();
    assert!(service.notified.stored.is_empty(), "{:?}", service.notified.stored);
}

#[test]
fn state_of_another_version_closes_the_connections() {
    let mut service = Service::start();
    let (mut idle, mut sending) = (service.connect(), service.connect());
    for client in [&mut idle, &mut sending] {
        assert_eq!(client.get("/hello").status, 200);
    }
    service.stop();
    sending.send_get("/hello");
    change_state(&mut service, |state| state[8] = 99);
    let service = service.start_next();
    service.daemon.log.wait_for("their state has format 99");
    idle.assert_closed();
    let response = sending.response();
    response.assert_error(503);
    assert_eq!(response.field("connection"), "close");
    sending.assert_closed();
    assert_eq!(service.connect().get("/hello").status, 200);
}

#[test]
fn damaged_or_missing_state_closes_the_connections() {
    for is_missing in [false, true] {
        let mut service = Service::start();
        let mut client = service.connect();
        assert_eq!(client.get("/hello").status, 200);
        service.stop();
        change_state(&mut service, |state| state.truncate(20));
        if is_missing {
            service.notified.stored.retain(|(name, _)| name != STATE);
        }
        let service = service.start_next();
        service.daemon.log.wait_for("took over 0 connections of the previous rgun, closing 1");
        client.assert_closed();
        assert_eq!(service.connect().get("/hello").status, 200);
    }
}

#[test]
fn connection_of_a_removed_listener_is_closed() {
    let mut service = Service::start();
    let mut client = service.connect();
    assert_eq!(client.get("/hello").status, 200);
    service.stop();
    let Service { socket, address, notified, .. } = service;
    let rgun = Rgun::fake().stored(notified.stored).socket("other", socket).at(address);
    let daemon = rgun.start_ready();
    client.assert_closed();
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn client_that_left_during_the_restart_is_forgotten() {
    let mut service = Service::start();
    let mut client = service.connect();
    assert_eq!(client.get("/hello").status, 200);
    service.stop();
    drop(client);
    let service = service.start_next();
    assert_eq!(service.connect().get("/hello").status, 200);
}

#[test]
fn connection_survives_several_restarts() {
    let mut service = Service::start();
    let mut client = service.connect();
    for _ in 0..3 {
        assert_eq!(client.get("/hello").status, 200);
        service = service.restart();
    }
    assert_eq!(client.get("/hello").status, 200);
}
