"""WebSocket cases, one per path; a later request to `/seen` returns their records."""

import asyncio
import gc
import json
import sys
import weakref

import asgi_cases  # noqa: F401 (registers the cases that every test uses)
import asgi_registry
from asgi_registry import SEEN, gate, jsonable

CASES = {}


def case(function):
    CASES["/" + function.__name__] = function
    return function


async def application(scope, receive, send):
    if scope["type"] != "websocket":
        return await asgi_registry.application(scope, receive, send)
    handler = CASES.get(scope["path"].rpartition("/root")[2] or scope["path"], CASES["/scope"])
    awaitable = handler(scope, receive, send)
    # Keeps no reference to the scope, so that `frugal` can free it.
    del scope, receive, send
    return await awaitable


async def accept(receive, send, **more):
    assert await receive() == {"type": "websocket.connect"}
    await send({"type": "websocket.accept", **more})


async def send_json(send, value):
    await send({"type": "websocket.send", "text": json.dumps(value, default=jsonable)})


# ---------------------------------------------------------------- scope


@case
async def scope(scope, receive, send):
    await accept(receive, send)
    await send_json(send, {"keys": list(scope), **scope})


@case
async def spoil(scope, receive, send):
    """Sends the changes of earlier WebSockets to the scope, then changes the scope."""
    await accept(receive, send)
    seen = [scope[name].get("spoiled") for name in ("asgi", "extensions", "state")]
    for name in ("asgi", "extensions", "state"):
        scope[name]["spoiled"] = True
    await send_json(send, seen)


@case
async def frugal(scope, receive, send):
    """Sends whether the scope is freed when the application drops it."""

    class Probe:
        pass

    probe = Probe()
    reference = weakref.ref(probe)
    scope["state"]["probe"] = probe
    del scope, probe
    await accept(receive, send)
    await receive()
    gc.collect()
    await send_json(send, reference() is None)


# ---------------------------------------------------------------- receive


@case
async def echo(scope, receive, send):
    """Echoes messages until the disconnect."""
    await accept(receive, send)
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            break
        await send({**event, "type": "websocket.send"})
    SEEN[:] = [event]


@case
async def events(scope, receive, send):
    """Records all events after the gate has opened, and two more calls after the disconnect."""
    await accept(receive, send)
    await gate(scope).wait()
    SEEN.clear()
    while not SEEN or SEEN[-1]["type"] != "websocket.disconnect":
        SEEN.append(await receive())
    SEEN.extend([await receive(), await receive()])


@case
async def sizes(scope, receive, send):
    """Each time the gate opens, receives as many messages as the query says."""
    await accept(receive, send)
    total = 0
    while True:
        await gate(scope).wait()
        gate(scope).clear()
        for _ in range(int(scope["query_string"].partition(b"-")[2])):
            event = await receive()
            if event["type"] == "websocket.disconnect":
                SEEN[:] = [total]
                return
            total += len(event.get("text") or event.get("bytes") or b"")


@case
async def undecided(scope, receive, send):
    """Neither accepts nor denies the handshake."""
    SEEN[:] = [await receive()]
    SEEN.append(await receive())


@case
async def in_tasks(scope, receive, send):
    """Cancels a receive() with wait_for(), then receives and sends in tasks."""
    await accept(receive, send)
    try:
        await asyncio.wait_for(receive(), 0.01)
    except asyncio.TimeoutError:
        await send_json(send, "timeout")
    await send({**await asyncio.create_task(receive()), "type": "websocket.send"})
    sends = [send({"type": "websocket.send", "text": f"{n}"}) for n in range(3)]
    await asyncio.gather(*sends)


@case
async def closes_while_receiving(scope, receive, send):
    """Closes while another task waits for messages."""
    await accept(receive, send)
    waiting = asyncio.create_task(receive())
    await asyncio.sleep(0)
    await send({"type": "websocket.close", "code": 4001, "reason": "enough"})
    SEEN[:] = [await waiting, await receive()]


@case
async def closes_with_unread_messages(scope, receive, send):
    await accept(receive, send)
    await gate(scope).wait()
    await send({"type": "websocket.close"})
    SEEN[:] = [await receive()]
    gate(scope).clear()
    await gate(scope).wait()
    SEEN.extend([await receive(), await receive()])


@case
async def reports(scope, receive, send):
    """Waits in an inner function."""
    await accept(receive, send)
    await inner(receive)


async def inner(receive):
    await receive()


@case
async def stuck(scope, receive, send):
    try:
        await receive()
        await inner(receive)
    except asyncio.CancelledError:
        SEEN[:] = ["cancelled", await receive()]
        raise


# ---------------------------------------------------------------- send

