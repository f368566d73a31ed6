//! Reloads when files change (`reload.on_change`). `tests/compat` tests them with real
//! applications.

use crate::support::{Client, Daemon, Rgun, wait_until};

/// Configures fake workers whose next boot is decided by the file `behaviour`. Fake workers report
/// no files, so the tests change `.env`, which the daemon watches by itself.
fn rgun() -> Rgun {
    let rgun = Rgun::fake();
    let behaviour = format!("@{}", rgun.scratch().join("behaviour").display());
    rgun.fake_behaviour(&behaviour).flags(["--reload"])
}

/// Sets the behaviour of the worker that boots next, and changes a watched file.
fn change(daemon: &Daemon, behaviour: &str) {
    daemon.scratch().write("behaviour", behaviour);
    daemon.scratch().write(".env", behaviour);
}

/// Opens a page as a browser does. Returns the status and the body.
fn open_page(client: &mut Client, host: &str) -> (u16, String) {
    client.send(format!(
        "GET /hello HTTP/1.1\r\nhost: {host}\r\naccept: text/html\r\nsec-fetch-mode: navigate\r\n\
         sec-fetch-dest: document\r\n\r\n"
    ));
    let response = client.response();
    (response.status, response.text())
}

#[test]
fn failed_reload_is_shown_once_in_a_local_browser() {
    let daemon = rgun().over_tcp().start_ready();
    let mut client = daemon.connect();
    assert_eq!(open_page(&mut client, "localhost").0, 200);
    change(&daemon, "failed");
    daemon.log.wait_for(".env changed; reloading");
    daemon.log.wait_for("reload failed: ");
    assert_eq!(client.get("/hello").status, 200, "programs get the response of the old code");
    assert_eq!(
        open_page(&mut client, "example.org").0,
        200,
        "pages of another host are not from this machine"
    );
    let through_tunnel = "localhost\r\nx-forwarded-for: 203.0.113.7";
    assert_eq!(open_page(&mut client, through_tunnel).0, 200, "a tunnel's client is not on this machine");
    // This connection is older than the failure.
    let (status, page) = open_page(&mut client, "localhost:8000");
    assert_eq!(status, 503);
    assert!(page.contains("the fake application does not load"), "{page}");
    assert!(page.contains("<pre>Traceback") && page.contains("Fake: boom"), "{page}");
    assert_eq!(open_page(&mut client, "localhost").0, 200, "loading the page again shows the old code");
}

#[test]
fn corrected_code_removes_the_failure_page() {
    let daemon = rgun().over_tcp().start_ready();
    change(&daemon, "failed");
    daemon.log.wait_for("reload failed: ");
    change(&daemon, "");
    daemon.log.wait_for("reloaded: generation 3 serves");
    assert_eq!(open_page(&mut daemon.connect(), "localhost").0, 200);
}

#[test]
fn failed_start_shows_a_page_that_reloads_itself() {
    let rgun = rgun().over_tcp();
    rgun.scratch().write("behaviour", "failed");
    let daemon = rgun.start_after("did not boot");
    for _ in 0..2 {
        let mut client = daemon.connect();
        let (status, page) = open_page(&mut client, "localhost");
        assert_eq!(status, 503);
        assert!(page.contains("this page reloads itself") && page.contains("Fake: boom"), "{page}");
    }
    change(&daemon, "");
    daemon.log.wait_for("is ready after");
    assert_eq!(open_page(&mut daemon.connect(), "localhost").0, 200);
}

#[test]
fn changed_configuration_is_read_again() {
    let rgun = rgun().without_worker_count();
    let path = rgun.scratch().join("rgun.toml");
    std::fs::write(&path, "[workers]\ncount = 1\n").expect("a new file");
    let daemon = rgun.flags(["--config", path.to_str().expect("ASCII")]).start_ready();
    std::fs::write(&path, "[workers]\ncount = \"many\"\n").expect("a writable file");
    daemon.log.wait_for("reload refused, the configuration is wrong");
    std::fs::write(&path, "[workers]\ncount = 2\n").expect("a writable file");
    daemon.log.wait_for("rgun.toml changed; reloading");
    daemon.log.wait_for("reloaded: generation 2 serves");
    wait_until("only the new workers are left", || (daemon.descendants().len() == 2).then_some(()));
}

#[test]
fn files_are_polled_when_inotify_is_at_its_limit() {
    for (limit, advice) in [
        ("max_inotify_watches", "sysctl fs.inotify.max_user_watches="),
        ("max_inotify_instances", "sysctl fs.inotify.max_user_instances="),
    ] {
        let daemon = rgun().user_limit(limit, 0).start_ready();
        let line = daemon.log.wait_for("inotify cannot watch the application's files");
        assert!(line.contains(advice) && line.contains("Polling the files every "), "{line}");
        change(&daemon, "");
        daemon.log.wait_for(".env changed; reloading");
        daemon.log.wait_for("reloaded: generation 2 serves");
    }
}

#[test]
fn without_on_change_no_thread_watches_files() {
    let threads = |daemon: &Daemon| {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).expect("a running process");
        let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
        names.filter(|name| name.contains("watch") || name.contains("notify")).count()
    };
    let is_inotify = |target: &String| target.contains("inotify");
    let off = Rgun::fake().start_ready();
    assert_eq!((threads(&off), off.descriptors().iter().filter(|it| is_inotify(it)).count()), (0, 0));
    let on = rgun().start_ready();
    // They start beside the first worker.
    wait_until("two threads watch", || {
        let found = (threads(&on), on.descriptors().iter().filter(|it| is_inotify(it)).count());
        (found == (2, 1)).then_some(())
    });
}
