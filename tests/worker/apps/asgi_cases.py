"""Cases for the ASGI side of the worker: the path says which; what is seen is told as JSON."""

import asyncio
import collections
import contextvars
import functools
import json
import os
import pathlib
import tempfile

CASES = {}
STARTED = {"lifespan": 0}
# Held and let go by requests, so that a test decides when something happens.
GATES = {}
# What a case has seen, for a later request to ask.
SEEN = []
variable = contextvars.ContextVar("variable", default="unset")


def case(function):
    CASES["/" + function.__name__] = function
    return function


def gate(scope):
    """The event that `?NAME` names."""
    return GATES.setdefault(scope["query_string"].decode(), asyncio.Event())


async def start(send, status=200, headers=(), **more):
    await send({"type": "http.response.start", "status": status, "headers": list(headers), **more})


async def finish(send, body=b"", **more):
    await send({"type": "http.response.body", "body": body, **more})


async def tell(send, value):
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


# ---------------------------------------------------------------- scope


@case
async def scope(scope, receive, send):
    await tell(send, {"keys": list(scope), **scope})


@case
async def types(scope, receive, send):
    names = {key: type(value).__name__ for key, value in scope.items()}
    names["header"] = [type(scope["headers"]).__name__, type(scope["headers"][0]).__name__]
    await tell(send, names)


@case
async def spoil(scope, receive, send):
    """Whether what one request changes is seen by the next."""
    seen = [scope["asgi"].get("spoiled"), scope["extensions"].get("spoiled"), scope["state"].get("spoiled")]
    for name in ("asgi", "extensions", "state"):
        scope[name]["spoiled"] = True
    scope["state"]["list"].append(1)
    await tell(send, [*seen, len(scope["state"]["list"])])


# ---------------------------------------------------------------- bodies


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
    """The events until the disconnect that the test sends."""
    seen = []
    while True:
        seen.append(await receive())
        if seen[-1]["type"] == "http.disconnect":
            break
    SEEN[:] = seen
    await tell(send, "nobody hears it")


@case
async def events_then_answer(scope, receive, send):
    """All events to the disconnect, in an answer."""
    events = []
    while not events or events[-1]["type"] != "http.disconnect":
        events.append(await receive())
    await tell(send, events)


@case
async def begins_and_leaves(scope, receive, send):
    """Half of an answer, or nothing of it, because its client has gone."""
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
    """As Starlette calls it."""


@case
async def seen(scope, receive, send):
    await tell(send, SEEN)


@case
async def written_oddly(scope, receive, send):
    """Messages whose keys are no constants, among many others, in what is nearly a dict."""

    class Message(dict):
        """Any dict may be one of a class."""

    def fresh(message):
        # Joined when it runs, so not interned.
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
    """Never reads its body."""
    await tell(send, "ignored")


@case
async def one_part(scope, receive, send):
    event = await receive()
    await tell(send, [len(event["body"]), event["more_body"]])


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
    await tell(send, total)


@case
async def open_gate(scope, receive, send):
    gate(scope).set()
    await tell(send, "open")


@case
async def after_complete(scope, receive, send):
    """What receive() says once the response is complete; and while it completes."""
    first = await receive()
    waiting = asyncio.create_task(receive())
    await asyncio.sleep(0)
    await start(send)
    await finish(send, b"complete")
    SEEN[:] = [first, await waiting, await receive()]


@case
async def receive_in_tasks(scope, receive, send):
    """wait_for() gives up and loses nothing; gather() gets what there is once."""
    try:
        await asyncio.wait_for(receive(), 0.01)
        outcome = "received"
    except asyncio.TimeoutError:
        outcome = "timeout"
    await start(send)
    await finish(send, outcome.encode(), more_body=True)
    event = await asyncio.ensure_future(receive())
    await finish(send, event["body"])


# ---------------------------------------------------------------- responses


@case
async def parts(scope, receive, send):
    await start(send)
    for number in range(3):
        await finish(send, b"%d" % number, more_body=True)
    await finish(send)


