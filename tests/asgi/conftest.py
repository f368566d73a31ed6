"""Each framework of apps/, served by one rgun for all tests; tests tell their traces apart by a marker."""

import os
import subprocess
import sys
import time
import uuid

import httpx
import pytest
from served import APPS, DEADLINE, Served

FRAMEWORKS = {
    "starlette": "with_starlette:app",
    "fastapi": "with_fastapi:app",
    "quart": "with_quart:app",
    "litestar": "with_litestar:app",
    "blacksheep": "with_blacksheep:app",
    "django": "with_django.asgi",
}
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
    """The environment of the Django project: its database, with the user ada."""
    path = tmp_path_factory.mktemp("django") / "database"
    environment = {"DJANGO_DATABASE": str(path), "DJANGO_SETTINGS_MODULE": "with_django.settings"}
    subprocess.run(
        [sys.executable, "-B", "-c", PREPARE], cwd=APPS, env={**os.environ, **environment}, check=True
    )
    return environment


@pytest.fixture(scope="session")
def start(request):
    """A function that serves an application; whatever still runs at the end of the session is stopped."""
    running = []

    def start(target, *flags):
        env = request.getfixturevalue("database") if "django" in target else None
        running.append(Served(target, *flags, env=env))
        return running[-1]

    yield start
    for server in running:
        server.stop()


@pytest.fixture(scope="session")
def serving(start):
    """A function that serves a framework, each once; at the end they have nothing to complain of."""
    served = {}

    def serving(name):
        if name not in served:
            served[name] = start(FRAMEWORKS.get(name, name))
            served[name].name = name
        return served[name]

    yield serving
    for name, server in served.items():
        assert server.stop() == 0, f"{name}:\n{server.log()}"
        for trouble in ("panicked", "Task was destroyed", "never awaited", "never retrieved"):
            assert trouble not in server.log(), f"{name}:\n{server.log()}"


@pytest.fixture(scope="session", params=FRAMEWORKS)
def framework(request, serving):
    """Each framework, served."""
    return serving(request.param)


@pytest.fixture
def marker():
    """A name that only this test uses."""
    return uuid.uuid4().hex


@pytest.fixture
def client(framework):
    """An HTTP client of the framework."""
    with httpx.Client(base_url=framework.url, timeout=DEADLINE) as client:
        yield client


def seen(server, marker, count=1):
    """What the application has written down, as soon as there is so much of it."""
    deadline = time.monotonic() + DEADLINE
    while len(found := httpx.get(f"{server.url}/seen/{marker}").json()) < count:
        assert time.monotonic() < deadline, f"{found} and no more in\n{server.log()}"
        time.sleep(0.01)
    return found
