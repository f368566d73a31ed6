//! Fields set by proxies (scheme, client, request id) are accepted only from trusted peers. Fields
//! that could be confused with them never reach an application.

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
    Rgun::fake()
        .over_tcp()
        .set("proxy.trusted", trusted)
        .flags(["--access-logfile", "/dev/stderr"])
        .start_ready()
}

#[test]
fn local_proxy_sets_scheme_and_client() {
    for rgun in [Rgun::fake(), Rgun::fake().over_tcp()] {
        let daemon = rgun.flags(["--access-logfile", "/dev/stderr"]).start_ready();
        let mut client = daemon.connect();
        let response = echo(&mut client, FORWARDED);
        assert_eq!(scheme_and_client(&response), pair("true", "192.0.2.7 0"));
        assert_eq!(response.value("x-forwarded-for"), "198.51.100.9, 192.0.2.7");
        let line = daemon.log.wait_for(response.field("x-request-id"));
        assert!(line.contains("rgun.client=192.0.2.7"), "{line}");
        let response = echo(&mut client, "X-Forwarded-For: [2001:db8::1]:4711\r\n");
        assert_eq!(scheme_and_client(&response), pair("false", "2001:db8::1 4711"), "no scheme was sent");
        let response = echo(&mut client, "X-Forwarded-Proto: http, https\r\n");
        assert_eq!(response.value("https"), "true", "the last value is the peer's");
        // The fields apply to one request only.
        assert_eq!(echo(&mut client, "").value("https"), "false");
    }
}

#[test]
fn proxy_sets_scheme_and_client_of_uploads() {
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
fn proxy_sets_scheme_and_client_of_websockets() {
    let daemon = Rgun::fake().fake_behaviour("asgi").flags(["--access-logfile", "/dev/stderr"]).start_ready();
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
        "fields of an untrusted unix socket are ignored too"
    );
}

#[test]
fn proxy_chain_is_followed_while_trusted() {
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
fn reload_changes_the_trusted_peers() {
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
        "an open connection keeps its setting"
    );
}

#[test]
fn forwarded_allow_ips_works_as_variable_and_flag() {
    let https = |rgun: Rgun| echo(&mut rgun.over_tcp().start_ready().connect(), FORWARDED).value("https");
    assert_eq!(https(Rgun::fake().variable("FORWARDED_ALLOW_IPS", "10.0.0.1")), "false");
    assert_eq!(https(Rgun::fake().variable("FORWARDED_ALLOW_IPS", "*")), "true");
    let both = Rgun::fake().variable("FORWARDED_ALLOW_IPS", "10.0.0.1");
    assert_eq!(https(both.flags(["--proxy-headers", "--forwarded-allow-ips", "127.0.0.1"])), "true");
}

const FORWARDED_ELEMENTS: &str = "Forwarded: for=198.51.100.9;proto=http\r\n\
     Forwarded: for=\"192.0.2.7:4711\";proto=https;host=shop.example, for=127.0.0.1;proto=http;host=inner\r\n";

#[test]
fn only_the_configured_kind_of_fields_is_read() {
    let both = format!("{FORWARDED_ELEMENTS}X-Forwarded-Proto: https\r\nX-Forwarded-For: 192.0.2.8\r\n");
    for (headers, expected) in
        [("forwarded", pair("true", "192.0.2.7 4711")), ("x-forwarded", pair("true", "192.0.2.8 0"))]
    {
        let daemon = Rgun::fake().over_tcp().set("proxy.headers", headers).start_ready();
        let response = echo(&mut daemon.connect(), &both);
        assert_eq!(scheme_and_client(&response), expected, "{headers}");
        assert_eq!(response.value("host"), "test", "host is not in proxy.fields");
        // Both reach the application unchanged.
        assert_eq!(response.value("x-forwarded-for"), "192.0.2.8");
        assert!(response.text().contains("forwarded: for=198.51.100.9;proto=http\n"), "{}", response.text());
        let other = if headers == "forwarded" { FORWARDED } else { FORWARDED_ELEMENTS };
        let (https, peer) = scheme_and_client(&echo(&mut daemon.connect(), other));
        assert!(https == "false" && peer.starts_with("127.0.0.1 "), "{headers}: {https} {peer}");
    }
    let daemon = Rgun::fake().set("proxy.headers", "off").start_ready();
    let fields = format!("{both}X-Request-ID: of-a-proxy\r\n");
    let response = echo(&mut daemon.connect(), &fields);
    assert_eq!(scheme_and_client(&response), pair("false", " 0"));
    assert_eq!(response.field("x-request-id"), "of-a-proxy", "the id does not depend on proxy.headers");
}

