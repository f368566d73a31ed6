//! The PROXY protocol: a proxy names the client before the first byte of its connection.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::support::{Client, Daemon, Rgun, wait_until};

const V1: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";
const GET: &str = "GET /echo HTTP/1.1\r\nHost: test\r\n\r\n";
/// Part of the log entry of a connection that the daemon closed because of its header.
const REFUSED: &str = "its PROXY header";

/// Configures a daemon whose listener requires a header.
fn proxied() -> Rgun {
    Rgun::fake().over_tcp().set("listen.proxy_protocol", "true").flags(["--access-logfile", "/dev/stderr"])
}

/// Returns a header of version 2. `command` includes the version, `family` the transport. `rest` is
/// the addresses and TLVs.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let len = u16::try_from(rest.len()).expect("short").to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &len, rest].concat()
}

fn tcp4(tlvs: &[u8]) -> Vec<u8> {
    let addresses = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0x01, 0xbb];
    v2(0x21, 0x11, &[&addresses[..], tlvs].concat())
}

/// Returns the client and the scheme that the application gets for a request after this header.
fn client_after(daemon: &Daemon, header: &[u8]) -> (String, String) {
    let response = daemon.connect().send([header, GET.as_bytes()].concat()).response();
    assert_eq!(response.status, 200, "{}", header.escape_ascii());
    (response.value("peer"), response.value("https"))
}

fn pair(peer: &str, https: &str) -> (String, String) {
    (peer.to_owned(), https.to_owned())
}

#[test]
fn headers_of_both_versions_name_the_client() {
    let daemon = proxied().start_ready();
    let ipv6 = "PROXY TCP6 2001:db8::1 ::1 4711 443\r\n";
    let ssl = [0x20, 0, 5, 1, 0, 0, 0, 0];
    for (header, expected) in [
        (V1.as_bytes().to_vec(), pair("192.0.2.7 4711", "false")),
        (ipv6.as_bytes().to_vec(), pair("2001:db8::1 4711", "false")),
        (tcp4(&[]), pair("192.0.2.7 4711", "false")),
        (tcp4(&[0x04, 0, 3, 0, 0, 0]), pair("192.0.2.7 4711", "false")),
        (tcp4(&ssl), pair("192.0.2.7 4711", "true")),
    ] {
        assert_eq!(client_after(&daemon, &header), expected, "{}", header.escape_ascii());
    }
    let mut client = daemon.connect();
    let response = client.send(format!("{V1}{GET}")).response();
    let line = daemon.log.wait_for(response.field("x-request-id"));
    assert!(line.contains("rgun.client=192.0.2.7"), "{line}");
    let second = client.send(GET).response();
    assert_eq!(second.value("peer"), "192.0.2.7 4711", "the header applies to the whole connection");
}

#[test]
fn local_unknown_and_unix_keep_the_proxys_address() {
    let daemon = proxied().start_ready();
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(),
        v2(0x20, 0x00, &[]),
        v2(0x21, 0x00, &[]),
        v2(0x21, 0x31, &[b'/'; 216]),
    ] {
        let (peer, https) = client_after(&daemon, &header);
        assert!(peer.starts_with("127.0.0.1 "), "{}: {peer}", header.escape_ascii());
        assert_eq!(https, "false");
    }
}

#[test]
fn header_may_arrive_byte_by_byte_and_over_unix() {
    for rgun in [proxied(), Rgun::fake().set("listen.proxy_protocol", "true")] {
        let daemon = rgun.start_ready();
        for header in [V1.as_bytes().to_vec(), tcp4(&[4; 400])] {
            let mut client = daemon.connect();
            for byte in &header {
                client.send([*byte]);
            }
            let response = client.send(GET).response();
            assert_eq!(response.value("peer"), "192.0.2.7 4711");
        }
    }
}

/// Sends bytes, and waits until the daemon has closed the connection without a response.
fn assert_refused(daemon: &Daemon, bytes: &[u8]) {
    let mut client = daemon.connect();
    client.send(bytes);
    client.assert_closed();
    assert_eq!(client.received(), b"", "{}", bytes.escape_ascii());
}

