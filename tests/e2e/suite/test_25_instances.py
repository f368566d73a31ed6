"""Instances of the templates: two instances on one machine share nothing but the program."""

import os
import pathlib
import pwd
import re
import shutil
import signal
import stat

import host
import pytest
from support.processes import children
from support.waiting import wait_until

EXAMPLES = pathlib.Path("/usr/share/doc/rgun/examples/dropins")
NAMES = [
    "dynamic-user.service.conf",
    "home.service.conf",
    "memory.service.conf",
    "nginx.socket.conf",
    "port.socket.conf",
    "scale-to-zero.service.conf",
    "tls.service.conf",
    "user.service.conf",
    "worker-user.service.conf",
]


@pytest.fixture(scope="module")
def instances(probe_app):
    """The instances left and right, each serving the probe application with two workers."""
    both = host.Instance("left"), host.Instance("right")
    for instance in both:
        instance.create("probe", probe_app)
        host.systemctl("enable", "--now", instance.socket)
        assert instance.get("/").status == 200
    yield both
    for instance in both:
        instance.remove()


def drop_in_directory(instance, kind):
    """Returns the directory for drop-ins of an instance's unit; a reboot removes it."""
    directory = pathlib.Path(f"/run/systemd/system/rgun@{instance.name}.{kind}.d")
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@pytest.fixture
def example(instances):
    """Installs a packaged example for the instance left and restarts it; removes the example at the end."""
    left = instances[0]
    installed = []

    def install(name, **replacements):
        kind = name.split(".")[1]
        text = (EXAMPLES / name).read_text()
        for old, new in replacements.items():
            assert old in text
            text = text.replace(old, new)
        path = drop_in_directory(left, kind) / "example.conf"
        path.write_text(text)
        installed.append(path)
        restart(left)

    yield install
    for path in installed:
        path.unlink()
    restart(left)


def restart(instance):
    """Restarts the units, which applies changed drop-ins, also to the socket."""
    host.systemctl("daemon-reload")
    host.systemctl("stop", instance.socket, instance.service)
    # The tests start the units more often than StartLimitBurst= allows.
    host.systemctl("reset-failed", instance.socket, instance.service, check=False)
    host.systemctl("start", instance.socket, instance.service)


def workers_of(instance):
    """Returns the workers' pids, once there are two."""
    return wait_until(
        "two workers", lambda: len(children(instance.main_pid())) == 2 and children(instance.main_pid())
    )


def test_verify_reports_nothing_about_templates(instances):
    units = [unit for instance in instances for unit in (instance.service, instance.socket)]
    done = host.run("systemd-analyze", "verify", "--man=no", *units, "rgun.slice")
    assert "rgun" not in done.stdout + done.stderr, done.stderr


def test_instance_has_a_security_level_of_two_or_less(instances):
    last = host.run("systemd-analyze", "security", "--no-pager", instances[0].service).stdout.splitlines()[-1]
    print(last)
    assert float(re.search(r"(\d+\.\d)", last)[1]) <= 2.0, last


def test_instances_have_their_own_users_and_directories(instances):
    for instance in instances:
        answer = instance.get("/").json()
        assert answer["uid"] == pwd.getpwnam(f"rgun-{instance.name}").pw_uid
        environ = answer["environ"]
        for variable, parent in (("STATE", "/var/lib"), ("CACHE", "/var/cache"), ("RUNTIME", "/run")):
            directory = f"{parent}/rgun-{instance.name}"
            assert environ[f"{variable}_DIRECTORY"] == directory
            assert stat.S_IMODE(os.stat(directory).st_mode) & stat.S_IRWXO == 0


def test_instance_cannot_enter_the_directory_of_another(instances):
    left, right = instances
    assert left.get("/write/var/lib/rgun-left/x").json()["error"] is None
    assert right.get("/write/var/lib/rgun-left/x").json()["error"] is not None
    done = host.run("runuser", "-u", "rgun-right", "--", "cat", str(left.config), check=False)
    assert "Permission denied" in done.stderr


def test_services_are_in_their_slice(instances):
    for instance in instances:
        assert host.show("ControlGroup", instance.service).startswith("/rgun.slice/rgun@")
    assert host.show("Slice") == "rgun.slice"


