//! ASGI workers, as the daemon sees them: bodies in parts as far as they are taken, both ways held back, clients that
//! go, tasks that are cancelled, event loops that do not turn.

use std::thread;
use std::time::{Duration, Instant};

use crate::bodies::pattern;
use crate::support::{Broken, Client, DEADLINE, Daemon, Rgun, until};

const MIB: u64 = 1024 * 1024;

fn asgi() -> Rgun {
    Rgun::fake().fake_does("asgi").set("workers.concurrency", "10")
}

/// The head of an upload of known length.
fn post(path: &str, len: usize) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {len}\r\n\r\n")
}

fn chunked(path: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
}

/// Waits until the worker has heard of so many clients that are gone, and of so many cancellations.
fn told(daemon: &Daemon, gone: u32, cancelled: u32) {
    let expected = format!("gone={gone} cancelled={cancelled}");
    until(&expected, || (daemon.get("/gone").text() == expected).then_some(()));
}

#[test]
fn a_small_body_travels_in_the_frame_and_others_in_parts() {
    let daemon = asgi().serving();
    for (len, how) in [(1, "inline"), (65_536, "inline"), (65_537, "parts"), (200_000, "parts")] {
        let mut client = daemon.connect();
        let body = pattern(len);
        let answer = client.send(post("/body", len)).send(&body).answer();
        assert_eq!((answer.field("x-body"), answer.body == body), (how, true), "{len}");
        // The same of unknown length, on the same connection.
        client.send(chunked("/body"));
        for chunk in body.chunks(50_000) {
            client.send(format!("{:x}\r\n", chunk.len())).send(chunk).send("\r\n");
        }
        let answer = client.send("0\r\n\r\n").answer();
        assert_eq!((answer.field("x-body"), answer.body == body), ("parts", true), "{len}");
    }
}

#[test]
fn an_upload_waits_for_the_first_worker_to_boot() {
    for (interface, len) in [("asgi", 200_000), ("", 200_000)] {
        let (rgun, gate) = Rgun::fake().gated();
        let daemon = rgun.start();
        let mut client = daemon.connect();
        let body = pattern(len);
        let sent = thread::spawn(move || {
            client.send(post("/body", len)).send(&body);
            (client, body)
        });
        // When who comes later has been read, so has this one.
        assert_eq!(daemon.connect().send("nonsense\r\n\r\n").answer().status, 400);
        gate.open(interface);
        let (mut client, body) = sent.join().expect("it was sent");
        let answer = client.answer();
        assert_eq!(answer.status, 200, "{interface}: {}", answer.text());
        if interface == "asgi" {
            assert_eq!((answer.field("x-body"), answer.body == body), ("parts", true));
        }
    }
}

#[test]
fn the_fields_of_a_body_in_parts_come_as_they_are() {
    let daemon = asgi().serving();
    let mut client = daemon.connect();
    let answer = client.send(chunked("/echo")).send("3\r\nabc\r\n0\r\n\r\n").answer();
    assert_eq!(answer.said("transfer-encoding"), "chunked");
    assert_eq!(answer.said("body"), u64::MAX.to_string(), "not known");
    assert!(!answer.text().contains("content-length"), "{}", answer.text());
}

/// Sends a body of any size from a thread of its own, and watches the daemon's memory until the answer is there.
fn upload_watched(daemon: &Daemon, path: &str, len: usize) -> (String, u64) {
    let before = daemon.rss();
    let mut client = daemon.connect();
    client.send(post(path, len));
    let sends = thread::spawn(move || {
        for block in pattern(len).chunks(251 * 100) {
            client.send(block);
        }
        client
    });
    let mut most = before;
    while !sends.is_finished() {
        most = most.max(daemon.rss());
        thread::sleep(Duration::from_millis(5));
    }
    let mut client = sends.join().expect("it was sent");
    let answer = client.answer();
    most = most.max(daemon.rss());
    assert_eq!(client.get("/hello").status, 200, "the connection goes on");
    (answer.text(), most.saturating_sub(before))
}

#[test]
fn a_slow_application_holds_back_its_upload() {
    let daemon = asgi().serving();
    let (report, grown) = upload_watched(&daemon, "/take/5", 20_000_000);
    assert_eq!(report, "length=20000000 right=true over=false");
    assert!(grown < 4 * MIB, "{} KiB more", grown / 1024);
}

