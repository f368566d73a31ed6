"""Removal stops the service and keeps the configuration; purge leaves only the users."""

import pathlib
import pwd

import host
import pytest

pytestmark = pytest.mark.usefixtures("probe", "instance")


@pytest.fixture(scope="module")
def instance(probe_app):
    """An enabled and running instance."""
    instance = host.Instance("removed")
    instance.create("probe", probe_app)
    host.systemctl("enable", "--now", instance.socket, instance.service)
    return instance


def test_removal_stops_the_service_and_keeps_config():
    mine = host.CONFIG.read_text()
    assert host.get("/").status == 200
    host.run("apt-get", "remove", "-y", "rgun")
    assert host.processes_of("rgun") == []
    assert host.processes_of("rgun-removed") == []
    assert host.port_is_closed()
    assert host.CONFIG.read_text() == mine
    assert not pathlib.Path("/usr/bin/rgun").exists()
    assert "could not be found" in host.systemctl("status", host.SERVICE, check=False).stderr


def test_reinstallation_keeps_the_configuration():
    mine = host.CONFIG.read_text()
    keep = "Dpkg::Options::=--force-confold"
    host.run("apt-get", "install", "-y", "-o", keep, str(host.PACKAGE), timeout=120)
    assert host.CONFIG.read_text() == mine
    host.systemctl("enable", "--now", host.SOCKET)
    assert host.get("/").status == 200


def test_purge_leaves_only_the_users():
    host.run("apt-get", "purge", "-y", "rgun")
    assert host.port_is_closed()
    left = [
        path
        for pattern in ("etc/rgun*", "usr/*/rgun*", "usr/share/*/rgun*", "var/*/rgun*", "run/rgun*")
        for path in pathlib.Path("/").glob(pattern)
    ]
    left += pathlib.Path("/etc/systemd/system").rglob("rgun*")
    left += pathlib.Path("/var/lib/systemd").rglob("*rgun*")
    assert left == []
    assert host.run("dpkg-query", "-W", "rgun", check=False).returncode != 0
    assert host.processes_of("rgun") == []
    # The users stay: otherwise a new user could get their uids, and with them the files in a backup.
    assert pwd.getpwnam("rgun-removed")
    assert pwd.getpwnam("rgun").pw_shell.endswith("nologin")
    failed = host.systemctl("--failed", "--no-legend", "--plain").stdout
    assert "rgun" not in failed
