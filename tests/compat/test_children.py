"""Programs started by an application, when its worker exits or dies (workers.children_timeout)."""

import os
import signal
import time

import pytest
from support.paths import COMPAT_APPS
from support.processes import exists, is_running
from support.waiting import wait_until


@pytest.fixture
def serving(start):
    """A function that starts a daemon and lets its worker start a program."""
    started = []

    def serving(*flags, ignores_sigterm="", **settings):
        server = start("signalled:wsgi", COMPAT_APPS, ("--workers", "1", *flags), settings)
        server.wait_for_log("worker 0 is ready")
        facts = server.get(f"/start?ignores_sigterm={ignores_sigterm}").json()
        started.append(facts["child"])
        return server, facts["worker"], facts["child"]

    yield serving
    for pid in started:
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("flags", [(), ("--preload",)])
@pytest.mark.parametrize("replaced", ["by max_requests", "by reload", "by signal"])
def test_children_of_a_replaced_worker_may_finish(serving, flags, replaced):
    more = ("--max-requests", "2") if replaced == "by max_requests" else ()
    server, worker, child = serving(*flags, *more)
    if replaced == "by max_requests":
        server.get("/who")
    elif replaced == "by reload":
        server.process.send_signal(signal.SIGHUP)
    else:
        os.kill(worker, signal.SIGTERM)
    wait_until("the worker exits", lambda: not is_running(worker))
    assert server.get("/who").json()["pid"] != worker
    assert is_running(child)
    # The daemon reaps the child after its exit.
    os.kill(child, signal.SIGKILL)
    wait_until("the child is reaped", lambda: not exists(child))
    assert "left processes behind" not in server.log()


def test_children_past_their_timeout_are_killed_and_logged(serving):
    server, worker, child = serving(RGUN_WORKERS_CHILDREN_TIMEOUT="500ms", ignores_sigterm="yes")
    os.kill(worker, signal.SIGTERM)
    line = server.wait_for_log("left processes behind")
    assert f"worker 0 (pid {worker})" in line
    assert f"{child} (sh)" in line
    assert "workers.children_timeout" in line
    wait_until("the child is killed", lambda: not exists(child))


def test_children_of_a_killed_worker_are_killed(serving):
    server, worker, child = serving()
    os.kill(worker, signal.SIGKILL)
    wait_until("the child is killed", lambda: not exists(child))
    assert "left processes behind" not in server.log()


def test_children_with_zero_timeout_are_killed_with_their_worker(serving):
    server, worker, child = serving(RGUN_WORKERS_CHILDREN_TIMEOUT="0s")
    os.kill(worker, signal.SIGTERM)
    wait_until("the child is killed", lambda: not exists(child))
    assert "left processes behind" not in server.log()


def test_stop_terminates_children(serving):
    server, _, child = serving()
    begun = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begun < 10
    assert not is_running(child)


def test_stop_waits_for_stubborn_children_until_the_drain_ends(serving):
    server, _, child = serving(RGUN_TIMEOUTS_DRAIN="2s", ignores_sigterm="yes")
    server.process.terminate()
    server.wait_for_log("waiting for processes that workers left behind (")
    assert is_running(child)
    line = server.wait_for_log("left processes behind")
    assert f"{child} (sh)" in line
    assert server.process.wait(20) == 0
    # SIGKILL takes effect a moment after the daemon has sent it.
    wait_until("the child is dead", lambda: not is_running(child))


@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGQUIT])
def test_second_stop_signal_does_not_wait_for_children(serving, again):
    server, _, child = serving(
        RGUN_TIMEOUTS_DRAIN="60s", RGUN_WORKERS_CHILDREN_TIMEOUT="60s", ignores_sigterm="yes"
    )
    server.process.terminate()
    server.wait_for_log("waiting for processes that workers left behind")

    def signal_and_poll():
        # Sent repeatedly, because the daemon ignores a second signal soon after the first.
        if server.process.poll() is None:
            server.process.send_signal(again)
        return server.process.poll() is not None

    wait_until("the daemon exits", signal_and_poll)
    assert server.process.wait(20) == 0
    wait_until("the child is killed", lambda: not is_running(child))
