"""A request past its deadline is answered 504, and the journal has its stack."""

import re
import time

import host
import pytest
from support.processes import children, exists
from support.waiting import wait_until


@pytest.fixture(scope="module", autouse=True)
def app(trouble_app):
    """A request timeout of one second, and workers with one thread."""
    host.deploy(trouble_app, 1)
    rule = '[[timeouts.path]]\nmatch = "/slow/*"\nrequest = "10s"\n'
    extra = f'[timeouts]\nrequest = "1s"\n\n{rule}\n[log]\nslow = "500ms"\n'
    host.configure("trouble", trouble_app, extra=extra)
    host.restart()


def line_of(view):
    """Returns a pattern for a frame of a view; faulthandler writes it without the comma."""
    return re.compile(rf'File ".*/trouble\.py", line \d+,? in {view}\b')


@pytest.mark.parametrize("view", ["stuck", "gil"])
def test_stuck_request_is_504_with_one_entry_and_its_stack(view):
    daemon, since = host.main_pid(), host.journal_cursor()
    began = time.monotonic()
    running, worker = host.start_request(f"/{view}")
    answer = running.result()
    took = time.monotonic() - began
    assert answer.status == 504
    assert 0.9 < took < 2.5, f"504 after {took:.2f} s"
    # The entry of log.slow has no status.
    entries = wait_until(
        "the request is in the journal", lambda: [e for e in named(since, answer) if "RGUN_STATUS" in e]
    )
    assert len(entries) == 1, host.messages(entries)
    (entry,) = entries
    assert line_of(view).search(host.messages(entries)[0]), host.messages(entries)
    assert entry["RGUN_STATUS"] == "504"
    assert entry["RGUN_METHOD"] == "GET"
    assert entry["RGUN_PATH"] == f"/{view}"
    assert entry["RGUN_WORKER"] in "01"
    assert entry["RGUN_PID"] == str(worker)

    # The stuck worker is replaced, and killed in the end.
    wait_until("the stuck worker has exited", lambda: not exists(worker), 20)
    assert host.get("/").status == 200
    assert host.main_pid() == daemon
    assert host.show("NRestarts") == "0"


def test_other_requests_are_served_while_one_is_stuck():
    running, _ = host.start_request("/stuck")
    with host.load(clients=4) as load:
        assert running.result().status == 504
        load.wait_for_more(100)
    assert not load.faults, load


def test_path_rule_extends_the_request_timeout():
    assert host.get("/slow/2").status == 200


def test_slow_request_is_logged_once_with_its_stack():
    since, before = host.journal_cursor(), set(children(host.main_pid()))
    answer = host.get("/slow/2")
    assert answer.status == 200
    entries = wait_until("the slow request is logged", lambda: named(since, answer))
    assert len(entries) == 1, host.messages(entries)
    assert line_of("slow").search(host.messages(entries)[0]), host.messages(entries)
    assert entries[0]["RGUN_PATH"] == "/slow/2"
    assert set(children(host.main_pid())) == before


def named(since, answer):
    """Returns the entries of a request by its id."""
    return host.journal(since, RGUN_REQUEST_ID=answer["x-request-id"])
