"""HTTP/2 with prior knowledge: concurrent requests on one connection, by h2, httpx and curl."""

import asyncio
import hashlib
import os
import shutil
import socket
import ssl
import subprocess
import time

import httpx
import pytest
from support.http2_client import PREFACE, Http2Connection, StreamWebSocket
from support.waiting import DEADLINE, wait_until

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def server(start):
    return start("streams:application")


@pytest.fixture
def connection(server):
    with Http2Connection(server.tcp_address) as connection:
        yield connection


def test_scope_differs_from_http1_only_in_version(connection):
    fields = [("cookie", "a=1"), ("x-b", "c"), ("cookie", "b=2"), ("te", "trailers")]
    response = connection.get("/scope/a%2fb?q=1", headers=fields)
    assert (response.status, response["content-type"] if response.all("content-type") else None) == (
        200,
        None,
    )
    scope = response.json()
    assert scope["http_version"] == "2"
    assert (scope["method"], scope["scheme"], scope["raw_path"]) == ("GET", "http", "/scope/a%2fb")
    assert scope["query"] == "q=1"
    assert scope["headers"][0] == ["host", "test"]
    received = [field for field in scope["headers"] if field[0] in ("cookie", "x-b", "te")]
    assert received == [["cookie", "a=1; b=2"], ["x-b", "c"], ["te", "trailers"]]
    assert not [name for name, _ in scope["headers"] if name.startswith(":")]
    assert not response.all("connection")
    assert not response.all("keep-alive")
    assert response["date"]
    assert response["x-request-id"]
    assert response["content-length"]


def test_wsgi_receives_large_bodies_with_their_length(start):
    server = start("streams:wsgi")
    body = os.urandom(3 * MIB)
    with Http2Connection(server.tcp_address) as connection:
        assert connection.get("/").json()["protocol"] == "HTTP/2.0"
        facts = connection.request("POST", "/", body=body).json()
        assert facts["length"] == len(body)
        assert facts["content_length"] == str(len(body))
        assert facts["digest"] == hashlib.sha256(body).hexdigest()
        # A WSGI application can take over only a whole connection, so the daemon refuses a CONNECT
        # for a WebSocket with PROTOCOL_ERROR.
        assert StreamWebSocket(connection, "/").stream.reset == 1


def test_slow_request_does_not_hold_up_the_others(connection):
    waiting = [connection.begin("GET", f"/wait/{number}") for number in range(50)]
    for _ in range(20):
        assert connection.get("/counts").status == 200
    assert not any(connection.streams[number].is_over for number in waiting)
    for number in range(50):
        connection.get(f"/open/{number}")
    assert [connection.response(number).body for number in waiting] == [b"opened"] * 50


def test_upload_of_any_size_is_received_whole(connection):
    for size in (0, 1, 65536, 65537, 5 * MIB):
        body = os.urandom(size)
        for headers in ([], [("content-length", str(size))]):
            response = connection.request("POST", "/upload", headers, body=body)
            expected = {"length": size, "digest": hashlib.sha256(body).hexdigest()}
            assert response.json() == expected, (size, headers)


def test_stuck_uploads_leave_the_connection_usable(server):
    """60 uploads fill their stream windows and stall; another upload still completes."""
    with Http2Connection(server.tcp_address) as connection:
        # The response follows the update of the connection's window.
        assert connection.get("/counts").status == 200
        held = [connection.begin("POST", "/hold/stuck", end=False) for _ in range(60)]
        for number in held:
            window = connection.h2.local_flow_control_window(number)
            while window:
                size = min(window, connection.h2.max_outbound_frame_size)
                connection.h2.send_data(number, bytes(size))
                connection.flush()
                window = connection.h2.local_flow_control_window(number)
        assert connection.request("POST", "/upload", body=bytes(MIB)).json()["length"] == MIB
        connection.get("/open/stuck")
        for number in held:
            connection.h2.end_stream(number)
            connection.flush()
        assert {connection.response(number).json()["length"] for number in held} == {131072}


def test_unread_download_does_not_block_another(server):
    with Http2Connection(server.tcp_address, credit=False) as connection:
        # The client sends no WINDOW_UPDATE, so the response stops after 65,535 bytes.
        stuck = connection.begin("GET", "/download/50")
        connection.wait("65,535 bytes", lambda: len(connection.streams[stuck].body) == 65535)
        connection.h2.increment_flow_control_window(10 * MIB)
        connection.flush()
        connection.credit = True
        assert len(connection.get("/download/50").body) == 50 * 65536
        assert len(connection.streams[stuck].body) == 65535
        connection.h2.increment_flow_control_window(10 * MIB, stuck)
        connection.flush()
        body = connection.response(stuck).body
        assert len(body) == 50 * 65536
        assert body == bytes(range(256)) * 256 * 50