#[test]
fn forwarded_is_read_up_to_a_malformed_element() {
    let daemon = Rgun::fake()
        .over_tcp()
        .set("proxy.headers", "forwarded")
        .set("proxy.fields", "for,proto,host")
        .set("proxy.trusted", "loopback,10.0.0.0/8")
        .start_ready();
    let mut client = daemon.connect();
    let response = echo(&mut client, FORWARDED_ELEMENTS);
    assert_eq!(response.value("host"), "shop.example", "the host of the element that names the client");
    for (value, peer) in [
        ("for=192.0.2.66, for=192.0.2.7, for=10.0.0.1", "192.0.2.7 0"),
        ("for=\"[2001:db8::1]:80\", for=10.0.0.1", "2001:db8::1 80"),
        ("for=\"192.0.2.66, for=\"192.0.2.7\"", "192.0.2.7 0"),
        ("for=192.0.2.66, \", for=10.0.0.1", "10.0.0.1 0"),
        ("for=192.0.2.66, for=unknown;proto=https, for=10.0.0.1", "10.0.0.1 0"),
    ] {
        assert_eq!(echo(&mut client, &format!("Forwarded: {value}\r\n")).value("peer"), peer, "{value}");
    }
}

const PUBLISHED: &str = "X-Forwarded-Host: evil.example, shop.example\r\nX-Forwarded-Port: 8443\r\n\
     X-Forwarded-Prefix: /shop/\r\nX-Forwarded-Proto: https\r\n";

/// Returns the host, the server port and the root path that the application got.
fn published(response: &Response) -> [String; 3] {
    ["host", "server port", "root path"].map(|name| response.value(name))
}

#[test]
fn host_port_and_prefix_are_used_only_if_listed_in_fields() {
    for (fields, trusted, expected) in [
        ("for,proto", "loopback", ["test", "0", ""]),
        ("", "loopback", ["test", "0", ""]),
        ("host", "loopback", ["shop.example", "0", ""]),
        ("port", "loopback", ["test:8443", "8443", ""]),
        ("prefix", "loopback", ["test", "0", "/shop"]),
        ("host,port,prefix,proto", "loopback", ["shop.example:8443", "8443", "/shop"]),
        ("host,port,prefix,proto", "10.0.0.1", ["test", "0", ""]),
    ] {
        let rgun = Rgun::fake().over_tcp().set("proxy.fields", fields).set("proxy.trusted", trusted);
        let daemon = rgun.start_ready();
        let mut client = daemon.connect();
        let response = echo(&mut client, PUBLISHED);
        assert_eq!(published(&response), expected, "{fields} {trusted}");
        assert_eq!(
            response.value("https"),
            fields
                .contains("proto")
                .to_string()
                .replace("true", if trusted == "loopback" { "true" } else { "false" })
        );
        assert_eq!(response.value("x-forwarded-prefix"), "/shop/");
        assert_eq!(published(&echo(&mut client, "")), ["test", "0", ""], "for one request only");
    }
}

