"""HTTP/2 frame by frame: the cases of h2spec 2.6 (generic, http2, hpack). Debian has no h2spec.

Each row has h2spec's number of the case, what the client sends, and the expected outcome. The numbers
are sections of RFC 7540, as in h2spec; RFC 9113 has the same rules.

Not covered in this file:

- 3.5/1 and others that only check that a request is served: each test of allowed frames checks that.
- 5.1/7, 5.1/10 and 5.1/13, CONTINUATION on a half-closed or closed stream: the frame of 6.10/4, which
  ends the connection in every state of the stream.
- 5.4.1, that a connection error sends GOAWAY and closes the connection: each test of such an error
  checks that.
- 6.1/2 sends the frames of 5.1/5; 6.2/1 and 6.2/2 send those of 4.3/2 and 4.3/3.
- 8.1.2.1/3, that pseudo-header fields in trailers are refused: the h2 crate drops them and reports no
  error. A row asserts that the request is served without them.
- 5.1.2/1 is in test_frame_floods.py, 8.1.2 in test_http2_heads.py, 6.9.1/1 in test_http2.py.
"""

import pytest
from support.http2_frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    PADDED,
    PREFACE,
    PRIORITIZED,
    Error,
    FrameClient,
    Kind,
    block,
    frame,
    literal,
    request,
    request_block,
    settings,
)

# Possible outcomes: the scope of an error, or the status of a request that is served.
STREAM, CONNECTION, SERVED = "stream", "connection", 200
ENABLE_PUSH, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, UNKNOWN_SETTING = 2, 4, 5, 0xFF
HEADERS, DATA, CONTINUATION = Kind.HEADERS, Kind.DATA, Kind.CONTINUATION
# Opens stream 1, or opens and ends it; the request is not answered.
OPEN = request(1, "/wait/conformance", "POST", end=False)
HALF_CLOSED = request(1, "/wait/conformance")
RESET = frame(Kind.RST_STREAM, 0, 1, b"\0\0\0\x08")
# The last request of a row. Its answer shows that the daemon has handled all earlier frames.
LAST = 101
FENCE = request(LAST, "/counts")
CANCEL = b"\0\0\0\x08"


@pytest.fixture(scope="module")
def server(start):
    return start("streams:application")


def headers(payload, flags=END_HEADERS | END_STREAM, stream=1):
    """Encodes a HEADERS frame."""
    return frame(HEADERS, flags, stream, payload)


