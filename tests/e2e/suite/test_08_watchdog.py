"""The watchdog: pinged by a healthy daemon, and a restart of one that hangs."""

import os
import signal

import host
import pytest
from support.processes import exists
from support.waiting import assert_stays, wait_until

pytestmark = pytest.mark.usefixtures("probe")


def test_shipped_unit_has_a_watchdog():
    assert host.show("WatchdogUSec") not in ("0", "infinity", "")


def test_healthy_daemon_survives_a_one_second_watchdog():
    with host.drop_in("WatchdogSec=1s"):
        daemon = host.main_pid()
        assert_stays("the same daemon", lambda: host.main_pid() == daemon, 2.5)
        # Busy workers must not stop the pings.
        busy = [host.in_background("GET", "/slow/2.5") for _ in range(2)]
        assert [request.result().status for request in busy] == [200, 200]
        assert host.main_pid() == daemon
        assert host.show("NRestarts") == "0"


def test_status_line_has_the_current_load():
    with host.drop_in("WatchdogSec=1s"):
        busy = host.in_background("GET", "/slow/2.5")
        wait_until(
            "a busy thread is in the status", lambda: "/2 busy, queue 0, wait p95 " in host.status_text()
        )
        assert busy.result().status == 200
        wait_until("an idle daemon has no load", lambda: " busy" not in host.status_text())


def test_hanging_daemon_is_killed_and_restarted():
    since = host.journal_cursor()
    with host.drop_in("WatchdogSec=1s\nTimeoutAbortSec=3s\nLimitCORE=0"):
        daemon = host.main_pid()
        os.kill(daemon, signal.SIGSTOP)
        wait_until("a new daemon", lambda: host.main_pid() not in (0, daemon), 20)
        assert host.get("/").status == 200
        assert host.show("NRestarts") == "1"
        assert not exists(daemon)
    assert "atchdog timeout" in host.service_log(since)
