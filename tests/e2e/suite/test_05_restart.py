"""READY=1 is sent when the service can serve. A restart under load loses no request and no connection."""

import contextlib
import json
import os
import signal
import time

import host
import pytest
from support.http_client import Connection
from support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("probe")


def test_start_returns_when_the_application_answers(probe_app):
    host.configure("probe", probe_app, env={"PROBE_BOOT_SECONDS": "1.5"})
    host.systemctl("stop", host.SERVICE)
    try:
        began = time.monotonic()
        host.systemctl("--no-block", "start", host.SERVICE)
        wait_until("the service is starting", lambda: host.show("ActiveState") == "activating")
        wait_until("the service is active", lambda: host.show("ActiveState") == "active")
        started = time.monotonic() - began
        assert started >= 1.5, f"READY=1 after {started:.2f} s, before the application was imported"
        began = time.monotonic()
        assert host.get("/").status == 200
        answered = time.monotonic() - began
        assert answered < 1, f"READY=1, but the first answer took {answered:.2f} s"
    finally:
        host.configure("probe", probe_app)
        host.restart()


def test_client_during_the_boot_is_answered(probe_app):
    host.configure("probe", probe_app, env={"PROBE_BOOT_SECONDS": "1.5"})
    host.systemctl("stop", host.SERVICE)
    try:
        assert host.get("/").status == 200
    finally:
        host.configure("probe", probe_app)
        host.restart()


@pytest.mark.parametrize(("path", "clients"), [("/", 6), ("/slow/0.02", 30)], ids=["quick", "queued"])
def test_restarts_under_load_lose_no_request(path, clients):
    with host.load(path, clients) as load:
        for _ in range(3):
            before = host.main_pid()
            host.systemctl("reset-failed", host.SERVICE, check=False)
            host.systemctl("restart", host.SERVICE)
            assert host.main_pid() != before
            load.wait_for_more(200)
    print(load)
    assert not load.faults, load
    assert len(load.daemons) == 4, (
        f"answered by {len(load.daemons)} processes of the daemon, not by 4: {load}"
    )
    assert not load.retried, f"a kept connection was closed: {load}"


def test_running_request_is_finished_across_a_restart():
    before = host.main_pid()
    running, _ = host.start_slow_request(2)
    host.systemctl("restart", host.SERVICE)
    answer = running.result()
    assert answer.status == 200
    assert answer["x-probe-daemon"] == str(before), "answered, but not by the daemon that had received it"
    assert host.main_pid() != before


def test_idle_connection_is_served_after_a_restart():
    connection = Connection(host.ADDRESS)
    assert connection.request("GET", "/").complete
    before = host.main_pid()
    began = time.monotonic()
    host.systemctl("restart", host.SERVICE)
    took = time.monotonic() - began
    answer = connection.request("GET", "/")
    connection.close()
    assert (answer.status, answer.all("connection")) == (200, [])
    assert host.main_pid() != before
    assert took < 5, f"the restart took {took:.1f} s for an idle connection"
    wait_until("the store is empty", lambda: host.show("NFileDescriptorStore") == "0")


@pytest.fixture
def waiting(probe_app):
    """Ten connections whose requests wait, because both workers are busy for longer than the drain takes."""
    host.configure("probe", probe_app, extra='[timeouts]\ndrain = "3s"\n')
    host.restart()
    for _ in range(2):
        host.start_slow_request(25)
    connections = [Connection(host.ADDRESS) for _ in range(10)]
    body = bytes(range(256)) * 1024
    upload = f"POST /slow/0.1 HTTP/1.1\r\nHost: test\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    for number, connection in enumerate(connections):
        connection.send(upload if number % 2 else b"GET /slow/0.1 HTTP/1.1\r\nHost: test\r\n\r\n")
    wait_until(
        "all wait",
        lambda: json.loads(host.run("rgun", "status", "--json").stdout)["queued"] == len(connections),
    )
    yield connections
    for connection in connections:
        connection.close()
    host.configure("probe", probe_app)
    host.restart()


def test_waiting_requests_are_answered_by_the_next_daemon(waiting):
    before = str(host.main_pid())
    host.systemctl("restart", host.SERVICE)
    now = str(host.main_pid())
    assert now != before
    for connection in waiting:
        answer = connection.response()
        assert (answer.status, answer["x-probe-daemon"], answer.all("connection")) == (200, now, [])
        assert connection.request("GET", "/").status == 200, "the connection stays open"


def test_daemon_that_is_terminated_hands_waiting_requests_over(waiting):
    """systemd starts the service again, because nobody has stopped it."""
    os.kill(host.main_pid(), signal.SIGTERM)
    for connection in waiting:
        assert connection.response().status == 200


def test_waiting_requests_are_answered_if_no_daemon_follows(waiting):
    with host.CONFIG.open("a") as config:
        config.write("[nonsense]\n")
    assert host.systemctl("restart", host.SERVICE, check=False).returncode != 0
    for connection in waiting:
        assert connection.response().status == 503


def test_restart_that_becomes_a_stop_answers_waiting_requests(waiting):
    host.systemctl("--no-block", "restart", host.SERVICE)
    wait_until("the service stops", lambda: host.show("ActiveState") == "deactivating")
    host.systemctl("stop", host.SERVICE)
    for connection in waiting:
        assert connection.response().status == 503


def test_waiting_requests_are_answered_when_the_service_stops(waiting):
    host.systemctl("stop", host.SERVICE)
    try:
        for connection in waiting:
            assert connection.response().status == 503
    finally:
        host.systemctl("start", host.SERVICE)


def test_full_store_of_connections_survives_a_restart():
    capacity = int(host.show("FileDescriptorStoreMax")) - 1
    connections = [Connection(host.ADDRESS) for _ in range(capacity + 20)]
    for connection in connections:
        connection.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        assert connection.response().complete
    host.systemctl("restart", host.SERVICE)
    kept = 0
    for connection in connections:
        with contextlib.suppress(OSError):
            kept += connection.request("GET", "/").status == 200
        connection.close()
    assert kept == capacity


def test_stop_closes_the_connections():
    connection = Connection(host.ADDRESS)
    assert connection.request("GET", "/").complete
    host.systemctl("stop", host.SERVICE)
    try:
        assert connection.socket.recv(1) == b"", "systemd frees the store of a stopped service"
    finally:
        connection.close()
        host.systemctl("start", host.SERVICE)


def test_killed_daemon_refuses_no_connection():
    before = host.main_pid()
    with host.load() as load:
        os.kill(before, signal.SIGKILL)
        wait_until("a new daemon", lambda: host.main_pid() not in (0, before), 20)
        assert host.get("/").status == 200
    # The open connections of the killed process are reset by the kernel.
    assert not [fault for fault in load.faults if "Refused" in fault], load.faults
