"""The number of workers: changed by signal, zero when idle, more when requests queue."""

import os
import signal

import host
import pytest
from support.processes import children
from support.waiting import wait_until


@pytest.fixture(autouse=True)
def released(trouble_app):
    """Deploys release 1."""
    host.deploy(trouble_app, 1)


def serve(directory, **options):
    """Writes the configuration and restarts the service."""
    host.configure("trouble", directory, **options)
    host.restart()


def workers():
    """Returns the pids of the daemon's children."""
    return children(host.main_pid())


def test_sigttin_adds_and_sigttou_removes_a_worker(trouble_app):
    serve(trouble_app)
    with host.load(clients=4) as load:
        os.kill(host.main_pid(), signal.SIGTTIN)
        wait_until("three workers", lambda: len(workers()) == 3)
        for left in (2, 1):
            os.kill(host.main_pid(), signal.SIGTTOU)
            wait_until(f"{left} workers", lambda left=left: len(workers()) == left)
        load.wait_for_more(50)
    assert not load.faults, load


def test_idle_workers_exit_and_return_with_requests(trouble_app):
    serve(trouble_app, more='idle_exit = "1s"')
    assert host.get("/").status == 200
    wait_until("no worker is left", lambda: not workers(), 20)
    assert host.show("ActiveState") == "active"
    waiting = [host.in_background("GET", "/") for _ in range(5)]
    assert {request.result().status for request in waiting} == {200}
    wait_until("no worker is left again", lambda: not workers(), 20)


def test_queued_requests_add_workers(trouble_app):
    serve(trouble_app, workers="{ min = 1, max = 4 }")
    wait_until("one worker", lambda: len(workers()) == 1)
    with host.load("/slow/0.2", clients=8) as load:
        wait_until("four workers", lambda: len(workers()) == 4, 30)
    assert not load.faults, load
