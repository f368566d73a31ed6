"""Supervision: deadlines, slow requests, hooks, preload, refork."""

import os
import signal
import threading

import pytest
from support.paths import WORKER_APPS
from support.waiting import wait_until


def test_deadline_report_names_the_line_holding_the_gil(start):
    server = start("watched", WORKER_APPS, ("--workers", "1", "--timeout", "500ms")).wait_ready()
    pid = server.get("/who").json()["pid"]
    assert server.get("/hold_gil?seconds=30").status == 504
    # The daemon requests the stack by a signal, because the worker does not answer its message.
    server.wait_for_log("in hold_gil")
    server.wait_for_log('watched.py", line')
    server.wait_for_log("is ready", 2)
    assert server.get("/who").json()["pid"] != pid


def test_deadline_report_shows_all_threads(start):
    server = start(
        "watched", WORKER_APPS, ("--workers", "1", "--threads", "2", "--timeout", "1")
    ).wait_ready()
    answers = []
    first = threading.Thread(target=lambda: answers.append(server.get("/sleep?seconds=3").status))
    first.start()
    wait_until("the request runs", lambda: "/sleep" in server.get("/who").json()["seen"])
    first.join(20)
    assert answers == [504]
    server.wait_for_log("in do_sleep")


def test_slow_request_is_logged_once_and_answered(start):
    server = start("watched", WORKER_APPS, ("--workers", "1"), {"RGUN_LOG_SLOW": "200ms"}).wait_ready()
    assert server.get("/sleep?seconds=1").json() == "slept"
    server.wait_for_log("in do_sleep")
    assert server.log().count("in do_sleep") == 1
    pid = server.get("/who").json()["pid"]
    assert server.get("/who").json()["pid"] == pid


def test_configured_hooks_are_called(start, hook_events):
    settings = {
        "RGUN_HOOKS_POST_FORK": "hooked:post_fork",
        "RGUN_HOOKS_POST_WORKER_INIT": "hooked:Configuration.post_worker_init",
        "RGUN_HOOKS_WORKER_EXIT": "hooked:worker_exit",
        "RGUN_HOOKS_CHILD_EXIT": "hooked:child_exit",
    }
    server = start("watched", WORKER_APPS, ("--workers", "2"), settings)
    server.wait_for_log("is ready", 2)
    pid = server.get("/who").json()["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until("child_exit is called", lambda: any(event["hook"] == "child_exit" for event in hook_events()))
    (event,) = [event for event in hook_events() if event["hook"] == "child_exit"]
    assert event["pid"] == pid
    assert event["in"] != pid
    assert event["server"] == server.process.pid
    server.wait_for_log("is ready", 3)
    assert server.stop() == 0
    assert [event["hook"] for event in hook_events()].count("worker_exit") == 2


@pytest.fixture
def preloaded(start, project):
    """Two workers forked from a zygote that imported a copy of watched.py with a version."""
    # Written directly, because `project` dedents its sources.
    directory = project(site_version="version = 1")
    source = (WORKER_APPS / "watched.py").read_text(encoding="utf-8")
    more = "\n\nimport site_version\n\n\ndef do_version(environ):\n    return site_version.version\n"
    (directory / "shop.py").write_text(source + more, encoding="utf-8")
    server = start("shop", directory, ("--workers", "2", "--preload"))
    server.directory = directory
    server.wait_for_log("the zygote is ready")
    server.wait_for_log("worker 1 is ready")
    return server


def test_forked_workers_serve_and_are_replaced(preloaded):
    facts = preloaded.get("/who").json()
    assert facts["imported_by"] != facts["pid"]
    assert facts["parent"] == preloaded.process.pid
    os.kill(facts["pid"], signal.SIGKILL)
    preloaded.wait_for_log("is ready", 4)
    again = preloaded.get("/who").json()
    assert again["imported_by"] == facts["imported_by"]
    assert again["pid"] != facts["pid"]


def test_workers_survive_their_zygotes_death(preloaded):
    facts = preloaded.get("/who").json()
    os.kill(facts["imported_by"], signal.SIGKILL)
    preloaded.wait_for_log("the zygote is ready", 2)
    # The workers that the old zygote forked keep serving.
    assert preloaded.get("/who").json()["imported_by"] == facts["imported_by"]
    os.kill(facts["pid"], signal.SIGKILL)
    wait_until(
        "a worker of the new zygote serves",
        lambda: (
            preloaded.get("/who").json()["imported_by"] != facts["imported_by"]
            or os.kill(preloaded.get("/who").json()["pid"], signal.SIGKILL)
        ),
    )


def test_reload_imports_the_new_code(preloaded):
    assert preloaded.get("/version").json() == 1
    (preloaded.directory / "site_version.py").write_text("version = 2\n")
    preloaded.process.send_signal(signal.SIGHUP)
    wait_until("the new code serves", lambda: preloaded.get("/version").json() == 2)


def test_worker_at_the_refork_limit_becomes_the_zygote(start):
    server = start("watched", WORKER_APPS, ("--workers", "2", "--preload"), {"RGUN_WORKERS_REFORK": "20"})
    server.wait_for_log("worker 1 is ready")
    first = server.get("/who").json()

    def reforked():
        # The worker has inherited the records of its zygote.
        facts = server.get("/who").json()
        return facts["pid"] != first["pid"] and len(facts["forks"]) >= 4 and len(facts["seen"]) >= 10

    wait_until("a worker forked from a worker serves", reforked)
    assert server.stop() == 0
