//! A restart under systemd: requests that have not started go through systemd's fd store and are
//! answered by the next daemon.

use nix::sys::signal::Signal;

use crate::hand_over::{Service, change_state};
use crate::support::{Client, Rgun, pattern, systemd};

/// The name of stored connections with a request.
const REQUEST: &str = "rgun-request";

/// A service of one thread, which is busy.
struct Busy {
    service: Service,
    /// The client whose request runs.
    running: Client,
}

impl Busy {
    fn start(rgun: impl FnOnce(Rgun) -> Rgun) -> Self {
        let (socket, address) = systemd::tcp("127.0.0.1:0");
        let service = Service::start_with(rgun(Rgun::fake()), socket, address, 100);
        let mut running = service.connect();
        running.send_get("/slow/1500");
        service.wait_for_reads();
        Self { service, running }
    }

    /// Sends a request, which is queued when the method returns.
    fn queue(&self, request: impl AsRef<[u8]>) -> Client {
        let mut client = self.service.connect();
        client.send(request);
        self.service.wait_for_reads();
        client
    }

    /// Stops the daemon, and checks that the running request is answered.
    fn stop(mut self) -> Service {
        self.service.daemon.signal(Signal::SIGTERM);
        let response = self.running.response();
        assert_eq!((response.status, response.text().as_str()), (200, "slow"));
        self.service.wait_exit();
        self.service
    }
}

fn post(fields: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST /body HTTP/1.1\r\nHost: test\r\n{fields}\r\n");
    [head.as_bytes(), body].concat()
}

fn assert_body(client: &mut Client, transport: &str, body: &[u8]) {
    let response = client.response();
    assert_eq!((response.status, response.field("x-body")), (200, transport));
    assert!(response.body == body, "{} of {} bytes", response.body.len(), body.len());
    assert!(!response.has("connection"), "{:?}", response.fields);
}

#[test]
fn queued_request_is_answered_on_its_connection() {
    let busy = Busy::start(|rgun| rgun.set("log.access", "true"));
    let hello = "GET /hello HTTP/1.1\r\nHost: test\r\n\r\n".as_bytes().to_vec();
    let mut clients = [busy.queue(hello), busy.queue(post("", b""))];
    let service = busy.stop();
    assert_eq!(service.n_stored(REQUEST), 2);
    service
        .daemon
        .log
        .wait_for("stored 3 connections in systemd's fd store, 2 with a request that has not started");
    service.daemon.log.wait_for("/slow/1500");
    assert_eq!(service.daemon.log.count("/hello"), 0, "{}", service.daemon.log.text());
    let service = service.start_next();
    for client in &mut clients {
        let response = client.response();
        assert_eq!(response.status, 200);
        assert!(!response.has("connection"), "{:?}", response.fields);
        assert_eq!(client.get("/hello").status, 200, "the connection stays open");
    }
    service.daemon.log.wait_for("took over 3 connections of the previous rgun");
}

#[test]
fn body_goes_along_whether_in_memory_spooled_or_chunked() {
    let busy = Busy::start(|rgun| rgun);
    let (small, large) = (pattern(100), pattern(300_000));
    let mut clients = [
        (busy.queue(post("Content-Length: 100\r\n", &small)), "inline", &small),
        (busy.queue(post("Content-Length: 300000\r\n", &large)), "file", &large),
        (
            busy.queue(post(
                "Transfer-Encoding: chunked\r\n",
                &[b"64\r\n", &*small, b"\r\n0\r\n\r\n"].concat(),
            )),
            "inline",
            &small,
        ),
    ];
    let service = busy.stop();
    assert_eq!(service.n_stored(REQUEST), 3);
    let _next = service.start_next();
    for (client, transport, body) in &mut clients {
        assert_body(client, transport, body);
        assert_eq!(client.get("/hello").status, 200);
    }
}

#[test]
fn large_body_is_served_by_the_stopping_daemon() {
    let busy = Busy::start(|rgun| rgun);
    let body = pattern(1_500_000);
    let mut client = busy.queue(post("Content-Length: 1500000\r\n", &body));
    let service = busy.stop();
    assert_body(&mut client, "file", &body);
    assert_eq!(service.n_stored(REQUEST), 0);
}

