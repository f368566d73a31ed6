"""Cases that violate ASGI, one per path."""

import asyncio
import json
import os
import sys

import asgi_cases  # noqa: F401 (registers the cases that every test uses)
from asgi_registry import SEEN, application, case, finish, send_json, start

__all__ = ["application"]


@case
async def raises(scope, receive, send):
    raise ValueError("before the head")


@case
async def raises_prepared(scope, receive, send):
    await start(send)
    raise ValueError("after start")


@case
async def raises_late(scope, receive, send):
    await start(send)
    await finish(send, b"part", more_body=True)
    raise ValueError("in the body")


@case
async def raises_after(scope, receive, send):
    await start(send)
    await finish(send, b"whole")
    raise ValueError("after the end")


@case
async def exits(scope, receive, send):
    raise SystemExit(3)


@case
async def cancels_itself(scope, receive, send):
    raise asyncio.CancelledError


@case
async def nothing(scope, receive, send):
    pass


@case
async def start_only(scope, receive, send):
    await start(send)


@case
async def incomplete(scope, receive, send):
    await start(send)
    await finish(send, b"part", more_body=True)


@case
async def no_trailers(scope, receive, send):
    await start(send, trailers=True)
    await finish(send, b"part")


@case
async def returns(scope, receive, send):
    await send_json(send, "answered")
    return "a value"


@case
async def returns_only(scope, receive, send):
    return "a value"


async def sends(send, *messages):
    for message in messages:
        await send(message)


START = {"type": "http.response.start", "status": 200, "headers": []}
BODY = {"type": "http.response.body", "body": b"body"}
PART = {**BODY, "more_body": True}
MISUSES = {
    "body_first": [BODY],
    "twice": [START, START],
    "after_end": [START, BODY, BODY],
    "start_in_body": [START, PART, START],
    "other": [START, {"type": "websocket.send", "text": "x"}],
    "debug": [{"type": "http.response.debug", "info": {}}],
    "trailers_unannounced": [START, BODY, {"type": "http.response.trailers", "headers": []}],
    "file_in_body": [START, PART, {"type": "http.response.pathsend", "path": "/etc/hostname"}],
    "no_type": [{"status": 200}],
    "no_status": [{"type": "http.response.start"}],
    "not_a_dict": ["http.response.start"],
    "none": [None],
    "status_text": [{**START, "status": "200"}],
    "status_100": [{**START, "status": 100}],
    "status_1000": [{**START, "status": 1000}],
    "name_text": [{**START, "headers": [("x-a", b"b")]}],
    "value_text": [{**START, "headers": [(b"x-a", "b")]}],
    "name_space": [{**START, "headers": [(b"x a", b"b")]}],
    "name_empty": [{**START, "headers": [(b"", b"b")]}],
    "name_newline": [{**START, "headers": [(b"x\r\ny", b"b")]}],
    "value_newline": [{**START, "headers": [(b"x-a", b"b\r\nx-evil: 1")]}],
    "value_nul": [{**START, "headers": [(b"x-a", b"b\0")]}],
    "triple": [{**START, "headers": [(b"x-a", b"b", b"c")]}],
    "single": [{**START, "headers": [b"x-a"]}],
    "headers_number": [{**START, "headers": 3}],
    "length_word": [{**START, "headers": [(b"content-length", b"many")]}],
    "lengths_differ": [{**START, "headers": [(b"content-length", b"1"), (b"content-length", b"2")]}],
    "headers_huge": [{**START, "headers": [(b"x-%d" % n, b"v" * 60_000) for n in range(4)]}],
    "headers_many": [{**START, "headers": [(b"x-a", b"")] * 4096}],
    "headers_countless": [{**START, "headers": [(b"x-a", b"")] * 70_000}],
    "links_many": [{"type": "http.response.early_hint", "links": [b""] * 4096}],
    "body_text": [START, {"type": "http.response.body", "body": "text"}],
    "body_none": [START, {"type": "http.response.body", "body": None}],
    "body_number": [START, {"type": "http.response.body", "body": 3}],
    "path_number": [START, {"type": "http.response.pathsend", "path": 3}],
    "hint_text": [{"type": "http.response.early_hint", "links": ["</a>"]}],
    "hint_newline": [{"type": "http.response.early_hint", "links": [b"</a>\r\nx: y"]}],
}


