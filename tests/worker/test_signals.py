"""Signals that reach a worker, and what its children have of them."""

import os
import resource
import signal
import subprocess
import threading

import pytest
from conftest import APPS, eventually

KINDS = {
    "wsgi": ("signalled:wsgi", ("--workers", "1")),
    "wsgi with threads": ("signalled:wsgi", ("--workers", "1", "--threads", "3")),
    "asgi": ("signalled:asgi", ("--workers", "1")),
    "asgi on asyncio": ("signalled:asgi", ("--workers", "1", "--env", "UNUSED=1")),
    "preloaded wsgi": ("signalled:wsgi", ("--workers", "1", "--preload")),
    "preloaded asgi": ("signalled:asgi", ("--workers", "1", "--preload")),
}
LEAVE = (signal.SIGTERM, signal.SIGINT)
ORDERS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTTIN, signal.SIGTTOU)


@pytest.fixture(params=KINDS)
def server(request, start):
    """A worker of each kind."""
    target, flags = KINDS[request.param]
    env = {"RGUN_APP_LOOP": "asyncio"} if "asyncio" in request.param else {}
    server = start(target, APPS, flags, env)
    server.wait_for("worker 0 is ready")
    return server


class Waiting:
    """A request that runs until its gate is opened."""

    def __init__(self, server, gate, path="wait"):
        self.gate = gate
        self.answers = []
        self.thread = threading.Thread(target=self.ask, args=(server, path))
        self.thread.start()
        begun = gate.with_name(gate.name + ".begun")
        eventually(lambda: begun.exists() and begun.read_text(), "the request runs")
        self.pid = int(begun.read_text())

    def ask(self, server, path):
        response = server.get(f"/{path}?gate={self.gate}")
        self.answers.append((response.status, response.body, response.complete))

    def answer(self):
        self.gate.touch()
        self.thread.join(20)
        (answer,) = self.answers
        return answer


def relatives(server):
    """The daemon's children."""
    path = f"/proc/{server.process.pid}/task/{server.process.pid}/children"
    with open(path, encoding="ascii") as file:
        return [int(pid) for pid in file.read().split()]


def is_gone(pid):
    return not os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize("number", LEAVE)
@pytest.mark.parametrize("path", ["wait", "sleep"])
def test_sigterm_to_a_worker_finishes_requests_then_replaces(server, tmp_path, number, path):
    running = Waiting(server, tmp_path / "gate", path)
    os.kill(running.pid, number)
    server.wait_for(f"was asked by {number.name} to leave")
    server.wait_for("worker 0 is ready", 2)
    assert running.answer() == (200, b'"waited"' if path == "wait" else b'"slept"', True)
    eventually(lambda: is_gone(running.pid), "the worker leaves")
    assert server.get("/who").json()["pid"] != running.pid
    assert "exited with status" not in server.log()
    assert "was killed" not in server.log()


@pytest.mark.parametrize("number", LEAVE)
def test_view_that_signals_its_own_process_is_answered(server, number):
    pid = server.get(f"/kill?number={number:d}").json()
    eventually(lambda: is_gone(pid), "the worker leaves")
    assert server.get("/who").json()["pid"] != pid


def test_sigterm_to_all_processes_loses_no_request(server, tmp_path):
    running = Waiting(server, tmp_path / "gate")
    for pid in (*relatives(server), server.process.pid):
        os.kill(pid, signal.SIGTERM)
    server.wait_for("stopping: finishing the requests under way")
    assert running.answer() == (200, b'"waited"', True)
    assert server.stop() == 0


def test_sigterm_to_workers_first_answers_queued_requests(start, tmp_path):
    server = start("signalled:wsgi", APPS, ("--workers", "1")).ready()
    # Connections that are accepted already: in the foreground the listener ends with the daemon.
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
    server.wait_for("was asked by SIGTERM to leave")
    server.process.terminate()
    server.wait_for("stopping")
    assert running.answer()[0] == 200
    for thread in threads:
        thread.join(20)
    assert waiting == [200] * 3
    assert server.stop() == 0


