"""ASGI exchanges with the fake daemon: requests, gates and WebSockets of the applications in apps/.

The applications answer JSON, in which bytes are `{"bytes": latin1}`; a request to `/seen` returns the
record of an earlier request, and `/open_gate?NAME` lets an exchange continue that waits at this gate.
"""

import json

from .fake_channel import RAISED
from .interpreters import require_module
from .paths import WORKER_APPS


def spawn(fake, python, loop, target="asgi_cases", chdir=WORKER_APPS, **more):
    """Starts a worker on an event loop and waits until it is ready. Without uvloop, skips the test."""
    if loop == "uvloop":
        require_module(python, "uvloop")
    return fake.spawn(target, chdir, loop=loop, **more).wait_ready()


def json_of(answer):
    """Returns the JSON body of a 200."""
    assert (answer.status, answer.raised) == (200, []), answer
    return json.loads(answer.body)


def latin(value):
    """Returns the bytes that an application has put into JSON."""
    return value["bytes"].encode("latin-1")


def recorded(worker):
    """Returns the record of an earlier exchange."""
    return json_of(worker.fetch("/seen"))


def open_gate(worker, name):
    """Lets the exchanges that wait at this gate continue."""
    assert json_of(worker.fetch(f"/open_gate?{name}")) == "open"


def failure_of(answer):
    """Returns the one exception that an exchange has ended with."""
    assert answer.done, answer
    assert answer.frames[-1][0] == RAISED, answer
    (summary,) = answer.raised
    return summary


# ------------------------------------------------ WebSockets


def handshake(worker, path, **more):
    """Submits a handshake; returns the exchange's id."""
    return worker.submit(path, websocket=True, **more)


def open_websocket(worker, path, **more):
    """Submits a handshake and waits until it is accepted; returns the exchange's id."""
    exchange = handshake(worker, path, **more)
    answer = worker.wait_for_response(exchange, lambda answer: answer.credit, "accepted")
    assert answer.status == 101
    return exchange


def run_websocket(worker, path, **more):
    """Submits a handshake and waits until the application has ended the exchange; returns the answer."""
    return worker.wait_done(handshake(worker, path, **more))


def disconnect(worker, exchange, code=1005, reason=b""):
    """Disconnects the client and waits until the exchange has ended; returns the answer."""
    worker.disconnect(exchange, code=code, reason=reason)
    return worker.wait_done(exchange)


def only_message(worker, path, **more):
    """Returns the only message, decoded from JSON, of a WebSocket that the application closes with 1000."""
    answer = run_websocket(worker, path, **more)
    assert (answer.status, answer.closed, answer.raised) == (101, (1000, ""), []), answer
    (message,) = answer.messages
    return json.loads(message)


def disconnect_event(code, reason=""):
    """The event that receive() returns after a disconnect."""
    return {"type": "websocket.disconnect", "code": code, "reason": reason}
