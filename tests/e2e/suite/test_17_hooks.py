"""gunicorn's hooks: called with gunicorn's arguments, once per worker."""

import os
import signal

import host
import pytest
from support.waiting import wait_until

HOOKS = """
def note(name, worker):
    with open("{log}", "a") as file:
        file.write(f"{{name}} {{worker.pid}}\\n")

def post_fork(server, worker):
    server.log.info("post_fork speaks")
    note("post_fork", worker)

def post_worker_init(worker):
    note("post_worker_init", worker)

def worker_exit(server, worker):
    note("worker_exit", worker)

def child_exit(server, worker):
    note("child_exit", worker)
"""
LOG = host.STATE / "hooks.log"


@pytest.fixture(autouse=True)
def hooked(trouble_app):
    """Two workers with four hooks, which record their calls."""
    host.deploy(trouble_app, 1)
    (trouble_app / "hooks.py").write_text(HOOKS.format(log=LOG))
    LOG.unlink(missing_ok=True)
    names = ("post_fork", "post_worker_init", "worker_exit", "child_exit")
    lines = "\n".join(f'{name} = "hooks:{name}"' for name in names)
    host.configure("trouble", trouble_app, extra=f"[hooks]\n{lines}\n")
    host.restart()


def noted():
    """Returns the recorded calls: name of the hook and pid of its worker."""
    return [tuple(line.split()) for line in LOG.read_text().splitlines()]


def test_hooks_are_called_once_per_worker():
    workers = wait_until("two workers", host.two_workers)
    for pid in workers:
        wait_until("the worker's first two hooks", lambda pid=pid: len(named(pid)) == 2)
        assert named(pid) == ["post_fork", "post_worker_init"]
    victim, other = workers
    # A ready worker calls child_exit; a worker that has called post_worker_init may not be ready yet.
    wait_until("both workers are ready", lambda: host.status_text().startswith("2/2 workers ready"))
    os.kill(victim, signal.SIGKILL)
    wait_until("child_exit is called for it", lambda: ("child_exit", str(victim)) in noted())
    assert "worker_exit" not in named(victim), "a killed process runs no hook"
    host.systemctl("stop", host.SERVICE)
    assert "worker_exit" in named(other)
    assert all(noted().count(line) == 1 for line in noted()), noted()


def named(pid):
    """Returns the names of the hooks called for a worker."""
    return [name for name, about in noted() if about == str(pid)]
