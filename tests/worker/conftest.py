"""Starts the real daemon with the extension under test, on a unix socket, for the applications beside.

Which daemon: see tests/foreground.py. RGUN_PYTHONS lists the interpreters the workers run on, with colons
between; without it, the one that runs pytest.
"""

import collections
import json
import os
import pathlib
import struct
import sys
import textwrap
import time

import fake_daemon
import pytest
from http_client import DEADLINE, Connection

HERE = pathlib.Path(__file__).resolve().parent
TOP = HERE.parent.parent
sys.path.append(str(HERE.parent))
from foreground import Foreground, daemon  # noqa: E402 (found by the line above)

HELLO = TOP / "tests/apps/hello"
APPS = HERE / "apps"


def pythons():
    """The interpreters that run the workers."""
    return [path for path in os.environ.get("RGUN_PYTHONS", "").split(":") if path] or [sys.executable]


@pytest.fixture(scope="session", params=pythons())
def python(request):
    """Each interpreter to test."""
    return request.param


class Server(Foreground):
    """A running daemon, its socket, and what it has logged."""

    def __init__(self, directory, python, target, chdir, flags=(), env=None):
        self.path = str(directory / "rgun.sock")
        where = ("--chdir", chdir, "--python", python, "--bind", f"unix:{self.path}")
        try:
            super().__init__(target, *where, *flags, env=env or {})
        except FileNotFoundError as error:
            pytest.exit(str(error))

    def wait_for(self, text, count=1):
        """Waits until so many lines of the log contain `text`; the first of them."""
        return self.lines_with(text, count)[0]

    def ready(self):
        """Waits until the worker can serve."""
        self.wait_for("is ready")
        return self

    def connect(self):
        """A new connection."""
        return Connection(self.path)

    def get(self, target, method="GET", **more):
        """One request on a connection of its own."""
        with self.connect() as connection:
            return connection.request(method, target, **more)

    def events(self, marker, what=None):
        """What the application has written down under `?id=marker`."""
        found = self.get(f"/events?id={marker}").json()
        return found if what is None else [event for event in found if event["what"] == what]

    def stop(self):
        """SIGTERM, then the exit status."""
        status = self.end()
        if status is None:
            pytest.fail(f"did not stop:\n{self.log()}")
        return status


@pytest.fixture(scope="session")
def start(tmp_path_factory, python):
    """A function that starts servers; they are stopped at the end of the session."""
    servers = []

    def start(target, chdir=APPS, flags=("--workers", "1"), env=None):
        directory = tmp_path_factory.mktemp("run")
        server = Server(directory, python, target, chdir, flags, env)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def server(start):
    """The cases of tests/apps/hello, one worker, one thread."""
    return start("cases", HELLO).ready()


@pytest.fixture(scope="session")
def threaded(start):
    """The same with three threads."""
    return start("cases", HELLO, ("--workers", "1", "--threads", "3")).ready()


@pytest.fixture(scope="session")
def probe(start):
    """The worker's own cases, beside this file."""
    return start("probe").ready()


@pytest.fixture(scope="session")
def crowd(start):
    """The same with three threads."""
    return start("probe", flags=("--workers", "1", "--threads", "3")).ready()


@pytest.fixture
def project(tmp_path):
    """Writes an application's files."""

    def write(**files):
        for name, text in files.items():
            path = tmp_path / (name.replace("__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")
        return tmp_path

    return write


@pytest.fixture(scope="module")
def fakes(tmp_path_factory, python):
    """A function that makes daemons' sides of channels."""
    made = []

    def make():
        extension = daemon().parent / "rgun_worker.abi3.so"
        made.append(fake_daemon.Daemon(python, extension, tmp_path_factory.mktemp("fake")))
        return made[-1]

    yield make
    for fake in made:
        fake.close()


@pytest.fixture
def fake(fakes):
    """The daemon's side of the channel, for this test alone."""
    fake = fakes()
    yield fake
    fake.close()


ALL_HOOKS = {
    "post_fork": "hooked:post_fork",
    "post_worker_init": "hooked:Configuration.post_worker_init",
    "worker_exit": "hooked:worker_exit",
    "child_exit": "hooked:child_exit",
}


@pytest.fixture
def hooked(tmp_path, monkeypatch):
    """What hooks have written down so far."""
    monkeypatch.setenv("EVENTS", str(tmp_path / "events"))

    def told():
        path = tmp_path / "events"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    return told


def child_exited(pid, number, life):
    """The command."""
    return b"C" + struct.pack("<IHQ", pid, number, life)


numbers = collections.defaultdict(int)


@pytest.fixture
def marker(request):
    """A name that only this test uses."""
    numbers[request.node.name] += 1
    return f"{abs(hash((request.node.nodeid, numbers[request.node.name], time.monotonic_ns())))}"


def eventually(condition, what):
    """Waits until `condition()` is true: for facts that no log line or response announces."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"never: {what}")
        time.sleep(0.01)
