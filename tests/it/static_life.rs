//! Static files that change on disk, and static files while workers boot and while the daemon
//! stops.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

use crate::support::site::{get, site, start, with_mount};
use crate::support::{Rgun, pattern, wait_until};

#[test]
fn files_are_served_while_no_worker_serves() {
    let (rgun, gate) = Rgun::fake().gated();
    let daemon = with_mount(rgun, "/static/", "").start();
    let mut client = daemon.connect();
    assert_eq!(client.get("/static/css/a.css").text(), "body {}\n", "the worker boots");
    gate.open("");
    assert_eq!(client.get("/hello").text(), "Hello, world!");
    let mut busy = daemon.connect();
    busy.send_get("/slow/2000");
    assert_eq!(client.get("/static/css/a.css").text(), "body {}\n", "the worker is busy");
    assert!(busy.receives_nothing());
}

#[test]
fn access_log_has_static_files_without_a_worker() {
    let daemon =
        with_mount(Rgun::fake().flags(["--access-logfile", "/dev/stderr"]), "/static/", "").start_ready();
    let mut client = daemon.connect();
    let response = client.get("/static/large.bin");
    let line = daemon.log.wait_for(response.field("x-request-id"));
    for fact in ["GET /static/large.bin 200", "rgun.status=200", "rgun.bytes=1048576"] {
        assert!(line.contains(fact), "{fact}: {line}");
    }
    assert!(!line.contains("rgun.worker="), "{line}");
    let missing = client.get("/static/no");
    let line = daemon.log.wait_for(missing.field("x-request-id"));
    assert!(line.contains("GET /static/no 404"), "{line}");
    let known = get(&mut client, "/static/css/a.css", &[("If-None-Match", "*")]);
    assert!(daemon.log.wait_for(known.field("x-request-id")).contains("/static/css/a.css 304"));
}

#[test]
fn file_replaced_while_sent_keeps_its_old_content() {
    let daemon = with_mount(Rgun::fake().over_tcp(), "/static/", "").start_ready();
    let huge = site(&daemon).join("huge.bin");
    fs::write(&huge, vec![b'a'; 64 << 20]).unwrap();
    let mut client = daemon.connect();
    assert_eq!(client.send_get("/static/huge.bin").response_head().status, 200);
    fs::write(site(&daemon).join("new"), "new").unwrap();
    fs::rename(site(&daemon).join("new"), &huge).unwrap();
    assert!(client.read_exact(64 << 20).unwrap().iter().all(|byte| *byte == b'a'));
    assert_eq!(client.get("/static/huge.bin").text(), "new");
}

#[test]
fn file_that_is_truncated_ends_the_connection() {
    let daemon = with_mount(Rgun::fake().over_tcp(), "/static/", "").start_ready();
    let huge = site(&daemon).join("huge.bin");
    fs::write(&huge, vec![b'a'; 64 << 20]).unwrap();
    let mut client = daemon.connect();
    assert_eq!(client.send_get("/static/huge.bin").response_head().status, 200);
    fs::File::options().write(true).open(&huge).unwrap().set_len(10).unwrap();
    assert!(client.read_exact(64 << 20).is_err(), "the client must see that the file is incomplete");
    daemon.log.wait_for("/static/huge.bin 200: aborted within the body");
    assert_eq!(daemon.get("/static/css/a.css").status, 200);
}

#[test]
fn directory_that_is_replaced_is_found_again() {
    let daemon = start("/static/", "");
    let mut client = daemon.connect();
    assert_eq!(client.get("/static/css/a.css").status, 200);
    fs::rename(site(&daemon), daemon.scratch().join("old")).unwrap();
    fs::create_dir_all(site(&daemon).join("css")).unwrap();
    fs::write(site(&daemon).join("css/a.css"), "new").unwrap();
    wait_until("the new directory is served", || {
        (client.get("/static/css/a.css").text() == "new").then_some(())
    });
}

#[test]
fn replaced_directory_entry_changes_the_response() {
    let daemon = start("/static/", "");
    let path = site(&daemon).join("plain");
    let mut client = daemon.connect();
    let mut expect = |status, text: &str, entry: &str| {
        for _ in 0..2 {
            let response = client.get("/static/plain");
            assert_eq!(response.status, status, "{entry}");
            if status == 200 {
                assert_eq!(response.text(), text, "{entry}");
                assert_eq!(response.field("content-length"), text.len().to_string(), "{entry}");
            }
        }
    };
    expect(200, "?", "the first file");
    fs::write(&path, "written in place").unwrap();
    expect(200, "written in place", "a file that was written again");
    fs::remove_file(&path).unwrap();
    expect(404, "", "nothing");
    nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
    expect(404, "", "a FIFO");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "a file again").unwrap();
    expect(200, "a file again", "a file again");
    fs::remove_file(&path).unwrap();
    symlink("css/a.css", &path).unwrap();
    expect(404, "", "a symlink");
    fs::remove_file(&path).unwrap();
    fs::write(&path, "the last file").unwrap();
    expect(200, "the last file", "the last file");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    expect(404, "", "a directory without an index");
    fs::write(path.join("index.html"), "index").unwrap();
    expect(301, "", "a directory with an index");
}

