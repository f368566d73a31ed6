"""A killed worker fails only its running request."""

import os
import re
import signal

import host
import pytest
from support.processes import exists
from support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("probe")


def test_killed_worker_is_replaced_and_its_request_answered_502():
    daemon, since = host.main_pid(), host.journal_cursor()
    workers = wait_until("two workers", host.two_workers)
    doomed, victim = host.start_slow_request(20)
    assert victim in workers
    os.kill(victim, signal.SIGKILL)

    answer = doomed.result()
    assert answer.status == 502
    assert answer["x-request-id"]
    for _ in range(20):
        assert host.get("/").status == 200

    wait_until("a new worker is there", lambda: host.two_workers() and not exists(victim))
    assert host.main_pid() == daemon
    assert host.show("NRestarts") == "0"
    output = host.journal(since, RGUN_PID=victim, _PID=daemon)
    assert any(re.search(r"SIGKILL|signal:? 9", text) for text in host.messages(output)), output


def test_killing_workers_fails_only_requests_in_flight():
    daemon = host.main_pid()
    kills = 4
    with host.load() as load:
        for _ in range(kills):
            # This worker has answered, so it is ready and not booting.
            victim = host.get("/").json()["pid"]
            os.kill(victim, signal.SIGKILL)
            wait_until("the worker has exited", lambda pid=victim: not exists(pid))
            load.wait_for_more(100)
    print(load)
    assert all(fault.startswith("502 ") for fault in load.faults), load
    # With threads = 1 a worker runs one request; other requests in its ring go to another worker.
    assert len(load.faults) <= kills, load
    assert host.main_pid() == daemon
