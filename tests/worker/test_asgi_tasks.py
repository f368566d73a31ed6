"""Tasks of ASGI requests: contexts, slots, work after the response, and the exit of the worker."""

import os
import signal

import pytest
from support.asgi_exchanges import json_of, open_gate, spawn

APPLICATION = "asgi_cases"


def test_request_runs_in_its_own_task_and_context(worker, loop):
    for _ in range(2):
        _, name, module, before, is_task = json_of(worker.fetch("/task"))
        assert (name, before, is_task) == ("rgun", "unset", True)
        assert module.partition(".")[0] == loop


def test_flags_of_the_loop_follow_its_state(worker):
    debug, is_running, errors = json_of(worker.fetch("/loop_flags"))
    assert (debug, is_running) == ([False, True], [True, True])
    assert errors == ["TypeError", "TypeError"]


def test_flags_of_a_stopped_loop_are_false(fake, python, loop):
    worker = spawn(fake, python, loop)
    worker.fetch("/loop_flags_at_exit")
    assert worker.stop() == 0
    assert "flags at exit: False False" in worker.daemon.output()


def test_loop_class_keeps_its_own_flags(fake, python):
    worker = spawn(fake, python, "asyncio", "asgi_own_loop")
    assert json_of(worker.fetch("/")) == ["OwnLoop", "own"]
    assert worker.stop() == 0


def test_timeouts_and_task_groups_work(worker):
    assert json_of(worker.fetch("/timeout")) == "in time"


def test_requests_run_concurrently(worker):
    worker.fetch("/forget")
    exchanges = [worker.submit("/at_once?meet") for _ in range(3)]
    assert [json_of(worker.wait_done(exchange)) for exchange in exchanges] == [3, 3, 3]


def test_loop_without_backlog_wakes_a_daemon_that_waits_for_it(worker):
    worker.fetch("/forget")
    worker.daemon.announce_sleep(for_workers=True)
    exchanges = [worker.submit("/at_once?claimed")]
    assert worker.daemon.is_rung(), "the loop has claimed its records and finished none"
    exchanges += [worker.submit("/at_once?claimed") for _ in range(2)]
    assert [json_of(worker.wait_done(exchange)) for exchange in exchanges] == [3, 3, 3]


def test_concurrent_requests_use_separate_slots(worker):
    for round in range(2):
        exchanges = [worker.submit(f"/paced?all{round}") for _ in range(7)]
        for exchange in exchanges:
            worker.wait_for_response(exchange, lambda answer: answer.body, "the first part is sent")
        slots = {worker.slot_of(exchange) for exchange in exchanges}
        assert len(slots) == 7
        assert None not in slots
        open_gate(worker, f"all{round}")
        assert {worker.wait_done(exchange).body for exchange in exchanges} == {b"firstlast"}
    assert {worker.slot(number, 0) for number in range(8)} == {0}


def test_thousand_requests_are_each_answered_once(worker):
    for _ in range(125):
        exchanges = [worker.submit("/echo", "POST", body=b"%d" % number) for number in range(8)]
        assert [worker.wait_done(exchange).body for exchange in exchanges] == [b"%d" % n for n in range(8)]


def test_work_after_the_response_keeps_only_the_slot(worker):
    exchange = worker.submit("/background?later")
    answer = worker.wait_for_response(exchange, lambda answer: answer.end, "answered")
    assert (answer.body, answer.done) == (b"answered", False)
    assert worker.slot_of(exchange) is not None
    open_gate(worker, "later")
    worker.wait_done(exchange)
    assert json_of(worker.fetch("/seen")) == ["worked on"]


def test_stop_waits_for_running_requests(fake, python, loop):
    worker = spawn(fake, python, loop)
    exchange = worker.submit("/echo", "POST", length=4)
    worker.wait_for_response(exchange, lambda answer: answer.credit, "credit is granted")
    worker.send(b"X")
    worker.part(exchange, b"body", end=True)
    assert worker.wait_done(exchange).body == b"body"
    assert worker.wait() == 0
    assert "lifespan: shutdown" in fake.output()


def test_stop_lets_a_streaming_response_finish(fake, python, loop):
    worker = spawn(fake, python, loop)
    worker.is_slow = True
    exchange = worker.submit("/flood")
    worker.wait_for_response(exchange, lambda answer: len(answer.body) >= 1024 * 1024, "the window is full")
    worker.send(b"X")
    worker.is_slow = False
    worker.acknowledge()
    assert len(worker.wait_done(exchange).body) == 200 * 50_000
    assert worker.wait() == 0


LEAVING = """
    import functools, os, signal, sys

    def leave(number, frame):
        sys.exit(5)

    class Leaving:
        def leave(self, number, frame):
            sys.exit(5)

    HANDLERS = {
        "function": leave,
        "method": Leaving().leave,
        "lambda": lambda *arguments: sys.exit(5),
        "partial": functools.partial(lambda name, number, frame: sys.exit(5), "bound"),
        "default": lambda number, frame, code=5: sys.exit(code),
    }
    signal.signal(signal.SIGUSR1, HANDLERS[os.environ.get("HANDLER", "function")])

    def profile(frame, event, function):
        if event == "c_call" and function.__name__ == "_complete":
            sys.exit(5)

    async def application(scope, receive, send):
        if scope["type"] == "http":
            await receive()
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"one", "more_body": True})
            if scope["path"] == "/raise":
                os.kill(os.getpid(), signal.SIGUSR1)
            if scope["path"] == "/profile":
                sys.setprofile(profile)
            else:
                await receive()
            await send({"type": "http.response.body", "body": b"two"})
"""


def test_exit_in_a_signal_handler_ends_the_worker(fake, python, loop, project):
    worker = spawn(fake, python, loop, "leaving", project(leaving=LEAVING))
    exchange = worker.submit("/")
    worker.wait_for_response(exchange, lambda answer: answer.body, "the first part is sent")
    # The exit interrupts the request, whether or not it waits already.
    os.kill(worker.pid, signal.SIGUSR1)
    worker.disconnect(exchange)
    worker.wait_done(exchange)
    assert worker.wait() == 5


@pytest.mark.parametrize("handler", ["function", "method", "lambda", "partial", "default"])
def test_exit_in_a_handler_during_a_request_fails_that_request(fake, python, loop, project, handler):
    worker = spawn(fake, python, loop, "leaving", project(leaving=LEAVING), env={"HANDLER": handler})
    other = worker.submit("/", "POST", length=8)
    worker.wait_for_response(other, lambda answer: answer.credit, "credit is granted")
    worker.part(other, b"part")
    worker.wait_for_response(other, lambda answer: answer.body, "the first part is sent")
    answer = worker.fetch("/raise")
    assert (answer.body, answer.raised[0]) == (b"one", "SystemExit: 5")
    worker.part(other, b"part", end=True)
    assert worker.wait_done(other).body == b"onetwo"
    assert worker.wait() == 5


def test_exit_between_return_and_report_loses_neither(fake, python, loop, project):
    worker = spawn(fake, python, loop, "leaving", project(leaving=LEAVING))
    # The profiler raises in the server's own frame, where a signal cannot be timed.
    answer = worker.fetch("/profile")
    assert (answer.body, answer.raised[0]) == (b"onetwo", "SystemExit: 5")
    assert worker.wait() == 5
