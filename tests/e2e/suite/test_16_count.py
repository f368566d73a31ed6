"""How many workers there are: asked for by signal, none while nobody asks, more while requests wait."""

import os
import signal

import host
import pytest


@pytest.fixture(autouse=True)
def released(trouble_app):
    """A sound release; what is served is each test's business."""
    host.release(trouble_app, 1)


def serve(directory, **options):
    """Configure and start anew."""
    host.configure("trouble", directory, **options)
    host.restart()


def workers():
    """Process ids of the daemon's children."""
    return host.children(host.main_pid())


def test_sigttin_adds_and_sigttou_removes_a_worker(trouble_app):
    serve(trouble_app)
    with host.Load(clients=4) as load:
        os.kill(host.main_pid(), signal.SIGTTIN)
        host.wait_for("three workers", lambda: len(workers()) == 3)
        for left in (2, 1):
            os.kill(host.main_pid(), signal.SIGTTOU)
            host.wait_for(f"{left} workers", lambda left=left: len(workers()) == left)
        load.more(50)
    assert not load.faults, load


def test_idle_workers_exit_and_return_with_requests(trouble_app):
    serve(trouble_app, more='idle_exit = "1s"')
    assert host.get("/").status == 200
    host.wait_for("no worker is left", lambda: not workers(), 20)
    assert host.show("ActiveState") == "active"
    waiting = [host.Background("GET", "/") for _ in range(5)]
    assert {request.result().status for request in waiting} == {200}
    host.wait_for("asleep again", lambda: not workers(), 20)


def test_queued_requests_add_workers(trouble_app):
    serve(trouble_app, workers="{ min = 1, max = 4 }")
    host.wait_for("one worker", lambda: len(workers()) == 1)
    with host.Load("/slow/0.2", clients=8) as load:
        host.wait_for("four workers", lambda: len(workers()) == 4, 30)
    assert not load.faults, load
