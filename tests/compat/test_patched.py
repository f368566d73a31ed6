"""Applications patched by gevent or eventlet are served or refused; none hangs."""

import threading

import pytest
from support.daemon import run_check
from support.interpreters import require_module
from support.paths import COMPAT_APPS

WORK = ["thread", "program\n", "socket", "executor"]


@pytest.fixture(params=["gevent", "eventlet"])
def library(request, python):
    """Each library that the interpreter has."""
    require_module(python, request.param)
    return request.param


def ask_at_once(server, count):
    """Sends concurrent requests and returns their JSON."""
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(server.get("/").json())) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return answers


def test_patched_application_is_served_by_one_thread(start, library):
    server = start("patched:wsgi", COMPAT_APPS, ("--workers", "1"), {"LIBRARY": library}).wait_ready()
    assert ask_at_once(server, 8) == [WORK] * 8
    assert server.stop() == 0


def test_gevent_patched_asgi_application_runs_on_asyncio(start, python):
    require_module(python, "gevent")
    server = start("patched:asgi", COMPAT_APPS, ("--workers", "1"), {"LIBRARY": "gevent"}).wait_ready()
    assert ask_at_once(server, 8) == [WORK] * 8
    assert server.stop() == 0


def test_eventlet_patched_asgi_application_is_refused(python):
    require_module(python, "eventlet")
    code, text = run_check(python, COMPAT_APPS, "patched:asgi", env={"LIBRARY": "eventlet"})
    assert code == 78
    assert "eventlet patches" in text
    assert "remove the patching" in text


@pytest.mark.parametrize("thread", ["0", "1"])
def test_patched_application_with_threads_is_refused(python, library, thread):
    env = {"LIBRARY": library, "THREAD": thread}
    code, text = run_check(python, COMPAT_APPS, "patched:wsgi", "--threads", "3", env=env)
    assert code == 78
    assert "workers.threads = 3" in text
    assert f"{library} patches" in text
    assert "set workers.threads (--threads) to 1" in text


def test_patched_asgi_application_ignores_threads(python):
    require_module(python, "gevent")
    code, text = run_check(python, COMPAT_APPS, "patched:asgi", "--threads", "3", env={"LIBRARY": "gevent"})
    assert code == 0, text


def test_patched_application_on_uvloop_is_refused(python):
    require_module(python, "gevent")
    code, text = run_check(python, COMPAT_APPS, "patched:asgi", "--loop", "uvloop", env={"LIBRARY": "gevent"})
    assert code == 78
    assert "patched by gevent" in text
    assert "set app.loop to auto or asyncio" in text


def test_patched_application_is_refused_with_a_list(start, python, library):
    environment = {"LIBRARY": library, "RGUN_WORKERS_PRELOAD": "email,json"}
    server = start("patched:wsgi", COMPAT_APPS, ("--workers", "1"), environment)
    line = server.wait_for_log(f"workers.preload: {library} patches")
    assert "write preload = true or false" in line
    assert server.process.wait(20) == 78
    code, text = run_check(python, COMPAT_APPS, "patched:wsgi", env=environment)
    assert code == 78
    assert f"workers.preload: {library} patches" in text


def test_preload_works_with_gevent_and_refuses_eventlet(start, library):
    server = start("patched:wsgi", COMPAT_APPS, ("--workers", "2", "--preload"), {"LIBRARY": library})
    if library == "gevent":
        server.wait_for_log("worker 1 is ready")
        assert ask_at_once(server, 8) == [WORK] * 8
        assert server.stop() == 0
    else:
        line = server.wait_for_log("the zygote did not boot")
        assert "workers.preload" in line
        assert "set workers.preload to false" in line
        assert server.process.wait(20) == 78
