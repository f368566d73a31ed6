"""Bare ASGI and WSGI for HTTP/2 tests, with one path for each case."""

import asyncio
import hashlib
import json

COUNTS = {"begun": 0, "ended": 0, "disconnected": 0}
GATES = {}
BLOCK = bytes(range(256)) * 256


def gate(name):
    """Returns the event for which /wait/NAME waits and which /open/NAME sets."""
    return GATES.setdefault(name, asyncio.Event())


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    COUNTS["begun"] += 1
    try:
        if scope["type"] == "websocket":
            await websocket(scope, receive, send)
        else:
            name, _, argument = scope["path"].lstrip("/").partition("/")
            await globals()[f"on_{name}"](argument, scope, receive, send)
    finally:
        COUNTS["ended"] += 1


async def respond(send, body, status=200, headers=()):
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


async def websocket(scope, receive, send):
    assert (await receive())["type"] == "websocket.connect"
    if scope["path"] == "/denied":
        await send({"type": "websocket.close"})
        return
    chosen = scope["subprotocols"][0] if scope["subprotocols"] else None
    await send({"type": "websocket.accept", "subprotocol": chosen})
    if scope["path"] == "/unread":
        await gate("unread").wait()
    facts = {"http_version": scope["http_version"], "scheme": scope["scheme"], "path": scope["path"]}
    await send({"type": "websocket.send", "text": json.dumps(facts)})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


async def on_scope(_, scope, receive, send):
    fields = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    names = ("http_version", "method", "scheme", "path")
    raw = {"raw_path": scope["raw_path"].decode("latin-1"), "query": scope["query_string"].decode("latin-1")}
    facts = {name: scope[name] for name in names} | raw | {"headers": fields}
    await respond(
        send, json.dumps(facts).encode(), headers=[(b"connection", b"x-hop"), (b"keep-alive", b"5")]
    )


async def on_counts(_, scope, receive, send):
    await respond(send, json.dumps(COUNTS).encode())


async def on_upload(_, scope, receive, send):
    digest, length, more = hashlib.sha256(), 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            COUNTS["disconnected"] += 1
            return
        digest.update(message["body"])
        length += len(message["body"])
        more = message["more_body"]
    await respond(send, json.dumps({"length": length, "digest": digest.hexdigest()}).encode())


async def on_download(count, scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(int(count)):
        await send({"type": "http.response.body", "body": BLOCK, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def on_whole(length, scope, receive, send):
    await respond(send, bytes(int(length)))


async def on_wait(name, scope, receive, send):
    """Ignores the body, and answers when the gate opens or the client leaves."""
    opened = asyncio.create_task(gate(name).wait())
    left = asyncio.create_task(wait_for_disconnect(receive))
    await asyncio.wait({opened, left}, return_when=asyncio.FIRST_COMPLETED)
    if left.done():
        COUNTS["disconnected"] += 1
        opened.cancel()
        return
    left.cancel()
    await respond(send, b"opened")


async def wait_for_disconnect(receive):
    while (await receive())["type"] != "http.disconnect":
        pass


async def on_hold(name, scope, receive, send):
    """Waits until the gate opens, then receives the whole body."""
    await gate(name).wait()
    await on_upload(name, scope, receive, send)


async def on_open(name, scope, receive, send):
    gate(name).set()
    await respond(send, b"ok")


async def on_trailers(_, scope, receive, send):
    headers = [(b"trailer", b"x-digest, x-more")]
    await send({"type": "http.response.start", "status": 200, "headers": headers, "trailers": True})
    await send({"type": "http.response.body", "body": b"body"})
    trailers = [(b"x-digest", b"abc"), (b"x-more", b"1")]
    await send({"type": "http.response.trailers", "headers": trailers})


async def on_hints(_, scope, receive, send):
    links = [b"</style.css>; rel=preload; as=style"]
    await send({"type": "http.response.early_hint", "links": links})
    await gate("hints").wait()
    await respond(send, b"after hints")


async def on_status(code, scope, receive, send):
    await respond(send, b"", int(code))


async def on_breaks(_, scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"part", "more_body": True})
    await gate("breaks").wait()
    raise RuntimeError("broken on purpose")


def wsgi(environ, start_response):
    """Returns the HTTP version and the body's length and digest as JSON."""
    digest, length = hashlib.sha256(), 0
    while block := environ["wsgi.input"].read(65536):
        digest.update(block)
        length += len(block)
    facts = {"protocol": environ["SERVER_PROTOCOL"], "length": length, "digest": digest.hexdigest()}
    facts["content_length"] = environ.get("CONTENT_LENGTH")
    body = json.dumps(facts).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
