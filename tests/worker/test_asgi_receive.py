"""receive() of ASGI requests: bodies, credit, disconnects, half-closed clients."""

import pytest
from support.asgi_exchanges import json_of, open_gate
from support.fake_channel import UNKNOWN_LENGTH
from support.waiting import wait_until

APPLICATION = "asgi_cases"


def test_missing_body_is_one_empty_event(worker):
    assert json_of(worker.fetch("/one_part")) == [0, False]


@pytest.mark.parametrize("size", [1, 4095, 4096, 60_000])
def test_inline_body_is_one_event(worker, size):
    answer = worker.fetch("/echo", "POST", body=b"b" * size)
    assert (answer.body, dict(answer.fields)[b"x-parts"]) == (b"b" * size, b"[%d]" % size)


def test_streamed_body_is_requested_on_first_receive(worker):
    exchange = worker.submit("/slow_reader?parts", "POST", length=30)
    assert json_of(worker.fetch("/forget")) == "forgotten"
    assert exchange not in worker.responses, "credit granted before receive()"
    open_gate(worker, "parts")
    answer = worker.wait_for_response(exchange, lambda answer: answer.credit, "credit is granted")
    assert answer.credit == 256 * 1024
    for number in range(3):
        worker.part(exchange, b"0123456789", end=number == 2)
    # Two openings in one tick of the loop let only one part through.
    wait_until(
        "all parts are received", lambda: open_gate(worker, "parts") or worker.responses[exchange].done
    )
    assert json_of(worker.wait_done(exchange)) == 30


def test_credit_grows_as_the_application_receives(worker):
    exchange = worker.submit("/slow_reader?window", "POST", length=UNKNOWN_LENGTH)
    open_gate(worker, "window")
    worker.wait_for_response(exchange, lambda answer: answer.credit == 256 * 1024, "credit is granted")
    for _ in range(4):
        worker.part(exchange, b"p" * 65_536)
    worker.wait_for_response(
        exchange, lambda answer: answer.credit >= 5 * 65_536, "credit for the first part is granted"
    )
    # The application has not received the other parts, so the worker grants no credit for them.
    assert json_of(worker.fetch("/one_part")) == [0, False]
    assert worker.responses[exchange].credit == 5 * 65_536
    for number in range(3):
        open_gate(worker, "window")
        worker.wait_for_response(
            exchange,
            lambda answer, n=number: answer.credit >= (6 + n) * 65_536,
            "credit for the next part is granted",
        )
    worker.part(exchange, b"end", end=True)
    open_gate(worker, "window")
    assert json_of(worker.wait_done(exchange)) == 4 * 65_536 + 3


def test_body_of_unknown_length_may_end_with_an_empty_part(worker):
    exchange = worker.submit("/echo", "POST", length=UNKNOWN_LENGTH)
    worker.wait_for_response(exchange, lambda answer: answer.credit, "credit is granted")
    worker.part(exchange, b"all")
    worker.part(exchange, b"", end=True)
    assert worker.wait_done(exchange).body == b"all"


def test_long_upload_arrives_whole(worker):
    exchange = worker.submit("/echo", "POST", length=3_000_000)
    sent = 0
    while sent < 3_000_000:
        answer = worker.wait_for_response(
            exchange, lambda answer, n=sent: answer.credit > n, "credit is granted"
        )
        while sent < min(answer.credit, 3_000_000):
            size = min(60_000, answer.credit - sent, 3_000_000 - sent)
            worker.part(exchange, b"%c" % (sent % 251) * size, end=sent + size == 3_000_000)
            sent += size
            # The ring has limited space.
            worker.wait_claimed()
    answer = worker.wait_done(exchange)
    assert len(answer.body) == 3_000_000


def test_ignored_body_does_not_disturb_the_next_request(worker):
    exchange = worker.submit("/ignore", "POST", length=100_000)
    assert json_of(worker.wait_done(exchange)) == "ignored"
    # Late frames are dropped.
    worker.part(exchange, b"late", end=True)
    worker.disconnect(exchange)
    assert json_of(worker.fetch("/ignore")) == "ignored"


def test_receive_after_the_body_waits_for_the_disconnect(worker):
    exchange = worker.submit("/events", "POST", body=b"x")
    worker.fetch("/ignore")
    worker.disconnect(exchange)
    answer = worker.wait_done(exchange)
    assert (answer.status, answer.raised) == (0, []), "nothing is sent"
    assert json_of(worker.fetch("/seen")) == [
        {"type": "http.request", "body": {"bytes": "x"}, "more_body": False},
        {"type": "http.disconnect"},
    ]


@pytest.mark.parametrize("early", [True, False])
def test_half_close_is_a_disconnect_after_the_body(worker, early):
    exchange = worker.submit("/events_then_answer", "POST", length=4)
    worker.wait_for_response(exchange, lambda answer: answer.credit, "credit is granted")
    if early:
        worker.half_close(exchange)
    worker.part(exchange, b"body", end=True)
    if not early:
        worker.half_close(exchange)
    assert json_of(worker.wait_done(exchange)) == [
        {"type": "http.request", "body": {"bytes": "body"}, "more_body": False},
        {"type": "http.disconnect"},
    ]


@pytest.mark.parametrize("query", ["", "?begin", "?begin-and-raise"])
def test_returning_after_a_half_close_is_not_an_error(worker, query):
    exchange = worker.submit(f"/begins_and_leaves{query}")
    worker.half_close(exchange)
    answer = worker.wait_done(exchange)
    assert (answer.body, answer.raised) == (b"half" if query else b"", [""])


def test_exception_after_a_half_close_is_reported(worker):
    exchange = worker.submit("/begins_and_leaves?begin-and-fail")
    worker.half_close(exchange)
    assert worker.wait_done(exchange).raised == ["ValueError: not for that"]


def test_disconnect_during_the_body_is_received_at_once(worker):
    exchange = worker.submit("/events", "POST", length=1000)
    worker.wait_for_response(exchange, lambda answer: answer.credit, "credit is granted")
    worker.part(exchange, b"half")
    worker.disconnect(exchange)
    worker.wait_done(exchange)
    assert json_of(worker.fetch("/seen"))[-1] == {"type": "http.disconnect"}


def test_receive_after_the_response_is_a_disconnect(worker):
    assert worker.fetch("/after_complete").body == b"complete"
    assert [event["type"] for event in json_of(worker.fetch("/seen"))] == [
        *("http.request", "http.disconnect", "http.disconnect")
    ]


def test_cancelled_receive_loses_no_event(worker):
    exchange = worker.submit("/receive_in_tasks", "POST", length=4)
    worker.wait_for_response(exchange, lambda answer: answer.body == b"timeout", "the receive is cancelled")
    worker.part(exchange, b"body", end=True)
    assert worker.wait_done(exchange).body == b"timeoutbody"
