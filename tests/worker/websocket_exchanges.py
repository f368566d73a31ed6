"""WebSockets as the daemon's side of the channel plays them, for the tests of several files."""

import json

from fake_channel import RAISED
from test_asgi_http import told


def handshake(worker, path, **more):
    """Begins one; the exchange's id."""
    return worker.submit(path, websocket=True, **more)


def accepted(worker, path, **more):
    """One that was accepted."""
    exchange = handshake(worker, path, **more)
    answer = worker.until(exchange, lambda answer: answer.taken, "accepted")
    assert answer.status == 101
    return exchange


def over(worker, path, **more):
    """One that the application ends by itself; its answer."""
    return worker.whole(handshake(worker, path, **more))


def closed(worker, exchange, code=1005, reason=b""):
    """The client has gone; all of the answer."""
    worker.disconnect(exchange, code=code, reason=reason)
    return worker.whole(exchange)


def heard(worker, path, **more):
    """The one JSON message of a WebSocket that ends well."""
    answer = over(worker, path, **more)
    assert (answer.status, answer.closed, answer.raised) == (101, (1000, ""), []), answer
    (message,) = answer.messages
    return json.loads(message)


def seen(worker):
    return told(worker.ask("/seen"))


def failed(answer):
    """The one report of a WebSocket that ended with it."""
    assert answer.done, answer
    assert answer.frames[-1][0] == RAISED, answer
    (summary,) = answer.raised
    assert "<rgun>" not in answer.trace
    return summary


def disconnect(code, reason=""):
    return {"type": "websocket.disconnect", "code": code, "reason": reason}
