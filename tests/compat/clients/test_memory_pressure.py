"""Memory pressure that the kernel reports (PSI): an idle worker returns memory.

The daemon runs in a cgroup with little memory, in which `cat` reads a file again and again. The kernel must
read it again each time, because the garbage of the worker takes the place of the file's pages.
"""

import base64
import os
import pathlib
import shutil
import subprocess

import pytest
from support.daemon import Daemon
from support.paths import COMPAT_APPS, daemon_binary
from support.processes import children
from support.waiting import wait_until

MIB = 1 << 20
LIMIT = 400 * MIB
GARBAGE = 250
# Larger than what the garbage leaves of the limit.
FILE = 600
# As the daemon's own trigger: 200 ms in 2 s. systemd appends the zero byte, too.
TRIGGER = base64.b64encode(b"some 200000 2000000\0").decode()


@pytest.fixture
def cgroups(tmp_path):
    """Cgroups with a limit of memory: the files of version 2, and that of the limit, of either version."""
    if os.geteuid() != 0 or not pathlib.Path("/proc/pressure/memory").exists():
        pytest.skip("needs root, and a kernel that reports pressure (CONFIG_PSI)")
    mount = tmp_path / "cgroup2"
    mount.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "cgroup2", "none", str(mount)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount cgroup2: {mounted.stderr}")
    of_version_1 = pathlib.Path("/sys/fs/cgroup/memory")
    made = [mount / f"rgun-pressure-{os.getpid()}"]
    try:
        if (of_version_1 / "memory.limit_in_bytes").exists():
            made.append(of_version_1 / made[0].name)
            limit = made[-1] / "memory.limit_in_bytes"
        elif "memory" in (mount / "cgroup.subtree_control").read_text().split():
            limit = made[0] / "memory.max"
        else:
            pytest.skip("there is no memory controller")
        for cgroup in made:
            cgroup.mkdir()
        limit.write_text(str(LIMIT))
        yield made
    finally:
        try:
            for cgroup in filter(pathlib.Path.exists, made):
                # Killed processes stay in it until they have been reaped.
                wait_until("the cgroup is empty", lambda cgroup=cgroup: is_removed(cgroup))
        finally:
            subprocess.run(["umount", str(mount)], check=True)


def is_removed(cgroup):
    try:
        cgroup.rmdir()
    except OSError:
        return False
    return True


@pytest.fixture
def reader(cgroups):
    """A function that starts to read a large file again and again."""
    # On a disk: the pages of a file in memory cannot be freed.
    file = pathlib.Path("/var/tmp") / f"rgun-pressure-{os.getpid()}"
    processes = []

    def start():
        script = f"head -c {FILE * MIB} /dev/zero >{file}; while :; do cat {file} >/dev/null; done"
        command = in_cgroups(cgroups, ["sh", "-c", script])
        processes.append(subprocess.Popen(command, start_new_session=True))

    yield start
    for process in processes:
        os.killpg(process.pid, 9)
        process.wait()
    file.unlink(missing_ok=True)


def in_cgroups(cgroups, command):
    """Returns a command that runs another one in the cgroups."""
    enter = "".join(f"echo 0 >{cgroup}/cgroup.procs; " for cgroup in cgroups)
    return ["sh", "-c", f'{enter}exec "$@"', "sh", *map(str, command)]


def resident(pid):
    """Returns the memory of a process in bytes, without files."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount(8)")
@pytest.mark.parametrize("target", ["left_garbage", "left_garbage:asgi"])
def test_idle_worker_returns_memory_under_pressure(cgroups, reader, tmp_path, python, target):
    daemon = Daemon(
        target,
        *("--workers", "1"),
        chdir=COMPAT_APPS,
        bind=f"unix:{tmp_path}/rgun.sock",
        python=python,
        env={"MEMORY_PRESSURE_WATCH": str(cgroups[0] / "memory.pressure"), "MEMORY_PRESSURE_WRITE": TRIGGER},
        program=in_cgroups(cgroups, [daemon_binary()]),
    )
    try:
        daemon.wait_ready()
        worker = int(daemon.get(f"/leave/{GARBAGE}").body)
        assert worker in children(daemon.process.pid)
        assert resident(worker) > GARBAGE * MIB
        reader()
        daemon.wait_for_log("the others return unused memory")
        wait_until("the worker returns its memory", lambda: resident(worker) < GARBAGE / 2 * MIB)
        assert int(daemon.get("/leave/0").body) == worker, "the worker was not replaced"
    finally:
        daemon.stop()
