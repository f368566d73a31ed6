"""Responses whose bodies follow their heads at once, or when another request opens their gate."""

import asyncio
import collections

GATES = collections.defaultdict(asyncio.Event)


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        raise RuntimeError("no lifespan")
    name = scope["path"][1:]
    await CASES[name.partition("/")[0]](scope, name, send)


async def start(send, status=200, headers=(), kind="http", **more):
    message = {"type": f"{kind}.response.start", "status": status, "headers": list(headers)}
    await send({**message, **more})


async def finish(send, body=b"", kind="http", **more):
    await send({"type": f"{kind}.response.body", "body": body, **more})


async def open_gate(scope, name, send):
    GATES[name.partition("/")[2]].set()
    await start(send)
    await finish(send, b"open")


async def at_once(scope, name, send):
    await start(send)
    await finish(send, b"all")


async def after_a_round(scope, name, send):
    """Yields to the loop between head and body, as frameworks with several tasks do."""
    await start(send)
    await asyncio.sleep(0)
    await finish(send, b"all")


async def late(scope, name, send):
    await start(send)
    await GATES[name].wait()
    await finish(send, b"x" * int(scope["query_string"] or b"4"))


async def late_with_status(scope, name, send):
    await start(send, int(scope["query_string"]))
    await GATES[name].wait()
    await finish(send)


async def late_and_empty(scope, name, send):
    await start(send, headers=[(b"content-length", b"0")])
    await GATES[name].wait()
    await finish(send)


async def late_file(scope, name, send):
    await start(send)
    await GATES[name].wait()
    await send({"type": "http.response.pathsend", "path": __file__})


async def late_trailers(scope, name, send):
    await start(send, trailers=True)
    await GATES[name].wait()
    await finish(send, b"body")
    await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"4")]})


async def denies_late(scope, name, send):
    await start(send, 401, kind="websocket.http")
    await GATES[name].wait()
    await finish(send, b"denied", kind="websocket.http")


async def raises_at_once(scope, name, send):
    await start(send)
    raise ValueError("at once")


async def raises_late(scope, name, send):
    await start(send)
    await GATES[name].wait()
    raise ValueError("late")


async def returns_late(scope, name, send):
    await start(send, 204)
    await GATES[name].wait()


CASES = {
    "open": open_gate,
    "at_once": at_once,
    "after_a_round": after_a_round,
    "late": late,
    "late_with_status": late_with_status,
    "late_and_empty": late_and_empty,
    "late_file": late_file,
    "late_trailers": late_trailers,
    "denies_late": denies_late,
    "raises_at_once": raises_at_once,
    "raises_late": raises_late,
    "returns_late": returns_late,
}
