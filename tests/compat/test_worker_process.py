"""The worker's process: threads, signals, forks, exit."""

import os
import signal
import threading

import pytest
from support.paths import COMPAT_APPS, HELLO
from support.processes import exists, wchan
from support.waiting import wait_until


def test_worker_without_threads_runs_requests_on_the_main_thread(server):
    facts = server.get("/who").json()
    assert facts["main_thread"] is True
    assert facts["thread"] == "MainThread"
    assert facts["threads"] == 1


def test_three_threads_run_three_requests_concurrently(threaded_probe):
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(threaded_probe.get("/meet").json())) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(answers) == ["MainThread", "rgun-1", "rgun-2"]


def test_thousand_requests_on_three_threads_are_answered_once(threaded_server, marker):
    failures = []

    def ask(number):
        with threaded_server.connect() as connection:
            for index in range(100):
                body = f"{marker} {number} {index}".encode() * (1 if index % 10 else 10_000)
                response = connection.request("POST", "/echo", body=body)
                if response.body != body:
                    failures.append((number, index, response))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []


def test_pipelined_requests_are_answered_in_order(server):
    with server.connect() as connection:
        connection.send(
            b"".join(b"GET /status/%d HTTP/1.1\r\nHost: h\r\n\r\n" % (200 + n) for n in range(0, 90, 3))
        )
        for number in range(0, 90, 3):
            status, headers = connection.head()
            assert status == 200 + number
            if status != 204:
                connection.read_exactly(int(dict(headers)["content-length"]))


def test_signal_handlers_run_while_the_worker_waits(start):
    server = start("probe", COMPAT_APPS).wait_ready()
    pid = server.get("/handle_signal").json()
    os.kill(pid, signal.SIGUSR1)
    # No request wakes the worker, so the handler has run while the worker waited.
    server.wait_for_log("signal handled")
    assert server.get("/events").json() == ["signal handled"]


def test_exception_in_a_signal_handler_is_logged_and_survived(start):
    server = start("probe", COMPAT_APPS).wait_ready()
    pid = server.get("/handle_signal_badly").json()
    os.kill(pid, signal.SIGUSR1)
    server.wait_for_log("ValueError: fault in the handler")
    assert server.get("/pid").json() == pid


@pytest.mark.parametrize("threads", ["1", "3"])
def test_exit_in_a_signal_handler_replaces_the_worker(start, threads):
    server = start("probe", COMPAT_APPS, ("--workers", "1", "--threads", threads)).wait_ready()
    pid = server.get("/pid").json()
    os.kill(pid, signal.SIGUSR2)
    server.wait_for_log("is ready", 2)
    assert server.get("/pid").json() != pid


@pytest.mark.parametrize("threads", ["1", "3"])
def test_atexit_handlers_run_when_the_daemon_stops(start, tmp_path, threads):
    server = start("probe", COMPAT_APPS, ("--workers", "1", "--threads", threads)).wait_ready()
    path = tmp_path / "left"
    server.get(f"/at_exit?path={path}")
    assert server.stop() == 0
    assert path.read_text() == "atexit ran"


def test_running_requests_are_finished_at_stop(start):
    server = start("cases", HELLO, ("--workers", "1", "--threads", "2")).wait_ready()
    with server.connect() as connection:
        connection.send(b"GET /iterate?n=3&delay=0.3 HTTP/1.1\r\nHost: h\r\n\r\n")
        assert connection.head()[0] == 200
        connection.chunk()
        server.process.terminate()
        body, complete = connection.chunks()
        assert complete
        assert body.count(b"chunk") == 2
    assert server.stop() == 0


def test_worker_exits_when_its_daemon_dies(start):
    server = start("probe", COMPAT_APPS).wait_ready()
    pid = server.get("/pid").json()
    server.process.kill()
    wait_until("the worker has exited", lambda: not exists(pid))


@pytest.mark.parametrize(("how", "code"), [("exit", 7), ("exit_text", 1), ("answer", 70)])
def test_forked_child_does_not_return_into_the_server(probe, how, code):
    pid = probe.get("/pid").json()
    with probe.connect() as connection:
        assert connection.request("GET", f"/fork_and_return?how={how}").json() == code
        assert connection.request("GET", "/pid").json() == pid
    if how == "answer":
        probe.wait_for_log("forked by the application returned into the server")
    if how == "exit_text":
        probe.wait_for_log("no licence in the child")


def test_subprocesses_inherit_no_descriptor_of_the_worker(probe):
    # The subprocess has 0, 1 and 2, and opens 3 to list the descriptors.
    assert probe.get("/subprocess_descriptors").body.strip() == b"[0, 1, 2, 3]"


def test_worker_holding_the_gil_exits_when_its_daemon_dies(start):
    server = start("probe", COMPAT_APPS).wait_ready()
    pid = server.get("/pid").json()
    with server.connect() as connection:
        connection.send(b"GET /hold_gil?ms=60000 HTTP/1.1\r\nHost: h\r\n\r\n")
        wait_until("the application sleeps", lambda: "nanosleep" in wchan(pid) or wchan(pid) == "")
        server.process.kill()
        wait_until("the worker has exited", lambda: not exists(pid))
