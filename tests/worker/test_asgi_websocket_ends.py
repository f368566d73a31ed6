"""How ASGI WebSockets end: misuse, disconnects, returns, exceptions, deadlines."""

import pytest
from support.asgi_exchanges import (
    disconnect,
    disconnect_event,
    failure_of,
    handshake,
    json_of,
    open_websocket,
    recorded,
    run_websocket,
)
from support.fake_channel import BODY, CLOSE, DONE, END
from support.waiting import wait_until

APPLICATION = "websocket_cases"

RESPONSE_WINDOW = 1024 * 1024


HANDSHAKE = "'websocket.accept', 'websocket.close' or 'websocket.http.response.start' but got '{}'."
EXPECTED = "RuntimeError: Expected ASGI message "
COMPLETED = "RuntimeError: Unexpected ASGI message '{}', after sending 'websocket.close' or response already "
COMPLETED += "completed."
DENIAL = "'websocket.http.response.body' but got '{}'."
OPEN = "'websocket.send' or 'websocket.close', but got '{}'."
START = "websocket.http.response.start"


@pytest.mark.parametrize(
    ("name", "status", "summary"),
    [
        ("send_first", 0, EXPECTED + HANDSHAKE.format("websocket.send")),
        ("body_first", 0, EXPECTED + HANDSHAKE.format("websocket.http.response.body")),
        ("http", 0, EXPECTED + HANDSHAKE.format("http.response.start")),
        ("accept_twice", 101, EXPECTED + OPEN.format("websocket.accept")),
        ("deny_accepted", 101, EXPECTED + OPEN.format(START)),
        ("send_closed", 101, COMPLETED.format("websocket.send")),
        ("close_twice", 101, COMPLETED.format("websocket.close")),
        ("forbid_accept", 403, COMPLETED.format("websocket.accept")),
        ("accept_denied", 0, EXPECTED + DENIAL.format("websocket.accept")),
        ("deny_twice", 401, COMPLETED.format("websocket.http.response.body")),
        ("no_type", 0, "KeyError: 'type'"),
        ("none", 0, "TypeError: "),
        ("number", 0, EXPECTED + HANDSHAKE.format(3)),
        ("header_newline", 0, "RuntimeError: Invalid HTTP header value."),
        ("header_name", 0, "RuntimeError: Invalid HTTP header name."),
        ("header_text", 0, "TypeError: a header's name is str, not bytes"),
        ("headers_huge", 0, "ValueError: the response's headers have 24"),
        ("subprotocol_newline", 0, "RuntimeError: websocket.accept: subprotocol 'a\\r\\nx-evil: 1' is not a"),
        ("subprotocol_bytes", 0, "TypeError: websocket.accept: subprotocol is bytes, not str"),
        ("text_bytes", 101, "TypeError: the text of websocket.send is bytes, not str"),
        ("bytes_text", 101, "TypeError: the bytes of websocket.send is str, not bytes"),
        ("text_surrogate", 101, "UnicodeEncodeError: "),
        ("code_1005", 101, "RuntimeError: websocket.close: code 1005 must not be sent"),
        ("code_999", 101, "RuntimeError: websocket.close: code 999 must not be sent"),
        ("code_5000", 101, "RuntimeError: websocket.close: code 5000 must not be sent"),
        ("code_huge", 101, "RuntimeError: websocket.close: code 131072 must not be sent"),
        ("code_text", 101, "TypeError: websocket.close: code is str, not int"),
        ("reason_long", 101, "RuntimeError: websocket.close: the reason has 124 bytes, more than the 123"),
        ("reason_bytes", 101, "TypeError: websocket.close: reason is bytes, not str"),
        ("deny_no_status", 0, "KeyError: 'status'"),
        ("deny_101", 0, "RuntimeError: websocket.http.response.start: status 101 is not allowed"),
        ("deny_text", 0, "TypeError: the body of websocket.http.response.body is str, not bytes"),
        ("deny_longer", 0, "RuntimeError: Response content longer than Content-Length"),
        ("deny_incomplete", 401, "ASGI callable returned without completing handshake."),
        ("deny_nothing", 0, "ASGI callable returned without completing handshake."),
    ],
)
def test_invalid_messages_raise_in_the_application(worker, name, status, summary):
    answer = run_websocket(worker, f"/script?{name}")
    assert answer.status == status
    assert failure_of(answer).startswith(summary)
    assert not answer.messages
    if not summary.startswith("ASGI"):
        assert "in script\n" in answer.trace, "raised by the send() call"


# ------------------------------------------------ after a disconnect


