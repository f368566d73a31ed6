"""HTTP/2 as bare frames, for tests of what no client library would send (RFC 9113)."""

import enum
import socket
import struct
import time
import typing

from hpack import Decoder

from .waiting import DEADLINE

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Kind(enum.IntEnum):
    """Frame types (RFC 9113 §6)."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Error(enum.IntEnum):
    """Error codes (RFC 9113 §7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11


ACK = END_STREAM = 0x1
END_HEADERS, PADDED, PRIORITIZED = 0x4, 0x8, 0x20

# The id of the last stream in the first GOAWAY of a drain (RFC 9113 §6.8).
MAX_STREAM_ID = 2**31 - 1


class Frame(typing.NamedTuple):
    """One frame that was received."""

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def error(self):
        """The error code of RST_STREAM or GOAWAY."""
        start = 4 if self.kind == Kind.GOAWAY else 0
        return Error(int.from_bytes(self.payload[start : start + 4], "big"))

    @property
    def last_stream(self):
        """The id of the last stream that is served, according to a GOAWAY."""
        return int.from_bytes(self.payload[:4], "big")


def frame(kind, flags, stream, payload=b"", length=None):
    """Encodes a frame (RFC 9113 §4.1). `length` is declared instead of the real length."""
    length = len(payload) if length is None else length
    return length.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def literal(name, value):
    """Encodes any bytes as a field, without Huffman coding and without the table (RFC 7541 §6.2.2)."""
    return b"\0" + string(name) + string(value)


def string(value):
    """Encodes a string literal without Huffman coding (RFC 7541 §5.2)."""
    value = value.encode("latin-1") if isinstance(value, str) else value
    assert len(value) < 127 + 128 * 128
    if len(value) < 127:
        return bytes([len(value)]) + value
    rest = len(value) - 127
    encoded = bytes([127]) + (bytes([rest]) if rest < 128 else bytes([rest & 127 | 128, rest >> 7]))
    return encoded + value


def block(*fields):
    """Encodes fields, pairs of name and value, one after the other."""
    return b"".join(literal(name, value) for name, value in fields)


def request_block(path="/scope", method="GET", fields=(), **pseudo):
    """Encodes the head of a request. `pseudo` sets pseudo-header fields by name; None omits the field."""
    head = {"method": method, "scheme": "http", "authority": "test", "path": path} | pseudo
    present = [(f":{name}", value) for name, value in head.items() if value is not None]
    return block(*present, *fields)


def request(stream, path="/scope", method="GET", fields=(), end=True, **pseudo):
    """Encodes a HEADERS frame with the head of a request."""
    flags = END_HEADERS | (END_STREAM if end else 0)
    return frame(Kind.HEADERS, flags, stream, request_block(path, method, fields, **pseudo))


def settings(*values):
    """Encodes a SETTINGS frame; `values` are pairs of identifier and value."""
    return frame(Kind.SETTINGS, 0, 0, b"".join(struct.pack(">HI", *value) for value in values))


# The preface and an empty SETTINGS frame.
HELLO = PREFACE + settings()


class FrameClient:
    """A client that sends and receives bare frames. It acknowledges neither SETTINGS nor PING by itself."""

    def __init__(self, address, first=HELLO):
        """`first`: the bytes to begin with."""
        self.socket = socket.create_connection(address, DEADLINE)
        self.buffered = b""
        # The frames that were received.
        self.frames = []
        self.decoder = Decoder()
        self.send(first)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, *frames):
        """Sends bytes. A daemon that has closed the connection is noticed by `read`."""
        try:
            self.socket.sendall(b"".join(frames))
        except OSError:
            return

    def read(self):
        """Returns the next frame, or None at the end of the connection."""
        while len(self.buffered) < 9 or len(self.buffered) < 9 + int.from_bytes(self.buffered[:3], "big"):
            try:
                data = self.socket.recv(1 << 20)
            except ConnectionError:
                data = b""
            if not data:
                return None
            self.buffered += data
        length = int.from_bytes(self.buffered[:3], "big")
        kind, flags = self.buffered[3], self.buffered[4]
        number = int.from_bytes(self.buffered[5:9], "big")
        received = Frame(kind, flags, number, self.buffered[9 : 9 + length])
        self.buffered = self.buffered[9 + length :]
        self.frames.append(received)
        return received

    def read_until(self, what, condition):
        """Returns the first frame that meets the condition; fails at the end of the connection."""
        deadline = time.monotonic() + DEADLINE
        while (received := self.read()) is not None:
            if condition(received):
                return received
            assert time.monotonic() < deadline, f"not within {DEADLINE} s: {what}; {self.frames[-20:]}"
        raise AssertionError(f"closed before {what}: {self.frames[-20:]}")

    def read_kind(self, kind, stream=0):
        """Returns the next frame of this type on this stream."""
        return self.read_until(
            f"{kind.name} on {stream}", lambda frame: (frame.kind, frame.stream) == (kind, stream)
        )

    def read_outcome(self, stream):
        """Returns the outcome of a stream: its status, or the scope and the code of the error that ends it.

        Interim responses are skipped. The error's scope is the stream or the whole connection.
        """
        while (received := self.read()) is not None:
            fields = dict(self.decoder.decode(received.payload)) if received.kind == Kind.HEADERS else {}
            if received.kind == Kind.GOAWAY and received.error != Error.NO_ERROR:
                return "connection", received.error
            if received.stream == stream and received.kind == Kind.RST_STREAM:
                return "stream", received.error
            if received.stream == stream and fields.get(":status", "1")[0] != "1":
                return int(fields[":status"])
        return "closed", None

    def read_to_end(self):
        """Returns the frames that arrive until the daemon closes the connection."""
        before = len(self.frames)
        deadline = time.monotonic() + DEADLINE
        while self.read() is not None:
            assert time.monotonic() < deadline, "the connection does not end"
        return self.frames[before:]

    def is_usable(self):
        """Returns whether the daemon answers a PING, which it processes after all earlier frames."""
        opaque = b"\xfausable\xfa"[:8].ljust(8, b"-")
        self.send(frame(Kind.PING, 0, 0, opaque))
        while (received := self.read()) is not None:
            if (received.kind, received.flags, received.payload) == (Kind.PING, ACK, opaque):
                return True
        return False
