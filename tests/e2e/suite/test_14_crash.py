"""Code that takes its process with it costs the request it had; a request that always does is kept out."""

import host
import pytest


@pytest.fixture(autouse=True)
def app(trouble_app):
    """A new daemon each time: a quarantine must not reach the next test."""
    host.release(trouble_app, 1)
    host.configure("trouble", trouble_app)
    host.restart()


@pytest.mark.parametrize(("path", "sign"), [("/segfault", "SIGSEGV"), ("/leave", "status 3")])
def test_crash_is_502_with_request_and_cause_in_the_journal(path, sign):
    daemon, since = host.main_pid(), host.journal_cursor()
    answer = host.get(path)
    assert answer.status == 502
    entries = host.wait_for(
        "the request is in the journal",
        lambda: host.journal(since, RGUN_REQUEST_ID=answer.headers["x-request-id"]),
    )
    assert len(entries) == 1, host.messages(entries)
    assert entries[0]["RGUN_PATH"] == path
    host.wait_for("the cause is in the journal", lambda: sign in host.told(since))
    assert {host.get("/").status for _ in range(20)} == {200}
    assert host.main_pid() == daemon


def test_request_that_kills_two_workers_is_quarantined():
    since = host.journal_cursor()
    assert [host.get(f"/segfault?{number}").status for number in range(2)] == [502, 502]
    before = set(host.wait_for("two workers", pair))
    kept_out = host.get("/segfault?2")
    assert kept_out.status == 503
    assert int(kept_out.headers["retry-after"]) > 0
    assert host.get("/").status == 200
    assert host.request("POST", "/facts").status == 200
    assert set(host.children(host.main_pid())) == before, "the third attempt reached a worker"
    assert "GET /segfault has killed two workers" in host.told(since)


def test_idempotent_request_is_retried_if_configured(trouble_app):
    host.configure("trouble", trouble_app, more='retry = "idempotent"')
    host.restart()
    since = host.journal_cursor()
    mark = host.STATE / "crashed-once"
    mark.unlink(missing_ok=True)
    host.release(trouble_app, 2, ONCE.format(mark=str(mark)))
    host.reload()
    # The first attempt leaves a mark and dies, the second finds it and answers.
    answer = host.get("/")
    assert answer.status == 200
    assert mark.exists()
    mark.unlink()
    assert host.request("POST", "/", b"").status == 502
    assert "SIGKILL" in host.told(since)


def pair():
    """The two workers, or None while there are fewer."""
    found = host.children(host.main_pid())
    return found if len(found) == 2 else None


# A release whose VERSION kills its process when it is first asked for.
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