def test_large_response_in_one_piece_is_complete(connection):
    response = connection.get(f"/whole/{10 * MIB}")
    assert response["content-length"] == str(10 * MIB)
    assert len(response.body) == 10 * MIB


def test_trailers_follow_the_body(connection):
    response = connection.get("/trailers", headers=[("te", "trailers")])
    assert response.body == b"body"
    assert response.trailers == [("x-digest", "abc"), ("x-more", "1")]


def test_request_trailers_are_dropped(connection):
    number = connection.begin("POST", "/upload", end=False)
    connection.h2.send_data(number, b"abc")
    connection.h2.send_headers(number, [("x-checksum", "1")], end_stream=True)
    connection.flush()
    assert connection.response(number).json()["length"] == 3


def test_early_hints_arrive_before_the_response(connection):
    number = connection.begin("GET", "/hints")
    stream = connection.streams[number]
    connection.wait("103", lambda: stream.interim)
    assert stream.status is None
    (hints,) = stream.interim
    assert (hints[":status"], hints["link"]) == ("103", "</style.css>; rel=preload; as=style")
    connection.get("/open/hints")
    assert connection.response(number).body == b"after hints"


def test_100_is_sent_when_the_application_reads_the_body(connection):
    number = connection.begin("POST", "/hold/continue", [("expect", "100-continue")], end=False)
    stream = connection.streams[number]
    assert connection.get("/counts").status == 200
    assert not stream.interim
    connection.get("/open/continue")
    connection.wait("100", lambda: stream.interim)
    assert stream.interim == [{":status": "100"}]
    connection.send_body(number, b"abc")
    assert connection.response(number).json()["length"] == 3


def test_response_head_without_a_body_ends_the_stream(connection):
    for method, path, status in [
        ("HEAD", "/whole/5", 200),
        ("GET", "/status/204", 204),
        ("GET", "/status/304", 304),
    ]:
        response = connection.request(method, path)
        assert (response.status, response.body, response.ended) == (status, b"", True), path
    assert connection.request("HEAD", "/whole/5")["content-length"] == "5"
    assert connection.get("/status/204").all("content-length") == []


def test_daemons_own_answers_leave_the_connection_open(connection):
    too_long = connection.get("/" + "x" * 9000)
    assert too_long.status == 414
    assert too_long["x-request-id"] in too_long.body.decode()
    assert connection.get("/scope", headers=[("x", "y" * 17000)]).status == 431
    assert connection.get("/scope", headers=[(f"x-{number}", "") for number in range(101)]).status == 431
    # The h2 crate itself answers a head of more than twice the limits, without content.
    too_large = connection.get("/scope", headers=[("x", "y" * 4000)] * 10)
    assert too_large.status == 431
    assert too_large["x-request-id"] in too_large.body.decode()
    assert connection.get("/scope", headers=[("x", "y" * 4000)] * 20).status == 431
    assert connection.get("/scope").status == 200


def test_failure_within_a_body_resets_only_its_stream(connection):
    number = connection.begin("GET", "/breaks")
    connection.wait("the body", lambda: connection.streams[number].body == b"part")
    connection.get("/open/breaks")
    response = connection.response(number)
    # INTERNAL_ERROR
    assert (response.status, response.ended, response.reset) == (200, False, 2)
    assert connection.get("/scope").status == 200


def test_reset_reaches_the_application_as_disconnect(connection):
    before = connection.get("/counts").json()["disconnected"]
    number = connection.begin("GET", "/wait/forever")
    connection.get("/counts")
    connection.h2.reset_stream(number)
    connection.flush()
    wait_until("http.disconnect", lambda: connection.get("/counts").json()["disconnected"] == before + 1)


def test_end_of_the_connection_disconnects_all_requests(server):
    with Http2Connection(server.tcp_address) as connection:
        before = connection.get("/counts").json()["disconnected"]
        for _ in range(5):
            connection.begin("GET", "/wait/never")
        connection.get("/counts")
    with Http2Connection(server.tcp_address) as connection:
        wait_until("http.disconnect", lambda: connection.get("/counts").json()["disconnected"] == before + 5)


def test_body_unlike_its_content_length_is_refused(connection):
    for body, end in [(b"too long", False), (b"x", True)]:
        number = connection.begin("POST", "/upload", [("content-length", "2")], end=False)
        connection.h2.send_data(number, body, end_stream=end)
        connection.flush()
        stream = connection.response(number)
        assert stream.reset == 1 or stream.status == 400, stream
    assert connection.get("/scope").status == 200


