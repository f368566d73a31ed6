"""HTTP/2 for tests, by the h2 package from PyPI, and bare frames that h2 would not send."""

import contextlib
import json
import socket
import time

from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    InformationalResponseReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes

from .waiting import DEADLINE
from .websocket_client import WebSocket

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Stream:
    """The response on one stream, as far as it has arrived."""

    def __init__(self):
        self.status = None
        self.headers = []
        self.interim = []
        self.body = bytearray()
        self.trailers = None
        self.ended = False
        # The error code of RST_STREAM.
        self.reset = None

    def all(self, name):
        """Returns every value of a header."""
        return [value for key, value in self.headers if key == name]

    def __getitem__(self, name):
        """Returns the only value of a header."""
        (value,) = self.all(name)
        return value

    def json(self):
        """Returns the body parsed as JSON."""
        return json.loads(self.body)

    @property
    def is_over(self):
        """True once nothing more can arrive."""
        return self.ended or self.reset is not None

    def __repr__(self):
        return f"<{self.status} {self.headers} {self.body[:200]!r} ended={self.ended} reset={self.reset}>"


class PatientConnection(H2Connection):
    """A connection whose open streams continue after a GOAWAY (RFC 9113 §6.8). h2 alone would end it."""

    def _receive_goaway_frame(self, frame):
        result = super()._receive_goaway_frame(frame)
        self.state_machine.state = ConnectionState.CLIENT_OPEN
        return result


class Http2Connection:
    """A client connection with prior knowledge, or over TLS."""

    def __init__(self, address, window=65535, credit=True, tls=None):
        """`credit`: whether received bytes are acknowledged at once (flow control). `tls`: an SSLContext."""
        self.credit = credit
        self.socket = socket.create_connection(address, DEADLINE)
        if tls:
            self.socket = tls.wrap_socket(self.socket, server_hostname="localhost")
        self.h2 = PatientConnection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.config.validate_outbound_headers = False
        self.h2.config.normalize_outbound_headers = False
        self.h2.initiate_connection()
        if window != 65535:
            self.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        self.streams = {}
        # The error code of GOAWAY.
        self.goaway = None
        self.settings_seen = False
        self.closed = False
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def flush(self):
        """Sends what h2 has queued."""
        self.socket.sendall(self.h2.data_to_send())

    def begin(self, method, path, headers=(), end=True, pseudo=None):
        """Sends a request's head; returns its stream's number."""
        number = self.h2.get_next_available_stream_id()
        head = pseudo or [(":method", method), (":scheme", "http"), (":authority", "test"), (":path", path)]
        self.streams[number] = Stream()
        self.h2.send_headers(number, [*head, *headers], end_stream=end)
        self.flush()
        return number

    def send_body(self, number, body):
        """Sends a whole body as flow control allows, and ends the stream if the daemon has not."""
        stream, sent = self.streams[number], 0
        while sent < len(body) and not stream.is_over:
            window = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            if window == 0:
                self.pump()
                continue
            self.h2.send_data(number, body[sent : sent + window])
            sent += window
            self.flush()
        if not stream.is_over:
            self.h2.end_stream(number)
            self.flush()

    def pump(self, timeout=DEADLINE):
        """Receives once and handles the events; returns false at the end of the connection."""
        self.socket.settimeout(timeout)
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionError:
            data = b""
        if not data:
            self.closed = True
            return False
        for event in self.h2.receive_data(data):
            self.handle(event)
        # If the daemon has closed the connection, the bytes that it sent before must still be read.
        with contextlib.suppress(OSError):
            self.flush()
        return True

    def handle(self, event):
        """Applies one h2 event."""
        stream = self.streams.get(getattr(event, "stream_id", None))
        if isinstance(event, ConnectionTerminated):
            self.goaway = int(event.error_code)
        elif isinstance(event, RemoteSettingsChanged):
            self.settings_seen = True
        elif stream is None:
            pass
        elif isinstance(event, InformationalResponseReceived):
            stream.interim.append(dict(event.headers))
        elif isinstance(event, ResponseReceived):
            stream.headers = list(event.headers)
            stream.status = int(stream[":status"])
        elif isinstance(event, DataReceived):
            stream.body += event.data
            if self.credit:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, TrailersReceived):
            stream.trailers = list(event.headers)
        elif isinstance(event, StreamEnded):
            stream.ended = True
        elif isinstance(event, StreamReset):
            stream.reset = int(event.error_code)

    def wait(self, what, condition):
        """Receives until the condition holds."""
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline, f"not within {DEADLINE} s: {what}"
            assert self.pump(), f"closed before {what}; goaway={self.goaway}, {self.streams}"

    def response(self, number):
        """Waits for the end of a stream and returns it."""
        stream = self.streams[number]
        self.wait(f"the response on {number}", lambda: stream.is_over)
        return stream

    def request(self, method, path, headers=(), body=None, pseudo=None):
        """Sends a request and returns the response."""
        number = self.begin(method, path, headers, end=body is None, pseudo=pseudo)
        if body is not None:
            self.send_body(number, body)
        return self.response(number)

    def get(self, path, **more):
        """Sends a GET and returns the response."""
        return self.request("GET", path, **more)

    def wait_closed(self):
        """Receives until the connection ends; returns the error code of the GOAWAY."""
        deadline = time.monotonic() + DEADLINE
        while self.pump():
            assert time.monotonic() < deadline, "the connection does not end"
        return self.goaway


