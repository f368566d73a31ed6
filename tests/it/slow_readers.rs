//! Clients that read slowly or not at all occupy no worker: their responses are buffered in memory
//! and files, within limits. Clients that are too slow are disconnected and logged.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::{Client, Daemon, Rgun, assert_same_bytes, pattern, wait_until};

const MIB: u64 = 1024 * 1024;
const LARGE: usize = 50 * 1024 * 1024;

/// Configures two workers with one slot each, these limits for responses, and a spool directory.
fn with_limits(rgun: Rgun, memory: &str, disk: &str) -> Rgun {
    let spool = rgun.scratch().join("spool");
    fs::create_dir(&spool).expect("a new directory");
    rgun.flags(["--workers", "2", "--threads", "1"])
        .set("workers.concurrency", "1")
        .set("limits.response_memory", memory)
        .set("limits.response_disk", disk)
        .variable("CACHE_DIRECTORY", &spool.display().to_string())
}

fn fake_asgi() -> Rgun {
    Rgun::fake().fake_behaviour("asgi")
}

/// Starts two clients that request `path` and read only the head. Asserts that a third client is
/// answered at once, that memory stays bounded, and that the two clients get their whole bodies
/// later.
fn assert_workers_stay_free(rgun: Rgun, path: &str) {
    let daemon = with_limits(rgun, "16MiB", "1GiB").start();
    daemon.log.wait_for_count(2, "is ready after");
    assert_eq!(daemon.get("/large/3000000").body.len(), 3_000_000);
    let before = daemon.rss();
    let mut slow: Vec<Client> = (0..2).map(|_| daemon.connect()).collect();
    for client in &mut slow {
        assert_eq!(client.send_get(path).response_head().status, 200);
    }
    let begun = Instant::now();
    assert_eq!(daemon.get("/hello").status, 200);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    for _ in 0..100 {
        assert_eq!(daemon.get("/hello").status, 200);
    }
    let grown = daemon.rss().saturating_sub(before);
    assert!(grown < 40 * MIB, "{} KiB more", grown / 1024);
    let expected = pattern(LARGE);
    for client in &mut slow {
        assert!(client.read_exact(LARGE).is_ok_and(|body| body == expected), "the body was changed");
        assert_eq!(client.get("/hello").status, 200, "the connection stays open");
    }
    wait_until("the files are closed", || (count_spool_files(&daemon) == 0).then_some(()));
}

/// Returns the number of unnamed spool files that the daemon has open.
fn count_spool_files(daemon: &Daemon) -> usize {
    let is_spooled = |to: &&String| to.contains("/spool/") && to.ends_with("(deleted)");
    daemon.descriptors().iter().filter(is_spooled).count()
}

#[test]
fn clients_that_do_not_read_occupy_no_worker() {
    assert_workers_stay_free(Rgun::fake(), &format!("/large/{LARGE}"));
}

#[test]
fn clients_that_do_not_read_occupy_no_event_loop() {
    assert_workers_stay_free(fake_asgi(), &format!("/large/{LARGE}"));
}