@pytest.mark.parametrize("number", ORDERS)
def test_daemon_signals_are_ignored_by_workers(server, tmp_path, number):
    running = Waiting(server, tmp_path / "gate")
    for pid in relatives(server):
        os.kill(pid, number)
    assert running.answer() == (200, b'"waited"', True)
    assert server.get("/who").json()["pid"] == running.pid


def test_daemon_signals_are_ignored_while_python_starts(start, python, tmp_path):
    interpreter = tmp_path / "python"
    orders = "".join(f"kill -{number:d} $$\n" for number in ORDERS)
    interpreter.write_text(f'#!/bin/sh\n{orders}exec {python} "$@"\n')
    interpreter.chmod(0o755)
    server = start("signalled:wsgi", APPS, ("--workers", "1", "--python", str(interpreter))).ready()
    assert server.get("/programs").json()["subprocess"] == {"SigBlk": 0, "SigIgn": 0, "SigCgt": 0}
    assert "did not boot" not in server.log()


@pytest.mark.parametrize("target", ["signalled:wsgi", "signalled:asgi"])
def test_sigterm_to_the_zygote_replaces_it_alone(start, target):
    server = start(target, APPS, ("--workers", "1", "--preload"))
    server.wait_for("worker 0 is ready")
    before = server.get("/who").json()
    os.kill(before["imported_by"], signal.SIGTERM)
    server.wait_for("the zygote was asked by SIGTERM to leave")
    server.wait_for("the zygote is ready", 2)
    eventually(lambda: is_gone(before["imported_by"]), "the zygote leaves")
    assert server.get("/who").json()["pid"] == before["pid"]
    os.kill(before["pid"], signal.SIGTERM)
    eventually(lambda: server.get("/who").json()["pid"] != before["pid"], "another one serves")
    assert server.get("/who").json()["imported_by"] != before["imported_by"]


@pytest.mark.parametrize("number", LEAVE)
@pytest.mark.parametrize("preload", [(), ("--preload",)])
def test_signal_to_a_booting_worker_ends_it_and_retries(start, tmp_path, number, preload):
    gate = tmp_path / "boot"
    begun = tmp_path / "boot.begun"
    server = start("signalled:wsgi", APPS, ("--workers", "1", *preload), {"BOOT_GATE": str(gate)})
    eventually(lambda: begun.exists() and begun.read_text(), "it boots")
    pid = int(begun.read_text())
    os.kill(pid, number)
    server.wait_for(f"was killed by {number.name} while booting")
    gate.touch()
    server.wait_for("worker 0 is ready")
    assert server.get("/who").json()["pid"] != pid


def test_sigterm_to_all_during_the_first_boot_exits_zero(start, tmp_path):
    begun = tmp_path / "boot.begun"
    server = start("signalled:wsgi", APPS, ("--workers", "1"), {"BOOT_GATE": str(tmp_path / "boot")})
    eventually(lambda: begun.exists() and begun.read_text(), "it boots")
    for pid in (int(begun.read_text()), server.process.pid):
        os.kill(pid, signal.SIGTERM)
    assert server.process.wait(20) == 0


def test_application_handler_replaces_the_servers(start):
    server = start("signalled:wsgi", APPS, ("--workers", "1"), {"HANDLER": "own"}).ready()
    pid = server.get("/who").json()["pid"]
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: server.get("/who").json()["handled"] == [signal.SIGTERM], "it has run")
    assert server.get("/who").json()["pid"] == pid
    assert "asked by SIGTERM" not in server.log()


def test_application_handler_may_call_the_servers(start):
    server = start("signalled:wsgi", APPS, ("--workers", "1"), {"HANDLER": "chained"}).ready()
    pid = server.get("/who").json()["pid"]
    os.kill(pid, signal.SIGTERM)
    server.wait_for("was asked by SIGTERM to leave")
    eventually(lambda: is_gone(pid), "the worker leaves")
    assert server.get("/who").json()["pid"] != pid


