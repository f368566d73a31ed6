"""Deadlines and stacks of ASGI requests: the stack of the task and of the tasks that it awaits."""

import contextlib
import os
import sys

import pytest
from support.asgi_exchanges import json_of
from support.waiting import wait_until

APPLICATION = "asgi_stacks"


def test_task_at_its_deadline_is_reported_and_cancelled(worker):
    exchange = worker.submit("/stuck")
    worker.fetch("/ignore")
    worker.disconnect(exchange, cancel=True)
    report = worker.next_report("warning")[1]
    assert f"exchange {exchange} is cancelled; its task was at:" in report
    for line in ("in stuck", "in inner", "asyncio.sleep(1000)"):
        assert line in report
    assert "<rgun>" not in report
    answer = worker.wait_done(exchange)
    assert (answer.status, answer.raised) == (0, [])
    assert json_of(worker.fetch("/seen")) == ["cancelled"]


def test_response_after_cancellation_is_dropped(worker):
    exchange = worker.submit("/ignores_cancellation")
    worker.fetch("/ignore")
    worker.disconnect(exchange, cancel=True)
    worker.next_report("warning")
    answer = worker.wait_done(exchange)
    assert (answer.status, answer.body, answer.raised) == (0, b"", [])


def test_stack_of_a_waiting_request_is_its_task(worker):
    exchange = worker.submit("/stuck")
    worker.fetch("/ignore")
    stack = worker.ask_stacks(exchange)
    assert "in stuck" in stack
    assert "in inner" in stack
    worker.disconnect(exchange, cancel=True)
    worker.wait_done(exchange)
    assert worker.ask_stacks(exchange) is None


def test_stack_of_a_running_request_is_its_thread(worker, tmp_path):
    path = tmp_path / "fifo"
    os.mkfifo(path)
    exchange = worker.submit(f"/busy?{path}")
    writers = []

    def open_writer():
        # ENXIO: the application has not opened the FIFO yet.
        with contextlib.suppress(OSError):
            writers.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        return writers

    wait_until("the application blocks", open_writer)
    try:
        stack = worker.ask_stacks(exchange)
        everything = worker.ask_stacks()
    finally:
        # The other tests need the worker unblocked.
        os.close(writers[0])
    for part in ("in busy", ".read_bytes()", "in read_bytes"):
        assert part in stack
    assert "in busy" in everything
    assert json_of(worker.wait_done(exchange)) == "done"


# ------------------------------------------------ a request's own tasks


def submit_and_wait(worker, path, until="in innermost\n", times=1):
    """Submits a request and waits until its tasks are waiting; returns the exchange's id."""
    exchange = worker.submit(path)
    worker.fetch("/ignore")
    wait_until(f"{path} waits", lambda: worker.ask_stacks(exchange).count(until) >= times)
    return exchange


def cancel(worker, exchange):
    """Cancels an exchange at its deadline; returns the report."""
    worker.disconnect(exchange, cancel=True)
    report = worker.next_report("warning")[1]
    assert worker.wait_done(exchange).raised == []
    return report


@pytest.mark.parametrize(
    "how", ["gathers", "waits", "waits_with_timeout", "awaits_task", "shields", "groups", "groups_of_anyio"]
)
def test_stack_includes_the_awaited_tasks(worker, how):
    if how == "groups" and sys.version_info < (3, 11):
        pytest.skip("TaskGroup came with 3.11")
    exchange = submit_and_wait(worker, "/" + how)
    requested = worker.ask_stacks(exchange)
    for stack in (requested, cancel(worker, exchange)):
        for part in (f"in {how}", "in child", "in innermost"):
            assert part in stack
        assert "<rgun>" not in stack


def test_nested_and_circular_tasks_are_shown_once(worker):
    report = cancel(worker, submit_and_wait(worker, "/nests"))
    assert [report.count(f"in {name}\n") for name in ("nests", "parent", "child", "innermost")] == [1] * 4
    exchange = submit_and_wait(worker, "/circle", "in waits_for_each_other")

    def are_shown():
        stack = worker.ask_stacks(exchange)
        return (stack.count("it awaits task"), stack.count("in waits_for_each_other")) == (2, 2)

    wait_until("each task is shown once", are_shown)
    cancel(worker, exchange)


def test_long_lists_of_tasks_are_truncated(worker):
    report = cancel(worker, submit_and_wait(worker, "/gathers_many", times=15))
    assert report.count("in innermost\n") == 15
    assert report.endswith("it awaits more tasks\n")