#[test]
fn many_uploads_at_once_arrive_whole() {
    let daemon = asgi().serving();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let (report, _) = upload_watched(&daemon, "/take", 3_000_000);
                assert_eq!(report, "length=3000000 right=true over=false");
            });
        }
    });
    assert!(daemon.log.count("ERROR") == 0, "{}", daemon.log.text());
}

#[test]
fn an_application_may_respond_while_it_reads_the_body() {
    let daemon = asgi().serving();
    let mut client = daemon.connect();
    assert_eq!(client.send(post("/answer-first", 200_000)).head().status, 200);
    client.send(pattern(200_000));
    assert_eq!(client.rest_in_chunks(), "first length=200000 right=true over=false");
    assert_eq!(client.get("/hello").status, 200);
}

#[test]
fn an_application_gets_a_disconnect_for_a_closed_client() {
    let daemon = asgi().serving();
    let mut waits = daemon.connect();
    waits.ask("/wait");
    let mut uploads = daemon.connect();
    uploads.send(post("/take", 1_000_000)).send(pattern(1000));
    let mut pauses = daemon.connect();
    pauses.send(post("/wait-taking", 1_000_000)).send(pattern(1000));
    told(&daemon, 0, 0);
    for (number, client) in [(1, waits), (2, uploads), (3, pauses)] {
        drop(client);
        told(&daemon, number, 0);
    }
    // Whose answer is complete needs not to be told.
    drop({
        let mut client = daemon.connect();
        client.get("/hello");
        client
    });
    told(&daemon, 3, 0);
    assert!(daemon.log.count("ERROR") == 0, "{}", daemon.log.text());
}

#[test]
fn a_client_closed_in_mid_stream_is_a_disconnect() {
    let daemon = asgi().serving();
    let mut client = daemon.connect();
    assert_eq!(client.ask("/stream/100000000").head().status, 200);
    drop(client);
    told(&daemon, 1, 0);
}

#[test]
fn an_unread_body_does_not_delay_the_next_request() {
    let daemon = asgi().serving();
    for len in [66_000, 500_000] {
        let mut client = daemon.connect();
        client.send(post("/hello", len)).send(pattern(len)).ask("/status/204");
        assert_eq!(client.answer().text(), "Hello, world!", "{len}");
        assert_eq!(client.answer().status, 204, "{len}");
        // The rest comes only after the answer.
        client.send(post("/take-some/10", len)).send(pattern(100));
        assert!(client.answer().text().starts_with("took="), "{len}");
        client.send(&pattern(len)[100..]);
        assert_eq!(client.get("/status/204").status, 204, "{len}");
    }
}

