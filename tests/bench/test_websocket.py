"""The WebSocket benches notice what they must: pytest tests/bench, see test_bench.py.

The clients are the real program, built on first use; the server is a few lines here, so that it can be wrong
in every way that a measurement must not survive.
"""

import asyncio
import base64
import contextlib
import hashlib
import socketserver
import struct
import sys
import threading
import time

import app_asgi
import environment
import process
import pytest
import servers
import workloads
from websocket_load import WebSockets

# RFC 6455, 1.3.
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA


def frame(opcode, payload, first=0x80):
    """A frame as a server sends it, for payloads of up to 125 bytes."""
    return bytes([first | opcode, len(payload)]) + payload


class Peer(socketserver.StreamRequestHandler):
    """One WebSocket; the server's `answer(peer, opcode, payload)` gives the bytes to send for each frame."""

    def handle(self):
        """Shakes hands, then lets `answer` do the rest."""
        lines = iter(lambda: self.rfile.readline().strip(), b"")
        fields = dict(line.lower().split(b": ", 1) for line in lines if b": " in line)
        # The key is the only value here whose case matters, and it is always the same one.
        assert fields[b"sec-websocket-key"] == b"dghlihnhbxbszsbub25jzq=="
        accept = base64.b64encode(hashlib.sha1(b"dGhlIHNhbXBsZSBub25jZQ==" + GUID).digest())
        offer = b"sec-websocket-extensions" in fields
        extension = b"Sec-WebSocket-Extensions: permessage-deflate\r\n" if offer else b""
        head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        self.wfile.write(
            self.server.head or head + extension + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        # A client that fails leaves in the middle of anything.
        with contextlib.suppress(OSError):
            self.wfile.write(self.server.welcome)
            while self.serve_frame():
                pass

    def serve_frame(self):
        """One frame of the client, and what there is to say to it; whether there was one."""
        head = self.rfile.read(2)
        if len(head) < 2:
            return False
        first, length = head
        assert length & 0x80, "a client's frame is masked"
        length &= 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", self.rfile.read(2))
        key = self.rfile.read(4)
        payload = bytes(byte ^ key[index % 4] for index, byte in enumerate(self.rfile.read(length)))
        self.server.frames.append((first, payload))
        if first & 0x0F == CLOSE:
            self.wfile.write(frame(CLOSE, payload))
        elif first & 0x0F == TEXT:
            self.wfile.write(self.server.answer(payload))
        return True


class Server(socketserver.ThreadingTCPServer):
    """The fake: what it says instead of a 101, after it, and to a text; and what it was told."""

    daemon_threads = True
    request_queue_size = 64


@pytest.fixture
def speaking():
    """Starts fakes; gives the running server."""
    started = []

    def start(answer=lambda payload: frame(TEXT, payload), welcome=b"", head=b""):
        server = Server(("127.0.0.1", 0), Peer)
        server.answer, server.welcome, server.head, server.frames = answer, welcome, head, []
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def program():
    """The clients' program."""
    built = environment.make_program(environment.ROOT / "target" / "bench", "websocket")
    if built is None:
        pytest.skip("SKIPPED: no cargo on PATH, and the WebSocket clients are a Rust program")
    return built


@pytest.fixture
def clients(program):
    """WebSockets of a running fake."""

    def make(server, connections=4, **what):
        return WebSockets(program, server.server_address[1], connections, **what)

    return make


def test_echo_messages_differ_and_are_counted(speaking, clients):
    server = speaking()
    with clients(server) as some:
        assert some.order("once")["messages"] == 4
        counts = some.echo(0.1)
    texts = [payload for first, payload in server.frames if first == 0x80 | TEXT]
    assert len(texts) == len(set(texts))
    assert {len(text) for text in texts} == {64}
    # Each client's last message came too late to be counted; or in time, by a hair.
    assert counts["messages"] + 4 <= len(texts) <= counts["messages"] + 8
    assert counts["seconds"] == 0.1
    assert 0 < counts["p50_us"] <= counts["p99_us"] <= counts["max_us"]


def test_clients_close_properly_at_the_end(speaking, clients):
    server = speaking()
    with clients(server):
        pass
    assert server.frames == [(0x80 | CLOSE, struct.pack("!H", 1000))] * 4


def test_wrong_echo_fails(speaking, clients):
    with clients(speaking(lambda payload: frame(TEXT, payload[:-1] + b"y"))) as some:
        with pytest.raises(process.BenchError, match=r"client \d: the echo is another message"):
            some.echo(1)


def test_fragmented_echo_with_a_ping_counts_once(speaking, clients):
    def in_pieces(payload):
        return frame(TEXT, payload[:10], first=0) + frame(PING, b"there?") + frame(0, payload[10:])

    server = speaking(in_pieces)
    with clients(server, 1) as one:
        assert one.order("once")["messages"] == 1
    assert (0x80 | PONG, b"there?") in server.frames


def test_idle_client_answers_pings_and_rejects_messages(speaking, clients):
    server = speaking(welcome=frame(PING, b"idle?"))
    with clients(server, 1):
        deadline = time.monotonic() + 10
        while (0x80 | PONG, b"idle?") not in server.frames:
            assert time.monotonic() < deadline, server.frames
            time.sleep(0.001)
    with clients(speaking(welcome=frame(TEXT, b"spam")), 1) as one:
        # Before the order is there, or when it has been sent already.
        with pytest.raises(process.BenchError, match=r"came unasked|another message"):
            one.order("once")


def test_close_by_the_server_fails_with_its_code(speaking, clients):
    with clients(speaking(lambda _: frame(CLOSE, struct.pack("!H", 1012)))) as some:
        with pytest.raises(process.BenchError, match="the server closed with 1012"):
            some.echo(1)


def test_refused_handshake_fails_with_its_status(speaking, clients):
    server = speaking(head=b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(process.BenchError, match="403 Forbidden"), clients(server):
        pass


def test_deflate_is_offered_and_used_only_on_request(speaking, clients):
    with clients(speaking()) as some:
        assert some.deflated == 0
    server = speaking(lambda payload: frame(TEXT, payload, first=0xC0))
    with clients(server, deflate=True) as some:
        assert some.deflated == 4
        assert some.order("once")["messages"] == 4
    # RSV1, and a stored block of 64 bytes (RFC 7692, 7.2.3.3).
    assert all(first == 0xC0 | TEXT for first, _ in server.frames[:4])
    assert all(payload[:5] == b"\x00\x40\x00\xbf\xff" for _, payload in server.frames[:4])


def test_cpu_time_of_running_clients_is_reported(speaking, clients):
    with clients(speaking()) as some:
        some.echo(0.3)
        assert some.cpu_seconds() > 0


class Spinning:
    """A stand-in for clients, and for a server, that use CPU."""

    def __init__(self):
        """Nothing used yet."""
        self.used = 0.0

    def cpu_seconds(self):
        """What it says it used."""
        return self.used


def test_running_clients_are_not_counted_as_foreign_load():
    server, child = Spinning(), Spinning()
    with process.Quiet(server, child) as quiet:
        # Far more than everybody can have used: nothing is left over for strangers.
        child.used = 10.0
    assert quiet.foreign == 0
    assert quiet.child_busy > 1


def test_server_settles_only_when_idle(tmp_path):
    with open(tmp_path / "log", "w+") as log:
        for code, settles in (("import time; time.sleep(60)", True), ("while True: pass", False)):
            with process.Server([sys.executable, "-c", code], tmp_path, None, 0, 0, log) as server:
                if settles:
                    server.settle()
                    continue
                deadline = time.monotonic() + 20
                while server.cpu_seconds() < 0.1:
                    assert time.monotonic() < deadline, "it does not run"
                    time.sleep(0.001)
                with pytest.raises(process.BenchError, match="still works"):
                    server.settle(patience=0.6)


class Ended:
    """A server's port, as expect_first() wants it."""

    def __init__(self, port):
        """On 127.0.0.1."""
        self.port = port


def test_buffered_first_event_fails():
    class Keeping(socketserver.StreamRequestHandler):
        def handle(self):
            self.rfile.readline()
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n" + self.server.body)

    for body, passes in ((app_asgi.CHUNKS[0]["body"], True), (b": keep-alive\n\n", False)):
        with socketserver.TCPServer(("127.0.0.1", 0), Keeping) as server:
            server.body = body
            thread = threading.Thread(target=server.handle_request)
            thread.start()
            expected = contextlib.nullcontext()
            if not passes:
                expected = pytest.raises(process.BenchError, match="first event did not come by itself")
            with expected:
                workloads.expect_first(Ended(server.server_address[1]))
            thread.join()


def drive(scope, *events):
    """What the application of the ASGI benches sends when it receives these events."""
    sent = []
    waiting = list(events)

    async def receive():
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    asyncio.run(app_asgi.application(scope, receive, send))
    return sent


def test_application_sends_a_hundred_events_one_by_one():
    start, *chunks, end = drive({"type": "http", "path": "/sse"})
    assert dict(start["headers"])[b"content-type"] == b"text/event-stream"
    assert len(chunks) == 100
    assert all(chunk["more_body"] for chunk in chunks)
    assert not end["more_body"]
    assert b"".join(chunk["body"] for chunk in chunks) == workloads.SSE
    assert workloads.SSE.count(b"\n\n") == 100


def test_application_sends_the_first_event_and_waits():
    sent = drive({"type": "http", "path": "/first"}, {"type": "http.request"}, {"type": "http.disconnect"})
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]


def test_application_echoes_text():
    text = {"type": "websocket.receive", "text": "hello"}
    sent = drive({"type": "websocket"}, {"type": "websocket.connect"}, text, {"type": "websocket.disconnect"})
    assert sent == [{"type": "websocket.accept"}, {"type": "websocket.send", "text": "hello"}]


def test_peers_get_websocket_flags_only_for_websocket_tasks():
    tools = servers.Tools(bin="/v/bin", rgun="/r/rgun", limit="", websocket="", missing={})
    plain = servers.Task("a:b", "/d", 8000, interface="asgi")
    many = servers.Task("a:b", "/d", 8000, interface="asgi", websockets=10_000)
    assert "--no-ws" in servers.granian(plain, tools)
    granian = servers.granian(many, tools)
    assert "--ws" in granian
    assert int(granian[granian.index("--backpressure") + 1]) > 10_000
    assert servers.uvicorn_websockets(plain, tools) is None
    assert servers.uvicorn_websockets(many, tools)[-2:] == ["--ws", "websockets"]
