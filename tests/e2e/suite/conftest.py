"""Fixtures of the real-systemd tier. The files run in the order of their numbers.

Each file has a fixture that puts the service into the state it needs, so a file also runs alone
(`tests/e2e/run --suite trixie -- test_05_restart.py`); only the removal must come last.
"""

import os
import pathlib
import shutil

import host
import pytest


def pytest_report_header():
    """Names systemd, kernel and cgroup controllers of the machine."""
    controllers = host.cgroup_directory("/cgroup.controllers").read_text().strip() or "none"
    version, kernel = host.systemd_version(), os.uname().release
    return f"systemd {version}, kernel {kernel}, cgroup v2 controllers: {controllers}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Adds the journal to the report of a failure, because the machine is thrown away."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        options = ["-n", "40", "--no-pager", "-o", "short-precise"]
        lines = host.run("journalctl", "-u", "rgun*", *options, check=False).stdout
        report.sections.append(("journal of rgun.service and rgun.socket", lines))


@pytest.fixture(scope="session")
def installed():
    """The package, installed as the README says; the machine has no network."""
    if shutil.which("rgun") is None:
        host.run("apt-get", "install", "-y", str(host.PACKAGE), timeout=120)


@pytest.fixture(scope="session")
def enabled(installed):
    """The enabled socket, as the README says."""
    host.systemctl("enable", "--now", host.SOCKET)


@pytest.fixture(scope="module")
def probe(enabled):
    """The service running the probe application with two workers."""
    host.configure("probe", probe_directory())
    host.restart()


def probe_directory():
    """Copies the probe application to a directory that the user rgun can read; returns the directory."""
    directory = pathlib.Path("/srv/probe")
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(host.HERE / "probe.py", directory)
    return directory


@pytest.fixture(scope="module")
def probe_app(enabled):
    """The directory of the probe application, for tests that write the configuration themselves."""
    return probe_directory()


def application_of_releases(name):
    """Copies an application and deploys its first release; returns the directory."""
    directory = pathlib.Path("/srv") / name
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(host.HERE / f"{name}.py", directory)
    host.deploy(directory, 1)
    return directory


@pytest.fixture(scope="module")
def trouble_app(enabled):
    """The directory of the application trouble.py."""
    return application_of_releases("trouble")


@pytest.fixture(scope="module")
def live_app(enabled):
    """The directory of the application live.py."""
    return application_of_releases("live")


@pytest.fixture(scope="module")
def takeover_app(enabled):
    """The directory of the application takeover.py."""
    return application_of_releases("takeover")


@pytest.fixture(scope="session")
def shop_data(enabled):
    """The Django project in /srv, with its data in the state directory, on Debian's Django."""
    shutil.copytree(host.SHOP, "/srv/shop", dirs_exist_ok=True)
    data = host.STATE / "shop"
    host.systemctl("start", host.SERVICE)  # makes the state directory
    host.run("/srv/shop/prepare", "--system", str(data), timeout=120)
    host.run("chown", "-R", "rgun:rgun", str(data))
    return data


@pytest.fixture(scope="module")
def shop(shop_data):
    """The service running the Django project."""
    host.configure("shop.wsgi", "/srv/shop", env={"SHOP_DATA": str(shop_data)})
    host.restart()
