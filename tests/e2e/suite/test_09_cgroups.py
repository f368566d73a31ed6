"""One cgroup a worker below the service's own, and nothing left of either afterwards."""

import os
import signal
import time

import host
import pytest

pytestmark = pytest.mark.usefixtures("probe")


def test_daemon_and_workers_have_their_own_leaf_cgroups():
    top = host.show("ControlGroup")
    workers = host.wait_for("two workers", pair)
    places = {pid: host.cgroup_of(pid) for pid in [host.main_pid(), *workers]}
    for pid, place in places.items():
        assert place.startswith(top + "/"), f"process {pid} is in {place}, not below {top}"
        inner = [entry for entry in host.cgroup_directory(place).iterdir() if entry.is_dir()]
        assert not inner, f"{place} is no leaf"
    assert len(set(places.values())) == 3, places
    assert host.cgroup_directory(top).joinpath("cgroup.procs").read_text() == ""


def test_systemd_cgls_shows_the_workers():
    text = host.run("systemd-cgls", "--no-pager", "-u", host.SERVICE).stdout
    for pid in pair():
        assert str(pid) in text


def test_dead_worker_leaves_no_cgroup():
    victim = pair()[0]
    place = host.cgroup_directory(host.cgroup_of(victim))
    os.kill(victim, signal.SIGKILL)
    host.wait_for("two workers again", lambda: pair() and victim not in pair())
    tree = host.cgroup_directory(host.show("ControlGroup"))
    host.wait_for("no cgroup is empty", lambda: not empty_leaves(tree))
    if place.exists():
        assert place.joinpath("cgroup.procs").read_text(), f"{place} is left over"


def test_cgroup_of_a_reloaded_worker_stays_until_children_exit():
    started = host.get("/start/1000").json
    place = host.cgroup_directory(host.cgroup_of(started["child"]))
    assert place == host.cgroup_directory(host.cgroup_of(started["pid"]))
    host.reload()
    host.wait_for("the worker leaves", lambda: not host.exists(started["pid"]))
    assert host.exists(started["child"])
    assert place.joinpath("cgroup.procs").read_text().split() == [str(started["child"])]
    os.kill(started["child"], signal.SIGTERM)
    host.wait_for("its cgroup is removed", lambda: not place.exists())


def test_children_past_their_timeout_are_killed_and_logged():
    with host.drop_in("Environment=RGUN_WORKERS_CHILDREN_TIMEOUT=1s"):
        since = host.journal_cursor()
        started = host.get("/start/1000").json
        place = host.cgroup_directory(host.cgroup_of(started["child"]))
        host.reload()
        host.wait_for("it is killed", lambda: not host.exists(started["child"]))
        host.wait_for("its cgroup is removed", lambda: not place.exists())
    (line,) = [line for line in host.told(since).splitlines() if "left processes behind" in line]
    assert f"(pid {started['pid']})" in line
    assert f"{started['child']} (sleep)" in line


def test_children_of_a_killed_worker_are_killed():
    started = host.get("/start/1000").json
    os.kill(started["pid"], signal.SIGKILL)
    host.wait_for("it is killed", lambda: not host.exists(started["child"]))


def test_signals_to_the_whole_unit_end_no_worker():
    workers = host.wait_for("two workers", pair)
    for name in ("SIGUSR1", "SIGUSR2"):
        host.systemctl("kill", f"--signal={name}", host.SERVICE)
        assert host.get().json["pid"] in workers
    assert sorted(pair()) == sorted(workers)


def test_workers_keep_soft_file_limit_daemon_raises_its_own():
    # A machine that is a container may have less than the unit asks for.
    limits = host.pathlib.Path(f"/proc/{host.main_pid()}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    soft, hard = map(int, line.split()[3:5])
    assert 1024 < soft == hard <= 65536
    assert host.get().json["files"] == [1024, hard]


def test_stop_ends_programs_that_workers_started():
    started = host.get("/start/1000").json
    begun = time.monotonic()
    host.systemctl("stop", host.SERVICE)
    assert time.monotonic() - begun < 20
    assert host.show("Result") == "success"
    assert not host.exists(started["child"])
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