def test_websocket_messages_pass_both_ways(connection):
    with_protocol = [("sec-websocket-protocol", "chat, other")]
    websocket = StreamWebSocket(connection, "/chat", with_protocol)
    assert (websocket.status, websocket.stream["sec-websocket-protocol"]) == (200, "chat")
    for absent in ("sec-websocket-accept", "upgrade", "connection", "content-length"):
        assert not websocket.stream.all(absent), absent
    assert '"http_version": "2"' in websocket.read_text()
    for text in ("one", "two", "x" * 100):
        websocket.send(text)
        assert websocket.read_text() == text
    # The connection serves other requests meanwhile.
    assert connection.get("/scope").status == 200
    websocket.send(b"\x03\xe8", 8)
    assert websocket.read_frame() == (8, b"\x03\xe8")
    connection.wait("the stream's end", lambda: websocket.stream.is_over)
    assert connection.get("/scope").status == 200


def test_denied_and_malformed_websockets_are_answered(connection):
    assert StreamWebSocket(connection, "/denied").status == 403
    assert StreamWebSocket(connection, "/chat", [("sec-websocket-version", "8")]).status == 426
    assert StreamWebSocket(connection, "/chat", protocol="chat").status == 501
    assert connection.get("/scope").status == 200


def test_unread_websocket_messages_wait_for_the_application(connection):
    """While the application reads no messages, other streams are served. No message is lost."""
    websocket = StreamWebSocket(connection, "/unread")
    message = bytes([0x82, 0x80]) + bytes(4)
    for _ in range(20000):
        connection.h2.send_data(websocket.connection.number, message)
    connection.flush()
    assert connection.get("/scope").status == 200
    connection.get("/open/unread")
    assert "http_version" in websocket.read_text()
    for _ in range(20000):
        assert websocket.read_frame() == (2, b"")


def test_httpx_downloads_and_uploads_concurrently(server):
    # Within the window of a stream: httpcore hangs if another request reads the WINDOW_UPDATE that an upload
    # waits for.
    size = 100_000

    async def work():
        async with httpx.AsyncClient(
            http1=False, http2=True, base_url=server.url, timeout=DEADLINE
        ) as client:
            uploads = [client.post("/upload", content=bytes([n]) * size) for n in range(10)]
            downloads = [client.get("/download/16") for _ in range(10)]
            return await asyncio.gather(*uploads, *downloads)

    responses = asyncio.run(work())
    assert {response.http_version for response in responses} == {"HTTP/2"}
    assert [response.json()["length"] for response in responses[:10]] == [size] * 10
    assert [len(response.content) for response in responses[10:]] == [MIB] * 10


@pytest.fixture(scope="module")
def secure(start, tmp_path_factory):
    """The application behind TLS."""
    place = tmp_path_factory.mktemp("tls")
    key, cert = place / "key.pem", place / "cert.pem"
    kind = [
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=localhost",
    ]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "2"]
    command = ["openssl", "req", *kind, *names, "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    config = place / "rgun.toml"
    config.write_text(f'[tls]\ncert = ["{cert}"]\nkey = ["{key}"]\n')
    server = start("streams:application", "--config", config)
    context = ssl.create_default_context(cafile=cert)
    context.set_alpn_protocols(["h2"])
    server.tls, server.cert = context, cert
    return server


def test_tls_client_that_offers_h2_gets_http2(secure):
    with Http2Connection(secure.tcp_address, tls=secure.tls) as connection:
        assert connection.socket.selected_alpn_protocol() == "h2"
        scope = connection.get("/scope").json()
        assert (scope["http_version"], scope["scheme"]) == ("2", "https")
        body = os.urandom(3 * MIB)
        digest = hashlib.sha256(body).hexdigest()
        assert connection.request("POST", "/upload", body=body).json()["digest"] == digest
        assert len(connection.get("/download/50").body) == 50 * 65536
        websocket = StreamWebSocket(connection, "/chat")
        facts = websocket.read_text()
        assert '"scheme": "wss"' in facts
        assert '"http_version": "2"' in facts
    context = ssl.create_default_context(cafile=secure.cert)
    url = f"https://localhost:{secure.tcp_address[1]}/scope"
    with httpx.Client(http2=True, verify=context) as client:
        response = client.get(url)
        assert (response.http_version, response.json()["scheme"]) == ("HTTP/2", "https")
    with httpx.Client(verify=context) as client:
        assert client.get(url).http_version == "HTTP/1.1"


def test_tls_connection_without_alpn_speaks_http1(secure):
    """Without ALPN the connection is HTTP/1.1, so the preface is answered 505."""
    context = ssl.create_default_context(cafile=secure.cert)
    with socket.create_connection(secure.tcp_address, DEADLINE) as plain:
        peer = context.wrap_socket(plain, server_hostname="localhost")
        assert peer.selected_alpn_protocol() is None
        peer.sendall(PREFACE)
        received = b""
        while data := peer.recv(65536):
            received += data
        assert received.startswith(b"HTTP/1.1 505")


def test_h2load_gets_every_answer(server):
    if not shutil.which("h2load"):
        pytest.skip("h2load is not installed (nghttp2-client)")
    for path, count in (("/scope", 5000), ("/whole/100000", 500), ("/download/2", 500)):
        command = ["h2load", "-n", str(count), "-c", "5", "-m", "50", server.url + path]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE * 4)
        assert f"{count} succeeded, 0 failed, 0 errored" in done.stdout, done.stdout


