"""Reload after reload under load, through `systemctl reload`: no request is lost, and nothing piles up."""

import pathlib
import time

import host


def test_reloads_under_load_lose_no_request(trouble_app, option):
    count = option("reloads")
    host.configure("trouble", trouble_app)
    host.restart()
    daemon = host.main_pid()
    sizes = []
    began = time.monotonic()
    with host.Load(clients=4) as load:
        for version in range(2, count + 2):
            host.release(trouble_app, version)
            host.reload()
            assert host.get("/").text == str(version)
            assert not load.faults, load
            sizes.append(resident(daemon))
    took = time.monotonic() - began
    print(f"{count} reloads in {took:.1f} s, {load}; the daemon's KiB: {sizes[0]} to {sizes[-1]}")
    assert not load.faults, load
    assert load.retried == 0, f"a reload is no reason to close a kept connection: {load}"
    assert host.main_pid() == daemon
    host.wait_for("two workers are left", lambda: len(host.children(daemon)) == 2)
    tree = host.cgroup_directory(host.show("ControlGroup"))
    host.wait_for("two leaves are left", lambda: len(list((tree / "workers").glob("*/"))) == 2)
    assert len(descriptors(daemon)) < 100, descriptors(daemon)
    # From the tenth on the allocator has what it needs: in the long form a leak of a page a reload shows.
    assert max(sizes[-5:]) - sizes[min(9, count - 1)] < 4 << 10, sizes[::10]


def resident(pid):
    """Its resident memory in KiB."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def descriptors(pid):
    """What its descriptors are."""
    return sorted(str(link.readlink()) for link in pathlib.Path(f"/proc/{pid}/fd").iterdir())