ACCEPT = {"type": "websocket.accept"}
TEXT = {"type": "websocket.send", "text": "t"}
CLOSE = {"type": "websocket.close"}
START = {"type": "websocket.http.response.start", "status": 401, "headers": []}
PART = {"type": "websocket.http.response.body", "body": b"part", "more_body": True}
BODY = {"type": "websocket.http.response.body", "body": b"body"}

SCRIPTS = {
    "accept": [ACCEPT],
    "accept_none": [{**ACCEPT, "subprotocol": None, "headers": []}],
    "accept_empty": [{**ACCEPT, "subprotocol": ""}],
    "accept_all": [
        {
            **ACCEPT,
            "subprotocol": "chat.v2",
            "headers": [
                (b"X-Upper", b" trimmed "),
                [b"set-cookie", b"a=1"],
                (b"set-cookie", b"b=2"),
                (b"connection", b"close"),
                (b"upgrade", b"h2c"),
                (b"content-length", b"3"),
                (b"sec-websocket-accept", b"forged"),
                (b"sec-websocket-extensions", b"forged"),
                (b"sec-websocket-protocol", b"other"),
            ],
        }
    ],
    "accept_by_header": [{**ACCEPT, "headers": [(b"Sec-WebSocket-Protocol", b"chat")]}],
    "messages": [
        ACCEPT,
        TEXT,
        {"type": "websocket.send", "bytes": b"b"},
        {"type": "websocket.send", "text": "æ€😀", "bytes": None},
        {"type": "websocket.send", "text": None, "bytes": bytearray(b"array")},
        {"type": "websocket.send", "text": ""},
        {"type": "websocket.send", "bytes": b""},
        {"type": "websocket.send", "text": "ignored", "bytes": memoryview(b"both")},
        {"type": "websocket.send"},
        {"type": "websocket.send", "text": None, "bytes": None},
    ],
    "close": [ACCEPT, CLOSE],
    "close_none": [ACCEPT, {**CLOSE, "code": None, "reason": None}],
    "close_code": [ACCEPT, TEXT, {**CLOSE, "code": 4999, "reason": "g" * 121 + "é"}],
    "forbid": [CLOSE],
    "deny": [{**START, "headers": [(b"www-authenticate", b"Basic")]}, BODY],
    "deny_parts": [START, PART, PART, {"type": "websocket.http.response.body"}],
    # Invalid messages.
    "send_first": [TEXT],
    "body_first": [BODY],
    "http": [{"type": "http.response.start", "status": 200}],
    "accept_twice": [ACCEPT, ACCEPT],
    "deny_accepted": [ACCEPT, START],
    "send_closed": [ACCEPT, CLOSE, TEXT],
    "close_twice": [ACCEPT, CLOSE, CLOSE],
    "forbid_accept": [CLOSE, ACCEPT],
    "accept_denied": [START, ACCEPT],
    "deny_twice": [START, BODY, BODY],
    "no_type": [{"text": "t"}],
    "none": [None],
    "number": [{"type": 3}],
    "header_newline": [{**ACCEPT, "headers": [(b"x-a", b"b\r\nx-evil: 1")]}],
    "header_text": [{**ACCEPT, "headers": [("x-a", b"b")]}],
    "header_name": [{**ACCEPT, "headers": [(b"x a", b"b")]}],
    "headers_huge": [{**ACCEPT, "headers": [(b"x-%d" % n, b"v" * 60_000) for n in range(4)]}],
    "subprotocol_newline": [{**ACCEPT, "subprotocol": "a\r\nx-evil: 1"}],
    "subprotocol_bytes": [{**ACCEPT, "subprotocol": b"chat"}],
    "text_bytes": [ACCEPT, {"type": "websocket.send", "text": b"t"}],
    "bytes_text": [ACCEPT, {"type": "websocket.send", "bytes": "t"}],
    "text_surrogate": [ACCEPT, {"type": "websocket.send", "text": "\ud800"}],
    "code_1005": [ACCEPT, {**CLOSE, "code": 1005}],
    "code_999": [ACCEPT, {**CLOSE, "code": 999}],
    "code_5000": [ACCEPT, {**CLOSE, "code": 5000}],
    "code_huge": [ACCEPT, {**CLOSE, "code": 1 << 17}],
    "code_text": [ACCEPT, {**CLOSE, "code": "1000"}],
    "reason_long": [ACCEPT, {**CLOSE, "reason": "é" * 62}],
    "reason_bytes": [ACCEPT, {**CLOSE, "reason": b"r"}],
    "deny_no_status": [{"type": "websocket.http.response.start"}],
    "deny_101": [{**START, "status": 101}],
    "deny_text": [START, {**BODY, "body": "text"}],
    "deny_longer": [{**START, "headers": [(b"content-length", b"1")]}, BODY],
    "deny_incomplete": [START, PART],
    "deny_nothing": [START],
}