#[test]
fn unusable_host_port_and_prefix_are_ignored() {
    let daemon = Rgun::fake().set("proxy.fields", "host,port,prefix,proto").start_ready();
    let mut client = daemon.connect();
    for fields in [
        "X-Forwarded-Host: a b\r\nX-Forwarded-Port: 0\r\nX-Forwarded-Prefix: //evil.example\r\n",
        "X-Forwarded-Host: user@evil\r\nX-Forwarded-Port: 99999\r\nX-Forwarded-Prefix: /a/../b\r\n",
        "X-Forwarded-Host: ,\r\nX-Forwarded-Port: x\r\nX-Forwarded-Prefix: https://evil.example\r\n",
    ] {
        assert_eq!(published(&echo(&mut client, fields)), ["test", "0", ""], "{fields}");
    }
    let default = "X-Forwarded-Host: a.example:8000\r\nX-Forwarded-Port: 443\r\nX-Forwarded-Proto: https\r\n";
    assert_eq!(published(&echo(&mut client, default)), ["a.example", "443", ""], "the scheme's own port");
    let no_host = "GET /echo HTTP/1.0\r\nX-Forwarded-Port: 8080\r\n\r\n";
    let response = daemon.connect().send(no_host).response();
    assert_eq!(response.value("server port"), "8080");
    assert!(!response.text().contains("host:"), "{}", response.text());
    let two = "GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\nX-Forwarded-Host: c\r\n\r\n";
    assert_eq!(daemon.connect().send(two).response().status, 400, "the request itself must be valid");
}

#[test]
fn x_forwarded_proto_overrides_other_scheme_fields() {
    let daemon = Rgun::fake().start_ready();
    let mut client = daemon.connect();
    for (fields, https) in [
        ("X-Forwarded-Ssl: on\r\n", "true"),
        ("X-Forwarded-Protocol: ssl\r\n", "true"),
        ("X-Forwarded-Proto: http\r\nX-Forwarded-Ssl: on\r\n", "false"),
    ] {
        assert_eq!(echo(&mut client, fields).value("https"), https, "{fields}");
    }
}

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn trace_context_is_forwarded_and_its_ids_logged() {
    let daemon = trusting("");
    let mut client = daemon.connect();
    let fields = format!("traceparent: {TRACEPARENT}\r\ntracestate: vendor=1\r\ntracestate: other=2\r\n");
    let response = echo(&mut client, &fields);
    assert_eq!(response.value("traceparent"), TRACEPARENT);
    assert!(response.text().contains("tracestate: vendor=1\ntracestate: other=2\n"), "{}", response.text());
    let line = daemon.log.wait_for(response.field("x-request-id"));
    let ids = "rgun.trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\" rgun.parent_id=\"00f067aa0ba902b7\"";
    assert!(line.contains(ids), "{line}");
    let response = echo(&mut client, "traceparent: 00-evil\r\n");
    assert_eq!(response.value("traceparent"), "00-evil");
    let line = daemon.log.wait_for(response.field("x-request-id"));
    assert!(!line.contains("trace_id"), "{line}");
    let raising = format!("GET /raise HTTP/1.1\r\nHost: test\r\n{fields}\r\n");
    let response = daemon.connect().send(raising).response();
    assert!(daemon.log.wait_for(response.field("x-request-id")).contains(ids));
}

#[test]
fn request_id_is_accepted_from_trusted_peers_only() {
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
    assert_eq!(response.status, 400, "a control byte in a field is refused");
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
fn error_is_logged_with_the_clients_request_id() {
    let daemon = Rgun::fake().flags(["--no-proxy-headers"]).start_ready();
    let raising = "GET /raise HTTP/1.1\r\nHost: test\r\nX-Request-ID: theirs\r\n\r\n";
    let response = daemon.connect().send(raising).response();
    let line = daemon.log.wait_for(response.assert_error(500).field("x-request-id"));
    assert!(line.contains("rgun.client_request_id=\"theirs\""), "{line}");
}

#[test]
fn application_cannot_change_the_request_id() {
    let wsgi = "def application(environ, start_response):\n    \
                start_response('200 OK', [('X-Request-ID', 'the-applications')])\n    \
                return [environ['rgun.request_id'].encode()]\n";
    let asgi = "async def application(scope, receive, send):\n    \
                assert scope['type'] == 'http'\n    \
                await send({'type': 'http.response.start', 'status': 200,\n        \
                'headers': [(b'x-request-id', b'one'), (b'X-Request-Id', b'two')]})\n    \
                await send({'type': 'http.response.body', 'body': dict(scope['headers'])[b'x-request-id']})\n";
    for source in [wsgi, asgi] {
        let daemon = Rgun::python(source).flags(["--access-logfile", "/dev/stderr"]).start_ready();
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
