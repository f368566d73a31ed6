"""The ASGI application of the benchmarks besides hello: `app_asgi:application`, bare ASGI.

Echoes of bodies, server-sent events and a WebSocket echo, with as little work as possible. The idle
WebSockets of rss-websocket wait in its `receive()`. Hello is in tests/apps/hello.
"""

EVENTS = 100
HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
# About the size of a log line, a price, or a token of a chat.
CHUNKS = [
    {
        "type": "http.response.body",
        "body": b'id: %d\ndata: {"number": %d, "text": "one of a hundred events"}\n\n' % (number, number),
        "more_body": True,
    }
    for number in range(EVENTS)
]
START = {"type": "http.response.start", "status": 200, "headers": HEADERS}
FINISH = {"type": "http.response.body", "body": b"", "more_body": False}
ACCEPT = {"type": "websocket.accept"}


async def application(scope, receive, send):
    """Dispatches on type and path; raises for unknown paths, which every benchmark treats as an error."""
    if scope["type"] == "websocket":
        await echo_messages(receive, send)
    elif scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["path"] == "/echo":
        await echo_body(receive, send)
    elif scope["path"] == "/sse":
        await events(send)
    elif scope["path"] == "/first":
        await first(receive, send)
    else:
        raise ValueError(f"no {scope['path']} here")


async def events(send):
    """Sends a hundred events, one message each."""
    await send(START)
    for chunk in CHUNKS:
        await send(chunk)
    await send(FINISH)


async def first(receive, send):
    """Sends one event and waits: a server that buffers does not pass it on."""
    await send(START)
    await send(CHUNKS[0])
    while (await receive())["type"] != "http.disconnect":
        pass


async def echo_body(receive, send):
    """Responds with the body of the request, read whole."""
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            break
    body = b"".join(parts)
    length = [(b"content-type", b"application/octet-stream"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": body})


async def echo_messages(receive, send):
    """Echoes text messages."""
    await receive()
    await send(ACCEPT)
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        await send({"type": "websocket.send", "text": message["text"]})


async def lifespan(receive, send):
    """Nothing to prepare and nothing to clean up."""
    while True:
        message = await receive()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return
