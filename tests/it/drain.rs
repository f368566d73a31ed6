//! Stopping the daemon: running and queued requests are finished, no connection is reset, all
//! processes exit.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{ReadError, Rgun};

#[test]
fn running_and_queued_requests_are_finished() {
    let mut daemon = Rgun::fake().start_ready();
    let mut streaming = daemon.connect();
    streaming.send_get("/stream/3/150").response_head();
    let mut waiting: Vec<_> = (0..3).map(|_| daemon.connect()).collect();
    for client in &mut waiting {
        client.send_get("/slow/50");
    }
    daemon.signal(Signal::SIGTERM);
    assert_eq!(streaming.chunked_text(), "part 0\npart 1\npart 2\n");
    for client in &mut waiting {
        let response = client.response();
        assert_eq!((response.status, response.text().as_str()), (200, "slow"));
        assert_eq!(response.field("connection"), "close");
        client.assert_closed();
    }
    assert_eq!(daemon.wait_exit().code(), Some(0));
    daemon.log.wait_for("stopping: finishing running requests");
    daemon.log.wait_for("stopped");
}

#[test]
fn recently_used_connection_may_send_one_more_request() {
    let mut daemon = Rgun::fake().start_ready();
    let mut client = daemon.connect();
    assert_eq!(client.get("/hello").status, 200);
    daemon.signal(Signal::SIGTERM);
    daemon.log.wait_for("stopping: ");
    let response = client.get("/hello");
    assert_eq!(response.status, 200, "the client may have sent it before the stop");
    assert_eq!(response.field("connection"), "close");
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

/// With a systemd socket the next daemon serves the backlog, see `activation`.
#[test]
fn clients_in_the_backlog_of_an_own_socket_are_served() {
    let mut daemon = Rgun::fake().start_ready();
    // SIGSTOP pauses the daemon, so the connections stay in the backlog.
    daemon.signal(Signal::SIGSTOP);
    let mut clients: Vec<_> = (0..5).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        client.send_get("/hello");
    }
    daemon.signal(Signal::SIGTERM);
    daemon.signal(Signal::SIGCONT);
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

#[test]
fn waiting_request_is_answered_even_without_a_drain() {
    let mut daemon = Rgun::fake().set("timeouts.drain", "0s").start_ready();
    let (mut running, mut waiting) = (daemon.connect(), daemon.connect());
    running.send_get("/hang");
    // The fake worker has one slot.
    assert!(running.receives_nothing());
    waiting.send_get("/hello");
    assert!(waiting.receives_nothing());
    daemon.signal(Signal::SIGTERM);
    waiting.response().assert_error(503);
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

#[test]
fn upload_under_way_is_finished() {
    let mut daemon = Rgun::fake().start_ready();
    let mut client = daemon.connect();
    client.send("POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: 6\r\nExpect: 100-continue\r\n\r\n");
    client.read_exact("HTTP/1.1 100 Continue\r\n\r\n".len()).unwrap();
    client.send("abc");
    daemon.signal(Signal::SIGTERM);
    daemon.log.wait_for("stopping: ");
    assert_eq!(client.send("def").response().text(), "abcdef");
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

#[test]
fn idle_connection_does_not_delay_the_stop() {
    let mut daemon = Rgun::fake().start_ready();
    let mut client = daemon.connect();
    assert_eq!(client.get("/hello").status, 200);
    let _silent = daemon.connect();
    let begun = Instant::now();
    daemon.stop();
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    client.assert_closed();
}

#[test]
fn worker_that_dies_in_a_drain_is_replaced() {
    let mut daemon = Rgun::fake().start_ready();
    let mut dying = daemon.connect();
    dying.send_get("/stream/2/150").response_head();
    let mut last = daemon.connect();
    last.send_get("/die");
    let mut waiting = daemon.connect();
    waiting.send_get("/hello");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(dying.chunked_text(), "part 0\npart 1\n");
    last.response().assert_error(502);
    assert_eq!(waiting.response().status, 200);
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

#[test]
fn second_signal_stops_at_once() {
    let mut daemon = Rgun::fake().start_ready();
    let mut client = daemon.connect();
    client.send_get("/hang-mid-body").response_head();
    daemon.signal(Signal::SIGTERM);
    daemon.log.wait_for("stopping: ");
    let begun = Instant::now();
    daemon.signal_until_exit(Signal::SIGTERM);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(matches!(client.read_exact(1000), Err(ReadError::Closed)));
}

#[test]
fn signals_in_quick_succession_are_one_stop() {
    let mut daemon = Rgun::fake().start_ready();
    let mut client = daemon.connect();
    client.send_get("/stream/3/150").response_head();
    daemon.signal(Signal::SIGTERM);
    daemon.log.wait_for("stopping: ");
    daemon.signal(Signal::SIGTERM);
    daemon.signal(Signal::SIGINT);
    assert_eq!(client.chunked_text(), "part 0\npart 1\npart 2\n");
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

#[test]
fn sigquit_stops_at_once() {
    let mut daemon = Rgun::fake().start_ready();
    let mut client = daemon.connect();
    client.send_get("/hang-mid-body").response_head();
    let begun = Instant::now();
    daemon.signal(Signal::SIGQUIT);
    daemon.wait_exit();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn requests_that_the_stop_ends_are_not_quarantined() {
    for way in ["SIGQUIT", "a second SIGTERM", "the end of the drain"] {
        let drain = if way == "the end of the drain" { "300ms" } else { "30s" };
        let rgun = Rgun::fake().flags(["--workers", "3", "--graceful-timeout", drain]);
        let mut daemon = rgun.set("workers.retry", "idempotent").set("log.slow", "50ms").start();
        daemon.log.wait_for_count(3, "is ready after");
        let mut clients: Vec<_> = (0..3).map(|_| daemon.connect()).collect();
        for client in &mut clients {
            client.send_get("/hang");
        }
        daemon.log.wait_for_count(3, "GET /hang is slow");
        match way {
            "SIGQUIT" => daemon.signal(Signal::SIGQUIT),
            "a second SIGTERM" => assert!(daemon.signal_until_exit(Signal::SIGTERM).success()),
            _ => daemon.signal(Signal::SIGTERM),
        }
        daemon.wait_exit();
        for text in ["has killed two workers", "retrying"] {
            assert_eq!(daemon.log.count(text), 0, "{way}: {}", daemon.log.text());
        }
    }
}

#[test]
fn sigint_drains_as_sigterm_does() {
    let mut daemon = Rgun::fake().start_ready();
    let mut client = daemon.connect();
    client.send_get("/stream/2/100").response_head();
    daemon.signal(Signal::SIGINT);
    assert_eq!(client.chunked_text(), "part 0\npart 1\n");
    assert_eq!(daemon.wait_exit().code(), Some(0));
}

#[test]
fn drain_ends_at_its_timeout() {
    let mut daemon = Rgun::fake().flags(["--graceful-timeout", "400ms"]).start_ready();
    let mut client = daemon.connect();
    client.send_get("/hang-mid-body").response_head();
    let mut other = daemon.connect();
    other.send_get("/hello");
    let begun = Instant::now();
    daemon.signal(Signal::SIGTERM);
    let status = daemon.wait_exit();
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(400) && took < Duration::from_secs(6), "{took:?}");
    assert_eq!(status.code(), Some(0), "the stop was requested");
    daemon.log.wait_for("requests are still running after timeouts.drain");
    let body = client.read_exact(1000);
    assert!(matches!(body, Err(ReadError::Closed)), "{body:?}");
}

#[test]
fn worker_that_ignores_stop_is_killed() {
    let mut daemon =
        Rgun::fake().fake_behaviour("ignore-stop").flags(["--graceful-timeout", "600ms"]).start_ready();
    assert_eq!(daemon.get("/hello").status, 200);
    let begun = Instant::now();
    daemon.stop();
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    daemon.log.wait_for_end();
    let text = daemon.log.text();
    let (_, entry) = text.split_once("worker 0 has been terminating for ").expect("an entry");
    assert!(
        entry.contains(", its limit (timeouts.drain); Python stacks:\n") && entry.contains("in fake stack"),
        "{text}"
    );
}

#[test]
fn daemon_with_a_booting_worker_stops_at_once() {
    let (rgun, _gate) = Rgun::fake().gated();
    let mut daemon = rgun.start();
    daemon.log.wait_for("listening on ");
    let begun = Instant::now();
    daemon.stop();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[test]
fn workers_exit_by_themselves_when_stopped() {
    let mut daemon = Rgun::fake().flags(["--workers", "3", "--log-level", "debug"]).start();
    daemon.log.wait_for_count(3, "is ready after");
    daemon.stop();
    daemon.log.wait_for_end();
    let text = daemon.log.text();
    let good =
        text.lines().filter(|line| line.contains("worker ") && line.contains("exited with status 0")).count();
    assert_eq!(good, 3, "{text}");
}
