"""Signals to workers, and the signal handling of their subprocesses."""

import os
import resource
import signal
import subprocess
import threading

import pytest
from support.paths import COMPAT_APPS
from support.processes import children, exists
from support.waiting import wait_until

KINDS = {
    "wsgi": ("signalled:wsgi", ("--workers", "1")),
    "wsgi with threads": ("signalled:wsgi", ("--workers", "1", "--threads", "3")),
    "asgi": ("signalled:asgi", ("--workers", "1")),
    "asgi on asyncio": ("signalled:asgi", ("--workers", "1", "--env", "UNUSED=1")),
    "preloaded wsgi": ("signalled:wsgi", ("--workers", "1", "--preload")),
    "preloaded asgi": ("signalled:asgi", ("--workers", "1", "--preload")),
}
EXIT_SIGNALS = (signal.SIGTERM, signal.SIGINT)
DAEMON_SIGNALS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)


def start_kind(start, kind):
    """Starts a daemon with a worker of this kind."""
    target, flags = KINDS[kind]
    env = {"RGUN_APP_LOOP": "asyncio"} if "asyncio" in kind else {}
    server = start(target, COMPAT_APPS, flags, env)
    server.wait_for_log("worker 0 is ready")
    return server


@pytest.fixture(params=KINDS)
def server(request, start):
    """A worker of each kind."""
    return start_kind(start, request.param)


@pytest.fixture(scope="module", params=KINDS)
def shared_server(request, start_shared):
    """A worker of each kind, for tests that end no process."""
    return start_kind(start_shared, request.param)


class Waiting:
    """A running request, which is answered once its gate (a file) exists."""

    def __init__(self, server, gate, path="wait"):
        self.gate = gate
        self.answers = []
        self.thread = threading.Thread(target=self.ask, args=(server, path))
        self.thread.start()
        begun = gate.with_name(gate.name + ".begun")
        wait_until("the request runs", lambda: begun.exists() and begun.read_text())
        self.pid = int(begun.read_text())

    def ask(self, server, path):
        response = server.get(f"/{path}?gate={self.gate}")
        self.answers.append((response.status, response.body, response.complete))

    def answer(self):
        self.gate.touch()
        self.thread.join(20)
        (answer,) = self.answers
        return answer


@pytest.mark.parametrize("number", EXIT_SIGNALS)
@pytest.mark.parametrize("path", ["wait", "sleep"])
def test_signalled_worker_finishes_requests_and_is_replaced(server, tmp_path, number, path):
    running = Waiting(server, tmp_path / "gate", path)
    os.kill(running.pid, number)
    server.wait_for_log(f"received {number.name}")
    server.wait_for_log("worker 0 is ready", 2)
    assert running.answer() == (200, b'"waited"' if path == "wait" else b'"slept"', True)
    wait_until("the worker exits", lambda: not exists(running.pid))
    assert server.get("/who").json()["pid"] != running.pid
    assert "exited with status" not in server.log()
    assert "was killed" not in server.log()


@pytest.mark.parametrize("number", EXIT_SIGNALS)
def test_view_that_signals_its_own_process_is_answered(server, number):
    pid = server.get(f"/kill?number={number:d}").json()
    wait_until("the worker exits", lambda: not exists(pid))
    assert server.get("/who").json()["pid"] != pid


def test_sigterm_to_all_processes_loses_no_request(server, tmp_path):
    running = Waiting(server, tmp_path / "gate")
    for pid in (*children(server.process.pid), server.process.pid):
        os.kill(pid, signal.SIGTERM)
    server.wait_for_log("stopping: finishing running requests")
    assert running.answer() == (200, b'"waited"', True)
    assert server.stop() == 0


