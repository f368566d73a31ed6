//! `[[static]]`: raw responses for files that a client may get, and for files that it must not get.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::stat::Mode;

use crate::support::site::{get, make_site, request, site, start};
use crate::support::{Rgun, pattern};

const TAG: &str = "etag";

#[test]
fn file_is_sent_with_type_validators_and_id() {
    let daemon = start("/static/", "");
    let mut client = daemon.connect();
    for _ in 0..3 {
        let response = client.get("/static/css/a.css");
        assert_eq!((response.status, response.text().as_str()), (200, "body {}\n"));
        for (name, value) in [
            ("content-type", "text/css; charset=utf-8"),
            ("content-length", "8"),
            ("accept-ranges", "bytes"),
            ("cache-control", "public, max-age=60"),
            ("vary", "Accept-Encoding"),
        ] {
            assert_eq!(response.field(name), value);
        }
        assert!(response.field("etag").starts_with('"'));
        assert!(response.field("last-modified").ends_with(" GMT"));
        assert!(response.has("x-request-id") && response.has("date"));
    }
    assert_eq!(client.get("/static/a%20b.txt?v=1").text(), "0123456789");
    assert_eq!(client.get("/static/empty.txt").field("content-length"), "0");
    assert_eq!(client.get("/static/plain").field("content-type"), "application/octet-stream");
    let large = client.get("/static/large.bin");
    assert_eq!(large.body, pattern(1 << 20));
    assert!(!large.has("content-encoding"));
    assert_eq!(client.get("/hello").text(), "Hello, world!");
}

#[test]
fn head_has_the_fields_of_get_and_no_body() {
    let daemon = start("/static/", "");
    let mut client = daemon.connect();
    let got = client.get("/static/css/a.css");
    let head = request(&mut client, "HEAD", "/static/css/a.css", &[("Range", "bytes=0-1")]);
    assert_eq!(head.status, 200, "RFC 9110 §14.2: a Range has no meaning for HEAD");
    for name in ["content-length", "content-type", TAG, "last-modified", "cache-control"] {
        assert_eq!(head.field(name), got.field(name));
    }
    assert_eq!(client.get("/static/css/a.css").status, 200);
}

#[test]
fn paths_without_a_served_file_are_answered_404() {
    let daemon = start("/static/", "");
    let mut client = daemon.connect();
    let site = site(&daemon);
    symlink("../secret.txt", site.join("out")).unwrap();
    symlink("css/a.css", site.join("in")).unwrap();
    symlink(daemon.scratch().path(), site.join("up")).unwrap();
    nix::unistd::mkfifo(&site.join("fifo"), Mode::S_IRWXU).unwrap();
    for path in [
        "no",
        "css",
        "css/",
        "empty/",
        "css/a.css/",
        "css/a.css/x",
        "../secret.txt",
        "css/../a%20b.txt",
        "%2e%2e/secret.txt",
        "..%2fsecret.txt",
        "css%2fa.css",
        "css%5ca.css",
        "css\\a.css",
        "css//a.css",
        "/etc/passwd",
        "a%00b",
        "%",
        "%zz",
        ".env",
        ".git/config",
        "%2egit/config",
        "out",
        "in",
        "up/secret.txt",
        "fifo",
        "./css/a.css",
        "app.js.br/",
    ] {
        client.get(&format!("/static/{path}")).assert_error(404);
    }
    let long = "a".repeat(5000);
    client.get(&format!("/static/{long}")).assert_error(404);
    assert_eq!(client.get("/static/.well-known/acme-challenge/token").text(), "token.key");
}

#[test]
fn links_are_followed_where_they_are_allowed() {
    for (setting, inside, outside) in [("\"inside\"", 200, 404), ("true", 200, 200)] {
        let daemon = start("/static/", &format!("follow_links = {setting}"));
        symlink("../secret.txt", site(&daemon).join("out")).unwrap();
        symlink("css/a.css", site(&daemon).join("in")).unwrap();
        symlink(daemon.scratch().path(), site(&daemon).join("up")).unwrap();
        symlink("loop", site(&daemon).join("loop")).unwrap();
        for (path, status) in [
            ("in", inside),
            ("out", outside),
            ("up/secret.txt", outside),
            ("loop", 404),
            ("up/../secret.txt", 404),
        ] {
            assert_eq!(daemon.get(&format!("/static/{path}")).status, status, "{setting} {path}");
        }
    }
}

