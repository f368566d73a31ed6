//! Breaches of the channel's contract by a worker: the client gets a response, the worker is killed
//! and replaced, and the next request is served.

use crate::support::{Daemon, ReadError, Response, Rgun};

/// The response that the client gets when the worker breaches the contract.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    /// A 502.
    BadGateway,
    /// A correct response, complete before the breach.
    Served,
    /// `BadGateway` or `Served`: the daemon may notice the breach before the end of the response.
    ServedOrNot,
    /// An incomplete response.
    Incomplete,
}

fn outcome_of(outcome: &Result<Response, ReadError>) -> Outcome {
    match outcome {
        Ok(response) if response.status == 200 => Outcome::Served,
        Ok(response) => {
            response.assert_error(502);
            Outcome::BadGateway
        }
        Err(ReadError::Closed | ReadError::Truncated(_)) => Outcome::Incomplete,
        Err(ReadError::TimedOut) => panic!("no response at all"),
    }
}

/// Requests a breach of the contract, then a correct response.
fn assert_breach(path: &str, expected: Outcome) {
    assert_breach_of(&Rgun::fake().start_ready(), path, expected);
}

fn assert_breach_of(daemon: &Daemon, path: &str, expected: Outcome) {
    let worker = daemon.worker();
    let outcome = daemon.connect().send_get(path).try_response("GET");
    let found = outcome_of(&outcome);
    let fits = found == expected || (expected == Outcome::ServedOrNot && found != Outcome::Incomplete);
    assert!(fits, "{path}: {found:?} instead of {expected:?}: {outcome:?}");
    let line = daemon.log.wait_for("broke the channel's contract and was killed");
    assert!(line.contains("ERROR") && line.contains("rgun.worker=0"), "{line}");
    assert_eq!(daemon.get("/hello").status, 200, "after {path}");
    assert_ne!(daemon.worker(), worker, "{path}");
}

macro_rules! breaches {
    ($($name:ident: $path:literal, $outcome:ident;)*) => {
        $(#[test]
        fn $name() {
            assert_breach($path, Outcome::$outcome);
        })*
    };
}

breaches! {
    records_with_impossible_lengths_are_refused: "/breach-length", BadGateway;
    completion_head_beyond_the_ring_is_refused: "/breach-head", BadGateway;
    chunk_sent_twice_is_refused: "/breach-chunk/twice", BadGateway;
    chunk_that_does_not_exist_is_refused: "/breach-chunk/range", BadGateway;
    chunk_over_the_chunk_size_is_refused: "/breach-chunk/length", BadGateway;
    response_to_an_unknown_exchange_is_refused: "/breach-exchange/unknown", BadGateway;
    response_to_exchange_zero_is_refused: "/breach-exchange/zero", BadGateway;
    second_response_is_refused: "/breach-exchange/twice", ServedOrNot;
    slot_that_does_not_exist_is_refused: "/breach-slot", BadGateway;
    malformed_frame_is_refused: "/breach-frame", BadGateway;
    missing_file_descriptor_is_refused: "/fd-missing", BadGateway;
    malformed_control_message_is_refused: "/garbage-control", ServedOrNot;
    length_below_the_body_is_refused: "/breach-length-header", BadGateway;
    length_above_the_body_is_refused: "/breach-length-header/more", BadGateway;
    length_with_a_sign_is_refused: "/breach-length-header/sign", BadGateway;
    two_different_lengths_are_refused: "/breach-length-header/two", BadGateway;
    file_range_over_the_largest_offset_is_refused: "/breach-file/beyond", BadGateway;
    informational_final_status_is_refused: "/breach-status/100", BadGateway;
    unknown_informational_status_is_refused: "/breach-status/199", BadGateway;
    status_101_without_a_handshake_is_refused: "/breach-status/101", BadGateway;
    status_over_999_is_refused: "/breach-status/1000", BadGateway;
    status_204_with_a_length_is_refused: "/breach-status/204", BadGateway;
    transfer_coding_beside_a_length_is_refused: "/breach-field/transfer-encoding", BadGateway;
    transfer_coding_in_any_case_is_refused: "/breach-field/Transfer-Encoding", BadGateway;
    connection_field_is_refused: "/breach-field/connection", BadGateway;
    upgrade_field_is_refused: "/breach-field/upgrade", BadGateway;
    reason_of_two_lines_is_refused: "/breach-reason", BadGateway;
}

