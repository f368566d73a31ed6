"""One cgroup a worker below the service's own, and nothing left of either afterwards."""

import os
import signal
import time

import host
import pytest

pytestmark = pytest.mark.usefixtures("probe")


def test_daemon_and_workers_sit_in_leaf_cgroups_of_their_own():
    top = host.show("ControlGroup")
    workers = host.wait_for("two workers", pair)
    places = {pid: host.cgroup_of(pid) for pid in [host.main_pid(), *workers]}
    for pid, place in places.items():
        assert place.startswith(top + "/"), f"process {pid} is in {place}, not below {top}"
        inner = [entry for entry in host.cgroup_directory(place).iterdir() if entry.is_dir()]
        assert not inner, f"{place} is no leaf"
    assert len(set(places.values())) == 3, places
    assert host.cgroup_directory(top).joinpath("cgroup.procs").read_text() == ""


def test_the_tree_is_there_for_systemd_cgls():
    text = host.run("systemd-cgls", "--no-pager", "-u", host.SERVICE).stdout
    for pid in pair():
        assert str(pid) in text


def test_a_worker_that_died_leaves_no_cgroup():
    victim = pair()[0]
    place = host.cgroup_directory(host.cgroup_of(victim))
    os.kill(victim, signal.SIGKILL)
    host.wait_for("two workers again", lambda: pair() and victim not in pair())
    tree = host.cgroup_directory(host.show("ControlGroup"))
    host.wait_for("no cgroup is empty", lambda: not empty_leaves(tree))
    if place.exists():
        assert place.joinpath("cgroup.procs").read_text(), f"{place} is left over"


def test_the_children_of_a_reloaded_worker_finish_in_its_cgroup_which_is_removed_then():
    started = host.get("/start/1000").json
    place = host.cgroup_directory(host.cgroup_of(started["child"]))
    assert place == host.cgroup_directory(host.cgroup_of(started["pid"]))
    host.reload()
    host.wait_for("the worker leaves", lambda: not host.exists(started["pid"]))
    assert host.exists(started["child"])
    assert place.joinpath("cgroup.procs").read_text().split() == [str(started["child"])]
    os.kill(started["child"], signal.SIGTERM)
    host.wait_for("its cgroup is removed", lambda: not place.exists())


def test_children_that_do_not_finish_in_time_are_killed_and_named_in_the_journal():
    with host.drop_in("Environment=RGUN_WORKERS_CHILDREN=1s"):
        since = host.journal_cursor()
        started = host.get("/start/1000").json
        place = host.cgroup_directory(host.cgroup_of(started["child"]))
        host.reload()
        host.wait_for("it is killed", lambda: not host.exists(started["child"]))
        host.wait_for("its cgroup is removed", lambda: not place.exists())
    (line,) = [line for line in host.told(since).splitlines() if "left processes behind" in line]
    assert f"(pid {started['pid']})" in line
    assert f"{started['child']} (sleep)" in line


def test_a_worker_that_is_killed_takes_its_children_along():
    started = host.get("/start/1000").json
    os.kill(started["pid"], signal.SIGKILL)
    host.wait_for("it is killed", lambda: not host.exists(started["child"]))


def test_signals_to_all_processes_of_the_unit_cost_no_worker():
    workers = host.wait_for("two workers", pair)
    for name in ("SIGUSR1", "SIGUSR2"):
        host.systemctl("kill", f"--signal={name}", host.SERVICE)
        assert host.get().json["pid"] in workers
    assert sorted(pair()) == sorted(workers)


def test_workers_have_the_soft_limit_of_open_files_and_the_daemon_the_hard_one():
    # A machine that is a container may have less than the unit asks for.
    limits = host.pathlib.Path(f"/proc/{host.main_pid()}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    soft, hard = map(int, line.split()[3:5])
    assert 1024 < soft == hard <= 65536
    assert host.get().json["files"] == [1024, hard]


def test_stopping_ends_what_workers_have_started():
    started = host.get("/start/1000").json
    begun = time.monotonic()
    host.systemctl("stop", host.SERVICE)
    assert time.monotonic() - begun < 20
    assert host.show("Result") == "success"
    assert not host.exists(started["child"])
    host.systemctl("start", host.SERVICE)


def test_stopping_leaves_no_process_and_no_cgroup():
    tree = host.cgroup_directory(host.show("ControlGroup"))
    host.systemctl("stop", host.SERVICE)
    assert host.processes_of("rgun") == []
    assert not tree.exists()
    host.systemctl("start", host.SERVICE)


def test_sigterm_alone_ends_the_service_in_order():
    since = host.journal_cursor()
    host.systemctl("stop", host.SERVICE)
    assert host.show("Result") == "success"
    assert "SIGKILL" not in host.told(since)
    host.systemctl("start", host.SERVICE)


def pair():
    """The two workers, or None while there are fewer."""
    found = host.children(host.main_pid())
    return found if len(found) == 2 else None


def empty_leaves(tree):
    """Leaf cgroups without a process."""
    groups = [path.parent for path in tree.rglob("cgroup.procs") if path.parent != tree]
    leaves = [group for group in groups if not any(entry.is_dir() for entry in group.iterdir())]
    return [group for group in leaves if not (group / "cgroup.procs").read_text()]