#[test]
fn an_unread_body_without_end_closes_the_connection() {
    let daemon = asgi().serving();
    let mut client = daemon.connect();
    client.send(post("/hello", 100_000_000)).send(pattern(100_000));
    assert_eq!(client.answer().text(), "Hello, world!");
    let begun = Instant::now();
    client.is_closed();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // One that comes as fast as it can is not read to its end either.
    let mut client = daemon.connect();
    client.send(post("/hello", 1_000_000_000));
    let block = pattern(100_000);
    until("it does not take a gigabyte", || client.try_send(&block).err().map(|_| ()));
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn continue_is_sent_when_the_application_reads_the_body() {
    let daemon = asgi().serving();
    let expecting = |path: &str, len: usize| {
        let head = post(path, len);
        format!("{}Expect: 100-continue\r\n\r\n", &head[..head.len() - 2])
    };
    for len in [1000, 100_000] {
        let mut client = daemon.connect();
        client.send(expecting("/take", len));
        assert_eq!(client.take(25).unwrap(), b"HTTP/1.1 100 Continue\r\n\r\n");
        let answer = client.send(pattern(len)).answer();
        assert_eq!(answer.text(), format!("length={len} right=true over=false"));
        assert_eq!(client.get("/hello").status, 200);
        // And not when it does not.
        let answer = client.send(expecting("/status/403", len)).answer();
        assert_eq!((answer.status, answer.interim.len()), (403, 0));
        client.is_closed();
    }
}

#[test]
fn a_body_over_the_limit_is_413_before_and_in_mid_body() {
    let daemon = asgi().set("limits.body", "1MiB").serving();
    let mut client = daemon.connect();
    client.send(post("/take", 2_000_000)).answer().is_a_refusal(413);
    client.is_closed();
    told(&daemon, 0, 0);
    let mut client = daemon.connect();
    client.send(chunked("/take"));
    let block = pattern(50_000);
    let answer = loop {
        let sent = client.try_send("c350\r\n").and_then(|()| client.try_send(&block));
        if sent.and_then(|()| client.try_send("\r\n")).is_err() || !client.is_silent() {
            break client.answer();
        }
    };
    answer.is_a_refusal(413);
    told(&daemon, 1, 0);
}

#[test]
fn a_stalled_body_is_408_only_while_it_is_awaited() {
    let daemon = asgi().set("timeouts.body", "1s").serving();
    let mut client = daemon.connect();
    client.send(post("/take", 100_000)).send(pattern(1000)).answer().is_a_refusal(408);
    told(&daemon, 1, 0);
    // The application pauses, not the client.
    let mut client = daemon.connect();
    let answer = client.send(post("/take/1500", 66_000)).send(pattern(66_000)).answer();
    assert_eq!(answer.text(), "length=66000 right=true over=false");
}

#[test]
fn a_slow_upload_does_not_count_towards_the_deadline() {
    let daemon = asgi().flags(["--timeout", "600ms"]).serving();
    let mut client = daemon.connect();
    client.send(post("/take", 100_000));
    for block in pattern(100_000).chunks(12_550) {
        thread::sleep(Duration::from_millis(200));
        client.send(block);
    }
    assert_eq!(client.answer().text(), "length=100000 right=true over=false");
}

#[test]
fn bytes_after_a_body_are_the_next_request() {
    let daemon = asgi().serving();
    let mut client = daemon.connect();
    let mut bytes = post("/take", 70_000).into_bytes();
    bytes.extend(pattern(70_000));
    bytes.extend(b"GET /hello HTTP/1.1\r\nHost: test\r\n\r\n");
    bytes.extend(b"more than was announced\r\n\r\n");
    client.send(bytes);
    assert_eq!(client.answer().text(), "length=70000 right=true over=false");
    assert_eq!(client.answer().text(), "Hello, world!");
    assert_eq!(client.answer().status, 400);
}

#[test]
fn a_malformed_body_is_400_and_a_disconnect() {
    let daemon = asgi().serving();
    let mut client = daemon.connect();
    client.send(chunked("/take")).send("5\r\nhello\r\nno number\r\n");
    match client.try_answer("POST") {
        Ok(answer) => drop(answer.is_a_refusal(400)),
        Err(Broken::Nothing) => {}
        other => panic!("{other:?}"),
    }
    told(&daemon, 1, 0);
    daemon.connect().send(chunked("/body").replace("chunked", "gzip, chunked")).answer().is_a_refusal(501);
}

#[test]
fn a_task_over_its_deadline_is_cancelled() {
    let daemon = asgi().flags(["--timeout", "400ms"]).serving();
    let worker = daemon.worker();
    let begun = Instant::now();
    let answer = daemon.get("/wait");
    answer.is_a_refusal(504);
    assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
    told(&daemon, 0, 1);
    assert!(daemon.log.wait("GET /wait 504").contains("ERROR"));
    // Also one whose body nobody sends any more.
    let mut client = daemon.connect();
    client.send(post("/wait-taking", 100_000)).send(pattern(1000));
    client.answer().is_a_refusal(504);
    told(&daemon, 0, 2);
    // Longer than a stubborn task would be waited for.
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(daemon.worker(), worker);
    daemon.log.wait_for(2, " 504");
    assert_eq!(daemon.log.count(" 504"), 2, "{}", daemon.log.text());
    // Each of these entries has the stack of its task; there is no separate one without the request's id.
    assert_eq!(daemon.log.count("in worker 0; its task was at:"), 2, "{}", daemon.log.text());
    assert_eq!(daemon.log.count("in wait"), 2, "{}", daemon.log.text());
    assert_eq!(daemon.log.count("has passed its deadline"), 0, "{}", daemon.log.text());
}

#[test]
fn a_worker_whose_task_ignores_a_cancel_is_replaced() {
    let daemon = asgi().flags(["--timeout", "400ms"]).serving();
    let worker = daemon.worker();
    let mut client = daemon.connect();
    client.ask("/stubborn/60000").answer().is_a_refusal(504);
    let told = Instant::now();
    daemon.log.wait("worker 0 has a request over its deadline; it is being replaced");
    assert!(told.elapsed() > Duration::from_millis(900), "{:?}", told.elapsed());
    until("another worker", || (daemon.worker() != worker).then_some(()));
    daemon.log.wait_for(1, " 504");
    assert_eq!(daemon.log.count(" 504"), 1, "{}", daemon.log.text());
}

#[test]
fn a_blocked_event_loop_is_logged_then_replaced() {
    let daemon = asgi().set("timeouts.stall", "500ms").serving();
    let worker = daemon.worker();
    let mut client = daemon.connect();
    assert_eq!(client.get("/block/200").status, 200);
    // Nobody else asks anything: it is asked for a sign of life.
    assert_eq!(client.get("/block/1100").status, 200);
    daemon.log.wait("event loop of worker 0 has not turned");
    assert_eq!(daemon.worker(), worker);
    client.ask("/block/60000");
    let begun = Instant::now();
    let mut other = daemon.connect();
    other.ask("/hello");
    daemon.log.wait_for(2, "event loop of worker 0 has not turned");
    daemon.log.wait("it is being replaced");
    assert!(begun.elapsed() > Duration::from_millis(950), "{:?}", begun.elapsed());
    assert_eq!(other.answer().text(), "Hello, world!", "what the stuck one had not claimed is another's");
    assert_ne!(daemon.worker(), worker);
}

#[test]
fn an_idle_event_loop_is_not_blocked() {
    let daemon = asgi().set("timeouts.stall", "200ms").serving();
    let mut client = daemon.connect();
    assert_eq!(client.get("/slow/1500").text(), "slow");
    assert_eq!(daemon.log.count("has not turned"), 0, "{}", daemon.log.text());
}

#[test]
fn unclaimed_requests_leave_a_blocked_event_loop() {
    let daemon = asgi().flags(["--workers", "2"]).start();
    daemon.log.wait_for(2, "is ready after");
    let mut blocked = daemon.connect();
    blocked.ask("/block/1500");
    let begun = Instant::now();
    let mut client = daemon.connect();
    for _ in 0..50 {
        assert_eq!(client.get("/hello").status, 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(blocked.is_silent());
    assert_eq!(blocked.answer().text(), "Hello, world!");
}

#[test]
fn one_worker_holds_a_thousand_exchanges() {
    let daemon = asgi().set("workers.concurrency", "1001").set("limits.connections", "2000").serving();
    let mut clients: Vec<Client> = (0..1000).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        client.ask("/wait");
    }
    told(&daemon, 0, 0);
    let begun = Instant::now();
    let mut one = daemon.connect();
    for _ in 0..200 {
        assert_eq!(one.get("/hello").status, 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?} for 200 beside the thousand", begun.elapsed());
    drop(clients);
    told(&daemon, 1000, 0);
    assert!(daemon.log.count("ERROR") == 0, "{}", daemon.log.text());
}

#[test]
fn a_worker_gets_no_more_requests_than_it_has_slots() {
    let daemon = asgi().set("workers.concurrency", "2").flags(["--threads", "8"]).serving();
    let mut clients = [daemon.connect(), daemon.connect(), daemon.connect()];
    for client in &mut clients {
        client.ask("/slow/700");
    }
    let [first, second, third] = &mut clients;
    first.answer();
    second.answer();
    assert!(third.is_silent());
    third.answer();
}

#[test]
fn a_client_that_does_not_read_delays_no_other() {
    let none = |key, rgun: Rgun| rgun.set(key, "0");
    let daemon = none("limits.response_memory", none("limits.response_disk", asgi())).serving();
    assert_eq!(daemon.get("/large/3000000").body.len(), 3_000_000);
    let before = daemon.rss();
    let mut client = daemon.connect();
    assert_eq!(client.ask("/large/64000000").head().status, 200);
    for _ in 0..200 {
        assert_eq!(daemon.get("/hello").status, 200, "others go on");
    }
    let expected = pattern(64_000_000);
    let mut most = 0;
    for block in expected.chunks(1_000_000) {
        assert!(client.take(block.len()).unwrap() == block, "it came changed");
        most = most.max(daemon.rss());
    }
    assert!(most.saturating_sub(before) < 8 * MIB, "{} KiB more", (most - before) / 1024);
    assert_eq!(client.get("/hello").status, 200);
}

#[test]
fn a_file_is_sent_by_its_descriptor() {
    let daemon = asgi().serving();
    assert!(daemon.get("/file/3000000").body == pattern(3_000_000));
}

#[test]
fn trailers_are_sent_to_clients_that_accept_them() {
    let daemon = asgi().serving();
    let mut client = daemon.connect();
    client.send("GET /trailers HTTP/1.1\r\nHost: test\r\nTE: trailers\r\nConnection: close\r\n\r\n");
    assert!(client.head().has("transfer-encoding"));
    let begun = Instant::now();
    while client.read().is_ok() {
        assert!(begun.elapsed() < DEADLINE);
    }
    let text = String::from_utf8_lossy(client.received());
    assert_eq!(text, "D\r\nHello, world!\r\n0\r\nx-sum: 13\r\n\r\n");
    // Who does not ask for them gets none.
    assert_eq!(daemon.get("/trailers").text(), "Hello, world!");
}

#[test]
fn trailers_follow_a_file() {
    let daemon = asgi().serving();
    let mut client = daemon.connect();
    client.send("GET /file-trailers/10 HTTP/1.1\r\nHost: test\r\nTE: trailers\r\nConnection: close\r\n\r\n");
    assert!(client.head().has("transfer-encoding"));
    while client.read().is_ok() {}
    let expected = b"A\r\n\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\r\n0\r\nx-sum: 13\r\n\r\n";
    assert_eq!(client.received(), expected);
}

#[test]
fn early_hints_are_sent_to_http_1_1_clients() {
    let daemon = asgi().serving();
    let mut client = daemon.connect();
    for _ in 0..2 {
        client.ask("/hints/300");
        let hints = "HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n";
        assert_eq!(client.take(hints.len()).unwrap(), hints.as_bytes());
        assert!(client.is_silent(), "the answer comes later");
        let answer = client.answer();
        assert_eq!((answer.text(), answer.interim.len()), ("Hello, world!".to_owned(), 0));
    }
    // Both at once: whichever way it goes, the answer is the last.
    for _ in 0..50 {
        let answer = client.get("/hints/0");
        assert_eq!(answer.text(), "Hello, world!");
        assert!(answer.interim.is_empty() || answer.interim == [103]);
    }
    assert_eq!(client.get("/hello").interim, [0_u16; 0]);
    let mut old = daemon.connect();
    let answer = old.send("GET /hints/100 HTTP/1.0\r\nHost: test\r\n\r\n").answer();
    assert_eq!((answer.text(), answer.interim.len()), ("Hello, world!".to_owned(), 0));
}

#[test]
fn a_worker_that_dies_in_mid_upload_is_502_and_is_replaced() {
    let daemon = asgi().serving();
    let mut client = daemon.connect();
    client.send(post("/wait-taking", 1_000_000)).send(pattern(1000));
    told(&daemon, 0, 0);
    assert!(daemon.connect().ask("/die").try_answer("GET").is_ok_and(|answer| answer.status == 502));
    client.answer().is_a_refusal(502);
    until("another worker", || (daemon.get("/hello").status == 200).then_some(()));
}

#[test]
fn a_decreasing_window_breaches_the_contract() {
    let daemon = asgi().serving();
    let mut client = daemon.connect();
    client.send(post("/lie-take", 100_000)).answer().is_a_refusal(502);
    daemon.log.wait("took back what it had taken");
    until("another worker", || (daemon.get("/hello").status == 200).then_some(()));
}

#[test]
fn a_stopping_daemon_waits_for_an_upload() {
    let mut daemon = asgi().serving();
    let mut client = daemon.connect();
    client.send(post("/take", 100_000)).send(pattern(50_200));
    told(&daemon, 0, 0);
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    daemon.log.wait("stopping");
    client.send(&pattern(100_000)[50_200..]);
    assert_eq!(client.answer().text(), "length=100000 right=true over=false");
    daemon.stops();
}
