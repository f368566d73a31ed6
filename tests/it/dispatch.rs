//! The queue: requests are assigned to workers that can start them, wait within limits, and are
//! dropped when their clients leave.

use std::thread;
use std::time::Instant;

use crate::support::websocket::WebSocket;
use crate::support::{Client, Daemon, Rgun};

/// Returns a client whose request is running: the client has received the head of the response, but
/// not the whole body.
fn running(daemon: &Daemon, milliseconds: u32) -> Client {
    let mut client = daemon.connect();
    assert_eq!(client.send_get(&format!("/stream/2/{milliseconds}")).response_head().status, 200);
    client
}

/// Sends fast requests, so that the daemon assigns requests to the workers in advance.
fn warm(daemon: &Daemon) {
    let mut client = daemon.connect();
    let batch = "GET /hello HTTP/1.1\r\nHost: test\r\n\r\n".repeat(20);
    for _ in 0..20 {
        client.send(&batch);
        for _ in 0..20 {
            assert_eq!(client.response().status, 200);
        }
    }
}

#[test]
fn slow_request_delays_no_other_while_a_worker_is_idle() {
    let daemon = Rgun::fake().flags(["--workers", "2"]).start();
    daemon.log.wait_for_count(2, "is ready after");
    warm(&daemon);
    for _ in 0..3 {
        let mut slow = daemon.connect();
        slow.send_get("/slow/1500");
        let clients: Vec<_> = (0..24)
            .map(|_| {
                let mut client = daemon.connect();
                client.send_get("/hello");
                client
            })
            .collect();
        for mut client in clients {
            assert_eq!(client.response().status, 200);
        }
        assert!(slow.receives_nothing(), "the slow request was answered first");
        assert_eq!(slow.response().text(), "slow");
    }
}

#[test]
fn prefetched_requests_of_a_dead_worker_are_reassigned() {
    let daemon = Rgun::fake().flags(["--workers", "2"]).start();
    daemon.log.wait_for_count(2, "is ready after");
    warm(&daemon);
    let mut dying = daemon.connect();
    dying.send_get("/die");
    let clients: Vec<_> = (0..24)
        .map(|_| {
            let mut client = daemon.connect();
            client.send_get("/hello");
            client
        })
        .collect();
    for mut client in clients {
        assert_eq!(client.response().status, 200, "an unstarted request is reassigned");
    }
    dying.response().assert_error(502);
}

#[test]
fn all_slots_of_a_worker_run_at_once() {
    let daemon = Rgun::fake().flags(["--threads", "4"]).start_ready();
    warm(&daemon);
    let begun = Instant::now();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let mut client = daemon.connect();
            client.send_get("/slow/600");
            client
        })
        .collect();
    for mut client in clients {
        assert_eq!(client.response().text(), "slow");
    }
    assert!(begun.elapsed().as_millis() < 1200, "{:?}", begun.elapsed());
}

#[test]
fn request_abandoned_in_the_queue_never_runs() {
    let daemon = Rgun::fake().start_ready();
    let worker = daemon.worker();
    let mut slow = running(&daemon, 300);
    for _ in 0..5 {
        let mut leaving = daemon.connect();
        leaving.send_get("/die");
        drop(leaving);
    }
    assert_eq!(slow.chunked_text(), "part 0\npart 1\n");
    assert_eq!(daemon.worker(), worker, "an abandoned request has reached the worker");
}

#[test]
fn full_queue_is_503_at_once_with_retry_after() {
    let daemon = Rgun::fake().set("limits.queue", "1").start_ready();
    let mut slow = running(&daemon, 400);
    let mut waiting: Vec<_> = (0..8).map(|_| daemon.connect()).collect();
    for client in &mut waiting {
        client.send_get("/hello");
    }
    let responses: Vec<_> = waiting.iter_mut().map(Client::response).collect();
    let (served, shed): (Vec<_>, Vec<_>) = responses.iter().partition(|response| response.status == 200);
    // One waits in the queue, and one or two are prefetched by the worker.
    assert!((1..=3).contains(&served.len()), "{} served, {} shed", served.len(), shed.len());
    for response in shed {
        response.assert_error(503);
        let pause: u32 = response.field("retry-after").parse().unwrap();
        assert!((1..60).contains(&pause), "{pause}");
        assert!(daemon.log.wait_for(response.field("x-request-id")).contains("WARN"));
    }
    slow.chunked_text();
}

#[test]
fn client_with_too_many_waiting_requests_gets_429() {
    let daemon = Rgun::fake().set("limits.queue_per_client", "1").start_ready();
    let mut slow = running(&daemon, 400);
    // A trusted proxy, here the peer on the unix socket, names the client.
    let send = |client: &str| {
        let mut connection = daemon.connect();
        let request = format!("GET /hello HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: {client}\r\n\r\n");
        connection.send(request);
        connection
    };
    let mut crowding: Vec<_> = (0..8).map(|_| send("192.0.2.1")).collect();
    let mut others: Vec<_> = (2..6).map(|host| send(&format!("192.0.2.{host}"))).collect();
    let responses: Vec<_> = crowding.iter_mut().map(Client::response).collect();
    let (served, shed): (Vec<_>, Vec<_>) = responses.iter().partition(|response| response.status == 200);
    // One waits in the queue, and one or two are prefetched by the worker.
    assert!((1..=3).contains(&served.len()), "{} served, {} shed", served.len(), shed.len());
    for response in shed {
        response.assert_error(429);
        assert_eq!(response.field("retry-after"), "1");
        assert!(!response.has("connection"), "the connection stays open");
    }
    for client in &mut others {
        assert_eq!(client.response().status, 200);
    }
    slow.chunked_text();
}

