"""Starlette and FastAPI WebSockets on each event loop, with a fake daemon."""

import json

import pytest
from support.asgi_exchanges import (
    disconnect,
    failure_of,
    handshake,
    open_websocket,
    recorded,
    run_websocket,
    spawn,
)
from support.interpreters import require_module
from support.paths import COMPAT_APPS


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def loop(request):
    return request.param


@pytest.fixture(scope="module")
def worker(fakes, python, loop):
    require_module(python, "fastapi")
    worker = spawn(fakes(), python, loop, "websockets_of_frameworks", COMPAT_APPS)
    yield worker
    assert worker.stop() == 0, worker.daemon.output()
    assert "Traceback" not in worker.daemon.output(), worker.daemon.output()


def test_messages_subprotocols_and_headers(worker):
    offered = [(b"sec-websocket-protocol", b"chat, superchat")]
    exchange = open_websocket(worker, "/echo", headers=offered)
    assert worker.responses[exchange].fields == [
        (b"sec-websocket-protocol", b"chat"),
        (b"x-by", b"starlette"),
    ]
    for content in ("text", b"bytes", "", b""):
        worker.message(exchange, content)
    worker.wait_for_response(
        exchange, lambda answer: answer.messages == ["text", b"bytes", "", b""], "echoed"
    )
    assert disconnect(worker, exchange, 1001, b"going away").raised == []
    assert recorded(worker) == [1001, "going away"]


@pytest.mark.parametrize("code", [1000, 1005, 1006, 1012, 4321])
def test_uncaught_disconnect_is_not_an_error(worker, code):
    exchange = open_websocket(worker, "/uncaught")
    worker.message(exchange, "hello")
    worker.wait_for_response(exchange, lambda answer: answer.messages == ["hello"], "echoed")
    answer = disconnect(worker, exchange, code)
    assert (answer.raised, answer.closed) == ([], None)
    # In this case the client disconnects before the message is echoed.
    exchange = open_websocket(worker, "/uncaught")
    worker.message(exchange, "hello")
    assert disconnect(worker, exchange, code).raised == []


def test_close_in_finally_is_not_an_error(worker):
    exchange = open_websocket(worker, "/closes_finally")
    worker.message(exchange, "hello")
    worker.wait_for_response(exchange, lambda answer: answer.messages == ['{"got":"hello"}'], "echoed")
    answer = disconnect(worker, exchange)
    assert (answer.raised, answer.closed) == ([], None)
    assert recorded(worker) == ["closed"]


def test_send_after_a_disconnect_raises_with_1006(worker):
    exchange = open_websocket(worker, "/feed")
    worker.wait_for_response(exchange, lambda answer: len(answer.messages) > 3, "fed")
    assert disconnect(worker, exchange, 1001).raised == []
    assert recorded(worker) == [1006]


def test_close_denial_and_failure_reach_the_client(worker):
    answer = run_websocket(worker, "/closes")
    assert (answer.status, answer.closed, answer.raised) == (101, (4000, "as documented"), [])
    assert recorded(worker) == ["websocket.disconnect", 4000]
    for path in ("/forbids", "/no-such-route"):
        answer = run_websocket(worker, path)
        assert (answer.status, answer.body, answer.raised) == (403, b"", []), path
    answer = run_websocket(worker, "/denies")
    assert (answer.status, json.loads(answer.body)) == (401, {"detail": "who are you?"})
    assert dict(answer.fields)[b"x-by"] == b"starlette"
    answer = run_websocket(worker, "/aborts")
    assert (answer.status, answer.body, answer.raised) == (402, b"no money", [])
    assert failure_of(run_websocket(worker, "/fails")) == "ValueError: in a Starlette WebSocket"


def test_endpoint_class_gets_json_and_the_close_code(worker):
    exchange = open_websocket(worker, "/counter")
    worker.message(exchange, '{"n": 41}')
    worker.wait_for_response(exchange, lambda answer: answer.messages == ['{"next":42}'], "counted")
    assert disconnect(worker, exchange, 4005).raised == []
    assert recorded(worker) == [4005]


def test_fastapi_dependencies_refuse_and_close(worker):
    answer = run_websocket(worker, "/api/rooms/7?token=wrong")
    assert (answer.status, answer.raised) == (403, [])
    assert run_websocket(worker, "/api/rooms/seven?token=right").status == 403
    exchange = open_websocket(worker, "/api/rooms/7?token=right")
    worker.wait_for_response(exchange, lambda answer: answer.messages == ['[7,"right"]'], "welcomed")
    worker.message(exchange, "expel me")
    answer = worker.wait_done(exchange)
    assert (answer.closed, answer.raised) == ((4002, "expelled"), [])


def test_concurrent_websockets_do_not_mix(worker):
    exchanges = [handshake(worker, "/uncaught") for _ in range(8)]
    for number in range(50):
        for exchange in exchanges:
            worker.message(exchange, f"{exchange}: {number}")
    for exchange in exchanges:
        expected = [f"{exchange}: {number}" for number in range(50)]
        worker.wait_for_response(exchange, lambda answer, of=expected: answer.messages == of, "echoed")
    for exchange in exchanges:
        disconnect(worker, exchange)
