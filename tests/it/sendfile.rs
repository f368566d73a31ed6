//! `app.sendfile_roots`: files that the application names in `X-Sendfile` or `X-Accel-Redirect`.

use std::fs;

use crate::support::{Client, Daemon, Response, Rgun};

/// An application that responds with the fields in the query: `name=value` pairs, separated by `&`.
/// `status=…` sets the status, `body=…` the body.
const SOURCE: &str = "
from urllib.parse import parse_qsl

def application(environ, start_response):
    fields = parse_qsl(environ['QUERY_STRING'], keep_blank_values=True)
    status = dict(fields).get('status', '200 OK')
    body = dict(fields).get('body', '').encode()
    fields = [(name, value) for name, value in fields if name not in ('status', 'body')]
    start_response(status, fields)
    return [body]
";

/// Starts a daemon with files in a root. `prefixed`: the root has the prefix `/protected/`.
fn start(prefixed: bool) -> Daemon {
    let rgun = Rgun::python(SOURCE);
    let media = rgun.scratch().join("media");
    fs::create_dir_all(media.join("sub")).expect("the scratch directory is writable");
    fs::write(media.join("a b.txt"), "0123456789").expect("the scratch directory is writable");
    fs::write(media.join("sub/x.pdf"), "%PDF").expect("the scratch directory is writable");
    rgun.scratch().write("secret.txt", "secret");
    std::os::unix::fs::symlink("../secret.txt", media.join("link"))
        .expect("the scratch directory is writable");
    let directory = media.display();
    let roots =
        if prefixed { format!("{{ \"/protected/\" = '{directory}' }}") } else { format!("['{directory}']") };
    let path = rgun.scratch().write("rgun.toml", &format!("[app]\nsendfile_roots = {roots}\n"));
    rgun.flags(["--config", path.to_str().expect("ASCII")]).start_ready()
}

fn media(daemon: &Daemon, name: &str) -> String {
    daemon.scratch().join("media").join(name).display().to_string()
}

fn get(client: &mut Client, query: &str, fields: &str) -> Response {
    client.send(format!("GET /?{query} HTTP/1.1\r\nHost: test\r\n{fields}\r\n")).response()
}

#[test]
fn x_sendfile_sends_a_file_with_the_application_fields() {
    let daemon = start(false);
    let mut client = daemon.connect();
    let path = media(&daemon, "a%20b.txt");
    for _ in 0..2 {
        let query = format!("X-Sendfile={path}&Set-Cookie=a&Content-Disposition=attachment&ETag=%22x%22");
        let response = get(&mut client, &query, "");
        assert_eq!((response.status, response.text().as_str()), (200, "0123456789"));
        assert_eq!(response.field("content-type"), "text/plain; charset=utf-8");
        assert_eq!(
            (response.field("set-cookie"), response.field("content-disposition")),
            ("a", "attachment")
        );
        assert_eq!(response.field("content-length"), "10");
        assert_ne!(response.field("etag"), "\"x\"");
        assert!(!response.has("x-sendfile") && response.has("x-request-id"));
    }
    let typed = get(&mut client, &format!("X-Sendfile={path}&Content-Type=text/x&body=ignored"), "");
    assert_eq!((typed.field("content-type"), typed.text().as_str()), ("text/x", "0123456789"));
}

#[test]
fn x_accel_redirect_sends_the_file_below_its_prefix() {
    let daemon = start(true);
    let mut client = daemon.connect();
    let response = get(&mut client, "X-Accel-Redirect=/protected/a%2520b.txt&X-Accel-Buffering=no", "");
    assert_eq!((response.status, response.text().as_str()), (200, "0123456789"));
    assert!(!response.has("x-accel-redirect") && !response.has("x-accel-buffering"));
    let response = get(&mut client, "X-Accel-Redirect=/protected/sub/x.pdf", "");
    assert_eq!(response.field("content-type"), "application/pdf");
    let path = media(&daemon, "sub/x.pdf");
    assert_eq!(get(&mut client, &format!("X-Sendfile={path}"), "").text(), "%PDF");
}

