"""ASGI request cases, one per path, which answer JSON; and applications of other shapes."""

import asyncio
import atexit
import collections
import functools
import json
import pathlib

import asgi_response_cases  # noqa: F401 (registers its cases)
from asgi_registry import CASES, SEEN, application, case, finish, gate, send_json, start, variable


@case
async def scope(scope, receive, send):
    await send_json(send, {"keys": list(scope), **scope})


@case
async def types(scope, receive, send):
    names = {key: type(value).__name__ for key, value in scope.items()}
    names["header"] = [type(scope["headers"]).__name__, type(scope["headers"][0]).__name__]
    await send_json(send, names)


@case
async def spoil(scope, receive, send):
    """Returns the changes that earlier requests made to the scope, then changes the scope."""
    seen = [scope["asgi"].get("spoiled"), scope["extensions"].get("spoiled"), scope["state"].get("spoiled")]
    for name in ("asgi", "extensions", "state"):
        scope[name]["spoiled"] = True
    scope["state"]["list"].append(1)
    await send_json(send, [*seen, len(scope["state"]["list"])])


@case
async def spoil_extensions(scope, receive, send):
    """Returns the scope's `asgi` and extensions as received; changes them as the query says."""
    extensions = scope["extensions"]
    seen = json.dumps([scope["asgi"], extensions])
    own, change = extensions["rgun"], scope["query_string"]
    if change == b"replace":
        extensions["http.response.trailers"] = {"spoiled": True}
    elif change == b"remove":
        del extensions["http.response.trailers"]
    elif change == b"exchange":
        extensions["spoiled"] = extensions.pop("http.response.trailers")
    elif change == b"own-add":
        own["spoiled"] = True
    elif change == b"own-exchange":
        own["spoiled"] = own.pop("request_id")
    elif change == b"own-replace":
        extensions["rgun"] = {"request_id": "spoiled"}
    elif change == b"asgi-replace":
        scope["asgi"]["version"] = "spoiled"
    await send_json(send, json.loads(seen))


@case
async def keep_scope(scope, receive, send):
    """Keeps the part of the scope that the query names; returns the ids of earlier parts."""
    parts = {b"scope": scope, b"extensions": scope["extensions"], b"rgun": scope["extensions"]["rgun"]}
    kept = parts[scope["query_string"]]
    await send_json(send, [find_request_id(part) for part in KEPT])
    KEPT.append(kept)


KEPT = []


def find_request_id(part):
    """Returns the request id in a scope, or in a part of it."""
    part = part.get("extensions", part)
    return part.get("rgun", part)["request_id"]


@case
async def echo(scope, receive, send):
    body, parts = b"", []
    while True:
        event = await receive()
        assert event["type"] == "http.request", event
        body += event["body"]
        parts.append(len(event["body"]))
        if not event["more_body"]:
            break
    await start(send, headers=[(b"x-parts", json.dumps(parts).encode())])
    await finish(send, body)


@case
async def events(scope, receive, send):
    """Records all events up to the disconnect."""
    seen = []
    while True:
        seen.append(await receive())
        if seen[-1]["type"] == "http.disconnect":
            break
    SEEN[:] = seen
    await send_json(send, "not sent")


@case
async def events_then_answer(scope, receive, send):
    """Responds with all events up to the disconnect."""
    events = []
    while not events or events[-1]["type"] != "http.disconnect":
        events.append(await receive())
    await send_json(send, events)


@case
async def begins_and_leaves(scope, receive, send):
    """Sends half of a response, or nothing, then waits for the disconnect and returns or raises."""
    if scope["query_string"]:
        await start(send)
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass
    if b"raise" in scope["query_string"]:
        raise ClientDisconnect
    if b"fail" in scope["query_string"]:
        raise ValueError("not for that")


class ClientDisconnect(Exception):
    """An exception with the name of Starlette's."""


@case
async def seen(scope, receive, send):
    await send_json(send, SEEN)


@case
async def written_oddly(scope, receive, send):
    """Sends messages with keys that are not interned, with extra keys, and as other mappings."""

    class Message(dict):
        """A subclass of dict."""

    def fresh(message):
        # Joined at run time, so the key is not interned.
        return {"".join(list(key)): value for key, value in message.items()}

    start = {"type": "http.response.start", "status": 201, "headers": [(b"x-way", b"odd")]}
    part = {"type": "http.response.body", "body": b"part ", "more_body": True}
    others = {f"other-{number}": number for number in range(20)}
    await send(fresh(start))
    await send({**others, **part})
    await send(Message(part))
    await send(collections.UserDict(part))
    await send(fresh({"type": "http.response.body", "body": b"end"}))


@case
async def ignore(scope, receive, send):
    """Responds without reading the body."""
    await send_json(send, "ignored")


@case
async def one_part(scope, receive, send):
    event = await receive()
    await send_json(send, [len(event["body"]), event["more_body"]])


