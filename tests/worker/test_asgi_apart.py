"""What ASGI requests keep to themselves and what they leave behind: contexts, waits given up, forks."""

import pytest
from conftest import eventually
from test_asgi_http import loop, open_gate, spawn, told  # noqa: F401 (loop is a fixture)


@pytest.fixture(scope="module")
def worker(fakes, python, loop):  # noqa: F811 (the fixture)
    """One worker for the tests of this file: nothing in here ends it."""
    worker = spawn(fakes(), python, loop, "asgi_apart")
    yield worker
    assert worker.stop() == 0, worker.daemon.output()
    assert "Traceback" not in worker.daemon.output(), worker.daemon.output()


def test_requests_have_separate_contexts(worker):
    other = worker.submit("/keeps_a_secret?secret")
    told(worker.ask("/ignore"))
    open_gate(worker, "secret")
    # It keeps the loop until this one has come, which is begun in the turn that its answer has asked for.
    exchange = worker.submit("/looks_for_secrets")
    assert told(worker.whole(other)) == "a secret"
    assert told(worker.whole(exchange)) == "unset"


def test_cancelled_receives_leave_no_future(worker):
    exchange = worker.submit("/gives_up")
    assert told(worker.whole(exchange)) < 10


def test_cancelled_sends_leave_no_future(worker):
    worker.is_slow = True
    try:
        exchange = worker.submit("/gives_up_sending")
        eventually(lambda: told(worker.ask("/seen")), "given up")
        assert told(worker.ask("/seen"))[0] < 10
    finally:
        worker.is_slow = False
        worker.acknowledge()
    assert len(worker.whole(exchange).body) == 2_000_000


def test_forked_child_on_the_parents_loop_takes_no_requests(worker):
    exchange = worker.submit("/forks_and_awaits")
    worker.until_claimed()
    # The child hears the bell of these.
    others = [worker.submit("/echo", "POST", body=b"%d" % number) for number in range(5)]
    assert told(worker.whole(exchange)) == 70
    assert [worker.whole(other).body for other in others] == [b"%d" % number for number in range(5)]
    assert "a process that the application forked came back" in worker.daemon.output()


@pytest.mark.parametrize("cancel", [False, True])
def test_disconnect_ends_an_abandoned_response(worker, cancel):
    worker.ask("/forget")
    worker.is_slow = True
    try:
        exchange = worker.submit("/returns_too_early")
        eventually(lambda: told(worker.ask("/seen")) == ["returned"], "returned")
        assert not worker.answers[exchange].done
        worker.disconnect(exchange, cancel=cancel)
        # Without credit: nothing else has the worker look at it.
        worker.whole(exchange)
    finally:
        worker.is_slow = False
        worker.acknowledge()


def test_task_interrupted_in_server_code_ends_at_its_deadline(worker):
    exchange = worker.submit("/is_interrupted")
    worker.ask("/ignore")
    worker.ask("/ignore")
    worker.disconnect(exchange, cancel=True)
    assert worker.whole(exchange).raised == ["ValueError: from a signal handler"]
