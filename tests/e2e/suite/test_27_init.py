"""`rgun init` and `rgun doctor`: a Django project in a home directory is served, and its faults are named."""

import json
import os
import pathlib
import pwd
import shutil
import stat

import host
import pytest
from support.http_client import Connection

NAME = "django"
HOME = pathlib.Path("/home/ada")
PROJECT = HOME / "shop"

pytestmark = pytest.mark.usefixtures("enabled")


@pytest.fixture(scope="module")
def project():
    """The Django project in the home directory of ada, which only she can enter."""
    host.run("systemd-sysusers", "--inline", f"u ada 1600 - {HOME}")
    shutil.copytree(host.SHOP, PROJECT, dirs_exist_ok=True)
    host.run(str(PROJECT / "prepare"), "--system", str(PROJECT / "data"), timeout=120)
    host.run("chown", "-R", "ada:ada", str(HOME))
    HOME.chmod(0o700)
    return PROJECT


@pytest.fixture(scope="module")
def instance(project):
    """The instance that `rgun init` has written; removed at the end."""
    instance = host.Instance(NAME)
    done = init("--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    instance.output = done.stdout
    yield instance
    instance.remove()
    shutil.rmtree(f"/etc/systemd/system/rgun@{NAME}.service.d")


def init(*arguments):
    """Runs `rgun init` for the project."""
    return host.run("rgun", "init", NAME, "--directory", str(PROJECT), *arguments, check=False)


def doctor(name=NAME):
    """Runs `rgun doctor`; returns its exit status and the object that it prints."""
    done = host.run("rgun", "doctor", name, "--json", check=False)
    return done.returncode, json.loads(done.stdout)


def test_init_without_a_terminal_writes_nothing(project):
    done = init()
    assert done.returncode == 1
    assert "+++ /etc/rgun/django.toml" in done.stdout
    assert "pass --yes" in done.stderr
    assert not pathlib.Path("/etc/rgun/django.toml").exists()


def test_init_writes_configuration_and_drop_in(instance):
    assert 'target = "shop.wsgi"' in instance.config.read_text()
    status = instance.config.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o640, pwd.getpwnam("ada").pw_gid)
    drop_in = pathlib.Path(f"/etc/systemd/system/rgun@{NAME}.service.d/10-init.conf").read_text()
    assert "\nUser=ada\nGroup=ada\n" in drop_in
    assert f"ReadWritePaths={PROJECT}/data" in drop_in
    assert f"sudo systemctl enable --now rgun@{NAME}\n" in instance.output


def test_second_init_finds_nothing_to_write(instance):
    done = init()
    assert done.returncode == 0, done.stderr
    assert "All files are as they should be." in done.stdout


def test_printed_commands_serve_the_project(instance):
    commands = instance.output.partition("Next:\n")[2].split("\n    ")
    enable, curl = (line.strip().removeprefix("sudo ").split() for line in commands[:2])
    host.run(*enable, timeout=120)
    with Connection(instance.address) as connection:
        # As curl does; Django refuses other hosts.
        connection.host = "localhost"
        assert "Darjeeling" in connection.request("GET", "/").text
    assert curl == ["curl", "--unix-socket", instance.address, "http://localhost/"]


def test_doctor_finds_no_problem_in_a_running_service(instance):
    host.systemctl("enable", "--now", instance.service)
    status, found = doctor()
    assert (status, found["ok"], found["unit"]) == (0, True, instance.service), found


def test_doctor_names_a_directory_that_the_user_cannot_enter(instance):
    os.chown(HOME, 0, 0)
    try:
        status, found = doctor()
    finally:
        os.chown(HOME, pwd.getpwnam("ada").pw_uid, -1)
    assert status == 1
    (problem,) = (finding for finding in found["findings"] if finding["severity"] == "problem")
    assert f"ada cannot enter {HOME}" in problem["what"]