def test_sigterm_to_workers_first_answers_queued_requests(start, tmp_path):
    server = start("signalled:wsgi", COMPAT_APPS, ("--workers", "1")).wait_ready()
    # These connections are accepted already; in the foreground the listener closes with the daemon.
    connections = [server.connect() for _ in range(3)]
    assert [connection.request("GET", "/who").status for connection in connections] == [200] * 3
    running = Waiting(server, tmp_path / "gate")
    waiting = []

    def ask(connection):
        waiting.append(connection.request("GET", "/who").status)

    threads = [threading.Thread(target=ask, args=[connection]) for connection in connections]
    for thread in threads:
        thread.start()
    os.kill(running.pid, signal.SIGTERM)
    server.wait_for_log("received SIGTERM")
    server.process.terminate()
    server.wait_for_log("stopping")
    assert running.answer()[0] == 200
    for thread in threads:
        thread.join(20)
    assert waiting == [200] * 3
    assert server.stop() == 0


@pytest.mark.parametrize("number", DAEMON_SIGNALS)
def test_daemon_signals_are_ignored_by_workers(shared_server, tmp_path, number):
    running = Waiting(shared_server, tmp_path / "gate")
    for pid in children(shared_server.process.pid):
        os.kill(pid, number)
    assert running.answer() == (200, b'"waited"', True)
    assert shared_server.get("/who").json()["pid"] == running.pid


def test_daemon_signals_are_ignored_while_python_starts(start, python, tmp_path):
    interpreter = tmp_path / "python"
    kills = "".join(f"kill -{number:d} $$\n" for number in DAEMON_SIGNALS)
    interpreter.write_text(f'#!/bin/sh\n{kills}exec {python} "$@"\n')
    interpreter.chmod(0o755)
    server = start(
        "signalled:wsgi", COMPAT_APPS, ("--workers", "1", "--python", str(interpreter))
    ).wait_ready()
    assert server.get("/programs").json()["subprocess"] == {"SigBlk": 0, "SigIgn": 0, "SigCgt": 0}
    assert "did not boot" not in server.log()


@pytest.mark.parametrize("target", ["signalled:wsgi", "signalled:asgi"])
def test_sigterm_to_the_zygote_replaces_only_the_zygote(start, target):
    server = start(target, COMPAT_APPS, ("--workers", "1", "--preload"))
    server.wait_for_log("worker 0 is ready")
    before = server.get("/who").json()
    os.kill(before["imported_by"], signal.SIGTERM)
    server.wait_for_log("the zygote received SIGTERM")
    server.wait_for_log("the zygote is ready", 2)
    wait_until("the zygote exits", lambda: not exists(before["imported_by"]))
    assert server.get("/who").json()["pid"] == before["pid"]
    os.kill(before["pid"], signal.SIGTERM)
    wait_until("another worker serves", lambda: server.get("/who").json()["pid"] != before["pid"])
    assert server.get("/who").json()["imported_by"] != before["imported_by"]


@pytest.mark.parametrize("number", EXIT_SIGNALS)
@pytest.mark.parametrize("preload", [(), ("--preload",)])
def test_signal_to_a_booting_worker_retries_the_boot(start, tmp_path, number, preload):
    gate = tmp_path / "boot"
    begun = tmp_path / "boot.begun"
    server = start("signalled:wsgi", COMPAT_APPS, ("--workers", "1", *preload), {"BOOT_GATE": str(gate)})
    wait_until("the worker boots", lambda: begun.exists() and begun.read_text())
    pid = int(begun.read_text())
    os.kill(pid, number)
    server.wait_for_log(f"was killed by {number.name} while booting")
    gate.touch()
    server.wait_for_log("worker 0 is ready")
    assert server.get("/who").json()["pid"] != pid


def test_sigterm_to_all_during_the_first_boot_exits_zero(start, tmp_path):
    begun = tmp_path / "boot.begun"
    server = start("signalled:wsgi", COMPAT_APPS, ("--workers", "1"), {"BOOT_GATE": str(tmp_path / "boot")})
    wait_until("the worker boots", lambda: begun.exists() and begun.read_text())
    for pid in (int(begun.read_text()), server.process.pid):
        os.kill(pid, signal.SIGTERM)
    assert server.process.wait(20) == 0


