//! Fields set by proxies (scheme, client, request id) are accepted only from trusted peers. Fields that could be
//! confused with them never reach an application.

use nix::sys::signal::Signal;

use crate::support::websocket::WebSocket;
use crate::support::{Client, Daemon, Response, Rgun, wait_until};

const FORWARDED: &str = "X-Forwarded-Proto: https\r\nX-Forwarded-For: 198.51.100.9, 192.0.2.7\r\n";

/// Sends a request with these fields to the fake worker's `/echo`.
fn echo(client: &mut Client, fields: &str) -> Response {
    client.send(format!("GET /echo HTTP/1.1\r\nHost: test\r\n{fields}\r\n")).response()
}

/// Returns scheme and client as the application gets them.
fn scheme_and_client(response: &Response) -> (String, String) {
    (response.value("https"), response.value("peer"))
}

fn pair(https: &str, peer: &str) -> (String, String) {
    (https.to_owned(), peer.to_owned())
}

/// Starts a daemon on TCP that trusts these peers.
fn trusting(trusted: &str) -> Daemon {
    Rgun::fake().over_tcp().set("proxy.trusted", trusted).flags(["--access-logfile", "-"]).start_ready()
}

#[test]
fn a_local_proxy_sets_scheme_and_client() {
    for rgun in [Rgun::fake(), Rgun::fake().over_tcp()] {
        let daemon = rgun.flags(["--access-logfile", "-"]).start_ready();
        let mut client = daemon.connect();
        let response = echo(&mut client, FORWARDED);
        assert_eq!(scheme_and_client(&response), pair("true", "192.0.2.7 0"));
        assert_eq!(response.value("x-forwarded-for"), "198.51.100.9, 192.0.2.7");
        let line = daemon.log.wait_for(response.field("x-request-id"));
        assert!(line.contains("rgun.client=192.0.2.7"), "{line}");
        let response = echo(&mut client, "X-Forwarded-For: [2001:db8::1]:4711\r\n");
        assert_eq!(scheme_and_client(&response), pair("false", "2001:db8::1 4711"), "no scheme was sent");
        let response = echo(&mut client, "X-Forwarded-Proto: http, https\r\n");
        assert_eq!(response.value("https"), "true", "the last value is the peer's own");
        // The fields apply to one request only.
        assert_eq!(echo(&mut client, "").value("https"), "false");
    }
}

#[test]
fn a_proxy_sets_scheme_and_client_of_uploads() {
    for (rgun, route) in [(Rgun::fake(), "/echo"), (Rgun::fake().fake_behaviour("asgi"), "/echo")] {
        let daemon = rgun.start_ready();
        for body in
            ["Content-Length: 3\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"]
        {
            let head = format!("POST {route} HTTP/1.1\r\nHost: test\r\n{FORWARDED}");
            let response = daemon.connect().send(head + body).response();
            assert_eq!(scheme_and_client(&response), pair("true", "192.0.2.7 0"), "{body}");
        }
    }
}

#[test]
fn a_proxy_sets_scheme_and_client_of_websockets() {
    let daemon = Rgun::fake().fake_behaviour("asgi").flags(["--access-logfile", "-"]).start_ready();
    let mut socket = WebSocket::open_with(&daemon, "/scope", FORWARDED);
    let scope = String::from_utf8(socket.read_message().1).expect("text");
    assert!(scope.contains("https: true\n") && scope.contains("peer: 192.0.2.7 0\n"), "{scope}");
    let line = daemon.log.wait_for(socket.response.field("x-request-id"));
    assert!(line.contains("rgun.client=192.0.2.7"), "{line}");
}

