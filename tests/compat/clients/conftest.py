"""Fixtures: the frameworks of apps/ on loopback TCP, each on one daemon for all tests."""

import os
import subprocess
import sys

import httpx
import pytest
from frameworks import FRAMEWORKS
from support.certificate import make_certificate
from support.daemon import Daemon, stop_all
from support.paths import CLIENTS_APPS
from support.waiting import DEADLINE

PREPARE = """
import django
from django.core.management import call_command
django.setup()
call_command("migrate", verbosity=0)
from django.contrib.auth.models import User
User.objects.create_user("ada", password="a secret")
"""


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """The environment of the Django project, whose database has the user ada."""
    path = tmp_path_factory.mktemp("django") / "database"
    environment = {"DJANGO_DATABASE": str(path), "DJANGO_SETTINGS_MODULE": "with_django.settings"}
    command = [sys.executable, "-B", "-c", PREPARE]
    subprocess.run(command, cwd=CLIENTS_APPS, env={**os.environ, **environment}, check=True)
    return environment


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """The flags for a self-signed certificate of 127.0.0.1."""
    certificate, key = make_certificate(tmp_path_factory.mktemp("certificate"))
    return "--certfile", certificate, "--keyfile", key


@pytest.fixture(scope="session")
def start(request):
    """A function that serves an application and waits until it is ready."""
    daemons = []

    def start(target, *flags, env=None):
        database = request.getfixturevalue("database") if "django" in target else {}
        env = {**database, **(env or {})}
        daemon = Daemon(target, "--workers", "1", *flags, chdir=CLIENTS_APPS, bind="127.0.0.1:0", env=env)
        daemons.append(daemon)
        return daemon.wait_ready()

    yield start
    stop_all(daemons)


@pytest.fixture(scope="session")
def serving(start):
    """Returns a function that starts a framework's daemon on first use.

    At the end, each daemon must exit with 0 and without a panic or asyncio complaint in its log.
    """
    daemons = {}

    def serving(name):
        if name not in daemons:
            daemons[name] = start(FRAMEWORKS[name])
            daemons[name].name = name
        return daemons[name]

    yield serving
    for name, daemon in daemons.items():
        assert daemon.stop() == 0, f"{name}:\n{daemon.log()}"
        for trouble in ("panicked", "Task was destroyed", "never awaited", "never retrieved"):
            assert trouble not in daemon.log(), f"{name}:\n{daemon.log()}"


@pytest.fixture(scope="session", params=FRAMEWORKS)
def framework(request, serving):
    """The daemon of each framework in turn."""
    return serving(request.param)


@pytest.fixture
def client(framework):
    """An httpx client of the framework."""
    with httpx.Client(base_url=framework.url, timeout=DEADLINE) as client:
        yield client
