"""Tests of the peers' command lines and of the checks on their responses (pytest tests/bench)."""

import json
import os
import re
import signal
import time
import types

import environment
import load
import measurements
import process
import pytest
import servers
import workloads

TOOLS = servers.Tools(
    bin="/v/bin",
    rgun="/r/rgun",
    **dict.fromkeys(environment.PROGRAMS, ""),
    certificate="c",
    key="k",
    missing={},
)


def command(name, **task):
    """Returns the command line of a server for a task."""
    made = servers.SERVERS[name](servers.Task("m:app", "/d", 8000, **task), TOOLS)
    return made and " ".join(made)


def test_every_peer_has_a_pinned_version():
    pinned = environment.pinned()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pinned.values())
    programs = set(map(environment.program_of, pinned))
    own = {"rgun", "limit", "nginx"}
    assert set(servers.NEEDS.values()) - own <= programs
    needed = {tool for workload in workloads.WORKLOADS.values() for tool in workload.needs}
    assert needed <= programs | set(environment.PROGRAMS)


def test_every_workload_is_supported_by_its_servers():
    # The tasks of closed loops; the other measurements use the same ones.
    for name in workloads.ASGI:
        assert command(name, interface="asgi"), name
    for name in workloads.TRANSFER_SERVERS:
        assert command(name), name
    for name in workloads.STREAMING:
        assert command(name, interface="asgi", websockets=64), name
    assert command("fastpysgi", interface="asgi", websockets=64) is None
    assert command("bjoern", interface="asgi") is None
    assert command("uvicorn") is None


def test_keep_alive_has_the_unit_of_the_server():
    assert "--keep-alive 75000 " in command("peregrine", idle=True)
    assert "--keep-alive 75 " in command("weft", idle=True)
    assert "--keep-alive 75" in command("gunicorn-gthread", idle=True)
    assert "--keep-alive" not in command("peregrine") + command("weft") + command("gunicorn-gthread")


def test_limits_of_connections_are_above_what_clients_open():
    for name, flag in (
        ("granian", "--backpressure"),
        ("peregrine", "--max-connections"),
        ("weft", "--max-connections"),
        ("gunicorn-gthread", "--worker-connections"),
    ):
        limit = re.search(rf"{flag} (\d+)", command(name, connections=4096))
        assert int(limit[1]) > 4096, name


def test_weft_runs_django_in_a_thread_without_event_loop():
    assert "--wsgi-threads 1" in command("weft", database=True)
    assert "--wsgi-threads" not in command("weft") + command("weft", interface="asgi", database=True)


def test_no_server_writes_an_access_log():
    assert "--no-access-log" in command("h2corn", interface="asgi")
    assert "--no-access-log" in command("uvicorn", interface="asgi")


def test_interpreter_of_peers_is_missed_loudly(monkeypatch, capsys):
    monkeypatch.setattr(environment, "interpreters", lambda: [("3.13", "/opt/python3.13")])
    assert environment.find_python() == "/opt/python3.13"
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(environment, "interpreters", lambda: [("3.11", "/opt/python3.11")])
    assert environment.find_python() != "/opt/python3.11"
    assert "SKIPPED CPython 3.13: not on this machine" in capsys.readouterr().err


def test_build_is_named_without_its_path(tmp_path):
    for name, build in (("optimized", "optimized"), ("fast", "fast"), ("bin", "unknown")):
        assert environment.build_of(tmp_path / name / "rgun") == build


def test_cpu_time_is_finer_than_a_tick():
    # Ten measurements of less than a tick each would be 0 or a tick in /proc.
    steps = set()
    for _ in range(10):
        before = process.cpu_seconds(os.getpid())
        end = time.process_time() + 0.001
        while time.process_time() < end:
            pass
        steps.add(process.cpu_seconds(os.getpid()) - before)
    assert all(0.001 <= step < 0.5 / process.TICK for step in steps)


def test_stolen_time_is_a_share_of_a_core(monkeypatch):
    values = iter([(10.0, 1.0), (14.0, 1.5)])
    monkeypatch.setattr(process, "core_seconds", lambda: next(values))
    server = types.SimpleNamespace(cpu_seconds=lambda: 0.0)
    times = iter([100.0, 102.0])
    monkeypatch.setattr(process.time, "perf_counter", lambda: next(times))
    with process.Measurement(server) as measured:
        pass
    assert measured.stolen == 0.25
    assert measured.foreign == pytest.approx(2, abs=0.1)


def test_echo_with_other_bytes_is_an_error():
    def post(path, body):
        return 200, body[:-1] + b"?"

    with pytest.raises(process.BenchError, match="/echo answered 200 with 65536 other bytes"):
        measurements.expect_echo(types.SimpleNamespace(post=post))
    measurements.expect_echo(types.SimpleNamespace(post=lambda path, body: (200, body)))


@pytest.fixture
def fake_wrk(tmp_path, monkeypatch):
    """A function that puts a program named wrk on PATH; it runs `script` with the counts it shall print."""
    zero = dict.fromkeys(("connect", "read", "write", "status", "timeout"), 0)

    def make(script, **counts):
        printed = "JSON " + json.dumps(
            {"requests": 10, "duration_us": 1_000_000, "bytes": 0, **zero, **counts}
        )
        program = tmp_path / "wrk"
        program.write_text(f"#!/bin/sh\nprint() {{ echo '{printed}'; exit 0; }}\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return make


def test_load_of_a_fraction_of_a_second_is_ended(fake_wrk):
    fake_wrk("trap 'kill $!; print' INT\nsleep 20 >/dev/null 2>&1 &\nwait", requests=0)
    # A shell cannot trap a signal that was ignored when it started, as in a background job.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    begin = time.monotonic()
    try:
        assert load.wrk("http://127.0.0.1:1/", 1, 0.3)["requests"] == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert 0.3 <= time.monotonic() - begin < 10


def test_load_without_an_answer_is_an_error(fake_wrk):
    fake_wrk("print", requests=0)
    with pytest.raises(process.BenchError, match="no request was answered"):
        load.wrk("http://127.0.0.1:1/", 1, 1)


def test_short_echoes_under_load_are_an_error(fake_wrk):
    fake_wrk("print", bytes=999)
    with pytest.raises(process.BenchError, match="10 responses had 999 bytes, too few for echoes of 100"):
        load.wrk("http://127.0.0.1:1/echo", 1, 1, post=100)
    fake_wrk("print", bytes=1500)
    assert load.wrk("http://127.0.0.1:1/echo", 1, 1, post=100)["rate"] == 10
