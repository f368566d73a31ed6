"""One cgroup per worker below the service's cgroup, each removed with its worker."""

import os
import pathlib
import signal
import time

import host
import pytest
from support.processes import exists
from support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("probe")


def test_daemon_and_workers_have_their_own_leaf_cgroups():
    top = host.show("ControlGroup")
    workers = wait_until("two workers", host.two_workers)
    places = {pid: host.cgroup_of(pid) for pid in [host.main_pid(), *workers]}
    for pid, place in places.items():
        assert place.startswith(top + "/"), f"process {pid} is in {place}, not below {top}"
        inner = [entry for entry in host.cgroup_directory(place).iterdir() if entry.is_dir()]
        assert not inner, f"{place} is not a leaf"
    assert len(set(places.values())) == 3, places
    assert host.cgroup_directory(top).joinpath("cgroup.procs").read_text() == ""


def test_systemd_cgls_shows_the_workers():
    text = host.run("systemd-cgls", "--no-pager", "-u", host.SERVICE).stdout
    for pid in host.two_workers():
        assert str(pid) in text


def test_dead_worker_leaves_no_cgroup():
    victim = host.two_workers()[0]
    place = host.cgroup_directory(host.cgroup_of(victim))
    os.kill(victim, signal.SIGKILL)
    wait_until("two workers again", lambda: victim not in (host.two_workers() or [victim]))
    tree = host.cgroup_directory(host.show("ControlGroup"))
    wait_until("no cgroup is empty", lambda: not empty_leaves(tree))
    if place.exists():
        assert place.joinpath("cgroup.procs").read_text(), f"{place} is left over"


def test_cgroup_of_a_reloaded_worker_stays_until_children_exit():
    started = host.get("/start/1000").json()
    place = host.cgroup_directory(host.cgroup_of(started["child"]))
    assert place == host.cgroup_directory(host.cgroup_of(started["pid"]))
    host.reload()
    wait_until("the worker exits", lambda: not exists(started["pid"]))
    assert exists(started["child"])
    assert place.joinpath("cgroup.procs").read_text().split() == [str(started["child"])]
    os.kill(started["child"], signal.SIGTERM)
    wait_until("its cgroup is removed", lambda: not place.exists())


def test_children_past_their_timeout_are_killed_and_logged():
    with host.drop_in("Environment=RGUN_WORKERS_CHILDREN_TIMEOUT=1s"):
        since = host.journal_cursor()
        started = host.get("/start/1000").json()
        place = host.cgroup_directory(host.cgroup_of(started["child"]))
        host.reload()
        wait_until("the child is killed", lambda: not exists(started["child"]))
        wait_until("its cgroup is removed", lambda: not place.exists())
    (line,) = [line for line in host.service_log(since).splitlines() if "left processes behind" in line]
    assert f"(pid {started['pid']})" in line
    assert f"{started['child']} (sleep)" in line


def test_children_of_a_killed_worker_are_killed():
    started = host.get("/start/1000").json()
    os.kill(started["pid"], signal.SIGKILL)
    wait_until("the child is killed", lambda: not exists(started["child"]))


def test_signals_to_the_whole_unit_end_no_worker():
    workers = wait_until("two workers", host.two_workers)
    for name in ("SIGUSR1", "SIGUSR2"):
        host.systemctl("kill", f"--signal={name}", host.SERVICE)
        assert host.get().json()["pid"] in workers
    assert sorted(host.two_workers()) == sorted(workers)


def test_workers_keep_soft_file_limit_daemon_raises_its_own():
    # A container may have a lower limit than the unit.
    limits = pathlib.Path(f"/proc/{host.main_pid()}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    soft, hard = map(int, line.split()[3:5])
    assert 1024 < soft == hard <= 65536
    assert host.get().json()["files"] == [1024, hard]


def test_stop_ends_programs_that_workers_started():
    started = host.get("/start/1000").json()
    begun = time.monotonic()
    host.systemctl("stop", host.SERVICE)
    assert time.monotonic() - begun < 20
    assert host.show("Result") == "success"
    assert not exists(started["child"])
    host.systemctl("start", host.SERVICE)


def test_stop_leaves_no_process_and_no_cgroup():
    tree = host.cgroup_directory(host.show("ControlGroup"))
    host.systemctl("stop", host.SERVICE)
    assert host.processes_of("rgun") == []
    assert not tree.exists()
    host.systemctl("start", host.SERVICE)


def test_stop_needs_no_sigkill():
    since = host.journal_cursor()
    host.systemctl("stop", host.SERVICE)
    assert host.show("Result") == "success"
    assert "SIGKILL" not in host.service_log(since)
    host.systemctl("start", host.SERVICE)


def empty_leaves(tree):
    """Returns leaf cgroups without a process."""
    groups = [path.parent for path in tree.rglob("cgroup.procs") if path.parent != tree]
    leaves = [group for group in groups if not any(entry.is_dir() for entry in group.iterdir())]
    return [group for group in leaves if not (group / "cgroup.procs").read_text()]