#[test]
fn conditional_requests_are_answered_304_or_412() {
    let daemon = start("/static/", "");
    let mut client = daemon.connect();
    let got = client.get("/static/css/a.css");
    let (tag, date) = (got.field(TAG).to_owned(), got.field("last-modified").to_owned());
    for (name, value) in
        [("If-None-Match", &tag), ("If-None-Match", &format!("W/{tag}")), ("If-Modified-Since", &date)]
    {
        let response = get(&mut client, "/static/css/a.css", &[(name, value)]);
        assert_eq!((response.status, response.body.len()), (304, 0), "{name}");
        for name in [TAG, "cache-control", "vary"] {
            assert_eq!(response.field(name), got.field(name), "RFC 9110 §15.4.5");
        }
        assert!(response.has("x-request-id") && !response.has("content-type"));
    }
    assert_eq!(get(&mut client, "/static/css/a.css", &[("If-None-Match", "\"x\"")]).status, 200);
    get(&mut client, "/static/css/a.css", &[("If-Match", "\"x\"")]).assert_error(412);
    assert_eq!(get(&mut client, "/static/css/a.css", &[("If-Match", tag.as_str())]).status, 200);
}

#[test]
fn ranges_are_sent_as_206_or_refused_as_416() {
    let daemon = start("/static/", "");
    let mut client = daemon.connect();
    for (range, body, content_range) in [
        ("bytes=0-3", "0123", "bytes 0-3/10"),
        ("bytes=4-", "456789", "bytes 4-9/10"),
        ("bytes=-2", "89", "bytes 8-9/10"),
        ("bytes=9-100", "9", "bytes 9-9/10"),
    ] {
        let response = get(&mut client, "/static/a%20b.txt", &[("Range", range)]);
        assert_eq!((response.status, response.text().as_str()), (206, body));
        assert_eq!(response.field("content-range"), content_range);
        assert_eq!(response.field("content-length"), body.len().to_string());
    }
    for range in ["bytes=5-4", "bytes=x", "lines=0-1"] {
        let response = get(&mut client, "/static/a%20b.txt", &[("Range", range)]);
        assert_eq!((response.status, response.body.len()), (200, 10), "{range}");
    }
    let refused = get(&mut client, "/static/a%20b.txt", &[("Range", "bytes=10-")]);
    assert_eq!(refused.assert_error(416).field("content-range"), "bytes */10");
    let end = get(&mut client, "/static/large.bin", &[("Range", "bytes=300000-700000")]);
    assert_eq!(end.body, pattern(1 << 20)[300_000..=700_000]);
}

#[test]
fn several_ranges_are_sent_as_multipart() {
    let daemon = start("/static/", "");
    let mut client = daemon.connect();
    let response = get(&mut client, "/static/a%20b.txt", &[("Range", "bytes=0-1,-2")]);
    assert_eq!(response.status, 206);
    let boundary = response.field("content-type").strip_prefix("multipart/byteranges; boundary=").unwrap();
    let kind = "Content-Type: text/plain; charset=utf-8";
    let expected = format!(
        "--{boundary}\r\n{kind}\r\nContent-Range: bytes 0-1/10\r\n\r\n01\r\n--{boundary}\r\n{kind}\r\n\
         Content-Range: bytes 8-9/10\r\n\r\n89\r\n--{boundary}--\r\n"
    );
    assert_eq!(response.text(), expected);
    assert_eq!(response.field("content-length"), expected.len().to_string());
    let whole = get(&mut client, "/static/a%20b.txt", &[("Range", "bytes=0-,0-,0-,0-")]);
    assert_eq!((whole.status, whole.body.len()), (200, 10), "overlapping ranges do not amplify");
    let large = get(&mut client, "/static/large.bin", &[("Range", "bytes=0-299999,500000-799999")]);
    assert_eq!(large.status, 206);
    assert!(large.body.len() > 600_000 && large.body.len() < 600_500);
}