def test_after_a_disconnect_send_raises_and_close_does_not(worker):
    exchange = open_websocket(worker, "/sends_after_disconnect")
    answer = disconnect(worker, exchange, 1001)
    assert (answer.raised, answer.closed, answer.messages) == ([], None, [])
    gone = "ClientDisconnected"
    assert recorded(worker) == [gone, gone, "sent", gone, gone]
    exchange = handshake(worker, "/sends_after_disconnect?early")
    json_of(worker.fetch("/forget"))
    assert (disconnect(worker, exchange, 1006).status, recorded(worker)) == (0, [gone] * 5)


@pytest.mark.parametrize("size", [1000, 3_000_000])
def test_disconnect_ends_a_suspended_send(worker, size):
    worker.is_slow = True
    try:
        exchange = handshake(worker, f"/flood?{size}-2000")
        wait_until(
            "the send waits for credit",
            lambda: worker.collect() or sum(used for _, used, _ in worker.unacked) > RESPONSE_WINDOW,
        )
        answer = disconnect(worker, exchange, 1006)
    finally:
        worker.is_slow = False
        worker.acknowledge()
    assert answer.raised == []
    assert recorded(worker) == ["ClientDisconnected", True]


@pytest.mark.parametrize(
    "path", ["/raises_after_disconnect", "/raises_after_disconnect?group", "/sends_uncaught"]
)
def test_disconnect_exceptions_are_not_reported(worker, path):
    answer = disconnect(worker, open_websocket(worker, path))
    assert (answer.raised, answer.closed, answer.frames[-1]) == ([], None, (BODY, END | DONE, 0))


def test_other_exceptions_are_reported_after_a_disconnect(worker):
    exchange = open_websocket(worker, "/raises_after_disconnect?other")
    assert failure_of(disconnect(worker, exchange)) == "ValueError: while cleaning up"
    group = disconnect(worker, open_websocket(worker, "/raises_after_disconnect?mixed_group"))
    assert "of tasks" in failure_of(group)
    assert "WebSocketDisconnect" in failure_of(run_websocket(worker, "/raises_before_disconnect"))


# ------------------------------------------------ the end of the application


def test_return_closes_an_open_websocket(worker):
    answer = run_websocket(worker, "/script?accept")
    assert (answer.closed, answer.raised) == ((1000, ""), [])
    assert answer.frames[-1] == (CLOSE, END | DONE, 1000)


def test_return_without_a_handshake_is_an_error(worker):
    answer = run_websocket(worker, "/returns_at_once")
    assert (answer.status, failure_of(answer)) == (0, "ASGI callable returned without completing handshake.")
    # As in uvicorn, the missing handshake is reported first.
    answer = run_websocket(worker, "/returns_a_value")
    assert (answer.status, failure_of(answer)) == (0, "ASGI callable returned without completing handshake.")


def test_return_value_is_an_error(worker):
    answer = run_websocket(worker, "/returns_a_value?accepted")
    assert answer.closed is None
    assert failure_of(answer) == "ASGI callable should return None, but returned 'a value'."


@pytest.mark.parametrize(
    ("after", "status", "end"), [("", 0, None), ("accept", 101, None), ("close", 101, (1000, ""))]
)
def test_exception_is_reported_once(worker, after, status, end):
    answer = run_websocket(worker, f"/raises?{after}")
    assert (answer.status, answer.closed) == (status, end)
    assert failure_of(answer) == "ValueError: in the WebSocket"
    assert "in raises\n" in answer.trace


def test_handshake_at_its_deadline_is_cancelled(worker):
    exchange = handshake(worker, "/stuck")
    json_of(worker.fetch("/forget"))
    worker.disconnect(exchange, cancel=True)
    report = worker.next_report("warning")[1]
    assert f"exchange {exchange} is cancelled; its task was at:" in report
    assert "in inner" in report
    answer = worker.wait_done(exchange)
    assert (answer.status, answer.raised) == (0, [])
    assert recorded(worker) == ["cancelled", disconnect_event(1006)]


def test_stack_of_a_waiting_websocket_is_its_task(worker):
    exchange = open_websocket(worker, "/reports")
    stack = worker.ask_stacks(exchange)
    assert "in reports" in stack
    assert "in inner" in stack
    assert "<rgun>" not in stack
    disconnect(worker, exchange)
    assert worker.ask_stacks(exchange) is None


def test_messages_for_closed_websockets_are_ignored(worker):
    exchange = open_websocket(worker, "/script?close")
    worker.wait_done(exchange)
    worker.message(exchange, "late")
    worker.message(exchange, "later", more=True)
    worker.disconnect(exchange, code=1000)
    assert json_of(worker.fetch("/ignore")) == "ignored"
