"""`workers.max_memory`: a worker that has grown is replaced, one that allocates too much is killed alone.

Without a memory controller (a container on a host with cgroup v1) the daemon measures memory itself, and the
tests of the kernel's limits are skipped; `tests/e2e/run --engine uml` has its own kernel.
"""

import re

import host
import pytest
from support.processes import children
from support.waiting import wait_until

MIB = 1 << 20
LIMIT = 100


@pytest.fixture(autouse=True)
def limited(trouble_app):
    """Two workers of at most 100 MiB each."""
    host.deploy(trouble_app, 1)
    host.configure("trouble", trouble_app, more=f'max_memory = "{LIMIT}MiB"')
    host.restart()
    wait_until("two workers", host.two_workers)


@pytest.fixture
def controller():
    """Skips if the service has no memory controller."""
    return host.delegated_cgroup("memory")


def test_worker_cgroups_have_their_memory_limits(controller):
    for pid in host.two_workers():
        leaf = host.cgroup_directory(host.cgroup_of(pid))
        assert int((leaf / "memory.high").read_text()) == LIMIT * MIB
        assert int((leaf / "memory.max").read_text()) == LIMIT * MIB * 3 // 2
        assert (leaf / "memory.oom.group").read_text().strip() == "1"
    assert (controller / "memory.max").read_text().strip() == "max", "the service itself has no limit"


def test_worker_over_max_memory_is_replaced_without_loss():
    first, since = set(host.two_workers()), host.journal_cursor()
    daemon = host.main_pid()

    def grown():
        answer = host.get("/grow/5")
        assert answer.status == 200, answer.text
        return first - set(children(daemon))

    wait_until("a worker has been replaced", grown, 30, interval=0.1)
    output = host.service_log(since)
    assert re.search(r"max_memory|memory", output), output
    # The worker is replaced before the kernel's limit is reached.
    assert "out of memory" not in output
    assert host.main_pid() == daemon
    assert host.show("NRestarts") == "0"


def test_out_of_memory_request_is_502_and_other_worker_serves(controller):
    daemon, since = host.main_pid(), host.journal_cursor()
    other_request, other = host.start_slow_request(3)
    (victim,) = set(host.two_workers()) - {other}
    answer = host.get("/grow/400")
    assert answer.status == 502
    assert other_request.result().json()["pid"] == other
    entries = wait_until(
        "the request is in the journal",
        lambda: host.journal(since, RGUN_REQUEST_ID=answer["x-request-id"]),
    )
    assert entries[0]["RGUN_PATH"] == "/grow/400"
    output = host.journal(since, RGUN_PID=victim, _PID=daemon)
    why = "(out of memory: it reached its hard limit, 1.5 times workers.max_memory)"
    assert any(why in text for text in host.messages(output)), host.messages(output)
    wait_until("another worker", lambda: victim not in (host.two_workers() or [victim]))
    assert host.get("/").status == 200
    assert host.show("ActiveState") == "active"
    assert host.main_pid() == daemon
    assert host.show("NRestarts") == "0"


def test_limit_of_the_unit_is_named_as_the_cause(controller, trouble_app):
    host.configure("trouble", trouble_app)
    with host.drop_in("MemoryMax=200M\nMemorySwapMax=0"):
        wait_until("two workers", host.two_workers)
        since = host.journal_cursor()
        assert host.get("/grow/400").status == 502
        wait_until(
            "the entry names MemoryMax=",
            lambda: "all processes of the unit together reached the unit's limit" in host.service_log(since),
        )
        doctor = host.run("rgun", "doctor", check=False)
        assert "the service has reached the limit of the unit" in doctor.stdout, doctor.stdout


def test_worker_killed_for_memory_leaves_no_cgroup(controller):
    assert host.get("/grow/400").status == 502
    wait_until("two workers", host.two_workers)
    leaves = [path for path in (controller / "workers").iterdir() if path.is_dir()]
    wait_until(
        "as many leaves as workers",
        lambda: len([path for path in (controller / "workers").iterdir() if path.is_dir()]) == 2,
    )
    assert leaves