/// The head may be sent before the daemon notices the breach. Otherwise the client gets a 502.
#[test]
fn breaches_after_the_head_leave_an_incomplete_response() {
    for path in ["/breach-length-header/stream", "/breach-file", "/breach-file/huge", "/breach-empty-chunks"]
    {
        let daemon = Rgun::fake().start_ready();
        let worker = daemon.worker();
        let found = outcome_of(&daemon.connect().send_get(path).try_response("GET"));
        assert!(matches!(found, Outcome::BadGateway | Outcome::Incomplete), "{path}: {found:?}");
        daemon.log.wait_for("broke the channel's contract and was killed");
        assert_eq!(daemon.get("/hello").status, 200, "after {path}");
        assert_ne!(daemon.worker(), worker, "{path}");
    }
}

#[test]
fn early_hints_with_framing_fields_are_refused() {
    for name in ["transfer-encoding", "content-length", "connection"] {
        assert_breach_of(
            &Rgun::fake().fake_behaviour("asgi").start_ready(),
            &format!("/breach-hints/{name}"),
            Outcome::BadGateway,
        );
    }
}

/// After these breaches a worker never claims another request. The response to the breaching
/// request is correct, so the daemon notices the breach only when another request is not claimed.
/// It assigns that request to another worker.
#[test]
fn requests_avoid_a_worker_that_claims_nothing() {
    for path in ["/breach-tail", "/breach-tail/back", "/breach-asleep"] {
        let daemon = Rgun::fake().flags(["--workers", "2"]).start();
        daemon.log.wait_for_count(2, "is ready after");
        assert_eq!(daemon.get(path).status, 200, "{path}: the response was correct");
        for _ in 0..20 {
            assert_eq!(daemon.get("/hello").status, 200, "{path}");
        }
    }
}

#[test]
fn lone_worker_that_claims_nothing_is_replaced() {
    for path in ["/breach-tail", "/breach-tail/back", "/breach-asleep"] {
        let daemon = Rgun::fake().flags(["--timeout", "400ms"]).start_ready();
        assert_eq!(daemon.get(path).status, 200, "{path}: the response was correct");
        // The worker may claim one more request: a wrong number of sleepers has no effect until the
        // worker sleeps again.
        let statuses: Vec<u16> = (0..4).map(|_| daemon.get("/hello").status).collect();
        let lost = statuses.iter().filter(|status| **status != 200).count();
        assert!(lost <= 1 && statuses[3] == 200, "{path}: {statuses:?}");
    }
}

/// A library that holds the GIL in C code has the same effect.
#[test]
fn requests_avoid_a_worker_stopped_by_sigstop() {
    let daemon = Rgun::fake().flags(["--workers", "2", "--timeout", "1s"]).start();
    daemon.log.wait_for_count(2, "is ready after");
    daemon.pause_worker();
    let mut clients: Vec<_> = (0..10).map(|_| daemon.connect()).collect();
    for client in &mut clients {
        client.send_get("/slow/20");
    }
    for client in &mut clients {
        assert_eq!(client.response().text(), "slow");
    }
}

#[test]
fn daemon_survives_a_response_for_another_exchange() {
    let daemon = Rgun::fake().flags(["--threads", "2"]).start_ready();
    let mut victim = daemon.connect();
    victim.send_get("/slow/1000");
    let mut breaching = daemon.connect();
    breaching.send_get("/breach-exchange/other");
    // The daemon cannot verify which of a worker's exchanges a response belongs to. It notices the
    // swap only when one exchange gets a second response.
    drop(victim.try_response("GET"));
    drop(breaching.try_response("GET"));
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn worker_that_ignores_credit_is_killed() {
    let daemon = Rgun::fake().start_ready();
    assert_eq!(daemon.get("/hello").status, 200);
    let before = daemon.rss();
    let mut client = daemon.connect();
    client.send_get("/flood/64").response_head();
    // The client does not read, so the worker exceeds its window.
    daemon.log.wait_for("broke the channel's contract and was killed");
    let grown = daemon.rss().saturating_sub(before);
    assert!(grown < 16 * 1024 * 1024, "{grown} bytes held for a client that does not read");
    let error = loop {
        if let Err(error) = client.read() {
            break error;
        }
    };
    assert!(matches!(error, ReadError::Closed), "{error:?}");
    assert!(!client.received().ends_with(b"0\r\n\r\n"), "the response looks complete");
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn second_ready_is_ignored() {
    let daemon = Rgun::fake().fake_behaviour("ready-twice").start_ready();
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn garbage_instead_of_booting_is_a_failed_boot() {
    let (code, log, _) = Rgun::fake().fake_behaviour("garbage").run();
    assert_eq!(code, 78, "{log}");
    assert!(log.contains("did not boot"), "{log}");
}

#[test]
fn ready_without_an_interface_is_a_failed_boot() {
    let (code, log, _) = Rgun::fake().fake_behaviour("ready-auto").run();
    assert_eq!(code, 78, "{log}");
    assert!(log.contains("reported that it is ready without an interface"), "{log}");
}
