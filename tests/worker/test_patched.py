"""Applications patched by gevent or eventlet are served, or refused; none hangs."""

import subprocess
import threading

import pytest
from conftest import APPS
from test_boot import check

WORK = ["thread", "program\n", "socket", "executor"]


@pytest.fixture(params=["gevent", "eventlet"])
def library(request, python):
    """One that this interpreter has."""
    needs(request.param, python)
    return request.param


def needs(module, python):
    """Skips the test if this interpreter cannot import the module."""
    code = ["-W", "ignore", "-c", f"import {module}"]
    if subprocess.run([str(python), *code], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"SKIPPED: this interpreter has no {module}")


def ask_at_once(server, count):
    """The answers of so many clients."""
    answers = []
    ask = [threading.Thread(target=lambda: answers.append(server.get("/").json())) for _ in range(count)]
    for thread in ask:
        thread.start()
    for thread in ask:
        thread.join(30)
    return answers


def test_patched_application_is_served_by_one_thread(start, library):
    server = start("patched:wsgi", APPS, ("--workers", "1"), {"LIBRARY": library}).ready()
    assert ask_at_once(server, 8) == [WORK] * 8
    assert server.stop() == 0


def test_gevent_patched_asgi_application_runs_on_asyncio(start, python):
    needs("gevent", python)
    server = start("patched:asgi", APPS, ("--workers", "1"), {"LIBRARY": "gevent"}).ready()
    assert ask_at_once(server, 8) == [WORK] * 8
    assert server.stop() == 0


def test_eventlet_patched_asgi_application_is_refused(python):
    needs("eventlet", python)
    code, text = check(python, APPS, "patched:asgi", env={"LIBRARY": "eventlet"})
    assert code == 78
    assert "patched by eventlet" in text
    assert "take the patching out" in text


@pytest.mark.parametrize("thread", ["0", "1"])
def test_patched_application_with_threads_is_refused(python, library, thread):
    env = {"LIBRARY": library, "THREAD": thread}
    code, text = check(python, APPS, "patched:wsgi", "--threads", "3", env=env)
    assert code == 78
    assert "workers.threads = 3" in text
    assert f"patched by {library}" in text
    assert "set workers.threads (--threads) to 1" in text


def test_patched_asgi_application_ignores_threads(python):
    needs("gevent", python)
    code, text = check(python, APPS, "patched:asgi", "--threads", "3", env={"LIBRARY": "gevent"})
    assert code == 0, text


def test_patched_application_on_uvloop_is_refused(python):
    needs("gevent", python)
    code, text = check(python, APPS, "patched:asgi", "--loop", "uvloop", env={"LIBRARY": "gevent"})
    assert code == 78
    assert "patched by gevent" in text
    assert "set app.loop to auto or asyncio" in text


def test_preload_works_with_gevent_and_refuses_eventlet(start, library):
    server = start("patched:wsgi", APPS, ("--workers", "2", "--preload"), {"LIBRARY": library})
    if library == "gevent":
        server.wait_for("worker 1 is ready")
        assert ask_at_once(server, 8) == [WORK] * 8
        assert server.stop() == 0
    else:
        line = server.wait_for("the zygote did not boot")
        assert "workers.preload" in line
        assert "set workers.preload to false" in line
        assert server.process.wait(20) == 78