@case
async def paced(scope, receive, send):
    """A part, then what the gate lets through."""
    await start(send)
    await finish(send, b"first", more_body=True)
    await gate(scope).wait()
    await finish(send, b"last")


@case
async def head_only(scope, receive, send):
    """An empty part sends the head."""
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
    """Many parts; says how many went before it had to wait."""
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
    """`?PROMISED-GIVEN`"""
    promised, given = scope["query_string"].split(b"-")
    await start(send, headers=[(b"Content-Length", promised)])
    await finish(send, b"x" * int(given))


@case
async def length_in_parts(scope, receive, send):
    """The same; half of it is out before."""
    promised, given = scope["query_string"].split(b"-")
    await start(send, headers=[(b"Content-Length", promised)])
    await finish(send, b"x" * (int(given) // 2), more_body=True)
    await gate(scope).wait()
    await finish(send, b"x" * (int(given) - int(given) // 2))


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
    """The file that `?LENGTH,PATH` names, whose length is announced as that, or not."""
    length, _, path = scope["query_string"].decode().partition(",")
    await start(send, headers=[(b"content-length", length.encode())] if length else [])
    await send({"type": "http.response.pathsend", "path": path})


@case
async def no_file(scope, receive, send):
    await start(send)
    await send({"type": "http.response.pathsend", "path": "/nowhere/at/all"})


@case
async def directory(scope, receive, send):
    await start(send)
    await send({"type": "http.response.pathsend", "path": os.getcwd()})


@case
async def hints(scope, receive, send):
    await send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload", b"</b.js>"]})
    await tell(send, "hinted")


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


# ---------------------------------------------------------------- tasks


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
    await tell(send, [*names, before, isinstance(current, asyncio.Task)])


@case
async def timeout(scope, receive, send):
    """What depends on a task of asyncio's own."""
    if hasattr(asyncio, "timeout"):
        try:
            async with asyncio.timeout(0.01):
                await receive()
                await receive()
        except TimeoutError:
            pass
        async with asyncio.TaskGroup() as group:
            made = [group.create_task(asyncio.sleep(0, number)) for number in range(3)]
        assert [each.result() for each in made] == [0, 1, 2]
    await tell(send, "in time")


@case
async def at_once(scope, receive, send):
    """Answers when three of them are there."""
    SEEN.append(scope["path"])
    if len(SEEN) == 3:
        gate(scope).set()
    await gate(scope).wait()
    await tell(send, len(SEEN))


@case
async def forget(scope, receive, send):
    SEEN.clear()
    await tell(send, "forgotten")


@case
async def background(scope, receive, send):
    """At work after the response."""
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
async def stubborn(scope, receive, send):
    """Cancelled, it goes on, and answers."""
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        await tell(send, "still here")


@case
async def busy(scope, receive, send):
    """Blocks the loop's thread until the test closes its end of a FIFO."""
    pathlib.Path(scope["query_string"].decode()).read_bytes()
    await tell(send, "done")


@case
async def sends_from_tasks(scope, receive, send):
    """send() as a coroutine of tasks."""
    await asyncio.create_task(send({"type": "http.response.start", "status": 200}))
    sends = [send({"type": "http.response.body", "body": b"%d" % n, "more_body": True}) for n in range(3)]
    await asyncio.gather(*sends)
    await asyncio.wait_for(send({"type": "http.response.body"}), 5)


# ---------------------------------------------------------------- other shapes


class Double:
    """ASGI 2."""

    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        await CASES["/scope"](self.scope, receive, send)


def double(scope):
    return functools.partial(CASES["/scope"], scope)


class Instance:
    """ASGI 3, an object."""

    async def __call__(self, scope, receive, send):
        await CASES["/scope"](scope, receive, send)


instance = Instance()
part = functools.partial(Instance.__call__, instance)


def returning(scope, receive, send):
    """No coroutine function, but it gives a coroutine."""
    return CASES["/scope"](scope, receive, send)


class Awaitable:
    def __init__(self, scope, receive, send):
        self.coroutine = CASES["/scope"](scope, receive, send)

    def __await__(self):
        return self.coroutine.__await__()


def make():
    return application