def test_doctor_names_a_missing_user(instance):
    drop_in = pathlib.Path(f"/run/systemd/system/{instance.service}.d/99-user.conf")
    drop_in.parent.mkdir(parents=True, exist_ok=True)
    drop_in.write_text("[Service]\nUser=nosuch\n")
    host.systemctl("daemon-reload")
    try:
        host.systemctl("restart", instance.service, check=False)
        host.systemctl("stop", instance.service)
        status, found = doctor()
    finally:
        drop_in.unlink()
        host.systemctl("daemon-reload")
        host.systemctl("reset-failed", instance.service, instance.socket, check=False)
        host.systemctl("restart", instance.socket, instance.service)
    assert status == 1
    text = json.dumps(found)
    assert "217/USER: there is no user nosuch" in text, text


def test_doctor_names_an_address_in_use(instance):
    drop_in = pathlib.Path(f"/run/systemd/system/{instance.socket}.d/99-port.conf")
    drop_in.parent.mkdir(parents=True, exist_ok=True)
    drop_in.write_text("[Socket]\nListenStream=\nListenStream=127.0.0.1:8000\n")
    host.systemctl("daemon-reload")
    try:
        host.systemctl("stop", instance.service, instance.socket)
        host.systemctl("start", instance.socket, check=False)
        status, found = doctor()
    finally:
        drop_in.unlink()
        host.systemctl("daemon-reload")
        host.systemctl("reset-failed", instance.socket, check=False)
        host.systemctl("start", instance.socket, instance.service)
    assert status == 1
    text = json.dumps(found)
    assert "cannot listen at 127.0.0.1:8000: another program uses this address" in text, text


def test_doctor_names_settings_without_effect(instance):
    drop_in = pathlib.Path(f"/etc/systemd/system/rgun@{NAME}.service.d/30-mistake.conf")
    drop_in.write_text("[Service]\nMemorymax=1G\nNice=low\n")
    configuration = instance.config.read_text()
    instance.config.write_text(f'{configuration}\n[listen]\nbind = "127.0.0.1:8001"\n')
    host.systemctl("daemon-reload")
    try:
        status, found = doctor()
    finally:
        drop_in.unlink()
        instance.config.write_text(configuration)
        host.systemctl("daemon-reload")
    assert status == 0, found
    warnings = [finding["what"] for finding in found["findings"] if finding["severity"] == "warning"]
    for start, part in [
        (f"systemd ignores a line: {drop_in}:2: ", "Memorymax"),
        (f"systemd ignores a line: {drop_in}:3: ", "low"),
        (
            "listen.bind = 127.0.0.1:8001 has no effect: ",
            f"ListenStream= there (systemctl edit {instance.socket})",
        ),
    ]:
        assert any(what.startswith(start) and part in what for what in warnings), (start, warnings)


def test_doctor_of_an_unknown_instance_names_the_configuration():
    status, found = doctor("nosuch")
    assert status == 1
    assert "/etc/rgun/nosuch.toml" in json.dumps(found), found


def test_doctor_without_root_says_what_it_did_not_check(instance):
    done = host.run("runuser", "-u", "daemon", "--", "rgun", "doctor", NAME, check=False)
    assert done.returncode == 0, done.stdout
    assert f"sudo rgun doctor {NAME}" in done.stdout


def test_init_explains_an_interpreter_below_root(instance):
    python = PROJECT / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    (PROJECT / ".venv/pyvenv.cfg").write_text("home = /root/python\n")
    target = pathlib.Path("/root/python")
    shutil.copy("/usr/bin/python3", target)
    python.symlink_to(target)
    before = instance.config.read_text()
    try:
        done = init("--yes")
    finally:
        shutil.rmtree(PROJECT / ".venv")
        target.unlink()
        instance.config.write_text(before)
    assert done.returncode == 78
    assert "leads to /root/python, which only root can run" in done.stdout
    assert "ada cannot enter /root" in done.stderr
