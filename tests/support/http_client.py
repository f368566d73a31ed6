"""Raw HTTP/1.1 for tests: sends exactly the given bytes, and knows whether a response is truncated.

http.client hides whether the body ended as its framing says, which headers were repeated, and what is left
on the connection.
"""

import json
import socket
import threading

from .waiting import DEADLINE


class Response:
    """One response as it was on the wire."""

    def __init__(self, status, headers, body, complete):
        # None: the connection ended before the head was complete.
        self.status = status
        # (name, value) in order; names in lower case, values as ISO-8859-1.
        self.headers = headers
        self.body = body
        # False: the connection ended before the framing said so.
        self.complete = complete

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
    def text(self):
        """The body decoded as UTF-8."""
        return self.body.decode()

    def __repr__(self):
        return f"<{self.status} {self.headers} {self.body[:200]!r} complete={self.complete}>"


class Connection:
    """One client connection to a unix socket (a path) or a TCP address (a pair)."""

    def __init__(self, address, timeout=DEADLINE, source_address=None):
        if isinstance(address, tuple):
            self.host = f"{address[0]}:{address[1]}"
            self.socket = socket.create_connection(address, timeout, source_address)
        else:
            self.host = "example.org"
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect(address)
        # Received bytes that no response has used yet.
        self.buffer = b""
        # The reason phrase of the last head.
        self.reason = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Closes the connection."""
        self.socket.close()

    def send(self, data):
        """Sends raw bytes."""
        self.socket.sendall(data)

    def request(self, method, target, body=b"", headers=(), version="1.1"):
        """Sends one request and returns its response.

        Bytes as the body get a Content-Length unless they are empty; an iterable of bytes is sent in chunks.
        """
        pairs = headers.items() if isinstance(headers, dict) else headers
        lines = [f"{method} {target} HTTP/{version}", f"Host: {self.host}", *(f"{k}: {v}" for k, v in pairs)]
        chunks = () if isinstance(body, bytes) else body
        if not isinstance(body, bytes):
            lines.append("Transfer-Encoding: chunked")
        elif body:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        self.send(head + body if isinstance(body, bytes) else head)
        for chunk in chunks:
            self.send(b"%x\r\n%s\r\n" % (len(chunk), chunk))
        if not isinstance(body, bytes):
            self.send(b"0\r\n\r\n")
        return self.response(head_only=method == "HEAD")

    def receive(self):
        """Receives more bytes into the buffer; False at the end of the connection."""
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self.buffer += data
        return bool(data)

    def read_until(self, mark):
        """Returns the bytes before `mark` and drops the mark; None if the connection ends first."""
        while mark not in self.buffer:
            if not self.receive():
                return None
        found, self.buffer = self.buffer.split(mark, 1)
        return found

    def read_exactly(self, size):
        """Returns that many bytes, or those that came before the end of the connection."""
        parts = [self.buffer[:size]]
        have = len(parts[0])
        self.buffer = self.buffer[size:]
        while have < size:
            try:
                data = self.socket.recv(min(size - have, 1 << 20))
            except ConnectionResetError:
                data = b""
            if not data:
                break
            parts.append(data)
            have += len(data)
        return b"".join(parts)

    def read_to_end(self):
        """Returns all bytes up to the end of the connection."""
        while self.receive():
            pass
        data, self.buffer = self.buffer, b""
        return data

    def head(self):
        """Reads a response's head: status and headers; (None, []) if the connection ends first."""
        head = self.read_until(b"\r\n\r\n")
        if head is None:
            return None, []
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = [
            (name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)
        ]
        _, status, self.reason = first.split(" ", 2)
        return int(status), headers

    def response(self, head_only=False):
        """Reads the next response."""
        status, headers = self.head()
        if status is None:
            return Response(None, [], b"", complete=False)
        lengths = {value for name, value in headers if name == "content-length"}
        if head_only or status in (204, 304):
            return Response(status, headers, b"", complete=True)
        if ("transfer-encoding", "chunked") in headers:
            body, complete = self.chunks()
        elif lengths:
            (length,) = lengths
            body = self.read_exactly(int(length))
            complete = len(body) == int(length)
        else:
            body, complete = self.read_to_end(), True
        return Response(status, headers, body, complete)

    def chunk(self):
        """Reads one chunk of a chunked body: b"" for the last one, None if the connection ends."""
        line = self.read_until(b"\r\n")
        if line is None:
            return None
        size = int(line.split(b";")[0], 16)
        data = self.read_exactly(size + 2)
        return data[:-2] if len(data) == size + 2 else None

    def chunks(self):
        """Reads the remaining chunks: their bytes, and whether the last chunk came."""
        body = []
        while True:
            chunk = self.chunk()
            if not chunk:
                return b"".join(body), chunk == b""
            body.append(chunk)

    def is_open(self):
        """Whether the connection still serves requests (of the application tests/apps/hello)."""
        return self.request("GET", "/status/404").status == 404


def request(address, method, target, body=b"", headers=(), timeout=DEADLINE):
    """Sends one request on a connection of its own; raises ConnectionError for a truncated response."""
    pairs = [*(headers.items() if isinstance(headers, dict) else headers), ("Connection", "close")]
    with Connection(address, timeout) as connection:
        response = connection.request(method, target, body, pairs)
    if not response.complete:
        raise ConnectionError(f"{method} {target}: no complete response: {response}")
    return response


class BackgroundRequest:
    """One request on a thread of its own."""

    def __init__(self, address, method, target, **more):
        self._outcome = None
        self._thread = threading.Thread(target=self._run, args=(address, method, target, more), daemon=True)
        self._thread.start()

    def _run(self, address, method, target, more):
        try:
            self._outcome = request(address, method, target, **more)
        except OSError as error:
            self._outcome = error

    def result(self, timeout=DEADLINE):
        """Waits for the response and returns it."""
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "the request is still waiting for its response"
        if isinstance(self._outcome, OSError):
            raise AssertionError(f"the request got no response: {self._outcome!r}")
        return self._outcome
