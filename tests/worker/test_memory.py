"""A worker returns memory when the daemon asks for it (TrimMemory): once it runs no request."""

import time

import pytest
from support.paths import WORKER_APPS
from support.waiting import wait_until

TRIM = b"T"
# Longer than several checks of the worker (IDLE_CHECK_INTERVAL in src/worker/background.rs).
CHECKS = 0.4


@pytest.fixture(params=["wsgi", "asgi"])
def interface(request):
    return request.param


@pytest.fixture
def garbage(fake, interface):
    """A worker whose application leaves cycles behind; two requests run at a time."""
    target = "garbage:asgi" if interface == "asgi" else "garbage"
    return fake.spawn(target, WORKER_APPS, interface=interface, threads=2).wait_ready()


def n_alive(worker, path="/"):
    """Returns the number of cycles that have not been collected, after a request."""
    _, body = worker.get(path)
    return int(body)


def wait_until_collected(worker):
    wait_until("the cycles are collected", lambda: n_alive(worker) == 0)


def test_idle_worker_collects_garbage(garbage):
    assert n_alive(garbage, "/leave") == 1
    assert n_alive(garbage, "/leave") == 2
    garbage.send(TRIM)
    wait_until_collected(garbage)
    assert n_alive(garbage, "/leave") == 1, "the command has an effect once"
    time.sleep(CHECKS)
    assert n_alive(garbage) == 1
    garbage.send(TRIM)
    wait_until_collected(garbage)
    assert garbage.stop() == 0, garbage.daemon.output()
    assert "Traceback" not in garbage.daemon.output()


def test_garbage_is_not_collected_during_a_request(garbage):
    waiting = garbage.submit("/wait")
    wait_until("the request runs", lambda: n_alive(garbage) == 1)
    garbage.send(TRIM)
    until = time.monotonic() + CHECKS
    while time.monotonic() < until:
        assert n_alive(garbage) == 1
    garbage.get("/release")
    garbage.result(waiting)
    wait_until_collected(garbage)


def test_application_may_turn_the_collector_off(fake):
    worker = fake.spawn("garbage", WORKER_APPS, interface="wsgi").wait_ready()
    assert n_alive(worker, "/leave-without-collector") == 1
    worker.send(TRIM)
    time.sleep(CHECKS)
    assert n_alive(worker) == 1


def test_stacks_are_reported_while_a_trim_is_pending(garbage):
    waiting = garbage.submit("/wait")
    wait_until("the request runs", lambda: n_alive(garbage) == 1)
    garbage.send(TRIM)
    assert "most recent call first" in garbage.ask_stacks()
    # Stops while the trim is pending.
    garbage.get("/release")
    garbage.result(waiting)
    assert garbage.stop() == 0, garbage.daemon.output()


def test_zygote_ignores_the_command(fake):
    zygote = fake.spawn("garbage", WORKER_APPS, zygote=True, interface="wsgi").wait_ready()
    zygote.send(TRIM)
    worker = fake.fork(zygote).wait_ready()
    assert n_alive(worker, "/leave") == 1
    worker.send(TRIM)
    wait_until_collected(worker)
