//! A restart under systemd: requests that have not started go through systemd's fd store and are
//! answered by the next daemon.

use nix::sys::signal::Signal;

use crate::hand_over::{Service, change_state};
use crate::support::{Client, Gate, Rgun, pattern, systemd};

/// The name of stored connections with a request.
const REQUEST: &str = "rgun-request";

/// A script that lists a stop.
const STOP: &str = "echo 7 rgun.service stop running";

/// A service whose worker has died; the next worker does not become ready.
struct Stalled {
    service: Service,
    _gate: Gate,
}

impl Stalled {
    fn start(rgun: impl FnOnce(Rgun) -> Rgun) -> Self {
        let (socket, address) = systemd::tcp("127.0.0.1:0");
        let (gated, gate) = Rgun::fake().gated();
        let service = Service::start_booting(rgun(gated), socket, address, 100);
        gate.open("");
        service.daemon.log.wait_for("is ready after");
        let mut client = service.connect();
        client.send("POST /die HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        client.response().assert_error(502);
        Self { service, _gate: gate }
    }

    /// Sends a request, which waits when the method returns.
    fn queue(&self, request: impl AsRef<[u8]>) -> Client {
        let mut client = self.service.connect();
        client.send(request);
        self.service.wait_for_reads();
        client
    }

    fn stop(mut self) -> Service {
        self.service.stop();
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
    let stalled = Stalled::start(|rgun| rgun.set("log.access", "true"));
    let hello = "GET /hello HTTP/1.1\r\nHost: test\r\n\r\n".as_bytes().to_vec();
    let mut clients = [stalled.queue(hello), stalled.queue(post("", b""))];
    let service = stalled.stop();
    assert_eq!(service.n_stored(REQUEST), 2);
    service
        .daemon
        .log
        .wait_for("stored 2 connections in systemd's fd store, 2 with a request that has not started");
    assert_eq!(service.daemon.log.count("/hello"), 0, "{}", service.daemon.log.text());
    let service = service.start_next();
    for client in &mut clients {
        let response = client.response();
        assert_eq!(response.status, 200);
        assert!(!response.has("connection"), "{:?}", response.fields);
        assert_eq!(client.get("/hello").status, 200, "the connection stays open");
    }
    service.daemon.log.wait_for("took over 2 connections of the previous rgun");
}

#[test]
fn body_goes_along_whether_in_memory_spooled_or_chunked() {
    let stalled = Stalled::start(|rgun| rgun);
    let (small, large) = (pattern(100), pattern(300_000));
    let mut clients = [
        (stalled.queue(post("Content-Length: 100\r\n", &small)), "inline", &small),
        (stalled.queue(post("Content-Length: 300000\r\n", &large)), "file", &large),
        (
            stalled.queue(post(
                "Transfer-Encoding: chunked\r\n",
                &[b"64\r\n", &*small, b"\r\n0\r\n\r\n"].concat(),
            )),
            "inline",
            &small,
        ),
    ];
    let service = stalled.stop();
    assert_eq!(service.n_stored(REQUEST), 3);
    let _next = service.start_next();
    for (client, transport, body) in &mut clients {
        assert_body(client, transport, body);
        assert_eq!(client.get("/hello").status, 200);
    }
}

#[test]
fn large_body_stays() {
    let stalled = Stalled::start(|rgun| rgun.set("timeouts.drain", "1s"));
    let mut client = stalled.queue(post("Content-Length: 1500000\r\n", &pattern(1_500_000)));
    let service = stalled.stop();
    client.response().assert_error(503);
    assert_eq!(service.n_stored(REQUEST), 0);
}

#[test]
fn waiting_request_goes_along_when_the_drain_ends() {
    let (socket, address) = systemd::tcp("127.0.0.1:0");
    let mut service = Service::start_with(Rgun::fake().set("timeouts.drain", "2s"), socket, address, 100);
    let (mut running, mut waiting) = (service.connect(), service.connect());
    running.send_get("/hang");
    service.wait_for_reads();
    waiting.send_get("/hello");
    service.wait_for_reads();
    service.stop();
    assert_eq!(service.n_stored(REQUEST), 1);
    running.assert_closed();
    let _next = service.start_next();
    assert_eq!(waiting.response().status, 200);
}

#[test]
fn oldest_request_is_answered_first() {
    let stalled = Stalled::start(|rgun| rgun);
    let clients: Vec<_> = (0..10)
        .map(|number| stalled.queue(format!("GET /{number} HTTP/1.1\r\nHost: test\r\n\r\n")))
        .collect();
    let service = stalled.stop();
    let log = |rgun: Rgun| rgun.set("log.access", "true");
    let service = service.start_next_with(log(Rgun::fake()));
    for mut client in clients {
        assert_eq!(client.response().status, 404);
    }
    for number in 0..10 {
        service.daemon.log.wait_for(&format!("GET /{number} 404"));
    }
    let text = service.daemon.log.text();
    let order: Vec<_> = (0..10).map(|number| text.find(&format!("GET /{number} ")).unwrap()).collect();
    assert!(order.is_sorted(), "{text}");
}

#[test]
fn waiting_request_is_answered_at_a_stop_for_good() {
    let stalled = Stalled::start(|rgun| rgun.set("timeouts.drain", "1s"));
    stalled.service.set_jobs(STOP);
    let mut client = stalled.queue("GET /hello HTTP/1.1\r\nHost: test\r\n\r\n");
    let service = stalled.stop();
    client.response().assert_error(503);
    assert_eq!(service.n_stored(REQUEST), 0);
}

#[test]
fn manager_that_does_not_answer_delays_nothing() {
    let stalled = Stalled::start(|rgun| rgun.set("timeouts.drain", "1s"));
    stalled.service.set_jobs("exec sleep 3\n");
    let mut client = stalled.queue("GET /hello HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut service = stalled.service;
    service.daemon.signal(Signal::SIGTERM);
    client.response().assert_error(503);
    service.wait_exit();
}

#[test]
fn restart_that_becomes_a_stop_answers_the_requests() {
    let stalled = Stalled::start(|rgun| rgun);
    let script = format!("mkdir \"$0.asked\" 2>/dev/null && echo No jobs running. || {STOP}\n");
    stalled.service.set_jobs(&script);
    let mut client = stalled.queue("GET /hello HTTP/1.1\r\nHost: test\r\n\r\n");
    let service = stalled.stop();
    let response = client.response();
    assert_eq!((response.status, response.field("connection")), (503, "close"));
    client.assert_closed();
    assert_eq!(service.n_stored(REQUEST), 0);
    service.daemon.log.wait_for("answered 503 to 1 requests that have not started");
}

#[test]
fn next_daemon_that_does_not_start_answers_the_requests() {
    for wrong in [("timeouts.drain", "soon"), ("listen.tls_cert", "/nowhere")] {
        let stalled = Stalled::start(|rgun| rgun);
        let mut client = stalled.queue("GET /hello HTTP/1.1\r\nHost: test\r\n\r\n");
        let status = stalled.stop().fail_next(Rgun::fake().set(wrong.0, wrong.1));
        assert_eq!((status, client.response().status), (Some(78), 503), "{wrong:?}");
        client.assert_closed();
    }
}

#[test]
fn pipelined_requests_keep_their_order() {
    let stalled = Stalled::start(|rgun| rgun);
    let second = "GET /pid HTTP/1.1\r\nHost: test\r\n\r\n";
    let mut client = stalled.queue([&*post("Content-Length: 3\r\n", b"one"), second.as_bytes()].concat());
    let service = stalled.stop();
    let _next = service.start_next();
    assert_body(&mut client, "inline", b"one");
    assert!(client.response().text().starts_with("pid="));
    assert_eq!(client.get("/hello").status, 200);
}

#[test]
fn client_that_waited_for_100_continue_is_not_asked_again() {
    let stalled = Stalled::start(|rgun| rgun);
    let mut client = stalled.queue(post("Content-Length: 3\r\nExpect: 100-continue\r\n", b""));
    client.read_exact("HTTP/1.1 100 Continue\r\n\r\n".len()).unwrap();
    client.send("one");
    stalled.service.wait_for_reads();
    let service = stalled.stop();
    let _next = service.start_next();
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (200, "one"));
    assert_eq!(response.interim, [0; 0]);
}

#[test]
fn request_keeps_what_a_trusted_proxy_reports() {
    let trusting = |rgun: Rgun| rgun.set("proxy.trusted", "127.0.0.1").set("proxy.fields", "for,host,port");
    let stalled = Stalled::start(trusting);
    let mut client = stalled.queue(
        "GET /echo?a=1 HTTP/1.1\r\nHost: inner\r\nX-Forwarded-For: 192.0.2.9\r\nX-Forwarded-Host: a.example\r\n\
         X-Forwarded-Port: 8080\r\nX-Request-ID: abc-123\r\nCookie: a=1\r\n\r\n",
    );
    let service = stalled.stop();
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
    let mut stalled = Stalled::start(|rgun| rgun);
    let mut client = stalled.queue(post("Content-Length: 6\r\n", b"one"));
    stalled.service.daemon.signal(Signal::SIGTERM);
    stalled.service.daemon.log.wait_for("stopping: ");
    client.send("two");
    stalled.service.wait_exit();
    let service = stalled.service;
    assert_eq!(service.n_stored(REQUEST), 1);
    let _next = service.start_next();
    assert_body(&mut client, "inline", b"onetwo");
}

#[test]
fn websocket_handshake_goes_along() {
    let stalled = Stalled::start(|rgun| rgun);
    let mut client = stalled.queue(
        "GET /takeover/echo HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let service = stalled.stop();
    assert_eq!(service.n_stored(REQUEST), 1);
    let _next = service.start_next();
    assert_eq!(client.response_head().status, 101);
}

#[test]
fn request_whose_record_is_lost_is_answered_503() {
    let stalled = Stalled::start(|rgun| rgun);
    let mut client = stalled.queue("GET /hello HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut service = stalled.stop();
    change_state(&mut service, |state| state[8] = 99);
    let _next = service.start_next();
    let response = client.response();
    response.assert_error(503);
    assert_eq!(response.field("connection"), "close");
    client.assert_closed();
}