def test_application_may_override_the_sigterm_handler(start):
    server = start("signalled:wsgi", COMPAT_APPS, ("--workers", "1"), {"HANDLER": "own"}).wait_ready()
    pid = server.get("/who").json()["pid"]
    os.kill(pid, signal.SIGTERM)
    wait_until("the handler has run", lambda: server.get("/who").json()["handled"] == [signal.SIGTERM])
    assert server.get("/who").json()["pid"] == pid
    assert "received SIGTERM" not in server.log()


def test_application_may_chain_the_sigterm_handler(start):
    server = start("signalled:wsgi", COMPAT_APPS, ("--workers", "1"), {"HANDLER": "chained"}).wait_ready()
    pid = server.get("/who").json()["pid"]
    os.kill(pid, signal.SIGTERM)
    server.wait_for_log("received SIGTERM")
    wait_until("the worker exits", lambda: not exists(pid))
    assert server.get("/who").json()["pid"] != pid


def test_asyncio_run_keeps_the_sigint_handler(start):
    server = start("signalled:wsgi", COMPAT_APPS, ("--workers", "1")).wait_ready()
    # asyncio.run() replaces Python's handler of SIGINT and restores it.
    assert server.get("/asyncio").json() is False
    assert server.get("/handlers").json() == [True] * 5
    pid = server.get(f"/kill?number={signal.SIGINT:d}").json()
    wait_until("the worker exits", lambda: not exists(pid))


def test_subprocesses_have_no_signal_ignored_or_blocked(shared_server):
    programs = shared_server.get("/programs").json()
    assert programs["subprocess"] == {"SigBlk": 0, "SigIgn": 0, "SigCgt": 0}
    # Python ignores these two; only the module subprocess restores them.
    ignored_by_python = sum(1 << (number - 1) for number in (signal.SIGPIPE, signal.SIGXFSZ))
    assert programs["fork and exec"] == {"SigBlk": 0, "SigIgn": ignored_by_python, "SigCgt": 0}


def test_subprocesses_are_interrupted_by_sigint(shared_server):
    result = shared_server.get("/interrupt").json()
    assert result == {"statuses": [-signal.SIGINT, -signal.SIGINT], "KeyboardInterrupt": True}


def test_forked_children_have_default_signal_handling(shared_server):
    assert shared_server.get("/forked").json() == {
        "SIGINT": 100 + signal.SIGINT,
        "SIGTERM": -signal.SIGTERM,
        "SIGHUP": -signal.SIGHUP,
        "SIGUSR1": -signal.SIGUSR1,
    }
    assert "received SIG" not in shared_server.log()


@pytest.fixture
def odd_start(monkeypatch):
    """Starts daemons with signals ignored or blocked, as by nohup, and a low limit on open files."""

    def popen(arguments, **more):
        def prepare():
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGPIPE):
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH, signal.SIGALRM, signal.SIGURG})
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (333, hard))

        return real(arguments, **more, preexec_fn=prepare)

    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", popen)


@pytest.mark.parametrize("kind", ["wsgi", "preloaded asgi"])
def test_subprocesses_do_not_inherit_the_daemons_signal_mask(start, odd_start, kind):
    target, flags = KINDS[kind]
    server = start(target, COMPAT_APPS, flags)
    server.wait_for_log("worker 0 is ready")
    programs = server.get("/programs").json()
    assert programs["subprocess"] == {"SigBlk": 0, "SigIgn": 0, "SigCgt": 0}


@pytest.mark.parametrize("kind", ["wsgi", "preloaded asgi"])
def test_workers_keep_the_soft_limit_of_open_files(start, odd_start, kind):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target, flags = KINDS[kind]
    server = start(target, COMPAT_APPS, flags)
    server.wait_for_log("worker 0 is ready")
    assert server.get("/files").json() == [333, hard]
    assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)