#[test]
fn forwarded_fields_of_untrusted_peers_are_ignored() {
    for trusted in ["", "unix", "10.0.0.0/8,::1"] {
        let daemon = trusting(trusted);
        let response = echo(&mut daemon.connect(), FORWARDED);
        let (https, peer) = scheme_and_client(&response);
        assert_eq!(https, "false", "{trusted:?}");
        assert!(peer.starts_with("127.0.0.1 ") && peer != "127.0.0.1 0", "{trusted:?}: {peer}");
        assert_eq!(response.value("x-forwarded-proto"), "https");
        let line = daemon.log.wait_for(response.field("x-request-id"));
        assert!(line.contains("rgun.client=127.0.0.1"), "{line}");
    }
    let untrusting = Rgun::fake().flags(["--no-proxy-headers"]).start_ready();
    assert_eq!(
        scheme_and_client(&echo(&mut untrusting.connect(), FORWARDED)),
        pair("false", " 0"),
        "nor from a unix socket"
    );
}

#[test]
fn a_proxy_chain_is_followed_while_trusted() {
    let daemon = trusting("loopback,10.0.0.0/8");
    let mut client = daemon.connect();
    for (list, peer) in [
        ("192.0.2.7, 10.0.0.1", "192.0.2.7 0"),
        ("192.0.2.66, 192.0.2.7, 10.0.0.1, 127.0.0.1", "192.0.2.7 0"),
        ("10.0.0.2, 10.0.0.1", "10.0.0.2 0"),
        ("192.0.2.66, unknown, 10.0.0.1", "10.0.0.1 0"),
    ] {
        assert_eq!(echo(&mut client, &format!("X-Forwarded-For: {list}\r\n")).value("peer"), peer, "{list}");
    }
    let garbage = echo(&mut client, "X-Forwarded-For: <script>\r\nX-Forwarded-Proto: gopher\r\n");
    assert_eq!(garbage.value("https"), "false");
    assert!(garbage.value("peer").starts_with("127.0.0.1 "), "{}", garbage.text());
}

#[test]
fn a_reload_changes_the_trusted_peers() {
    let rgun = Rgun::fake();
    let file = rgun.scratch().write("rgun.toml", "[proxy]\ntrusted = []\n");
    let daemon = rgun.flags(["--config", file.to_str().expect("ASCII")]).start_ready();
    let mut open = daemon.connect();
    assert_eq!(scheme_and_client(&echo(&mut open, FORWARDED)), pair("false", " 0"));
    daemon.scratch().write("rgun.toml", "[proxy]\ntrusted = \"unix\"\n");
    daemon.signal(Signal::SIGHUP);
    wait_until("new connections are trusted", || {
        let response = echo(&mut daemon.connect(), FORWARDED);
        (scheme_and_client(&response) == pair("true", "192.0.2.7 0")).then_some(())
    });
    assert_eq!(
        scheme_and_client(&echo(&mut open, FORWARDED)),
        pair("false", " 0"),
        "an open one keeps what it began with"
    );
}

#[test]
fn forwarded_allow_ips_works_as_variable_and_flag() {
    let peer = |rgun: Rgun| echo(&mut rgun.over_tcp().start_ready().connect(), FORWARDED).value("https");
    assert_eq!(peer(Rgun::fake().variable("FORWARDED_ALLOW_IPS", "10.0.0.1")), "false");
    assert_eq!(peer(Rgun::fake().variable("FORWARDED_ALLOW_IPS", "*")), "true");
    let both = Rgun::fake().variable("FORWARDED_ALLOW_IPS", "10.0.0.1");
    assert_eq!(peer(both.flags(["--proxy-headers", "--forwarded-allow-ips", "127.0.0.1"])), "true");
}

