"""Preload with Django and NumPy, with a fake daemon."""

import subprocess

import pytest


def test_django_connections_are_closed_before_a_fork(fake, project):
    pytest.importorskip("django")
    directory = project(
        kept="""
            import os

            import django
            from django.conf import settings
            from django.core.wsgi import get_wsgi_application
            from django.http import HttpResponse
            from django.urls import path

            DATABASE = {"ENGINE": "django.db.backends.sqlite3", "NAME": "data.sqlite3", "CONN_MAX_AGE": None}
            settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, DATABASES={"default": DATABASE})
            application = get_wsgi_application()

            def view(request):
                from django.db import connection

                before = connection.connection is not None
                connection.cursor().execute("select 1")
                return HttpResponse(f"{before} {os.getpid()}")

            urlpatterns = [path("", view)]
        """
    )
    zygote = fake.spawn("kept", directory, zygote=True, warm_up="/").wait_ready()
    assert zygote.warnings() == []
    worker = fake.fork(zygote).wait_ready()
    assert worker.get("/") == (200, f"False {worker.pid}".encode())
    # The worker keeps its connection until it becomes a zygote.
    assert worker.get("/") == (200, f"True {worker.pid}".encode())
    worker.send(b"P")
    worker.wait_ready()
    child = fake.fork(worker, incarnation=3).wait_ready()
    assert child.get("/") == (200, f"False {child.pid}".encode())


def test_preloaded_django_loads_no_settings(fake, project):
    pytest.importorskip("django")
    directory = project(
        shop_settings="""
            import sys

            print("settings are loaded", file=sys.stderr)
            DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "data.sqlite3"}}
            ALLOWED_HOSTS = ["*"]
            ROOT_URLCONF = "shop_urls"
        """,
        shop_urls="urlpatterns = []",
        shop="""
            from django.core.wsgi import get_wsgi_application

            application = get_wsgi_application()
        """,
    )
    environment = {"DJANGO_SETTINGS_MODULE": "shop_settings"}
    modules = ("django.core.handlers.wsgi", "django.db.models")
    zygote = fake.spawn("shop", directory, env=environment, zygote=True, preload=modules).wait_ready()
    assert zygote.warnings() == []
    assert "settings are loaded" not in fake.output()
    worker = fake.fork(zygote).wait_ready()
    assert worker.get("/")[0] == 404
    assert "settings are loaded" in fake.output()


DRAWS = """
    import numpy.random

    def application(environ, start_response):
        start_response("200 OK", [])
        return [repr(numpy.random.random()).encode()]
"""


def test_real_numpy_is_seeded_in_each_worker(fake, project, python):
    if subprocess.run([python, "-c", "import numpy"], check=False, capture_output=True).returncode:
        pytest.skip("SKIPPED: the interpreter under test has no NumPy")
    zygote = fake.spawn("draws", project(draws=DRAWS), zygote=True).wait_ready()
    workers = [fake.fork(zygote, number=number, incarnation=2 + number).wait_ready() for number in range(3)]
    assert len({worker.get("/") for worker in workers}) == 3