@case
async def misuse(scope, receive, send):
    await sends(send, *MISUSES[scope["query_string"].decode()])


@case
async def forgiven(scope, receive, send):
    """Catches the exception and responds."""
    try:
        await send(BODY)
    except RuntimeError as error:
        await send_json(send, str(error))


@case
async def arguments(scope, receive, send):
    """Calls send() and receive() with wrong arguments, then correctly by keyword."""
    outcomes = []
    for call in (send, lambda: send(START, BODY), lambda: send(massage=START), lambda: receive(1)):
        try:
            await call()
            outcomes.append("accepted")
        except TypeError as error:
            outcomes.append(str(error))
    await send(message=START)
    await send({"type": "http.response.body", "body": json.dumps(outcomes).encode()})


@case
async def later(scope, receive, send):
    """Keeps send() and receive() for a later request."""
    SEEN[:] = [send, receive]
    await send_json(send, "kept")


@case
async def use_kept(scope, receive, send):
    kept_send, kept_receive = SEEN
    try:
        await kept_send(BODY)
        outcome = "sent"
    except RuntimeError as error:
        outcome = str(error)
    event = await kept_receive()
    SEEN.clear()
    await send_json(send, [outcome, event])


@case
async def forks(scope, receive, send):
    """Forks a child that returns into the server and must not respond."""
    child = os.fork()
    if child == 0:
        return
    await asyncio.get_running_loop().run_in_executor(None, os.waitpid, child, 0)
    await send_json(send, "parent")


def exit_naming(caller=None):
    """Exits with the name of the calling function, or of the function of a frame."""
    caller = caller or sys._getframe(1)
    raise SystemExit(f"left in {caller.f_code.co_name}")


@case
async def exits_naming_its_caller(scope, receive, send):
    exit_naming()


@case
async def exits_naming_its_frame(scope, receive, send):
    exit_naming(sys._getframe())


class Proxy:
    """Behaves like werkzeug's LocalProxy without an object."""

    @property
    def __class__(self):
        raise RuntimeError("nothing here")


def leave_with(proxy, other):
    raise SystemExit("with a proxy")


@case
async def exits_with_a_proxy(scope, receive, send):
    leave_with(Proxy(), Proxy())


@case
async def too_many_trailers(scope, receive, send):
    await start(send, trailers=True)
    await finish(send, b"body")
    some = {"type": "http.response.trailers", "headers": [(b"x-a", b"")] * 3000, "more_trailers": True}
    await sends(send, some, some)


def send_at_once(send, message):
    """Sends without awaiting, because send() completes at once."""
    assert list(send(message)) == []


class HeadersThatSend:
    def __init__(self, send):
        self.send = send

    def __iter__(self):
        send_at_once(self.send, START)
        return iter([])


@case
async def sends_in_headers(scope, receive, send):
    await send({**START, "headers": HeadersThatSend(send)})


class TruthThatSends:
    def __init__(self, send):
        self.send = send

    def __bool__(self):
        send_at_once(self.send, {**BODY, "body": b"inner"})
        return False


@case
async def sends_in_truth(scope, receive, send):
    await send(START)
    await send({**BODY, "more_body": TruthThatSends(send)})


@case
async def full_head(scope, receive, send):
    """Sends headers of `?SIZE` encoded bytes, and a body that gets a Content-Length."""
    size = int(scope["query_string"])
    names = [b"x-%d" % number for number in range(size // 60_000 + 1)]
    # A header costs 5 bytes in addition to its name and value.
    values = size - sum(5 + len(name) for name in names)
    each = values // len(names)
    headers = [(name, b"v" * each) for name in names[1:]]
    headers.append((names[0], b"v" * (values - each * len(headers))))
    await start(send, headers=headers)
    await finish(send, b"b" * 2_000_000)
