"""The application of the ASGI benches that are not hello: `app_asgi:application`, bare ASGI.

Server-sent events and a WebSocket that echoes, with as little of their own as can be. A WebSocket that nobody
writes to waits in `receive()`: that is the idle one of rss-websocket. The hello is tests/apps/hello.
"""

EVENTS = 100
HEADERS = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
# About what a line of a log, a price, or a token of a chat comes to.
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
    """By type and path; what does not exist is an error that no bench overlooks."""
    if scope["type"] == "websocket":
        await echo(receive, send)
    elif scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["path"] == "/sse":
        await events(send)
    elif scope["path"] == "/first":
        await first(receive, send)
    else:
        raise ValueError(f"no {scope['path']} here")


async def events(send):
    """A hundred events, each sent on its own."""
    await send(START)
    for chunk in CHUNKS:
        await send(chunk)
    await send(FINISH)


async def first(receive, send):
    """One event and no other: only a server that passes on what it has lets a client see it."""
    await send(START)
    await send(CHUNKS[0])
    while (await receive())["type"] != "http.disconnect":
        pass


async def echo(receive, send):
    """Every text message back to whom it came from."""
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
