"""Fixtures of the tiers worker and compat; each conftest.py imports those it needs."""

import json
import os
import sys
import textwrap

import pytest

from . import fake_daemon
from .paths import extension

__all__ = ["fake", "fakes", "hook_events", "project", "python"]


def pythons():
    """The interpreters that run the workers: RGUN_PYTHONS, separated by colons, else this one."""
    return [path for path in os.environ.get("RGUN_PYTHONS", "").split(":") if path] or [sys.executable]


@pytest.fixture(scope="session", params=pythons())
def python(request):
    """Each interpreter under test."""
    return request.param


@pytest.fixture
def project(tmp_path):
    """A function that writes files, `package__module=source`, and returns their directory."""

    def write(**files):
        for name, text in files.items():
            path = tmp_path / (name.replace("__", "/") + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text), encoding="utf-8")
        return tmp_path

    return write


@pytest.fixture(scope="module")
def fakes(tmp_path_factory, python):
    """A function that makes fake daemons; they are closed at the end of the module."""
    made = []

    def make():
        try:
            made.append(fake_daemon.FakeDaemon(python, extension(), tmp_path_factory.mktemp("fake")))
        except FileNotFoundError as error:
            pytest.exit(str(error))
        return made[-1]

    yield make
    for fake in made:
        fake.close()


@pytest.fixture
def fake(fakes):
    """A fake daemon for one test."""
    fake = fakes()
    yield fake
    fake.close()


@pytest.fixture
def hook_events(tmp_path, monkeypatch):
    """A function that returns what the hooks of `hooked.py` have recorded so far."""
    path = tmp_path / "events"
    monkeypatch.setenv("EVENTS", str(path))

    def read():
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    return read
