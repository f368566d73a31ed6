//! Every answer can be found again: one entry, under the id that the client was given.

use crate::support::Rgun;

#[test]
fn the_access_log_has_each_request_once_under_its_id() {
    let daemon = Rgun::fake().flags(["--access-logfile", "-"]).serving();
    let answer = daemon.get("/large/100000?secret=1");
    assert_eq!(answer.body.len(), 100_000);
    let id = answer.field("x-request-id");
    let line = daemon.log.wait(id);
    for fact in [
        "GET /large/100000 200",
        "rgun.status=200",
        "rgun.bytes=100000",
        "rgun.worker=0",
        "rgun.duration_us=",
    ] {
        assert!(line.contains(fact), "{fact}: {line}");
    }
    assert!(!line.contains("secret"), "a query may hold secrets: {line}");
    assert_eq!(daemon.log.count(id), 1);
}

#[test]
fn without_being_asked_there_is_no_access_log() {
    let mut daemon = Rgun::fake().serving();
    let answer = daemon.get("/hello");
    daemon.stops();
    daemon.log.wait_for_end();
    assert_eq!(daemon.log.count(answer.field("x-request-id")), 0);
}

#[test]
fn an_application_that_raises_is_one_entry_with_its_traceback() {
    let daemon = Rgun::fake().serving();
    let answer = daemon.get("/raise");
    answer.is_a_refusal(500);
    let line = daemon.log.wait("GET /raise 500: Fake: boom");
    assert!(line.contains("ERROR"), "{line}");
    daemon.log.wait("File \"fake.py\", line 2, in app");
    // On stderr an entry's fields follow its text, which is the traceback.
    daemon.log.wait(answer.field("x-request-id"));
    assert_eq!(daemon.log.count("Traceback"), 1);
    assert_eq!(daemon.get("/hello").status, 200);
}

#[test]
fn an_application_that_raises_in_mid_body_is_in_the_log_too() {
    let daemon = Rgun::fake().serving();
    let mut client = daemon.connect();
    let broken = client.ask("/raise-mid-body/100").try_answer("GET");
    assert!(broken.is_err(), "{broken:?}");
    let line = daemon.log.wait("GET /raise-mid-body/100 200: broken off in mid-body: Fake: boom");
    assert!(line.contains("ERROR"), "{line}");
    daemon.log.wait("File \"fake.py\", line 2, in app");
    assert_eq!(daemon.log.count("Traceback"), 1);
}

#[test]
fn an_application_that_raises_when_it_has_answered_is_an_entry_that_names_the_request() {
    let daemon = Rgun::fake().serving();
    let answer = daemon.get("/raise-late");
    assert_eq!((answer.status, answer.text().as_str()), (200, "Hello, world!"));
    let entry = daemon.log.wait("raised after its answer was complete: Fake: boom");
    assert!(entry.contains("GET /raise-late"), "{entry}");
    let fields = daemon.log.wait("rgun.request_id");
    assert!(fields.contains(answer.field("x-request-id")), "{fields}");
    assert!(fields.contains("rgun.path=/raise-late") && fields.contains("rgun.method=GET"), "{fields}");
}

#[test]
fn a_line_break_in_a_path_is_not_one_in_the_log() {
    let daemon = Rgun::fake().flags(["--access-logfile", "-"]).serving();
    let answer = daemon.get("/hello%0aERROR%20all%20lost");
    let line = daemon.log.wait(answer.field("x-request-id"));
    assert!(line.contains("/hello%0aERROR"), "{line}");
}