#[test]
fn validators_change_with_the_file() {
    let daemon = start("/static/", "");
    let path = site(&daemon).join("css/a.css");
    let mut client = daemon.connect();
    let tag = client.get("/static/css/a.css").field("etag").to_owned();
    assert_eq!(client.get("/static/css/a.css").field("etag"), tag);
    assert_eq!(get(&mut client, "/static/css/a.css", &[("If-None-Match", &tag)]).status, 304);
    let file = fs::File::options().write(true).open(&path).unwrap();
    let later = SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000);
    file.set_modified(later).unwrap();
    let changed = get(&mut client, "/static/css/a.css", &[("If-None-Match", &tag)]);
    assert_eq!((changed.status, changed.field("etag") == tag), (200, false));
    assert_eq!(changed.field("last-modified"), "Sun, 13 Sep 2020 12:26:40 GMT");
}

#[test]
fn files_of_all_sizes_are_sent_whole() {
    let daemon = with_mount(Rgun::fake().over_tcp(), "/static/", "").start_ready();
    let mut client = daemon.connect();
    for len in [1, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 262_144, 262_145, 5, 1_000_000, 17] {
        let content = pattern(len);
        fs::write(site(&daemon).join("sized"), &content).unwrap();
        assert!(client.get("/static/sized").body == content, "{len}");
        let part = get(&mut client, "/static/sized", &[("Range", "bytes=1-")]);
        if len > 1 {
            assert!(part.body == content[1..], "from the second of {len} bytes");
        }
    }
}

#[test]
fn unreadable_file_is_answered_403() {
    let daemon = with_mount(Rgun::fake().obeying_modes(), "/static/", "").start_ready();
    let path = site(&daemon).join("css/a.css");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    daemon.get("/static/css/a.css").assert_error(403);
}

#[test]
fn directory_that_vanishes_is_logged_once() {
    let daemon = start("/static/", "");
    assert_eq!(daemon.get("/static/css/a.css").status, 200);
    let (site, away) = (site(&daemon), daemon.scratch().join("away"));
    fs::rename(&site, &away).unwrap();
    let gone = "cannot open the directory";
    wait_until("the log names the directory", || {
        daemon.get("/static/css/a.css");
        (daemon.log.count(gone) > 0).then_some(())
    });
    for _ in 0..5 {
        assert_ne!(daemon.get("/static/css/a.css").status, 200);
    }
    assert!(daemon.log.wait_for(gone).contains("WARN") && daemon.log.wait_for(gone).contains("/site"));
    fs::rename(&away, &site).unwrap();
    wait_until("the directory is back", || (daemon.get("/static/css/a.css").status == 200).then_some(()));
    daemon.log.wait_for("/site is back");
    assert_eq!(daemon.log.count(gone), 1);
}

#[test]
fn missing_fallback_is_logged_at_start_and_once_at_use() {
    let daemon = start("/app/", "fallback = \"shell.html\"");
    let line = daemon.log.wait_for("fallback = \"shell.html\" is not a file in");
    assert!(line.contains("WARN") && line.contains("until it is there"), "{line}");
    for _ in 0..5 {
        daemon.get("/app/page").assert_error(404);
    }
    daemon.log.wait_for("(logged once)");
    assert_eq!(daemon.log.count("fallback = \"shell.html\""), 2);
    fs::write(site(&daemon).join("shell.html"), "shell").unwrap();
    assert_eq!(daemon.get("/app/page").text(), "shell");
}

#[test]
fn drain_lets_a_download_finish() {
    let mut daemon = with_mount(Rgun::fake().over_tcp(), "/static/", "").start_ready();
    fs::write(site(&daemon).join("huge.bin"), vec![b'a'; 32 << 20]).unwrap();
    let mut client = daemon.connect();
    assert_eq!(client.send_get("/static/huge.bin").response_head().status, 200);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(client.read_exact(32 << 20).unwrap().len(), 32 << 20);
    drop(client);
    assert!(daemon.wait_exit().success());
}

#[test]
fn invalid_mounts_exit_78_with_key_and_remedy() {
    let rgun = Rgun::fake();
    let path = rgun.scratch().write("rgun.toml", "[[static]]\nurl = \"static\"\ndirectory = \"/no/such\"\n");
    let (code, log, _) = rgun.flags(["--config", path.to_str().unwrap()]).run();
    assert_eq!(code, 78, "{log}");
    assert!(log.contains("static[0].url = \"static\"") && log.contains("write \"/static/\""), "{log}");
    assert!(log.contains("/no/such") && log.contains("mkdir -p /no/such"), "{log}");
}
