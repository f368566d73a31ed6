"""Memory pressure: an idle worker returns memory."""

import os
import pathlib

import pytest
from support.daemon import Daemon
from support.paths import COMPAT_APPS
from support.processes import children
from support.waiting import wait_until

MIB = 1 << 20
GARBAGE = 250


def resident(pid):
    """Returns the memory of a process in bytes, without files."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@pytest.mark.parametrize("target", ["left_garbage", "left_garbage:asgi"])
def test_idle_worker_returns_memory_under_pressure(tmp_path, python, target):
    """A FIFO stands for the kernel's file: whether a trigger of PSI fires depends on the machine's disk."""
    pressure = tmp_path / "pressure"
    os.mkfifo(pressure)
    daemon = Daemon(
        target,
        *("--workers", "1"),
        chdir=COMPAT_APPS,
        bind=f"unix:{tmp_path}/rgun.sock",
        python=python,
        env={"MEMORY_PRESSURE_WATCH": str(pressure)},
    )
    try:
        daemon.wait_ready()
        worker = int(daemon.get(f"/leave/{GARBAGE}").body)
        assert worker in children(daemon.process.pid)
        assert resident(worker) > GARBAGE * MIB
        pressure.write_bytes(b"x")
        daemon.wait_for_log("the others return unused memory")
        wait_until("the worker returns its memory", lambda: resident(worker) < GARBAGE / 2 * MIB)
        assert int(daemon.get("/leave/0").body) == worker, "the worker was not replaced"
    finally:
        daemon.stop()