def window_update(increment, stream=0):
    """Encodes a WINDOW_UPDATE frame."""
    return frame(Kind.WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def update_table_size(size):
    """Encodes a dynamic table size update (RFC 7541 §6.3) of at least 31 bytes."""
    encoded, size = bytearray([0x3F]), size - 31
    while size >= 128:
        encoded.append(size & 127 | 128)
        size >>= 7
    return bytes(encoded) + bytes([size])


GET = request_block("/counts")
# A header block that ends within a name: it has two of the name's 20 bytes.
TRUNCATED = GET + b"\0\x14ab"
# A field `x` without its value, which is to follow in Huffman code.
HUFFMAN = b"\x40\x01x"

# (case, what is sent, the frames, the stream whose request must be answered 200)
SERVED_ROWS = [
    (
        "generic/2/1",
        "PRIORITY before the request",
        [frame(Kind.PRIORITY, 0, 1, b"\0\0\0\0\x10"), request(1, "/counts")],
        1,
    ),
    ("generic/2/2", "WINDOW_UPDATE after the end", [HALF_CLOSED, window_update(100, 1), FENCE], LAST),
    (
        "generic/2/3",
        "PRIORITY after the end",
        [HALF_CLOSED, frame(Kind.PRIORITY, 0, 1, b"\0\0\0\0\x10"), FENCE],
        LAST,
    ),
    ("generic/2/4", "RST_STREAM after the end", [HALF_CLOSED, RESET, FENCE], LAST),
    (
        "generic/2/5",
        "PRIORITY on a closed stream",
        [HALF_CLOSED, RESET, frame(Kind.PRIORITY, 0, 1, b"\0\0\0\0\x10"), FENCE],
        LAST,
    ),
    (
        "generic/3.1/1",
        "DATA",
        [request(1, "/upload", "POST", end=False), frame(DATA, END_STREAM, 1, b"x")],
        1,
    ),
    (
        "generic/3.1/2",
        "several DATA",
        [request(1, "/upload", "POST", end=False), frame(DATA, 0, 1, b"x"), frame(DATA, END_STREAM, 1, b"y")],
        1,
    ),
    (
        "generic/3.1/3",
        "DATA with padding",
        [request(1, "/upload", "POST", end=False), frame(DATA, END_STREAM | PADDED, 1, b"\x05x" + bytes(5))],
        1,
    ),
    (
        "generic/3.2/2",
        "HEADERS with padding",
        [headers(b"\x06" + GET + bytes(6), END_HEADERS | END_STREAM | PADDED)],
        1,
    ),
    (
        "generic/3.2/3",
        "HEADERS with a priority",
        [headers(b"\0\0\0\0\x10" + GET, END_HEADERS | END_STREAM | PRIORITIZED)],
        1,
    ),
    (
        "generic/3.3/2",
        "exclusive PRIORITY",
        [frame(Kind.PRIORITY, 0, 1, b"\x80\0\0\x03\xff"), request(1, "/counts")],
        1,
    ),
    (
        "generic/3.3/4",
        "PRIORITY on an idle stream",
        [frame(Kind.PRIORITY, 0, 7, b"\0\0\0\x05\x10"), request(1, "/counts")],
        1,
    ),
    ("generic/3.4/1", "RST_STREAM", [OPEN, RESET, FENCE], LAST),
    ("generic/3.7/2", "acknowledgement of no PING", [frame(Kind.PING, ACK, 0, bytes(8)), FENCE], LAST),
    ("generic/3.8/1", "GOAWAY", [request(1, "/counts"), frame(Kind.GOAWAY, 0, 0, bytes(8))], 1),
    ("generic/3.9/1", "WINDOW_UPDATE on the connection", [window_update(100), FENCE], LAST),
    (
        "generic/3.10/2",
        "several CONTINUATION",
        [
            headers(GET[:10], END_STREAM),
            frame(CONTINUATION, 0, 1, GET[10:20]),
            frame(CONTINUATION, END_HEADERS, 1, GET[20:]),
        ],
        1,
    ),
    ("generic/5/4", "field that is never indexed", [headers(GET + b"\x10\x01x\x01y")], 1),
    ("generic/5/8", "table size update", [headers(b"\x20" + GET)], 1),
    ("http2/4.1/1", "frame of unknown type", [frame(0x42, 0, 0, bytes(8)), FENCE], LAST),
    ("http2/4.1/2", "unknown flag", [frame(Kind.PING, 0xF6, 0, bytes(8)), FENCE], LAST),
    ("http2/4.1/3", "reserved bit", [frame(Kind.PING, 0, 1 << 31, bytes(8)), FENCE], LAST),
    (
        "http2/4.2/1",
        "DATA of 16384 bytes",
        [request(1, "/upload", "POST", end=False), frame(DATA, END_STREAM, 1, bytes(16384))],
        1,
    ),
    ("http2/5.5/1", "extension frame", [frame(0x16, 0, 0, bytes(8)), FENCE], LAST),
    ("http2/6.5.2/5", "unknown setting", [settings((UNKNOWN_SETTING, 1)), FENCE], LAST),
    (
        "http2/7/1",
        "GOAWAY with an unknown code",
        [request(1, "/counts"), frame(Kind.GOAWAY, 0, 0, b"\0\0\0\0\0\0\0\xff")],
        1,
    ),
    (
        "http2/7/2",
        "RST_STREAM with an unknown code",
        [OPEN, frame(Kind.RST_STREAM, 0, 1, b"\0\0\0\xff"), FENCE],
        LAST,
    ),
    (
        "http2/8.1.2.1/3",
        "pseudo-header field in trailers",
        [
            request(1, "/upload", "POST", end=False),
            frame(DATA, 0, 1, b"x"),
            headers(block((":path", "/counts"), ("x", "y"))),
        ],
        1,
    ),
]

PROTOCOL = [Error.PROTOCOL_ERROR]
CLOSED = [Error.STREAM_CLOSED]
SIZE = [Error.FRAME_SIZE_ERROR, Error.PROTOCOL_ERROR]
COMPRESSION = [Error.COMPRESSION_ERROR, Error.PROTOCOL_ERROR]
FLOW = [Error.FLOW_CONTROL_ERROR]

# (case, what is sent, the frames, the accepted error codes)
CONNECTION_ROWS = [
    ("http2/4.2/2", "DATA over the maximum size", [OPEN, frame(DATA, END_STREAM, 1, bytes(16385))], SIZE),
    (
        "http2/4.2/3",
        "HEADERS over the maximum size",
        [headers(GET + literal("x", "y" * 16000) + literal("x", "y" * 400))],
        SIZE,
    ),
    ("http2/4.3/1", "block that ends within a field", [headers(TRUNCATED)], COMPRESSION),
    (
        "http2/4.3/2",
        "PRIORITY within a block",
        [headers(GET, END_STREAM), frame(Kind.PRIORITY, 0, 1, b"\0\0\0\0\x10")],
        PROTOCOL,
    ),
    (
        "http2/4.3/3",
        "HEADERS of another stream within a block",
        [headers(GET, END_STREAM), request(3, "/counts")],
        PROTOCOL,
    ),
    ("http2/5.1/1", "DATA on an idle stream", [frame(DATA, END_STREAM, 1, b"x")], PROTOCOL),
    ("http2/5.1/2", "RST_STREAM on an idle stream", [RESET], PROTOCOL),
    ("http2/5.1/3", "WINDOW_UPDATE on an idle stream", [window_update(100, 1)], PROTOCOL),
    ("http2/5.1/4", "CONTINUATION on an idle stream", [frame(CONTINUATION, END_HEADERS, 1, GET)], PROTOCOL),
    ("http2/5.1.1/1", "stream with an even id", [request(2, "/counts")], PROTOCOL),
    (
        "http2/5.1.1/2",
        "stream with a smaller id",
        [request(5, "/wait/smaller"), request(3, "/counts")],
        [*PROTOCOL, *CLOSED],
    ),
    (
        "http2/5.5/2",
        "extension frame within a block",
        [headers(GET, END_STREAM), frame(0x16, 0, 1, bytes(8))],
        PROTOCOL,
    ),
    ("http2/6.1/1", "DATA on the connection", [OPEN, frame(DATA, END_STREAM, 0, b"x")], PROTOCOL),
    (
        "http2/6.1/3",
        "padding of DATA over its size",
        [OPEN, frame(DATA, END_STREAM | PADDED, 1, b"\x06abcde")],
        PROTOCOL,
    ),
    ("http2/6.2/3", "HEADERS on the connection", [headers(GET, stream=0)], PROTOCOL),
    (
        "http2/6.2/4",
        "padding of HEADERS over its size",
        [headers(b"\xff" + GET, END_HEADERS | END_STREAM | PADDED)],
        PROTOCOL,
    ),
    ("http2/6.3/1", "PRIORITY on the connection", [frame(Kind.PRIORITY, 0, 0, b"\0\0\0\x03\x10")], PROTOCOL),
    # RFC 9113 §6.3 asks for an error of the stream; the h2 crate ends the connection.
    ("http2/6.3/2", "PRIORITY of 4 bytes", [OPEN, frame(Kind.PRIORITY, 0, 1, b"\0\0\0\x03")], SIZE),
    ("http2/6.4/1", "RST_STREAM on the connection", [OPEN, frame(Kind.RST_STREAM, 0, 0, CANCEL)], PROTOCOL),
    ("http2/6.4/2", "RST_STREAM on an idle stream", [frame(Kind.RST_STREAM, 0, 9, CANCEL)], PROTOCOL),
    ("http2/6.4/3", "RST_STREAM of 3 bytes", [OPEN, frame(Kind.RST_STREAM, 0, 1, b"\0\0\0")], SIZE),
    (
        "http2/6.5/1",
        "acknowledgement of SETTINGS with content",
        [frame(Kind.SETTINGS, ACK, 0, bytes(6))],
        SIZE,
    ),
    ("http2/6.5/2", "SETTINGS on a stream", [frame(Kind.SETTINGS, 0, 1)], PROTOCOL),
    ("http2/6.5/3", "SETTINGS of 3 bytes", [frame(Kind.SETTINGS, 0, 0, bytes(3))], SIZE),
    ("http2/6.5.2/1", "ENABLE_PUSH of 2", [settings((ENABLE_PUSH, 2))], PROTOCOL),
    (
        "http2/6.5.2/2",
        "INITIAL_WINDOW_SIZE of 2^31",
        [settings((INITIAL_WINDOW_SIZE, 1 << 31))],
        [*FLOW, *PROTOCOL],
    ),
    ("http2/6.5.2/3", "MAX_FRAME_SIZE of 16383", [settings((MAX_FRAME_SIZE, 16383))], PROTOCOL),
    ("http2/6.5.2/4", "MAX_FRAME_SIZE of 2^24", [settings((MAX_FRAME_SIZE, 1 << 24))], PROTOCOL),
    ("http2/6.7/3", "PING on a stream", [frame(Kind.PING, 0, 1, bytes(8))], PROTOCOL),
    ("http2/6.7/4", "PING of 6 bytes", [frame(Kind.PING, 0, 0, bytes(6))], SIZE),
    ("http2/6.8/1", "GOAWAY on a stream", [frame(Kind.GOAWAY, 0, 1, bytes(8))], PROTOCOL),
    ("http2/6.9/1", "WINDOW_UPDATE of 0", [window_update(0)], PROTOCOL),
    ("http2/6.9/3", "WINDOW_UPDATE of 3 bytes", [frame(Kind.WINDOW_UPDATE, 0, 0, b"\0\0\1")], SIZE),
    (
        "http2/6.9.1/2",
        "window of the connection over 2^31-1",
        [window_update((1 << 31) - 1), window_update((1 << 31) - 1)],
        FLOW,
    ),
    (
        "http2/6.9.2/3",
        "initial window over 2^31-1",
        [OPEN, settings((INITIAL_WINDOW_SIZE, 0xFFFFFFFF))],
        [*FLOW, *PROTOCOL],
    ),
    (
        "http2/6.10/2",
        "other frame after HEADERS without their end",
        [headers(GET, END_STREAM), frame(DATA, END_STREAM, 1, b"x")],
        PROTOCOL,
    ),
    (
        "http2/6.10/3",
        "CONTINUATION on the connection",
        [headers(GET, END_STREAM), frame(CONTINUATION, END_HEADERS, 0)],
        PROTOCOL,
    ),
    (
        "http2/6.10/4",
        "CONTINUATION after the end of the block",
        [OPEN, frame(CONTINUATION, END_HEADERS, 1, GET)],
        PROTOCOL,
    ),
    (
        "http2/6.10/5",
        "CONTINUATION after the last CONTINUATION",
        [
            headers(GET[:10], END_STREAM),
            frame(CONTINUATION, END_HEADERS, 1, GET[10:]),
            frame(CONTINUATION, END_HEADERS, 1, GET),
        ],
        PROTOCOL,
    ),
    (
        "http2/6.10/6",
        "CONTINUATION after DATA",
        [OPEN, frame(DATA, 0, 1, b"x"), frame(CONTINUATION, END_HEADERS, 1, GET)],
        PROTOCOL,
    ),
    (
        "http2/8.2/1",
        "PUSH_PROMISE of the client",
        [OPEN, frame(Kind.PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\x02" + GET)],
        PROTOCOL,
    ),
    ("hpack/2.3.3/1", "index of no entry", [headers(GET + b"\xc6")], COMPRESSION),
    ("hpack/2.3.3/2", "name with the index of no entry", [headers(GET + b"\x7f\x07\x01y")], COMPRESSION),
    ("hpack/4.2/1", "table size update at the end", [headers(GET + b"\x20")], COMPRESSION),
    ("hpack/5.2/1", "Huffman padding of 8 bits", [headers(GET + HUFFMAN + b"\x82\x1f\xff")], COMPRESSION),
    ("hpack/5.2/2", "Huffman padding of zeros", [headers(GET + HUFFMAN + b"\x81\x18")], COMPRESSION),
    ("hpack/5.2/3", "Huffman code of EOS", [headers(GET + HUFFMAN + b"\x84\xff\xff\xff\xff")], COMPRESSION),
    ("hpack/6.1/1", "index 0", [headers(GET + b"\x80")], COMPRESSION),
    ("hpack/6.3/1", "table size over the setting", [headers(update_table_size(4097) + GET)], COMPRESSION),
    # For these errors of a stream, the h2 crate ends the connection, which RFC 9113 §5.4.1 allows.
    (
        "http2/5.1/5",
        "DATA after the end",
        [HALF_CLOSED, frame(DATA, END_STREAM, 1, b"x")],
        [*CLOSED, *PROTOCOL],
    ),
    ("http2/5.1/6", "HEADERS after the end", [HALF_CLOSED, request(1, "/counts")], [*CLOSED, *PROTOCOL]),
    ("http2/6.9/2", "WINDOW_UPDATE of 0 on a stream", [OPEN, window_update(0, 1)], PROTOCOL),
    ("", "padded DATA without a pad length", [OPEN, frame(DATA, PADDED, 1)], [*SIZE, *PROTOCOL]),
]

# Rows in the form of CONNECTION_ROWS, for errors that reset only the stream.
STREAM_ROWS = [
    ("http2/6.9.1/3", "window of a stream over 2^31-1", [OPEN, window_update((1 << 31) - 1, 1)], FLOW),
    (
        "http2/5.3.1/1",
        "HEADERS that depend on themselves",
        [headers(b"\0\0\0\x01\x10" + GET, END_HEADERS | END_STREAM | PRIORITIZED)],
        PROTOCOL,
    ),
    (
        "http2/5.3.1/2",
        "PRIORITY that depends on itself",
        [OPEN, frame(Kind.PRIORITY, 0, 1, b"\0\0\0\x01\x10")],
        PROTOCOL,
    ),
    (
        "http2/8.1/1",
        "second HEADERS without the end",
        [OPEN, headers(block(("x", "y")), END_HEADERS)],
        PROTOCOL,
    ),
    (
        "http2/8.1.2.6/1",
        "body longer than the Content-Length",
        [
            request(1, "/upload", "POST", [("content-length", "1")], end=False),
            frame(DATA, END_STREAM, 1, b"test"),
        ],
        PROTOCOL,
    ),
    (
        "http2/8.1.2.6/2",
        "parts longer than the Content-Length",
        [
            request(1, "/upload", "POST", [("content-length", "1")], end=False),
            frame(DATA, 0, 1, b"te"),
            frame(DATA, END_STREAM, 1, b"st"),
        ],
        PROTOCOL,
    ),
    ("", "HEADERS without fields", [headers(b"")], PROTOCOL),
    (
        "",
        "body shorter than the Content-Length",
        [
            request(1, "/upload", "POST", [("content-length", "9")], end=False),
            frame(DATA, END_STREAM, 1, b"test"),
        ],
        PROTOCOL,
    ),
]


def names(rows):
    """Returns the ids of the rows for pytest."""
    return [f"{case} {what}".strip() for case, what, *_ in rows]


@pytest.mark.parametrize("row", SERVED_ROWS, ids=names(SERVED_ROWS))
def test_allowed_frames_are_served(server, row):
    case, what, frames, stream = row
    with FrameClient(server.tcp_address) as client:
        client.send(*frames)
        assert client.read_outcome(stream) == SERVED, (case, what, client.frames)


@pytest.mark.parametrize("row", CONNECTION_ROWS, ids=names(CONNECTION_ROWS))
def test_connection_errors_end_the_connection(server, row):
    case, what, frames, codes = row
    with FrameClient(server.tcp_address) as client:
        client.send(*frames)
        scope, code = client.read_outcome(1)
        assert (scope, code in codes) == (CONNECTION, True), (case, what, code, client.frames)
        client.read_to_end()


@pytest.mark.parametrize("row", STREAM_ROWS, ids=names(STREAM_ROWS))
def test_stream_errors_leave_other_streams_alone(server, row):
    case, what, frames, codes = row
    with FrameClient(server.tcp_address) as client:
        client.send(*frames)
        outcome = client.read_outcome(1)
        # A body that differs from its length may be answered 400 instead (RFC 9113 §8.1.1).
        assert outcome in [(STREAM, code) for code in codes] or outcome == 400, (case, what, client.frames)
        client.send(FENCE)
        assert client.read_outcome(LAST) == SERVED, (case, what, client.frames)


LATE_FRAMES = {
    "DATA": frame(DATA, END_STREAM, 1, b"x"),
    "HEADERS": request(1, "/counts"),
    "WINDOW_UPDATE": window_update(100, 1),
}


@pytest.mark.parametrize("late", LATE_FRAMES.values(), ids=LATE_FRAMES)
@pytest.mark.parametrize("is_reset", [True, False], ids=["5.1/8-9", "5.1/11-12"])
def test_frames_on_a_closed_stream_are_not_served(server, is_reset, late):
    """Frames on a stream that was reset or answered are ignored, or an error (RFC 9113 §5.1)."""
    with FrameClient(server.tcp_address) as client:
        if is_reset:
            client.send(OPEN, RESET)
        else:
            client.send(request(1, "/counts"))
            assert client.read_outcome(1) == SERVED
            client.read_until("its end", lambda part: part.stream == 1 and part.flags & END_STREAM)
        client.send(late, FENCE)
        outcome = client.read_outcome(LAST)
        assert outcome == SERVED or outcome[1] in (Error.STREAM_CLOSED, Error.PROTOCOL_ERROR), client.frames
        answers = [part for part in client.frames if (part.kind, part.stream) == (HEADERS, 1)]
        assert len(answers) == (0 if is_reset else 1)


def test_settings_and_pings_are_acknowledged(server):
    """h2spec http2/6.5.3/2 and http2/6.7/1."""
    with FrameClient(server.tcp_address) as client:
        client.read_until("ACK of SETTINGS", lambda part: (part.kind, part.flags) == (Kind.SETTINGS, ACK))
        client.send(frame(Kind.PING, 0, 0, b"12345678"))
        assert client.read_kind(Kind.PING)[1:] == (ACK, 0, b"12345678")


def test_window_follows_the_last_initial_size(server):
    """h2spec http2/6.5.3/1, 6.9.2/1, 6.9.2/2: several values in one frame; a window below zero."""
    first = PREFACE + settings((INITIAL_WINDOW_SIZE, 100), (INITIAL_WINDOW_SIZE, 3))
    with FrameClient(server.tcp_address, first) as client:
        client.send(request(1, "/download/1"))
        assert len(client.read_kind(DATA, 1).payload) == 3
        client.send(settings((INITIAL_WINDOW_SIZE, 0)))
        client.send(window_update(3, 1))
        # The window is -3 + 3 bytes.
        assert client.is_usable()
        client.send(window_update(2, 1))
        assert len(client.read_kind(DATA, 1).payload) == 2
        client.send(settings((INITIAL_WINDOW_SIZE, 1)))
        assert len(client.read_kind(DATA, 1).payload) == 1


def test_invalid_preface_is_not_served(server):
    """h2spec http2/3.5/2."""
    with FrameClient(server.tcp_address, b"INVALID CONNECTION PREFACE\r\n\r\n") as client:
        data = b""
        while part := client.socket.recv(65536):
            data += part
        assert data.startswith(b"HTTP/1.1 400")
