"""Fixtures of the worker tier: the extension with a fake daemon at the other end of the channel."""

import pytest
from support.asgi_exchanges import spawn
from support.fixtures import fake, fakes, hook_events, project, python
from support.paths import WORKER_APPS

__all__ = ["fake", "fakes", "hook_events", "loop", "project", "python", "worker", "zygote"]


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def loop(request):
    """Each event loop."""
    return request.param


@pytest.fixture(scope="module")
def worker(request, fakes, python, loop):
    """One ASGI worker for all tests of a file, which names the application in APPLICATION."""
    worker = spawn(fakes(), python, loop, request.module.APPLICATION)
    yield worker
    assert worker.stop() == 0, worker.daemon.output()
    for trouble in ("Traceback", "never awaited", "never retrieved", "Task was destroyed"):
        assert trouble not in worker.daemon.output(), worker.daemon.output()


@pytest.fixture
def zygote(fake):
    """A zygote that has imported apps/watched; its workers have two threads."""
    return fake.spawn("watched", WORKER_APPS, zygote=True, threads=2).wait_ready()