#[test]
fn if_range_decides_between_part_and_whole() {
    let daemon = start("/static/", "");
    let mut client = daemon.connect();
    let got = client.get("/static/a%20b.txt");
    for (value, status) in [
        (got.field(TAG), 206),
        (got.field("last-modified"), 206),
        ("\"x\"", 200),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 200),
    ] {
        let fields = [("Range", "bytes=0-1"), ("If-Range", value)];
        assert_eq!(get(&mut client, "/static/a%20b.txt", &fields).status, status, "{value}");
    }
}

#[test]
fn precompressed_files_have_their_own_etags() {
    let daemon = start("/static/", "");
    let mut client = daemon.connect();
    let mut tags = Vec::new();
    for (accepts, encoding, body) in [
        ("", None, "plain javascript"),
        ("gzip", Some("gzip"), "GZIP"),
        ("gzip, zstd", Some("zstd"), "ZSTD!"),
        ("gzip, deflate, br, zstd", Some("br"), "BROTLI"),
        ("br;q=0, gzip;q=0.1", Some("gzip"), "GZIP"),
    ] {
        let response = get(&mut client, "/static/app.js", &[("Accept-Encoding", accepts)]);
        assert_eq!((response.status, response.text().as_str()), (200, body), "{accepts}");
        assert_eq!(response.has("content-encoding").then(|| response.field("content-encoding")), encoding);
        assert_eq!(response.field("vary"), "Accept-Encoding");
        assert_eq!(response.field("content-type"), "text/javascript; charset=utf-8");
        tags.push(response.field(TAG).to_owned());
    }
    tags.dedup();
    tags.sort();
    tags.dedup();
    assert_eq!(tags.len(), 4, "{tags:?}");
    // A part of one representation must not be completed by another.
    let plain = client.get("/static/app.js").field(TAG).to_owned();
    let fields = [("Accept-Encoding", "br"), ("Range", "bytes=0-1"), ("If-Range", plain.as_str())];
    assert_eq!(get(&mut client, "/static/app.js", &fields).text(), "BROTLI");
    let copy = get(&mut client, "/static/app.js.br", &[("Accept-Encoding", "br")]);
    assert_eq!((copy.text().as_str(), copy.field("content-type")), ("BROTLI", "application/octet-stream"));
}

#[test]
fn precompressed_file_older_than_its_original_is_not_used() {
    let daemon = start("/static/", "");
    let old = fs::File::options().write(true).open(site(&daemon).join("app.js.br")).unwrap();
    old.set_modified(std::time::SystemTime::now() - std::time::Duration::from_mins(1)).unwrap();
    let response = get(&mut daemon.connect(), "/static/app.js", &[("Accept-Encoding", "br")]);
    assert_eq!((response.text().as_str(), response.has("content-encoding")), ("plain javascript", false));
}

#[test]
fn cache_control_follows_name_and_settings() {
    let year = "public, max-age=31536000, immutable";
    for (lines, path, expected) in [
        ("", "app.55e7cbb9ba48.css", Some(year)),
        ("", "docs/", Some("no-cache")),
        ("max_age = \"1h\"", "css/a.css", Some("public, max-age=3600")),
        ("max_age = \"0s\"", "css/a.css", Some("no-cache")),
        ("max_age = \"off\"", "css/a.css", None),
        ("max_age = \"off\"", "docs/", None),
        ("immutable = true", "css/a.css", Some(year)),
        ("immutable = true", "docs/", Some("no-cache")),
        ("immutable = false", "app.55e7cbb9ba48.css", Some("public, max-age=60")),
    ] {
        let response = start("/static/", lines).get(&format!("/static/{path}"));
        let found = response.has("cache-control").then(|| response.field("cache-control"));
        assert_eq!((response.status, found), (200, expected), "{lines} {path}");
    }
}

#[test]
fn directory_answers_with_its_index_or_redirects() {
    let daemon = start("/static/", "");
    let mut client = daemon.connect();
    let index = client.get("/static/docs/");
    assert_eq!((index.text().as_str(), index.field("content-type")), ("<p>docs", "text/html; charset=utf-8"));
    let redirect = client.get("/static/docs?a=b");
    assert_eq!((redirect.status, redirect.field("location")), (301, "./docs/?a=b"));
    assert_eq!(redirect.field("content-length"), "0");
    assert_eq!(client.get("/static/").text(), "<p>page");
    let root = client.get("/static?a=b");
    assert_eq!((root.status, root.field("location")), (301, "./static/?a=b"));
    let off = start("/static/", "index = \"off\"");
    assert!(!off.get("/static").has("location"), "of the application: the directory has no page");
    assert_eq!(off.get("/static/docs/").status, 404, "no listing");
    let list = start("/", "index = [\"none.html\", \"index.html\"]");
    assert_eq!(list.get("/docs/").text(), "<p>docs");
    // The redirect must not name another host.
    let response = list.get("//docs");
    assert!(!response.has("location"), "{:?}", response.fields);
}