/// 4096 keep-alive connections with at most one outstanding request each; two rounds.
#[test]
fn four_thousand_waiting_clients_are_all_served() {
    let daemon = Rgun::fake().start_ready();
    let mut clients: Vec<_> = (0..4096).map(|_| daemon.connect()).collect();
    for _ in 0..2 {
        let mut slow = running(&daemon, 500);
        for client in &mut clients {
            client.send_get("/hello");
        }
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.response().status, 200, "client {number}");
        }
        slow.chunked_text();
    }
}

#[test]
fn request_with_too_long_expected_wait_gets_503_at_once() {
    let daemon = Rgun::fake().set("timeouts.queue", "2s").start_ready();
    let mut first = daemon.connect();
    let mut clients: Vec<_> = (0..19).map(|_| daemon.connect()).collect();
    let begun = Instant::now();
    assert_eq!(first.send_get("/stream/1/1000").response_head().status, 200);
    for client in &mut clients {
        client.send_get("/slow/1000");
    }
    assert_eq!(first.chunked_text(), "part 0\n");
    // Nineteen requests wait; one is started each second.
    let sent_at = Instant::now();
    let response = daemon.get("/hello");
    response.assert_error(503);
    assert!(sent_at.elapsed().as_millis() < 500, "{:?}", sent_at.elapsed());
    let pause: u32 = response.field("retry-after").parse().unwrap();
    assert!((2..=30).contains(&pause), "{pause}");
    let responses: Vec<_> = clients.iter_mut().map(Client::response).collect();
    assert!(
        (1..=3).contains(&responses.iter().filter(|response| response.status == 200).count()),
        "{responses:?}"
    );
    assert!(begun.elapsed().as_millis() < 5000, "{:?}", begun.elapsed());
    assert_eq!(daemon.get("/hello").status, 200, "the overload has ended");
}

#[test]
fn burst_behind_slow_first_requests_is_served() {
    let daemon = Rgun::fake().set("timeouts.queue", "4s").start_ready();
    let mut slow: Vec<_> = (0..2).map(|_| daemon.connect()).collect();
    for client in &mut slow {
        client.send_get("/slow/400");
    }
    let mut clients: Vec<_> = (0..200).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        client.send_get("/hello");
    }
    for client in slow.iter_mut().chain(&mut clients) {
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn request_over_its_queue_timeout_is_503() {
    let daemon = Rgun::fake().set("timeouts.queue", "150ms").start_ready();
    let mut slow = running(&daemon, 500);
    let response = daemon.get("/die");
    response.assert_error(503);
    assert!(response.has("retry-after"));
    assert_eq!(slow.chunked_text(), "part 0\npart 1\n", "/die was not sent to the worker");
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn queue_is_first_in_first_out() {
    let daemon = Rgun::fake().flags(["--access-logfile", "/dev/stderr"]).start_ready();
    let mut slow = running(&daemon, 400);
    // The clients connect and send one after the other.
    let mut clients = Vec::new();
    for number in 0..4 {
        let mut client = daemon.connect();
        client.send_get(&format!("/nothing/{number}"));
        clients.push(client);
    }
    slow.chunked_text();
    for client in &mut clients {
        assert_eq!(client.response().status, 404);
    }
    daemon.log.wait_for_count(4, "GET /nothing/");
    let text = daemon.log.text();
    let order: Vec<_> = (0..4).map(|number| text.find(&format!("GET /nothing/{number} ")).unwrap()).collect();
    assert!(order.is_sorted(), "{text}");
}

#[test]
fn requests_wait_for_a_booting_worker() {
    let (rgun, gate) = Rgun::fake().gated();
    let daemon = rgun.start();
    let mut clients: Vec<_> = (0..5).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        client.send_get("/hello");
    }
    for client in &mut clients {
        assert!(client.receives_nothing());
    }
    gate.open("");
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn nothing_is_lost_or_mixed_up_under_load() {
    let daemon = Rgun::fake().flags(["--workers", "2", "--threads", "2"]).start_ready();
    thread::scope(|scope| {
        for thread in 0..6 {
            let daemon = &daemon;
            scope.spawn(move || {
                let mut client = daemon.connect();
                for round in 0..150 {
                    let response = client.get(&format!("/echo?{thread}-{round}"));
                    assert_eq!(response.value("query"), format!("{thread}-{round}"));
                    let len = (thread * 977 + round * 4099) % 200_000;
                    if round % 10 == 0 {
                        assert_eq!(client.get(&format!("/large/{len}")).body.len(), len);
                        assert_eq!(client.get("/slow/2").text(), "slow");
                    }
                }
            });
        }
    });
}

#[test]
fn slot_is_busy_until_its_exchange_is_done() {
    let daemon = Rgun::fake().start_ready();
    let mut client = daemon.connect();
    assert_eq!(client.get("/done-later/300").text(), "early", "the response does not wait for close()");
    let begun = Instant::now();
    assert_eq!(client.get("/hello").status, 200);
    assert!(
        begun.elapsed().as_millis() > 150,
        "{:?}: the only slot is busy until close() returns",
        begun.elapsed()
    );
}

#[test]
fn bursts_of_messages_are_echoed_on_a_single_core() {
    let daemon = Rgun::fake_asgi().start_on_one_core();
    let mut sockets: Vec<_> = (0..40).map(|_| WebSocket::open(&daemon, "/echo")).collect();
    for round in 0..20 {
        // The last burst is a single message: whether workers are woken must not depend on the number.
        let n_senders = if round == 19 { 1 } else { sockets.len() };
        for (n, socket) in sockets.iter_mut().take(n_senders).enumerate() {
            socket.send_text(&format!("round {round}, socket {n}"));
        }
        for (n, socket) in sockets.iter_mut().take(n_senders).enumerate() {
            socket.assert_text(&format!("round {round}, socket {n}"));
        }
    }
}
