"""The applications of `train`: `app:wsgi` and `app:asgi`, with a path for each kind of response.

The responses resemble those of frameworks: headers that middleware adds, a body in parts, a file. The
applications do as little work as possible, because the profile is to record rgun's work.
"""

import tempfile

MIB = 1024 * 1024

PAGE = b"<p>A page of a shop, a blog or a wiki, about as long as most of them are.</p>\n" * 100
LINES = [b"line %d of a report that is sent while it is made\n" % number for number in range(20)]
EVENTS = [b"id: %d\ndata: {'state': 'on its way'}\n\n" % number for number in range(20)]
MISSING = b"There is no such page."

# Kept open until the process ends: closing it removes the file.
FILE = tempfile.NamedTemporaryFile(prefix="rgun-train-")  # noqa: SIM115
FILE.write(b"x" * MIB)
FILE.flush()

# Headers of a response as Django's middleware leaves them.
FRAMEWORK = [
    ("Content-Type", "text/html; charset=utf-8"),
    ("X-Frame-Options", "DENY"),
    ("Vary", "Cookie"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Set-Cookie", "csrftoken=6YbQ1oXk0TQq9cHn; Path=/; SameSite=Lax"),
]


def wsgi(environ, start_response):
    """Responds according to the path."""
    path = environ["PATH_INFO"]
    if path == "/hello":
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return [b"ok"]
    if path == "/page":
        start_response("200 OK", [*FRAMEWORK, ("Content-Length", str(len(PAGE)))])
        return [PAGE]
    if path == "/echo":
        body = environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]
    if path == "/upload":
        size = sum(map(len, iter(lambda: environ["wsgi.input"].read(65536), b"")))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"%d bytes\n" % size]
    if path == "/lines":
        start_response("200 OK", FRAMEWORK[:])
        return iter(LINES)
    if path == "/file":
        file = open(FILE.name, "rb")  # noqa: SIM115 (the server closes it)
        start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(MIB))])
        return environ["wsgi.file_wrapper"](file)
    start_response("404 Not Found", [("Content-Type", "text/plain"), ("Content-Length", str(len(MISSING)))])
    return [MISSING]


def encoded(headers):
    """Converts WSGI headers to ASGI headers."""
    return [(name.lower().encode(), value.encode()) for name, value in headers]


FRAMEWORK_ENCODED = encoded(FRAMEWORK)


async def asgi(scope, receive, send):
    """Responds according to the scope's type and path."""
    if scope["type"] == "websocket":
        await websocket(receive, send)
        return
    if scope["type"] == "lifespan":
        raise NotImplementedError("no lifespan")
    path, status, headers, parts = scope["path"], 200, FRAMEWORK_ENCODED, [MISSING]
    if path == "/hello":
        headers, parts = encoded([("Content-Type", "text/plain"), ("Content-Length", "2")]), [b"ok"]
    elif path == "/page":
        headers, parts = [*FRAMEWORK_ENCODED, (b"content-length", str(len(PAGE)).encode())], [PAGE]
    elif path == "/echo":
        parts = [await body(receive)]
        headers = encoded([("Content-Type", "application/json"), ("Content-Length", str(len(parts[0])))])
    elif path == "/upload":
        parts = [b"%d bytes\n" % len(await body(receive))]
    elif path == "/lines":
        parts = LINES
    elif path == "/events":
        headers, parts = (
            encoded([("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache")]),
            EVENTS,
        )
    elif path != "/file":
        status = 404
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if path == "/file":
        await send({"type": "http.response.pathsend", "path": FILE.name})
        return
    for part in parts[:-1]:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": parts[-1]})


async def body(receive):
    """Receives the whole body of the request."""
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message["body"])
        more = message.get("more_body", False)
    return b"".join(parts)


async def websocket(receive, send):
    """Echoes messages."""
    await receive()
    await send({"type": "websocket.accept"})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        await send({**message, "type": "websocket.send"})
