//! The daemon's own responses: their format by `Accept`, the pages of `[errors]`, and the page
//! while the application boots.

use nix::sys::signal::Signal;

use crate::support::{Daemon, Response, Rgun};

const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8";

fn get(daemon: &Daemon, path: &str, accept: &str) -> Response {
    let mut client = daemon.connect();
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nAccept: {accept}\r\n\r\n")).response()
}

/// Configures a daemon by this text, in which `@NAME` stands for the path of the page `NAME`.
fn with_file(text: &str, pages: &[(&str, &str)]) -> Rgun {
    let rgun = Rgun::fake();
    let mut text = text.to_owned();
    for (name, html) in pages {
        let path = rgun.scratch().write(name, html);
        text = text.replace(&format!("@{name}"), path.to_str().expect("ASCII"));
    }
    let path = rgun.scratch().write("rgun.toml", &text);
    rgun.flags(["--config", path.to_str().expect("ASCII")])
}

#[test]
fn application_error_is_formatted_by_accept() {
    let daemon = Rgun::fake().start_ready();
    let page = get(&daemon, "/raise", BROWSER);
    assert_eq!(page.assert_error(500).field("content-type"), "text/html; charset=utf-8");
    assert!(page.text().contains("<h1>500 Internal Server Error</h1>"), "{}", page.text());
    assert_eq!(page.field("vary"), "accept");
    let problem = get(&daemon, "/raise", "application/json, text/plain, */*");
    assert_eq!(problem.assert_error(500).field("content-type"), "application/problem+json");
    let id = problem.field("x-request-id");
    assert_eq!(
        problem.text(),
        format!(
            "{{\"type\":\"about:blank\",\"title\":\"Internal Server Error\",\"status\":500,\
             \"detail\":\"the application raised an error\",\"request_id\":\"{id}\"}}\n"
        )
    );
    for accept in ["*/*", "image/png", "text/html;q=0"] {
        let text = get(&daemon, "/raise", accept);
        assert_eq!(text.assert_error(500).field("content-type"), "text/plain; charset=utf-8", "{accept}");
    }
    let mut client = daemon.connect();
    assert_eq!(client.get("/raise").field("content-type"), "text/plain; charset=utf-8", "without Accept");
}

#[test]
fn each_kind_of_refusal_is_formatted_by_accept() {
    let daemon = Rgun::fake()
        .set("timeouts.request", "100ms")
        .set("limits.body", "4")
        .set("health.path", "/healthz")
        .start_ready();
    for (request, status) in [
        ("POST /healthz HTTP/1.1\r\nHost: a\r\n", 405),
        ("GET /hang HTTP/1.1\r\nHost: a\r\n", 504),
        ("GET /die HTTP/1.1\r\nHost: a\r\n", 502),
        ("GET /a HTTP/1.1\r\n", 400),
        ("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n", 405),
        ("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n", 413),
    ] {
        let mut client = daemon.connect();
        let response = client.send(format!("{request}Accept: {BROWSER}\r\n\r\n")).response();
        let content_type = response.assert_error(status).field("content-type");
        assert_eq!(content_type, "text/html; charset=utf-8", "{request}");
    }
}

#[test]
fn refused_handshake_is_formatted_by_accept() {
    let daemon = Rgun::fake_asgi().start_ready();
    let handshake = "Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    let mut client = daemon.connect();
    let response = client.send(format!("GET /a HTTP/1.1\r\n{handshake}Accept: {BROWSER}\r\n\r\n")).response();
    assert_eq!(response.assert_error(400).field("content-type"), "text/html; charset=utf-8");
}

#[test]
fn error_for_a_bad_head_is_formatted_by_its_accept() {
    let daemon = Rgun::fake().set("limits.request_line", "100").start_ready();
    let long = "a".repeat(200);
    for (head, status, html) in [
        (format!("GET /\x01 HTTP/1.1\r\nHost: a\r\nAccept: {BROWSER}\r\n\r\n"), 400, true),
        (format!("POST / HTTP/1.1\r\nHost: a\r\naccept:{BROWSER}\r\nContent-Length: x\r\n\r\n"), 400, true),
        (format!("GET / HTTP/1.1\r\nACCEPT: {BROWSER}\r\nBad Name: 1\r\n\r\n"), 400, true),
        (format!("GET /{long} HTTP/1.1\r\nHost: a\r\nAccept: {BROWSER}\r\n\r\n"), 414, true),
        (format!("GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\nAccept: {BROWSER}\r\n\r\n"), 400, false),
        ("GET /\x01 HTTP/1.1\r\nHost: a\r\nAccept: text/html;q=0\r\n\r\n".to_owned(), 400, false),
    ] {
        let mut client = daemon.connect();
        let response = client.send(head.clone()).response();
        let expected = if html { "text/html; charset=utf-8" } else { "text/plain; charset=utf-8" };
        assert_eq!(response.assert_error(status).field("content-type"), expected, "{head}");
    }
    let mut client = daemon.connect();
    let head = "GET / HTTP/1.1\r\nAccept: application/json\r\nHost: a\r\nHost: b\r\n\r\n";
    let response = client.send(head).response();
    assert_eq!(response.assert_error(400).field("content-type"), "application/problem+json");
}

