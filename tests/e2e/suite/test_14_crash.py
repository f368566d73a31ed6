"""Crashes fail one request each; a request that crashes repeatedly is quarantined."""

import os
import signal

import host
import pytest
from support.processes import children
from support.waiting import wait_until


@pytest.fixture(autouse=True)
def app(trouble_app):
    """Restarts the service for each test, so that no quarantine is left."""
    host.deploy(trouble_app, 1)
    host.configure("trouble", trouble_app)
    host.restart()


@pytest.mark.parametrize(("path", "cause"), [("/segfault", "SIGSEGV"), ("/leave", "status 3")])
def test_crash_is_502_with_request_and_cause_in_the_journal(path, cause):
    daemon, since = host.main_pid(), host.journal_cursor()
    answer = host.get(path)
    assert answer.status == 502
    entries = wait_until(
        "the request is in the journal",
        lambda: host.journal(since, RGUN_REQUEST_ID=answer["x-request-id"]),
    )
    assert len(entries) == 1, host.messages(entries)
    assert entries[0]["RGUN_PATH"] == path
    wait_until("the cause is in the journal", lambda: cause in host.service_log(since))
    assert {host.get("/").status for _ in range(20)} == {200}
    assert host.main_pid() == daemon


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_daemon_killed_from_outside_is_always_restarted(number):
    # More often than systemd's own limit allows: five starts within ten seconds.
    for _ in range(7):
        daemon = host.main_pid()
        os.kill(daemon, number)
        wait_until("a new daemon", lambda daemon=daemon: host.main_pid() not in (0, daemon), 20)
        assert host.get("/").status == 200
    assert host.show("ActiveState") == "active"


def test_request_that_kills_two_workers_is_quarantined():
    since = host.journal_cursor()
    assert [host.get(f"/segfault?{number}").status for number in range(2)] == [502, 502]
    before = set(wait_until("two workers", host.two_workers))
    kept_out = host.get("/segfault?2")
    assert kept_out.status == 503
    assert int(kept_out["retry-after"]) > 0
    assert host.get("/").status == 200
    assert host.request("POST", "/facts").status == 200
    assert set(children(host.main_pid())) == before, "the third attempt reached a worker"
    assert "GET /segfault has killed two workers" in host.service_log(since)


def test_idempotent_request_is_retried_if_configured(trouble_app):
    host.configure("trouble", trouble_app, more='retry = "idempotent"')
    host.restart()
    since = host.journal_cursor()
    mark = host.STATE / "crashed-once"
    mark.unlink(missing_ok=True)
    host.deploy(trouble_app, 2, ONCE.format(mark=str(mark)))
    host.reload()
    # The first attempt makes a file and dies; the retry finds the file and responds.
    answer = host.get("/")
    assert answer.status == 200
    assert mark.exists()
    mark.unlink()
    assert host.request("POST", "/", b"").status == 502
    assert "SIGKILL" in host.service_log(since)


# A release whose VERSION kills its process at its first use.
ONCE = """
import os, signal
class Once:
    def __str__(self):
        try:
            os.close(os.open({mark!r}, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return "again"
        os.kill(os.getpid(), signal.SIGKILL)
VERSION = Once()
"""