@case
async def slow_reader(scope, receive, send):
    """Receives one part each time the gate is opened."""
    total = 0
    while True:
        await gate(scope).wait()
        gate(scope).clear()
        event = await receive()
        total += len(event["body"])
        if not event["more_body"]:
            break
    await send_json(send, total)


@case
async def open_gate(scope, receive, send):
    gate(scope).set()
    await send_json(send, "open")


@case
async def after_complete(scope, receive, send):
    """Records what receive() returns during and after the end of the response."""
    first = await receive()
    waiting = asyncio.create_task(receive())
    await asyncio.sleep(0)
    await start(send)
    await finish(send, b"complete")
    SEEN[:] = [first, await waiting, await receive()]


@case
async def receive_in_tasks(scope, receive, send):
    """Cancels a receive() with wait_for(), then receives the event in another task."""
    try:
        await asyncio.wait_for(receive(), 0.01)
        outcome = "received"
    except asyncio.TimeoutError:
        outcome = "timeout"
    await start(send)
    await finish(send, outcome.encode(), more_body=True)
    event = await asyncio.ensure_future(receive())
    await finish(send, event["body"])


@case
async def loop_flags(scope, receive, send):
    """Returns get_debug() without and with debug mode, is_running() here and in a thread, and errors."""
    loop = asyncio.get_running_loop()
    debug = [loop.get_debug()]
    loop.set_debug(True)
    debug.append(loop.get_debug())
    loop.set_debug(False)
    is_running = [loop.is_running(), await loop.run_in_executor(None, loop.is_running)]
    errors = []
    for method in (loop.get_debug, loop.is_running):
        try:
            method(None)
        except TypeError as error:
            errors.append(type(error).__name__)
    await send_json(send, [debug, is_running, errors])


def print_flags(loop):
    print("flags at exit:", loop.is_running(), loop.get_debug(), flush=True)


@case
async def loop_flags_at_exit(scope, receive, send):
    atexit.register(print_flags, asyncio.get_running_loop())
    await send_json(send, None)


@case
async def task(scope, receive, send):
    current = asyncio.current_task()
    before = variable.get()
    variable.set("set by a request")
    names = [
        type(receive()).__mro__[0].__module__,
        current.get_name(),
        type(asyncio.get_running_loop()).__module__,
    ]
    await send_json(send, [*names, before, isinstance(current, asyncio.Task)])


@case
async def timeout(scope, receive, send):
    """Uses asyncio.timeout() and TaskGroup, which need an asyncio task."""
    if hasattr(asyncio, "timeout"):
        try:
            async with asyncio.timeout(0.01):
                await receive()
                await receive()
        except TimeoutError:
            pass
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(asyncio.sleep(0, number)) for number in range(3)]
        assert [each.result() for each in tasks] == [0, 1, 2]
    await send_json(send, "in time")


@case
async def at_once(scope, receive, send):
    """Responds when three requests have arrived."""
    SEEN.append(scope["path"])
    if len(SEEN) == 3:
        gate(scope).set()
    await gate(scope).wait()
    await send_json(send, len(SEEN))


@case
async def forget(scope, receive, send):
    SEEN.clear()
    await send_json(send, "forgotten")


@case
async def background(scope, receive, send):
    """Works after the response."""
    await start(send)
    await finish(send, b"answered")
    await gate(scope).wait()
    SEEN[:] = ["worked on"]


@case
async def stuck(scope, receive, send):
    try:
        await inner(receive)
    except asyncio.CancelledError:
        SEEN[:] = ["cancelled"]
        raise


async def inner(receive):
    await receive()
    await asyncio.sleep(1000)


@case
async def ignores_cancellation(scope, receive, send):
    """Catches its cancellation and responds."""
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        await send_json(send, "still here")


@case
async def busy(scope, receive, send):
    """Blocks the loop's thread until the test closes its end of a FIFO."""
    pathlib.Path(scope["query_string"].decode()).read_bytes()
    await send_json(send, "done")


@case
async def sends_from_tasks(scope, receive, send):
    """Runs send() in tasks."""
    await asyncio.create_task(send({"type": "http.response.start", "status": 200}))
    sends = [send({"type": "http.response.body", "body": b"%d" % n, "more_body": True}) for n in range(3)]
    await asyncio.gather(*sends)
    await asyncio.wait_for(send({"type": "http.response.body"}), 5)


class Double:
    """An ASGI 2 application."""

    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        await CASES["/scope"](self.scope, receive, send)


def double(scope):
    return functools.partial(CASES["/scope"], scope)


class Instance:
    """An ASGI 3 application that is an object."""

    async def __call__(self, scope, receive, send):
        await CASES["/scope"](scope, receive, send)


instance = Instance()


part = functools.partial(Instance.__call__, instance)


def returning(scope, receive, send):
    """A function that returns a coroutine."""
    return CASES["/scope"](scope, receive, send)


class Awaitable:
    def __init__(self, scope, receive, send):
        self.coroutine = CASES["/scope"](scope, receive, send)

    def __await__(self):
        return self.coroutine.__await__()


def make():
    return application
