"""The registry of ASGI cases by path, the application that calls them, and helpers of the cases."""

import asyncio
import contextvars
import json

CASES = {}


# Events on which requests wait until a test opens them.
GATES = {}


# Values that a case has recorded for a later request.
SEEN = []


variable = contextvars.ContextVar("variable", default="unset")


def case(function):
    CASES["/" + function.__name__] = function
    return function


def gate(scope):
    """Returns the gate named by the query."""
    return GATES.setdefault(scope["query_string"].decode(), asyncio.Event())


async def start(send, status=200, headers=(), **more):
    await send({"type": "http.response.start", "status": status, "headers": list(headers), **more})


async def finish(send, body=b"", **more):
    await send({"type": "http.response.body", "body": body, **more})


async def send_json(send, value):
    await start(send, headers=[(b"content-type", b"application/json")])
    await finish(send, json.dumps(value, default=jsonable).encode())


def jsonable(value):
    return {"bytes": value.decode("latin-1")} if isinstance(value, bytes) else repr(value)


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        assert (await receive())["type"] == "lifespan.startup"
        scope["state"]["from"] = "lifespan"
        scope["state"]["list"] = []
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        print("lifespan: shutdown", flush=True)
        await send({"type": "lifespan.shutdown.complete"})
        return None
    handler = CASES.get(scope["path"].rpartition("/root")[2] or scope["path"])
    return await (handler or CASES["/scope"])(scope, receive, send)