#[test]
fn a_request_id_is_accepted_from_trusted_peers_only() {
    let daemon = trusting("10.0.0.0/8");
    let mut client = daemon.connect();
    let fields = "X-Request-ID: from-a-client\r\nX-Request-ID: second\r\n";
    let response = echo(&mut client, fields);
    let id = response.field("x-request-id");
    assert_eq!(id.len(), 22, "{id}");
    // The application gets the same id in the frame and in the field.
    assert_eq!((response.value("request id").as_str(), response.value("x-request-id").as_str()), (id, id));
    assert!(!response.text().contains("second"), "{}", response.text());
    let line = daemon.log.wait_for(id);
    assert!(line.contains("rgun.client_request_id=\"from-a-client\""), "{line}");
    let again = echo(&mut client, fields);
    assert_ne!(again.field("x-request-id"), id, "ids do not collide");

    let response = echo(&mut client, "X-Request-ID: a\"b\u{1b}[31m\r\n");
    assert_eq!(response.status, 400, "hyper refuses a control byte itself");
    let daemon = trusting("loopback");
    let mut client = daemon.connect();
    let response = echo(&mut client, fields);
    assert_eq!(response.field("x-request-id"), "from-a-client");
    assert_eq!(response.value("x-request-id"), "from-a-client");
    let line = daemon.log.wait_for("from-a-client");
    assert!(!line.contains("client_request_id"), "{line}");
    let response = echo(&mut client, "X-Request-ID: not safe \u{e9}\r\n");
    let line = daemon.log.wait_for(response.field("x-request-id"));
    assert!(line.contains(r#"rgun.client_request_id="not safe \xc3\xa9""#), "{line}");
}

#[test]
fn an_error_is_logged_with_the_clients_request_id() {
    let daemon = Rgun::fake().flags(["--no-proxy-headers"]).start_ready();
    let raising = "GET /raise HTTP/1.1\r\nHost: test\r\nX-Request-ID: theirs\r\n\r\n";
    let response = daemon.connect().send(raising).response();
    let line = daemon.log.wait_for(response.assert_error(500).field("x-request-id"));
    assert!(line.contains("rgun.client_request_id=\"theirs\""), "{line}");
}

#[test]
fn an_application_cannot_change_the_request_id() {
    let wsgi = "def application(environ, start_response):\n    \
                start_response('200 OK', [('X-Request-ID', 'the-applications')])\n    \
                return [environ['rgun.request_id'].encode()]\n";
    let asgi = "async def application(scope, receive, send):\n    \
                assert scope['type'] == 'http'\n    \
                await send({'type': 'http.response.start', 'status': 200,\n        \
                'headers': [(b'x-request-id', b'one'), (b'X-Request-Id', b'two')]})\n    \
                await send({'type': 'http.response.body', 'body': dict(scope['headers'])[b'x-request-id']})\n";
    for source in [wsgi, asgi] {
        let daemon = Rgun::python(source).flags(["--access-logfile", "-"]).start_ready();
        for fields in ["X-Request-ID: of-a-proxy\r\n", "X-Request-ID: not plain\r\n"] {
            let mut client = daemon.connect();
            let response = client.send(format!("GET / HTTP/1.1\r\nHost: test\r\n{fields}\r\n")).response();
            let id = response.field("x-request-id");
            assert_eq!(response.text(), id);
            assert!(daemon.log.wait_for(id).contains("GET / 200"));
        }
    }
}

#[test]
fn underscores_in_field_names_follow_the_policy() {
    let fields = "X_Real_IP: 192.0.2.66\r\nX-Real-IP: 192.0.2.7\r\nProxy: http://evil\r\n";
    for fake in ["wsgi", "asgi"] {
        let rgun = || if fake == "asgi" { Rgun::fake().fake_behaviour("asgi") } else { Rgun::fake() };
        let response = echo(&mut rgun().start_ready().connect(), fields);
        assert_eq!(response.value("x-real-ip"), "192.0.2.7");
        assert!(
            !response.text().contains("x_real_ip") && !response.text().contains("evil"),
            "{}",
            response.text()
        );

        let refusing = rgun().set("http.underscores", "refuse").start_ready();
        echo(&mut refusing.connect(), fields).assert_error(400);
        let plain = echo(&mut refusing.connect(), "Proxy: http://evil\r\n");
        assert!(plain.status == 200 && !plain.text().contains("evil"), "{}", plain.text());

        let allowing = rgun().flags(["--header-map", "dangerous"]).start_ready();
        let response = echo(&mut allowing.connect(), fields);
        assert_eq!(response.value("x_real_ip"), "192.0.2.66");
        assert!(!response.text().contains("evil"), "{}", response.text());
    }
}