#[test]
fn pipelined_requests_keep_their_order() {
    let busy = Busy::start(|rgun| rgun);
    let second = "GET /pid HTTP/1.1\r\nHost: test\r\n\r\n";
    let mut client = busy.queue([&*post("Content-Length: 3\r\n", b"one"), second.as_bytes()].concat());
    let service = busy.stop();
    let _next = service.start_next();
    assert_body(&mut client, "inline", b"one");
    assert!(client.response().text().starts_with("pid="));
    assert_eq!(client.get("/hello").status, 200);
}

#[test]
fn client_that_waited_for_100_continue_is_not_asked_again() {
    let busy = Busy::start(|rgun| rgun);
    let mut client = busy.queue(post("Content-Length: 3\r\nExpect: 100-continue\r\n", b""));
    client.read_exact("HTTP/1.1 100 Continue\r\n\r\n".len()).unwrap();
    client.send("one");
    busy.service.wait_for_reads();
    let service = busy.stop();
    let _next = service.start_next();
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (200, "one"));
    assert_eq!(response.interim, [0; 0]);
}

#[test]
fn request_keeps_what_a_trusted_proxy_reports() {
    let trusting = |rgun: Rgun| rgun.set("proxy.trusted", "127.0.0.1").set("proxy.fields", "for,host,port");
    let busy = Busy::start(trusting);
    let mut client = busy.queue(
        "GET /echo?a=1 HTTP/1.1\r\nHost: inner\r\nX-Forwarded-For: 192.0.2.9\r\nX-Forwarded-Host: a.example\r\n\
         X-Forwarded-Port: 8080\r\nX-Request-ID: abc-123\r\nCookie: a=1\r\n\r\n",
    );
    let service = busy.stop();
    let _next = service.start_next_with(trusting(Rgun::fake()));
    let response = client.response();
    let values = ["peer", "host", "request id", "query", "cookie"].map(|name| response.value(name));
    assert_eq!(values, ["192.0.2.9 0", "a.example:8080", "abc-123", "a=1", "a=1"]);
}

#[test]
fn request_that_waits_for_the_first_worker_goes_along() {
    let (socket, address) = systemd::tcp("127.0.0.1:0");
    let (rgun, _gate) = Rgun::fake().gated();
    let mut service = Service::start_booting(rgun, socket, address, 100);
    let mut client = service.connect();
    client.send_get("/hello");
    service.wait_for_reads();
    service.stop();
    assert_eq!(service.n_stored(REQUEST), 1);
    let _next = service.start_next();
    assert_eq!(client.response().status, 200);
}

#[test]
fn upload_that_completes_during_the_drain_goes_along() {
    let busy = Busy::start(|rgun| rgun);
    let mut client = busy.queue(post("Content-Length: 6\r\n", b"one"));
    busy.service.daemon.signal(Signal::SIGTERM);
    busy.service.daemon.log.wait_for("stopping: ");
    client.send("two");
    let service = busy.stop();
    assert_eq!(service.n_stored(REQUEST), 1);
    let _next = service.start_next();
    assert_body(&mut client, "inline", b"onetwo");
}

#[test]
fn websocket_handshake_goes_along() {
    let busy = Busy::start(|rgun| rgun);
    let mut client = busy.queue(
        "GET /takeover/echo HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let service = busy.stop();
    assert_eq!(service.n_stored(REQUEST), 1);
    let _next = service.start_next();
    assert_eq!(client.response_head().status, 101);
}

#[test]
fn request_whose_record_is_lost_is_answered_503() {
    let busy = Busy::start(|rgun| rgun);
    let mut client = busy.queue("GET /hello HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut service = busy.stop();
    change_state(&mut service, |state| state[8] = 99);
    let _next = service.start_next();
    let response = client.response();
    response.assert_error(503);
    assert_eq!(response.field("connection"), "close");
    client.assert_closed();
}
