"""Raw HTTP/1.1 for tests: sends exactly the bytes it is given, and tells a complete response from a cut one.

Not http.client, which hides what matters here: whether the body ended as its framing said, what came twice,
what is left on the connection.
"""

import json
import socket

DEADLINE = 20


class Response:
    """One response as it was on the wire."""

    def __init__(self, status, headers, body, complete):
        self.status = status
        # In order, names in lower case, values as ISO-8859-1.
        self.headers = headers
        self.body = body
        # False: the connection ended before the framing said so.
        self.complete = complete

    def all(self, name):
        """Every value of a header."""
        return [value for key, value in self.headers if key == name]

    def __getitem__(self, name):
        """The only value of a header."""
        (value,) = self.all(name)
        return value

    def json(self):
        """The body as JSON."""
        return json.loads(self.body)

    def __repr__(self):
        return f"<{self.status} {self.headers} {self.body[:200]!r} complete={self.complete}>"


class Connection:
    """One client connection over a unix socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(DEADLINE)
        self.socket.connect(path)
        self.buffer = b""
        # The reason phrase of the last head.
        self.reason = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        """Raw bytes."""
        self.socket.sendall(data)

    def request(self, method, target, body=b"", headers=(), version="1.1"):
        """One request, its Content-Length added if there is a body."""
        lines = [f"{method} {target} HTTP/{version}", "Host: example.org", *(f"{k}: {v}" for k, v in headers)]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        return self.response(head_only=method == "HEAD")

    def more(self):
        """Some more bytes; False at the end of the connection."""
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self.buffer += data
        return bool(data)

    def until(self, mark):
        """The bytes before `mark`, which is taken off; None if the connection ends before."""
        while mark not in self.buffer:
            if not self.more():
                return None
        found, self.buffer = self.buffer.split(mark, 1)
        return found

    def exactly(self, size):
        """That many bytes, or those that came before the end."""
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

    def head(self):
        """Status and headers."""
        head = self.until(b"\r\n\r\n")
        if head is None:
            return None, []
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = [
            (name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)
        ]
        _, status, self.reason = first.split(" ", 2)
        return int(status), headers

    def response(self, head_only=False):
        """The next response."""
        status, headers = self.head()
        if status is None:
            return Response(None, [], b"", complete=False)
        lengths = {value for name, value in headers if name == "content-length"}
        chunked = ("transfer-encoding", "chunked") in headers
        if head_only or status in (204, 304):
            return Response(status, headers, b"", complete=True)
        if chunked:
            body, complete = self.chunked()
        elif lengths:
            (length,) = lengths
            body = self.exactly(int(length))
            complete = len(body) == int(length)
        else:
            body = self.buffer
            while self.more():
                body = self.buffer
            complete = True
        return Response(status, headers, body, complete)

    def chunk(self):
        """One chunk of a chunked body; b"" is its end, None the connection's."""
        line = self.until(b"\r\n")
        if line is None:
            return None
        size = int(line.split(b";")[0], 16)
        data = self.exactly(size + 2)
        return data[:-2] if len(data) == size + 2 else None

    def chunked(self):
        """All chunks, and whether the last one came."""
        body = []
        while True:
            chunk = self.chunk()
            if not chunk:
                return b"".join(body), chunk == b""
            body.append(chunk)

    def is_open(self):
        """Does the connection still serve requests?"""
        return self.request("GET", "/status/404").status == 404
