"""The WebSocket benchmarks detect wrong behaviour; see test_bench.py.

The clients are the real program, built on first use. The server is a fake, which can be wrong in every way
that must fail a measurement.
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

# RFC 6455 section 1.3.
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA


def frame(opcode, payload, first=0x80):
    """Encodes a server's frame with a payload of up to 125 bytes."""
    return bytes([first | opcode, len(payload)]) + payload


class Peer(socketserver.StreamRequestHandler):
    """One WebSocket; the server's `answer(payload)` returns the bytes to send for each text."""

    def handle(self):
        """Answers the handshake, then serves frames."""
        lines = iter(lambda: self.rfile.readline().strip(), b"")
        fields = dict(line.lower().split(b": ", 1) for line in lines if b": " in line)
        # Only the key is case-sensitive, and the clients always send this one.
        assert fields[b"sec-websocket-key"] == b"dghlihnhbxbszsbub25jzq=="
        accept = base64.b64encode(hashlib.sha1(b"dGhlIHNhbXBsZSBub25jZQ==" + GUID).digest())
        offer = b"sec-websocket-extensions" in fields
        extension = b"Sec-WebSocket-Extensions: permessage-deflate\r\n" if offer else b""
        head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        self.wfile.write(
            self.server.head or head + extension + b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        # A failing client may disconnect at any time.
        with contextlib.suppress(OSError):
            self.wfile.write(self.server.welcome)
            while self.serve_frame():
                pass

    def serve_frame(self):
        """Reads and answers one frame of the client; False at the end of the connection."""
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
    """A fake server, with a configurable head, first message and answers; records the frames it receives."""

    daemon_threads = True
    request_queue_size = 64


@pytest.fixture
def fake_server():
    """A function that starts a fake server."""
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
    """The program of the clients."""
    built = environment.make_program(environment.ROOT / "target" / "bench", "websocket")
    if built is None:
        pytest.skip("SKIPPED: no cargo on PATH, and the WebSocket clients are a Rust program")
    return built


@pytest.fixture
def clients(program):
    """A function that connects clients to a fake server."""

    def make(server, connections=4, **what):
        return WebSockets(program, server.server_address[1], connections, **what)

    return make


def test_echo_messages_differ_and_are_counted(fake_server, clients):
    server = fake_server()
    with clients(server) as some:
        assert some.command("once")["messages"] == 4
        counts = some.echo(0.1)
    texts = [payload for first, payload in server.frames if first == 0x80 | TEXT]
    assert len(texts) == len(set(texts))
    assert {len(text) for text in texts} == {64}
    # The last message of each client may be counted or not.
    assert counts["messages"] + 4 <= len(texts) <= counts["messages"] + 8
    assert counts["seconds"] == 0.1
    assert 0 < counts["p50_us"] <= counts["p99_us"] <= counts["max_us"]


def test_clients_close_properly_at_the_end(fake_server, clients):
    server = fake_server()
    with clients(server):
        pass
    assert server.frames == [(0x80 | CLOSE, struct.pack("!H", 1000))] * 4


def test_wrong_echo_fails(fake_server, clients):
    with clients(fake_server(lambda payload: frame(TEXT, payload[:-1] + b"y"))) as some:
        with pytest.raises(process.BenchError, match=r"client \d: the echo differs from the message"):
            some.echo(1)


def test_fragmented_echo_with_a_ping_counts_once(fake_server, clients):
    def in_pieces(payload):
        return frame(TEXT, payload[:10], first=0) + frame(PING, b"there?") + frame(0, payload[10:])

    server = fake_server(in_pieces)
    with clients(server, 1) as one:
        assert one.command("once")["messages"] == 1
    assert (0x80 | PONG, b"there?") in server.frames


def test_idle_client_answers_pings_and_rejects_messages(fake_server, clients):
    server = fake_server(welcome=frame(PING, b"idle?"))
    with clients(server, 1):
        deadline = time.monotonic() + 10
        while (0x80 | PONG, b"idle?") not in server.frames:
            assert time.monotonic() < deadline, server.frames
            time.sleep(0.001)
    with clients(fake_server(welcome=frame(TEXT, b"spam")), 1) as one:
        # The message may arrive before or after the command.
        with pytest.raises(process.BenchError, match=r"an unexpected message|differs from the message"):
            one.command("once")


def test_close_by_the_server_fails_with_its_code(fake_server, clients):
    with clients(fake_server(lambda _: frame(CLOSE, struct.pack("!H", 1012)))) as some:
        with pytest.raises(process.BenchError, match="the server closed with 1012"):
            some.echo(1)


def test_refused_handshake_fails_with_its_status(fake_server, clients):
    server = fake_server(head=b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    with pytest.raises(process.BenchError, match="403 Forbidden"), clients(server):
        pass


def test_deflate_is_offered_and_used_only_on_request(fake_server, clients):
    with clients(fake_server()) as some:
        assert some.deflated == 0
    server = fake_server(lambda payload: frame(TEXT, payload, first=0xC0))
    with clients(server, deflate=True) as some:
        assert some.deflated == 4
        assert some.command("once")["messages"] == 4
    # RSV1, and a stored block of 64 bytes (RFC 7692 section 7.2.3.3).
    assert all(first == 0xC0 | TEXT for first, _ in server.frames[:4])
    assert all(payload[:5] == b"\x00\x40\x00\xbf\xff" for _, payload in server.frames[:4])


def test_cpu_time_of_running_clients_is_reported(fake_server, clients):
    with clients(fake_server()) as some:
        some.echo(0.3)
        assert some.cpu_seconds() > 0


class FakeProcess:
    """A stand-in for clients or a server with a given CPU time."""

    def __init__(self):
        """Starts with a CPU time of zero."""
        self.used = 0.0

    def cpu_seconds(self):
        """Returns the given CPU time."""
        return self.used


def test_running_clients_are_not_counted_as_foreign_load():
    server, child = FakeProcess(), FakeProcess()
    with process.Measurement(server, child) as measured:
        # More than the machine can have used, so no time is left for other processes.
        child.used = 10.0
    assert measured.foreign == 0
    assert measured.child_busy > 1


def test_server_settles_only_when_idle(tmp_path):
    with open(tmp_path / "log", "w+") as log:
        for code, settles in (("import time; time.sleep(60)", True), ("while True: pass", False)):
            with process.Server([sys.executable, "-c", code], tmp_path, None, 0, [0], log) as server:
                if settles:
                    server.settle()
                    continue
                deadline = time.monotonic() + 20
                while server.cpu_seconds() < 0.1:
                    assert time.monotonic() < deadline, "it does not run"
                    time.sleep(0.001)
                with pytest.raises(process.BenchError, match="still works"):
                    server.settle(timeout=0.6)


class FakeServer:
    """A fake server with the attributes that expect_first() uses."""

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
                workloads.expect_first(FakeServer(server.server_address[1]))
            thread.join()


def drive(scope, *events):
    """Returns the messages that the ASGI application sends when it receives these events."""
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
    programs = dict.fromkeys(environment.PROGRAMS, "")
    tools = servers.Tools(bin="/v/bin", rgun="/r/rgun", **programs, certificate="", key="", missing={})
    plain = servers.Task("a:b", "/d", 8000, interface="asgi")
    many = servers.Task("a:b", "/d", 8000, interface="asgi", websockets=10_000)
    assert "--no-ws" in servers.granian(plain, tools)
    granian = servers.granian(many, tools)
    assert "--ws" in granian
    assert int(granian[granian.index("--backpressure") + 1]) > 10_000
    assert servers.uvicorn_websockets(plain, tools) is None
    assert servers.uvicorn_websockets(many, tools)[-2:] == ["--ws", "websockets"]