#[test]
fn ranges_and_conditions_apply_to_a_named_file() {
    let daemon = start(false);
    let mut client = daemon.connect();
    let query = format!("X-Sendfile={}", media(&daemon, "a%20b.txt"));
    let whole = get(&mut client, &query, "");
    let part = get(&mut client, &query, "Range: bytes=2-3\r\n");
    assert_eq!((part.status, part.text().as_str()), (206, "23"));
    assert_eq!(part.field("content-range"), "bytes 2-3/10");
    // Werkzeug evaluates the range itself, and responds 206 without a body.
    let twice = get(
        &mut client,
        &format!("{query}&status=206%20Partial&Content-Range=bytes%200-1/10"),
        "Range: bytes=2-3\r\n",
    );
    assert_eq!((twice.status, twice.field("content-range")), (206, "bytes 2-3/10"));
    let tag = whole.field("etag");
    assert_eq!(get(&mut client, &query, &format!("If-None-Match: {tag}\r\n")).status, 304);
    let refused = get(&mut client, &query, "Range: bytes=10-\r\n");
    assert_eq!(refused.assert_error(416).field("content-range"), "bytes */10");
    let other = get(&mut client, &format!("{query}&status=404%20Gone"), "Range: bytes=2-3\r\n");
    assert_eq!((other.status, other.text().as_str()), (404, "0123456789"));
    let head = client.send(format!("HEAD /?{query} HTTP/1.1\r\nHost: test\r\n\r\n")).response_to("HEAD");
    assert_eq!(head.field("content-length"), "10");
}

#[test]
fn files_outside_of_the_roots_are_not_sent() {
    let daemon = start(true);
    let mut client = daemon.connect();
    for query in [
        "X-Sendfile=/etc/passwd".to_owned(),
        format!("X-Sendfile={}", media(&daemon, "../secret.txt")),
        "X-Accel-Redirect=/other/a".to_owned(),
        "X-Accel-Redirect=/protected/../secret.txt".to_owned(),
        "X-Accel-Redirect=/protected/%252e%252e/secret.txt".to_owned(),
    ] {
        let response = get(&mut client, &query, "");
        response.assert_error(502);
        assert!(
            !response.text().contains("passwd") && !response.text().contains("root:"),
            "{}",
            response.text()
        );
        daemon.log.wait_for("is in none of the directories of app.sendfile_roots");
    }
    for name in ["link", "none", "sub"] {
        get(&mut client, &format!("X-Accel-Redirect=/protected/{name}"), "").assert_error(404);
    }
}

#[test]
fn refused_files_are_formatted_by_accept() {
    let daemon = start(true);
    let mut client = daemon.connect();
    let formats = [
        ("", "text/plain; charset=utf-8"),
        ("Accept: application/json\r\n", "application/problem+json"),
        ("Accept: text/html\r\n", "text/html; charset=utf-8"),
    ];
    // The second lookup of a missing name is answered from the kernel's cache.
    for (path, status) in [("/other/a", 502), ("/protected/none", 404), ("/protected/none", 404)] {
        for (accept, content_type) in formats {
            let response = get(&mut client, &format!("X-Accel-Redirect={path}"), accept);
            let found = (response.status, response.field("content-type"));
            assert_eq!(found, (status, content_type), "{path} {accept}");
        }
    }
}

#[test]
fn without_roots_the_fields_are_passed_on() {
    let daemon = Rgun::python(SOURCE).start_ready();
    let response = get(&mut daemon.connect(), "X-Sendfile=/etc/hostname&X-Accel-Redirect=/a", "");
    assert_eq!((response.field("x-sendfile"), response.field("x-accel-redirect")), ("/etc/hostname", "/a"));
    assert!(response.body.is_empty());
    let list = start(false);
    let response = get(&mut list.connect(), "X-Accel-Redirect=/a", "");
    assert_eq!(response.field("x-accel-redirect"), "/a", "without prefixes the field is meant for a proxy");
}
