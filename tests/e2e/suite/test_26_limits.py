"""`workers.max_tasks`, `workers.cpu_weight`, OOM scores: a worker in trouble leaves the others alone."""

import pathlib

import host
import pytest
from support.waiting import wait_until

LIMIT = 60


@pytest.fixture(autouse=True, scope="module")
def limited(trouble_app):
    """Two workers of at most 60 tasks each."""
    host.deploy(trouble_app, 1)
    host.configure("trouble", trouble_app, more=f"max_tasks = {LIMIT}\ncpu_weight = 50")
    host.restart()
    wait_until("two workers", host.two_workers)


@pytest.fixture
def controllers():
    """Skips if the service has no controllers for tasks and processors."""
    host.delegated_cgroup("pids", "cpu")


def test_worker_cgroups_have_their_limits(controllers):
    for pid in host.two_workers():
        leaf = host.cgroup_directory(host.cgroup_of(pid))
        assert (leaf / "pids.max").read_text().strip() == str(LIMIT)
        assert (leaf / "cpu.weight").read_text().strip() == "50"


def test_worker_at_its_task_limit_leaves_the_other_alone(controllers):
    bombed, pid = host.start_request("/bomb/1000")
    leaf = host.cgroup_directory(host.cgroup_of(pid))
    wait_until("the worker is at its limit", lambda: int((leaf / "pids.current").read_text()) == LIMIT)
    neighbour = host.get("/bomb/5").json()
    assert neighbour["pid"] != pid
    assert (neighbour["started"], neighbour["error"]) == (5, None)
    refused = bombed.result().json()
    assert refused["error"] == "BlockingIOError"
    assert refused["started"] < LIMIT
    assert pid in host.two_workers()


def test_worker_is_killed_for_memory_before_the_daemon():
    def score(pid):
        return int(pathlib.Path(f"/proc/{pid}/oom_score_adj").read_text())

    assert host.show("OOMScoreAdjust") == "-100"
    # A container may not be allowed to lower the daemon's own score.
    daemon = score(host.main_pid())
    # A worker raises its score when Python has started, before it imports the application.
    wait_until(
        "both workers are killed before the daemon",
        lambda: {score(pid) for pid in host.two_workers() or ()} == {daemon + 100},
    )
