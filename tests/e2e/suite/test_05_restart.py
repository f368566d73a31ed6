"""READY=1 is sent when the service can serve, and a restart under load loses no request."""

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


def test_restarts_under_load_lose_no_request():
    with host.load() as load:
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
    # Each of the three clients with a kept connection may repeat one request per restart.
    assert load.retried <= 3 * 3, load


def test_running_request_is_finished_across_a_restart():
    before = host.main_pid()
    running, _ = host.start_slow_request(2)
    host.systemctl("restart", host.SERVICE)
    answer = running.result()
    assert answer.status == 200
    assert answer["x-probe-daemon"] == str(before), "answered, but not by the daemon that had received it"
    assert host.main_pid() != before


def test_idle_keep_alive_connection_does_not_delay_restart():
    connection = Connection(host.ADDRESS)
    assert connection.request("GET", "/").complete
    began = time.monotonic()
    host.systemctl("restart", host.SERVICE)
    took = time.monotonic() - began
    connection.close()
    assert took < 5, f"the restart took {took:.1f} s for an idle connection"