def test_h2spec_finds_no_violation(server):
    if not shutil.which("h2spec"):
        pytest.skip("h2spec is not installed, and no Debian package has it")
    host, port = server.tcp_address
    command = ["h2spec", "-h", host, "-p", str(port), "-P", "/scope", "-o", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout


def test_curl_speaks_http2_with_prior_knowledge(server):
    command = [
        "curl",
        "-sS",
        "--http2-prior-knowledge",
        "-w",
        "%{http_version} %{http_code}",
        "-o",
        "/dev/null",
    ]
    for words in (
        [server.url + "/scope"],
        ["-I", server.url + "/whole/5"],
        ["-d", "x" * 100_000, server.url + "/upload"],
    ):
        done = subprocess.run(
            [*command, *words], capture_output=True, text=True, check=True, timeout=DEADLINE
        )
        assert done.stdout == "2 200", (words, done)
    # `curl --http2` offers `Upgrade: h2c`; the daemon ignores it.
    done = subprocess.run(
        ["curl", "-sS", "--http2", *command[3:], server.url + "/scope"], capture_output=True, text=True
    )
    assert done.stdout == "1.1 200"


def test_curl_receives_413_during_its_upload(start):
    server = start("streams:application", env={"RGUN_LIMITS_BODY": "100KiB"})
    command = ["curl", "-sS", "--http2-prior-knowledge", "-w", "%{http_code}", "-o", "/dev/null", "-d", "@-"]
    upload = bytes(5 * MIB).replace(b"\0", b"x")
    command = [*command, server.url + "/upload"]
    done = subprocess.run(command, input=upload, capture_output=True, check=False, timeout=DEADLINE)
    assert done.stdout == b"413", done
    with Http2Connection(server.tcp_address) as connection:
        assert connection.request("POST", "/upload", body=upload).status == 413
        assert connection.get("/counts").status == 200


def test_reload_keeps_open_streams_and_connections(start):
    server = start("streams:application")
    with Http2Connection(server.tcp_address) as connection:
        number = connection.begin("GET", "/wait/reload")
        connection.get("/counts")
        server.reload()
        server.wait_for_log("is ready", 2)
        assert connection.get("/counts").status == 200
        assert not connection.streams[number].is_over
        assert connection.goaway is None
        connection.h2.reset_stream(number)
        connection.flush()


def test_stop_sends_goaway_and_finishes_requests(start):
    server = start("streams:application")
    with Http2Connection(server.tcp_address) as connection, Http2Connection(server.tcp_address) as idle:
        number = connection.begin("GET", "/download/200")
        connection.wait("the response", lambda: connection.streams[number].status)
        assert idle.get("/counts").status == 200
        server.terminate()
        assert len(connection.response(number).body) == 200 * 65536
        assert connection.wait_closed() == 0
        assert idle.wait_closed() == 0
    assert server.stop() == 0


def test_stop_closes_websockets_with_1012(start):
    server = start("streams:application")
    with Http2Connection(server.tcp_address) as connection:
        websocket = StreamWebSocket(connection, "/chat")
        websocket.read_text()
        server.terminate()
        assert websocket.wait_for_close() == 1012
    assert server.stop() == 0


def test_idle_connection_is_closed_with_goaway(start):
    server = start("streams:application", "--keep-alive", "1")
    with Http2Connection(server.tcp_address) as connection:
        assert connection.get("/counts").status == 200
        began = time.monotonic()
        assert connection.wait_closed() == 0
        assert 0.5 < time.monotonic() - began < DEADLINE / 2


def test_http2_can_be_switched_off(start):
    server = start("streams:application", env={"RGUN_HTTP_HTTP2": "false"})
    with socket.create_connection(server.tcp_address, DEADLINE) as peer:
        peer.sendall(PREFACE)
        received = b""
        while data := peer.recv(65536):
            received += data
    assert received.startswith(b"HTTP/1.1 505")
    assert b"HTTP/2 is switched off here (http.http2); use HTTP/1.1" in received
    assert server.get("/counts").status == 200
