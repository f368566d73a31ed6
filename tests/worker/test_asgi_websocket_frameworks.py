"""WebSockets of Starlette and FastAPI, on each loop, with the daemon's side played by the test."""

import json

import pytest
from test_asgi_http import loop, spawn, told  # noqa: F401 (loop is a fixture)
from test_frameworks import needs
from websocket_exchanges import accepted, closed, failed, handshake, over


@pytest.fixture(scope="module")
def worker(fakes, python, loop):  # noqa: F811 (the fixture)
    needs(python, "fastapi")
    worker = spawn(fakes(), python, loop, "websockets_of_frameworks")
    yield worker
    assert worker.stop() == 0, worker.daemon.output()
    assert "Traceback" not in worker.daemon.output(), worker.daemon.output()


def seen(worker):
    return told(worker.ask("/seen"))


def test_messages_subprotocols_and_headers(worker):
    offered = [(b"sec-websocket-protocol", b"chat, superchat")]
    exchange = accepted(worker, "/echo", headers=offered)
    assert worker.answers[exchange].fields == [(b"sec-websocket-protocol", b"chat"), (b"x-by", b"starlette")]
    for content in ("text", b"bytes", "", b""):
        worker.message(exchange, content)
    worker.until(exchange, lambda answer: answer.messages == ["text", b"bytes", "", b""], "echoed")
    assert closed(worker, exchange, 1001, b"going away").raised == []
    assert seen(worker) == [1001, "going away"]


@pytest.mark.parametrize("code", [1000, 1005, 1006, 1012, 4321])
def test_uncaught_disconnect_is_no_error(worker, code):
    exchange = accepted(worker, "/uncaught")
    worker.message(exchange, "hello")
    worker.until(exchange, lambda answer: answer.messages == ["hello"], "echoed")
    answer = closed(worker, exchange, code)
    assert (answer.raised, answer.closed) == ([], None)
    # Gone before the answer is sent.
    exchange = accepted(worker, "/uncaught")
    worker.message(exchange, "hello")
    assert closed(worker, exchange, code).raised == []


def test_close_in_finally_is_no_error(worker):
    exchange = accepted(worker, "/closes_finally")
    worker.message(exchange, "hello")
    worker.until(exchange, lambda answer: answer.messages == ['{"heard":"hello"}'], "heard")
    answer = closed(worker, exchange)
    assert (answer.raised, answer.closed) == ([], None)
    assert seen(worker) == ["closed"]


def test_send_after_a_disconnect_raises_with_1006(worker):
    exchange = accepted(worker, "/feed")
    worker.until(exchange, lambda answer: len(answer.messages) > 3, "fed")
    assert closed(worker, exchange, 1001).raised == []
    assert seen(worker) == [1006]


def test_close_denial_and_failure_reach_the_client(worker):
    answer = over(worker, "/closes")
    assert (answer.status, answer.closed, answer.raised) == (101, (4000, "as documented"), [])
    assert seen(worker) == ["websocket.disconnect", 4000]
    for path in ("/forbids", "/no-such-route"):
        answer = over(worker, path)
        assert (answer.status, answer.body, answer.raised) == (403, b"", []), path
    answer = over(worker, "/denies")
    assert (answer.status, json.loads(answer.body)) == (401, {"detail": "who are you?"})
    assert dict(answer.fields)[b"x-by"] == b"starlette"
    answer = over(worker, "/aborts")
    assert (answer.status, answer.body, answer.raised) == (402, b"no money", [])
    assert failed(over(worker, "/fails")) == "ValueError: in a WebSocket of Starlette's"


def test_endpoint_class_gets_json_and_the_close_code(worker):
    exchange = accepted(worker, "/counter")
    worker.message(exchange, '{"n": 41}')
    worker.until(exchange, lambda answer: answer.messages == ['{"next":42}'], "counted")
    assert closed(worker, exchange, 4005).raised == []
    assert seen(worker) == [4005]


def test_fastapi_dependencies_refuse_and_close(worker):
    answer = over(worker, "/api/rooms/7?token=wrong")
    assert (answer.status, answer.raised) == (403, [])
    assert over(worker, "/api/rooms/seven?token=right").status == 403
    exchange = accepted(worker, "/api/rooms/7?token=right")
    worker.until(exchange, lambda answer: answer.messages == ['[7,"right"]'], "welcomed")
    worker.message(exchange, "expel me")
    answer = worker.whole(exchange)
    assert (answer.closed, answer.raised) == ((4002, "expelled"), [])


def test_concurrent_websockets_do_not_mix(worker):
    exchanges = [handshake(worker, "/uncaught") for _ in range(8)]
    for number in range(50):
        for exchange in exchanges:
            worker.message(exchange, f"{exchange}: {number}")
    for exchange in exchanges:
        expected = [f"{exchange}: {number}" for number in range(50)]
        worker.until(exchange, lambda answer, of=expected: answer.messages == of, "echoed")
    for exchange in exchanges:
        closed(worker, exchange)
