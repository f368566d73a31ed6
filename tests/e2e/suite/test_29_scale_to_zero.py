"""`daemon.idle_exit`: a service without requests leaves only its socket, and a connection starts it again."""

import concurrent.futures
import pathlib
import pwd
import time

import host
import pytest
from support.waiting import wait_until

EXAMPLE = pathlib.Path("/usr/share/doc/rgun/examples/dropins/scale-to-zero.service.conf")
IDLE_EXIT = "06789dc160d04e15bad4656fd0b10b8d"


@pytest.fixture(scope="module")
def sleeper(probe_app):
    """An instance with the packaged drop-in, with its ten minutes shortened to the minimum of ten seconds."""
    instance = host.Instance("sleeper")
    instance.create("probe", probe_app, workers=1)
    with instance.config.open("a") as config:
        config.write('[health]\npath = "/-/healthz"\n')
    directory = pathlib.Path(f"/run/systemd/system/{instance.service}.d")
    directory.mkdir(parents=True)
    drop_in = directory / "scale-to-zero.conf"
    text = EXAMPLE.read_text()
    assert "IDLE_EXIT=10m" in text
    drop_in.write_text(text.replace("=10m", "=10s"))
    host.systemctl("daemon-reload")
    host.systemctl("enable", "--now", instance.socket)
    yield instance
    instance.remove()
    drop_in.unlink()
    host.systemctl("daemon-reload")


def test_idle_service_exits_and_a_request_starts_it(sleeper):
    since = host.journal_cursor()
    assert sleeper.get("/").status == 200
    first = sleeper.main_pid()
    wait_until("the service exits", lambda: host.show("ActiveState", sleeper.service) == "inactive")
    assert host.show("Result", sleeper.service) == "success"
    assert host.show("ExecMainStatus", sleeper.service) == "79"
    assert host.show("NRestarts", sleeper.service) == "0"
    assert host.show("SubState", sleeper.socket) == "listening"
    assert host.show("StatusText", sleeper.service).startswith("asleep: no request came for daemon.idle_exit")
    (entry,) = host.journal(since, MESSAGE_ID=IDLE_EXIT)
    assert "no request for 10s (daemon.idle_exit)" in entry["MESSAGE"]
    doctor = host.run("rgun", "doctor", sleeper.name)
    assert "status: asleep: it has exited, because no request came for daemon.idle_exit" in doctor.stdout
    assert "stopping" not in doctor.stdout
    status = host.run("rgun", "status", sleeper.name, check=False)
    assert status.returncode == 69
    assert f"{sleeper.service} is asleep: " in status.stderr
    assert (
        f"but {sleeper.socket} listens): systemctl start rgun@{sleeper.name} starts it now" in status.stderr
    )
    assert sleeper.get("/").status == 200
    assert sleeper.main_pid() not in (0, first)


def test_health_checks_do_not_prevent_the_exit_and_are_answered(sleeper):
    assert sleeper.get("/").status == 200
    first, started = sleeper.main_pid(), time.monotonic()
    answers = []
    # Each check has a connection of its own. The first check after the exit starts the next daemon.
    while sleeper.main_pid() in (first, 0):
        assert time.monotonic() < started + 60, "the service has not exited"
        answers.append(sleeper.get("/-/healthz"))
    assert {answer.status for answer in answers} <= {200, 503}, answers
    assert all(answer.complete for answer in answers)
    assert host.show("Result", sleeper.socket) == "success"


@pytest.fixture
def twenty_sleepers(probe_app):
    """Twenty instances, with the packaged drop-in for all instances, shortened likewise."""
    instances = [host.Instance(f"sleeper{number}") for number in range(20)]
    drop_in = pathlib.Path("/run/systemd/system/rgun@.service.d/scale-to-zero.conf")
    drop_in.parent.mkdir(parents=True, exist_ok=True)
    drop_in.write_text(EXAMPLE.read_text().replace("=10m", "=10s"))
    for instance in instances:
        instance.create("probe", probe_app, workers=1)
    host.systemctl("daemon-reload")
    host.systemctl("enable", "--now", *(instance.socket for instance in instances))
    yield instances
    for instance in instances:
        instance.remove()
    drop_in.unlink()
    host.systemctl("daemon-reload")


def processes_of(users):
    """Returns the command lines of these users' processes."""
    uids = {pwd.getpwnam(user).pw_uid for user in users}
    found = []
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid in uids:
                found.append((process / "cmdline").read_bytes())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_twenty_idle_instances_have_no_process_and_answer_again(twenty_sleepers):
    users = [f"rgun-{instance.name}" for instance in twenty_sleepers]

    def get_of_each():
        with concurrent.futures.ThreadPoolExecutor(4) as clients:
            return list(clients.map(lambda instance: instance.get("/").status, twenty_sleepers))

    assert get_of_each() == [200] * 20
    assert len(processes_of(users)) > 20
    wait_until("all have exited", lambda: not processes_of(users), timeout=60)
    assert {host.show("SubState", instance.socket) for instance in twenty_sleepers} == {"listening"}
    assert get_of_each() == [200] * 20
