"""An ASGI application of releases: says which one it is, streams, holds WebSockets, blocks its event loop.

`release.py` beside it is what a deploy changes. Nothing but Python 3.9.
"""

import asyncio
import os
import time

import release

STARTUP = getattr(release, "STARTUP", None)
EVENTS = []


async def application(scope, receive, send):
    """Dispatch on the type, then on the path."""
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    elif scope["type"] == "websocket":
        await websocket(scope, receive, send)
    else:
        query = scope["query_string"].decode()
        if query.startswith("/"):
            # Says that it runs, and where, in the file the query names: the test need not guess.
            with open(query, "w") as mark:
                mark.write(str(os.getpid()))
        await VIEWS.get(scope["path"], version)(scope, receive, send)


async def lifespan(scope, receive, send):
    """Counts in the state; a release may refuse to start."""
    assert (await receive())["type"] == "lifespan.startup"
    if STARTUP:
        await send({"type": "lifespan.startup.failed", "message": STARTUP})
        return
    scope["state"]["started"] = str(release.VERSION)
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    print("the application has shut down", flush=True)
    await send({"type": "lifespan.shutdown.complete"})


async def websocket(scope, receive, send):
    """Says the release, then echoes, then says on standard output how it ended."""
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": f"{release.VERSION} {os.getpid()}"})
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            print(f"a socket of release {release.VERSION} ended with {event['code']}", flush=True)
            return
        await send({"type": "websocket.send", "text": event["text"]})


async def answer(send, body, status=200):
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def version(scope, receive, send):
    """Which release this is, as lifespan's state has it."""
    await answer(send, scope["state"]["started"].encode())


async def never(scope, receive, send):
    """Waits for what never comes."""
    await forgotten()


async def forgotten():
    await asyncio.sleep(1000)


async def block(scope, receive, send):
    """Keeps the event loop from turning."""
    time.sleep(1000)


async def events(scope, receive, send):
    """Server-sent events, ten a second, until the client leaves or there were forty."""
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for number in range(40):
        body = f"data: {release.VERSION} {number}\n\n".encode()
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await asyncio.sleep(0.1)
    await send({"type": "http.response.body", "body": b""})


VIEWS = {"/never": never, "/block": block, "/events": events}