@pytest.mark.parametrize("how", ["systemctl", "rgun"])
def test_reload_of_one_leaves_the_other_alone(instances, how):
    left, right = instances
    mine, theirs = workers_of(left), workers_of(right)
    if how == "systemctl":
        host.systemctl("reload", left.service)
    else:
        assert "serves" in host.run("rgun", "reload", "left").stdout
    assert not set(mine) & set(workers_of(left))
    assert workers_of(right) == theirs


def test_crash_of_one_leaves_the_other_alone(instances):
    left, right = instances
    theirs, daemon = workers_of(right), left.main_pid()
    with right.load() as load:
        os.kill(daemon, signal.SIGKILL)
        assert left.get("/").status == 200
        load.wait_for_more(50)
    assert not load.faults, load
    assert left.main_pid() not in (0, daemon)
    assert workers_of(right) == theirs
    assert host.show("NRestarts", right.service) == "0"


def test_stop_of_rgun_service_keeps_instances_reloadable(instances):
    host.systemctl("start", host.SERVICE)
    host.systemctl("stop", host.SERVICE)
    host.run("rgun", "reload", "left")


def test_reload_of_an_unknown_instance_names_its_socket():
    done = host.run("rgun", "reload", "nosuch", check=False)
    assert done.returncode == 69
    assert "no socket /run/rgun-nosuch/control" in done.stderr


def test_check_of_an_instance_runs_as_its_user(instances):
    done = host.run("rgun", "check", "--config", "/etc/rgun/left.toml")
    assert "checked as rgun-left, as rgun@left.service runs it" in done.stdout


def test_upgrade_restarts_running_instances_without_loss(instances):
    left, right = instances
    host.systemctl("stop", right.service, right.socket)
    before = left.main_pid()
    with left.load() as load:
        host.run("dpkg", "--force-confold", "-i", str(host.PACKAGE))
        load.wait_for_more(50)
    assert not load.faults, load
    assert left.main_pid() not in (0, before)
    assert host.show("ActiveState", right.service) == "inactive"
    assert host.systemctl("is-enabled", left.socket).stdout.strip() == "enabled"
    host.systemctl("start", right.socket)


def test_drop_in_examples_are_those_of_the_manual():
    assert sorted(path.name for path in EXAMPLES.iterdir()) == NAMES
    manual = host.run("zcat", "/usr/share/man/man7/rgun.units.7.gz").stdout
    assert [name for name in NAMES if f".It Pa {name}" not in manual] == []


@pytest.mark.parametrize("name", NAMES)
def test_verify_accepts_drop_in_example(instances, name):
    left = instances[0]
    copy = drop_in_directory(left, name.split(".")[1]) / name
    shutil.copy(EXAMPLES / name, copy)
    try:
        done = host.run("systemd-analyze", "verify", "--man=no", left.service, left.socket)
        assert "rgun" not in done.stdout + done.stderr, done.stderr
    finally:
        copy.unlink()


def test_port_example_moves_the_socket(instances, example):
    example("port.socket.conf")
    assert host.get("/", address=("127.0.0.1", 8001)).status == 200


def test_dynamic_user_example_serves_and_writes_state(instances, example):
    instances[0].config.chmod(0o640)
    host.run("chgrp", "rgun", str(instances[0].config))
    example("dynamic-user.service.conf")
    assert instances[0].get("/").status == 200
    assert instances[0].get("/write/var/lib/rgun-left/dynamic").json()["error"] is None
    host.run("chgrp", "rgun-left", str(instances[0].config))


def test_memory_example_limits_the_service(instances, example):
    example("memory.service.conf")
    assert host.show("MemoryMax", instances[0].service) == str(2 << 30)
    assert instances[0].get("/").status == 200


def test_home_example_serves_as_the_owner_and_writes(instances, example):
    host.run("systemd-sysusers", "--inline", "u alice 1500 - /home/alice")
    for name in ("data", "media"):
        host.run("install", "-d", "-o", "alice", f"/home/alice/shop/{name}")
    host.run("chgrp", "alice", str(instances[0].config))
    example("home.service.conf")
    assert instances[0].get("/").json()["uid"] == pwd.getpwnam("alice").pw_uid
    assert instances[0].get("/write/home/alice/shop/data/x").json()["error"] is None
    assert instances[0].get("/write/home/alice/x").json()["error"] == "Read-only file system"
    host.run("chgrp", "rgun-left", str(instances[0].config))
