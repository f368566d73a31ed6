"""Gunicorn's server hooks: when they are called, their arguments, and the effects of failures."""

import os

import pytest
from support.fake_daemon import ALL_HOOKS, encode_child_exited
from support.paths import WORKER_APPS
from support.waiting import wait_until


def test_hooks_are_called_in_order_with_gunicorns_arguments(fake, hook_events):
    worker = fake.spawn(
        "watched", WORKER_APPS, hooks=ALL_HOOKS, threads=2, number=3, incarnation=9
    ).wait_ready()
    assert worker.get("/who")[0] == 200
    assert worker.stop() == 0
    first, second, third = hook_events()
    same = {
        "in": worker.pid,
        "pid": worker.pid,
        "age": 9,
        "number": 3,
        "ppid": os.getpid(),
        "same": "kept",
        "main": True,
        "blocked": "0" * 16,
    }
    of_server = {"server": os.getpid(), "threads": 2}
    assert first == {"hook": "post_fork", "app": False, **same, **of_server}
    assert second == {"hook": "post_worker_init", "app": True, **same}
    assert third == {"hook": "worker_exit", "app": True, **same, **of_server}


def test_hook_loggers_write_to_the_log(fake, hook_events):
    worker = fake.spawn("watched", WORKER_APPS, hooks=ALL_HOOKS).wait_ready()
    worker.stop()
    assert f"[{worker.pid}] [INFO] hello from post_fork of {worker.pid}" in fake.output()
    assert f"[WARNING] <rgun worker 0 (pid {worker.pid})> can serve" in fake.output()


def test_hook_logger_works_after_disable_existing_loggers(fake, hook_events, project):
    directory = project(
        configured="""
            import logging.config

            logging.config.dictConfig({"version": 1, "disable_existing_loggers": True})

            def application(environ, start_response):
                pass
        """
    )
    fake.spawn("configured", directory, hooks=ALL_HOOKS, path=[str(WORKER_APPS)]).wait_ready()
    assert "can serve" in fake.output()


@pytest.mark.parametrize("name", ["post_fork", "post_worker_init"])
@pytest.mark.parametrize(
    ("target", "code", "words"),
    [
        ("nothere:hook", 78, ["there is no module nothere", "app.directory"]),
        ("hooked:nothere", 78, ["has no attribute nothere", "(module:function)"]),
        ("hooked:number", 78, ["hooked:number is an object of type int, which cannot be called"]),
        ("broken:hook", 1, ["importing broken raised ZeroDivisionError", "1 / 0"]),
        ("hooked:raises", 1, ["hooked:raises raised LookupError: no such hook point", "in raises"]),
        ("hooked:exits", 1, ["hooked:exits raised SystemExit: no licence"]),
    ],
)
def test_failing_boot_hook_fails_the_boot(fake, project, name, target, code, words):
    directory = project(broken="1 / 0")
    worker = fake.spawn("watched", WORKER_APPS, hooks={name: target}, path=[str(directory)])
    _, kind, summary, trace, headline = worker.next_report("failed")
    assert summary.startswith(f"hooks.{name}: "), summary
    for word in words:
        assert word in summary + trace
    assert (trace == "") == (code == 78)
    assert "<rgun>" not in trace
    assert headline.startswith(f"hooks.{name}: ")
    assert "no such hook point" not in headline
    assert "no licence" not in headline
    assert (kind, worker.wait()) == ({78: 0, 1: 1}[code], code)


@pytest.mark.parametrize("name", ["worker_exit", "child_exit"])
@pytest.mark.parametrize("target", ["nothere:hook", "hooked:nothere", "hooked:number"])
def test_missing_exit_hook_is_a_warning_at_boot(fake, name, target):
    worker = fake.spawn("watched", WORKER_APPS, hooks={name: target}).wait_ready()
    (warning,) = worker.warnings()
    assert warning.startswith(f"hooks.{name}: ")
    worker.send(encode_child_exited(99, 1, 1))
    assert worker.stop() == 0
    with pytest.raises(AssertionError, match="ended before"):
        worker.next_report("nothing")
    assert len(worker.warnings()) == 1


def test_exception_in_worker_exit_is_a_warning(fake):
    worker = fake.spawn("watched", WORKER_APPS, hooks={"worker_exit": "hooked:raises"}).wait_ready()
    assert worker.stop() == 0
    warning = worker.next_report("warning")[1]
    assert warning.startswith(
        "hooks.worker_exit: hooked:raises raised LookupError: no such hook point\nTraceback"
    )


def test_worker_exit_runs_when_a_signal_handler_exits(fake, hook_events, project):
    directory = project(
        exits="""
            import os
            import signal
            import sys

            signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))

            def application(environ, start_response):
                pass
        """
    )
    worker = fake.spawn("exits", directory, hooks=ALL_HOOKS, path=[str(WORKER_APPS)]).wait_ready()
    os.kill(worker.pid, 15)
    assert worker.wait() == 5
    assert [event["hook"] for event in hook_events()] == ["post_fork", "post_worker_init", "worker_exit"]


def test_child_exit_runs_in_another_worker_off_its_main_thread(fake, hook_events):
    worker = fake.spawn("watched", WORKER_APPS, hooks=ALL_HOOKS, number=1, incarnation=2).wait_ready()
    worker.send(encode_child_exited(4711, 7, 8))
    wait_until("child_exit is called", lambda: len(hook_events()) == 3)
    event = hook_events()[-1]
    assert event["hook"] == "child_exit"
    assert (event["pid"], event["number"], event["age"]) == (4711, 7, 8)
    assert event["in"] == worker.pid
    assert event["server"] == os.getpid()
    assert event["main"] is False
    assert event["blocked"] == "0" * 16
    # The worker still serves, and its exit does not wait for the thread.
    assert worker.get("/who")[0] == 200
    assert worker.stop() == 0


def test_exception_in_child_exit_does_not_stop_later_calls(fake):
    worker = fake.spawn("watched", WORKER_APPS, hooks={"child_exit": "hooked:raises"}).wait_ready()
    for pid in (4711, 4712):
        worker.send(encode_child_exited(pid, 0, 1))
        assert "LookupError" in worker.next_report("warning")[1]
    assert worker.get("/who")[0] == 200


def test_hook_support_is_loaded_only_with_hooks(fake, project):
    directory = project(
        plain="""
            import sys

            loaded = sorted(name for name in sys.modules if name.startswith(("logging", "rgun")))

            def application(environ, start_response):
                start_response("200 OK", [])
                return [repr(loaded).encode()]
        """
    )
    worker = fake.spawn("plain", directory).wait_ready()
    assert worker.get("/") == (200, b"['rgun_worker', 'rgun_worker.load']")
