"""An upgrade of the package under load: the configuration is kept, and no request or connection is lost."""

import pathlib
import subprocess

import host
import pytest

pytestmark = pytest.mark.usefixtures("probe")


@pytest.fixture(scope="module")
def newer(tmp_path_factory):
    """The package with a higher version and a changed default configuration."""
    tree = tmp_path_factory.mktemp("newer") / "tree"
    host.run("dpkg-deb", "-R", str(host.PACKAGE), str(tree))
    control = tree / "DEBIAN/control"
    version = host.run("dpkg-deb", "-f", str(host.PACKAGE), "Version").stdout.strip()
    control.write_text(control.read_text().replace(f"Version: {version}", f"Version: {version}+newer"))
    shipped = tree / "etc/rgun/rgun.toml"
    shipped.write_text(shipped.read_text() + "\n# A newer default.\n")
    package = tree.parent / "newer.deb"
    host.run("dpkg-deb", "--root-owner-group", "-Znone", "-b", str(tree), str(package))
    return package


def test_upgrade_under_load_loses_no_request_and_keeps_config(newer):
    mine = host.CONFIG.read_text()
    before = host.main_pid()
    with host.load() as load:
        environment = {"DEBIAN_FRONTEND": "noninteractive", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        done = subprocess.run(
            ["dpkg", "--force-confold", "-i", str(newer)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        load.wait_for_more(100)
    print(load)
    assert not load.faults, load
    assert not load.retried, f"a kept connection was closed: {load}"
    assert host.main_pid() not in (0, before), "the old program is still running"
    assert host.CONFIG.read_text() == mine
    assert host.show("ActiveState", host.SOCKET) == "active"
    assert host.systemctl("is-enabled", host.SOCKET).stdout.strip() == "enabled"


def test_upgrade_does_not_start_a_stopped_service(newer):
    host.systemctl("stop", host.SERVICE, host.SOCKET)
    host.run("dpkg", "--force-confold", "-i", str(newer))
    assert host.show("ActiveState") == "inactive"
    assert host.port_is_closed()
    assert pathlib.Path("/etc/rgun").is_dir()
    host.systemctl("start", host.SOCKET)
