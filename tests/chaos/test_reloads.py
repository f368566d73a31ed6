"""Many reloads under load, by `systemctl reload`: no request is lost, and nothing leaks."""

import pathlib
import time

import host
from support.processes import children, resident_kib
from support.waiting import wait_until


def test_reloads_under_load_lose_no_request(trouble_app, option):
    count = option("reloads")
    host.configure("trouble", trouble_app)
    host.restart()
    daemon = host.main_pid()
    sizes = []
    began = time.monotonic()
    with host.load(clients=4) as load:
        for version in range(2, count + 2):
            host.deploy(trouble_app, version)
            host.reload()
            assert host.get("/").text == str(version)
            assert not load.faults, load
            sizes.append(resident_kib(daemon))
    took = time.monotonic() - began
    print(f"{count} reloads in {took:.1f} s, {load}; the daemon's KiB: {sizes[0]} to {sizes[-1]}")
    assert not load.faults, load
    assert load.retried == 0, f"a reload is not a reason to close a kept connection: {load}"
    assert host.main_pid() == daemon
    wait_until("two workers are left", lambda: len(children(daemon)) == 2)
    tree = host.cgroup_directory(host.show("ControlGroup"))
    wait_until("two cgroups of workers are left", lambda: len(list((tree / "workers").glob("*/"))) == 2)
    assert len(descriptors(daemon)) < 100, descriptors(daemon)
    # After ten reloads the allocator's caches are filled. A leak of one page per reload exceeds the limit in
    # 1000 reloads.
    assert max(sizes[-5:]) - sizes[min(9, count - 1)] < 4 << 10, sizes[::10]


def descriptors(pid):
    """What the descriptors of a process refer to."""
    return sorted(str(link.readlink()) for link in pathlib.Path(f"/proc/{pid}/fd").iterdir())
