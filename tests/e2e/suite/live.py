"""An ASGI application with releases: reports its release, streams, serves WebSockets, blocks its event loop.

A deploy changes `release.py` in the same directory. Needs only Python 3.9.
"""

import asyncio
import os
import time

import release

STARTUP = getattr(release, "STARTUP", None)
EVENTS = []


async def application(scope, receive, send):
    """Dispatches on the type, then on the path."""
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    elif scope["type"] == "websocket":
        await websocket(scope, receive, send)
    else:
        query = scope["query_string"].decode()
        if query.startswith("/"):
            # Writes its pid into the file that the query names, so that the test knows that it runs.
            with open(query, "w") as mark:
                mark.write(str(os.getpid()))
        await VIEWS.get(scope["path"], version)(scope, receive, send)


async def lifespan(scope, receive, send):
    """Puts the release into the state; fails the startup if the release says so."""
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
    """Sends release and pid, then echoes, and prints the close code."""
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
    """Returns the release from lifespan's state."""
    await answer(send, scope["state"]["started"].encode())


async def never_respond(scope, receive, send):
    """Never returns."""
    await forgotten()


async def forgotten():
    await asyncio.sleep(1000)


async def block(scope, receive, send):
    """Blocks the event loop."""
    time.sleep(1000)


async def events(scope, receive, send):
    """Sends forty server-sent events, ten per second."""
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for number in range(40):
        body = f"data: {release.VERSION} {number}\n\n".encode()
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await asyncio.sleep(0.1)
    await send({"type": "http.response.body", "body": b""})


VIEWS = {"/never": never_respond, "/block": block, "/events": events}
