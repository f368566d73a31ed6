"""Isolation of ASGI requests: contexts, cancelled waits, forks."""

import pytest
from support.asgi_exchanges import json_of, open_gate
from support.waiting import wait_until

APPLICATION = "asgi_apart"


def test_requests_have_separate_contexts(worker):
    other = worker.submit("/keeps_a_secret?secret")
    json_of(worker.fetch("/ignore"))
    open_gate(worker, "secret")
    # The first request blocks the loop until the second has arrived, so that both run in one tick.
    exchange = worker.submit("/looks_for_secrets")
    assert json_of(worker.wait_done(other)) == "a secret"
    assert json_of(worker.wait_done(exchange)) == "unset"


def test_cancelled_receives_leave_no_future(worker):
    exchange = worker.submit("/gives_up")
    assert json_of(worker.wait_done(exchange)) < 10


def test_cancelled_sends_leave_no_future(worker):
    worker.is_slow = True
    try:
        exchange = worker.submit("/gives_up_sending")
        wait_until("the sends are cancelled", lambda: json_of(worker.fetch("/seen")))
        assert json_of(worker.fetch("/seen"))[0] < 10
    finally:
        worker.is_slow = False
        worker.acknowledge()
    assert len(worker.wait_done(exchange).body) == 2_000_000


def test_forked_child_on_the_parents_loop_takes_no_requests(worker):
    exchange = worker.submit("/forks_and_awaits")
    worker.wait_claimed()
    # Each submission writes to the eventfd, which wakes the child, too.
    others = [worker.submit("/echo", "POST", body=b"%d" % number) for number in range(5)]
    assert json_of(worker.wait_done(exchange)) == 70
    assert [worker.wait_done(other).body for other in others] == [b"%d" % number for number in range(5)]
    assert "a child process forked by the application returned into the server" in worker.daemon.output()


@pytest.mark.parametrize("cancel", [False, True])
def test_disconnect_ends_an_abandoned_response(worker, cancel):
    worker.fetch("/forget")
    worker.is_slow = True
    try:
        exchange = worker.submit("/returns_too_early")
        wait_until("the application has returned", lambda: json_of(worker.fetch("/seen")) == ["returned"])
        assert not worker.responses[exchange].done
        worker.disconnect(exchange, cancel=cancel)
        # The client grants no credit, so only the disconnect can end the exchange.
        worker.wait_done(exchange)
    finally:
        worker.is_slow = False
        worker.acknowledge()


def test_task_interrupted_in_server_code_ends_at_its_deadline(worker):
    exchange = worker.submit("/interrupts_the_server")
    worker.fetch("/ignore")
    worker.fetch("/ignore")
    worker.disconnect(exchange, cancel=True)
    assert worker.wait_done(exchange).raised == ["ValueError: from a signal handler"]
