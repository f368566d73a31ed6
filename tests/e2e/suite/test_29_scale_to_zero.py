"""`daemon.idle_exit`: a service without requests leaves only its socket, and a connection starts it again."""

import pathlib
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
    (entry,) = host.journal(since, MESSAGE_ID=IDLE_EXIT)
    assert "no request for 10s (daemon.idle_exit)" in entry["MESSAGE"]
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