@case
async def script(scope, receive, send):
    """Sends the messages of a script."""
    assert (await receive())["type"] == "websocket.connect"
    for message in SCRIPTS[scope["query_string"].decode()]:
        await send(message)
    SEEN[:] = ["sent"]


@case
async def script_then_receive(scope, receive, send):
    await script(scope, receive, send)
    SEEN[:] = [await receive(), await receive()]


@case
async def large(scope, receive, send):
    """Sends a text and a binary message of the size that the query names; a character has two bytes."""
    await accept(receive, send)
    size = int(scope["query_string"])
    await send({"type": "websocket.send", "bytes": bytes(range(256)) * (size // 256)})
    await send({"type": "websocket.send", "text": "é" * (size // 2)})


@case
async def flood(scope, receive, send):
    """Sends messages, `?SIZE-COUNT`, and records the number that have been sent."""
    await accept(receive, send)
    size, count = map(int, scope["query_string"].split(b"-"))
    message = {"type": "websocket.send", "bytes": b"f" * size}
    SEEN[:] = [0]
    try:
        for _ in range(count):
            await send(message)
            SEEN[0] += 1
    except Exception as error:
        SEEN[:] = [type(error).__name__, isinstance(error, OSError)]
        raise


@case
async def sends_after_disconnect(scope, receive, send):
    """Records what send() does after the disconnect."""
    if scope["query_string"] != b"early":
        await accept(receive, send)
    while (await receive())["type"] != "websocket.disconnect":
        pass
    SEEN.clear()
    for message in (ACCEPT, TEXT, CLOSE, TEXT, START):
        try:
            await send(message)
            SEEN.append("sent")
        except OSError as error:
            SEEN.append(type(error).__name__)


# ---------------------------------------------------------------- ends


@case
async def returns_at_once(scope, receive, send):
    pass


@case
async def returns_a_value(scope, receive, send):
    if scope["query_string"]:
        await accept(receive, send)
    return "a value"


@case
async def raises(scope, receive, send):
    """Raises after the messages of a script."""
    for message in SCRIPTS.get(scope["query_string"].decode(), []):
        await send(message)
    raise ValueError("in the WebSocket")


class WebSocketDisconnect(Exception):
    """An exception with the name of Starlette's for a disconnect."""


def group_of(*exceptions):
    """Makes an exception group; before Python 3.11, an exception like those of libraries."""
    if sys.version_info >= (3, 11):
        return ExceptionGroup("of tasks", exceptions)  # noqa: F821 (there since 3.11)
    group = Exception("of tasks")
    group.exceptions = exceptions
    return group


@case
async def raises_after_disconnect(scope, receive, send):
    await accept(receive, send)
    await receive()
    error = ValueError("while cleaning up")
    if scope["query_string"] == b"other":
        raise error
    if scope["query_string"] == b"group":
        raise group_of(WebSocketDisconnect(), group_of(WebSocketDisconnect(), WebSocketDisconnect()))
    if scope["query_string"] == b"mixed_group":
        raise group_of(WebSocketDisconnect(), group_of(WebSocketDisconnect(), error))
    raise WebSocketDisconnect


@case
async def raises_before_disconnect(scope, receive, send):
    await accept(receive, send)
    raise WebSocketDisconnect


@case
async def sends_uncaught(scope, receive, send):
    await accept(receive, send)
    await receive()
    await send(TEXT)


# ---------------------------------------------------------------- many

SENDS = []


@case
async def joins(scope, receive, send):
    """Lets `broadcasts` send to this WebSocket."""
    await accept(receive, send)
    SENDS.append(send)
    while (await receive())["type"] != "websocket.disconnect":
        pass


@case
async def broadcasts(scope, receive, send):
    """Sends `?SIZE` bytes to all joined WebSockets; responds with the number of Futures created."""
    await accept(receive, send)
    loop, n_made = asyncio.get_running_loop(), COUNTED[0]
    message = {"type": "websocket.send", "bytes": b"s" * int(scope["query_string"])}
    await asyncio.gather(*[loop.create_task(other(message)) for other in SENDS])
    await send_json(send, COUNTED[0] - n_made)


COUNTED = [0]


async def counting(scope, receive, send):
    """Wraps the application and counts the Futures that its loop creates."""
    if scope["type"] == "lifespan":
        loop = asyncio.get_running_loop()
        create_future = loop.create_future

        def count():
            COUNTED[0] += 1
            return create_future()

        loop.create_future = count
    await application(scope, receive, send)
