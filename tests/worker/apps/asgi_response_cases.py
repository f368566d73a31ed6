"""ASGI response cases: parts, lengths, headers, extensions."""

import json
import os
import tempfile

from asgi_registry import SEEN, case, finish, gate, send_json, start


@case
async def parts(scope, receive, send):
    await start(send)
    for number in range(3):
        await finish(send, b"%d" % number, more_body=True)
    await finish(send)


@case
async def paced(scope, receive, send):
    """Sends a part, waits for the gate, and sends the last part."""
    await start(send)
    await finish(send, b"first", more_body=True)
    await gate(scope).wait()
    await finish(send, b"last")


@case
async def head_only(scope, receive, send):
    """Sends an empty part, which sends the head."""
    await start(send, 201)
    await finish(send, b"", more_body=True)
    await gate(scope).wait()
    await finish(send, b"done")


@case
async def large(scope, receive, send):
    n_bytes = int(scope["query_string"])
    await start(send)
    await finish(send, bytes(range(256)) * (n_bytes // 256))


@case
async def flood(scope, receive, send):
    """Sends many parts and records how many have been sent."""
    SEEN[:] = [0]
    await start(send)
    for _ in range(200):
        await finish(send, b"f" * 50_000, more_body=True)
        SEEN[0] += 1
    await finish(send)


@case
async def status(scope, receive, send):
    await start(send, int(scope["query_string"]), [(b"content-type", b"text/plain")])
    await finish(send, b"a body")


@case
async def length(scope, receive, send):
    """Declares and sends the lengths in the query, `?DECLARED-SENT`."""
    declared, sent = scope["query_string"].split(b"-")
    await start(send, headers=[(b"Content-Length", declared)])
    await finish(send, b"x" * int(sent))


@case
async def length_in_parts(scope, receive, send):
    """Like length, with half of the body sent before the gate opens."""
    declared, sent = scope["query_string"].split(b"-")
    await start(send, headers=[(b"Content-Length", declared)])
    await finish(send, b"x" * (int(sent) // 2), more_body=True)
    await gate(scope).wait()
    await finish(send, b"x" * (int(sent) - int(sent) // 2))


@case
async def headers(scope, receive, send):
    await start(
        send,
        headers=[
            (b"X-Upper", b" trimmed "),
            [b"set-cookie", b"a=1"],
            (b"set-cookie", b"b=2"),
            (bytearray(b"x-array"), memoryview(b"view")),
            (b"connection", b"close"),
            (b"transfer-encoding", b"chunked"),
            (b"x-latin", "é".encode("latin-1")),
        ],
    )
    await finish(send)


TYPE, LENGTH = (b"Content-Type", b" text/plain "), (b"content-length", b"4")
CONSTANT_HEADS = {
    b"both": (200, [TYPE, LENGTH]),
    b"reversed": (200, [LENGTH, TYPE]),
    b"one": (200, [TYPE]),
    b"created": (201, [TYPE, LENGTH]),
    b"no_content": (204, [TYPE, LENGTH]),
    b"changing": (200, [TYPE, (b"x-number", bytearray(b"0"))]),
}


@case
async def constant_head(scope, receive, send):
    """Sends a head whose headers are the same objects each time. A bytearray among them counts up."""
    status, headers = CONSTANT_HEADS[scope["query_string"]]
    for _, value in headers:
        if isinstance(value, bytearray):
            value[0] += 1
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await finish(send, b"four")


@case
async def generated_headers(scope, receive, send):
    headers = ((name, b"v") for name in (b"x-a", b"x-b"))
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await finish(send)


@case
async def no_headers(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body"})


@case
async def views(scope, receive, send):
    await start(send)
    await finish(send, bytearray(b"array "), more_body=True)
    await finish(send, memoryview(b"view"))


@case
async def file(scope, receive, send):
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"from a file")
        file.flush()
        await start(send)
        await send({"type": "http.response.pathsend", "path": file.name})


@case
async def path(scope, receive, send):
    """Sends the file PATH of `?LENGTH,PATH` with pathsend; an empty LENGTH declares none."""
    length, _, path = scope["query_string"].decode().partition(",")
    await start(send, headers=[(b"content-length", length.encode())] if length else [])
    await send({"type": "http.response.pathsend", "path": path})


@case
async def no_file(scope, receive, send):
    await start(send)
    await send({"type": "http.response.pathsend", "path": "/nowhere/at/all"})


@case
async def file_error(scope, receive, send):
    """Sends the file of the query with pathsend, and answers the attributes of the `OSError`."""
    await start(send)
    try:
        await send({"type": "http.response.pathsend", "path": scope["query_string"].decode()})
    except OSError as error:
        attributes = [type(error).__name__, error.errno, error.strerror, error.filename]
        await finish(send, json.dumps(attributes).encode())


@case
async def directory(scope, receive, send):
    await start(send)
    await send({"type": "http.response.pathsend", "path": os.getcwd()})


@case
async def hints(scope, receive, send):
    await send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload", b"</b.js>"]})
    await send_json(send, "hinted")


@case
async def trailers(scope, receive, send):
    await start(send, trailers=True)
    await finish(send, b"body", more_body=False)
    await send({"type": "http.response.trailers", "headers": [(b"x-one", b"1")], "more_trailers": True})
    await send({"type": "http.response.trailers", "headers": [(b"x-two", b"2")]})


@case
async def large_trailers(scope, receive, send):
    await start(send, trailers=True)
    await finish(send, b"t" * 6_000_000)
    await send({"type": "http.response.trailers", "headers": [(b"x-one", b"1")]})
