//! A directory with static files, and a daemon that serves it.

use std::fs;
use std::path::PathBuf;

use super::{Client, Daemon, Response, Rgun, Scratch, pattern};

/// Makes a site below the scratch directory, and a secret file next to the site.
pub(crate) fn make_site(scratch: &Scratch) -> PathBuf {
    let site = scratch.join("site");
    for directory in ["", "css", "docs", "empty", ".git", ".well-known/acme-challenge", "sub"] {
        fs::create_dir_all(site.join(directory)).expect("the scratch directory is writable");
    }
    for (name, content) in [
        ("css/a.css", "body {}\n"),
        ("a b.txt", "0123456789"),
        ("docs/index.html", "<p>docs"),
        ("app.55e7cbb9ba48.css", "p {}\n"),
        ("plain", "?"),
        ("empty.txt", ""),
        (".env", "SECRET=1"),
        (".git/config", "[core]"),
        (".well-known/acme-challenge/token", "token.key"),
        ("index.html", "<p>page"),
    ] {
        fs::write(site.join(name), content).expect("the scratch directory is writable");
    }
    for (suffix, content) in [("", "plain javascript"), (".br", "BROTLI"), (".zst", "ZSTD!"), (".gz", "GZIP")]
    {
        fs::write(site.join(format!("app.js{suffix}")), content).expect("the scratch directory is writable");
    }
    fs::write(site.join("large.bin"), pattern(1 << 20)).expect("the scratch directory is writable");
    scratch.write("secret.txt", "outside");
    site
}

/// Adds `[[static]]` at `url` with further lines, and sets up the site.
pub(crate) fn with_mount(rgun: Rgun, url: &str, lines: &str) -> Rgun {
    let site = make_site(rgun.scratch());
    let text = format!("[[static]]\nurl = \"{url}\"\ndirectory = \"{}\"\n{lines}\n", site.display());
    let path = rgun.scratch().write("rgun.toml", &text);
    rgun.flags(["--config", path.to_str().expect("ASCII")])
}

pub(crate) fn start(url: &str, lines: &str) -> Daemon {
    with_mount(Rgun::fake(), url, lines).start_ready()
}

pub(crate) fn site(daemon: &Daemon) -> PathBuf {
    daemon.scratch().join("site")
}

/// Sends a GET with further fields.
pub(crate) fn get(client: &mut Client, path: &str, fields: &[(&str, &str)]) -> Response {
    request(client, "GET", path, fields)
}

pub(crate) fn request(client: &mut Client, method: &str, path: &str, fields: &[(&str, &str)]) -> Response {
    let mut lines = String::new();
    for (name, value) in fields {
        lines.extend([name, ": ", value, "\r\n"]);
    }
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: test\r\n{lines}\r\n")).response_to(method)
}