#[test]
fn connection_without_a_header_is_closed_and_logged() {
    for bytes in [
        GET.as_bytes().to_vec(),
        b"\x16\x03\x01\x02\x00\x01".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n".to_vec(),
        b"PROXY TCP4 localhost 198.51.100.1 4711 443\r\n".to_vec(),
        [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat(),
        v2(0x21, 0x11, &[0; 8]),
        v2(0x31, 0x11, &[0; 12]),
        v2(0x21, 0x11, &[0; 5000]),
    ] {
        let daemon = proxied().start_ready();
        assert_refused(&daemon, &bytes);
        let line = daemon.log.wait_for("PROXY header");
        assert!(line.contains("closed a connection of 127.0.0.1: "), "{line}");
        assert_eq!(client_after(&daemon, V1.as_bytes()).0, "192.0.2.7 4711");
    }
}

#[test]
fn rejected_headers_are_counted_by_client_and_reason() {
    let mut daemon = proxied().set("timeouts.header", "300ms").start_ready();
    for bytes in [GET, GET, GET, "PROXY TCP4 192.0", "PROXY TCP4 192.0"] {
        assert_refused(&daemon, bytes.as_bytes());
    }
    // Counted connections have an entry within a second, and at the stop at the latest.
    daemon.stop();
    daemon.log.wait_for_end();
    let text = daemon.log.text();
    let of = |what: &str| text.lines().filter(|line| line.contains(what)).collect::<Vec<_>>();
    let counted = |lines: &[&str]| {
        lines.len() + lines.iter().filter(|line| line.contains("(and 1 more within 1 s)")).count()
    };
    assert_eq!(counted(&of("kind=slow_proxy_header")), 2, "{text}");
    assert_eq!(counted(&of("kind=bad_proxy_header")), 3, "{text}");
}

#[test]
fn unfinished_header_ends_with_timeouts_header() {
    let daemon = proxied().set("timeouts.header", "300ms").start_ready();
    for part in [&b""[..], b"PROXY TCP4 192.0", &tcp4(&[])[..20]] {
        assert_refused(&daemon, part);
    }
    assert!(daemon.log.wait_for("within timeouts.header").contains(REFUSED));
    // A client that closes the connection early is not logged as a timeout.
    let mut client = daemon.connect();
    client.send("PROXY ").shutdown_write();
    client.assert_closed();
    assert_eq!(client_after(&daemon, V1.as_bytes()).0, "192.0.2.7 4711");
}

#[test]
fn connection_of_an_untrusted_proxy_is_closed() {
    for (key, peers) in [("proxy.trusted", "10.0.0.1"), ("proxy.protocol_trusted", "unix")] {
        let daemon = proxied().set(key, peers).start_ready();
        assert_refused(&daemon, format!("{V1}{GET}").as_bytes());
        daemon.log.wait_for("proxy.protocol_trusted does not list the peer");
    }
    let daemon = proxied().set("proxy.trusted", "").set("proxy.protocol_trusted", "127.0.0.1").start_ready();
    assert_eq!(client_after(&daemon, V1.as_bytes()).0, "192.0.2.7 4711");
}

#[test]
fn proxied_client_is_trusted_by_its_own_address() {
    let fields = "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n";
    let request = format!("{V1}GET /echo HTTP/1.1\r\nHost: test\r\n{fields}\r\n");
    let peer = |trusted: &str| {
        let rgun = proxied().set("proxy.trusted", trusted).set("proxy.protocol_trusted", "loopback");
        let response = rgun.start_ready().connect().send(&request).response();
        (response.value("peer"), response.value("https"))
    };
    assert_eq!(peer("loopback"), pair("192.0.2.7 4711", "false"), "only the proxy is trusted");
    assert_eq!(
        peer("loopback,192.0.2.0/24"),
        pair("203.0.113.9 0", "true"),
        "the client is trusted too, such as a CDN"
    );
}

#[test]
fn connection_limit_applies_to_the_clients_address() {
    let daemon = proxied().set("limits.connections_per_client", "1").start_ready();
    let mut first = daemon.connect();
    assert_eq!(first.send(format!("{V1}{GET}")).response().status, 200);
    assert_refused(&daemon, V1.as_bytes());
    daemon.log.wait_for("most recently one from 192.0.2.7");
    let other = "PROXY TCP4 192.0.2.8 198.51.100.1 4711 443\r\n";
    assert_eq!(client_after(&daemon, other.as_bytes()).0, "192.0.2.8 4711");
    drop(first);
    wait_until("the first connection is closed", || {
        let mut client = daemon.connect();
        client.send(format!("{V1}{GET}"));
        client.try_response("GET").ok()
    });
}

#[test]
fn connection_counts_towards_limits_before_its_header() {
    let daemon = proxied().set("limits.connections", "2").start_ready();
    let mut waiting = [daemon.connect(), daemon.connect()];
    let mut third = daemon.connect();
    third.send(format!("{V1}{GET}"));
    daemon.log.wait_for("2 connections are open, the limit");
    assert!(third.receives_nothing());
    let [first, _] = &mut waiting;
    first.send("x");
    assert_eq!(third.response().value("peer"), "192.0.2.7 4711");
}

#[test]
fn stop_does_not_wait_for_a_header_that_never_comes() {
    let mut daemon = proxied().set("timeouts.header", "60s").set("timeouts.drain", "60s").start_ready();
    let mut unfinished = [daemon.connect(), daemon.connect()];
    unfinished[1].send(&V1[..10]);
    let mut late = daemon.connect();
    late.send(&V1[..10]);
    wait_until("all connections are accepted", || {
        (daemon.descriptors().iter().filter(|to| to.starts_with("socket")).count() >= 3).then_some(())
    });
    daemon.signal(Signal::SIGTERM);
    late.send(&V1[10..]).send(GET);
    assert_eq!(late.response().value("peer"), "192.0.2.7 4711", "its header had begun to arrive");
    assert!(daemon.wait_exit().success());
    for mut client in unfinished {
        client.assert_closed();
    }
    let line = daemon.log.wait_for(REFUSED);
    assert!(line.contains("127.0.0.1: the daemon stopped before its PROXY header was complete"), "{line}");
    let text = daemon.log.text();
    assert_eq!(
        text.matches("PROXY header").count(),
        1,
        "the connection without a byte is not logged: {text}"
    );
}

#[test]
fn reload_changes_the_header_for_new_connections() {
    let rgun = Rgun::fake().over_tcp();
    let file = rgun.scratch().write("rgun.toml", "[app]\n");
    let daemon = rgun.flags(["--config", file.to_str().expect("ASCII")]).start_ready();
    let mut open = daemon.connect();
    assert_eq!(open.send(GET).response().status, 200);
    assert_eq!(
        daemon.connect().send(format!("{V1}{GET}")).response().status,
        400,
        "a PROXY header is not HTTP"
    );
    daemon.scratch().write("rgun.toml", "[listen]\nproxy_protocol = true\n");
    daemon.signal(Signal::SIGHUP);
    wait_until("new connections need a header", || {
        let mut client: Client = daemon.connect();
        client.send(format!("{V1}{GET}"));
        client.try_response("GET").ok().filter(|response| response.status == 200)
    });
    assert_eq!(open.send(GET).response().status, 200, "an open connection keeps its setting");
    assert!(open.receives_nothing_for(Duration::from_millis(20)));
}