def test_restoring_sigint_does_not_make_it_fatal(start):
    server = start("signalled:wsgi", APPS, ("--workers", "1")).ready()
    # asyncio.run() takes SIGINT over if it is Python's own, and gives it back.
    assert server.get("/asyncio").json() is False
    assert server.get("/handlers").json() == [True] * 5
    pid = server.get(f"/kill?number={signal.SIGINT:d}").json()
    eventually(lambda: is_gone(pid), "the worker leaves")


def test_subprocesses_have_no_signal_ignored_or_blocked(server):
    programs = server.get("/programs").json()
    assert programs["subprocess"] == {"SigBlk": 0, "SigIgn": 0, "SigCgt": 0}
    # Python itself ignores these two, and only subprocess takes that back.
    pythons = sum(1 << (number - 1) for number in (signal.SIGPIPE, signal.SIGXFSZ))
    assert programs["fork and exec"] == {"SigBlk": 0, "SigIgn": pythons, "SigCgt": 0}


def test_subprocesses_are_interrupted_by_sigint(server):
    told = server.get("/interrupt").json()
    assert told == {"statuses": [-signal.SIGINT, -signal.SIGINT], "KeyboardInterrupt": True}


def test_forked_children_have_default_signal_handling(server):
    assert server.get("/forked").json() == {
        "SIGINT": 100 + signal.SIGINT,
        "SIGTERM": -signal.SIGTERM,
        "SIGHUP": -signal.SIGHUP,
        "SIGUSR1": -signal.SIGUSR1,
    }
    assert "asked by" not in server.log()


@pytest.fixture
def odd_start(monkeypatch):
    """The daemon is started with signals ignored and blocked, as by nohup, and with few files."""

    def popen(arguments, **more):
        def odd():
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGPIPE):
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH, signal.SIGALRM, signal.SIGURG})
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (333, hard))

        return real(arguments, **more, preexec_fn=odd)

    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", popen)


@pytest.mark.parametrize("kind", ["wsgi", "preloaded asgi"])
def test_subprocesses_do_not_inherit_the_daemons_signal_mask(start, odd_start, kind):
    target, flags = KINDS[kind]
    server = start(target, APPS, flags)
    server.wait_for("worker 0 is ready")
    programs = server.get("/programs").json()
    assert programs["subprocess"] == {"SigBlk": 0, "SigIgn": 0, "SigCgt": 0}


@pytest.mark.parametrize("kind", ["wsgi", "preloaded asgi"])
def test_workers_keep_the_soft_limit_of_open_files(start, odd_start, kind):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target, flags = KINDS[kind]
    server = start(target, APPS, flags)
    server.wait_for("worker 0 is ready")
    assert server.get("/files").json() == [333, hard]
    assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE) == (hard, hard)


def test_sigint_before_the_extension_loads_kills_silently(python, tmp_path):
    """The bootstrap's own end: the interpreter has Python's SIGINT until then."""
    from test_boot import BOOTSTRAP

    extension = tmp_path / "slow.py"
    extension.write_text("")
    code = (
        "import os, signal, importlib.machinery\n"
        "class Slow(importlib.machinery.ExtensionFileLoader):\n"
        "    def create_module(self, spec):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        while True:\n"
        "            pass\n"
        "importlib.machinery.ExtensionFileLoader = Slow\n"
        f"exec(open({str(BOOTSTRAP)!r}).read())\n"
    )
    reading, writing = os.pipe()

    def become_a_worker():
        os.dup2(writing, 3)
        # Whoever runs the tests may ignore it, as a shell does for what runs in the background.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    process = subprocess.Popen(
        [str(python), "-c", code, str(extension)], preexec_fn=become_a_worker, close_fds=False
    )
    os.close(writing)
    try:
        assert process.wait(20) == -signal.SIGINT
    finally:
        process.kill()
    assert os.read(reading, 100) == b""
    os.close(reading)