#[test]
fn error_response_to_head_has_no_body() {
    let daemon = Rgun::fake().start_ready();
    let mut client = daemon.connect();
    let request = format!("HEAD /raise HTTP/1.1\r\nHost: a\r\nAccept: {BROWSER}\r\n\r\n");
    let response = client.send(request).response_to("HEAD");
    assert_eq!((response.status, response.body.len()), (500, 0));
    assert_ne!(response.field("content-length"), "0");
    assert_eq!(client.get("/hello").status, 200, "the next request is served");
}

#[test]
fn error_pages_replace_the_daemons_html_only() {
    let rgun = with_file(
        "[timeouts]\nrequest = \"100ms\"\n[errors]\n\"500\" = \"@500.html\"\n\"5xx\" = \"@5xx.html\"\n",
        &[("500.html", "<p>raised</p>"), ("5xx.html", "<p>tät</p>")],
    );
    let daemon = rgun.start_ready();
    let page = get(&daemon, "/raise", BROWSER);
    assert_eq!((page.status, page.text().as_str()), (500, "<p>raised</p>"));
    assert_eq!(page.field("content-type"), "text/html; charset=utf-8");
    assert_eq!(get(&daemon, "/hang", BROWSER).text(), "<p>tät</p>");
    get(&daemon, "/raise", "*/*").assert_error(500);
    get(&daemon, "/raise", "application/json").assert_error(500);
    assert_eq!(get(&daemon, "/status/500", BROWSER).text(), "", "the application's own response");
    let mut client = daemon.connect();
    let response = client.send(format!("GET /a HTTP/1.1\r\nAccept: {BROWSER}\r\n\r\n")).response();
    response.assert_error(400);
}

#[test]
fn reload_reads_the_error_pages_again() {
    let rgun = with_file("[errors]\n\"500\" = \"@500.html\"\n", &[("500.html", "one")]);
    let daemon = rgun.start_ready();
    let page = daemon.scratch().join("500.html");
    assert_eq!(get(&daemon, "/raise", BROWSER).text(), "one");
    std::fs::remove_file(&page).expect("it exists");
    assert_eq!(get(&daemon, "/raise", BROWSER).text(), "one", "the page is not read for each response");
    daemon.signal(Signal::SIGHUP);
    let line = daemon.log.wait_for("reload refused");
    assert!(line.contains("errors.500"), "{line}");
    daemon.scratch().write("500.html", "two");
    daemon.signal(Signal::SIGHUP);
    daemon.log.wait_for("reloaded: generation");
    assert_eq!(get(&daemon, "/raise", BROWSER).text(), "two");
}

#[test]
fn browser_gets_a_page_while_the_first_worker_boots() {
    let (rgun, gate) = Rgun::fake().set("timeouts.boot_page", "100ms").gated();
    let daemon = rgun.start();
    daemon.log.wait_for("listening on");
    let mut program = daemon.connect();
    program.send("GET /hello HTTP/1.1\r\nHost: a\r\nAccept: */*\r\n\r\n");
    let mut form = daemon.connect();
    let accept = format!("Accept: {BROWSER}");
    form.send(format!("POST /hello HTTP/1.1\r\nHost: a\r\n{accept}\r\nContent-Length: 0\r\n\r\n"));
    let mut script = daemon.connect();
    script.send(format!("GET /hello HTTP/1.1\r\nHost: a\r\nSec-Fetch-Mode: cors\r\n{accept}\r\n\r\n"));
    let mut browser = daemon.connect();
    let navigation =
        format!("GET /hello HTTP/1.1\r\nHost: a\r\nSec-Fetch-Mode: navigate\r\n{accept}\r\n\r\n");
    for _ in 0..2 {
        let page = browser.send(&navigation).response();
        page.assert_error(503);
        assert_eq!(page.field("content-type"), "text/html; charset=utf-8");
        assert_eq!((page.field("refresh"), page.field("retry-after")), ("2", "2"));
        assert!(page.text().contains("the application is starting"), "{}", page.text());
    }
    gate.open("");
    for client in [&mut program, &mut form, &mut script] {
        assert_eq!(client.response().text(), "Hello, world!", "the request waits for the worker");
    }
    assert_eq!(browser.send(&navigation).response().text(), "Hello, world!");
}

#[test]
fn browser_gets_the_response_after_a_short_boot() {
    let (rgun, gate) = Rgun::fake().set("timeouts.boot_page", "60s").gated();
    let daemon = rgun.start();
    daemon.log.wait_for("listening on");
    let mut browser = daemon.connect();
    browser.send(format!("GET /hello HTTP/1.1\r\nHost: a\r\nAccept: {BROWSER}\r\n\r\n"));
    let mut gone = daemon.connect();
    gone.send(format!("GET /pid HTTP/1.1\r\nHost: a\r\nAccept: {BROWSER}\r\n\r\n"));
    drop(gone);
    gate.open("");
    assert_eq!(browser.response().text(), "Hello, world!");
}