def read_frames(sock):
    """Reads bare frames until the connection ends: (type, flags, stream, payload) each."""
    buffered, frames = b"", []
    sock.settimeout(DEADLINE)
    while True:
        try:
            data = sock.recv(1 << 20)
        except ConnectionError:
            data = b""
        if not data:
            return frames
        buffered += data
        while len(buffered) >= 9 + int.from_bytes(buffered[:3], "big"):
            length = int.from_bytes(buffered[:3], "big")
            number = int.from_bytes(buffered[5:9], "big")
            frames.append((buffered[3], buffered[4], number, buffered[9 : 9 + length]))
            buffered = buffered[9 + length :]


def frame(kind, flags, stream, payload=b""):
    """Encodes a frame (RFC 9113 §4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


class StreamTransport:
    """A stream as the byte stream of a WebSocket (RFC 8441)."""

    def __init__(self, connection, number):
        self.connection = connection
        self.number = number
        self.read_bytes = 0

    def send(self, data):
        """Sends bytes, which must fit into the window."""
        self.connection.h2.send_data(self.number, data)
        self.connection.flush()

    def read_exactly(self, length):
        """Returns that many bytes, or fewer at the end of the stream."""
        stream = self.connection.streams[self.number]
        end = self.read_bytes + length
        while len(stream.body) < end and not stream.is_over and self.connection.pump():
            pass
        data = stream.body[self.read_bytes : end]
        self.read_bytes += len(data)
        return data

    def close(self):
        """Ends the sending half."""
        self.connection.h2.end_stream(self.number)
        self.connection.flush()


class StreamWebSocket(WebSocket):
    """A WebSocket on an HTTP/2 stream."""

    def __init__(self, connection, path, headers=(), protocol="websocket"):
        connection.wait("SETTINGS", lambda: connection.settings_seen)
        pseudo = [
            (":method", "CONNECT"),
            (":protocol", protocol),
            (":scheme", "http"),
            (":authority", "test"),
            (":path", path),
        ]
        fields = [("sec-websocket-version", "13"), *headers]
        number = connection.begin("CONNECT", path, fields, end=False, pseudo=pseudo)
        self.stream = connection.streams[number]
        connection.wait("the handshake", lambda: self.stream.status is not None or self.stream.is_over)
        self.status = self.stream.status
        self.connection = StreamTransport(connection, number)
