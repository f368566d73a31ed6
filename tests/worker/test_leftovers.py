"""Programs that the application has started when its worker leaves, dies, or stops (workers.children_timeout)."""

import os
import signal
import time

import pytest
from conftest import APPS, eventually


def lives(pid):
    """Whether a process runs; a zombie does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(") ")[2][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def serving(start):
    """A function that starts a daemon, and a program by its worker."""
    started = []

    def serving(*flags, stubborn="", **settings):
        server = start("signalled:wsgi", APPS, ("--workers", "1", *flags), settings)
        server.wait_for("worker 0 is ready")
        told = server.get(f"/start?stubborn={stubborn}").json()
        started.append(told["child"])
        return server, told["worker"], told["child"]

    yield serving
    for pid in started:
        if lives(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("flags", [(), ("--preload",)])
@pytest.mark.parametrize("leaves", ["by max_requests", "by reload", "by signal"])
def test_children_of_a_replaced_worker_may_finish(serving, flags, leaves):
    more = ("--max-requests", "2") if leaves == "by max_requests" else ()
    server, worker, child = serving(*flags, *more)
    if leaves == "by max_requests":
        server.get("/who")
    elif leaves == "by reload":
        server.process.send_signal(signal.SIGHUP)
    else:
        os.kill(worker, signal.SIGTERM)
    eventually(lambda: not lives(worker), "the worker leaves")
    assert server.get("/who").json()["pid"] != worker
    assert lives(child)
    # And is no zombie when it has ended.
    os.kill(child, signal.SIGKILL)
    eventually(lambda: not os.path.exists(f"/proc/{child}"), "it is reaped")
    assert "left processes behind" not in server.log()


def test_children_past_their_timeout_are_killed_and_logged(serving):
    server, worker, child = serving(RGUN_WORKERS_CHILDREN_TIMEOUT="500ms", stubborn="yes")
    os.kill(worker, signal.SIGTERM)
    line = server.wait_for("left processes behind")
    assert f"worker 0 (pid {worker})" in line
    assert f"{child} (sh)" in line
    assert "workers.children_timeout" in line
    eventually(lambda: not os.path.exists(f"/proc/{child}"), "it is killed")


def test_children_of_a_killed_worker_are_killed(serving):
    server, worker, child = serving()
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: not os.path.exists(f"/proc/{child}"), "it is killed")
    assert "left processes behind" not in server.log()


def test_children_with_zero_timeout_are_killed_with_their_worker(serving):
    server, worker, child = serving(RGUN_WORKERS_CHILDREN_TIMEOUT="0s")
    os.kill(worker, signal.SIGTERM)
    eventually(lambda: not os.path.exists(f"/proc/{child}"), "it is killed")
    assert "left processes behind" not in server.log()


def test_stop_terminates_children(serving):
    server, _, child = serving()
    begun = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begun < 10
    assert not lives(child)


def test_stop_waits_for_stubborn_children_until_the_drain_ends(serving):
    server, _, child = serving(RGUN_TIMEOUTS_DRAIN="2s", stubborn="yes")
    server.process.terminate()
    server.wait_for("waiting for what workers have left behind (")
    assert lives(child)
    line = server.wait_for("left processes behind")
    assert f"{child} (sh)" in line
    assert server.process.wait(20) == 0
    assert not lives(child)


@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGQUIT])
def test_second_stop_signal_does_not_wait_for_children(serving, again):
    server, _, child = serving(RGUN_TIMEOUTS_DRAIN="60s", RGUN_WORKERS_CHILDREN_TIMEOUT="60s", stubborn="yes")
    server.process.terminate()
    server.wait_for("waiting for what workers have left behind")

    def asked_again():
        # Again and again: one soon after the first counts for nothing.
        if server.process.poll() is None:
            server.process.send_signal(again)
        return server.process.poll() is not None

    eventually(asked_again, "it ends")
    assert server.process.wait(20) == 0
    eventually(lambda: not lives(child), "it is killed")
