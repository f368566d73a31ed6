"""HTTP/2 from a hostile client: floods of frames, resets and heads, and peers that never read.

The daemon ends their connections, uses little memory, and continues to serve others.
"""

import contextlib
import resource
import socket
import time

import pytest
from hpack import Encoder
from support.http2_client import PREFACE, Http2Connection, StreamWebSocket, frame, read_frames
from support.waiting import DEADLINE, wait_until

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    0,
    1,
    2,
    3,
    4,
    6,
    7,
    8,
    9,
)
END_STREAM, END_HEADERS, ACK = 1, 4, 1
PROTOCOL_ERROR, FLOW_CONTROL_ERROR, CANCEL, ENHANCE_YOUR_CALM = 1, 3, 8, 11
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def server(start):
    return start("streams:application", "--timeout", "300")


def head(path="/counts", method="GET", encoder=None):
    """Encodes the head of a request."""
    fields = [(":method", method), (":scheme", "http"), (":authority", "test"), (":path", path)]
    return (encoder or Encoder()).encode(fields)


class Attacker:
    """A connection that sends bare frames and does not read until the end."""

    def __init__(self, server, settings=b""):
        self.socket = socket.create_connection(server.tcp_address, DEADLINE)
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0, settings))

    def flood(self, frames, max_bytes):
        """Sends `frames` repeatedly until the daemon ends the connection or `max_bytes` are sent.

        Returns the error code of the daemon's GOAWAY (None without one), and the number of bytes sent.
        """
        sent = 0
        try:
            self.socket.settimeout(DEADLINE)
            while sent < max_bytes:
                self.socket.sendall(frames)
                sent += len(frames)
            # Ends a connection that the daemon has not ended: error_code() reads to the end.
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        return self.error_code(), sent

    def error_code(self):
        """Reads to the end; returns the error code of the last GOAWAY."""
        codes = [
            int.from_bytes(payload[4:8], "big")
            for kind, _, _, payload in read_frames(self.socket)
            if kind == GOAWAY
        ]
        self.socket.close()
        return codes[-1] if codes else None


