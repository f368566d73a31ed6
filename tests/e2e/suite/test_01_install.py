"""The installation of the package: its files, users and units; it starts no service."""

import pathlib
import pwd
import stat

import host
import pytest

pytestmark = pytest.mark.usefixtures("installed")

EXTENSION = pathlib.Path("/usr/lib/rgun/rgun_worker.abi3.so")


def package_files():
    return [pathlib.Path(line) for line in host.run("dpkg", "-L", "rgun").stdout.splitlines() if line != "/."]


def test_package_installs_every_named_file():
    for path in (
        "/usr/bin/rgun",
        EXTENSION,
        EXTENSION.with_name("rgun_main.py"),
        "/usr/share/rgun/welcome/welcome.py",
        "/etc/rgun/rgun.toml",
        "/usr/lib/systemd/system/rgun.socket",
        "/usr/lib/systemd/system/rgun.service",
        "/usr/lib/systemd/system/rgun@.socket",
        "/usr/lib/systemd/system/rgun@.service",
        "/usr/lib/systemd/system/rgun.slice",
        "/usr/share/bash-completion/completions/rgun",
        "/usr/share/zsh/vendor-completions/_rgun",
        "/usr/share/fish/vendor_completions.d/rgun.fish",
        "/usr/share/man/man1/rgun.1.gz",
        "/usr/share/man/man8/rgun.8.gz",
        "/usr/share/man/man5/rgun.toml.5.gz",
        "/usr/share/man/man7/rgun.units.7.gz",
        "/usr/share/doc/rgun/copyright",
    ):
        assert pathlib.Path(path).is_file(), path


def test_packaged_files_are_writable_by_root_only():
    for path in package_files():
        status = path.lstat()
        assert status.st_uid == 0, path
        assert stat.S_ISLNK(status.st_mode) or not status.st_mode & stat.S_IWOTH, path


def test_system_user_exists_without_a_shell():
    user = pwd.getpwnam("rgun")
    assert 0 < user.pw_uid < 1000
    assert user.pw_dir == "/var/lib/rgun"
    assert user.pw_shell.endswith("nologin")


def test_configuration_is_a_conffile_of_mode_640():
    assert "/etc/rgun/rgun.toml" in host.run("dpkg-query", "-W", "-f", "${Conffiles}", "rgun").stdout
    status = host.CONFIG.stat()
    assert stat.S_IMODE(status.st_mode) == 0o640
    assert status.st_gid == pwd.getpwnam("rgun").pw_gid


def test_installation_enables_and_starts_nothing():
    for unit in (host.SOCKET, host.SERVICE):
        assert host.systemctl("is-enabled", unit, check=False).stdout.strip() == "disabled", unit
        assert host.systemctl("is-active", unit, check=False).stdout.strip() == "inactive", unit
    assert host.port_is_closed()


def test_version_flag_prints_the_package_version():
    version = host.run("dpkg-query", "-W", "-f", "${Version}", "rgun").stdout
    assert host.run("rgun", "--version").stdout.strip() == f"rgun {version}"


def test_shipped_configuration_passes_check():
    host.run("rgun", "check")