#[test]
fn other_methods_are_answered_405_with_allow() {
    let daemon = start("/static/", "");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let mut client = daemon.connect();
        client.send(format!(
            "{method} /static/css/a.css HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nab"
        ));
        let response = client.response();
        assert_eq!(response.assert_error(405).field("allow"), "GET, HEAD", "{method}");
    }
    assert_eq!(daemon.get("/static/css/a.css").status, 200);
}

#[test]
fn fallback_app_leaves_the_rest_to_the_application() {
    let daemon = start("/", "fallback = \"app\"");
    let mut client = daemon.connect();
    assert_eq!(client.get("/css/a.css").text(), "body {}\n");
    assert_eq!(client.get("/hello").text(), "Hello, world!");
    client.send("POST /body HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(client.response().text(), "abc");
    client.send("GET /body HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(client.response().text(), "abc");
    for path in ["/.env", "/%2e%2e/secret.txt", "/css%2fa.css"] {
        assert_eq!(client.get(path).status, 404, "the application's answer");
    }
}

#[test]
fn fallback_page_answers_paths_of_a_browser_application() {
    let daemon = start("/", "fallback = \"index.html\"");
    let mut client = daemon.connect();
    for path in ["/", "/users/7", "/users/john.doe", "/v1.0"] {
        let response = client.get(path);
        assert_eq!((response.status, response.text().as_str()), (200, "<p>page"), "{path}");
        assert_eq!(response.field("cache-control"), "no-cache");
    }
    client.get("/assets/index-old.js").assert_error(404);
    assert_eq!(client.get("/css/a.css").text(), "body {}\n");
}

#[test]
fn longest_prefix_applies() {
    let rgun = Rgun::fake();
    let site = make_site(rgun.scratch());
    let mount =
        |url: &str, path: &Path| format!("[[static]]\nurl = \"{url}\"\ndirectory = \"{}\"\n", path.display());
    let text = mount("/s/", &site)
        + &mount("/s/docs/", &site.join("css"))
        + &mount("/s/docs/x/", &site.join("docs"));
    let path = rgun.scratch().write("rgun.toml", &text);
    let daemon = rgun.flags(["--config", path.to_str().unwrap()]).start_ready();
    for (path, body) in
        [("/s/css/a.css", "body {}\n"), ("/s/docs/a.css", "body {}\n"), ("/s/docs/x/", "<p>docs")]
    {
        assert_eq!(daemon.get(path).text(), body, "{path}");
    }
    assert_eq!(daemon.get("/s").status, 301, "the directory has a page");
    assert_eq!(daemon.get("/s/docs").field("location"), "./docs/", "of the mount with the shorter prefix");
    assert!(!daemon.get("/sx").has("location"), "the application's");
}

#[test]
fn http_1_0_and_pipelined_requests_are_served() {
    let daemon = start("/static/", "");
    let mut client = daemon.connect();
    for path in ["large.bin", "css/a.css", "no", "a%20b.txt"] {
        client.send_get(&format!("/static/{path}"));
    }
    assert_eq!(client.response().body.len(), 1 << 20);
    assert_eq!(client.response().text(), "body {}\n");
    assert_eq!(client.response().status, 404);
    assert_eq!(client.response().text(), "0123456789");
    let mut old = daemon.connect();
    assert_eq!(old.send("GET /static/css/a.css HTTP/1.0\r\n\r\n").response().text(), "body {}\n");
    old.assert_closed();
}

#[test]
fn get_with_a_body_is_answered_and_closed() {
    let daemon = start("/static/", "");
    let mut client = daemon.connect();
    client.send("GET /static/css/a.css HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n");
    let response = client.response();
    assert_eq!((response.text().as_str(), response.field("connection")), ("body {}\n", "close"));
}