def memory(server):
    """Returns the resident bytes of the daemon."""
    with open(f"/proc/{server.process.pid}/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


@pytest.fixture(autouse=True)
def others_are_served(server):
    """After each attack the daemon uses little memory and serves others."""
    with Http2Connection(server.tcp_address) as connection:
        assert connection.get("/counts").status == 200
    before = memory(server)
    yield
    with Http2Connection(server.tcp_address) as connection:
        assert connection.get("/counts").status == 200
    assert server.get("/counts").status == 200
    # The log stays small: h2's per-frame messages are filtered out.
    assert len(server.log()) < 64 * 1024
    assert memory(server) - before < 64 * MIB


@pytest.mark.parametrize(
    ("what", "bytes_of_frame"),
    [
        ("ping", frame(PING, 0, 0, bytes(8))),
        ("ping ack", frame(PING, ACK, 0, bytes(8))),
        ("settings", frame(SETTINGS, 0, 0)),
        ("settings with values", frame(SETTINGS, 0, 0, b"\0\4\0\0\xff\xff")),
        ("window update", frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1")),
        ("unknown type", frame(0x42, 0, 0, bytes(100))),
    ],
)
def test_flood_of_control_frames_ends_the_connection(server, what, bytes_of_frame):
    code, sent = Attacker(server).flood(bytes_of_frame * 1000, 64 * MIB)
    assert sent < 32 * MIB, what
    # A client that does not read while it floods may lose the GOAWAY.
    assert code in (ENHANCE_YOUR_CALM, PROTOCOL_ERROR, None), what


def test_flood_of_pings_by_a_reader_gets_enhance_your_calm(server):
    with Http2Connection(server.tcp_address) as connection:
        try:
            for _ in range(100):
                connection.socket.sendall(frame(PING, 0, 0, bytes(8)) * 1000)
                connection.pump()
        except OSError:
            pass
        assert connection.wait_closed() == ENHANCE_YOUR_CALM
    server.wait_for_log("closed an HTTP/2 connection of 127.0.0.1: it sends frames that carry nothing")


def test_flood_of_priority_ends_the_connection(server):
    attacker = Attacker(server)
    _, sent = attacker.flood(frame(PRIORITY, 0, 1, b"\0\0\0\0\x10") * 1000, 64 * MIB)
    assert sent < 32 * MIB


def test_rapid_reset_ends_the_connection(server):
    """CVE-2023-44487: cancels each request at once, so that few requests are open."""
    with Http2Connection(server.tcp_address) as connection:
        before = connection.get("/counts").json()["begun"]
    attacker, encoder, sent = Attacker(server), Encoder(), 0
    try:
        for number in range(1, 200_000, 2):
            request = frame(HEADERS, END_HEADERS | END_STREAM, number, head("/wait/rapid", encoder=encoder))
            attacker.socket.sendall(request + frame(RST_STREAM, 0, number, b"\0\0\0\x08"))
            sent += 1
    except OSError:
        pass
    assert attacker.error_code() in (ENHANCE_YOUR_CALM, None)
    assert sent < 50_000
    with Http2Connection(server.tcp_address) as connection:
        assert connection.get("/counts").json()["begun"] - before < 1000


def test_resets_after_dispatch_end_the_connection(server):
    """Cancels requests one by one, after they have reached the application."""
    with Http2Connection(server.tcp_address) as connection:
        cancelled = 0
        while connection.goaway is None and cancelled < 2000:
            number = connection.begin("GET", "/wait/dispatched")
            connection.wait("a PING's answer", send_ping(connection))
            connection.h2.reset_stream(number)
            connection.flush()
            cancelled += 1
            if cancelled > 200:
                # The GOAWAY follows one of the next resets; after the others nothing is received.
                with contextlib.suppress(TimeoutError):
                    connection.pump(0.1)
        assert connection.goaway == ENHANCE_YOUR_CALM
        assert 200 < cancelled < 300


def send_ping(connection):
    """Sends a PING; returns a condition that holds once the daemon has answered it."""
    answered = []
    receive = connection.handle

    def handle(event):
        if type(event).__name__ == "PingAckReceived":
            answered.append(event)
        receive(event)

    connection.handle = handle
    connection.h2.ping(bytes(8))
    connection.flush()

    def condition():
        if answered or connection.goaway is not None:
            connection.handle = receive
            return True
        return False

    return condition


def test_made_you_reset_ends_the_connection(server):
    """CVE-2025-8671: makes the daemon reset each stream, by a window over the maximum."""
    with Http2Connection(server.tcp_address) as connection:
        before = connection.get("/counts").json()["begun"]
    attacker, encoder, sent = Attacker(server), Encoder(), 0
    try:
        for number in range(1, 200_000, 2):
            request = frame(HEADERS, END_HEADERS, number, head("/wait/made", "POST", encoder))
            attacker.socket.sendall(request + frame(WINDOW_UPDATE, 0, number, b"\x7f\xff\xff\xff"))
            sent += 1
    except OSError:
        pass
    assert attacker.error_code() in (ENHANCE_YOUR_CALM, None)
    assert sent < 50_000
    with Http2Connection(server.tcp_address) as connection:
        assert connection.get("/counts").json()["begun"] - before < 1000


def test_endless_continuation_ends_the_connection(server):
    logged = server.log().count("kind=frame_flood")
    attacker = Attacker(server)
    begin = frame(HEADERS, END_STREAM, 1, head())
    field = Encoder().encode([("x-long", "y" * 8000)])
    attacker.socket.sendall(begin)
    code, sent = attacker.flood(frame(CONTINUATION, 0, 1, field), 64 * MIB)
    assert sent < 16 * MIB
    assert code in (PROTOCOL_ERROR, ENHANCE_YOUR_CALM, None)
    # Within a second, even if other floods were logged before.
    server.wait_for_log("kind=frame_flood", logged + 1)


def test_empty_continuations_end_the_connection(server):
    attacker = Attacker(server)
    attacker.socket.sendall(frame(HEADERS, END_STREAM, 1, head()))
    code, sent = attacker.flood(frame(CONTINUATION, 0, 1) * 1000, 64 * MIB)
    assert sent < 32 * MIB
    assert code in (PROTOCOL_ERROR, ENHANCE_YOUR_CALM, None)


def test_hpack_bomb_is_refused(server):
    """One field of 4,000 bytes in the table, and references to it: 15 KB that decode to 60 MB."""
    attacker, encoder = Attacker(server), Encoder()
    attacker.socket.sendall(
        frame(HEADERS, END_HEADERS | END_STREAM, 1, encoder.encode([("x-bomb", "y" * 4000)]))
    )
    for number in range(3, 101, 2):
        try:
            # 62 is the newest entry of the dynamic table.
            attacker.socket.sendall(
                frame(HEADERS, END_HEADERS | END_STREAM, number, head(encoder=encoder) + b"\xbe" * 15000)
            )
        except OSError:
            break
    with contextlib.suppress(OSError):
        attacker.socket.shutdown(socket.SHUT_WR)
    ok_heads = [
        payload
        for kind, _, _, payload in read_frames(attacker.socket)
        if kind == HEADERS and payload[:1] == b"\x88"
    ]
    assert not ok_heads


def test_tiny_data_frames_end_the_connection_or_are_bounded(server):
    """RUSTSEC-2026-0258: h2 keeps a record for each unread DATA frame, here of one byte."""
    attacker, encoder = Attacker(server), Encoder()
    frames = []
    for number in range(1, 101, 2):
        frames.append(frame(HEADERS, END_HEADERS, number, head("/hold/tiny", "POST", encoder)))
    attacker.socket.sendall(b"".join(frames))
    tiny = b"".join(frame(DATA, 0, number, b"x") for number in range(1, 101, 2))
    code, sent = attacker.flood(tiny * 100, 64 * MIB)
    assert sent < 64 * MIB
    assert code in (ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, None)
    # Else the requests, whose client has left, would run until the server stops, and delay that.
    with Http2Connection(server.tcp_address) as connection:
        assert connection.get("/open/tiny").status == 200


def test_requests_over_the_limit_are_refused_not_queued(server):
    with Http2Connection(server.tcp_address) as connection:
        connection.wait("SETTINGS", lambda: connection.settings_seen)
        encoder = connection.h2.encoder
        for _ in range(100):
            connection.begin("GET", "/wait/limit")
        frames = [
            frame(HEADERS, END_HEADERS | END_STREAM, 201 + 2 * number, head(encoder=encoder))
            for number in range(5)
        ]
        connection.socket.sendall(b"".join(frames))
        refused = []
        connection.socket.settimeout(DEADLINE)
        data = b""
        while len(refused) < 5:
            data += connection.socket.recv(65536)
            refused = [
                data[at + 5 : at + 13] for at in range(len(data)) if data[at : at + 5] == b"\0\0\4\3\0"
            ]
        # REFUSED_STREAM
        assert {payload[4:] for payload in refused} == {b"\0\0\0\7"}


def test_zero_window_does_not_hold_a_response_forever(start):
    server = start("streams:application", env={"RGUN_TIMEOUTS_BODY": "1s"})
    with Http2Connection(server.tcp_address, window=0) as connection:
        numbers = [connection.begin("GET", "/download/50") for _ in range(20)]
        for number in numbers:
            # CANCEL, because the client takes none of the response.
            assert connection.response(number).reset == CANCEL
        connection.h2.update_settings({4: 65535})
        connection.flush()
        assert connection.get("/counts").status == 200
        wait_until("all requests end", lambda: is_quiet(connection))


def is_quiet(connection):
    """Returns whether the request of this call is the only one that runs."""
    counts = connection.get("/counts").json()
    return counts["begun"] == counts["ended"] + 1


def test_one_byte_windows_end_the_connection(server):
    """Fetches a response byte by byte, with WINDOW_UPDATE frames larger than the data."""
    attacker = Attacker(server, settings=b"\0\4\0\0\0\0")
    attacker.socket.sendall(frame(HEADERS, END_HEADERS | END_STREAM, 1, head("/download/10000")))
    update = frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1")
    reader = attacker.socket.dup()
    code, sent = attacker.flood(update * 100, 32 * MIB)
    reader.close()
    assert sent < 32 * MIB
    assert code in (ENHANCE_YOUR_CALM, None)


def test_client_that_never_reads_is_cut_off(start):
    server = start("streams:application", env={"RGUN_TIMEOUTS_BODY": "1s"})
    attacker = Attacker(server, settings=b"\0\4\x7f\xff\xff\xff")
    attacker.socket.sendall(frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\0\0"))
    for number in range(1, 41, 2):
        attacker.socket.sendall(frame(HEADERS, END_HEADERS | END_STREAM, number, head("/download/1000")))
    with Http2Connection(server.tcp_address) as connection:
        wait_until("the requests end", lambda: is_quiet(connection))
    attacker.socket.close()


def test_memory_of_slow_streams_is_returned(start):
    """glibc by itself would keep the memory of a hundred buffered responses."""
    server = start("streams:application")
    with Http2Connection(server.tcp_address, window=0) as connection:
        connection.wait("SETTINGS", lambda: connection.settings_seen)
        for _ in range(100):
            connection.begin("GET", "/download/50")
        wait_until("the responses are buffered", lambda: memory(server) > 200 * MIB)
    wait_until("their memory is returned", lambda: memory(server) < 64 * MIB)


def test_incomplete_connection_start_times_out(start):
    server = start("streams:application", env={"RGUN_TIMEOUTS_HEADER": "1s"})
    for part in (b"PRI", PREFACE[:16], PREFACE[:20], PREFACE, PREFACE + frame(HEADERS, 0, 1, head())):
        with socket.create_connection(server.tcp_address, DEADLINE) as peer:
            peer.sendall(part)
            began = time.monotonic()
            while peer.recv(65536):
                pass
            assert time.monotonic() - began < DEADLINE - 5, part


def test_wrong_preface_is_refused(server):
    for preface in (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rX",
        b"PRI / HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"PRI * HTTP/3.0\r\n\r\n",
    ):
        with socket.create_connection(server.tcp_address, DEADLINE) as peer:
            peer.sendall(preface)
            peer.shutdown(socket.SHUT_WR)
            received = b""
            while data := peer.recv(65536):
                received += data
            assert b"HTTP/1.1 200" not in received


def test_preface_after_a_request_is_refused(server):
    with socket.create_connection(server.tcp_address, DEADLINE) as peer:
        peer.sendall(b"GET /counts HTTP/1.1\r\nHost: test\r\n\r\n")
        received = peer.recv(65536)
        assert received.startswith(b"HTTP/1.1 200")
        peer.sendall(PREFACE + frame(SETTINGS, 0, 0))
        received = b""
        while data := peer.recv(65536):
            received += data
        assert b"HTTP/1.1 505" in received


def test_websocket_stream_has_the_normal_window(server):
    """The client may send one window of messages before the application receives them."""
    with Http2Connection(server.tcp_address) as connection:
        socket_ = StreamWebSocket(connection, "/chat")
        number = socket_.connection.number
        window = connection.h2.local_flow_control_window(number)
        assert window <= 131072