const APPLICATIONS: &str = r#"
BLOCK = bytes(range(251))
WHOLE = (BLOCK * (52428800 // 251 + 1))[:52428800]

def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    body = [b"hello"]
    if path.startswith("/large/"):
        body = [WHOLE[:int(path[7:])]]
    elif path == "/list":
        body = [WHOLE[at:at + 1000000] for at in range(0, len(WHOLE), 1000000)]
    elif path == "/iterator":
        body = (WHOLE[at:at + 30000] for at in range(0, len(WHOLE), 30000))
    elif path == "/bytes":
        body = [WHOLE]
    length = 5 if body == [b"hello"] else int(path[7:]) if path.startswith("/large/") else len(WHOLE)
    start_response("200 OK", [("Content-Length", str(length))])
    return body

async def asgi(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("only HTTP")
    path, step = scope["path"], 100000
    whole = b"hello"
    if path.startswith("/large/"):
        whole = WHOLE[:int(path[7:])]
    elif path in ("/parts", "/bytes"):
        whole = WHOLE
    if path == "/bytes":
        step = len(WHOLE)
    length = [(b"content-length", str(len(whole)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    for at in range(0, len(whole), step):
        await send({"type": "http.response.body", "body": whole[at:at + step], "more_body": True})
    await send({"type": "http.response.body", "body": b""})
"#;

#[test]
fn clients_that_do_not_read_occupy_no_interpreter() {
    for path in ["/list", "/iterator", "/bytes"] {
        assert_workers_stay_free(Rgun::python(APPLICATIONS).target("app:wsgi"), path);
    }
    for path in ["/parts", "/bytes"] {
        assert_workers_stay_free(Rgun::python(APPLICATIONS).target("app:asgi"), path);
    }
}

/// `/free` returns the seconds between the last part of `/parts` and the call of `close()` on its
/// iterable.
const TIMED: &str = r#"
import time
times = {}

class Parts:
    def __iter__(self):
        for _ in range(64):
            times["last part"] = time.monotonic()
            yield b"x" * 65536

    def close(self):
        times["free"] = time.monotonic()

def application(environ, start_response):
    if environ["PATH_INFO"] == "/free":
        start_response("200 OK", [])
        return [str(times["free"] - times["last part"]).encode()]
    start_response("200 OK", [("Content-Length", str(64 * 65536))])
    return Parts()
"#;

#[test]
fn very_slow_reader_occupies_no_thread_after_the_last_part() {
    let daemon = Rgun::python(TIMED).flags(["--workers", "1", "--threads", "1"]).start_ready();
    let mut slow = daemon.connect();
    assert_eq!(slow.send_get("/parts").response_head().status, 200);
    let begun = Instant::now();
    for _ in 0..3 {
        slow.read_exact(1).expect("one byte");
        let free: f64 = daemon.get("/free").text().parse().expect("seconds");
        // Milliseconds on an idle machine. Reading 4 MiB at one byte per second takes 48 days.
        assert!(free < 1.0, "{free} s");
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[test]
fn unread_complete_responses_are_bounded() {
    let daemon = with_limits(Rgun::fake(), "8MiB", "1GiB").start();
    daemon.log.wait_for_count(2, "is ready after");
    assert_eq!(daemon.get("/large/1000000").body.len(), 1_000_000);
    let before = daemon.rss();
    let mut slow: Vec<Client> = (0..60).map(|_| daemon.connect()).collect();
    for client in &mut slow {
        assert_eq!(client.send_get("/large/1000000").response_head().status, 200);
    }
    assert_eq!(daemon.get("/hello").status, 200);
    // 60 MB in all. All that exceeds the memory limit is in files, except for the bytes that hyper
    // buffers per connection.
    wait_until("responses are in files", || (count_spool_files(&daemon) > 20).then_some(()));
    let grown = daemon.rss().saturating_sub(before);
    assert!(grown < 50 * MIB, "{} KiB more", grown / 1024);
    let expected = pattern(1_000_000);
    for client in &mut slow {
        assert_same_bytes(&client.read_exact(expected.len()).unwrap(), &expected);
    }
}

#[test]
fn response_outlives_its_worker() {
    let daemon = with_limits(Rgun::fake(), "64MiB", "0").flags(["--workers", "1"]).start_ready();
    let worker = daemon.worker();
    let mut client = daemon.connect();
    assert_eq!(client.send_get("/large/20000000").response_head().status, 200);
    // The worker has finished the response when the next request is served.
    daemon.get("/hello");
    let pid = i32::try_from(worker).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
    wait_until("the worker exits", || (!daemon.descendants().contains(&worker)).then_some(()));
    assert_same_bytes(&client.read_exact(20_000_000).unwrap(), &pattern(20_000_000));
}

#[test]
fn client_that_never_reads_is_disconnected_and_logged() {
    let daemon = with_limits(Rgun::fake(), "64MiB", "0").set("timeouts.body", "700ms").start_ready();
    let mut client = daemon.connect();
    let id = client.send_get("/large/20000000").response_head().field("x-request-id").to_owned();
    let entry = daemon.log.wait_for("the client did not read");
    assert!(
        entry.contains("INFO") && entry.contains("GET /large/20000000 200: aborted within the body"),
        "{entry}"
    );
    assert!(entry.contains(&id) && entry.contains("rgun.bytes="), "{entry}");
    assert!(client.read_exact(20_000_000).is_err(), "the connection was not closed");
}

#[test]
fn only_clients_below_the_rate_are_disconnected() {
    let rgun = with_limits(Rgun::fake(), "64MiB", "0").set("limits.response_rate", "400KiB");
    let daemon = rgun.set("timeouts.body", "2s").start_ready();
    let mut slow = daemon.connect();
    let mut quick = daemon.connect();
    let id = slow.send_get("/large/20000000").response_head().field("x-request-id").to_owned();
    quick.send_get("/large/20000000").response_head();
    // Both clients read all the time.
    let mut taken = 0;
    wait_until("the slow client is disconnected", || {
        let block = 200_000.min(20_000_000 - taken);
        taken += block;
        assert!(quick.read_exact(block).is_ok(), "disconnected at {taken}");
        // The rate is measured between two checks of the daemon.
        std::thread::sleep(Duration::from_millis(50));
        slow.read_exact(1000).ok();
        (daemon.log.count("the client did not read") > 0).then_some(())
    });
    assert!(taken < 20_000_000, "the slow client is disconnected before the quick one has read all");
    assert!(quick.read_exact(20_000_000 - taken).is_ok());
    assert!(daemon.log.wait_for("the client did not read").contains(&id));
}

#[test]
fn client_of_a_silent_stream_does_not_count_as_slow() {
    let daemon = Rgun::fake().set("limits.response_rate", "1MiB").set("timeouts.body", "300ms").start_ready();
    let response = daemon.get("/stream/4/700");
    assert_eq!(response.text(), "part 0\npart 1\npart 2\npart 3\n");
}

#[test]
fn reload_changes_the_response_limits() {
    let rgun = Rgun::fake().without_worker_count();
    let path = rgun.scratch().join("rgun.toml");
    let limits = |memory: &str| {
        let text =
            format!("[workers]\ncount = 1\n[limits]\nresponse_memory = \"{memory}\"\nresponse_disk = 0\n");
        fs::write(&path, text).unwrap();
    };
    limits("1MiB");
    let daemon = rgun.flags(["--config", path.to_str().unwrap()]).start_ready();
    let mut client = daemon.connect();
    client.send_get("/large/20000000").response_head();
    let mut other = daemon.connect();
    other.send_get("/hello");
    assert!(other.receives_nothing_for(Duration::from_millis(300)), "the only worker should wait");
    limits("64MiB");
    daemon.signal(nix::sys::signal::Signal::SIGHUP);
    daemon.log.wait_for("generation 2 serves");
    assert_eq!(other.response().status, 200);
    assert_same_bytes(&client.read_exact(20_000_000).unwrap(), &pattern(20_000_000));
}
