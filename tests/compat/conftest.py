"""Fixtures of the compat tier: applications served by a real daemon on a unix socket."""

import uuid

import pytest
from places import Place
from support.daemon import Daemon, stop_all
from support.fixtures import fake, fakes, hook_events, project, python
from support.paths import COMPAT_APPS, HELLO

__all__ = ["fake", "fakes", "hook_events", "project", "python"]


class Starter:
    """Starts daemons and remembers them, so that a fixture can stop them."""

    def __init__(self, tmp_path_factory, python):
        self.tmp_path_factory = tmp_path_factory
        self.python = python
        self.daemons = []

    def __call__(self, target, chdir=COMPAT_APPS, flags=("--workers", "1"), env=None):
        """Starts a daemon on a unix socket of its own."""
        bind = f"unix:{self.tmp_path_factory.mktemp('run')}/rgun.sock"
        try:
            daemon = Daemon(target, *flags, chdir=chdir, bind=bind, python=self.python, env=env)
        except FileNotFoundError as error:
            pytest.exit(str(error))
        self.daemons.append(daemon)
        return daemon


@pytest.fixture
def start(tmp_path_factory, python):
    """A function that starts daemons for one test."""
    starter = Starter(tmp_path_factory, python)
    yield starter
    stop_all(starter.daemons)


@pytest.fixture
def place(tmp_path, python, start):
    """A directory with an application, for one test."""
    return Place(tmp_path, python, start)


@pytest.fixture(scope="module")
def start_shared(tmp_path_factory, python):
    """A function that starts daemons for all tests of a file."""
    starter = Starter(tmp_path_factory, python)
    yield starter
    stop_all(starter.daemons)


@pytest.fixture(scope="session")
def start_common(tmp_path_factory, python):
    """A function that starts daemons for the whole session."""
    starter = Starter(tmp_path_factory, python)
    yield starter
    stop_all(starter.daemons)


@pytest.fixture(scope="session")
def server(start_common):
    """The cases of tests/apps/hello on one worker with one thread."""
    return start_common("cases", HELLO).wait_ready()


@pytest.fixture(scope="session")
def threaded_server(start_common):
    """The cases of tests/apps/hello on one worker with three threads."""
    return start_common("cases", HELLO, ("--workers", "1", "--threads", "3")).wait_ready()


@pytest.fixture(scope="session")
def probe(start_common):
    """The cases of apps/probe on one worker with one thread."""
    return start_common("probe").wait_ready()


@pytest.fixture(scope="session")
def threaded_probe(start_common):
    """The cases of apps/probe on one worker with three threads."""
    return start_common("probe", flags=("--workers", "1", "--threads", "3")).wait_ready()


@pytest.fixture
def marker():
    """A name that only this test uses."""
    return uuid.uuid4().hex
